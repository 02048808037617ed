//! The front door: who may use the cache at all, when the operator says so. One user name and one password, by
//! HTTP Basic (RFC 7617). Who may read what is another question, and not asked here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;

/// Knows who may come in. Holds no password, only its keyed hash.
#[derive(Clone)]
pub struct FrontDoor {
    key: hmac::Key,
    expected: hmac::Tag,
}

impl FrontDoor {
    pub fn new(username: &str, password: &str) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the kernel's randomness does not fail once the system is up");
        let credentials = STANDARD.encode(format!("{username}:{password}"));
        FrontDoor {
            expected: hmac::sign(&key, credentials.as_bytes()),
            key,
        }
    }

    /// Whether a request with this `Authorization` may come in. The time it takes tells nothing about user name or
    /// password: what is compared are hashes under a key nobody knows. Allocates nothing.
    pub fn opens(&self, authorization: Option<&str>) -> bool {
        let given = authorization.and_then(|value| value.split_once(' '));
        let credentials = given
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .map_or("", |(_, credentials)| credentials.trim_matches(' '));
        hmac::verify(&self.key, credentials.as_bytes(), self.expected.as_ref()).is_ok()
    }
}

/// Whether `path` is behind the door: everything that answers with content or knowledge. Whether we live may be
/// asked by everybody.
pub fn is_guarded(path: &str) -> bool {
    (path == "/v2" || path.starts_with("/v2/") || path.starts_with("/_/")) && path != "/_/health"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_opens_for_its_user_alone() {
        let door = FrontDoor::new("Aladdin", "open sesame");
        for good in [
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            assert!(door.opens(Some(good)), "{good}");
        }
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZg==",
            "Basic QWxhZGRpbg==",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic Aladdin:open sesame",
        ] {
            assert!(!door.opens(Some(bad)), "{bad}");
        }
        assert!(!door.opens(None));
    }

    #[test]
    fn only_signs_of_life_are_in_front_of_the_door() {
        for guarded in ["/v2", "/v2/", "/v2/a/tags/list", "/_/stats", "/_/", "/_/health/"] {
            assert!(is_guarded(guarded), "{guarded}");
        }
        for open in ["/", "/healthz", "/livez", "/readyz", "/_/health"] {
            assert!(!is_guarded(open), "{open}");
        }
    }
}
