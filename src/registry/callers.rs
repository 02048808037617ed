//! The callers of an upstream request. Each caller stands for credentials. If the upstream refuses
//! every caller, the client receives the last refusal.

use super::Registry;
use super::error::{Challenges, Kind, Wanted};
use super::pull::Pull;
use super::route::{Requested, What};
use crate::auth::forwarding;
use crate::cache::{Approach, Caller, FetchError, ListingError};
use crate::config::{Access, Named};
use crate::oci::{Origin, Reference};
use crate::upstream::Target;

/// An error of a request on behalf of one caller.
pub(super) trait CallerError: From<FetchError> {
    /// Whether another caller may be allowed.
    fn is_refusal(&self) -> bool;
    fn is_outage(&self) -> bool;
    fn is_stale_absence(&self) -> bool;
}

impl CallerError for FetchError {
    fn is_refusal(&self) -> bool {
        FetchError::is_refusal(self)
    }

    fn is_outage(&self) -> bool {
        FetchError::is_outage(self)
    }

    fn is_stale_absence(&self) -> bool {
        FetchError::is_stale_absence(self)
    }
}

impl CallerError for ListingError {
    fn is_refusal(&self) -> bool {
        ListingError::is_refusal(self)
    }

    fn is_outage(&self) -> bool {
        ListingError::is_outage(self)
    }

    fn is_stale_absence(&self) -> bool {
        ListingError::is_stale_absence(self)
    }
}

impl Registry {
    /// Selects the credentials of the upstream request.
    pub(super) fn approach(&self, pull: &Pull<'_>) -> Approach {
        let origin = pull.origin();
        let registries = self.registries();
        let (settings, named) = registries.settings(&origin.namespace);
        let known = named != Named::No || self.options.default_registry.as_ref() == Some(&origin.namespace);
        let authorization = pull
            .head
            .authorization
            .filter(|value| !self.options.client_login || forwarding::may_forward(value, known));
        self.cache.approach(origin, settings.access(), authorization)
    }

    /// Makes a request for each caller in turn, until one is not refused.
    ///
    /// # Errors
    ///
    /// The last refusal, or the failure of a request.
    pub(super) async fn for_first_allowed<T, E: CallerError>(
        &self,
        callers: Vec<Caller>,
        origin: &Origin,
        target: &Target,
        request: impl AsyncFn(Caller) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut refused = E::from(FetchError::Lost);
        for caller in callers {
            match request(caller).await {
                Err(error) if error.is_refusal() => refused = error,
                // The kept 404 for anonymous clients is complete, because the subject manifest is
                // public.
                Err(error)
                    if error.is_outage()
                        && refused.is_stale_absence()
                        && self.cache.is_subject_public(origin, target).await =>
                {
                    return Err(refused);
                }
                outcome => return outcome,
            }
        }
        Err(refused)
    }

    /// Describes the requested content for an error response.
    pub(super) fn wanted(&self, requested: &Requested, what: &What) -> Wanted {
        Wanted {
            subject: Some(what.subject(&requested.origin)),
            challenges: self.challenges(&requested.origin),
            origin: Some(requested.origin.clone()),
            is_tag: matches!(what, What::Manifest(Reference::Tag(_))),
            kind: match what {
                // After a 404 for referrers, a client looks for a manifest under the fallback tag.
                What::Manifest(_) | What::Referrers(..) => Kind::Manifest,
                What::Blob(_) => Kind::Blob,
                What::Tags(_) => Kind::Other,
            },
        }
    }

    /// Returns the challenges of the upstream that the client receives.
    fn challenges(&self, origin: &Origin) -> Challenges {
        let registries = self.registries();
        let (settings, named) = registries.settings(&origin.namespace);
        if self.authenticator.is_enabled() || settings.access() == Access::Shared {
            // The upstream does not receive the client's credentials.
            Challenges::None
        } else if named == Named::Exactly {
            Challenges::All
        } else {
            Challenges::Tokens
        }
    }
}
