//! Logs failed logins: at most one line per address prefix and minute, without the credentials.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::runtime::clock::monotonic_micros;
use crate::sync::Mutex;

/// Interval between two log lines about one address prefix.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Tracked address prefixes. Failed logins of further addresses are not logged until an entry
/// expires.
const ADDRESSES_MAX: usize = 1_024;

#[derive(Default)]
pub struct FailedLogins(Mutex<HashMap<Option<IpAddr>, AddressLog>>);

struct AddressLog {
    /// Time in microseconds of the monotonic clock.
    suppressed_until: u64,
    suppressed: u64,
}

impl FailedLogins {
    /// Records a failed login from `address`.
    pub fn record(&self, address: Option<IpAddr>) {
        let address = address.map(address_prefix);
        if let Some(suppressed) = self.due(address, monotonic_micros()) {
            match address {
                Some(address) => {
                    tracing::warn!(%address, suppressed, "wrong user name or password");
                }
                None => tracing::warn!(suppressed, "wrong user name or password"),
            }
        }
    }

    /// Returns the number of suppressed failures since the last log line. Returns `None` if no log
    /// line is due.
    fn due(&self, address: Option<IpAddr>, now: u64) -> Option<u64> {
        let mut logs = self.0.lock();
        let suppressed_until = now + LOG_INTERVAL.as_micros() as u64;
        if let Some(known) = logs.get_mut(&address) {
            if now < known.suppressed_until {
                known.suppressed += 1;
                return None;
            }
            known.suppressed_until = suppressed_until;
            return Some(std::mem::take(&mut known.suppressed));
        }
        if logs.len() >= ADDRESSES_MAX {
            logs.retain(|_, known| now < known.suppressed_until);
            if logs.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        logs.insert(
            address,
            AddressLog {
                suppressed_until,
                suppressed: 0,
            },
        );
        Some(0)
    }
}

/// Returns the prefix of an address: the IPv4 address, or the IPv6 /64 network. A single host can
/// use all addresses of a /64.
pub fn address_prefix(address: IpAddr) -> IpAddr {
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
        Some(address_prefix(text.parse().unwrap()))
    }

    #[test]
    fn failed_logins_are_logged_once_per_minute_and_address() {
        let failed_logins = FailedLogins::default();
        let minute = LOG_INTERVAL.as_micros() as u64;
        assert_eq!(failed_logins.due(address("10.0.0.1"), 0), Some(0));
        assert_eq!(failed_logins.due(address("10.0.0.1"), 1), None);
        assert_eq!(failed_logins.due(address("::ffff:10.0.0.1"), minute - 1), None);
        assert_eq!(failed_logins.due(address("10.0.0.2"), 1), Some(0));
        assert_eq!(failed_logins.due(address("10.0.0.1"), minute), Some(2));
        assert_eq!(failed_logins.due(address("2001:db8::1"), 0), Some(0));
        assert_eq!(failed_logins.due(address("2001:db8::2:3:4:5"), 1), None);
        assert_eq!(failed_logins.due(address("2001:db8:0:1::1"), 1), Some(0));
    }

    #[test]
    fn number_of_recorded_addresses_is_bounded() {
        let failed_logins = FailedLogins::default();
        for n in 0..2 * ADDRESSES_MAX as u32 {
            failed_logins.due(Some(IpAddr::V4(n.into())), 0);
        }
        assert_eq!(failed_logins.0.lock().len(), ADDRESSES_MAX);
        assert!(
            failed_logins
                .due(address("10.0.0.1"), 2 * LOG_INTERVAL.as_micros() as u64)
                .is_some()
        );
        assert_eq!(failed_logins.0.lock().len(), 1);
    }
}
