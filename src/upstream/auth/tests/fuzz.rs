//! Fuzz targets for challenges of registries and answers of token services.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};

use super::challenge::{bearer, parse_challenges};
use super::token_key::{Principal, Requester, TokenKey};
use super::token_request;

/// Parses `bytes` as the `WWW-Authenticate` lines of one response.
pub fn challenge(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let challenges = parse_challenges(&headers);
    assert!(challenges.len() <= 16);
    for challenge in &challenges {
        assert!(!challenge.scheme.is_empty() && challenge.scheme == challenge.scheme.to_ascii_lowercase());
    }
    let Some(challenge) = bearer(&challenges) else {
        return;
    };
    let requester = Requester {
        namespace: "registry.example".parse().expect("a name"),
        place: "https://registry.example".into(),
        principal: Principal::Anonymous,
    };
    let repository = "a/b".parse().expect("a repository");
    let origin = "https://registry.example".parse().expect("a URL");
    if let Ok(key) = TokenKey::new(&requester, &origin, &repository, challenge) {
        let url = key.url();
        assert!(url.fragment().is_none());
        // Other schemes are never contacted, and their URLs may contain any characters.
        let is_http = matches!(url.scheme(), "http" | "https");
        assert!(!is_http || url.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!key.scope().is_empty() && !key.scope().contains("  "));
        assert_eq!(url.host_str(), key.realm().host_str());
    }
}

/// Parses `bytes` as the body of a token service's answer.
pub fn token(bytes: &[u8]) {
    if let Ok(grant) = token_request::parse(bytes) {
        let seconds = grant.life.as_secs_f64();
        assert!((0.8..=2880.0).contains(&seconds), "{seconds}");
        let value = grant.secret.header_value();
        assert!(value.as_bytes().starts_with(b"Bearer ") && value.to_str().is_ok());
        assert_eq!(format!("{:?}", grant.secret), "***");
    }
}
