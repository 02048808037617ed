//! The tokens of the admin API: a file with a line for each token.
//!
//! A line has a name, a role and the SHA-256 digest of the token: `ci read 9f86d081...`. A fourth part
//! is the time at which the token expires. The file is read for each request with a token, so a
//! changed file has effect at once.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ring::digest::{SHA256, digest};

use super::access::Role;
use crate::calendar::{date_time, unix_seconds_of};
use crate::limits::ADMIN_TOKENS_BYTES_MAX;

/// The tokens of a file.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    name: String,
    role: Role,
    /// Hexadecimal, lower case.
    sha256: String,
    /// The first second without validity, in seconds since 1970.
    expires: Option<u64>,
}

/// The token of a request, by the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundToken {
    Valid {
        name: String,
        role: Role,
    },
    /// The time of expiry is in UTC.
    Expired {
        name: String,
        at: String,
    },
    Unknown,
}

/// The reason why the file of the tokens is unusable. No token is valid.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("cannot read the file of the tokens: {0}; check ADMIN_TOKENS_FILE")]
    Unreadable(#[from] io::Error),
    #[error(
        "line {line} of the file of the tokens {why}; expected `name role sha256`, and a time of expiry if needed"
    )]
    Line { line: usize, why: &'static str },
    #[error("the file of the tokens is larger than {ADMIN_TOKENS_BYTES_MAX} bytes")]
    TooLarge,
}

impl Tokens {
    /// Reads the tokens in the file `path`. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line is invalid. No message contains a name or a digest.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let mut text = String::new();
        let bytes_max = ADMIN_TOKENS_BYTES_MAX as u64 + 1;
        File::open(path)?.take(bytes_max).read_to_string(&mut text)?;
        match text.len() > ADMIN_TOKENS_BYTES_MAX {
            true => Err(TokensError::TooLarge),
            false => Self::parse(&text),
        }
    }

    fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        let mut names = HashSet::new();
        for (line, number) in text.lines().zip(1..) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let token = token(line).and_then(|token| match names.insert(token.name.clone()) {
                true => Ok(token),
                false => Err("has the name of an earlier line"),
            });
            tokens.push(token.map_err(|why| TokensError::Line { line: number, why })?);
        }
        Ok(Tokens(tokens))
    }

    /// Finds `token`. `now` is in seconds since 1970. The comparison is of digests, so its time says
    /// nothing about the token.
    pub fn find(&self, token: &str, now: u64) -> FoundToken {
        let sha256 = hexadecimal(digest(&SHA256, token.as_bytes()).as_ref());
        let Some(found) = self.0.iter().find(|known| known.sha256 == sha256) else {
            return FoundToken::Unknown;
        };
        let name = found.name.clone();
        match found.expires {
            Some(expires) if expires <= now => FoundToken::Expired {
                name,
                at: String::from_utf8_lossy(&date_time(expires)).into_owned() + "Z",
            },
            _ => FoundToken::Valid {
                name,
                role: found.role,
            },
        }
    }
}

fn token(line: &str) -> Result<Token, &'static str> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let (name, role, sha256, expires) = match parts[..] {
        [name, role, sha256] => (name, role, sha256, None),
        [name, role, sha256, expires] => (name, role, sha256, Some(expires)),
        _ => return Err("does not have three or four parts"),
    };
    let (_, role) = Role::OF_TOKENS
        .into_iter()
        .find(|(word, _)| *word == role)
        .ok_or("has another role than read, operate or admin")?;
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return Err("has no SHA-256 digest of 64 hexadecimal digits");
    }
    let expires = expires
        .map(|text| time(text).ok_or("has no time of expiry such as 2027-01-31 or 2027-01-31T12:00:00Z"));
    Ok(Token {
        name: name.to_owned(),
        role,
        sha256: sha256.to_ascii_lowercase(),
        expires: expires.transpose()?,
    })
}

/// Parses a day or a time in UTC into seconds since 1970. A day is its first second.
fn time(text: &str) -> Option<u64> {
    match text.contains('T') {
        true => unix_seconds_of(text),
        false => unix_seconds_of(&format!("{text}T00:00:00")),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of the token `test`.
    const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn token_is_found_by_its_digest() {
        let text = format!("# tokens\n\nci read {}\nops  admin\t{TEST}\n", "0".repeat(64));
        let tokens = Tokens::parse(&text).unwrap();
        let valid = |name: &str, role| FoundToken::Valid {
            name: name.to_owned(),
            role,
        };
        assert_eq!(tokens.find("test", 0), valid("ops", Role::Admin));
        for other in ["", "test ", "Test", TEST] {
            assert_eq!(tokens.find(other, 0), FoundToken::Unknown, "{other}");
        }
        let upper = Tokens::parse(&format!("a operate {}", TEST.to_uppercase())).unwrap();
        assert_eq!(upper.find("test", u64::MAX), valid("a", Role::Operate));
    }

    #[test]
    fn token_is_valid_before_its_expiry() {
        for (expiry, at) in [
            ("1970-01-02", 86_400),
            ("1970-01-02T00:00:05Z", 86_405),
            ("1970-01-01T12:00:00", 43_200),
        ] {
            let tokens = Tokens::parse(&format!("a read {TEST} {expiry}")).unwrap();
            assert!(
                matches!(tokens.find("test", at - 1), FoundToken::Valid { .. }),
                "{expiry}"
            );
            let FoundToken::Expired { name, at } = tokens.find("test", at) else {
                panic!("{expiry}");
            };
            assert_eq!(name, "a");
            assert!(at.starts_with("1970-01-0") && at.ends_with('Z'), "{at}");
            assert_eq!(tokens.find("other", 0), FoundToken::Unknown);
        }
    }

    #[test]
    fn invalid_line_is_an_error_with_its_number() {
        for (line, why) in [
            ("ci read".to_owned(), "three or four parts"),
            (format!("ci read {TEST} tomorrow"), "time of expiry"),
            (format!("ci read {TEST} 2026-02-30"), "time of expiry"),
            (format!("ci read {TEST} 2027-01-31 x"), "three or four parts"),
            (format!("ci write {TEST}"), "another role"),
            (format!("ci read {}", &TEST[1..]), "no SHA-256"),
            (format!("ci read {}x", &TEST[1..]), "no SHA-256"),
            (format!("ops read {TEST}"), "an earlier line"),
        ] {
            let error = Tokens::parse(&format!("ops admin {TEST}\n{line}\n")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("line 2") && text.contains(why), "{text}");
            assert!(!text.contains(&TEST[1..]), "{text}");
        }
    }

    #[test]
    fn unreadable_file_is_an_error_with_the_setting() {
        let error = Tokens::read(Path::new("/nonexistent/tokens")).unwrap_err();
        assert!(error.to_string().contains("ADMIN_TOKENS_FILE"), "{error}");
    }
}
