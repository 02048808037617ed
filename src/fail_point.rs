//! Fail points for tests. Compiled in only with the cargo feature `fail-points`, which no release
//! has.
//!
//! `FAIL_POINT=<name>:<action>:<n>` runs the action once, on the n-th hit of the fail point `name`.
//! The names are the arguments of `hit`. The actions are:
//!
//! - `abort` and `panic`.
//! - `stall`: blocks the thread indefinitely.
//! - `stall<seconds>`: blocks the thread for this time.
//! - `hang`: blocks every thread from the n-th hit on, like a hanging disk.

/// Runs the action of `FAIL_POINT` if the environment selects this fail point and this hit.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Runs the action of `FAIL_POINT` if the environment selects this fail point and this hit.
#[cfg(feature = "fail-points")]
pub fn hit(name: &str) {
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
        hits: AtomicU64,
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
            reason = "the variable is not a setting and exists only in tests"
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
            hits: AtomicU64::new(0),
        })
    });
    let Some(order) = order.as_ref().filter(|order| order.name == name) else {
        return;
    };
    let hits = order.hits.fetch_add(1, Ordering::SeqCst) + 1;
    match order.action {
        Action::Hang if hits >= order.nth => hold(FOR_EVER),
        _ if hits != order.nth => {}
        Action::Abort => std::process::abort(),
        Action::Panic => panic!("fail point {name}"),
        Action::Stall(time) => hold(time),
        Action::Hang => {}
    }
}
