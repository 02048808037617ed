//! A blob that lies in the bucket and not on this machine: given from there while it arrives.
//!
//! Not here: who may have it (`pull`), and what to do when the bucket does not give it after all.

use std::sync::Arc;

use bytes::Bytes;

use super::Registry;
use super::pull::describe_blob;
use super::respond::{self, Description, Part};
use crate::cache::{Caller, Permit};
use crate::http::{Body, ContentRange, Fields, Method, RequestHead, Response, Span};
use crate::limits::{BUCKET_RANGE_DISTANCE_MIN, HELD_WHOLE_BYTES_MAX, MEMORY_OBJECT_BYTES_MAX};
use crate::oci::Origin;
use crate::store::Meta;

impl Registry {
    /// The answer with the blob that `meta` describes, or `None` when it is to be filled: because there is a local store to
    /// fill, or because the bucket does not begin.
    pub(super) async fn bucket_hit(
        &self,
        head: &RequestHead<'_>,
        origin: &Origin,
        meta: &Arc<Meta>,
        permit: Permit,
        caller: &Caller,
        ns: Option<&str>,
    ) -> Option<Response> {
        let size = meta.size;
        let known_public;
        let described = if permit.public && !meta.public {
            known_public = Meta {
                public: true,
                ..Meta::clone(meta)
            };
            &known_public
        } else {
            meta
        };
        let description = describe_blob(described, origin, ns);
        let cache = description.cache;
        let whole = Span { start: 0, end: size };
        let span = match respond::part(head, &meta.digest, size) {
            Part::NotModified => return Some(respond::not_modified(respond::fields(&description), cache)),
            Part::Unsatisfiable => return Some(respond::unsatisfiable(size, cache)),
            Part::One(span) => Some(span),
            // Several ranges: the whole is a right answer too (RFC 9110, 14.2).
            Part::Whole | Part::Many(_) => None,
        };
        if head.method == Method::Head {
            return Some(answer(&description, None, size, Body::Empty));
        }
        if !self.cache.is_bucket_only() {
            let far = span.filter(|span| span.start >= BUCKET_RANGE_DISTANCE_MIN)?;
            let body = self.cache.stream_from_bucket(origin, caller, meta, far).await?;
            // The next one finds it here.
            self.cache
                .fill(meta.digest, origin, caller, None, Some(meta.clone()));
            return Some(answer(
                &description,
                Some(far),
                size,
                Body::Growing(Box::new(body)),
            ));
        }
        if size > HELD_WHOLE_BYTES_MAX {
            // A URL can be handed on: what rules keep from some is not for everybody.
            if described.public
                && self.readers(origin).is_none()
                && let Some(url) = self.cache.url_in_bucket(meta.digest).await
            {
                return Some(respond::elsewhere(&meta.digest, url, cache));
            }
            let from = span.unwrap_or(whole);
            let body = self.cache.stream_from_bucket(origin, caller, meta, from).await?;
            return Some(answer(&description, span, size, Body::Growing(Box::new(body))));
        }
        let body: Bytes = self.cache.take_from_bucket(meta).await?;
        if size <= MEMORY_OBJECT_BYTES_MAX && (described.public || caller.is_operator()) {
            let fields = respond::fields(&description);
            let readers = self.readers(origin);
            self.responses
                .borrow_mut()
                .remember(head.target, fields, body.clone(), None, readers);
        }
        let Span { start, end } = span.unwrap_or(whole);
        // At most HELD_WHOLE_BYTES_MAX.
        let part = body.slice(start as usize..end as usize);
        Some(answer(&description, span, size, Body::Bytes(part)))
    }
}

fn answer(description: &Description<'_>, span: Option<Span>, size: u64, body: Body) -> Response {
    let fields: Fields = respond::fields(description);
    let cache = description.cache;
    match span {
        Some(span) => Response {
            status: 206,
            fields: fields.with("Content-Range", ContentRange::part(span, size).to_string()),
            length: Some(span.size()),
            body,
            cache,
        },
        None => Response {
            status: 200,
            fields,
            length: Some(size),
            body,
            cache,
        },
    }
}
