//! The query of a list (`tags/list`, `referrers`): page and filter. Performs no I/O and does not
//! interpret keys.

use std::borrow::Cow;

/// The maximum length of a query for the upstream, in bytes. Continuation tokens of the large
/// registries are below 1 KiB.
pub const LIST_QUERY_BYTES_MAX: usize = 2 * 1024;

/// `key=value` pairs joined by `&`, in URL form and at most `LIST_QUERY_BYTES_MAX` bytes long. No
/// byte can end the query, a quoted text or a bracketed text.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ListQuery(String);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the query is longer than 2048 bytes")]
pub struct QueryTooLong;

impl ListQuery {
    /// Adds a pair. `value` keeps its escapes as received. Characters that are invalid in a query
    /// are escaped.
    ///
    /// # Errors
    ///
    /// [`QueryTooLong`], without adding the pair.
    pub fn push(&mut self, key: &str, value: &str) -> Result<(), QueryTooLong> {
        let before = self.0.len();
        if before > 0 {
            self.0.push('&');
        }
        // Keys are stored decoded, so the characters `%`, `&` and `=` are escaped again.
        push_escaped(&mut self.0, key, b"-._~!$()*,;:@/?");
        self.0.push('=');
        push_escaped(&mut self.0, value, b"-._~!$()*+,;:@/?=%");
        if self.0.len() > LIST_QUERY_BYTES_MAX {
            self.0.truncate(before);
            return Err(QueryTooLong);
        }
        Ok(())
    }

    /// Returns the query in URL form, without the question mark.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first value of `key`, decoded. Returns `None` for an empty value.
    pub fn get(&self, key: &str) -> Option<String> {
        pairs(&self.0)
            .find(|(found, _)| found == key)
            .and_then(|(_, value)| percent_decoded(value))
            .filter(|value| !value.is_empty())
    }
}

/// Returns the pairs of a query, with decoded keys and raw values. A key with invalid escapes stays
/// raw. A key without `=` has an empty value.
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decoded(key).map_or(Cow::Borrowed(key), Cow::Owned);
        (key, value)
    })
}

/// Decodes percent-escapes. Returns `None` for invalid escapes and for a result that is not
/// printable ASCII.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let hex = [bytes.next()?, bytes.next()?];
            let hex = std::str::from_utf8(&hex)
                .ok()
                .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(hex, 16).ok()?
        } else {
            byte
        };
        if !byte.is_ascii() || byte.is_ascii_control() {
            return None;
        }
        out.push(char::from(byte));
    }
    Some(out)
}

fn push_escaped(out: &mut String, text: &str, kept: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn query_pairs_keep_their_spelling_and_order() {
        let mut query = ListQuery::default();
        for (key, value) in pairs("n=5&&last=a%2Fb&token=AbC%3D%3D&flag") {
            query.push(&key, value).unwrap();
        }
        assert_eq!(query.as_str(), "n=5&last=a%2Fb&token=AbC%3D%3D&flag=");
        assert_eq!(query.get("last").as_deref(), Some("a/b"));
        assert_eq!(query.get("flag"), None);
        assert_eq!(query.get("nothing"), None);
    }

    #[test]
    fn a_key_is_the_same_however_it_is_escaped() {
        let keys: Vec<_> = pairs("%6es=a&n%73=b&ns=c&%zz=d").map(|(key, _)| key).collect();
        assert_eq!(keys, ["ns", "ns", "ns", "%zz"]);
    }

    #[test]
    fn query_pair_beyond_the_limit_is_not_added() {
        let mut query = ListQuery::default();
        query.push("a", "1").unwrap();
        assert_eq!(
            query.push("b", &"x".repeat(LIST_QUERY_BYTES_MAX)),
            Err(QueryTooLong)
        );
        assert_eq!(query.as_str(), "a=1");
    }

    proptest! {
        #[test]
        fn query_pairs_are_escaped_for_any_text(key in ".{0,20}", value in ".{0,40}") {
            let mut query = ListQuery::default();
            query.push("n", "1").unwrap();
            query.push(&key, &value).unwrap();
            let leaves = |b: u8| !b.is_ascii_graphic() || b"<>\"#\\^`{}|".contains(&b);
            prop_assert!(!query.as_str().bytes().any(leaves));
        }
    }
}
