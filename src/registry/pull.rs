//! The steps of a request: authenticate, route, authorize, look up, respond.

use std::rc::Rc;
use std::sync::Arc;

use tracing::field::display;

use super::error::{PullError, Wanted};
use super::response_cache::CachedContent;
use super::route::{Requested, Route, What};
use super::{Registry, plain};
use crate::auth::{Identity, Readers};
use crate::cache::{CoreLookupCounts, LookupKind, LookupResult, RegistryLookups};
use crate::fail_point::hit;
use crate::http::{CacheResult, Method, RequestDetails, RequestHead, Resource, Response, redacted};
use crate::oci::{Digest, Origin};
use crate::upstream::Target;

/// An authorized request for content.
pub(super) struct Pull<'a> {
    /// The head, without the client's credentials for this cache.
    pub head: &'a RequestHead<'a>,
    pub requested: &'a Requested,
    pub identity: &'a Identity,
    pub readers: Readers,
    /// Facts for the access log and the metrics.
    pub details: &'a RequestDetails,
    /// The lookups of this core.
    pub lookups: &'a CoreLookupCounts,
    /// `None` for a list.
    pub kind: Option<LookupKind>,
}

impl Pull<'_> {
    pub fn origin(&self) -> &Origin {
        &self.requested.origin
    }

    /// Returns the description of the content `digest` for the response cache.
    pub fn cached(&self, digest: &Digest) -> CachedContent {
        CachedContent {
            digest: digest.prefix(),
            readers: self.readers.clone(),
            name: self.details.content.get().cloned(),
            needs: None,
            lookups: self.registry_lookups(),
            resource: self.details.resource.get(),
        }
    }

    /// Returns the cells for lookups of the requested content. `None` if the registry is not counted.
    fn registry_lookups(&self) -> Option<(Arc<RegistryLookups>, LookupKind)> {
        Some((self.lookups.of(&self.origin().namespace)?, self.kind?))
    }

    /// Returns the `ns` of the query, to repeat in the response.
    pub fn ns(&self) -> Option<&str> {
        self.requested.ns.as_deref()
    }
}

impl Registry {
    /// Answers one request.
    pub(super) async fn pull(&self, head: &RequestHead<'_>, details: &RequestDetails) -> Response {
        hit("request");
        let mut wanted = Wanted::default();
        match self.answer_route(head, details, &mut wanted).await {
            Ok(response) => response,
            Err(error) => {
                details.upstream_status.set(error.upstream_status());
                let response = error.response(&wanted);
                log_error(head, details, response.status, &error);
                response
            }
        }
    }

    async fn answer_route(
        &self,
        head: &RequestHead<'_>,
        details: &RequestDetails,
        wanted: &mut Wanted,
    ) -> Result<Response, PullError> {
        let (head, identity) = &self.authenticate(head).await?;
        if let Some(legacy) = self.legacy_admin(head) {
            return self.command(legacy, head, identity).await;
        }
        let allowed = self.find_route(head).and_then(|route| {
            details.resource.set(resource_of(&route));
            if let Route::Content(requested, what) = &route {
                let name = || Rc::new(what.name(&requested.origin));
                details.content.get_or_init(name);
            }
            self.authorize(identity, route)
        });
        let (route, readers) = match allowed {
            // Anonymous clients always receive a rejection, so that errors do not reveal routes.
            Err(_) if *identity == Identity::Anonymous => return Err(self.authenticator.rejection().into()),
            _ if head.method == Method::Other => return Err(PullError::ReadOnly),
            allowed => allowed?,
        };
        match route {
            Route::Ping => self.ping(head),
            Route::Health(probe) => self.health(probe),
            Route::Stats => self.stats().await,
            Route::Web => self.web(head),
            Route::Content(requested, what) => {
                *wanted = self.wanted(&requested, &what);
                // Until the drop, upstream requests for the content carry the `Via` of this
                // request.
                let _on_behalf = self.on_behalf(head, &requested, &what)?;
                let pull = Pull {
                    head,
                    requested: &requested,
                    identity,
                    readers,
                    details,
                    lookups: &self.lookups,
                    kind: what.lookup_kind(),
                };
                self.content(&pull, what).await
            }
        }
    }

    async fn content(&self, pull: &Pull<'_>, what: What) -> Result<Response, PullError> {
        let response = match what {
            What::Manifest(reference) => self.manifest(pull, reference).await?,
            What::Blob(digest) => self.blob(pull, digest).await?,
            What::Tags(query) => return self.tags(pull, query).await,
            What::Referrers(digest, query) => {
                return self.referrers(pull, Target::Referrers(digest, query)).await;
            }
        };
        count(pull, response.cache);
        Ok(response)
    }

    /// Answers `/v2/`, a client's check for a registry.
    fn ping(&self, head: &RequestHead<'_>) -> Result<Response, PullError> {
        let has_credentials = head.authorization.is_some() || self.authenticator.is_enabled();
        if self.options.client_login && !has_credentials {
            return Err(PullError::Login);
        }
        Ok(plain(200, "application/json", "{}"))
    }
}

fn resource_of(route: &Route) -> Resource {
    match route {
        Route::Ping => Resource::Base,
        Route::Health(_) => Resource::Health,
        Route::Stats => Resource::Stats,
        Route::Web => Resource::Other,
        Route::Content(_, What::Manifest(_)) => Resource::Manifest,
        Route::Content(_, What::Blob(_)) => Resource::Blob,
        Route::Content(_, What::Tags(_)) => Resource::Tags,
        Route::Content(_, What::Referrers(..)) => Resource::Referrers,
    }
}

/// Counts the response to a request for a manifest or a blob.
fn count(pull: &Pull<'_>, cache: CacheResult) {
    if let Some(result) = LookupResult::of(cache)
        && let Some((cells, kind)) = pull.registry_lookups()
    {
        cells.add(kind, result);
    }
}

/// Logs the error of a request. A client with a second registry reports only the error of the
/// second registry, so the log reports a failed upstream.
fn log_error(head: &RequestHead<'_>, details: &RequestDetails, status: u16, error: &PullError) {
    let id = display(head.id);
    let content = details.content.get();
    let registry = content.map(|content| display(&content.registry));
    let repository = content.map(|content| display(&content.repository));
    let path = redacted(head.target);
    match status {
        502 | 504 => tracing::info!(id, registry, repository, status, %error, "pull failed"),
        300..=399 => {
            tracing::debug!(id, registry, repository, %path, status, "redirect passed to the client");
        }
        _ => tracing::debug!(id, registry, repository, %path, status, %error, "request rejected"),
    }
}
