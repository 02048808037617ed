//! Access to the admin API: the names of the listener, the origin of a page, and the role of a client.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};

use super::problem::Problem;
use super::tokens::{FoundToken, Tokens};
use crate::http::RequestId;
use crate::runtime::clock::unix_seconds;
use crate::runtime::helper::blocking;

/// The permission that an operation needs, and the permission of a client. Each role has the
/// permissions of the earlier roles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A client of another machine without a token.
    Anyone,
    /// A client of this machine without a token.
    Local,
    /// Reads names and states.
    Read,
    /// Changes one thing, in a way that a pull can undo.
    Operate,
    /// Changes everything, and stops the cache.
    Admin,
}

impl Role {
    /// The roles of tokens, by their words.
    pub const OF_TOKENS: [(&str, Role); 3] = [
        ("read", Role::Read),
        ("operate", Role::Operate),
        ("admin", Role::Admin),
    ];

    /// Returns the word of the role.
    pub fn word(self) -> &'static str {
        let row = Role::OF_TOKENS.iter().find(|(_, role)| *role == self);
        row.map_or("none", |(word, _)| word)
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// A process of this user. The kernel vouches for the user.
    User(u32),
    Address(SocketAddr),
}

/// The client of a request.
#[derive(Clone, Debug)]
pub struct Actor {
    /// `uid:` and a user, `token:` and the name of a token, or `anonymous`.
    pub name: String,
    pub role: Role,
    /// `socket`, or the address of the client.
    pub remote: String,
    pub request: RequestId,
}

/// Decides on the access of clients.
#[derive(Debug)]
pub struct Access {
    /// The file of the tokens.
    tokens: Option<PathBuf>,
    /// The name of this machine.
    machine: Option<String>,
}

impl Access {
    pub fn new(tokens: Option<PathBuf>) -> Self {
        let machine = rustix::system::uname();
        Access {
            tokens,
            machine: machine.nodename().to_str().ok().map(str::to_ascii_lowercase),
        }
    }

    /// Checks that a request is for this listener, and that no page of another site sent the request.
    ///
    /// # Errors
    ///
    /// `Host` is another name, as after DNS rebinding, or `Origin` is another site.
    pub fn check_target(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = only(headers, &HOST).ok_or(Problem::Host)?;
        if !self.is_own(host) {
            return Err(Problem::Host);
        }
        if !headers.contains_key(ORIGIN) {
            return Ok(());
        }
        let origin = only(headers, &ORIGIN).ok_or(Problem::Origin)?;
        let is_own = origin
            .strip_prefix("http://")
            .is_some_and(|from| from.eq_ignore_ascii_case(host));
        if is_own { Ok(()) } else { Err(Problem::Origin) }
    }

    /// Returns whether `host` is a name of this machine. An attacker who rebinds a name needs a name,
    /// so every address is valid.
    fn is_own(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // The last colon of an address without a port is inside its brackets.
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return false;
        }
        if let Some(rest) = name.strip_prefix('[') {
            let inner = rest.strip_suffix(']');
            return inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
        }
        let name = name.to_ascii_lowercase();
        name.parse::<Ipv4Addr>().is_ok() || name == "localhost" || self.machine.as_ref() == Some(&name)
    }

    /// Returns the client of a request. Blocks a thread of the pool for the file of the tokens.
    ///
    /// # Errors
    ///
    /// The token is unknown or has expired, or the file of the tokens cannot be read.
    pub async fn actor(&self, peer: Peer, headers: &HeaderMap, request: RequestId) -> Result<Actor, Problem> {
        let actor = |name: String, role| Actor {
            name,
            role,
            remote: match peer {
                Peer::User(_) => "socket".to_owned(),
                Peer::Address(address) => address.to_string(),
            },
            request,
        };
        if let Peer::User(uid) = peer {
            return match uid == 0 || uid == rustix::process::geteuid().as_raw() {
                true => Ok(actor(format!("uid:{uid}"), Role::Admin)),
                false => Err(Problem::Forbidden),
            };
        }
        if headers.contains_key(AUTHORIZATION) {
            let token = only(headers, &AUTHORIZATION).and_then(bearer);
            let token = token.ok_or(Problem::Token)?.to_owned();
            let path = self.tokens.clone().ok_or(Problem::NoTokens)?;
            let found =
                blocking(move || Tokens::read(&path).map(|tokens| tokens.find(&token, unix_seconds())));
            let found = found.await.map_err(|_| Problem::Panicked)?;
            let found = found.map_err(|error| {
                tracing::warn!(%error, "admin tokens unusable");
                Problem::Tokens
            });
            return match found? {
                FoundToken::Valid { name, role } => Ok(actor(format!("token:{name}"), role)),
                FoundToken::Expired { name, at } => Err(Problem::TokenExpired { name, at }),
                FoundToken::Unknown => Err(Problem::Token),
            };
        }
        let role = match peer {
            Peer::Address(address) if address.ip().to_canonical().is_loopback() => Role::Local,
            _ => Role::Anyone,
        };
        Ok(actor("anonymous".to_owned(), role))
    }
}

impl Actor {
    /// Checks that the client may do what needs `role`.
    ///
    /// # Errors
    ///
    /// The client has no token, or a token of a lower role.
    pub fn check(&self, role: Role) -> Result<(), Problem> {
        match self.role {
            own if own >= role => Ok(()),
            Role::Anyone | Role::Local => Err(Problem::TokenNeeded),
            _ => Err(Problem::Role(role.word())),
        }
    }
}

/// Returns the value of a field that occurs once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns the token of a Bearer credential (RFC 6750, section 2.1).
fn bearer(field: &str) -> Option<&str> {
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn access() -> Access {
        Access {
            tokens: None,
            machine: Some("node-7".to_owned()),
        }
    }

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let fields = fields.iter().cloned();
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn host_is_an_address_or_a_name_of_this_machine() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "10.1.2.3:9090",
            "localhost:9090",
            "LOCALHOST",
            "node-7:9090",
            "Node-7",
        ] {
            let outcome = access().check_target(&headers(&[(HOST, host)]));
            assert!(outcome.is_ok(), "{host}: {outcome:?}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "user@127.0.0.1",
            "node-7.evil.example",
            "localhost,evil.example",
            "localhost evil.example",
            "[::1].evil.example",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "127.0.0.1:x",
            "localhost:65536",
            "localhost:",
        ] {
            let outcome = access().check_target(&headers(&[(HOST, host)]));
            assert!(matches!(outcome, Err(Problem::Host)), "{host}: {outcome:?}");
        }
        let twice = headers(&[(HOST, "localhost"), (HOST, "evil.example")]);
        assert!(matches!(access().check_target(&twice), Err(Problem::Host)));
        assert!(matches!(access().check_target(&headers(&[])), Err(Problem::Host)));
    }

    #[test]
    fn origin_is_absent_or_the_listener() {
        let check = |origins: &[&'static str]| {
            let mut fields = vec![(HOST, "localhost:9090")];
            fields.extend(origins.iter().map(|&origin| (ORIGIN, origin)));
            access().check_target(&headers(&fields))
        };
        assert!(check(&[]).is_ok());
        assert!(check(&["http://localhost:9090"]).is_ok());
        for other in [
            "null",
            "http://evil.example",
            "https://localhost:9090",
            "http://localhost",
            "http://localhost:9091",
            "http://localhost:9090.evil.example",
            "",
        ] {
            assert!(matches!(check(&[other]), Err(Problem::Origin)), "{other}");
        }
        let twice = check(&["http://localhost:9090", "http://evil.example"]);
        assert!(matches!(twice, Err(Problem::Origin)));
    }

    #[test]
    fn role_includes_the_lower_roles() {
        let actor = |role| Actor {
            name: "token:a".to_owned(),
            role,
            remote: String::new(),
            request: RequestId(0),
        };
        assert!(actor(Role::Admin).check(Role::Operate).is_ok());
        assert!(actor(Role::Read).check(Role::Read).is_ok());
        let outcome = actor(Role::Read).check(Role::Operate);
        assert!(matches!(outcome, Err(Problem::Role("operate"))), "{outcome:?}");
        for role in [Role::Anyone, Role::Local] {
            assert!(matches!(actor(role).check(Role::Read), Err(Problem::TokenNeeded)));
        }
        assert!(actor(Role::Local).check(Role::Local).is_ok());
        assert!(actor(Role::Anyone).check(Role::Local).is_err());
    }
}
