//! The address of a listener.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address of a listener. With port 0, the kernel chooses a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// `None` means every address of the machine: an IPv6 socket that also accepts IPv4, or an IPv4
    /// socket if the machine has no IPv6.
    pub host: Option<IpAddr>,
    pub port: u16,
    /// Whether clients use TLS.
    pub tls: bool,
}

impl ListenAddr {
    /// The form of a list of addresses, for messages.
    pub const EXPECTED: &str = "`:8080`, `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`, with `http://` or `https://` before it where not all are alike, several separated by commas";

    /// Parses an address. An address without a scheme uses TLS if `tls` is set. The only host name is `localhost`
    /// (127.0.0.1), because a listener must not depend on a resolver.
    pub fn parse(text: &str, tls: bool) -> Option<ListenAddr> {
        let (tls, text) = match text.split_once("://") {
            None => (tls, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some(_) => return None,
        };
        let (host, port) = text.rsplit_once(':')?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = if digits { port.parse().ok()? } else { return None };
        let host = match host {
            "" => None,
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => Some(
                match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    Some(inner) => IpAddr::V6(inner.parse().ok()?),
                    None => IpAddr::V4(host.parse().ok()?),
                },
            ),
        };
        Some(ListenAddr { host, port, tls })
    }

    /// Returns `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Returns the addresses of this listener on the same machine, in the order to try.
    pub fn reachable_at(&self) -> Vec<SocketAddr> {
        let hosts = match self.host {
            None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            Some(IpAddr::V4(host)) if host.is_unspecified() => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            Some(IpAddr::V6(host)) if host.is_unspecified() => vec![IpAddr::V6(Ipv6Addr::LOCALHOST)],
            Some(host) => vec![host],
        };
        hosts
            .into_iter()
            .map(|host| SocketAddr::new(host, self.port))
            .collect()
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            None => write!(f, ":{}", self.port),
            Some(host) => SocketAddr::new(host, self.port).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_the_same_way() {
        for (text, shown) in [
            (":8080", ":8080"),
            (":0", ":0"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::]:80", "[::]:80"),
            ("[::1]:65535", "[::1]:65535"),
            ("localhost:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(
                ListenAddr::parse(text, false).map(|a| a.to_string()).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for bad in [
            "",
            ":",
            "8080",
            ":65536",
            ":+1",
            ":-1",
            "::1:80",
            "[::1]",
            "[::1:80",
            "example.org:80",
            "1.2.3:80",
            " :80",
            "[1.2.3.4]:80",
            "ftp://:80",
            "https://",
            "https://:80/",
            "://:80",
        ] {
            assert_eq!(ListenAddr::parse(bad, false), None, "{bad:?}");
        }
    }

    #[test]
    fn scheme_of_an_address_overrides_the_default() {
        for (text, without, tls) in [
            (":1", false, false),
            (":1", true, true),
            ("http://:1", true, false),
            ("HTTPS://[::1]:1", false, true),
        ] {
            assert_eq!(
                ListenAddr::parse(text, without).map(|a| a.tls),
                Some(tls),
                "{text}"
            );
        }
    }

    #[test]
    fn wildcard_address_is_reachable_over_loopback() {
        let at = |text| {
            ListenAddr::parse(text, false)
                .unwrap()
                .reachable_at()
                .iter()
                .map(|a| a.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(at(":1"), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(at("0.0.0.0:1"), ["127.0.0.1:1"]);
        assert_eq!(at("[::]:1"), ["[::1]:1"]);
        assert_eq!(at("10.0.0.1:1"), ["10.0.0.1:1"]);
    }
}
