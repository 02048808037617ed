//! The credentials for a registry or its token service. Pure.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Secret;
use crate::config::SecretText;

/// The user name of identity tokens, by convention of helpers and token services.
pub(super) const TOKEN_USER: &str = "<token>";

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::upstream) enum Credential {
    Password {
        username: String,
        password: SecretText,
    },
    /// A refresh token, for the token service only.
    Identity(SecretText),
    /// A final bearer token, for the registry only.
    Bearer(Secret),
}

/// Identifies a credential without containing it. Prints as `***`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct CredentialId([u8; 32]);

impl Credential {
    /// Returns the credential of a user name and a password. The name `<token>` marks an identity
    /// token.
    pub fn of_pair(username: String, password: SecretText) -> Self {
        if username == TOKEN_USER {
            Credential::Identity(password)
        } else {
            Credential::Password { username, password }
        }
    }

    /// Returns the user name and password in a client's `Authorization` (RFC 7617). `None` for
    /// other schemes, and for the empty pair sent by some clients without credentials.
    pub fn of_client(authorization: &Secret) -> Option<Self> {
        let value = authorization.header_value();
        let (scheme, pair) = value.as_bytes().split_at_checked(b"Basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(pair.trim_ascii()).ok()?).ok()?;
        let (username, password) = pair.split_once(':').filter(|_| pair != ":")?;
        Some(Credential::of_pair(
            username.to_owned(),
            SecretText::new(password.to_owned()),
        ))
    }

    /// Returns the `Authorization` for the registry itself. `None` for an identity token, because
    /// only the token service accepts it.
    pub fn for_registry(&self) -> Option<Secret> {
        match self {
            Credential::Password { username, password } => basic(username, password),
            Credential::Identity(_) => None,
            Credential::Bearer(secret) => Some(secret.clone()),
        }
    }

    /// Returns whether the credential is a final token, so no token service is needed.
    pub fn is_token(&self) -> bool {
        matches!(self, Credential::Bearer(_))
    }

    pub fn id(&self) -> CredentialId {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let mut part = |bytes: &[u8]| {
            // Lengths first, so different credentials never hash the same bytes.
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match self {
            Credential::Password { username, password } => {
                part(b"password");
                part(username.as_bytes());
                part(password.reveal().as_bytes());
            }
            Credential::Identity(token) => {
                part(b"identity");
                part(token.reveal().as_bytes());
            }
            Credential::Bearer(secret) => {
                part(b"bearer");
                part(secret.header_value().as_bytes());
            }
        }
        let mut id = [0; 32];
        id.copy_from_slice(hash.finish().as_ref());
        CredentialId(id)
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The hash of a weak password is as sensitive as the password.
        f.write_str("***")
    }
}

/// Returns the `Basic` credentials (RFC 7617), in UTF-8.
pub(super) fn basic(username: &str, password: &SecretText) -> Option<Secret> {
    let pair = STANDARD.encode(format!("{username}:{}", password.reveal()));
    Secret::new(format!("Basic {pair}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credential {
        Credential::of_pair(username.into(), SecretText::new(password.into()))
    }

    #[test]
    fn a_password_is_sent_as_basic_and_an_identity_token_never_to_the_registry() {
        let sent = password("Aladdin", "open sesame").for_registry().unwrap();
        assert_eq!(sent.header_value(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(password(TOKEN_USER, "refresh").for_registry(), None);
        let bearer = Secret::bearer("token").unwrap();
        assert_eq!(Credential::Bearer(bearer.clone()).for_registry(), Some(bearer));
    }

    #[test]
    fn a_clients_credential_is_a_name_with_its_password_and_nothing_else() {
        let read = |value: &str| Credential::of_client(&Secret::new(value.as_bytes()).unwrap());
        let expected = password("Aladdin", "open:sesame");
        for same in [
            "Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==",
            "basic  QWxhZGRpbjpvcGVuOnNlc2FtZQ==",
        ] {
            assert_eq!(read(same), Some(expected.clone()), "{same}");
        }
        // `<token>:refresh`
        let refresh = Credential::Identity(SecretText::new("refresh".into()));
        assert_eq!(read("Basic PHRva2VuPjpyZWZyZXNo"), Some(refresh));
        for none in [
            "",
            "Basic",
            "Basic ",
            "Basic Og==",
            "Basic QWxhZGRpbg==",
            "Basic !",
            "Basic /zo=",
            "Bearer QWxhZGRpbjpvcGVuOnNlc2FtZQ==",
            "Basicx QWxhZGRpbjpvcGVuOnNlc2FtZQ==",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn credentials_are_distinguished_and_never_shown() {
        let credentials = [
            password("a", "bc"),
            password("ab", "c"),
            password("", "abc"),
            Credential::Identity(SecretText::new("abc".into())),
            Credential::Bearer(Secret::bearer("abc").unwrap()),
        ];
        for (at, credential) in credentials.iter().enumerate() {
            for (other_at, other) in credentials.iter().enumerate() {
                assert_eq!(credential.id() == other.id(), at == other_at);
            }
            assert_eq!(format!("{:?}", credential.id()), "***");
        }
        assert!(!format!("{:?}", password("user", "hunter2")).contains("hunter2"));
    }
}
