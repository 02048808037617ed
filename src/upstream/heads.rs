//! The fallback from HEAD to GET for manifests.
//!
//! Some registries answer HEAD with 404 or 405 although GET returns the manifest. If HEAD is
//! refused, the request is repeated as GET, and the GET response decides. The result is recorded,
//! because registries with a pull limit count a GET as a pull.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authenticate::AuthenticatedRequest;
use super::error::{UpstreamError, host_of};
use super::exchange::OutgoingRequest;
use super::response::{UpstreamBody, UpstreamResponse};
use super::verdict::{ResponseVerdict, is_page};
use super::{Shared, UpstreamMethod};
use crate::oci::Repository;
use crate::sync::Mutex;

/// How long a result is recorded. Registries seldom change their software, and one GET per hour and
/// repository is negligible for any budget.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// The maximum number of records, at 200 bytes each: 0.8 MiB. A dropped record costs one GET.
const REMEMBERED_MAX: usize = 4_096;

/// The recorded results of HEAD requests.
#[derive(Default)]
pub(super) struct Heads(Mutex<HashMap<Of, Instant>>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Of {
    /// An endpoint, by its base URL. HEAD was refused, but GET was answered.
    Wrong(Arc<str>),
    /// A repository at an endpoint. GET confirmed the refusal of HEAD. The repositories of one
    /// endpoint may behave differently.
    Right(Arc<str>, Repository),
}

impl Heads {
    fn is_recorded(&self, what: &Of, now: Instant) -> bool {
        self.0.lock().get(what).is_some_and(|until| now < *until)
    }

    fn record(&self, what: Of, now: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= REMEMBERED_MAX && !entries.contains_key(&what) {
            entries.retain(|_, until| now < *until);
            if entries.len() >= REMEMBERED_MAX {
                entries.clear();
            }
        }
        entries.insert(what, now + REMEMBERED);
    }

    /// Returns whether HEAD is refused at `place` although GET is answered.
    pub fn is_wrong(&self, place: &str, now: Instant) -> bool {
        self.is_recorded(&Of::Wrong(place.into()), now)
    }
}

impl Shared {
    /// Sends the request to one endpoint. A refused HEAD request is repeated as GET.
    pub(super) async fn fetch_from_endpoint(
        &self,
        authenticated: &AuthenticatedRequest<'_>,
        outgoing: &OutgoingRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let outcome = if outgoing.method == http::Method::HEAD {
            self.fetch_by_head(authenticated, outgoing).await
        } else {
            authenticated.fetch(outgoing).await
        };
        match outcome {
            // A login page or default site answers every request with 200. Such an answer does not
            // prove read access.
            Ok(response)
                if authenticated.request.method == UpstreamMethod::Probe && is_another_s(&response) =>
            {
                let host = host_of(authenticated.endpoint.origin());
                Err(UpstreamError::protocol(&host, "the response is an HTML page"))
            }
            outcome => outcome,
        }
    }

    async fn fetch_by_head(
        &self,
        authenticated: &AuthenticatedRequest<'_>,
        outgoing: &OutgoingRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let place: Arc<str> = authenticated.endpoint.base.as_str().into();
        let right = Of::Right(place.clone(), authenticated.request.repository.clone());
        if self.heads.is_wrong(&place, Instant::now()) {
            return authenticated.fetch(&outgoing.by_get()).await.map(without_body);
        }
        let outcome = authenticated.fetch(outgoing).await;
        match &outcome {
            Ok(response) if !is_another_s(response) => return outcome,
            Err(error) if !is_in_doubt(error) => return outcome,
            Err(error)
                // A refused probe is always repeated as GET, for the registry's own error text with
                // or without a held copy. HEAD has no error text.
                if authenticated.request.method != UpstreamMethod::Probe
                    && error.verdict().is_some_and(ResponseVerdict::is_refusal)
                    && self.heads.is_recorded(&right, Instant::now()) =>
            {
                return outcome;
            }
            _ => {}
        }
        let decided = authenticated.fetch(&outgoing.by_get()).await;
        match (&outcome, &decided) {
            (Err(head), Ok(response)) if !is_another_s(response) => {
                tracing::info!(
                    registry = %authenticated.request.namespace, error = %head,
                    "HEAD rejected; GET used instead"
                );
                self.heads.record(Of::Wrong(place), Instant::now());
            }
            (Err(head), Err(get))
                if head.verdict().is_some_and(ResponseVerdict::is_refusal)
                    && head.verdict() == get.verdict() =>
            {
                self.heads.record(right, Instant::now());
            }
            _ => {}
        }
        decided.map(without_body)
    }
}

/// Returns whether GET might get another answer. Other failures would occur with GET too.
fn is_in_doubt(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status { status, verdict, .. } => match verdict {
            ResponseVerdict::Challenge
            | ResponseVerdict::Forbidden
            | ResponseVerdict::Gone
            | ResponseVerdict::Unfit => true,
            // A page instead of a refusal. A HEAD response has no body to identify a registry.
            ResponseVerdict::Trouble => ResponseVerdict::of_status(*status).is_refusal(),
            ResponseVerdict::NotFinal
            | ResponseVerdict::Content
            | ResponseVerdict::Redirect
            | ResponseVerdict::Limited => false,
        },
        // URLs signed for GET only, and invalid statuses.
        UpstreamError::RedirectTarget { .. } | UpstreamError::Protocol { .. } => true,
        _ => false,
    }
}

/// Returns whether the answer is a web page rather than a registry's answer.
fn is_another_s(response: &UpstreamResponse) -> bool {
    is_page(&response.headers, b"") && !response.headers.contains_key("docker-content-digest")
}

/// Returns the response to GET as a response to HEAD.
fn without_body(response: UpstreamResponse) -> UpstreamResponse {
    let body = UpstreamBody::empty(response.body.host().clone());
    UpstreamResponse { body, ..response }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_results_are_bounded_and_expire() {
        let (heads, now) = (Heads::default(), Instant::now());
        let right = |n: usize| Of::Right("https://r.example/".into(), format!("a/{n}").parse().unwrap());
        for n in 0..2 * REMEMBERED_MAX {
            heads.record(right(n), now);
        }
        assert!(heads.0.lock().len() <= REMEMBERED_MAX);
        assert!(heads.is_recorded(&right(2 * REMEMBERED_MAX - 1), now));
        assert!(!heads.is_recorded(&right(2 * REMEMBERED_MAX - 1), now + REMEMBERED));
        heads.record(Of::Wrong("https://r.example/".into()), now);
        assert!(heads.is_wrong("https://r.example/", now));
        assert!(!heads.is_wrong("https://r.example/prefix", now));
    }
}
