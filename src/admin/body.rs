//! Bodies of responses: whole, as lines of JSON, or as server-sent events.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use serde_json::json;

use super::problem::json_response;

/// A body of a response.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The media type of one JSON value per line.
const LINES: &str = "application/x-ndjson";

/// The media type of server-sent events.
const EVENTS: &str = "text/event-stream";

/// Returns a body in memory.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// The form of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One JSON value.
    Whole,
    /// One JSON value per line.
    Lines,
}

impl Form {
    /// Returns the form that the client accepts by name.
    pub fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(header::ACCEPT).iter();
        let types = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','));
        let mut essences = types.map(|text| text.split(';').next().unwrap_or_default().trim());
        match essences.any(|essence| essence.eq_ignore_ascii_case(LINES)) {
            true => Form::Lines,
            false => Form::Whole,
        }
    }

    /// Returns a response with a short list: an object with the member `name`, or the values as lines.
    pub fn list(self, name: &str, values: &[impl Serialize]) -> Response<Body> {
        match self {
            Form::Whole => json_response(StatusCode::OK, &json!({name: values}), "application/json"),
            Form::Lines => {
                let text: Vec<u8> = values.iter().flat_map(line).collect();
                lines(StatusCode::OK, futures_util::stream::iter([text]))
            }
        }
    }
}

/// Returns a value as a line.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("the content is strings and numbers");
    line.push(b'\n');
    line
}

/// Returns a response with lines of JSON.
pub fn lines(status: StatusCode, stream: impl Stream<Item = Vec<u8>> + Send + 'static) -> Response<Body> {
    streamed(status, LINES, stream)
}

/// Returns a response with server-sent events.
pub fn events(stream: impl Stream<Item = Vec<u8>> + Send + 'static) -> Response<Body> {
    streamed(StatusCode::OK, EVENTS, stream)
}

/// Returns a response whose body is as long as `stream`. A part is made when the client has read the
/// earlier parts.
fn streamed(
    status: StatusCode,
    media_type: &'static str,
    stream: impl Stream<Item = Vec<u8>> + Send + 'static,
) -> Response<Body> {
    let frames = stream.map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from(part))));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sent_to_a_client_that_accepts_them_by_name() {
        for (accept, expected) in [
            ("application/x-ndjson", true),
            ("application/json, Application/X-NDJSON;q=0.5", true),
            ("*/*", false),
            ("application/*", false),
            ("application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Form::of(&headers) == Form::Lines, expected, "{accept}");
        }
        assert_eq!(Form::of(&HeaderMap::new()), Form::Whole);
    }
}
