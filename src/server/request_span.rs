//! The span of a request.

use super::access_log::Record;
use crate::http::{ContentItem, Method};
use crate::runtime::clock::unix_nanos;
use crate::trace::{self, Attribute, Operation, Span};

/// Records the span of a sampled request whose response has ended. `now` is the end, in microseconds
/// of the monotonic clock.
pub(super) fn record_span(record: &Record<'_>, now: u64) {
    let Some(request) = record.head.trace else { return };
    let end = unix_nanos();
    let micros = now.saturating_sub(record.stopwatch.started);
    trace::record(Span {
        context: request.context,
        parent: request.parent,
        operation: Operation::Request(record.details.resource.get()),
        start: end.saturating_sub(micros * 1_000),
        end,
        attributes: attributes(record),
        link: record.details.joined_fill.get(),
        is_error: record.status >= 500,
    });
}

fn attributes(record: &Record<'_>) -> Vec<Attribute> {
    let head = record.head;
    let mut attributes = vec![
        Attribute::RequestId(head.id.0),
        Attribute::Method(match head.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Other => "_OTHER",
        }),
        Attribute::Path(Attribute::text(head.path)),
        Attribute::Status(record.status),
        Attribute::ResponseBytes(record.bytes),
        Attribute::Result(record.cache.label()),
    ];
    attributes.extend(record.peer.map(Attribute::Client));
    let agent = head.user_agent.map(Attribute::text);
    attributes.extend(agent.map(Attribute::UserAgent));
    let status = record.details.upstream_status.get();
    attributes.extend(status.map(Attribute::UpstreamStatus));
    if let Some(content) = record.details.content.get() {
        attributes.push(Attribute::Registry(Attribute::text(&content.registry)));
        attributes.push(Attribute::Repository(Attribute::text(&content.repository)));
        match &content.item {
            ContentItem::Tag(tag) => attributes.push(Attribute::Tag(Attribute::text(tag))),
            ContentItem::Digest(digest) => attributes.push(Attribute::Digest(Attribute::text(digest))),
            ContentItem::None => {}
        }
    }
    attributes
}
