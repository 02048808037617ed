//! A token request, in the protocol of the token service, and its answer.
//!
//! Most services answer `GET` with `Basic`. Some support only the OAuth2 `POST` of the distribution
//! specification, and some only `GET`. The cache sends an identity token by `POST` first, and a
//! password by `GET` first. If the refusal may be due to the method, the cache tries the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use reqwest::Url;
use serde::Deserialize;

use super::Secret;
use super::credential::{Credential, basic};
use super::token_key::TokenKey;
use crate::metrics::UpstreamKind;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::error::{Phase, UpstreamError, cause, host_of};
use crate::upstream::exchange::{self, OutgoingRequest, Redirects};
use crate::upstream::{Deadlines, headers, redirect};

/// The maximum size of a token service's answer. Tokens of registries with long access lists have
/// up to 10 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The maximum size of a token. Registries do not accept larger request heads.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The default lifetime of a token without a stated lifetime, as defined by `distribution`.
const LIFE_DEFAULT_SECONDS: f64 = 60.0;
const LIFE_MIN_SECONDS: f64 = 1.0;
const LIFE_MAX_SECONDS: f64 = 3600.0;

/// The used part of a token's lifetime. A request started with a token should also end before its
/// expiry.
const LIFE_USED: f64 = 0.8;

/// The client ID for OAuth2.
const CLIENT_ID: &str = "oci-pull-through";

/// The token of a token service.
#[derive(Debug)]
pub(super) struct TokenGrant {
    pub secret: Secret,
    /// How long the token is used.
    pub life: Duration,
}

/// The reason for a missing token.
struct TokenRefusal {
    /// The status of a refusal; `None` for other failures.
    status: Option<u16>,
    error: UpstreamError,
}

impl From<UpstreamError> for TokenRefusal {
    fn from(error: UpstreamError) -> Self {
        TokenRefusal { status: None, error }
    }
}

/// Fetches the token for `key` with the credential of `key`.
pub(super) async fn fetch(
    key: &TokenKey,
    endpoint: &Endpoint,
    credential: Option<&Credential>,
    deadlines: &Deadlines,
) -> Result<TokenGrant, UpstreamError> {
    let get =
        async |secret: Option<Secret>| send(key.url(), &get_request(key), secret, endpoint, deadlines).await;
    let post = async |form: &[(&str, &str)]| {
        send(
            key.realm().clone(),
            &post_request(key, form),
            None,
            endpoint,
            deadlines,
        )
        .await
    };
    // The first refusal is returned, because the second may be due to the method only.
    let outcome = match credential {
        None => get(None).await,
        Some(Credential::Password { username, password }) => match get(basic(username, password)).await {
            Err(TokenRefusal {
                status: Some(401 | 404 | 405),
                error,
            }) => {
                let form = [
                    ("grant_type", "password"),
                    ("username", username),
                    ("password", password.reveal()),
                ];
                post(&form).await.map_err(|_| error.into())
            }
            outcome => outcome,
        },
        Some(Credential::Identity(token)) => {
            let form = [("grant_type", "refresh_token"), ("refresh_token", token.reveal())];
            match post(&form).await {
                Err(TokenRefusal {
                    status: Some(400 | 401 | 404 | 405),
                    error,
                }) => get(basic("", token)).await.map_err(|_| error.into()),
                outcome => outcome,
            }
        }
        // The credential is the token.
        Some(Credential::Bearer(secret)) => Ok(TokenGrant {
            secret: secret.clone(),
            life: Duration::from_secs_f64(LIFE_MAX_SECONDS * LIFE_USED),
        }),
    };
    outcome.map_err(|refused: TokenRefusal| refused.error)
}

fn get_request(key: &TokenKey) -> OutgoingRequest {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    OutgoingRequest {
        method: http::Method::GET,
        headers,
        body: None,
        redirects: Redirects::Follow,
        registry: key.registry().clone(),
        kind: UpstreamKind::Token,
    }
}

/// Returns the OAuth2 request, with all parameters in the body.
fn post_request(key: &TokenKey, form: &[(&str, &str)]) -> OutgoingRequest {
    // A form body has the encoding of a URL query. This URL is never sent.
    let mut paper = Url::parse("form://body").expect("a constant that is a URL");
    let mut pairs = paper.query_pairs_mut();
    pairs
        .append_pair("client_id", CLIENT_ID)
        .append_pair("scope", key.scope());
    if let Some(service) = key.service() {
        pairs.append_pair("service", service);
    }
    pairs.extend_pairs(form);
    drop(pairs);
    let mut outgoing = get_request(key);
    outgoing.method = http::Method::POST;
    outgoing.headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    outgoing.body = Some(Bytes::from(paper.query().unwrap_or_default().to_owned()));
    outgoing
}

async fn send(
    mut url: Url,
    outgoing: &OutgoingRequest,
    secret: Option<Secret>,
    endpoint: &Endpoint,
    deadlines: &Deadlines,
) -> Result<TokenGrant, TokenRefusal> {
    for _ in 0..=redirect::REDIRECTS_MAX {
        let host = host_of(&url);
        let wrong = |what: String| UpstreamError::protocol(&host, what);
        let response = exchange::send(endpoint, &url, outgoing, secret.as_ref(), deadlines).await?;
        match response.status().as_u16() {
            200 => {
                if !headers::is_identity(response.headers()) {
                    return Err(wrong(
                        "the token response is compressed, although the request accepts only `identity`"
                            .into(),
                    )
                    .into());
                }
                let is_page = response
                    .headers()
                    .get(CONTENT_TYPE)
                    .is_some_and(|named| named.as_bytes().to_ascii_lowercase().starts_with(b"text/html"));
                let answer = read_all(response, &host).await?;
                return parse(&answer).map_err(|what| {
                    wrong(if is_page {
                        "the token service answered 200 with a web page (text/html) instead of a token; a login page may answer at the address".into()
                    } else {
                        what.into()
                    })
                    .into()
                });
            }
            // Other redirects turn a POST into a GET, without the secret in the body.
            status
                if redirect::is_redirect(status)
                    && (outgoing.body.is_none() || matches!(status, 307 | 308)) =>
            {
                let next = redirect::target(&url, response.headers()).map_err(|what| wrong(what.into()))?;
                let next = redirect::upgraded(next, &url);
                // Only the realm of the challenge may issue the token.
                if !redirect::same_origin(&next, &url) {
                    return Err(wrong("the token service redirected to another origin".into()).into());
                }
                exchange::read_error_body(response).await;
                url = next;
            }
            // Statuses about the client's request. GHCR answers 403 here for missing content.
            status @ (401 | 403 | 408 | 429 | 500..=599) => {
                let mut error = exchange::refusal(response, host, Phase::Token).await;
                if let UpstreamError::Status { headers, .. } = &mut error {
                    // The challenge of the token service is not for our clients.
                    headers.remove(WWW_AUTHENTICATE);
                }
                return Err(TokenRefusal {
                    status: Some(status),
                    error,
                });
            }
            // A 404 of the token service must not look like a missing manifest.
            status => {
                return Err(TokenRefusal {
                    status: Some(status),
                    error: wrong(format!("the token service answered {status}")),
                });
            }
        }
    }
    Err(UpstreamError::protocol(&host_of(&url), "too many redirects by the token service").into())
}

async fn read_all(mut response: reqwest::Response, host: &Arc<str>) -> Result<Bytes, UpstreamError> {
    let mut answer = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) if answer.len() + bytes.len() > ANSWER_BYTES_MAX => {
                return Err(UpstreamError::protocol(
                    host,
                    "the token response is larger than 64 KiB",
                ));
            }
            Ok(Some(bytes)) => answer.extend_from_slice(&bytes),
            Ok(None) => return Ok(answer.freeze()),
            Err(error) => {
                return Err(UpstreamError::Body {
                    host: host.clone(),
                    cause: cause(error).into(),
                });
            }
        }
    }
}

/// The parsed fields of a token service's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds, usually as a number, sometimes as a string.
    expires_in: Option<serde_json::Value>,
}

pub(super) fn parse(answer: &[u8]) -> Result<TokenGrant, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|_| "the token response is not the expected JSON")?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty());
    let token = token.ok_or("the token response has no token")?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err("the token is longer than 16 KiB");
    }
    let secret =
        Secret::bearer(&token).ok_or("the token contains characters that are not valid in a header")?;
    let seconds_stated = match &answer.expires_in {
        Some(serde_json::Value::Number(seconds)) => seconds.as_f64(),
        Some(serde_json::Value::String(seconds)) => seconds.parse().ok(),
        _ => None,
    };
    let seconds_stated = seconds_stated
        .filter(|seconds: &f64| seconds.is_finite())
        .unwrap_or(LIFE_DEFAULT_SECONDS);
    // The value is finite, positive and at most an hour, so the conversion cannot panic.
    let life = Duration::from_secs_f64(seconds_stated.clamp(LIFE_MIN_SECONDS, LIFE_MAX_SECONDS) * LIFE_USED);
    Ok(TokenGrant { secret, life })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_has_a_token_and_a_bounded_life() {
        let life = |answer: &str| parse(answer.as_bytes()).map(|grant| grant.life.as_millis()).ok();
        assert_eq!(life(r#"{"token":"a"}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":300}"#), Some(240_000));
        assert_eq!(life(r#"{"token":"a","expires_in":"300"}"#), Some(240_000));
        assert_eq!(life(r#"{"token":"a","expires_in":0}"#), Some(800));
        assert_eq!(life(r#"{"token":"a","expires_in":-5}"#), Some(800));
        assert_eq!(life(r#"{"token":"a","expires_in":1e300}"#), Some(2_880_000));
        assert_eq!(life(r#"{"token":"a","expires_in":"inf"}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":null}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":{}}"#), Some(48_000));

        let value = |answer: &str| {
            let grant = parse(answer.as_bytes()).ok()?;
            Some(grant.secret.header_value().to_str().unwrap().to_owned())
        };
        assert_eq!(
            value(r#"{"token":"a","access_token":"b"}"#).as_deref(),
            Some("Bearer a")
        );
        assert_eq!(
            value(r#"{"token":"","access_token":"b"}"#).as_deref(),
            Some("Bearer b")
        );
        assert_eq!(
            value(r#"{"access_token":"b","issued_at":"x","other":[1]}"#).as_deref(),
            Some("Bearer b")
        );
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"token":5}"#,
            r#"{"token":"a\r\nb"}"#,
            r#"{"token":""}"#,
            r#"{"token":"a"} x"#,
            "<html>",
        ] {
            assert_eq!(value(bad), None, "{bad}");
        }
        assert_eq!(
            value(&format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX + 1))),
            None
        );
    }
}
