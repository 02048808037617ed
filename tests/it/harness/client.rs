//! A client that sends exact bytes and verifies everything in a response.
//!
//! The parser is stricter than the parser of any real client. Anything that is not clearly allowed
//! is [`Broken`].

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::content::PseudoRandom;
use super::{Fields, Gate, PATIENCE, field, uninterrupted};

/// The maximum length of a response head.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    /// The body. Empty if the body was streamed to a sink.
    pub body: Vec<u8>,
    /// The number of body bytes received, including bytes passed to a sink.
    pub received: u64,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    pub fn fields_named(&self, name: &str) -> Vec<&[u8]> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_slice())
            .collect()
    }

    pub fn content_length(&self) -> Option<u64> {
        self.field("content-length").and_then(|text| text.parse().ok())
    }

    /// Returns the value of `X-Cache`, or an empty string.
    pub fn x_cache(&self) -> &str {
        self.field("x-cache").unwrap_or_default()
    }

    /// Fails unless the status is 200 and the body equals `body`.
    #[track_caller]
    pub fn expect(&self, body: &[u8]) -> &Self {
        assert_eq!(self.status, 200, "{self}");
        assert!(
            self.body == body,
            "wrong body: got {}, expected {}",
            self.body.len(),
            body.len()
        );
        self
    }

    /// Fails unless the response is an OCI error with this status and code.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> &Self {
        assert_eq!(self.status, status, "{self}");
        let json: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body is not an OCI error, {error}: {self}"));
        assert_eq!(json["errors"][0]["code"], code, "{self}");
        let kind = self.field("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{self}");
        self
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "status {}", self.status)?;
        for (name, value) in &self.fields {
            writeln!(f, "{name}: {}", value.escape_ascii())?;
        }
        write!(f, "{}", self.body[..self.body.len().min(400)].escape_ascii())
    }
}

/// The reason for an incomplete response, and the parts received.
#[derive(Debug)]
pub struct Broken {
    pub why: Why,
    /// The head with an empty body, if the head is complete.
    pub head: Option<Box<Response>>,
    /// The number of body bytes received before the failure.
    pub received: u64,
    /// The body bytes received without a sink.
    pub body: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Why {
    /// The connection ended before the first byte of a response.
    NoResponse,
    /// The connection ended (FIN) before the head or body was complete.
    Truncated,
    /// The connection was reset.
    Reset,
    /// No byte arrived within [`PATIENCE`].
    Timeout,
    /// The bytes are not a strict HTTP/1.1 response.
    Malformed(String),
    /// The sink stopped the transfer.
    Stopped,
    /// The body differs from the sink's expected content, first at this offset.
    WrongByte(u64),
    Io(String),
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Why::Reset
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Why::Timeout,
            _ => Why::Io(error.to_string()),
        }
    }
}

/// The decision of a sink after a piece of body.
pub enum Flow {
    Go,
    Stop,
    Wrong(u64),
}

/// The byte stream of a connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(tls) => &tls.sock,
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(bytes),
            Wire::Tls(tls) => tls.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

/// A connection. Bytes of the next response stay buffered.
pub struct Connection {
    stream: Wire,
    buffer: Vec<u8>,
    /// The offset of the first unread byte in `buffer`.
    start: usize,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::from_stream(TcpStream::connect_timeout(&addr, PATIENCE)?)
    }

    /// Connects with TLS, expects a certificate for `localhost`, and completes the handshake.
    pub fn open_tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let mut connection = Self::open(addr)?;
        let Wire::Plain(mut stream) = connection.stream else {
            unreachable!("just opened")
        };
        let name = "localhost".try_into().expect("a name");
        let mut session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        connection.stream = Wire::Tls(Box::new(rustls::StreamOwned::new(session, stream)));
        Ok(connection)
    }

    /// Returns the TLS session of the connection.
    #[track_caller]
    pub fn session(&self) -> &rustls::ClientConnection {
        match &self.stream {
            Wire::Tls(tls) => &tls.conn,
            Wire::Plain(_) => panic!("a plain connection has no session"),
        }
    }

    /// Connects with a small receive buffer, so that the sender soon blocks if the client stops
    /// reading.
    pub fn open_narrow(addr: SocketAddr, receive_buffer_bytes: usize) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(addr);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(receive_buffer_bytes)?;
        socket.connect(&addr.into())?;
        Self::from_stream(socket.into())
    }

    /// Connects from a given address of this machine, such as another address of the loopback
    /// network.
    pub fn open_from(source: std::net::Ipv4Addr, addr: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&addr.into(), PATIENCE)?;
        Self::from_stream(socket.into())
    }

    fn from_stream(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection {
            stream: Wire::Plain(stream),
            buffer: Vec::new(),
            start: 0,
        })
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream
            .tcp()
            .set_read_timeout(Some(timeout))
            .expect("a non-zero timeout");
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.tcp().local_addr().expect("connected")
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request with these fields.
    pub fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)]) -> io::Result<()> {
        self.send(&request_bytes(method, target, fields))
    }

    /// Shuts down the sending direction. Responses can still arrive.
    pub fn finish_sending(&self) {
        let _ = self.stream.tcp().shutdown(Shutdown::Write);
    }

    /// Closes the connection with a reset.
    pub fn abort(self) {
        let _ = socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
    }

    /// Reads a complete response. `method` decides whether a body follows.
    pub fn read(&mut self, method: &str) -> Result<Response, Broken> {
        let mut body = Vec::new();
        let result = self.read_into(method, &mut |_, piece| {
            body.extend_from_slice(piece);
            Flow::Go
        });
        match result {
            Ok(response) => Ok(Response { body, ..response }),
            Err(broken) => Err(Broken { body, ..broken }),
        }
    }

    /// Reads a response and passes each piece of body, with its offset in the body, to `sink`.
    pub fn read_into(
        &mut self,
        method: &str,
        sink: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<Response, Broken> {
        let head = match self.read_head() {
            Ok(head) => head,
            Err(why) => {
                return Err(Broken {
                    why,
                    head: None,
                    received: 0,
                    body: Vec::new(),
                });
            }
        };
        self.read_body(head, method, sink)
    }

    /// Reads the head of a response and leaves its body to [`Connection::read_body`].
    pub fn read_head(&mut self) -> Result<Response, Why> {
        let end = loop {
            let unread = &self.buffer[self.start..];
            if let Some(at) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if unread.len() > HEAD_BYTES_MAX {
                return Err(Why::Malformed("the head is too long".into()));
            }
            let empty = unread.is_empty();
            if self.fill()? == 0 {
                return Err(if empty { Why::NoResponse } else { Why::Truncated });
            }
        };
        let head = parse_head(&self.buffer[self.start..self.start + end]).map_err(Why::Malformed)?;
        self.start += end + 4;
        Ok(head)
    }

    /// Reads the body of `head`.
    pub fn read_body(
        &mut self,
        mut head: Response,
        method: &str,
        sink: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<Response, Broken> {
        let mut at = 0;
        match self.body(&head, method, &mut at, sink) {
            Ok(received) => {
                head.received = received;
                Ok(head)
            }
            Err((why, received)) => Err(Broken {
                why,
                head: Some(Box::new(head)),
                received,
                body: Vec::new(),
            }),
        }
    }

    fn body(
        &mut self,
        head: &Response,
        method: &str,
        at: &mut u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, (Why, u64)> {
        let lengths = head.fields_named("content-length");
        let codings = head.fields_named("transfer-encoding");
        let malformed = |text: &str| (Why::Malformed(text.into()), 0);
        if lengths.len() > 1 || codings.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
            return Err(malformed("ambiguous framing"));
        }
        let length = match lengths.first() {
            Some(text) if !text.is_empty() && text.iter().all(u8::is_ascii_digit) => {
                let text = std::str::from_utf8(text).expect("digits");
                Some(
                    text.parse::<u64>()
                        .map_err(|_| malformed("Content-Length out of range"))?,
                )
            }
            Some(_) => return Err(malformed("bad Content-Length")),
            None => None,
        };
        if method == "HEAD" || head.status == 304 || head.status == 204 {
            return Ok(0);
        }
        match (length, codings.first()) {
            (Some(length), None) => self.take(length, at, sink),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => self.chunks(at, sink),
            (None, Some(_)) => Err(malformed("unknown transfer coding")),
            (None, None) => {
                if !head
                    .field("connection")
                    .is_some_and(|c| c.eq_ignore_ascii_case("close"))
                {
                    return Err(malformed("neither Content-Length nor `Connection: close`"));
                }
                self.until_end(at, sink)
            }
            (Some(_), Some(_)) => unreachable!("ambiguous framing is rejected above"),
        }
    }

    fn take(
        &mut self,
        mut left: u64,
        at: &mut u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, (Why, u64)> {
        while left > 0 {
            if self.start == self.buffer.len() {
                match self.fill() {
                    Ok(0) => return Err((Why::Truncated, *at)),
                    Ok(_) => {}
                    Err(why) => return Err((why, *at)),
                }
            }
            let n = left.min((self.buffer.len() - self.start) as u64);
            let piece = &self.buffer[self.start..self.start + n as usize];
            let flow = sink(*at, piece);
            self.start += n as usize;
            *at += n;
            left -= n;
            match flow {
                Flow::Go => {}
                Flow::Stop => return Err((Why::Stopped, *at)),
                Flow::Wrong(offset) => return Err((Why::WrongByte(offset), *at)),
            }
        }
        Ok(*at)
    }

    fn chunks(&mut self, at: &mut u64, sink: &mut dyn FnMut(u64, &[u8]) -> Flow) -> Result<u64, (Why, u64)> {
        loop {
            let line = self.line(*at)?;
            let valid = !line.is_empty() && line.len() <= 16 && line.iter().all(u8::is_ascii_hexdigit);
            let size = valid
                .then(|| u64::from_str_radix(std::str::from_utf8(&line).ok()?, 16).ok())
                .flatten();
            let Some(size) = size else {
                return Err((Why::Malformed("bad chunk size".into()), *at));
            };
            if size > 0 {
                self.take(size, at, sink)?;
            }
            if !self.line(*at)?.is_empty() {
                return Err((
                    Why::Malformed("a chunk that exceeds its size, or a trailer".into()),
                    *at,
                ));
            }
            if size == 0 {
                return Ok(*at);
            }
        }
    }

    fn until_end(
        &mut self,
        at: &mut u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, (Why, u64)> {
        loop {
            let n = (self.buffer.len() - self.start) as u64;
            self.take(n, at, sink)?;
            match self.fill() {
                Ok(0) => return Ok(*at),
                Ok(_) => {}
                Err(why) => return Err((why, *at)),
            }
        }
    }

    fn line(&mut self, at: u64) -> Result<Vec<u8>, (Why, u64)> {
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(end) = unread.windows(2).position(|w| w == b"\r\n") {
                let line = unread[..end].to_vec();
                self.start += end + 2;
                return Ok(line);
            }
            if unread.len() > 4096 {
                return Err((Why::Malformed("a line without an end".into()), at));
            }
            match self.fill() {
                Ok(0) => return Err((Why::Truncated, at)),
                Ok(_) => {}
                Err(why) => return Err((why, at)),
            }
        }
    }

    fn fill(&mut self) -> Result<usize, Why> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let len = self.buffer.len();
        // Large reads, so that the harness does not distort the figures that tests check.
        self.buffer.resize(len + 256 * 1024, 0);
        let result = uninterrupted(|| self.stream.read(&mut self.buffer[len..]));
        self.buffer.truncate(len + *result.as_ref().unwrap_or(&0));
        Ok(result?)
    }

    /// Returns received bytes that do not belong to any response yet. Does not wait for more.
    pub fn extra(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Waits until the peer closes. Returns the unread bytes and the kind of close.
    pub fn read_to_close(&mut self) -> (Vec<u8>, Why) {
        loop {
            match self.fill() {
                Ok(0) => return (self.buffer.split_off(self.start), Why::Truncated),
                Ok(_) => {}
                Err(why) => return (self.buffer.split_off(self.start), why),
            }
        }
    }
}

/// Returns the bytes of a request, with a `Host` field unless `fields` contains one.
pub fn request_bytes(method: &str, target: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        bytes.extend_from_slice(b"Host: cache.test\r\n");
    }
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn parse_head(head: &[u8]) -> Result<Response, String> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let bad = |line: &[u8]| format!("bad line `{}`", line.escape_ascii());
    let status_line = lines[0];
    let status = status_line
        .strip_prefix(b"HTTP/1.1 ")
        .filter(|rest| rest.len() >= 4 && rest[3] == b' ')
        .and_then(|rest| std::str::from_utf8(&rest[..3]).ok())
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse::<u16>().ok())
        .filter(|status| (200..600).contains(status))
        .ok_or_else(|| bad(status_line))?;
    let mut fields = Fields::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|&b| b == b':').ok_or_else(|| bad(line))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) {
            return Err(bad(line));
        }
        // Rejects every control byte except tab, including a bare CR or LF, and every byte that
        // clients interpret differently.
        if value.iter().any(|&b| (b < 0x20 && b != b'\t') || b >= 0x7f) {
            return Err(bad(line));
        }
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Ok(Response {
        status,
        fields,
        body: Vec::new(),
        received: 0,
    })
}

/// A client with a new connection per request, for tests in which the connection does not matter.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub addr: SocketAddr,
    /// The TLS configuration. Leaked, because test processes are short-lived.
    tls: Option<&'static Arc<rustls::ClientConfig>>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Client { addr, tls: None }
    }

    /// Creates a client that uses TLS.
    pub fn with_tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        Client {
            addr,
            tls: Some(Box::leak(Box::new(config))),
        }
    }

    #[track_caller]
    pub fn open(&self) -> Connection {
        self.connect()
            .unwrap_or_else(|error| panic!("connect to {}: {error}", self.addr))
    }

    /// Sends a request and reads its response.
    pub fn try_request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Response, Broken> {
        let mut connection = self.try_open()?;
        if let Err(error) = connection.request(method, path, fields) {
            return Err(Broken {
                why: error.into(),
                head: None,
                received: 0,
                body: Vec::new(),
            });
        }
        connection.read(method)
    }

    pub fn connect(&self) -> io::Result<Connection> {
        match self.tls {
            None => Connection::open(self.addr),
            Some(config) => Connection::open_tls(self.addr, config.clone()),
        }
    }

    fn try_open(&self) -> Result<Connection, Broken> {
        self.connect().map_err(|error| Broken {
            why: error.into(),
            head: None,
            received: 0,
            body: Vec::new(),
        })
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        match self.try_request(method, path, fields) {
            Ok(response) => response,
            Err(broken) => panic!("{method} {path}: {broken:?}"),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    #[track_caller]
    pub fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.request("GET", path, fields)
    }

    #[track_caller]
    pub fn head(&self, path: &str) -> Response {
        self.request("HEAD", path, &[])
    }

    pub fn try_get(&self, path: &str) -> Result<Response, Broken> {
        self.try_request("GET", path, &[])
    }

    /// Streams a body and compares it with `content` from `offset` on. A clean end does not imply
    /// complete content; see [`Response::received`].
    pub fn try_pull(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        content: &PseudoRandom,
        offset: u64,
    ) -> Result<Response, Broken> {
        self.pull_pieces(
            path,
            fields,
            &mut |at, piece| match content.compare(offset + at, piece) {
                Ok(()) => Flow::Go,
                Err(wrong) => Flow::Wrong(wrong),
            },
        )
    }

    /// Streams a body and passes each piece with its offset to `take`.
    pub fn pull_pieces(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        take: &mut dyn FnMut(u64, &[u8]) -> Flow,
    ) -> Result<Response, Broken> {
        let mut connection = self.try_open()?;
        if let Err(error) = connection.request("GET", path, fields) {
            return Err(Broken {
                why: error.into(),
                head: None,
                received: 0,
                body: Vec::new(),
            });
        }
        // The body of an error is not content. A comparison would report the wrong failure.
        let head = connection.read_head().map_err(|why| Broken {
            why,
            head: None,
            received: 0,
            body: Vec::new(),
        })?;
        if head.status >= 300 {
            let mut body = Vec::new();
            let response = connection.read_body(head, "GET", &mut |_, piece| {
                body.extend_from_slice(piece);
                Flow::Go
            })?;
            return Ok(Response { body, ..response });
        }
        connection.read_body(head, "GET", take)
    }

    /// Streams the complete `content` and fails on any deviation.
    #[track_caller]
    pub fn pull(&self, path: &str, content: &PseudoRandom) -> Response {
        match self.try_pull(path, &[], content, 0) {
            Ok(response) => {
                assert_eq!(response.status, 200, "GET {path}: {response}");
                assert_eq!(response.received, content.size, "GET {path}");
                response
            }
            Err(broken) => panic!("GET {path}: {broken:?}"),
        }
    }

    /// Requests a body that the upstream holds at `gate`, opens the gate after the head, and returns
    /// the failure of the body. Without the gate, the cache may find the failure before it sends the
    /// head, and then sends a clean error response.
    #[track_caller]
    pub fn get_broken(&self, path: &str, gate: &Gate) -> Broken {
        let mut connection = self.open();
        connection.request("GET", path, &[]).expect("send");
        let head = connection.read_head().expect("the head comes first");
        assert_eq!(head.status, 200, "GET {path}: {head}");
        gate.open();
        let body = connection.read_body(head, "GET", &mut |_, _| Flow::Go);
        body.expect_err("the body is incomplete")
    }

    /// Reads at least `bytes` of body, then resets the connection.
    #[track_caller]
    pub fn get_and_abort(&self, path: &str, bytes: u64) {
        let mut connection = self.open();
        connection.request("GET", path, &[]).expect("send");
        let result = connection.read_into("GET", &mut |at, piece| {
            if at + piece.len() as u64 >= bytes {
                Flow::Stop
            } else {
                Flow::Go
            }
        });
        assert!(
            !matches!(&result, Err(broken) if broken.why != Why::Stopped),
            "GET {path}: {result:?}"
        );
        connection.abort();
    }
}
