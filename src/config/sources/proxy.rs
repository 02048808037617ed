//! Proxies of the file and of the environment.

use reqwest::Url;

use super::super::model::{Proxy, ProxyEnvironment, ProxyUrl, SecretText};
use super::super::value::{Kind, PROXY_URL_EXPECTED};
use super::diagnostics::{Diagnostic, Place};
use super::environment::Environment;
use super::keys::PROXY_WORDS;
use super::reader::masked;

const SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];

/// Parses `upstream_proxy`.
pub(super) fn parse_choice(text: &str) -> Result<Proxy, String> {
    match text {
        "none" | "direct" => Ok(Proxy::Direct),
        "environment" => Ok(Proxy::Environment),
        _ => parse_url(text)
            .map(Proxy::Url)
            .ok_or_else(|| format!("expected {}", Kind::ProxyUrl(PROXY_WORDS).expected())),
    }
}

/// Parses the URL of a proxy. `host:port` without a scheme is an http proxy, by the convention of `HTTP_PROXY`.
fn parse_url(text: &str) -> Option<ProxyUrl> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&whole).ok()?;
    let has_path = !matches!(url.path(), "" | "/");
    if !SCHEMES.contains(&url.scheme())
        || url.host_str().is_none_or(str::is_empty)
        || has_path
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return None;
    }
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => Some((
            decoded(user)?,
            SecretText::new(decoded(password.unwrap_or_default())?),
        )),
    };
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(ProxyUrl { url, credentials })
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |b: &u8| char::from(*b).to_digit(16);
                let value = digit(high)? * 16 + digit(low)?;
                bytes.push(u8::try_from(value).ok()?);
                tail
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper case or else in lower case.
///
/// Under CGI, the field `Proxy:` of a client arrives as `HTTP_PROXY`. If `REQUEST_METHOD` is set, `HTTP_PROXY` is
/// therefore ignored.
pub(in crate::config) fn proxies_of_environment(
    environment: Environment<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> ProxyEnvironment {
    let variable = |name: &'static str| {
        let value = (environment.env)(name)?.trim().to_owned();
        (!value.is_empty()).then_some((name, value))
    };
    let in_cgi = variable("REQUEST_METHOD").is_some();
    let mut proxy = |names: &[&'static str]| {
        let (name, value) = names.iter().find_map(|name| variable(name))?;
        let url = parse_url(&value);
        let what = Place::Environment(name).with_value(&masked(&value));
        // `ALL_PROXY` is read twice.
        if url.is_none() && !diagnostics.iter().any(|diagnostic| diagnostic.what == what) {
            diagnostics.push(Diagnostic {
                what,
                why: format!("expected {PROXY_URL_EXPECTED}"),
            });
        }
        url
    };
    let http: &[&str] = match in_cgi {
        false => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
        true => &["http_proxy", "ALL_PROXY", "all_proxy"],
    };
    ProxyEnvironment {
        https: proxy(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
        http: proxy(http),
        no_proxy: variable("NO_PROXY")
            .or_else(|| variable("no_proxy"))
            .map(|(_, value)| value)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> (ProxyEnvironment, Vec<String>) {
        let mut diagnostics = Vec::new();
        let environment = Environment {
            env: &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
            ..Environment::of_process()
        };
        let proxies = proxies_of_environment(environment, &mut diagnostics);
        (proxies, diagnostics.into_iter().map(|m| m.what).collect())
    }

    fn shown(url: &Option<ProxyUrl>) -> Option<String> {
        let url = url.as_ref()?;
        let user = url
            .credentials
            .as_ref()
            .map(|(user, password)| format!("{user}:{}@", password.reveal()));
        Some(format!("{}{}", user.unwrap_or_default(), url.url))
    }

    #[test]
    fn a_proxy_has_a_scheme_a_host_and_perhaps_a_user() {
        for (text, expected) in [
            ("http://p:3128", Some("http://p:3128/")),
            ("p:3128", Some("http://p:3128/")),
            ("https://p", Some("https://p/")),
            (
                "socks5://u:p%40w@10.0.0.1:1080",
                Some("u:p@w@socks5://10.0.0.1:1080"),
            ),
            ("socks5h://[::1]:1080", Some("socks5h://[::1]:1080")),
            ("ftp://p", None),
            ("http://", None),
            ("http://p/path", None),
            ("http://p?x", None),
            ("socks5://user:pass@host:port", None),
            ("http://u:%zz@p", None),
        ] {
            assert_eq!(shown(&parse_url(text)).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_environment_is_read_as_other_programs_read_it() {
        let (proxies, diagnostics) = read(&[
            ("https_proxy", "http://s:1"),
            ("HTTP_PROXY", "http://h:1"),
            ("http_proxy", "http://l:1"),
            ("no_proxy", "a,.b"),
        ]);
        assert_eq!(shown(&proxies.https).as_deref(), Some("http://s:1/"));
        assert_eq!(shown(&proxies.http).as_deref(), Some("http://h:1/"));
        assert_eq!((proxies.no_proxy.as_str(), diagnostics.len()), ("a,.b", 0));

        let (proxies, _) = read(&[("ALL_PROXY", "socks5://a:1"), ("HTTPS_PROXY", "")]);
        assert_eq!(shown(&proxies.https).as_deref(), Some("socks5://a:1"));
        assert_eq!(proxies.https, proxies.http);

        let (proxies, _) = read(&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(proxies.http, None);

        let (_, diagnostics) = read(&[("ALL_PROXY", "gopher://u:canary@h")]);
        assert_eq!(diagnostics, ["ALL_PROXY=\"gopher://***@h\""]);
        assert_eq!(read(&[]).0, ProxyEnvironment::default());
    }
}
