//! The proxy of a URL. Pure.
//!
//! The choice depends on the URL only, so the registry, its token service and its redirects follow
//! the same rule. There is no fallback. If a proxy refuses a host, the request fails.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;

use super::error::host_of;
use super::policy::ip_literal;
use crate::config::{Proxy, ProxyEnvironment, ProxyUrl};

/// The proxies of one registry.
#[derive(Clone, Default)]
pub(super) struct Routes {
    https: Option<Arc<Way>>,
    http: Option<Arc<Way>>,
    except: NoProxy,
}

/// A validated proxy.
pub(super) struct Way {
    /// Includes the credentials, in the form of the HTTP client. Must never be printed.
    url: Url,
    /// `host:port`, for messages.
    pub name: Arc<str>,
}

impl Routes {
    /// # Errors
    ///
    /// Fails if the HTTP client could not use the proxy. The client would connect directly instead,
    /// contrary to the configuration.
    pub fn new(choice: &Proxy, environment: &ProxyEnvironment) -> Result<Self, &'static str> {
        let way = |proxy: &Option<ProxyUrl>| {
            proxy
                .as_ref()
                .map(|proxy| Way::new(proxy).map(Arc::new))
                .transpose()
        };
        match choice {
            Proxy::Direct => Ok(Routes::default()),
            Proxy::Url(proxy) => {
                let way = Arc::new(Way::new(proxy)?);
                Ok(Routes {
                    https: Some(way.clone()),
                    http: Some(way),
                    except: NoProxy::default(),
                })
            }
            Proxy::Environment => Ok(Routes {
                https: way(&environment.https)?,
                http: way(&environment.http)?,
                except: NoProxy::parse(&environment.no_proxy),
            }),
        }
    }

    /// Returns the proxy for `url`, or `None` for a direct connection.
    pub fn way(&self, url: &Url) -> Option<&Arc<Way>> {
        let way = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        (!self.except.covers(url)).then_some(way)
    }

    /// Returns whether `host` (of a URL) is a proxy. The addresses of proxies are not filtered.
    pub fn is_proxy(&self, host: &str) -> bool {
        [&self.https, &self.http]
            .into_iter()
            .flatten()
            .any(|way| way.url.host_str() == Some(host))
    }

    /// Returns the hosts resolved locally to reach `url`: the host itself, the proxy, or both. A
    /// `socks5` proxy receives addresses; other proxies resolve names themselves.
    pub fn looked_up<'a>(&'a self, url: &'a Url) -> impl Iterator<Item = &'a str> {
        let way = self.way(url);
        let proxy = way.and_then(|way| way.url.host_str());
        let own = url
            .host_str()
            .filter(|_| way.is_none_or(|way| way.url.scheme() == "socks5"));
        [proxy, own]
            .into_iter()
            .flatten()
            .filter(|host| ip_literal(host).is_none())
    }

    /// Returns the proxy selector of the HTTP client; `None` when all connections are direct.
    pub fn for_client(&self) -> Option<reqwest::Proxy> {
        if self.https.is_none() && self.http.is_none() {
            return None;
        }
        let routes = self.clone();
        Some(reqwest::Proxy::custom(move |url| {
            routes.way(url).map(|way| way.url.clone())
        }))
    }
}

impl Way {
    fn new(proxy: &ProxyUrl) -> Result<Self, &'static str> {
        let mut url = proxy.url.clone();
        if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
            return Err("the proxy must begin with http://, https://, socks5:// or socks5h://");
        }
        let name = host_of(&url);
        if let Some((user, password)) = &proxy.credentials {
            url.set_username(user)
                .and_then(|()| url.set_password(Some(password.reveal())))
                .map_err(|()| "the proxy has no host")?;
        }
        // Parses the URL like the HTTP client. The client would ignore an unparsable proxy.
        let read: http::Uri = url
            .as_str()
            .parse()
            .map_err(|_| "the proxy or its credentials contain invalid characters")?;
        if read.host().is_none_or(str::is_empty) {
            return Err("the proxy has no host");
        }
        Ok(Way { url, name })
    }
}

/// `NO_PROXY` in the usual syntax, a comma-separated list. The entries are hosts (with their
/// subdomains), `.domains` (subdomains only, also written `*.domain`), addresses and networks. All
/// except networks may have a port. `*` matches everything. Names are not resolved, so a network
/// matches only hosts written as addresses.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct NoProxy(Arc<[Except]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Except {
    All,
    Network {
        first: u128,
        bits: u32,
        v4: bool,
    },
    Address {
        address: IpAddr,
        port: Option<u16>,
    },
    /// With `deeper`, matches the subdomains but not the host itself.
    Name {
        name: Box<str>,
        deeper: bool,
        port: Option<u16>,
    },
}

impl NoProxy {
    fn parse(text: &str) -> Self {
        NoProxy(
            text.split([',', ' ', '\t'])
                .filter_map(|entry| Except::parse(entry.trim()))
                .collect(),
        )
    }

    fn covers(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let port = url.port_or_known_default();
        self.0.iter().any(|except| except.covers(host, port))
    }
}

impl Except {
    fn parse(entry: &str) -> Option<Self> {
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Except::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (address, bits): (IpAddr, u32) = (ip_literal(address)?, bits.parse().ok()?);
            let v4 = address.is_ipv4();
            let bits = if v4 { bits.checked_add(96)? } else { bits };
            return (bits <= 128).then(|| Except::Network {
                first: masked(number(address), bits),
                bits,
                v4,
            });
        }
        if let Some(address) = ip_literal(entry) {
            return Some(Except::Address { address, port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Some(address) = ip_literal(host) {
            return Some(Except::Address { address, port });
        }
        let host = host.to_ascii_lowercase();
        let host = host.strip_prefix('*').unwrap_or(&host);
        let (name, deeper) = match host.strip_prefix('.') {
            Some(name) => (name, true),
            None => (host, false),
        };
        (!name.is_empty()).then(|| Except::Name {
            name: name.into(),
            deeper,
            port,
        })
    }

    fn covers(&self, host: &str, at: Option<u16>) -> bool {
        let port_fits = |port: &Option<u16>| port.is_none() || *port == at;
        match self {
            Except::All => true,
            Except::Network { first, bits, v4 } => ip_literal(host)
                .is_some_and(|address| address.is_ipv4() == *v4 && masked(number(address), *bits) == *first),
            Except::Address { address, port } => ip_literal(host) == Some(*address) && port_fits(port),
            Except::Name { name, deeper, port } => {
                let below = host
                    .strip_suffix(&**name)
                    .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
                port_fits(port) && (below || (!deeper && *host == **name))
            }
        }
    }
}

/// Returns an address as a 128-bit number. IPv4 fills the last 32 bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn masked(number: u128, bits: u32) -> u128 {
    // A shift by the full width would overflow.
    if bits == 0 {
        0
    } else {
        number >> (128 - bits) << (128 - bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretText;

    fn proxy(url: &str) -> ProxyUrl {
        ProxyUrl {
            url: url.parse().unwrap(),
            credentials: None,
        }
    }

    #[test]
    fn no_proxy_is_read_as_other_programs_read_it() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("", &[], &["https://a.example/", "http://10.0.0.1/"]),
            ("*", &["https://a.example/", "http://[::1]:5000/"], &[]),
            (
                "example.com",
                &[
                    "https://example.com/",
                    "https://a.example.com:8443/",
                    "http://a.b.example.com/",
                ],
                &["https://notexample.com/", "https://example.com.evil/"],
            ),
            (
                ".example.com, *.lan",
                &["https://a.example.com/", "https://r.lan/"],
                &["https://example.com/", "https://lan/"],
            ),
            (
                "r.lan:5000",
                &["http://r.lan:5000/", "http://x.r.lan:5000/"],
                &["http://r.lan/", "http://r.lan:5001/"],
            ),
            (
                "r.lan:80,s.lan:443",
                &["http://r.lan/", "https://s.lan/"],
                &["https://r.lan/", "http://s.lan/"],
            ),
            (
                "10.0.0.0/8 192.168.1.7 fd00::/8",
                &[
                    "http://10.255.0.1:5000/",
                    "http://192.168.1.7/",
                    "https://[fd12::1]/",
                ],
                &[
                    "http://11.0.0.1/",
                    "http://192.168.1.70/",
                    "https://[fe80::1]/",
                    "https://a10.0.0.1.example/",
                ],
            ),
            (
                "127.0.0.1:5000,[::1]:5000",
                &["http://127.0.0.1:5000/", "http://[::1]:5000/"],
                &["http://127.0.0.1:5001/", "http://[::1]/"],
            ),
            (
                "::1,[fd00::1]",
                &["http://[::1]:7/", "http://[fd00::1]/"],
                &["http://[::2]/"],
            ),
            (
                "0.0.0.0/0",
                &["http://1.2.3.4/"],
                &["http://[::1]/", "http://a.example/"],
            ),
            ("EXAMPLE.com", &["https://Example.COM/"], &[]),
            // Invalid entries match nothing.
            (
                "10.0.0.0/33,10.0.0.0/x,a:b:c,.,*.,:80, ,",
                &[],
                &["http://10.0.0.1/", "http://a/", "http://x:80/"],
            ),
        ];
        for (text, covered, not) in table {
            let except = NoProxy::parse(text);
            for url in *covered {
                assert!(except.covers(&url.parse().unwrap()), "{text}: {url}");
            }
            for url in *not {
                assert!(!except.covers(&url.parse().unwrap()), "{text}: {url}");
            }
        }
    }

    #[test]
    fn a_registry_s_own_choice_counts_before_the_environment() {
        let environment = ProxyEnvironment {
            https: Some(proxy("http://secure.lan:3128")),
            http: Some(proxy("http://plain.lan:3128")),
            no_proxy: "direct.lan".into(),
        };
        let name = |choice: &Proxy, url: &str| {
            let routes = Routes::new(choice, &environment).unwrap();
            routes.way(&url.parse().unwrap()).map(|way| way.name.to_string())
        };
        let from_environment = |url| name(&Proxy::Environment, url);
        assert_eq!(
            from_environment("https://r.lan/").as_deref(),
            Some("secure.lan:3128")
        );
        assert_eq!(
            from_environment("http://r.lan/").as_deref(),
            Some("plain.lan:3128")
        );
        assert_eq!(from_environment("http://direct.lan/"), None);
        assert_eq!(name(&Proxy::Direct, "https://r.lan/"), None);
        let own = Proxy::Url(proxy("socks5://own.lan"));
        for url in ["https://r.lan/", "http://r.lan/", "https://direct.lan/"] {
            assert_eq!(name(&own, url).as_deref(), Some("own.lan"), "{url}");
        }
        let routes = Routes::new(&own, &environment).unwrap();
        assert!(routes.is_proxy("own.lan") && !routes.is_proxy("secure.lan"));
    }

    #[test]
    fn a_proxy_that_could_not_be_used_is_refused_and_its_password_is_never_in_its_name() {
        let environment = ProxyEnvironment::default();
        assert!(Routes::new(&Proxy::Url(proxy("ftp://a.lan")), &environment).is_err());
        for password in ["p@ss:w/o?r#d%", "ä 漢", "", "a\"b\\c`{}|^<>"] {
            let proxy = ProxyUrl {
                url: "socks5h://a.lan:1080".parse().unwrap(),
                credentials: Some(("us er@".into(), SecretText::new(password.into()))),
            };
            let way = Way::new(&proxy).unwrap();
            assert_eq!(&*way.name, "a.lan:1080");
            let read: http::Uri = way.url.as_str().parse().unwrap();
            assert_eq!(read.host(), Some("a.lan"), "{password}");
        }
    }
}
