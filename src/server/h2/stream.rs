//! A request and its response, sent at once from memory or by a separate task.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Request, StatusCode};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tracing::field::display;

use super::body::{Cut, Outbound};
use super::request::{read_lines, write_lines};
use super::send_buffer::Chunk;
use super::shared::Shared;
use crate::http::date::http_date;
use crate::http::headers::TRACEPARENT;
use crate::http::{
    Body, CacheResult, Method, Ready, RequestDetails, RequestHead, RequestId, RequestTrace, Response, Span,
};
use crate::limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT, REQUEST_BODY_TIMEOUT};
use crate::runtime::clock::unix_seconds;
use crate::server::Handler;
use crate::server::access_log::{End, Record, Stopwatch};
use crate::server::h1::parse::HeadError;
use crate::server::h1::refusal;
use crate::trace;

/// The initial buffer for a head, rarely exceeded. Clients send 300 to 900 bytes.
const LINES_BYTES: usize = 1_024;

/// The state of the response before its task starts.
enum Known {
    Nothing,
    Ready(Rc<Ready>),
    /// A small response whose head is sent. The body waits for the client.
    HeadSent(Rc<Ready>, SendStream<Chunk>),
    Refused(HeadError),
}

/// The id of a request, its times and its trace.
struct Arrival {
    id: RequestId,
    trace: Option<RequestTrace>,
    stopwatch: Stopwatch,
}

impl Arrival {
    /// Records that the response head was handed over to the HTTP/2 connection.
    fn head_sent(&self) {
        self.stopwatch.head_sent();
    }
}

/// The result of a response.
struct Outcome {
    status: u16,
    cache: CacheResult,
    bytes: u64,
    cut: Option<Cut>,
}

/// Returns the only value of `traceparent`.
fn traceparent(fields: &HeaderMap) -> Option<&[u8]> {
    let mut values = fields.get_all(TRACEPARENT).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

/// Answers `request` at once or starts a task. A panic ends only this stream.
pub fn begin<H: Handler>(
    shared: &Rc<Shared<H>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Chunk>,
) {
    let arrival = Arrival {
        id: shared.server.request_ids.next(),
        trace: trace::of_request(traceparent(request.headers())),
        stopwatch: Stopwatch::start(),
    };
    let mut lines = Vec::with_capacity(LINES_BYTES);
    let written = write_lines(&request, &mut lines);
    let body = request.into_body();
    let known = match written {
        Err(error) => Known::Refused(error),
        // The task waits briefly for the request body.
        Ok(()) if !body.is_end_stream() => Known::Nothing,
        Ok(()) => {
            let at_once = std::panic::catch_unwind(AssertUnwindSafe(|| {
                answer_at_once(shared, &lines, &mut respond, &arrival)
            }));
            match at_once {
                Ok(Some(known)) => known,
                Ok(None) => return,
                Err(_) => {
                    let details = RequestDetails::default();
                    return panicked(shared, &lines, &mut respond, &details, &arrival);
                }
            }
        }
    };
    let shared = shared.clone();
    let running = shared.count();
    drop(monoio::spawn(async move {
        let mut body = body;
        if !body.is_end_stream() {
            discard_body(&mut body, REQUEST_BODY_TIMEOUT).await;
        }
        let mut details = RequestDetails::default();
        let answering = answer(&shared, &lines, &mut respond, known, &mut details, &arrival);
        let ended = AssertUnwindSafe(answering).catch_unwind().await;
        if ended.is_err() {
            panicked(&shared, &lines, &mut respond, &details, &arrival);
        }
        if !body.is_end_stream() {
            discard_body(&mut body, LINGER_TIMEOUT).await;
        }
        drop(running);
    }));
}

/// Resets the stream and logs the request after a panic. The panic hook has logged the message and
/// location.
fn panicked<H: Handler>(
    shared: &Shared<H>,
    lines: &[u8],
    respond: &mut SendResponse<Chunk>,
    details: &RequestDetails,
    arrival: &Arrival,
) {
    tracing::error!(id = %arrival.id, "stream task panicked");
    respond.send_reset(Reason::INTERNAL_ERROR);
    let refused = RequestHead {
        id: arrival.id,
        ..RequestHead::refused()
    };
    let head = read(shared, lines, arrival).unwrap_or(refused);
    Outcome::unanswered(Cut::Aborted).record(shared, &head, details, arrival);
}

fn read<'a, H>(
    shared: &'a Shared<H>,
    lines: &'a [u8],
    arrival: &Arrival,
) -> Result<RequestHead<'a>, HeadError> {
    let head = read_lines(lines)?;
    Ok(RequestHead {
        id: arrival.id,
        trace: arrival.trace,
        certificate: shared.certificate.as_ref(),
        peer: shared.peer.map(|peer| peer.ip()),
        is_tls: shared.is_tls,
        ..head
    })
}

/// Sends a response from memory if the client has room for it. Otherwise returns the state for the
/// task.
fn answer_at_once<H: Handler>(
    shared: &Shared<H>,
    lines: &[u8],
    respond: &mut SendResponse<Chunk>,
    arrival: &Arrival,
) -> Option<Known> {
    let head = match read(shared, lines, arrival) {
        Ok(head) => head,
        Err(error) => return Some(Known::Refused(error)),
    };
    let Some(ready) = shared.server.handler.ready(&head) else {
        return Some(Known::Nothing);
    };
    let head_only = head.method == Method::Head;
    if ready.file.is_some() && !head_only {
        return Some(Known::Ready(ready));
    }
    let length = ready.encoded.len() - ready.head_len;
    let end = head_only || length == 0;
    let mut outcome = Outcome::hit();
    let sent = respond.send_response(response(200, ready.map().clone()), end);
    match sent.inspect(|_| arrival.head_sent()) {
        Err(_) => outcome.cut = Some(Cut::Gone),
        Ok(_) if end => {}
        Ok(mut stream) => {
            stream.reserve_capacity(length);
            if stream.capacity() < length {
                return Some(Known::HeadSent(ready, stream));
            }
            outcome.bytes = length as u64;
            if stream.send_data(Chunk::free(ready.body()), true).is_err() {
                outcome.cut = Some(Cut::Gone);
            }
        }
    }
    let details = RequestDetails::of_hit(&ready);
    outcome.record(shared, &head, &details, arrival);
    None
}

async fn answer<H: Handler>(
    shared: &Shared<H>,
    lines: &[u8],
    respond: &mut SendResponse<Chunk>,
    known: Known,
    details: &mut RequestDetails,
    arrival: &Arrival,
) {
    let _memory = shared.server.resources.memory.response();
    let refused = RequestHead {
        id: arrival.id,
        ..RequestHead::refused()
    };
    let (head, known) = match (read(shared, lines, arrival), known) {
        (Ok(head), known) => (head, known),
        (Err(_), Known::Refused(error)) | (Err(error), _) => (refused, Known::Refused(error)),
    };
    let outcome = match known {
        Known::HeadSent(ready, stream) => {
            *details = RequestDetails::of_hit(&ready);
            let mut outbound = Outbound::new(shared, stream);
            let sent = outbound.memory(ready.body(), true).await;
            Outcome::hit().ended(respond, &outbound, sent)
        }
        Known::Ready(ready) => {
            *details = RequestDetails::of_hit(&ready);
            send_ready(shared, respond, &ready, arrival).await
        }
        Known::Refused(error) => {
            let client = shared.peer.map(display);
            tracing::debug!(id = %head.id, client, reason = error.reason(), "request head rejected");
            send(shared, &head, respond, refusal(&error), arrival).await
        }
        Known::Nothing => {
            let answered = {
                let context = head.trace.map(|trace| trace.context);
                let answer = pin!(trace::within(
                    context,
                    shared.server.handler.answer(&head, details)
                ));
                let reset = pin!(poll_fn(|cx| respond.poll_reset(cx)));
                match select(answer, reset).await {
                    Either::Left((answer, _)) => Some(answer),
                    Either::Right(_) => None,
                }
            };
            match answered {
                Some(answer) => send(shared, &head, respond, answer, arrival).await,
                // The client has reset the stream before any byte was sent.
                None => Outcome::unanswered(Cut::Gone),
            }
        }
    };
    outcome.record(shared, &head, details, arrival);
}

async fn send_ready<H: Handler>(
    shared: &Shared<H>,
    respond: &mut SendResponse<Chunk>,
    ready: &Ready,
    arrival: &Arrival,
) -> Outcome {
    let Ok(stream) = respond.send_response(response(200, ready.map().clone()), false) else {
        return Outcome::hit().gone();
    };
    arrival.head_sent();
    let mut outbound = Outbound::new(shared, stream);
    let sent = match &ready.file {
        Some((file, size)) => {
            let whole = Span { start: 0, end: *size };
            outbound.span(file, whole, true).await
        }
        None => outbound.memory(ready.body(), true).await,
    };
    Outcome::hit().ended(respond, &outbound, sent)
}

async fn send<H: Handler>(
    shared: &Shared<H>,
    head: &RequestHead<'_>,
    respond: &mut SendResponse<Chunk>,
    answer: Response,
    arrival: &Arrival,
) -> Outcome {
    let status = answer.status;
    let outcome = Outcome {
        status,
        cache: answer.cache,
        bytes: 0,
        cut: None,
    };
    let mut fields = answer.fields.to_map();
    if let Ok(date) = HeaderValue::from_bytes(&http_date(unix_seconds())) {
        fields.insert(::http::header::DATE, date);
    }
    // A 304 describes the 200 but has no body. No `Content-Length` is simplest and valid.
    let bodiless = matches!(status, 204 | 304);
    if let Some(length) = answer.length.filter(|_| !bodiless) {
        fields.insert(::http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let end = bodiless || head.method == Method::Head || answer.length == Some(0);
    let sent = respond.send_response(response(status, fields), end);
    let stream = match sent.inspect(|_| arrival.head_sent()) {
        Err(_) => return outcome.gone(),
        Ok(_) if end => return outcome,
        Ok(stream) => stream,
    };
    let mut outbound = Outbound::new(shared, stream);
    if status == 206 && head.has_open_range() {
        outbound.limit_ahead();
    }
    let sent = match answer.body {
        Body::Empty => outbound.end(),
        Body::Bytes(bytes) => outbound.memory(bytes, true).await,
        Body::File { file, span } => outbound.span(&file, span, true).await,
        Body::Parts { file, parts, tail } => outbound.parts(&file, parts, tail).await,
        Body::Growing(growing) => outbound.growing(growing, answer.length).await,
    };
    outcome.ended(respond, &outbound, sent)
}

fn response(status: u16, fields: HeaderMap) -> ::http::Response<()> {
    let mut response = ::http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields;
    response
}

impl Outcome {
    fn hit() -> Self {
        Outcome {
            status: 200,
            cache: CacheResult::Hit,
            bytes: 0,
            cut: None,
        }
    }

    /// Returns the outcome of a request without a response.
    fn unanswered(cut: Cut) -> Self {
        Outcome {
            status: 0,
            cache: CacheResult::None,
            bytes: 0,
            cut: Some(cut),
        }
    }

    fn gone(self) -> Self {
        Outcome {
            cut: Some(Cut::Gone),
            ..self
        }
    }

    /// Records the outcome of the body. Resets a truncated body, so that the response does not look
    /// complete.
    fn ended<H: Handler>(
        self,
        respond: &mut SendResponse<Chunk>,
        outbound: &Outbound<'_, H>,
        sent: Result<(), Cut>,
    ) -> Self {
        match sent {
            Ok(()) | Err(Cut::Gone) => {}
            Err(Cut::Stalled) => respond.send_reset(Reason::CANCEL),
            Err(Cut::Aborted | Cut::File) => respond.send_reset(Reason::INTERNAL_ERROR),
        }
        Outcome {
            bytes: outbound.bytes(),
            cut: sent.err(),
            ..self
        }
    }

    fn record<H: Handler>(
        &self,
        shared: &Shared<H>,
        head: &RequestHead<'_>,
        details: &RequestDetails,
        arrival: &Arrival,
    ) {
        let server = &*shared.server;
        server.record(&Record {
            peer: shared.peer,
            head,
            details,
            stopwatch: &arrival.stopwatch,
            status: self.status,
            bytes: self.bytes,
            cache: self.cache,
            end: match self.cut {
                None => End::Complete,
                Some(cut) => End::cut(head, self.status, self.bytes, cut == Cut::Gone),
            },
        });
        if let Some(cut) = self.cut {
            tracing::debug!(id = %head.id, path = head.path, ?cut, "response truncated");
            if cut == Cut::File {
                server.handler.file_failed(head);
            }
        }
    }
}

/// Reads and discards the body of a request, up to [`LINGER_BYTES_MAX`] within `limit`.
async fn discard_body(body: &mut RecvStream, limit: Duration) {
    let all = async {
        let mut discarded = 0;
        while let Some(Ok(bytes)) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
            discarded += bytes.len();
            if discarded > LINGER_BYTES_MAX || body.flow_control().release_capacity(bytes.len()).is_err() {
                return;
            }
        }
    };
    let _ = monoio::time::timeout(limit, all).await;
}
