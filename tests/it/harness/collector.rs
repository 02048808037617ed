//! A collector of traces: a server for OTLP over http/protobuf with scripted failures, and a decoder
//! of its own for the messages.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::PATIENCE;

/// The behaviour of a collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answering {
    /// Answers each request with this status.
    Status(u16),
    /// Reads each request, and sends no response.
    Never,
}

/// A running collector. Its threads end with the test process.
pub struct Collector {
    addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    changed: Condvar,
}

/// A received request: its head as text, and its body.
#[derive(Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

/// A decoded span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// The ids in hexadecimal digits. The parent of a root is empty.
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// 1: internal, 2: server, 3: client.
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// The trace and the span of each link.
    pub links: Vec<(String, String)>,
    pub is_error: bool,
}

impl Span {
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

impl Collector {
    pub fn new(answering: Answering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let state = Arc::<State>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, answering, &state));
            }
        });
        Collector { addr, state }
    }

    /// Returns the value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Returns all received spans.
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests();
        requests
            .iter()
            .flat_map(|request| spans_of(&request.body))
            .collect()
    }

    /// Waits until the spans fulfil a condition, and returns the spans.
    #[track_caller]
    pub fn wait_spans(&self, what: &str, condition: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        let mut requests = self.state.requests.lock().unwrap();
        loop {
            let spans: Vec<Span> = requests
                .iter()
                .flat_map(|request| spans_of(&request.body))
                .collect();
            if condition(&spans) {
                return spans;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {PATIENCE:?}: {what}; {spans:#?}");
            requests = self.state.changed.wait_timeout(requests, left).unwrap().0;
        }
    }

    /// Waits until the collector has received a request.
    #[track_caller]
    pub fn wait_request(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut requests = self.state.requests.lock().unwrap();
        while requests.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no request within {PATIENCE:?}");
            requests = self.state.changed.wait_timeout(requests, left).unwrap().0;
        }
    }
}

/// Serves the requests of one connection.
fn serve(mut stream: TcpStream, answering: Answering, state: &State) {
    let mut received = Vec::new();
    while let Ok(Some(request)) = read_request(&mut stream, &mut received) {
        state.requests.lock().unwrap().push(request);
        state.changed.notify_all();
        let Answering::Status(status) = answering else {
            continue;
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a request with `Content-Length`. `None` at the end of the connection.
fn read_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim())
            });
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if received.len() >= end + 4 + length {
                let rest = received.split_off(end + 4 + length);
                let body = std::mem::replace(received, rest).split_off(end + 4);
                return Ok(Some(Request { head, body }));
            }
        }
        match super::uninterrupted(|| stream.read(&mut piece))? {
            0 => return Ok(None),
            read => received.extend_from_slice(&piece[..read]),
        }
    }
}

// === The messages ===

/// The fields of a protobuf message, in their order.
struct Message<'a>(Vec<(u64, Value<'a>)>);

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Decodes the wire format: varints, 64 and 32 bits, and bytes with a length.
    fn decode(mut bytes: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    Value::Bytes(take(&mut bytes, length))
                }
                5 => Value::Number(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap()).into()),
                other => panic!("the wire type {other} does not exist"),
            };
            fields.push((key >> 3, value));
        }
        Message(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(found, value)| match value {
            Value::Bytes(bytes) if *found == number => Some(*bytes),
            _ => None,
        })
    }

    fn messages(&self, number: u64) -> impl Iterator<Item = Message<'a>> {
        self.all(number).map(Message::decode)
    }

    fn text(&self, number: u64) -> String {
        let bytes = self.all(number).next().unwrap_or_default();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    fn hexadecimal(&self, number: u64) -> String {
        let bytes = self.all(number).next().unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&self, number: u64) -> u64 {
        let found = self.0.iter().find_map(|(found, value)| match value {
            Value::Number(value) if *found == number => Some(*value),
            _ => None,
        });
        found.unwrap_or(0)
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// Decodes an `ExportTraceServiceRequest`, with the numbers of the fields in `trace.proto` of OTLP.
fn spans_of(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in Message::decode(body).messages(1) {
        for scope in resource.messages(2) {
            spans.extend(scope.messages(2).map(|span| decoded(&span)));
        }
    }
    spans
}

fn decoded(span: &Message<'_>) -> Span {
    let attributes = span.messages(9).map(|pair| {
        let value = pair.messages(2).next().expect("a value");
        let text = match value.0.first() {
            Some((1, Value::Bytes(text))) => String::from_utf8(text.to_vec()).expect("text"),
            Some((3, Value::Number(number))) => number.to_string(),
            _ => panic!("neither a text nor a number"),
        };
        (pair.text(1), text)
    });
    Span {
        trace: span.hexadecimal(1),
        id: span.hexadecimal(2),
        parent: span.hexadecimal(4),
        name: span.text(5),
        kind: span.number(6),
        start: span.number(7),
        end: span.number(8),
        attributes: attributes.collect(),
        links: span
            .messages(13)
            .map(|link| (link.hexadecimal(1), link.hexadecimal(2)))
            .collect(),
        is_error: span.messages(15).any(|status| status.number(3) == 2),
    }
}
