//! What opens the door, and whether something does. Pure, but for the key it draws at its beginning.
//!
//! Passwords are compared and remembered as hashes under a key that nobody knows: how long a comparison or a lookup
//! takes tells nothing about what it was near to.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::{CertificatePattern, FrontAuth, SecretText};
use crate::http::Certificate;
use crate::limits::PASSWORD_BYTES_MAX;

/// Stands for what somebody has shown; of no use anywhere else.
pub type Proof = [u8; 32];

/// What opens the door. Replaced as a whole; proofs of one are nothing to the next.
pub struct Locks {
    key: hmac::Key,
    auth: FrontAuth,
    /// Name, and what is shown by who knows the password.
    user: Option<(String, hmac::Tag)>,
    /// Users of the htpasswd file, by name.
    places: HashMap<String, usize>,
}

/// What a password has to be checked against; takes long.
pub struct Question {
    pub name: String,
    pub password: SecretText,
    hash: SecretText,
    /// Whether there is a user of this name. For others a hash is checked as well, somebody else's, so that the time
    /// does not tell.
    known: bool,
}

impl Locks {
    pub fn new(auth: FrontAuth) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the kernel's randomness does not fail once the system is up");
        let user = auth.user.as_ref().map(|(name, password)| {
            let shown = STANDARD.encode(format!("{name}:{}", password.reveal()));
            (name.clone(), sign(&key, b'p', &[&shown]))
        });
        let users = auth.htpasswd.iter().flat_map(|htpasswd| &htpasswd.users);
        let places = users.zip(0..).map(|((name, _), place)| (name.clone(), place));
        Locks {
            places: places.collect(),
            key,
            user,
            auth,
        }
    }

    /// As the operator wrote it.
    pub fn auth(&self) -> &FrontAuth {
        &self.auth
    }

    pub fn takes_passwords(&self) -> bool {
        self.auth.takes_passwords()
    }

    /// Stands for the credentials of a Basic `Authorization`. Allocates nothing.
    pub fn proof(&self, credentials: &str) -> Proof {
        bytes(&sign(&self.key, b'p', &[credentials]))
    }

    /// Stands for a certificate, as far as it is looked at; `None` where certificates open nothing. Allocates nothing.
    pub fn certificate_proof(&self, certificate: &Certificate) -> Option<Proof> {
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

    /// The name under which a certificate comes in: `cert:` and the name of it that opened.
    pub fn opened_by(&self, certificate: &Certificate) -> Option<String> {
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

    /// The one user of the configuration, if these are their credentials. In the same time whether nearly or not.
    pub fn user(&self, credentials: &str) -> Option<&str> {
        let (name, expected) = self.user.as_ref()?;
        let mut context = hmac::Context::with_key(&self.key);
        // The same that `sign` hashes.
        context.update(b"p");
        context.update(&credentials.len().to_be_bytes());
        context.update(credentials.as_bytes());
        let found = context.sign();
        equal(found.as_ref(), expected.as_ref()).then_some(name)
    }

    /// What to check of these credentials against the htpasswd file; `None` where there is none, or where they are no
    /// name and password at all.
    pub fn question(&self, credentials: &str) -> Option<Question> {
        let users = &self.auth.htpasswd.as_ref()?.users;
        if credentials.len() > PASSWORD_BYTES_MAX {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        let known = self.places.get(name).copied();
        // Always the same one for a name: that it changes would tell that there is none.
        let other = || {
            let tag = sign(&self.key, b'n', &[name]);
            let start = tag.as_ref().first_chunk().copied().unwrap_or_default();
            (u64::from_be_bytes(start) % users.len().max(1) as u64) as usize
        };
        let (_, hash) = users.get(known.unwrap_or_else(other))?;
        Some(Question {
            name: name.to_owned(),
            password: SecretText::new(password.to_owned()),
            hash: hash.clone(),
            known: known.is_some(),
        })
    }
}

impl Question {
    /// Whether the password is right. Takes as long as the hash was made to take, 50 ms and more.
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

/// The alternative names of one kind. They say by their form what they are: a URI has a colon, which no name of a host
/// has, and a mail address an `@`.
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

/// Texts of one purpose never hash as those of another.
fn sign(key: &hmac::Key, purpose: u8, texts: &[&str]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&[purpose]);
    for text in texts {
        context.update(&text.len().to_be_bytes());
        context.update(text.as_bytes());
    }
    context.sign()
}

fn bytes(tag: &hmac::Tag) -> Proof {
    let mut proof = Proof::default();
    for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    proof
}

/// Looks at every byte, whatever it finds.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// The credentials of a Basic `Authorization`, as they were encoded.
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

    fn locks(auth: FrontAuth) -> Locks {
        Locks::new(auth)
    }

    fn one_user() -> Locks {
        locks(FrontAuth {
            user: Some(("Aladdin".into(), SecretText::new("open sesame".into()))),
            ..FrontAuth::default()
        })
    }

    #[test]
    fn the_door_opens_for_its_user_alone() {
        let locks = one_user();
        let opens = |authorization: &str| {
            basic(authorization).is_some_and(|shown| locks.user(shown) == Some("Aladdin"))
        };
        for good in [
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            assert!(opens(good), "{good}");
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
            assert!(!opens(bad), "{bad}");
        }
    }

    #[test]
    fn proofs_are_of_one_credential_one_purpose_and_one_configuration() {
        let (one, other) = (one_user(), one_user());
        assert_eq!(one.proof("a"), one.proof("a"));
        assert_ne!(one.proof("a"), one.proof("b"));
        assert_ne!(one.proof("a"), other.proof("a"));
    }

    fn htpasswd(users: &[(&str, &str)]) -> Locks {
        let lines = users
            .iter()
            .map(|(name, password)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap()));
        let text: String = lines.collect();
        locks(FrontAuth {
            htpasswd: Some(Htpasswd::parse("/f".into(), &text).unwrap()),
            ..FrontAuth::default()
        })
    }

    #[test]
    fn a_password_is_checked_against_the_hash_of_its_user() {
        let locks = htpasswd(&[("alice", "a:b c"), ("bob", "ü")]);
        let right = |name: &str, password: &str| {
            let shown = STANDARD.encode(format!("{name}:{password}"));
            locks.question(&shown).is_some_and(|question| question.is_right())
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
            assert!(locks.question(broken).is_none(), "{broken}");
        }
        assert!(locks.question(&STANDARD.encode("x:y".repeat(1_000))).is_none());
    }

    /// Somebody else's hash is checked, always the same one, and found right it opens nothing.
    #[test]
    fn an_unknown_user_takes_the_same_way_as_a_known_one() {
        let locks = htpasswd(&[("alice", "same"), ("bob", "same")]);
        for name in ["eve", "mallory", "trent"] {
            let shown = STANDARD.encode(format!("{name}:same"));
            let [one, two] = [(); 2].map(|()| locks.question(&shown).unwrap());
            assert_eq!(one.hash, two.hash);
            assert!(bcrypt::verify(one.password.reveal(), one.hash.reveal()).unwrap());
            assert!(!one.is_right());
        }
    }

    #[test]
    fn certificates_open_by_the_names_they_have() {
        let locks = locks(FrontAuth {
            certificates: [
                "CN=builder-*",
                "DNS:*.Nodes.example",
                "EMAIL:*@example.com",
                "URI:spiffe://c/ns/*/sa/x",
            ]
            .map(|pattern| CertificatePattern::new(pattern).unwrap())
            .into(),
            ..FrontAuth::default()
        });
        let opened = |common_name: Option<&str>, names: &[&str]| {
            locks.opened_by(&Certificate {
                subject: String::new(),
                common_name: common_name.map(str::to_owned),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let come_in = |name: &str| Some(format!("cert:{name}"));
        assert_eq!(opened(Some("builder-7"), &[]), come_in("builder-7"));
        assert_eq!(
            opened(Some("x"), &["y", "A.nodes.example"]),
            come_in("a.nodes.example")
        );
        assert_eq!(opened(None, &["joe@example.com"]), come_in("joe@example.com"));
        assert_eq!(
            opened(None, &["spiffe://c/ns/a/sa/x"]),
            come_in("spiffe://c/ns/a/sa/x")
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
            // One kind of name is not taken for another.
            (None, &["http://x@example.com", "joe@a.nodes.example"]),
        ] {
            assert_eq!(opened(common_name, names), None, "{common_name:?} {names:?}");
        }
    }

    #[test]
    fn a_certificate_is_known_again_by_all_its_names() {
        let with = locks(FrontAuth {
            certificates: vec![CertificatePattern::new("CN=*").unwrap()],
            ..FrontAuth::default()
        });
        let proof = |common_name: Option<&str>, names: &[&str]| {
            with.certificate_proof(&Certificate {
                subject: String::new(),
                common_name: common_name.map(str::to_owned),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        assert!(proof(Some("a"), &[]).is_some());
        assert_eq!(proof(Some("a"), &["b"]), proof(Some("a"), &["b"]));
        assert_ne!(proof(Some("a"), &["b"]), proof(None, &["a", "b"]));
        assert_ne!(proof(Some("ab"), &[]), proof(Some("a"), &["b"]));
        assert_eq!(one_user().certificate_proof(&Certificate::default()), None);
    }
}
