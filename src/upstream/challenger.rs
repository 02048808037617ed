//! Redirects to another registry with its own token service.
//!
//! Fronts such as `cr.l5d.io` redirect the whole API to the registry with the content. The request
//! to the second registry is anonymous. Neither the front's credentials nor a client's credentials
//! leave the front, and the token is an anonymous token of the challenged realm. The address policy
//! of the front applies, like for every other redirect.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use reqwest::Url;
use tokio::time::Instant;

use super::auth::challenge::{self, Challenge};
use super::auth::token_key::{Principal, Requester, TokenKey};
use super::authenticate::AuthenticatedRequest;
use super::endpoint::{Endpoint, EndpointClients};
use super::error::{Phase, Refusal, UpstreamError, host_of};
use super::exchange::{self, Answer, OutgoingRequest};
use super::redirect::repository_of;
use super::verdict::has_registry_sign;
use crate::oci::Repository;

/// The maximum number of challenging registries in one chain. Real fronts redirect to one registry.
/// Each registry may add five redirects.
const CHALLENGERS_MAX: usize = 3;

impl AuthenticatedRequest<'_> {
    /// Returns `answer`, or the answer of the target registries to a request with an anonymous
    /// token of each.
    pub(super) async fn through_challengers(
        &self,
        mut answer: Answer,
        outgoing: &OutgoingRequest,
    ) -> Result<Answer, UpstreamError> {
        for _ in 0..CHALLENGERS_MAX {
            let Some(challenged) = Challenged::of(&answer) else {
                return verdict_of_registry(answer).await;
            };
            answer = self.with_anonymous_token(answer, challenged, outgoing).await?;
        }
        if Challenged::of(&answer).is_some() {
            let what = "the redirects led through more than 3 registries that each require a token";
            return Err(UpstreamError::protocol(&answer.host, what));
        }
        verdict_of_registry(answer).await
    }

    async fn with_anonymous_token(
        &self,
        challenge: Answer,
        challenged: Challenged,
        outgoing: &OutgoingRequest,
    ) -> Result<Answer, UpstreamError> {
        let deadlines = &self.shared.options.deadlines;
        let Challenged {
            url,
            repository,
            bearer,
        } = challenged;
        let place = self.elsewhere(&url);
        let requester = Requester {
            namespace: self.request.namespace.clone(),
            place: place.base.as_str().into(),
            principal: Principal::Anonymous,
        };
        let key = TokenKey::new(&requester, &place.base, &repository, &bearer)
            .map_err(|what| UpstreamError::protocol(&challenge.host, what))?;
        if place.base.scheme() == "https" && key.realm().scheme() != "https" {
            return Err(UpstreamError::Refused {
                host: host_of(key.realm()),
                reason: Refusal::Scheme,
            });
        }
        exchange::read_error_body(challenge.response).await;
        let slot = self.tokens().slot(key);
        let started = Instant::now();
        loop {
            let token = slot.token(&place, None, deadlines).await;
            let token = token.map_err(|error| unchallenged(for_challenger(error, &host_of(&url))))?;
            let secret = Some(&token.secret);
            let answer = exchange::follow(&place, url.clone(), outgoing, secret, deadlines).await?;
            match answer.response.status().as_u16() {
                _ if answer.foreign => return Ok(answer),
                // A cached token may have expired. A token fetched for this request is refused
                // permanently.
                401 | 403 if token.fetched < started => {
                    exchange::read_error_body(answer.response).await;
                    slot.discard(&token).await;
                }
                // A verdict about the content. Unlike the refusal of an expired signed URL, the
                // refusal is permanent.
                401 | 403 => {
                    let refusal = exchange::refusal(answer.response, answer.host, Phase::Head).await;
                    return Err(unchallenged(refusal));
                }
                _ => {
                    let foreign = true;
                    return Ok(Answer { foreign, ..answer });
                }
            }
        }
    }

    /// Returns the endpoint at the origin of `url`, without the registry's own credentials and
    /// certificates.
    fn elsewhere(&self, url: &Url) -> Endpoint {
        let mut base = url.clone();
        base.set_path("/");
        base.set_query(None);
        let client = &self.endpoint.clients.elsewhere;
        Endpoint {
            base,
            clients: EndpointClients {
                own: client.clone(),
                elsewhere: client.clone(),
            },
            certified: false,
            ns: None,
            joins_traces: false,
            ..self.endpoint.clone()
        }
    }
}

/// A challenge at the target of a redirect.
struct Challenged {
    /// The challenged URL.
    url: Url,
    /// The name of the repository at this registry.
    repository: Repository,
    bearer: Challenge,
}

impl Challenged {
    /// Returns `None` if the answer is not the challenge of another registry. Storage services also
    /// refuse signed URLs with 401.
    fn of(answer: &Answer) -> Option<Self> {
        if !answer.foreign || answer.response.status() != http::StatusCode::UNAUTHORIZED {
            return None;
        }
        let challenges = challenge::parse_challenges(answer.response.headers());
        Some(Challenged {
            repository: repository_of(answer.response.url().path())?,
            bearer: challenge::bearer(&challenges)?.clone(),
            url: answer.response.url().clone(),
        })
    }
}

/// Returns `answer`, or an error if another registry refuses the content permanently. Storage
/// services refuse an expired signed URL with the same statuses, but without any sign of a
/// registry.
async fn verdict_of_registry(answer: Answer) -> Result<Answer, UpstreamError> {
    let status = answer.response.status().as_u16();
    if !answer.foreign
        || !matches!(status, 401 | 403)
        || repository_of(answer.response.url().path()).is_none()
    {
        return Ok(answer);
    }
    let Answer { response, host, .. } = answer;
    let fields = response.headers().clone();
    let refusal = exchange::refusal(response, host.clone(), Phase::Head).await;
    Err(match &refusal {
        UpstreamError::Status { body, .. } if has_registry_sign(&fields, body) => unchallenged(refusal),
        _ => UpstreamError::RedirectTarget { host, status },
    })
}

/// Adds the name of the challenging registry to the error of a token service on another host.
fn for_challenger(mut error: UpstreamError, challenger: &Arc<str>) -> UpstreamError {
    if let UpstreamError::Status { host, .. } = &mut error
        && host != challenger
    {
        *host = format!("{host}, the token service of {challenger},").into();
    }
    error
}

/// Removes the challenge of another registry, because clients have no credentials for it here.
fn unchallenged(mut error: UpstreamError) -> UpstreamError {
    if let UpstreamError::Status { headers, .. } = &mut error {
        headers.remove(WWW_AUTHENTICATE);
    }
    error
}
