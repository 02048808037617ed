//! Whether a place's HEAD of a manifest says what its GET would.
//!
//! Some registries answer HEAD with 404 or 405 to what they give by GET. So no refusal of HEAD is believed by itself: GET
//! decides. What that has shown is remembered, because a GET counts as a pull where pulls are counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ask::Asked;
use super::error::UpstreamError;
use super::exchange::{Question, host_of};
use super::response::{Body, Response};
use super::verdict::{Verdict, is_page};
use super::{Method, Shared};
use crate::oci::Repository;

/// How long it is remembered that a place's HEAD is right, or wrong: a registry is seldom replaced by another kind, and one
/// GET an hour for each repository costs no noticeable part of any registry's budget.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Places and repositories remembered, at 200 bytes each: 0.8 MiB. Forgetting costs a GET each.
const REMEMBERED_MAX: usize = 4_096;

/// What is known of places' HEAD.
#[derive(Default)]
pub(super) struct Heads(Mutex<HashMap<Of, Instant>>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Of {
    /// Of a place, by its base URL: GET gave what HEAD had refused.
    Wrong(Arc<str>),
    /// Of a repository at a place: GET confirmed what HEAD had said. Repositories of one place may be of different kinds.
    Right(Arc<str>, Repository),
}

impl Heads {
    fn entries(&self) -> MutexGuard<'_, HashMap<Of, Instant>> {
        // The table is whole between any two statements, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, what: &Of, now: Instant) -> bool {
        self.entries().get(what).is_some_and(|until| now < *until)
    }

    fn note(&self, what: Of, now: Instant) {
        let mut entries = self.entries();
        if entries.len() >= REMEMBERED_MAX && !entries.contains_key(&what) {
            entries.retain(|_, until| now < *until);
            if entries.len() >= REMEMBERED_MAX {
                entries.clear();
            }
        }
        entries.insert(what, now + REMEMBERED);
    }

    /// Whether HEAD is known to be wrong at `place`.
    pub fn is_wrong(&self, place: &str, now: Instant) -> bool {
        self.knows(&Of::Wrong(place.into()), now)
    }
}

impl Shared {
    /// Asks one place; where that is by HEAD, no refusal is believed that GET would not confirm.
    pub(super) async fn ask_place(
        &self,
        asked: &Asked<'_>,
        question: &Question,
    ) -> Result<Response, UpstreamError> {
        let outcome = if question.method == http::Method::HEAD {
            self.ask_by_head(asked, question).await
        } else {
            asked.fetch(question).await
        };
        match outcome {
            // A login page or default site gives everybody everything; that is no leave to read.
            Ok(response) if asked.request.method == Method::Probe && is_another_s(&response) => {
                let host = host_of(asked.endpoint.origin());
                Err(UpstreamError::protocol(
                    &host,
                    "it answered with a page for people",
                ))
            }
            outcome => outcome,
        }
    }

    async fn ask_by_head(&self, asked: &Asked<'_>, question: &Question) -> Result<Response, UpstreamError> {
        let place: Arc<str> = asked.endpoint.base.as_str().into();
        let right = Of::Right(place.clone(), asked.request.repository.clone());
        if self.heads.is_wrong(&place, Instant::now()) {
            return asked.fetch(&question.by_get()).await.map(without_body);
        }
        let outcome = asked.fetch(question).await;
        match &outcome {
            Ok(response) if !is_another_s(response) => return outcome,
            Err(error) if !is_in_doubt(error) => return outcome,
            Err(error)
                // A refused caller hears the registry's own words, which HEAD has not got, whether or not content is held.
                if asked.request.method != Method::Probe
                    && error.verdict().is_some_and(Verdict::is_refusal)
                    && self.heads.knows(&right, Instant::now()) =>
            {
                return outcome;
            }
            _ => {}
        }
        let decided = asked.fetch(&question.by_get()).await;
        match (&outcome, &decided) {
            (Err(head), Ok(response)) if !is_another_s(response) => {
                tracing::info!(
                    registry = %asked.request.namespace, head = %head,
                    "HEAD is refused where GET is answered; GET is used instead"
                );
                self.heads.note(Of::Wrong(place), Instant::now());
            }
            (Err(head), Err(get))
                if head.verdict().is_some_and(Verdict::is_refusal) && head.verdict() == get.verdict() =>
            {
                self.heads.note(right, Instant::now());
            }
            _ => {}
        }
        decided.map(without_body)
    }
}

/// Whether GET might say something else. What GET would meet as well is not asked again: it would only add to it.
fn is_in_doubt(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status { status, verdict, .. } => match verdict {
            Verdict::Challenge | Verdict::Forbidden | Verdict::Gone | Verdict::Unfit => true,
            // A page in place of a refusal. HEAD has no body that might show that a registry wrote it.
            Verdict::Trouble => Verdict::of_status(*status).is_refusal(),
            Verdict::NotFinal | Verdict::Content | Verdict::Redirect | Verdict::Limited => false,
        },
        // URLs that are signed for GET; and statuses that are no answer.
        UpstreamError::RedirectTarget { .. } | UpstreamError::Protocol { .. } => true,
        _ => false,
    }
}

/// Whether something else than a registry has answered.
fn is_another_s(response: &Response) -> bool {
    is_page(&response.headers, b"") && !response.headers.contains_key("docker-content-digest")
}

/// The same as an answer to HEAD.
fn without_body(response: Response) -> Response {
    let body = Body::empty(response.body.host().clone());
    Response { body, ..response }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_ends() {
        let (heads, now) = (Heads::default(), Instant::now());
        let right = |n: usize| Of::Right("https://r.example/".into(), format!("a/{n}").parse().unwrap());
        for n in 0..2 * REMEMBERED_MAX {
            heads.note(right(n), now);
        }
        assert!(heads.entries().len() <= REMEMBERED_MAX);
        assert!(heads.knows(&right(2 * REMEMBERED_MAX - 1), now));
        assert!(!heads.knows(&right(2 * REMEMBERED_MAX - 1), now + REMEMBERED));
        heads.note(Of::Wrong("https://r.example/".into()), now);
        assert!(heads.is_wrong("https://r.example/", now));
        assert!(!heads.is_wrong("https://r.example/prefix", now));
    }
}
