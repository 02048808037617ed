//! The policy on the hosts contacted for one registry. Pure.
//!
//! The policy applies to the registry itself, its redirects and its token realms. This module
//! checks names before a request. The resolver (`resolve.rs`) checks the resolved addresses,
//! because only the connected address counts. If a proxy resolves names, only the names are
//! checked.

use std::net::IpAddr;

use reqwest::Url;

use super::address::{AddressClass, classify};
use super::error::Refusal;

/// The rights of one registry, from its configuration entry or from the defaults.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    /// The configured hosts (as in a URL) and their ports. Any port number may be configured. With
    /// `local`, these hosts may even have link-local addresses; no other host may.
    meant: Vec<(Box<str>, u16)>,
    /// The registry is contacted in plain http, so its redirects and realms may use plain http too.
    plain_http: bool,
    /// Loopback and private addresses are allowed. Otherwise only the configured hosts and the
    /// default port of public hosts are allowed.
    local: bool,
}

impl Policy {
    /// Returns the policy of unlisted registries: https on port 443 of public hosts.
    pub fn public() -> Self {
        Policy::default()
    }

    /// Returns the policy of the configured `url`.
    pub fn written(url: &Url, local: bool) -> Self {
        let site = |url: &Url| Some((url.host_str()?.into(), url.port_or_known_default()?));
        Policy {
            meant: site(url).into_iter().collect(),
            plain_http: url.scheme() == "http",
            local,
        }
    }

    /// Returns the policy with plain http allowed, if `plain_http` is set.
    pub fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http |= plain_http;
        self
    }

    /// Returns the policy with loopback and private addresses allowed, if `local` is set.
    pub fn with_local(mut self, local: bool) -> Self {
        self.local |= local;
        self
    }

    /// Checks everything in `url` except the resolved addresses of its host.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            _ => return Err(Refusal::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let host = url.host_str().ok_or(Refusal::Host)?;
        if !self.local && !self.means(url, host) {
            // A parsed URL never contains the default port of its scheme.
            if url.port().is_some() {
                return Err(Refusal::Port);
            }
            let named = host.contains('.') && !host.ends_with('.') && !host.starts_with('[');
            if !named || ip_literal(host).is_some() {
                return Err(Refusal::Host);
            }
        }
        // The resolver never sees an address in a URL.
        match ip_literal(host) {
            Some(address) => self.check_address(host, address),
            None => Ok(()),
        }
    }

    /// Checks an address that `host` (of a URL) resolved to.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        match classify(address) {
            AddressClass::Public => Ok(()),
            AddressClass::Local if self.local => Ok(()),
            AddressClass::Local => Err(Refusal::Address),
            AddressClass::Forbidden if self.local && self.meant.iter().any(|(meant, _)| **meant == *host) => {
                Ok(())
            }
            AddressClass::Forbidden => Err(Refusal::ForbiddenAddress),
        }
    }

    /// Returns whether private addresses are allowed.
    pub fn is_local(&self) -> bool {
        self.local
    }

    fn means(&self, url: &Url, host: &str) -> bool {
        let port = url.port_or_known_default();
        self.meant
            .iter()
            .any(|(meant, at)| **meant == *host && Some(*at) == port)
    }
}

/// Returns the IP address in the host of a URL. A parsed URL has one spelling per address.
pub(super) fn ip_literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spellings of internal hosts in the authority of a URL.
    const INSIDE: &[&str] = &[
        // Loopback.
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7F.0.0.1",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "0177.0.0.01",
        "127.0.0.1.",
        "127.0.0.2",
        "127.255.255.254",
        "%31%32%37.0.0.1",
        "127%2e0%2e0%2e1",
        "127。0。0。1",
        "127.0.0。1",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "LocalHost.",
        "ｌｏｃａｌｈｏｓｔ",
        "%6cocalhost",
        // Unspecified.
        "0",
        "0.0.0.0",
        "0x0",
        "00",
        "0.0",
        "[::]",
        "[::0.0.0.0]",
        "[::ffff:0.0.0.0]",
        // Private and shared.
        "10.0.0.1",
        "10.1",
        "0xa000001",
        "012.0.0.1",
        "167772161",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "0xc0a80001",
        "3232235521",
        "192.168.1",
        "100.64.0.1",
        "100.127.255.255",
        "198.18.0.1",
        "[fd00::1]",
        "[fc00::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:192.168.0.1]",
        "[2002:c0a8:1::1]",
        "[64:ff9b::10.0.0.1]",
        "[fec0::1]",
        // Link-local and metadata.
        "169.254.169.254",
        "169.254.43518",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "169.254.170.2",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fe80::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[FD00:EC2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        // Multicast, broadcast, documentation, reserved.
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "4294967295",
        "0xffffffff",
        "240.0.0.1",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "[ff02::1]",
        "[2001:db8::1]",
        "[100::1]",
        "[2001::1]",
        "[3fff::1]",
        // No dot, or a dot in the wrong place.
        "registry",
        "metadata",
        "intranet",
        "example.org.",
        // Public, but by address.
        "8.8.8.8",
        "134744072",
        "[2606:4700::1111]",
        "[::ffff:8.8.8.8]",
        // Decoy names around another host.
        "good.example@127.0.0.1",
        "good.example:443@127.0.0.1",
        "good.example@evil.example",
        "a:b@good.example",
        "@127.0.0.1",
        "127.0.0.1#good.example",
        "127.0.0.1?good.example",
        "127.0.0.1\\good.example",
        "localhost\\.good.example",
        // Other ports.
        "good.example:22",
        "good.example:80",
        "good.example:8443",
        "good.example:6379",
        "127.0.0.1:443",
        "localhost:443",
        "[::1]:443",
    ];

    /// Invalid URLs, thus rejected too.
    const NO_URL: &[&str] = &[
        ":443",
        "good.example:65536",
        "good.example:x",
        "[::1",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1]x",
        "256.1.1.1",
        "1.2.3.4.5",
        "127.0.0.0x100",
        "4294967296",
        "a b",
        "good.example:-1",
        "%00",
        "a%2fb",
        "a%00.example",
        "xn--a.example",
        "a<b.example",
        "[127.0.0.1]",
        "[]",
    ];

    fn configured(host: &str, plain_http: bool) -> Policy {
        let scheme = if plain_http { "http" } else { "https" };
        Policy::written(&Url::parse(&format!("{scheme}://{host}:5000")).unwrap(), true)
    }

    fn check(policy: &Policy, url: &str) -> Result<(), Refusal> {
        policy.check_url(&Url::parse(url).unwrap_or_else(|e| panic!("{url}: {e}")))
    }

    #[test]
    fn an_unconfigured_registry_is_a_public_name_in_every_spelling() {
        assert!(
            INSIDE.len() + NO_URL.len() >= 120,
            "{}",
            INSIDE.len() + NO_URL.len()
        );
        for host in INSIDE {
            assert!(
                check(&Policy::public(), &format!("https://{host}/v2/")).is_err(),
                "{host}"
            );
        }
        for host in NO_URL {
            let url = Url::parse(&format!("https://{host}/v2/"));
            assert!(url.is_err(), "{host} is {url:?}");
        }
        for host in [
            "good.example",
            "GOOD.example",
            "good.example:443",
            "a.b.c.d.example",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(
                check(&Policy::public(), &format!("https://{host}/v2/")),
                Ok(()),
                "{host}"
            );
        }
    }

    #[test]
    fn policy_error_names_the_first_violated_rule() {
        assert_eq!(
            check(&Policy::public(), "http://good.example/"),
            Err(Refusal::Scheme)
        );
        assert_eq!(
            check(&Policy::public(), "ftp://good.example/"),
            Err(Refusal::Scheme)
        );
        assert_eq!(
            check(&Policy::public(), "file:///etc/passwd"),
            Err(Refusal::Scheme)
        );
        assert_eq!(
            check(&Policy::public(), "https://u@good.example/"),
            Err(Refusal::UserInfo)
        );
        assert_eq!(
            check(&Policy::public(), "https://good.example:444/"),
            Err(Refusal::Port)
        );
        assert_eq!(check(&Policy::public(), "https://localhost/"), Err(Refusal::Host));
        assert_eq!(check(&Policy::public(), "https://1.1.1.1/"), Err(Refusal::Host));
    }

    #[test]
    fn a_configured_registry_may_live_inside_but_not_lead_to_metadata() {
        let policy = configured("registry.lan", false);
        for url in [
            "https://127.0.0.1:5000/",
            "https://localhost/",
            "https://10.0.0.1/",
            "https://[fd00::1]:1/",
            "https://8.8.8.8:8/",
        ] {
            assert_eq!(check(&policy, url), Ok(()), "{url}");
        }
        for url in [
            "https://169.254.169.254/",
            "https://0xa9fea9fe/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://0.0.0.0/",
            "https://[ff02::1]/",
        ] {
            assert_eq!(check(&policy, url), Err(Refusal::ForbiddenAddress), "{url}");
        }
        assert_eq!(check(&policy, "http://registry.lan/"), Err(Refusal::Scheme));
        assert_eq!(
            check(&policy, "https://u:p@registry.lan/"),
            Err(Refusal::UserInfo)
        );
        assert_eq!(
            check(&configured("registry.lan", true), "http://other.lan/"),
            Ok(())
        );
        assert_eq!(
            check(&configured("registry.lan", true), "ftp://other.lan/"),
            Err(Refusal::Scheme)
        );
        // Configured explicitly, so allowed.
        assert_eq!(
            check(&configured("169.254.1.1", true), "http://169.254.1.1:5000/"),
            Ok(())
        );
        assert_eq!(
            check(&configured("169.254.1.1", true), "http://169.254.169.254/"),
            Err(Refusal::ForbiddenAddress)
        );
        assert_eq!(
            check(&configured("[fe80::1]", true), "http://[fe80::1]:5000/"),
            Ok(())
        );
    }

    #[test]
    fn the_address_behind_a_name_is_checked_like_one_in_a_url() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let inside = configured("registry.lan", false);
        assert_eq!(
            Policy::public().check_address("good.example", address("93.184.216.34")),
            Ok(())
        );
        assert_eq!(
            Policy::public().check_address("good.example", address("127.0.0.1")),
            Err(Refusal::Address)
        );
        assert_eq!(
            Policy::public().check_address("good.example", address("::ffff:10.0.0.1")),
            Err(Refusal::Address)
        );
        assert_eq!(
            Policy::public().check_address("good.example", address("fe80::1")),
            Err(Refusal::ForbiddenAddress)
        );
        assert_eq!(inside.check_address("other.lan", address("10.0.0.1")), Ok(()));
        assert_eq!(
            inside.check_address("other.lan", address("169.254.169.254")),
            Err(Refusal::ForbiddenAddress)
        );
        assert_eq!(
            inside.check_address("registry.lan", address("169.254.1.1")),
            Ok(())
        );
    }

    #[test]
    fn non_private_registry_is_reached_at_its_written_or_a_public_address() {
        let url = Url::parse("https://registry.example:5000").unwrap();
        let policy = Policy::written(&url, false);
        assert_eq!(check(&policy, "https://registry.example:5000/v2/"), Ok(()));
        assert_eq!(check(&policy, "https://cdn.example/"), Ok(()));
        for (elsewhere, reason) in [
            ("https://registry.example:5001/", Refusal::Port),
            ("https://other.example:5000/", Refusal::Port),
            ("https://127.0.0.1/", Refusal::Host),
            ("https://localhost/", Refusal::Host),
            ("http://registry.example:5000/", Refusal::Scheme),
        ] {
            assert_eq!(check(&policy, elsewhere), Err(reason), "{elsewhere}");
        }
        let inside: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(
            policy.check_address("registry.example", inside),
            Err(Refusal::Address)
        );
        let metadata: IpAddr = "169.254.169.254".parse().unwrap();
        assert_eq!(
            policy.check_address("registry.example", metadata),
            Err(Refusal::ForbiddenAddress)
        );
    }
}
