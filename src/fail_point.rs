//! Places where tests make the process fail. Only with the cargo feature `fail-points`, which no release has;
//! without it nothing of this is compiled in.
//!
//! `FAIL_POINT=<name>:<action>:<n>` fails when the point `name` is reached for the n-th time, once. The names are the
//! ones `reach` is called with. The actions: `abort` and `panic`; `stall`, which holds the thread for ever, and
//! `stall<seconds>`; `hang`, which holds every thread that comes there from the n-th time on, as a disk does.

/// Fails here if this is the place, and the time, the environment names.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Fails here if this is the place, and the time, the environment names.
#[cfg(feature = "fail-points")]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    #[derive(Clone, Copy)]
    enum Action {
        Abort,
        Panic,
        Stall(Duration),
        Hang,
    }
    struct Order {
        name: String,
        action: Action,
        nth: u64,
        reached: AtomicU64,
    }
    static ORDER: OnceLock<Option<Order>> = OnceLock::new();

    const FOR_EVER: Duration = Duration::from_secs(86_400);
    fn hold(time: Duration) {
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            std::thread::park_timeout(left);
        }
    }

    let order = ORDER.get_or_init(|| {
        #[allow(
            clippy::disallowed_methods,
            reason = "no setting of the product: it does not exist outside of tests"
        )]
        let text = std::env::var("FAIL_POINT").ok()?;
        let mut words = text.split(':');
        let (name, action, nth) = (words.next()?, words.next()?, words.next()?);
        Some(Order {
            name: name.to_owned(),
            action: match action {
                "abort" => Action::Abort,
                "panic" => Action::Panic,
                "hang" => Action::Hang,
                "stall" => Action::Stall(FOR_EVER),
                _ => {
                    let seconds = action.strip_prefix("stall").expect("an action of FAIL_POINT");
                    Action::Stall(Duration::from_secs(seconds.parse().expect("seconds")))
                }
            },
            nth: nth.parse().expect("FAIL_POINT ends with a number"),
            reached: AtomicU64::new(0),
        })
    });
    let Some(order) = order.as_ref().filter(|order| order.name == name) else {
        return;
    };
    let reached = order.reached.fetch_add(1, Ordering::SeqCst) + 1;
    match order.action {
        Action::Hang if reached >= order.nth => hold(FOR_EVER),
        _ if reached != order.nth => {}
        Action::Abort => std::process::abort(),
        Action::Panic => panic!("fail point {name}"),
        Action::Stall(time) => hold(time),
        Action::Hang => {}
    }
}
