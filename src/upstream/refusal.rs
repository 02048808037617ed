//! The parts of a refusal for clients. Parsed within limits and written anew, never copied.

use std::time::Duration;

use http::header::WARNING;
use reqwest::Url;

use super::auth::challenge::{Challenge, parse_challenges};
use super::availability::retry_after;
use super::error::UpstreamError;

/// The maximum length of one text, in characters. Docker Hub's longest, about its limits, has 180.
const WORDS_CHARS_MAX: usize = 300;

/// The maximum number of errors of one body, and of `Warning` fields.
const TEXTS_MAX: usize = 4;

impl UpstreamError {
    /// Returns the wait in `Retry-After`, at most a day.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            UpstreamError::Status { headers, .. } => retry_after(headers),
            _ => None,
        }
    }

    /// Returns the texts of the `Warning` fields (RFC 7234, 5.5; distribution-spec, "Warnings").
    pub fn warnings(&self) -> Vec<String> {
        let UpstreamError::Status { headers, .. } = self else {
            return Vec::new();
        };
        let values = headers.get_all(WARNING).iter();
        let texts = values.filter_map(|value| warning(value.to_str().ok()?));
        texts.take(TEXTS_MAX).collect()
    }

    /// Returns the challenges, written anew. Includes Bearer challenges, and Basic challenges if
    /// `basic` is set.
    pub fn challenges(&self, basic: bool) -> Vec<String> {
        let UpstreamError::Status { headers, .. } = self else {
            return Vec::new();
        };
        let challenges = parse_challenges(headers);
        let written = challenges
            .iter()
            .filter_map(|challenge| match &*challenge.scheme {
                "bearer" => {
                    let realm = Url::parse(challenge.param("realm")?).ok()?;
                    matches!(realm.scheme(), "http" | "https")
                        .then(|| written("Bearer", challenge, &["realm", "service", "scope", "error"]))?
                }
                "basic" if basic => written("Basic", challenge, &["realm", "charset"]),
                _ => None,
            });
        written.collect()
    }

    /// Returns the error text in the body. For an error of the distribution specification, the text
    /// consists of the codes and messages. For a token service, it is the message. `None` for all
    /// other bodies.
    pub fn words(&self) -> Option<String> {
        match self {
            UpstreamError::Status { body, .. } => words(body),
            _ => None,
        }
    }
}

/// Returns the text of `299 - "text"`.
fn warning(value: &str) -> Option<String> {
    let mut parts = value.trim().splitn(3, ' ');
    let (code, _agent, text) = (parts.next()?, parts.next()?, parts.next()?);
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.trim_start().strip_prefix('"')?;
    let text = text
        .split('"')
        .next()
        .map(plain)
        .filter(|text| !text.is_empty())?;
    is_code.then_some(text)
}

/// Writes one challenge with its parameters out of `names`. Returns `None` if a value cannot be
/// quoted.
fn written(scheme: &str, challenge: &Challenge, names: &[&str]) -> Option<String> {
    let mut text = scheme.to_owned();
    let mut separator = ' ';
    for name in names {
        let Some(value) = challenge.param(name) else {
            continue;
        };
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return None;
        }
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        text += &format!("{separator}{name}=\"{value}\"");
        separator = ',';
    }
    (separator == ',').then_some(text)
}

fn words(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text_of = |value: &serde_json::Value, name: &str| {
        let text = value.get(name)?.as_str().map(plain)?;
        Some(text).filter(|text| !text.is_empty())
    };
    let said: Vec<String> = match json.get("errors").and_then(|errors| errors.as_array()) {
        Some(errors) => errors
            .iter()
            .filter_map(
                |error| match (text_of(error, "code"), text_of(error, "message")) {
                    (Some(code), Some(message)) => Some(format!("{code}: {message}")),
                    (code, message) => code.or(message),
                },
            )
            .take(TEXTS_MAX)
            .collect(),
        None => ["message", "details", "error_description", "error"]
            .iter()
            .find_map(|name| text_of(&json, name))
            .into_iter()
            .collect(),
    };
    let said = said.join("; ");
    (!said.is_empty()).then(|| said.chars().take(WORDS_CHARS_MAX).collect())
}

/// Returns the text reduced to letters, digits, ASCII punctuation and single spaces, so neither a
/// terminal nor a header field can misinterpret it.
fn plain(text: &str) -> String {
    let visible = text.chars().take(4 * WORDS_CHARS_MAX).map(|c| {
        let harmless = c.is_alphanumeric() || (c.is_ascii_graphic() && !matches!(c, '"' | '\\'));
        if harmless { c } else { ' ' }
    });
    let visible: String = visible.collect();
    let words: Vec<&str> = visible.split_ascii_whitespace().collect();
    words.join(" ").chars().take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::super::error::Phase;
    use super::super::verdict::ResponseVerdict;
    use super::*;

    fn refusal(fields: &[(&str, &str)], body: &str) -> UpstreamError {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        UpstreamError::Status {
            host: "r.example".into(),
            phase: Phase::Head,
            status: 401,
            verdict: ResponseVerdict::Challenge,
            headers: Box::new(headers),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn retry_after_is_bounded_and_must_be_a_number() {
        let wait = |value: &str| refusal(&[("Retry-After", value)], "").retry_after();
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999999999999"), Some(Duration::from_secs(86_400)));
        for nothing in ["-5", "5\t6", "soon", "1e3", ""] {
            assert_eq!(wait(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn warning_texts_are_extracted_within_bounds() {
        let texts = |values: &[&str]| {
            let fields: Vec<_> = values.iter().map(|value| ("Warning", *value)).collect();
            refusal(&fields, "").warnings()
        };
        assert_eq!(
            texts(&["299 - \"mind the\tgap\"", "299 proxy \"b\""]),
            ["mind the gap", "b"]
        );
        assert_eq!(texts(&["299 - \"\u{e4}\""]), [""; 0]);
        assert_eq!(texts(&["x - \"a\"", "299 -", "299 - a", "2999 - \"a\""]), [""; 0]);
        assert_eq!(texts(&["299 - \"a\""; 9]).len(), TEXTS_MAX);
        let long = format!("299 - \"{}\"", "x".repeat(9_000));
        assert_eq!(texts(&[&long])[0].len(), WORDS_CHARS_MAX);
    }

    #[test]
    fn challenges_are_rebuilt_from_known_parameters() {
        let both = |value: &str| refusal(&[("WWW-Authenticate", value)], "").challenges(true);
        let token = r#"Bearer realm="https://a.example/t",service="s",scope="repository:a:pull""#;
        assert_eq!(both(token), [token]);
        assert_eq!(
            both("bearer realm=https://a.example/t, x=y"),
            [r#"Bearer realm="https://a.example/t""#]
        );
        assert_eq!(
            both(r#"Basic realm="a \"b\"", other="c""#),
            [r#"Basic realm="a \"b\"""#]
        );
        for nothing in [
            "Bearer service=s",
            "Bearer realm=\"/relative\"",
            "Bearer realm=\"javascript:x\"",
            "Negotiate",
            "Basic realm=\"a\tb\"",
            "Digest realm=a",
        ] {
            assert_eq!(both(nothing), [""; 0], "{nothing}");
        }
        let tokens = refusal(
            &[("WWW-Authenticate", "Basic realm=r"), ("WWW-Authenticate", token)],
            "",
        );
        assert_eq!(tokens.challenges(false), [token]);
    }

    #[test]
    fn error_text_of_a_registry_is_kept_without_control_characters() {
        let said = |body: &str| refusal(&[], body).words();
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m \"way\"\r\n"}]}"#,
                Some("DENIED: no [31m way"),
            ),
            (r#"{"errors":[{"code":"A"},{"message":"b"},{},5]}"#, Some("A; b")),
            (
                r#"{"details":"incorrect username or password"}"#,
                Some("incorrect username or password"),
            ),
            (r#"{"errors":[]}"#, None),
            (r#"{"message":5}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(said(body).as_deref(), expected, "{body}");
        }
        let long = format!(r#"{{"message":"{}"}}"#, "a ".repeat(9_000));
        assert!(said(&long).unwrap().chars().count() <= WORDS_CHARS_MAX);
    }
}
