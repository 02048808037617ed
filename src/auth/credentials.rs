//! The accepted credentials of clients, and their comparison. Pure, except for the random key of
//! each store.
//!
//! Passwords are compared and cached as hashes under a secret key. The time of a comparison or a
//! lookup does not depend on the similarity of a wrong password.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::{CertificatePattern, ClientAuthConfig, SecretText};
use crate::http::Certificate;
use crate::limits::CREDENTIAL_BYTES_MAX;

/// The keyed hash of a credential. A digest has no meaning outside its [`CredentialStore`].
pub type CredentialDigest = [u8; 32];

/// The accepted credentials. A reload replaces the whole store. Digests of one store do not match
/// digests of the next.
pub struct CredentialStore {
    key: hmac::Key,
    auth: ClientAuthConfig,
    /// The user name, and the tag of the user's Basic credentials.
    user: Option<(String, hmac::Tag)>,
    /// Index of each user in the htpasswd file, by name.
    places: HashMap<String, usize>,
}

/// A password check against a bcrypt hash, slow by design.
pub struct PasswordCheck {
    pub name: String,
    pub password: SecretText,
    hash: SecretText,
    /// Whether the user exists. For an unknown user, the check uses the hash of another user and
    /// takes an equal time.
    known: bool,
}

impl CredentialStore {
    pub fn new(auth: ClientAuthConfig) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the kernel's randomness does not fail once the system is up");
        let user = auth.user.as_ref().map(|(name, password)| {
            let shown = STANDARD.encode(format!("{name}:{}", password.reveal()));
            (name.clone(), sign(&key, b'p', &[&shown]))
        });
        let users = auth.htpasswd.iter().flat_map(|htpasswd| &htpasswd.users);
        let places = users.zip(0..).map(|((name, _), place)| (name.clone(), place));
        CredentialStore {
            places: places.collect(),
            key,
            user,
            auth,
        }
    }

    /// Returns the configuration of the operator.
    pub fn auth(&self) -> &ClientAuthConfig {
        &self.auth
    }

    pub fn accepts_passwords(&self) -> bool {
        self.auth.accepts_passwords()
    }

    /// Returns the digest of the credentials of a Basic `Authorization`. Allocates nothing.
    pub fn digest(&self, credentials: &str) -> CredentialDigest {
        bytes(&sign(&self.key, b'p', &[credentials]))
    }

    /// Returns the digest of the names of a certificate. Returns `None` if no certificate is
    /// accepted. Allocates nothing.
    pub fn certificate_digest(&self, certificate: &Certificate) -> Option<CredentialDigest> {
        if self.auth.certificates.is_empty() {
            return None;
        }
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"c");
        let names = certificate.names.iter().map(String::as_str);
        for text in certificate.common_name.as_deref().into_iter().chain(names) {
            context.update(&text.len().to_be_bytes());
            context.update(text.as_bytes());
        }
        context.update(&[u8::from(certificate.common_name.is_some())]);
        Some(bytes(&context.sign()))
    }

    /// Returns the user name of an accepted certificate: `cert:` and the name that matched a
    /// pattern.
    pub fn certificate_user(&self, certificate: &Certificate) -> Option<String> {
        let found = self.auth.certificates.iter().find_map(|pattern| match pattern {
            CertificatePattern::CommonName(glob) => certificate
                .common_name
                .as_deref()
                .filter(|name| glob.matches(name))
                .map(str::to_owned),
            CertificatePattern::Dns(glob) => names(certificate, Kind::Dns)
                .map(str::to_ascii_lowercase)
                .find(|name| glob.matches(name)),
            CertificatePattern::Mail(glob) => names(certificate, Kind::Mail)
                .find(|name| glob.matches(name))
                .map(str::to_owned),
            CertificatePattern::Uri(glob) => names(certificate, Kind::Uri)
                .find(|name| glob.matches(name))
                .map(str::to_owned),
        });
        found.map(|name| format!("cert:{name}"))
    }

    /// Returns the single configured user if `credentials` match. The time does not depend on the
    /// similarity of wrong credentials.
    pub fn user(&self, credentials: &str) -> Option<&str> {
        let (name, expected) = self.user.as_ref()?;
        let mut context = hmac::Context::with_key(&self.key);
        // Equals the input of `sign`.
        context.update(b"p");
        context.update(&credentials.len().to_be_bytes());
        context.update(credentials.as_bytes());
        let found = context.sign();
        equal(found.as_ref(), expected.as_ref()).then_some(name)
    }

    /// Returns the check of these credentials against the htpasswd file. Returns `None` if no file
    /// is configured, or if the credentials are not a valid name and password.
    pub fn password_check(&self, credentials: &str) -> Option<PasswordCheck> {
        let users = &self.auth.htpasswd.as_ref()?.users;
        if credentials.len() > CREDENTIAL_BYTES_MAX {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        let known = self.places.get(name).copied();
        // Each unknown name always uses the hash of one fixed user. A changing hash would reveal
        // that the name is unknown.
        let other = || {
            let tag = sign(&self.key, b'n', &[name]);
            let start = tag.as_ref().first_chunk().copied().unwrap_or_default();
            (u64::from_be_bytes(start) % users.len().max(1) as u64) as usize
        };
        let (_, hash) = users.get(known.unwrap_or_else(other))?;
        Some(PasswordCheck {
            name: name.to_owned(),
            password: SecretText::new(password.to_owned()),
            hash: hash.clone(),
            known: known.is_some(),
        })
    }
}

impl PasswordCheck {
    /// Returns whether the password is correct. Takes 50 ms or more, depending on the cost of the
    /// hash.
    pub fn is_right(&self) -> bool {
        let right = bcrypt::verify(self.password.reveal(), self.hash.reveal()).unwrap_or(false);
        right & self.known
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dns,
    Mail,
    Uri,
}

/// Returns the alternative names of one kind. The form of a name determines the kind. A URI
/// contains a colon, a mail address contains an `@`, and a host name contains neither.
fn names(certificate: &Certificate, kind: Kind) -> impl Iterator<Item = &str> {
    let names = certificate.names.iter().map(String::as_str);
    names.filter(move |name| {
        let is = match (name.contains(':'), name.contains('@')) {
            (true, _) => Kind::Uri,
            (false, true) => Kind::Mail,
            (false, false) => Kind::Dns,
        };
        is == kind
    })
}

/// Signs `texts` for one purpose. Signatures of different purposes never match.
fn sign(key: &hmac::Key, purpose: u8, texts: &[&str]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&[purpose]);
    for text in texts {
        context.update(&text.len().to_be_bytes());
        context.update(text.as_bytes());
    }
    context.sign()
}

fn bytes(tag: &hmac::Tag) -> CredentialDigest {
    let mut digest = CredentialDigest::default();
    for (to, from) in digest.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    digest
}

/// Compares two byte strings. Always reads every byte, regardless of differences.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Returns the encoded credentials of a Basic `Authorization`.
pub fn basic(authorization: &str) -> Option<&str> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| credentials.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Htpasswd;

    fn store(auth: ClientAuthConfig) -> CredentialStore {
        CredentialStore::new(auth)
    }

    fn one_user() -> CredentialStore {
        store(ClientAuthConfig {
            user: Some(("Aladdin".into(), SecretText::new("open sesame".into()))),
            ..ClientAuthConfig::default()
        })
    }

    #[test]
    fn only_the_configured_user_is_accepted() {
        let store = one_user();
        let accepts = |authorization: &str| {
            basic(authorization).is_some_and(|shown| store.user(shown) == Some("Aladdin"))
        };
        for good in [
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            assert!(accepts(good), "{good}");
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
            assert!(!accepts(bad), "{bad}");
        }
    }

    #[test]
    fn digest_differs_per_credential_and_per_store() {
        let (one, other) = (one_user(), one_user());
        assert_eq!(one.digest("a"), one.digest("a"));
        assert_ne!(one.digest("a"), one.digest("b"));
        assert_ne!(one.digest("a"), other.digest("a"));
    }

    fn htpasswd(users: &[(&str, &str)]) -> CredentialStore {
        let lines = users
            .iter()
            .map(|(name, password)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap()));
        let text: String = lines.collect();
        store(ClientAuthConfig {
            htpasswd: Some(Htpasswd::parse("/f".into(), &text).unwrap()),
            ..ClientAuthConfig::default()
        })
    }

    #[test]
    fn a_password_is_checked_against_the_hash_of_its_user() {
        let store = htpasswd(&[("alice", "a:b c"), ("bob", "ü")]);
        let right = |name: &str, password: &str| {
            let shown = STANDARD.encode(format!("{name}:{password}"));
            store.password_check(&shown).is_some_and(|check| check.is_right())
        };
        assert!(right("alice", "a:b c") && right("bob", "ü"));
        for (name, password) in [
            ("alice", "ü"),
            ("bob", ""),
            ("Alice", "a:b c"),
            ("eve", "ü"),
            ("", ""),
        ] {
            assert!(!right(name, password), "{name} {password}");
        }
        for broken in ["", "!", "YQ==", "YTpi=", "/////w=="] {
            assert!(store.password_check(broken).is_none(), "{broken}");
        }
        assert!(
            store
                .password_check(&STANDARD.encode("x:y".repeat(1_000)))
                .is_none()
        );
    }

    /// The check of an unknown user uses one hash each time, and never accepts a password.
    #[test]
    fn unknown_user_is_checked_against_a_fixed_hash_and_rejected() {
        let store = htpasswd(&[("alice", "same"), ("bob", "same")]);
        for name in ["eve", "mallory", "trent"] {
            let shown = STANDARD.encode(format!("{name}:same"));
            let [one, two] = [(); 2].map(|()| store.password_check(&shown).unwrap());
            assert_eq!(one.hash, two.hash);
            assert!(bcrypt::verify(one.password.reveal(), one.hash.reveal()).unwrap());
            assert!(!one.is_right());
        }
    }

    #[test]
    fn certificates_are_accepted_by_their_names() {
        let store = store(ClientAuthConfig {
            certificates: [
                "CN=builder-*",
                "DNS:*.Nodes.example",
                "EMAIL:*@example.com",
                "URI:spiffe://c/ns/*/sa/x",
            ]
            .map(|pattern| CertificatePattern::new(pattern).unwrap())
            .into(),
            ..ClientAuthConfig::default()
        });
        let user_of = |common_name: Option<&str>, names: &[&str]| {
            store.certificate_user(&Certificate {
                subject: String::new(),
                common_name: common_name.map(str::to_owned),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let accepted = |name: &str| Some(format!("cert:{name}"));
        assert_eq!(user_of(Some("builder-7"), &[]), accepted("builder-7"));
        assert_eq!(
            user_of(Some("x"), &["y", "A.nodes.example"]),
            accepted("a.nodes.example")
        );
        assert_eq!(user_of(None, &["joe@example.com"]), accepted("joe@example.com"));
        assert_eq!(
            user_of(None, &["spiffe://c/ns/a/sa/x"]),
            accepted("spiffe://c/ns/a/sa/x")
        );
        for (common_name, names) in [
            (None, &[][..]),
            (Some(""), &[]),
            (Some("xbuilder-7"), &["builder-7"]),
            (Some("a.nodes.example"), &[]),
            (
                None,
                &["a.b.nodes.example", "nodes.example", "a.nodes.example.org"],
            ),
            (None, &["joe@x@example.com", "joe@example.com.org"]),
            (None, &["spiffe://c/ns/a/b/sa/x", "spiffe://c/ns/a/sa/x/y"]),
            // A name of one kind does not match a pattern of another kind.
            (None, &["http://x@example.com", "joe@a.nodes.example"]),
        ] {
            assert_eq!(user_of(common_name, names), None, "{common_name:?} {names:?}");
        }
    }

    #[test]
    fn the_digest_of_a_certificate_covers_all_its_names() {
        let with = store(ClientAuthConfig {
            certificates: vec![CertificatePattern::new("CN=*").unwrap()],
            ..ClientAuthConfig::default()
        });
        let digest = |common_name: Option<&str>, names: &[&str]| {
            with.certificate_digest(&Certificate {
                subject: String::new(),
                common_name: common_name.map(str::to_owned),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        assert!(digest(Some("a"), &[]).is_some());
        assert_eq!(digest(Some("a"), &["b"]), digest(Some("a"), &["b"]));
        assert_ne!(digest(Some("a"), &["b"]), digest(None, &["a", "b"]));
        assert_ne!(digest(Some("ab"), &[]), digest(Some("a"), &["b"]));
        assert_eq!(one_user().certificate_digest(&Certificate::default()), None);
    }
}
