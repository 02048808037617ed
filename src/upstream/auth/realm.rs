//! Decides whether a token service may receive a registry's credentials. Pure.
//!
//! A registry names its token service in the challenge. A compromised registry, or an attacker on a
//! plain http connection, could name any host. So the credentials go only to services of the
//! registry's owner and to hosts configured by the operator.

use reqwest::Url;

use crate::upstream::policy::ip_literal;
use crate::upstream::redirect::same_origin;

/// Returns whether `realm` may receive the credentials for the registry at `origin`.
///
/// The realm must use https, unless the registry itself is configured as plain http. The host must
/// be the registry's host, in the same registrable domain (by the public suffix list), or in
/// `listed` as `host` (any port) or `host:port`. Addresses and `localhost` have no verifiable
/// owner. Such hosts must have the registry's host and port, or be listed.
pub(in crate::upstream) fn may_see_credentials(realm: &Url, origin: &Url, listed: &[Box<str>]) -> bool {
    let (Some(host), Some(registry)) = (realm.host_str(), origin.host_str()) else {
        return false;
    };
    match realm.scheme() {
        "https" => {}
        "http" if origin.scheme() == "http" => {}
        _ => return false,
    }
    if same_origin(realm, origin) || is_listed(realm, host, listed) {
        return true;
    }
    // A trailing dot denotes another host for TLS and cookies, and here too.
    let nameless = |host: &str| {
        ip_literal(host).is_some()
            || host == "localhost"
            || host.ends_with(".localhost")
            || host.ends_with('.')
    };
    if nameless(host) || nameless(registry) {
        return false;
    }
    host == registry
        || matches!((psl::domain_str(host), psl::domain_str(registry)), (Some(a), Some(b)) if a == b)
}

fn is_listed(realm: &Url, host: &str, listed: &[Box<str>]) -> bool {
    let with_port = realm.port_or_known_default().map(|port| format!("{host}:{port}"));
    listed.iter().any(|entry| {
        entry.eq_ignore_ascii_case(host)
            || with_port
                .as_deref()
                .is_some_and(|p| entry.eq_ignore_ascii_case(p))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(realm: &str, origin: &str, listed: &[&str]) -> bool {
        let listed: Vec<Box<str>> = listed.iter().map(|&entry| entry.into()).collect();
        may_see_credentials(&realm.parse().unwrap(), &origin.parse().unwrap(), &listed)
    }

    #[test]
    fn credentials_go_to_token_services_of_the_same_owner() {
        for (realm, origin) in [
            (
                "https://registry.example.com/token",
                "https://registry.example.com",
            ),
            ("https://auth.docker.io/token", "https://registry-1.docker.io"),
            ("https://example.com/jwt/auth", "https://registry.example.com"),
            (
                "https://auth.example.co.uk/",
                "https://registry.example.co.uk:5000",
            ),
            // All ports of a host have the same owner.
            (
                "https://registry.example.com:8443/",
                "https://registry.example.com",
            ),
            ("https://auth.r.lan/", "https://r.lan"),
            // Plain http, by configuration.
            ("http://r.lan:5001/", "http://r.lan:5000"),
            ("https://r.lan/", "http://r.lan:5000"),
            // Identical address and port.
            ("http://127.0.0.1:5000/token", "http://127.0.0.1:5000"),
            ("https://[fd00::1]/token", "https://[fd00::1]"),
            ("http://localhost:5000/token", "http://localhost:5000"),
        ] {
            assert!(may(realm, origin, &[]), "{realm} of {origin}");
        }
    }

    #[test]
    fn credentials_go_nowhere_else() {
        for (realm, origin) in [
            ("https://evil.example/", "https://registry.example.com"),
            (
                "https://registry.example.com.evil.example/",
                "https://registry.example.com",
            ),
            ("https://notexample.com/", "https://example.com"),
            ("https://other.co.uk/", "https://registry.co.uk"),
            // Public suffixes with names for everyone.
            ("https://evil.github.io/", "https://registry.github.io"),
            (
                "https://evil.s3.amazonaws.com/",
                "https://registry.s3.amazonaws.com",
            ),
            ("https://auth.lan/", "https://registry.lan"),
            // Schemes.
            ("http://registry.example.com/", "https://registry.example.com"),
            ("ftp://registry.example.com/", "https://registry.example.com"),
            // Addresses and localhost.
            ("https://127.0.0.1/", "https://registry.example.com"),
            ("https://localhost/", "https://registry.example.com"),
            ("http://127.0.0.1:5001/", "http://127.0.0.1:5000"),
            ("http://127.0.0.2:5000/", "http://127.0.0.1:5000"),
            ("http://localhost:5001/", "http://localhost:5000"),
            ("http://localhost:5000/", "http://127.0.0.1:5000"),
            ("http://a.localhost:5000/", "http://localhost:5000"),
            ("https://[::1]:5001/", "https://[::1]:5000"),
            ("https://169.254.169.254/", "https://10.0.0.1"),
            ("http://0x7f000001:5001/", "http://127.0.0.1:5000"),
            // A trailing dot.
            ("https://auth.example.com./", "https://registry.example.com"),
            ("https://registry.example.com./", "https://registry.example.com"),
        ] {
            assert!(!may(realm, origin, &[]), "{realm} of {origin}");
        }
    }

    #[test]
    fn listed_hosts_may_receive_credentials_too() {
        let origin = "https://registry.lan";
        assert!(may("https://auth.lan/token", origin, &["auth.lan"]));
        assert!(may("https://auth.lan:8443/token", origin, &["AUTH.lan"]));
        assert!(may(
            "https://auth.lan:8443/token",
            origin,
            &["other.lan", "auth.lan:8443"]
        ));
        assert!(may("https://auth.lan/token", origin, &["auth.lan:443"]));
        assert!(may(
            "http://127.0.0.1:5001/",
            "http://127.0.0.1:5000",
            &["127.0.0.1:5001"]
        ));
        assert!(!may("https://auth.lan:8444/token", origin, &["auth.lan:8443"]));
        assert!(!may("https://sub.auth.lan/token", origin, &["auth.lan"]));
        assert!(
            !may("http://auth.lan/token", origin, &["auth.lan"]),
            "never from https to http"
        );
    }
}
