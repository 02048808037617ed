//! Parses `WWW-Authenticate` to challenges. Pure.
//!
//! Registries send several headers, several challenges in one header, commas inside quotes, and
//! sometimes unquoted values. The parser is lenient. An invalid part is skipped up to the next
//! comma, because a valid challenge may follow.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The maximum number of challenge bytes read from one response. Real challenges are below 1 KiB.
const CHALLENGE_BYTES_MAX: usize = 16 * 1024;

/// The maximum number of challenges kept from one response. Registries send one or two.
const CHALLENGES_MAX: usize = 16;

/// The maximum number of parameters kept per challenge. Four Bearer parameters are used.
const PARAMS_MAX: usize = 32;

/// A challenge: an authentication scheme that the registry accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::upstream) struct Challenge {
    /// The scheme, in lower case.
    pub scheme: String,
    /// Names in lower case, values with escapes removed. The first of several equal names counts.
    params: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the challenge without one of its parameters.
    pub fn without(mut self, name: &str) -> Self {
        self.params.retain(|(known, _)| known != name);
        self
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Returns all challenges of a response, in order.
pub(in crate::upstream) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut budget = CHALLENGE_BYTES_MAX;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        if value.len() > budget {
            break;
        }
        budget -= value.len();
        // Quoted strings may contain non-ASCII bytes, but none of the parameters in use does.
        parse_into(&String::from_utf8_lossy(value.as_bytes()), &mut challenges);
    }
    challenges
}

/// Returns the first Bearer challenge with a realm.
pub(in crate::upstream) fn bearer(challenges: &[Challenge]) -> Option<&Challenge> {
    challenges
        .iter()
        .find(|challenge| challenge.scheme == "bearer" && challenge.param("realm").is_some())
}

fn parse_into(text: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = Reader(text);
    loop {
        rest.skip_separators();
        if rest.is_empty() || challenges.len() == CHALLENGES_MAX {
            return;
        }
        let scheme = rest.token();
        if scheme.is_empty() || rest.after_space().starts_with('=') {
            // Not the start of a challenge.
            rest.skip_piece();
            continue;
        }
        rest.skip_space();
        let mut params = Vec::new();
        if !rest.take_token68() {
            while let Some((name, value)) = rest.param() {
                if let Some(value) = value
                    && params.len() < PARAMS_MAX
                    && !params.iter().any(|(known, _)| *known == name)
                {
                    params.push((name, value));
                }
            }
        }
        challenges.push(Challenge {
            scheme: scheme.to_ascii_lowercase(),
            params,
        });
    }
}

/// The unparsed rest of a header value.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn skip_separators(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }

    fn after_space(&self) -> &'a str {
        self.0.trim_start_matches([' ', '\t'])
    }

    /// Reads a `token` (RFC 9110). Returns an empty string if there is none.
    fn token(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !is_token_char(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    /// Skips to the next comma outside quotes. Always makes progress.
    fn skip_piece(&mut self) {
        let (mut quoted, mut escaped) = (false, false);
        for (at, c) in self.0.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => {
                    self.0 = &self.0[at..];
                    return;
                }
                _ => {}
            }
        }
        self.0 = "";
    }

    /// Skips a `token68`, the alternative to parameters, if it fills the text up to the next comma.
    /// Returns whether there was one.
    fn take_token68(&mut self) -> bool {
        let body = self
            .0
            .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        let after = body.trim_start_matches('=');
        let tail = after.trim_start_matches([' ', '\t']);
        let found = body.len() < self.0.len() && (tail.is_empty() || tail.starts_with(','));
        if found {
            self.0 = after;
        }
        found
    }

    /// Reads the next `name=value` of the current challenge. Returns `None` before another
    /// challenge and at the end. An unreadable value is skipped and returned as `None`.
    fn param(&mut self) -> Option<(String, Option<String>)> {
        let mut ahead = Reader(self.0);
        // The grammar requires commas between parameters, but some registries send spaces only.
        ahead.skip_separators();
        let name = ahead.token();
        ahead.skip_space();
        if name.is_empty() || !ahead.0.starts_with('=') {
            return None;
        }
        ahead.0 = &ahead.0[1..];
        ahead.skip_space();
        let value = if ahead.0.starts_with('"') {
            let value = ahead.quoted();
            if value.is_none() {
                ahead.0 = "";
            }
            value
        } else {
            // URLs are often sent unquoted, so more characters than those of a token are accepted.
            let end = ahead.0.find([' ', '\t', ',', '"']).unwrap_or(ahead.0.len());
            let (value, rest) = ahead.0.split_at(end);
            ahead.0 = rest;
            if rest.starts_with('"') {
                ahead.skip_piece();
                None
            } else {
                Some(value.to_owned())
            }
        };
        self.0 = ahead.0;
        Some((name.to_ascii_lowercase(), value))
    }

    /// Reads a quoted string and removes its escapes. Returns `None` if the closing quote is
    /// missing.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Returns the challenges of `values` (one per header), written as `scheme{name=value;…}`.
    fn parsed(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let written = parse_challenges(&headers).into_iter().map(|challenge| {
            let params: Vec<_> = challenge
                .params
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{}{{{}}}", challenge.scheme, params.join(";"))
        });
        written.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_are_read_the_way_registries_write_them() {
        let table: &[(&[&str], &str)] = &[
            // Challenges sent by real registries.
            (
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                ],
                "bearer{realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:library/nginx:pull}",
            ),
            (
                &[r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:a/b:pull""#],
                "bearer{realm=https://ghcr.io/token;service=ghcr.io;scope=repository:a/b:pull}",
            ),
            (
                &[r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#],
                "bearer{realm=https://public.ecr.aws/token/;service=public.ecr.aws;scope=aws}",
            ),
            (
                &[r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#],
                "bearer{realm=https://quay.io/v2/auth;service=quay.io}",
            ),
            (
                &[r#"Basic realm="Sonatype Nexus""#],
                "basic{realm=Sonatype Nexus}",
            ),
            (
                &[r#"BASIC realm="Amazon",service="ecr.amazonaws.com""#],
                "basic{realm=Amazon;service=ecr.amazonaws.com}",
            ),
            // Several challenges.
            (
                &[r#"Basic realm="a""#, r#"Bearer realm="b""#],
                "basic{realm=a} bearer{realm=b}",
            ),
            (
                &[r#"Basic realm="a", Bearer realm="b",service=c"#],
                "basic{realm=a} bearer{realm=b;service=c}",
            ),
            (
                &["Negotiate", r#"Bearer realm="b""#],
                "negotiate{} bearer{realm=b}",
            ),
            (
                &[r#"Negotiate, NTLM, Bearer realm="b""#],
                "negotiate{} ntlm{} bearer{realm=b}",
            ),
            (
                &[r#"Negotiate YIIa+/==, Bearer realm="b""#],
                "negotiate{} bearer{realm=b}",
            ),
            (&[r#"Negotiate abc"#], "negotiate{}"),
            (
                &[r#"Bearer realm="a", Bearer realm="b""#],
                "bearer{realm=a} bearer{realm=b}",
            ),
            (
                &[r#"Digest realm="a", qop="auth,auth-int", Basic realm="b""#],
                "digest{realm=a;qop=auth,auth-int} basic{realm=b}",
            ),
            // Quotes.
            (
                &[r#"Bearer realm="a",scope="repository:a/b:pull,push""#],
                "bearer{realm=a;scope=repository:a/b:pull,push}",
            ),
            (&[r#"Bearer realm="a\"b\\c\d""#], r#"bearer{realm=a"b\cd}"#),
            (
                &[r#"Bearer realm="x, Basic realm=y", service="s""#],
                "bearer{realm=x, Basic realm=y;service=s}",
            ),
            (&[r#"Bearer realm="", service="s""#], "bearer{realm=;service=s}"),
            (&[r#"Bearer realm="a=b&c=d""#], "bearer{realm=a=b&c=d}"),
            (&["Bearer realm=\"\u{e4}\""], "bearer{realm=\u{e4}}"),
            (&["Bearer realm=\"a\tb\""], "bearer{realm=a\tb}"),
            // Schemes and names are case-insensitive, values are not.
            (
                &[r#"BEARER REALM="Https://A/B",Scope="Repository:X:Pull""#],
                "bearer{realm=Https://A/B;scope=Repository:X:Pull}",
            ),
            (&[r#"bearer realm="a""#], "bearer{realm=a}"),
            // Unquoted values.
            (
                &["Bearer realm=https://a/token,service=s"],
                "bearer{realm=https://a/token;service=s}",
            ),
            (
                &["Bearer realm=https://a/token?x=y,service=s"],
                "bearer{realm=https://a/token?x=y;service=s}",
            ),
            (
                &["Bearer realm=a, service=b, scope=c"],
                "bearer{realm=a;service=b;scope=c}",
            ),
            // Space and commas.
            (
                &[r#"Bearer   realm = "a" ,  service="b""#],
                "bearer{realm=a;service=b}",
            ),
            (&[r#"Bearer realm="a" service="b""#], "bearer{realm=a;service=b}"),
            (
                &[r#",, Bearer realm="a",,service="b",,"#],
                "bearer{realm=a;service=b}",
            ),
            (&["Bearer\trealm=\"a\""], "bearer{realm=a}"),
            (&[r#"Bearer realm="a",Basic"#], "bearer{realm=a} basic{}"),
            (&[r#"Bearer"#], "bearer{}"),
            (&[r#"Bearer "#], "bearer{}"),
            // Parameters in any order; of equal names, the first counts.
            (
                &[r#"Bearer scope="c",service="b",realm="a""#],
                "bearer{scope=c;service=b;realm=a}",
            ),
            (&[r#"Bearer realm="a",realm="b""#], "bearer{realm=a}"),
            (
                &[r#"Bearer realm="a",error="invalid_token",error_description="x \"y\", z""#],
                r#"bearer{realm=a;error=invalid_token;error_description=x "y", z}"#,
            ),
            // Broken.
            (&[""], ""),
            (&[" , ,"], ""),
            (&["="], ""),
            (&["=x, Bearer realm=a"], "bearer{realm=a}"),
            (&["realm=a, Bearer realm=b"], "bearer{realm=b}"),
            (&[r#""Bearer realm=a", Basic realm=b"#], "basic{realm=b}"),
            (
                &[r#"Bearer realm="never ends, service="b""#],
                "bearer{realm=never ends, service=} b{}",
            ),
            (&[r#"Bearer realm="a\"#], "bearer{}"),
            (
                &[r#"Bearer realm="open"#, r#"Basic realm="b""#],
                "bearer{} basic{realm=b}",
            ),
            (&[r#"Bearer realm=a"b",service=c"#], "bearer{service=c}"),
            (&["Bearer realm=, service=c"], "bearer{}"),
            (&["Bearer @, Basic realm=b"], "bearer{} basic{realm=b}"),
        ];
        assert!(table.len() >= 40);
        for (values, expected) in table {
            assert_eq!(parsed(values), *expected, "{values:?}");
        }
    }

    #[test]
    fn the_first_bearer_challenge_with_a_realm_is_used() {
        let mut headers = HeaderMap::new();
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Negotiate, Bearer, bearer realm=one, Bearer realm=two"),
        );
        let challenges = parse_challenges(&headers);
        assert_eq!(
            bearer(&challenges).and_then(|challenge| challenge.param("realm")),
            Some("one")
        );
        assert_eq!(bearer(&challenges[..2]), None);
    }

    #[test]
    fn endless_challenges_are_bounded_and_quick() {
        let mut headers = HeaderMap::new();
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_str(&"a b=c,".repeat(2_000)).unwrap(),
        );
        assert_eq!(parse_challenges(&headers).len(), CHALLENGES_MAX);
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_str(&"x".repeat(CHALLENGE_BYTES_MAX)).unwrap(),
        );
        assert_eq!(
            parse_challenges(&headers).len(),
            CHALLENGES_MAX,
            "the number of challenges is bounded"
        );
        let params: String = (0..1_000).map(|n| format!("p{n}=v,")).collect();
        headers.clear();
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_str(&format!("Bearer {params}")).unwrap(),
        );
        assert_eq!(parse_challenges(&headers)[0].params.len(), PARAMS_MAX);
    }

    #[test]
    fn any_text_is_parsed_without_end_or_panic() {
        let seed = 0xc4a1_u64;
        println!("seed {seed:#x}");
        let mut state = seed;
        let alphabet: Vec<char> = "aB=\",\\ \t/:ä.realm".chars().collect();
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                text.push(alphabet[(state % alphabet.len() as u64) as usize]);
            }
            parse_into(&text, &mut Vec::new());
        }
    }
}
