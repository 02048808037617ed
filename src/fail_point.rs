//! Places where tests make the process fail. Only with the cargo feature `fail-points`, which no release has;
//! without it nothing of this is compiled in.
//!
//! `FAIL_POINT=<name>:<abort|panic>:<n>` fails when the point `name` is reached for the n-th time, once. The
//! names are the ones `reach` is called with.

/// Fails here if this is the place, and the time, the environment names.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Fails here if this is the place, and the time, the environment names.
#[cfg(feature = "fail-points")]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Order {
        name: String,
        abort: bool,
        nth: u64,
        reached: AtomicU64,
    }
    static ORDER: OnceLock<Option<Order>> = OnceLock::new();

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
            abort: action == "abort",
            nth: nth.parse().expect("FAIL_POINT ends with a number"),
            reached: AtomicU64::new(0),
        })
    });
    let Some(order) = order.as_ref().filter(|order| order.name == name) else {
        return;
    };
    if order.reached.fetch_add(1, Ordering::SeqCst) + 1 == order.nth {
        if order.abort {
            std::process::abort();
        }
        panic!("fail point {name}");
    }
}
