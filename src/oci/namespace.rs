//! The registry that a client requests.

use std::fmt;
use std::str::FromStr;

/// The name under which Docker Hub is cached.
pub const DOCKER_HUB: &str = "docker.io";

/// All names of Docker Hub.
const DOCKER_HUB_ALIASES: [&str; 5] = [
    DOCKER_HUB,
    "index.docker.io",
    "registry-1.docker.io",
    // The service name in Docker Hub tokens, which other caches accept as the registry name.
    "registry.docker.io",
    "registry.hub.docker.com",
];

/// The longest host name (RFC 1035) plus `:65535`.
const NAMESPACE_BYTES_MAX: usize = 253 + 6;

/// A registry host, `host` or `host:port`, in lower case. All names of Docker Hub map to one
/// namespace.
///
/// Hosts are names of letters, digits, underscores and dashes, IPv4 addresses, or IPv6 addresses in
/// brackets. No part is empty or `..`, so a namespace is a valid path component.
///
/// `host_port` also means `host:port` if the host contains a dot or is `localhost`. An image
/// reference cannot contain a colon after the name of the cache, and no host of a reference
/// contains an underscore.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid registry; expected `host` or `host:port`")]
pub struct ParseNamespaceError;

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }

    /// Returns whether the first part of a path is a registry and not a repository. A registry
    /// contains a dot or a port, or is `localhost`. Every client uses this rule for image names.
    pub fn looks_like(part: &str) -> bool {
        part.contains(['.', ':']) || part == "localhost" || split_underscore(part).is_some()
    }
}

/// Returns host and port of `host_port`.
fn split_underscore(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once('_')?;
    let named = host.contains('.') || host.eq_ignore_ascii_case("localhost");
    (named && !host.contains([':', '[']) && is_port(port)).then_some((host, port))
}

/// Returns whether `text` is a canonical port: 1 to 65535 without leading zeros.
fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    digits && text.parse::<u16>().is_ok()
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    }
}

impl FromStr for Namespace {
    type Err = ParseNamespaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > NAMESPACE_BYTES_MAX {
            return Err(ParseNamespaceError);
        }
        let (host, port) = match split_underscore(text) {
            Some((host, port)) => (host, Some(port)),
            None => split_port(text),
        };
        if !is_host(host) || port.is_some_and(|port| !is_port(port)) {
            return Err(ParseNamespaceError);
        }
        let text = match port {
            Some(port) => format!("{host}:{port}").to_ascii_lowercase(),
            None => host.to_ascii_lowercase(),
        };
        // The default port of HTTPS is removed, so that each registry has one name.
        let text = text.strip_suffix(":443").unwrap_or(&text);
        if DOCKER_HUB_ALIASES.contains(&text) {
            return Ok(Namespace(DOCKER_HUB.into()));
        }
        Ok(Namespace(text.into()))
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_one_name() {
        for alias in [
            "docker.io",
            "index.docker.io",
            "registry.docker.io",
            "registry.hub.docker.com",
            "registry-1.docker.io",
            "DOCKER.io:443",
            "Registry.Docker.io_443",
        ] {
            assert_eq!(alias.parse::<Namespace>().unwrap().as_str(), "docker.io");
        }
    }

    #[test]
    fn underscore_before_a_port_is_accepted_after_a_host() {
        let parsed = |text: &str| text.parse::<Namespace>().map(|namespace| namespace.to_string());
        for (text, name) in [
            ("registry.internal_5000", "registry.internal:5000"),
            ("Registry.Internal_5000", "registry.internal:5000"),
            ("localhost_5000", "localhost:5000"),
            ("10.0.0.7_1", "10.0.0.7:1"),
            ("a_b.lan_65535", "a_b.lan:65535"),
            ("registry.internal_443", "registry.internal"),
            // Not a port, so the underscore is part of the host.
            ("registry.internal_05", "registry.internal_05"),
            ("registry.internal_0", "registry.internal_0"),
            ("registry.internal_65536", "registry.internal_65536"),
            ("registry.internal_a1", "registry.internal_a1"),
            ("registry.internal_5000:80", "registry.internal_5000:80"),
            ("registry_5000.internal", "registry_5000.internal"),
            // Not a host according to `looks_like`.
            ("registry_5000", "registry_5000"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(name), "{text}");
        }
        for registry in ["localhost_5000", "registry.internal_5000"] {
            assert!(Namespace::looks_like(registry), "{registry}");
        }
        for repository in [
            "my_5000",
            "localhost_",
            "localhost_0",
            "localhost_x",
            "my_localhost_5000",
            "a__5000",
        ] {
            assert!(!Namespace::looks_like(repository), "{repository}");
        }
    }

    #[test]
    fn hosts_ports_and_brackets_are_distinguished() {
        let parsed = |text: &str| text.parse::<Namespace>().map(|namespace| namespace.to_string());
        for (text, name) in [
            ("Example.org:5000", "example.org:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(name));
        }
        for bad in [
            "", ".", "..", "a..b", "a.", ".a", "a:", "a:0", "a:65536", "a:b", "a/b", "a@b", "u:p@h", "::1",
            "[::1", "a b", "a%2e", "-a.b", "a\0", "ä.de", "a:05", "a,b", "a#b", "a?b", "a\\b",
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
