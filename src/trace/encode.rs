//! Encodes finished spans as a message of OTLP.

use prost::Message as _;

use super::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Link, Resource, ResourceSpans,
    ScopeSpans, Span as OtlpSpan, SpanKind, Status, StatusCode, Value,
};
use super::span::{AttributeValue, Side};
use super::{Attribute, Span};

/// Encodes `spans` of the process with these attributes.
pub(super) fn request(resource: &[(String, String)], spans: &[Span]) -> Vec<u8> {
    let attributes = resource
        .iter()
        .map(|(key, value)| key_value(key, Value::Text(value.clone())));
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.collect(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.iter().map(encoded).collect(),
            }],
        }],
    };
    request.encode_to_vec()
}

fn encoded(span: &Span) -> OtlpSpan {
    let kind = match span.operation.side() {
        Side::Internal => SpanKind::Internal,
        Side::Server => SpanKind::Server,
        Side::Client => SpanKind::Client,
    };
    let link = span.link.map(|link| Link {
        trace_id: link.trace.0.get().to_be_bytes().to_vec(),
        span_id: link.span.0.get().to_be_bytes().to_vec(),
    });
    let error = || Status {
        code: StatusCode::Error.into(),
    };
    OtlpSpan {
        trace_id: span.context.trace.0.get().to_be_bytes().to_vec(),
        span_id: span.context.span.0.get().to_be_bytes().to_vec(),
        parent_span_id: span
            .parent
            .map_or_else(Vec::new, |parent| parent.0.get().to_be_bytes().to_vec()),
        name: span.operation.name(),
        kind: kind.into(),
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end,
        attributes: span.attributes.iter().map(attribute).collect(),
        links: link.into_iter().collect(),
        status: span.is_error.then(error),
        // The bit of a sampled trace.
        flags: 1,
    }
}

fn attribute(attribute: &Attribute) -> KeyValue {
    let value = match attribute.value() {
        AttributeValue::Text(text) => Value::Text(text),
        AttributeValue::Number(number) => Value::Number(i64::try_from(number).unwrap_or(i64::MAX)),
    };
    key_value(attribute.key(), value)
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Resource as Requested, TraceContext};
    use crate::trace::Operation;

    fn context(span: &str) -> TraceContext {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
        TraceContext::parse(value.as_bytes()).unwrap()
    }

    #[test]
    fn decoded_request_has_the_fields_of_the_span() {
        let span = Span {
            context: context("00f067aa0ba902b7"),
            parent: Some(context("0000000000000001").span),
            operation: Operation::Request(Requested::Blob),
            start: 1_700_000_000_000_000_001,
            end: 1_700_000_000_000_005_001,
            attributes: vec![
                Attribute::Method("GET"),
                Attribute::Status(200),
                Attribute::ResponseBytes(u64::MAX),
                Attribute::RequestId(0xab),
            ],
            link: Some(context("0000000000000002")),
            is_error: true,
        };
        let resource = [("service.name".to_owned(), "cache".to_owned())];
        let bytes = request(&resource, std::slice::from_ref(&span));
        let decoded = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        let of_process = &decoded.resource_spans[0];
        let text = |key: &str, text: &str| key_value(key, Value::Text(text.to_owned()));
        let number = |key: &str, number| key_value(key, Value::Number(number));
        assert_eq!(
            of_process.resource.as_ref().unwrap().attributes,
            [text("service.name", "cache")]
        );
        let found = &of_process.scope_spans[0].spans[0];
        let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128
            .to_be_bytes()
            .to_vec();
        let expected = OtlpSpan {
            trace_id: trace_id.clone(),
            span_id: vec![0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7],
            parent_span_id: vec![0, 0, 0, 0, 0, 0, 0, 1],
            name: "request blob".to_owned(),
            kind: 2,
            start_time_unix_nano: span.start,
            end_time_unix_nano: span.end,
            attributes: vec![
                text("http.request.method", "GET"),
                number("http.response.status_code", 200),
                number("http.response.body.size", i64::MAX),
                text("oci_pull_through.request_id", "00000000000000ab"),
            ],
            links: vec![Link {
                trace_id,
                span_id: vec![0, 0, 0, 0, 0, 0, 0, 2],
            }],
            status: Some(Status { code: 2 }),
            flags: 1,
        };
        assert_eq!(*found, expected);
    }

    #[test]
    fn root_without_error_and_link_has_none_of_these_fields() {
        let span = Span {
            context: context("00f067aa0ba902b7"),
            parent: None,
            operation: Operation::Fill,
            start: 1,
            end: 2,
            attributes: Vec::new(),
            link: None,
            is_error: false,
        };
        let found = encoded(&span);
        assert!(found.parent_span_id.is_empty() && found.links.is_empty() && found.status.is_none());
        assert_eq!((found.name.as_str(), found.kind), ("fill", 1));
    }

    #[test]
    fn long_text_is_clipped_after_a_whole_character() {
        let long = "ä".repeat(crate::limits::TRACE_TEXT_BYTES_MAX);
        let clipped = Attribute::text(&long);
        assert!(clipped.len() <= crate::limits::TRACE_TEXT_BYTES_MAX && long.starts_with(&*clipped));
    }
}
