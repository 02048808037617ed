//! An htpasswd file: names with bcrypt hashes, a user per line. The whole file is checked before use.

use std::path::PathBuf;

use super::secret::SecretText;

/// Users with their hashes. `Debug` shows no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Htpasswd {
    /// The path of the file.
    pub path: PathBuf,
    /// Users in the order of the file. Names are unique, and the list is never empty.
    pub users: Vec<(String, SecretText)>,
}

/// The largest file, in bytes: about ten thousand users.
pub const HTPASSWD_BYTES_MAX: usize = 1024 * 1024;

/// The highest cost of a hash. Each step doubles the time of a check. A check of cost 14 takes about a second.
const COST_MAX: u32 = 14;

const CURE: &str = "only bcrypt hashes are supported; create one with `htpasswd -B`";

impl Htpasswd {
    /// Parses the text of a file. Empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    ///
    /// Returns all errors with their line numbers. Messages contain no name and no hash.
    pub fn parse(path: PathBuf, text: &str) -> Result<Self, Vec<(usize, String)>> {
        let mut users: Vec<(String, SecretText)> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        let mut wrong = Vec::new();
        if text.len() > HTPASSWD_BYTES_MAX {
            return Err(vec![(1, format!("is larger than {HTPASSWD_BYTES_MAX} bytes"))]);
        }
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match entry(line) {
                Ok((name, hash)) => match seen.insert(name.to_owned(), number) {
                    None => users.push((name.to_owned(), SecretText::new(hash.to_owned()))),
                    Some(first) => {
                        wrong.push((number, format!("this user is already named in line {first}")));
                    }
                },
                Err(why) => wrong.push((number, why)),
            }
        }
        if users.is_empty() && wrong.is_empty() {
            wrong.push((1, "contains no user; add one with `htpasswd -B`".to_owned()));
        }
        match wrong.is_empty() {
            true => Ok(Htpasswd { path, users }),
            false => Err(wrong),
        }
    }
}

fn entry(line: &str) -> Result<(&str, &str), String> {
    let (name, hash) = line
        .split_once(':')
        .ok_or("expected `name:hash`, as written by `htpasswd -B`")?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("a user name must not be empty and has no control characters".to_owned());
    }
    if !["$2y$", "$2a$", "$2b$"].iter().any(|kind| hash.starts_with(kind)) {
        return Err(CURE.to_owned());
    }
    let parts = hash
        .parse::<bcrypt::HashParts>()
        .map_err(|_| format!("the hash is broken; {CURE}"))?;
    if !(4..=COST_MAX).contains(&parts.get_cost()) {
        return Err(format!(
            "the hash has cost {}; expected 4 to {COST_MAX} (`htpasswd -B -C 10`)",
            parts.get_cost()
        ));
    }
    Ok((name, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, Vec<(usize, String)>> {
        let file = Htpasswd::parse("/f".into(), text)?;
        Ok(file.users.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn users_are_read_with_their_bcrypt_hashes() {
        let hash = bcrypt::hash("open sesame", 4).unwrap();
        let text = format!(
            "# people\nalice:{hash}\r\n\nbob b:{}\n eve:{}",
            hash.replace("$2b$", "$2y$"),
            hash.replace("$2b$", "$2a$"),
        );
        assert_eq!(parse(&text).unwrap(), ["alice", "bob b", " eve"]);
        let file = Htpasswd::parse("/f".into(), &text).unwrap();
        assert!(!format!("{file:?}").contains(&hash[20..]), "{file:?}");
    }

    #[test]
    fn every_error_is_named_with_its_line_and_its_cure() {
        let good = bcrypt::hash("x", 4).unwrap();
        for (text, line, why) in [
            ("alice", 1, "expected `name:hash`"),
            (":$2y$", 1, "a user name must not be empty"),
            ("\n\na:$apr1$canary$x", 3, "`htpasswd -B`"),
            ("a:{SHA}canary", 1, "`htpasswd -B`"),
            ("a:canary", 1, "`htpasswd -B`"),
            ("a:$2x$04$canary", 1, "`htpasswd -B`"),
            ("a:$2y$04$canary", 1, "the hash is broken"),
            (
                &format!("a:{}", good.replace("$04$", "$17$")),
                1,
                "cost 17; expected 4 to 14",
            ),
            (&format!("a:{good}\na:{good}"), 2, "already named in line 1"),
            ("# no users\n", 1, "contains no user"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
            assert_eq!(wrong[0].0, line, "{text}");
            assert!(wrong[0].1.contains(why), "{text}: {wrong:?}");
            assert!(!wrong[0].1.contains("canary"), "{wrong:?}");
        }
        assert_eq!(
            parse("a\nb\n").unwrap_err().len(),
            2,
            "all errors are reported at once"
        );
        assert!(parse(&"#\n".repeat(HTPASSWD_BYTES_MAX)).is_err());
    }
}
