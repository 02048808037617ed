//! An HTTP/2 client that sends exact frames and checks all frames received. A forbidden frame is
//! [`Why::Malformed`].

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::client::Why;
use super::hpack::{self, Decoder};
use super::{Fields, PATIENCE, field, uninterrupted};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 0x20;

/// Error codes (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// Identifiers of settings.
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;

/// The default of `SETTINGS_MAX_FRAME_SIZE`, in bytes.
const FRAME_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Frame {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the error code of an RST_STREAM or a GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let code = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(code.try_into().expect("four bytes")))
    }
}

pub fn settings(values: &[(u16, u32)]) -> Frame {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    Frame::new(SETTINGS, 0, 0, payload)
}

pub fn window_update(stream: u32, by: u32) -> Frame {
    Frame::new(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Frame {
    Frame::new(RST_STREAM, 0, stream, code.to_be_bytes())
}

/// Encodes the mandatory request fields and `fields`.
pub fn request_block(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let all: Vec<(&str, &str)> = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "cache.test"),
    ]
    .into_iter()
    .chain(fields.iter().copied())
    .collect();
    hpack::block(&all)
}

/// The response received on a stream.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    /// The response body.
    pub body: Vec<u8>,
    pub received: u64,
    /// Whether END_STREAM was received.
    pub ended: bool,
    /// The code of an RST_STREAM.
    pub reset: Option<u32>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    pub fn is_over(&self) -> bool {
        self.ended || self.reset.is_some()
    }

    /// Fails unless the response is a complete 200 with exactly `body`.
    #[track_caller]
    pub fn expect(&self, body: &[u8]) -> &Self {
        assert_eq!(
            (self.status, self.ended, self.reset),
            (200, true, None),
            "{self:?}"
        );
        assert!(
            self.body == body,
            "wrong body: got {}, expected {}",
            self.body.len(),
            body.len()
        );
        self
    }
}

enum Link {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Link {
    fn socket(&self) -> &TcpStream {
        match self {
            Link::Plain(socket) => socket,
            Link::Tls(tls) => &tls.sock,
        }
    }
}

/// A client connection.
pub struct Peer {
    link: Link,
    buffer: Vec<u8>,
    start: usize,
    decoder: Decoder,
    /// An incomplete header block: its stream, whether the block ends the stream, and its bytes.
    block: Option<(u32, bool, Vec<u8>)>,
    pub answers: BTreeMap<u32, Answer>,
    /// Whether received data is credited back with WINDOW_UPDATE.
    pub generous: bool,
    /// The last stream and the code of each GOAWAY.
    pub goaways: Vec<(u32, u32)>,
    /// The longest payload that the server may send.
    frame_bytes_max: usize,
    next: u32,
    /// Bytes that are not sent yet, see [`Peer::hold`].
    held: Option<Vec<u8>>,
}

impl Peer {
    /// Connects and sends nothing.
    #[track_caller]
    pub fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)
            .unwrap_or_else(|error| panic!("connect to {addr}: {error}"));
        Self::over(stream)
    }

    /// Connects like [`Peer::begin_with`], with a receive buffer of this size.
    #[track_caller]
    pub fn begin_narrow(addr: SocketAddr, receive_buffer_bytes: usize, values: &[(u16, u32)]) -> Self {
        let domain = socket2::Domain::for_address(addr);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(receive_buffer_bytes).expect("a size");
        socket.connect(&addr.into()).expect("the server listens");
        Self::over(socket.into()).exchange_settings(values)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Peer {
            link: Link::Plain(stream),
            buffer: Vec::new(),
            start: 0,
            decoder: Decoder::default(),
            block: None,
            answers: BTreeMap::new(),
            generous: true,
            goaways: Vec::new(),
            frame_bytes_max: FRAME_BYTES,
            next: 1,
            held: None,
        }
    }

    /// Connects and sends the preface and settings, without waiting for the server's settings.
    pub fn try_begin(addr: SocketAddr) -> Result<Self, Why> {
        let mut peer = Self::over(TcpStream::connect_timeout(&addr, PATIENCE)?);
        peer.raw(&[PREFACE, &settings(&[]).bytes()].concat())?;
        Ok(peer)
    }

    /// Connects, exchanges prefaces and settings.
    #[track_caller]
    pub fn begin(addr: SocketAddr) -> Self {
        Self::begin_with(addr, &[])
    }

    #[track_caller]
    pub fn begin_with(addr: SocketAddr, values: &[(u16, u32)]) -> Self {
        Self::open(addr).exchange_settings(values)
    }

    /// Connects with TLS, expects a certificate for `localhost`, and negotiates HTTP/2.
    #[track_caller]
    pub fn begin_tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        Self::over_tls(addr, config)
            .expect("a handshake")
            .exchange_settings(&[])
    }

    /// Connects like [`Peer::try_begin`], over TLS.
    pub fn try_begin_tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> Result<Self, Why> {
        let mut peer = Self::over_tls(addr, config)?;
        peer.raw(&[PREFACE, &settings(&[]).bytes()].concat())?;
        Ok(peer)
    }

    fn over_tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let mut peer = Self::over(TcpStream::connect_timeout(&addr, PATIENCE)?);
        let Link::Plain(mut socket) = peer.link else {
            unreachable!("just opened")
        };
        let name = "localhost".try_into().expect("a name");
        let mut session = rustls::ClientConnection::new(config, name).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        peer.link = Link::Tls(Box::new(rustls::StreamOwned::new(session, socket)));
        Ok(peer)
    }

    #[track_caller]
    fn exchange_settings(self, values: &[(u16, u32)]) -> Self {
        let mut peer = self;
        if let Some((_, most)) = values.iter().find(|(name, _)| *name == MAX_FRAME_SIZE) {
            peer.frame_bytes_max = *most as usize;
        }
        peer.raw(&[PREFACE, &settings(values).bytes()].concat()).unwrap();
        let first = peer.frame().expect("the server sends SETTINGS first");
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
        peer.send(&Frame::new(SETTINGS, ACK, 0, [])).unwrap();
        loop {
            let frame = peer.frame().expect("the server acknowledges SETTINGS");
            if frame.kind == SETTINGS {
                assert!(frame.has(ACK), "{frame:?}");
                return peer;
            }
        }
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.link
            .socket()
            .set_read_timeout(Some(timeout))
            .expect("not zero");
    }

    /// Collects the following frames. They are sent together on [`Peer::release`], or before this
    /// peer reads.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Sends the held frames.
    pub fn release(&mut self) -> std::io::Result<()> {
        match self.held.take() {
            Some(bytes) => self.raw(&bytes),
            None => Ok(()),
        }
    }

    pub fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            return Ok(());
        }
        match &mut self.link {
            Link::Plain(socket) => socket.write_all(bytes),
            Link::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    pub fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        self.raw(&frame.bytes())
    }

    /// Sends a request without a body on the next stream. Returns the stream's number.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u32 {
        let id = self.next_id();
        let block = request_block(method, path, fields);
        self.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, id, block))
            .unwrap();
        id
    }

    pub fn next_id(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        id
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        let id = self.request("GET", path, &[]);
        self.answer(id)
    }

    /// Waits until the response on `id` ends. Frames of other streams are processed meanwhile.
    #[track_caller]
    pub fn answer(&mut self, id: u32) -> Answer {
        while !self.answers.get(&id).is_some_and(Answer::is_over) {
            if let Err(why) = self.step() {
                panic!("stream {id}: {why:?}, so far {:?}", self.answers.get(&id));
            }
        }
        self.answers.remove(&id).expect("just found")
    }

    /// Waits for the head of the response on `id`.
    #[track_caller]
    pub fn head(&mut self, id: u32) -> &Answer {
        while self.answers.get(&id).is_none_or(|answer| answer.status == 0) {
            self.step().unwrap_or_else(|why| panic!("stream {id}: {why:?}"));
        }
        &self.answers[&id]
    }

    /// Reads and processes a frame. A forbidden frame is an error.
    pub fn step(&mut self) -> Result<Frame, Why> {
        let frame = self.frame()?;
        self.note(&frame)?;
        Ok(frame)
    }

    /// Records a frame in the state of its stream, and sends a mandatory acknowledgement.
    pub fn note(&mut self, frame: &Frame) -> Result<(), Why> {
        let malformed = |what: &str| Err(Why::Malformed(what.into()));
        if self.block.is_some() && frame.kind != CONTINUATION {
            return malformed("an interrupted header block");
        }
        match frame.kind {
            HEADERS => {
                if frame.flags & (PADDED | PRIORITIZED) != 0 {
                    return malformed("padding or priority");
                }
                self.block = Some((frame.stream, frame.has(END_STREAM), frame.payload.clone()));
                self.end_block(frame)?;
            }
            CONTINUATION => {
                match &mut self.block {
                    Some((stream, _, block)) if *stream == frame.stream => {
                        block.extend_from_slice(&frame.payload);
                    }
                    _ => return malformed("CONTINUATION without a header block"),
                }
                self.end_block(frame)?;
            }
            DATA => {
                if frame.has(PADDED) {
                    return malformed("padding");
                }
                let answer = self.answers.entry(frame.stream).or_default();
                if answer.status == 0 || answer.is_over() {
                    return malformed("DATA before the head or after the end");
                }
                answer.body.extend_from_slice(&frame.payload);
                answer.received += frame.payload.len() as u64;
                answer.ended = frame.has(END_STREAM);
                let over = answer.ended;
                if self.generous && !frame.payload.is_empty() {
                    let by = frame.payload.len() as u32;
                    let mut updates = window_update(0, by).bytes();
                    if !over {
                        updates.extend_from_slice(&window_update(frame.stream, by).bytes());
                    }
                    self.raw(&updates)?;
                }
            }
            RST_STREAM => {
                let answer = self.answers.entry(frame.stream).or_default();
                // An RST_STREAM after a complete response concerns only the request.
                if !answer.ended {
                    answer.reset = frame.code();
                }
            }
            SETTINGS if !frame.has(ACK) => self.send(&Frame::new(SETTINGS, ACK, 0, []))?,
            PING if !frame.has(ACK) => {
                self.send(&Frame::new(PING, ACK, 0, frame.payload.clone()))?;
            }
            GOAWAY => {
                let last = frame.payload.first_chunk().map(|last| u32::from_be_bytes(*last));
                let (Some(last), Some(code)) = (last, frame.code()) else {
                    return malformed("a GOAWAY frame that is too short");
                };
                if self.goaways.last().is_some_and(|(before, _)| *before < last) {
                    return malformed("a GOAWAY frame with a larger stream than the previous GOAWAY");
                }
                self.goaways.push((last, code));
            }
            PUSH_PROMISE | PRIORITY => return malformed("an unexpected PUSH_PROMISE or PRIORITY frame"),
            _ => {}
        }
        Ok(())
    }

    fn end_block(&mut self, frame: &Frame) -> Result<(), Why> {
        if !frame.has(END_HEADERS) {
            return Ok(());
        }
        let (stream, end, block) = self.block.take().expect("a header block is open");
        let fields = self.decoder.decode(&block).map_err(Why::Malformed)?;
        let answer = self.answers.entry(stream).or_default();
        if answer.status != 0 {
            return Err(Why::Malformed("a second head".into()));
        }
        let malformed = |what: String| Err(Why::Malformed(what));
        let Some((":status", status)) = fields.first().map(|(name, value)| (name.as_str(), value)) else {
            return malformed(format!("the first field is not :status: {fields:?}"));
        };
        answer.status = String::from_utf8_lossy(status).parse().unwrap_or(0);
        if !(200..600).contains(&answer.status) {
            return malformed(format!("an invalid :status: {fields:?}"));
        }
        for (name, value) in &fields[1..] {
            let hop = ["connection", "keep-alive", "transfer-encoding", "upgrade"];
            if name.starts_with(':')
                || hop.contains(&name.as_str())
                || name.bytes().any(|b| b.is_ascii_uppercase())
            {
                return malformed(format!("{name} in a response"));
            }
            if value.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
                return malformed(format!("control characters in {name}"));
            }
        }
        answer.fields = fields[1..].to_vec();
        answer.ended = end;
        Ok(())
    }

    /// Reads a frame.
    pub fn frame(&mut self) -> Result<Frame, Why> {
        self.have(9)?;
        let head = &self.buffer[self.start..self.start + 9];
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if length > self.frame_bytes_max || stream > i32::MAX as u32 {
            return Err(Why::Malformed(format!(
                "a frame of {length} bytes, stream {stream}"
            )));
        }
        self.have(9 + length)?;
        let payload = self.buffer[self.start + 9..self.start + 9 + length].to_vec();
        self.start += 9 + length;
        Ok(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    fn have(&mut self, bytes: usize) -> Result<(), Why> {
        self.release()?;
        while self.buffer.len() - self.start < bytes {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            let len = self.buffer.len();
            self.buffer.resize(len + 64 * 1024, 0);
            let got = uninterrupted(|| match &mut self.link {
                Link::Plain(socket) => socket.read(&mut self.buffer[len..]),
                Link::Tls(tls) => tls.read(&mut self.buffer[len..]),
            });
            self.buffer.truncate(len + *got.as_ref().unwrap_or(&0));
            if got? == 0 {
                return Err(if len == 0 { Why::NoResponse } else { Why::Truncated });
            }
        }
        Ok(())
    }

    /// Sends a PING and waits for its acknowledgement. The server has then processed all earlier
    /// frames.
    #[track_caller]
    pub fn ping(&mut self) {
        self.try_ping().expect("the server acknowledges a PING");
    }

    pub fn try_ping(&mut self) -> Result<(), Why> {
        self.send(&Frame::new(PING, 0, 0, *b"sequence"))?;
        loop {
            let frame = self.step()?;
            if frame.kind == PING && frame.has(ACK) {
                return Ok(());
            }
        }
    }

    /// Reads until the server closes the connection. Returns the code of its GOAWAY, if received.
    pub fn until_closed(&mut self) -> (Option<u32>, Why) {
        let mut code = None;
        loop {
            match self.frame() {
                Ok(frame) if frame.kind == GOAWAY => code = frame.code(),
                Ok(_) => {}
                Err(why) => return (code, why),
            }
        }
    }

    /// Processes frames until the server closes the connection.
    pub fn until_ended(&mut self) -> Why {
        loop {
            if let Err(why) = self.step() {
                return why;
            }
        }
    }

    /// Shuts down the sending direction. Responses can still arrive.
    pub fn finish_sending(&self) {
        let _ = self.link.socket().shutdown(Shutdown::Write);
    }

    /// Returns a second handle to the same socket, for writes from another thread.
    pub fn writer(&self) -> TcpStream {
        self.link.socket().try_clone().expect("a descriptor")
    }
}
