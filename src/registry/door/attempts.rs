//! Wrong passwords in the log: at most a line per address and minute, without what was tried.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::clock::monotonic_micros;

/// Pause between two lines about one address.
const PAUSE: Duration = Duration::from_secs(60);

/// Addresses that are told apart. Of further ones nothing is said until some of these are quiet: their lines would be
/// no help to anybody.
const ADDRESSES_MAX: usize = 1_024;

#[derive(Default)]
pub struct Attempts(Mutex<HashMap<Option<IpAddr>, Noted>>);

struct Noted {
    /// Microseconds of the clock that never jumps.
    quiet_until: u64,
    unsaid: u64,
}

impl Attempts {
    /// Notes that somebody at `address` has shown what opens nothing.
    pub fn note(&self, address: Option<IpAddr>) {
        let address = address.map(neighbourhood);
        if let Some(unsaid) = self.due(address, monotonic_micros()) {
            match address {
                Some(address) => {
                    tracing::warn!(%address, unsaid, "wrong user name or password at the front door");
                }
                None => tracing::warn!(unsaid, "wrong user name or password at the front door"),
            }
        }
    }

    /// How many were not told of since the last line, when it is time for one.
    fn due(&self, address: Option<IpAddr>, now: u64) -> Option<u64> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet_until = now + PAUSE.as_micros() as u64;
        if let Some(known) = noted.get_mut(&address) {
            if now < known.quiet_until {
                known.unsaid += 1;
                return None;
            }
            known.quiet_until = quiet_until;
            return Some(std::mem::take(&mut known.unsaid));
        }
        if noted.len() >= ADDRESSES_MAX {
            noted.retain(|_, known| now < known.quiet_until);
            if noted.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        noted.insert(
            address,
            Noted {
                quiet_until,
                unsaid: 0,
            },
        );
        Some(0)
    }
}

/// The address, or of an IPv6 one the network: there, one host has as many addresses as it likes.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(neighbourhood(text.parse().unwrap()))
    }

    #[test]
    fn an_address_has_a_line_a_minute() {
        let attempts = Attempts::default();
        let minute = PAUSE.as_micros() as u64;
        assert_eq!(attempts.due(address("10.0.0.1"), 0), Some(0));
        assert_eq!(attempts.due(address("10.0.0.1"), 1), None);
        assert_eq!(attempts.due(address("::ffff:10.0.0.1"), minute - 1), None);
        assert_eq!(attempts.due(address("10.0.0.2"), 1), Some(0));
        assert_eq!(attempts.due(address("10.0.0.1"), minute), Some(2));
        assert_eq!(attempts.due(address("2001:db8::1"), 0), Some(0));
        assert_eq!(attempts.due(address("2001:db8::2:3:4:5"), 1), None);
        assert_eq!(attempts.due(address("2001:db8:0:1::1"), 1), Some(0));
    }

    #[test]
    fn a_flood_of_addresses_is_no_flood_of_memory() {
        let attempts = Attempts::default();
        for n in 0..2 * ADDRESSES_MAX as u32 {
            attempts.due(Some(IpAddr::V4(n.into())), 0);
        }
        assert_eq!(attempts.0.lock().unwrap().len(), ADDRESSES_MAX);
        assert!(
            attempts
                .due(address("10.0.0.1"), 2 * PAUSE.as_micros() as u64)
                .is_some()
        );
        assert_eq!(attempts.0.lock().unwrap().len(), 1);
    }
}
