//! Builds successful responses, and selects the requested part of the content.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use crate::cache::BlobBody;
use crate::http::conditional::{if_none_match, if_range};
use crate::http::date::http_date;
use crate::http::multipart::{self, Boundary};
use crate::http::{
    Body, CacheResult, ContentRange, Fields, Method, Ranges, RequestHead, Response, Span, parse_range,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::clock::unix_seconds;

const CACHE_NAME: &str = "oci-pull-through";

/// The longest text of a warning: a registry name of 255 characters, and a reason of similar
/// length.
const WARNING_CHARS_MAX: usize = 512;

/// The properties of content for the header fields of a response.
pub struct Description<'a> {
    pub digest: &'a Digest,
    pub content_type: &'a str,
    /// The upstream's header fields. Only a few are repeated. `None` if another registry or
    /// repository sent the fields.
    pub stored: Option<&'a BTreeMap<String, Vec<String>>>,
    pub life: Life,
    /// Whether every client may read the content.
    pub public: bool,
    pub ranges: bool,
    /// The `ns` of the client's query.
    pub ns: Option<&'a str>,
    pub cache: CacheResult,
}

/// The time for which a client may cache the response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Unlimited, because content requested by digest never changes.
    Immutable,
    /// A short time, because a tag can change.
    Tag,
}

/// The content security policy of all responses. A browser neither runs nor renders content of a
/// registry.
const CONTENT_POLICY: &str = "default-src 'none'; sandbox";

/// Returns the header fields common to all responses.
pub fn common() -> Fields {
    Fields::new()
        .with("Docker-Distribution-Api-Version", "registry/2.0")
        .with("X-Content-Type-Options", "nosniff")
        .with("Content-Security-Policy", CONTENT_POLICY)
}

/// Returns the header fields of a response with content, without framing.
pub fn fields(description: &Description<'_>) -> Fields {
    let Description {
        digest,
        content_type,
        stored,
        life,
        public,
        ranges,
        ns,
        cache,
    } = description;
    let digest = digest.to_string();
    let mut fields = common()
        .with("Content-Type", content_type)
        .with("Docker-Content-Digest", &digest)
        .with("ETag", format!("\"{digest}\""));
    fields.add(
        "Cache-Control",
        match (life, public) {
            (Life::Immutable, true) => "public, max-age=31536000, immutable",
            (Life::Tag, true) => "public, max-age=60",
            // Shared caches between this cache and the client cannot check access.
            (_, false) => "private",
        },
    );
    if *life == Life::Tag {
        fields.add("Vary", "Accept");
    }
    if *ranges {
        fields.add("Accept-Ranges", "bytes");
    }
    if let Some(ns) = ns {
        fields.add("OCI-Namespace", ns);
    }
    if let Some(stored) = stored {
        replay(&mut fields, stored);
    }
    add_cache(&mut fields, *cache);
    fields
}

/// Repeats the upstream fields that clients use, parsed and formatted again.
fn replay(fields: &mut Fields, stored: &BTreeMap<String, Vec<String>>) {
    let first = |name: &str| stored.get(name).and_then(|values| values.first());
    let modified = first("Last-Modified").and_then(|text| httpdate::parse_http_date(text).ok());
    if let Some(since) = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
        fields.add("Last-Modified", http_date(since.as_secs()));
    }
    if let Some(subject) = first("Oci-Subject").and_then(|text| text.parse::<Digest>().ok()) {
        fields.add("OCI-Subject", subject.to_string());
    }
}

/// Adds a warning that the response is stale, with the reason. Containerd, docker and podman show
/// warnings in this form (distribution-spec, "Warnings").
pub fn add_stale(fields: &mut Fields, namespace: &Namespace, why: &str) {
    add_warning(
        fields,
        &format!("cached response, not confirmed by {namespace}: {why}"),
    );
}

/// Adds a warning (RFC 7234, 5.5), without the invalid characters of `text`.
pub fn add_warning(fields: &mut Fields, text: &str) {
    let text: String = text
        .chars()
        .filter(|c| *c != '"' && *c != '\\' && !c.is_control())
        .take(WARNING_CHARS_MAX)
        .collect();
    fields.add("Warning", format!("299 - \"{text}\""));
}

/// Adds `X-Cache` for people and `Cache-Status` (RFC 9211) for tools.
pub fn add_cache(fields: &mut Fields, cache: CacheResult) {
    let (x_cache, parameters) = match cache {
        CacheResult::None => return,
        CacheResult::Hit => ("HIT", "hit"),
        CacheResult::Miss => ("MISS", "fwd=uri-miss; stored"),
        CacheResult::Collapsed => ("COALESCED", "fwd=uri-miss; collapsed"),
        CacheResult::Revalidated => ("HIT", "fwd=stale; fwd-status=200"),
        CacheResult::Stale => ("STALE", "hit; ttl=-1; detail=upstream-unavailable"),
        CacheResult::Bypass => ("MISS", "fwd=bypass"),
    };
    fields.add("X-Cache", x_cache);
    fields.add("Cache-Status", format!("{CACHE_NAME}; {parameters}"));
}

/// The requested part of content with a known size.
pub enum Part {
    NotModified,
    Unsatisfiable,
    Whole,
    One(Span),
    Many(Vec<Span>),
}

/// Selects the part by the conditions of the request, in the order of RFC 9110, 13.2.2.
pub fn part(head: &RequestHead<'_>, digest: &Digest, size: u64) -> Part {
    let etag = format!("\"{digest}\"");
    if head.has_if_none_match() && if_none_match(head.if_none_match(), &etag) {
        return Part::NotModified;
    }
    match head.range {
        // HEAD ignores ranges (14.2).
        Some(range)
            if head.method == Method::Get
                && head.if_range.is_none_or(|condition| if_range(condition, &etag)) =>
        {
            match parse_range(range, size) {
                Ranges::Full => Part::Whole,
                Ranges::Unsatisfiable => Part::Unsatisfiable,
                Ranges::One(span) => Part::One(span),
                Ranges::Many(spans) => Part::Many(spans),
            }
        }
        _ => Part::Whole,
    }
}

/// Builds a 304 with the header fields of a 200.
pub fn not_modified(fields: Fields, cache: CacheResult) -> Response {
    empty(304, fields, cache)
}

/// Builds a 307 to a URL of the bucket. For a short time, everyone with the URL can read the blob.
/// So clients must not store the response.
pub fn elsewhere(digest: &Digest, url: String, cache: CacheResult) -> Response {
    let mut fields = common()
        .with("Location", url)
        .with("Cache-Control", "no-store")
        .with("Docker-Content-Digest", digest.to_string());
    add_cache(&mut fields, cache);
    empty(307, fields, cache)
}

/// Builds a 416 with the size of the content.
pub fn unsatisfiable(size: u64, cache: CacheResult) -> Response {
    let fields = common()
        .with("Content-Range", ContentRange::Unsatisfied { size }.to_string())
        .with("Accept-Ranges", "bytes");
    empty(416, fields, cache)
}

/// Builds the response with a blob, or with the requested part. `size` is `None` if the upstream
/// did not declare a size.
pub fn blob(
    head: &RequestHead<'_>,
    description: &Description<'_>,
    size: Option<u64>,
    body: BlobBody,
) -> Response {
    let (digest, cache) = (description.digest, description.cache);
    let Some(size) = size else {
        return whole(fields(description), None, body_of(body, None), cache);
    };
    match (part(head, digest, size), body) {
        (_, BlobBody::Redirect(url)) => elsewhere(digest, url, cache),
        (Part::NotModified, _) => not_modified(fields(description), cache),
        (Part::Unsatisfiable, _) => unsatisfiable(size, cache),
        (Part::One(span), body) => {
            let range = ContentRange::part(span, size).to_string();
            let fields = fields(description).with("Content-Range", range);
            partial(fields, span.size(), body_of(body, Some(span)), cache)
        }
        (Part::Many(spans), BlobBody::Bytes(bytes)) => many(&spans, description, size, |plan| {
            let mut all = Vec::with_capacity(plan.content_length as usize);
            for part in plan.parts {
                all.extend_from_slice(&part.head);
                all.extend_from_slice(&cut(&bytes, part.span));
            }
            all.extend_from_slice(&plan.tail);
            Body::Bytes(all.into())
        }),
        (Part::Many(spans), BlobBody::File { file, .. }) => {
            many(&spans, description, size, |plan| Body::Parts {
                file,
                parts: plan
                    .parts
                    .into_iter()
                    .map(|part| (part.head, part.span))
                    .collect(),
                tail: plan.tail,
            })
        }
        (Part::Whole | Part::Many(_), body) => {
            let span = Span { start: 0, end: size };
            whole(fields(description), Some(size), body_of(body, Some(span)), cache)
        }
    }
}

/// Builds a 200 with the whole content.
pub fn whole(fields: Fields, length: Option<u64>, body: Body, cache: CacheResult) -> Response {
    Response {
        status: 200,
        fields,
        length,
        body,
        cache,
    }
}

/// Builds a 206 with a part of the content.
fn partial(fields: Fields, length: u64, body: Body, cache: CacheResult) -> Response {
    Response {
        status: 206,
        ..whole(fields, Some(length), body, cache)
    }
}

/// Builds a response with a body in memory.
pub fn in_memory(status: u16, fields: Fields, body: Bytes, cache: CacheResult) -> Response {
    Response {
        status,
        ..whole(fields, Some(body.len() as u64), Body::Bytes(body), cache)
    }
}

/// Builds a response without a body.
fn empty(status: u16, fields: Fields, cache: CacheResult) -> Response {
    Response {
        status,
        ..whole(fields, Some(0), Body::Empty, cache)
    }
}

/// Returns the body with `span` of a blob. A stream has only the requested bytes.
fn body_of(body: BlobBody, span: Option<Span>) -> Body {
    match (body, span) {
        (BlobBody::Stream(stream), _) => Body::Growing(stream),
        (BlobBody::Bytes(bytes), Some(span)) => Body::Bytes(cut(&bytes, span)),
        (BlobBody::Bytes(bytes), None) => Body::Bytes(bytes),
        (BlobBody::File { file, .. }, Some(span)) => Body::File { file, span },
        // A file has a size, and a redirect has no body.
        (BlobBody::Nothing | BlobBody::Redirect(_) | BlobBody::File { .. }, _) => Body::Empty,
    }
}

/// Returns a part of a small blob. `span` is within the blob.
fn cut(bytes: &Bytes, span: Span) -> Bytes {
    bytes.slice(span.start as usize..span.end as usize)
}

/// Builds a response with several parts of a blob (RFC 9110, 14.6).
fn many(
    spans: &[Span],
    description: &Description<'_>,
    size: u64,
    body: impl FnOnce(multipart::MultipartPlan) -> Body,
) -> Response {
    let plan = multipart::plan(
        spans,
        size,
        description.content_type,
        boundary(description.digest),
    );
    let fields = fields(&Description {
        content_type: &plan.content_type,
        ..*description
    });
    partial(fields, plan.content_length, body(plan), description.cache)
}

/// Returns a boundary, derived from random keys of this process. The author of the content cannot
/// predict the boundary.
fn boundary(digest: &Digest) -> Boundary {
    use std::hash::BuildHasher;
    use std::sync::OnceLock;
    static KEYS: OnceLock<[std::hash::RandomState; 2]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| [std::hash::RandomState::new(), std::hash::RandomState::new()]);
    let now = unix_seconds();
    let [high, low] = keys.each_ref().map(|key| u128::from(key.hash_one((digest, now))));
    Boundary::new(high << 64 | low)
}

/// Builds the response with a manifest. Manifests have no ranges.
pub fn manifest(
    head: &RequestHead<'_>,
    body: Bytes,
    description: &Description<'_>,
    more: Fields,
) -> Response {
    let mut all = fields(description);
    all.append(&more);
    if head.has_if_none_match() && if_none_match(head.if_none_match(), &format!("\"{}\"", description.digest))
    {
        return not_modified(all, description.cache);
    }
    in_memory(200, all, body, description.cache)
}
