//! Answers to `tags/list` and `referrers`.

use super::error::PullError;
use super::pull::Pull;
use super::respond::{add_cache, add_stale, common, in_memory};
use super::route::{Requested, name_in};
use super::{Registry, pagination};
use crate::cache::{Approach, INDEX_TYPE, ListingAnswer, ListingKey};
use crate::http::{CacheResult, Fields, RequestHead, Response};
use crate::oci::ListQuery;
use crate::runtime::clock::unix_millis;
use crate::upstream::Target;

impl Registry {
    /// Answers a request for a page of tags. Without `query` the page is empty, and no upstream
    /// request is needed.
    pub(super) async fn tags(
        &self,
        pull: &Pull<'_>,
        query: Option<ListQuery>,
    ) -> Result<Response, PullError> {
        let (head, requested) = (pull.head, pull.requested);
        // The name from the client's request, under which the client then requests the tags.
        let named = |tags: &[u8]| {
            let name = name_in(head.path).unwrap_or_default();
            [b"{\"name\":\"", name.as_bytes(), b"\",\"tags\":", tags, b"}"].concat()
        };
        let Some(query) = query else {
            let fields = fields(requested, "application/json").with("Cache-Control", "no-store");
            return Ok(in_memory(200, fields, named(b"[]").into(), CacheResult::None));
        };
        let answer = self.list(pull, Target::Tags(query)).await?;
        pull.details.upstream_status.set(answer.upstream_status);
        let fields = self.list_fields(head, requested, &answer, "application/json");
        Ok(in_memory(
            200,
            fields,
            named(&answer.listed.body).into(),
            answer.cache,
        ))
    }

    pub(super) async fn referrers(&self, pull: &Pull<'_>, target: Target) -> Result<Response, PullError> {
        let answer = self.list(pull, target).await?;
        pull.details.upstream_status.set(answer.upstream_status);
        let mut fields = self.list_fields(pull.head, pull.requested, &answer, INDEX_TYPE);
        if answer.listed.filtered {
            fields.add("OCI-Filters-Applied", "artifactType");
        }
        Ok(in_memory(200, fields, answer.listed.body.clone(), answer.cache))
    }

    async fn list(&self, pull: &Pull<'_>, target: Target) -> Result<ListingAnswer, PullError> {
        let origin = pull.origin();
        let callers = match self.approach(pull) {
            Approach::Callers(callers) => callers,
            Approach::Passthrough(credentials) => {
                return Ok(self
                    .cache
                    .pass_through_listing(origin, target, credentials)
                    .await?);
            }
        };
        let request = async |caller| {
            let key = ListingKey {
                origin: origin.clone(),
                target: target.clone(),
                caller,
            };
            self.cache.listing(key).await
        };
        Ok(self.for_first_allowed(callers, origin, &target, request).await?)
    }

    fn list_fields(
        &self,
        head: &RequestHead<'_>,
        requested: &Requested,
        answer: &ListingAnswer,
        content_type: &str,
    ) -> Fields {
        let ListingAnswer {
            listed,
            cache,
            lifetime,
            stale,
            ..
        } = answer;
        let mut fields = fields(requested, content_type);
        if listed.public {
            fields.add("Cache-Control", format!("public, max-age={}", lifetime.as_secs()));
        } else {
            fields.add("Cache-Control", "private");
        }
        let age_ms = unix_millis().saturating_sub(listed.requested_ms);
        fields.add("Age", (age_ms / 1000).to_string());
        if let Some(next) = &listed.next
            && let Some(link) = pagination::link(bare(head.path), next, requested.ns.as_deref())
        {
            fields.add("Link", link);
        }
        if let Some(why) = stale {
            add_stale(&mut fields, &requested.origin.namespace, why);
        }
        add_cache(&mut fields, *cache);
        fields
    }
}

/// Returns the path of a list without a trailing slash.
fn bare(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn fields(requested: &Requested, content_type: &str) -> Fields {
    let mut fields = common().with("Content-Type", content_type);
    if let Some(ns) = &requested.ns {
        fields.add("OCI-Namespace", ns);
    }
    fields
}
