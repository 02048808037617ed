//! Patterns over names that have parts: `*` stays within a part, `**` crosses parts.

use regex::Regex;

/// A compiled pattern. Matches whole texts, with regard to case.
#[derive(Clone)]
pub struct Glob {
    text: String,
    regex: Regex,
}

/// The longest pattern, in bytes: longer than any name in use.
const PATTERN_BYTES_MAX: usize = 1_024;

impl Glob {
    /// Compiles a pattern. `separator` ends a part. Without a separator, `*` matches any text.
    ///
    /// # Errors
    ///
    /// Returns the expected form if `text` is empty or too long.
    pub fn new(text: &str, separator: Option<char>) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("expected a pattern of 1 to {PATTERN_BYTES_MAX} bytes"));
        }
        let within = match separator {
            Some(separator) => format!("[^{}]*", regex::escape(separator.encode_utf8(&mut [0; 4]))),
            None => "(?s:.*)".to_owned(),
        };
        let mut expression = String::from("^");
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("**") {
                expression.push_str("(?s:.*)");
                rest = after;
                continue;
            }
            match c {
                '*' => expression.push_str(&within),
                other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
            rest = &rest[c.len_utf8()..];
        }
        expression.push('$');
        let regex = Regex::new(&expression).map_err(|_| "the pattern is too large".to_owned())?;
        Ok(Glob {
            text: text.to_owned(),
            regex,
        })
    }

    /// Returns whether the pattern matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Glob {}

impl std::fmt::Debug for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stays_within_a_part_and_two_do_not() {
        for (pattern, good, bad) in [
            ("a", &["a"][..], &["", "aa", "a/a", "A"][..]),
            (
                "team/*",
                &["team/a", "team/a.b-c"],
                &["team", "team/a/b", "xteam/a"],
            ),
            ("team/**", &["team/a", "team/a/b/c"], &["team", "teams/a"]),
            ("*/app", &["team/app"], &["app", "a/b/app", "team/apps"]),
            ("**/app", &["team/app", "a/b/app"], &["app", "a/b/app/c"]),
            ("**", &["a", "a/b/c"], &[]),
            ("*", &["a", "a.b"], &["a/b"]),
            (
                "ci-*-x/**/y",
                &["ci-1-x/a/y", "ci--x/a/b/y"],
                &["ci-1/x/a/y", "ci-1-x/y"],
            ),
            ("a.c", &["a.c"], &["abc"]),
            ("a+(b)[c]", &["a+(b)[c]"], &["aab"]),
        ] {
            let glob = Glob::new(pattern, Some('/')).unwrap();
            for text in good {
                assert!(glob.matches(text), "{pattern} {text}");
            }
            for text in bad {
                assert!(!glob.matches(text), "{pattern} {text}");
            }
        }
        let whole = Glob::new("ci-*", None).unwrap();
        assert!(whole.matches("ci-a/b.c\nd") && !whole.matches("xci-a"));
    }

    #[test]
    fn glob_with_many_stars_is_matched_in_bounded_time() {
        let glob = Glob::new(&"*a".repeat(100), None).unwrap();
        assert!(!glob.matches(&"a".repeat(50_000).replace("aaaaaaaaaa", "aaaaaaaaab")));
        assert!(Glob::new("", None).is_err() && Glob::new(&"a".repeat(2_000), None).is_err());
    }
}
