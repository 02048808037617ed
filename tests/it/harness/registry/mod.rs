//! A fake registry with scripted failures and a log of all requests.
//!
//! Implements HTTP/1.1 by hand over blocking sockets, one thread per connection. A test adds
//! content, scripts deviations with rules ([`On`] selects requests, [`Reply`] defines the answer),
//! and then reads the log. Without rules, the registry behaves correctly.
//!
//! Every repository contains every blob, unless [`Behaviour::blobs_belong`] is set. Manifests and
//! tags belong to a repository. `/cdn/<digest>` serves blobs like a content delivery network behind
//! a redirect, without registry headers or authorization. [`access`] contains authentication and
//! access rights, [`behaviour`] the deviations of real registries.

pub mod access;
pub mod behaviour;
mod script;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::access::Access;
pub use self::access::{Auth, Scheme, TokenField};
use self::behaviour::Signatures;
pub use self::behaviour::{Behaviour, Budget, Preset};
pub use self::script::{Cut, Framing, Gate, On, Range, Reply};
use super::content::Content;
use super::{Fields, PATIENCE, Port, field, uninterrupted};

/// The largest accepted request head, far above any request of the cache.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// The largest accepted request body. Only token services receive bodies.
const REQUEST_BODY_BYTES_MAX: u64 = 64 * 1024;
/// The maximum number of body bytes per write.
const PIECE_BYTES: u64 = 64 * 1024;

// === Requests ===

/// The kind of resource at a request's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ping,
    Manifest,
    Blob,
    Token,
    Cdn,
    Other,
}

/// A request as received, and the progress of its answer.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The index of the listener that received the request. The first listener has index 0.
    pub listener: usize,
    pub kind: Kind,
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub at: Instant,
    /// The status sent. 0 before the head is sent.
    pub status: u16,
    /// The number of body bytes passed to the kernel so far.
    pub sent: u64,
    /// Whether the answer ended, complete or not.
    pub done: bool,
}

impl RecordedRequest {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    pub fn has_range(&self) -> bool {
        self.field("range").is_some()
    }

    pub fn is_get(&self, fragment: &str) -> bool {
        self.method == "GET" && self.target.contains(fragment)
    }

    /// Whether the request reads a single byte of a blob. The cache checks a client's right to a
    /// blob with such requests.
    pub fn is_probe(&self) -> bool {
        self.field("range") == Some("bytes=0-0")
    }

    /// Whether the request contains `text`, plain or percent-encoded.
    pub fn holds(&self, text: &str) -> bool {
        let within = |bytes: &[u8]| {
            let bytes = String::from_utf8_lossy(bytes);
            bytes.contains(text) || percent_decoded(&bytes).contains(text)
        };
        within(self.target.as_bytes())
            || within(&self.body)
            || self
                .fields
                .iter()
                .any(|(name, value)| name.contains(text) || within(value))
    }
}

// === The registry ===

pub struct Registry {
    inner: Arc<Inner>,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    port: Port,
    /// Set while the listener is up.
    up: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    first: Option<SocketAddr>,
    blobs: HashMap<String, Content>,
    manifests: HashMap<(String, String), (Content, String)>,
    tags: HashMap<(String, String), String>,
    /// The repositories of each blob. Only used with [`Behaviour::blobs_belong`].
    members: HashMap<String, HashSet<String>>,
    rules: Vec<(On, Reply)>,
    access: Access,
    behaviour: Behaviour,
    signatures: Signatures,
    log: Vec<RecordedRequest>,
    streams: HashMap<usize, TcpStream>,
    streams_opened: usize,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl Registry {
    /// Starts a registry on a free loopback port.
    pub fn new() -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let registry = Registry {
            inner,
            listeners: Mutex::default(),
        };
        let first = registry.add_listener();
        registry.state().first = Some(first);
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock()
    }

    /// Adds another origin with the same content. Its index in the log is the order of creation.
    pub fn add_listener(&self) -> SocketAddr {
        let port = Port::new();
        let addr = port.addr();
        let mut listeners = self.listeners.lock().unwrap();
        let up = Some(accept_on(port.listen(), listeners.len(), self.inner.clone()));
        listeners.push(Listener { port, up });
        addr
    }

    pub fn addr(&self) -> SocketAddr {
        self.listeners.lock().unwrap()[0].port.addr()
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.lock().unwrap();
        listeners.iter().map(|listener| listener.port.addr()).collect()
    }

    /// Returns the registry's name in paths and `ns=`: `127.0.0.1:<port>`.
    pub fn name(&self) -> String {
        self.addr().to_string()
    }

    /// Returns the path of a blob of this registry in the cache.
    pub fn blob_url(&self, repository: &str, digest: &str) -> String {
        format!("/v2/{}/{repository}/blobs/{digest}", self.name())
    }

    /// Returns the path of a manifest of this registry in the cache, by tag or digest.
    pub fn manifest_url(&self, repository: &str, reference: &str) -> String {
        format!("/v2/{}/{repository}/manifests/{reference}", self.name())
    }

    /// Refuses new connections and closes existing connections until [`Registry::up`].
    pub fn down(&self) {
        for listener in self.listeners.lock().unwrap().iter_mut() {
            if let Some((stop, thread)) = listener.up.take() {
                stop.store(true, Ordering::Relaxed);
                let _ = TcpStream::connect(listener.port.addr());
                thread.join().expect("the accept loop does not panic");
            }
        }
        for (_, stream) in self.state().streams.drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again, on the same ports.
    pub fn up(&self) {
        for (index, listener) in self.listeners.lock().unwrap().iter_mut().enumerate() {
            if listener.up.is_none() {
                listener.up = Some(accept_on(listener.port.listen(), index, self.inner.clone()));
            }
        }
    }

    // --- Content ---

    /// Adds a blob. Returns its digest.
    pub fn blob(&self, content: impl Into<Content>) -> String {
        let content = content.into();
        let digest = content.digest();
        self.state().blobs.insert(digest.clone(), content);
        digest
    }

    /// Adds a blob to a repository. Returns its digest.
    pub fn blob_in(&self, repository: &str, content: impl Into<Content>) -> String {
        let digest = self.blob(content);
        self.mount(repository, &digest);
        digest
    }

    /// Adds an existing blob to another repository.
    pub fn mount(&self, repository: &str, digest: &str) {
        let mut state = self.state();
        let members = state.members.entry(digest.into()).or_default();
        members.insert(repository.into());
    }

    /// Serves `content` as the blob `digest`, even if the digest is wrong.
    pub fn blob_as(&self, digest: &str, content: impl Into<Content>) {
        self.state().blobs.insert(digest.into(), content.into());
    }

    /// Adds a manifest. Returns its digest.
    pub fn manifest(&self, repository: &str, media_type: &str, content: impl Into<Content>) -> String {
        let content = content.into();
        let digest = content.digest();
        self.manifest_as(repository, &digest, media_type, content);
        digest
    }

    /// Serves `content` as the manifest `digest`, even if the digest is wrong.
    pub fn manifest_as(&self, repository: &str, digest: &str, media_type: &str, content: impl Into<Content>) {
        let key = (repository.to_owned(), digest.to_owned());
        self.state()
            .manifests
            .insert(key, (content.into(), media_type.into()));
    }

    /// Creates or moves a tag.
    pub fn tag(&self, repository: &str, tag: &str, digest: &str) {
        self.state()
            .tags
            .insert((repository.into(), tag.into()), digest.into());
    }

    // --- Behaviour ---

    /// Adds a rule. The first matching rule with remaining uses decides.
    pub fn on(&self, on: On, reply: Reply) {
        self.state().rules.push((on, reply));
    }

    pub fn clear_rules(&self) {
        self.state().rules.clear();
    }

    pub fn require_tokens(&self, auth: Auth) {
        self.state().access.auth = Some(auth);
    }

    /// Changes the authentication. Panics if no authentication is configured.
    pub fn auth(&self, change: impl FnOnce(&mut Auth)) {
        change(
            self.state()
                .access
                .auth
                .as_mut()
                .expect("the registry has access rules"),
        );
    }

    /// Revokes every issued token, like a restart of the token service does.
    pub fn revoke_tokens(&self) {
        self.state().access.forget_tokens();
    }

    /// Expires every issued token.
    pub fn expire_tokens(&self) {
        self.state().access.expire_tokens();
    }

    pub fn user(&self, user: &str, password: &str) {
        self.state().access.user(user, password);
    }

    /// Accepts `token` as a refresh token of `user`.
    pub fn identity_token(&self, user: &str, token: &str) {
        self.state().access.identity_token(user, token);
    }

    /// Returns `Bearer …` with a new token of `user` for `repository`, as a client would fetch.
    pub fn token_of(&self, user: &str, repository: &str) -> String {
        let token = self.state().access.give(Some(user), vec![repository.into()]);
        format!("Bearer {token}")
    }

    /// Allows `user` to read a repository. After the first such right, all other access is denied.
    pub fn allow(&self, user: &str, repository: &str) {
        self.state().access.allow(Some(user), repository);
    }

    pub fn allow_anybody(&self, repository: &str) {
        self.state().access.allow(None, repository);
    }

    pub fn revoke(&self, user: &str, repository: &str) {
        self.state().access.revoke(Some(user), repository);
    }

    pub fn revoke_anybody(&self, repository: &str) {
        self.state().access.revoke(None, repository);
    }

    /// Changes the behaviour of the complete registry.
    pub fn behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state().behaviour);
    }

    /// Invalidates every issued signed URL, like expiry does.
    pub fn expire_signed_urls(&self) {
        self.state().signatures.forget();
    }

    /// Returns the number of pulls left. Panics if pulls are not counted.
    pub fn pulls_left(&self) -> u64 {
        self.state()
            .behaviour
            .budget
            .as_ref()
            .expect("the registry has a pull limit")
            .left
    }

    // --- Log ---

    pub fn log(&self) -> Vec<RecordedRequest> {
        self.state().log.clone()
    }

    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    pub fn count(&self, which: impl Fn(&RecordedRequest) -> bool) -> usize {
        self.state().log.iter().filter(|seen| which(seen)).count()
    }

    /// Returns the number of GET requests whose target contains `fragment`.
    pub fn gets(&self, fragment: &str) -> usize {
        self.count(|seen| seen.is_get(fragment))
    }

    /// Returns the number of HEAD requests whose target contains `fragment`.
    pub fn heads(&self, fragment: &str) -> usize {
        self.count(|seen| seen.method == "HEAD" && seen.target.contains(fragment))
    }

    pub fn requests(&self) -> usize {
        self.state().log.len()
    }

    /// Returns the number of accepted connections since the start, on all listeners.
    pub fn connections(&self) -> usize {
        self.state().streams_opened
    }

    /// Returns the requests that contain `secret` anywhere.
    pub fn saw(&self, secret: &str) -> Vec<RecordedRequest> {
        self.state()
            .log
            .iter()
            .filter(|seen| seen.holds(secret))
            .cloned()
            .collect()
    }

    /// Waits until the log satisfies `condition`.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&[RecordedRequest]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !condition(&state.log) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the upstream did not see within {PATIENCE:?}: {what}; log: {:#?}",
                state.log
            );
            state = self.inner.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        self.down();
    }
}

fn accept_on(socket: TcpListener, index: usize, inner: Arc<Inner>) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        for stream in socket.incoming() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let inner = inner.clone();
            std::thread::spawn(move || inner.serve(index, stream));
        }
    });
    (stop, thread)
}

// === Connections ===

/// Whether the connection can carry another request.
type KeepAlive = bool;

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock held must still be able to shut down.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn serve(&self, listener: usize, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(copy) = stream.try_clone() else { return };
        let id = {
            let mut state = self.lock();
            state.streams_opened += 1;
            let id = state.streams_opened;
            state.streams.insert(id, copy);
            id
        };
        let mut buffer = Vec::new();
        while let Ok(Some(seen)) = read_request(&mut stream, &mut buffer, listener) {
            match self.answer(&mut stream, seen) {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        // The copy shares the socket. The kernel sends FIN or RST only after both are closed.
        self.lock().streams.remove(&id);
    }

    fn answer(&self, stream: &mut TcpStream, seen: RecordedRequest) -> io::Result<KeepAlive> {
        let (index, reply, mut answer) = {
            let mut state = self.lock();
            let mut reply = state.take_rule(&seen);
            let answer = if reply.status.is_some() {
                Answer::empty()
            } else {
                let mut answer = state.ordinary(&seen);
                state.behaviour.finish(&seen, &mut answer, &mut reply);
                answer
            };
            state.log.push(seen.clone());
            (state.log.len() - 1, reply, answer)
        };
        self.changed.notify_all();
        let result = self.send(stream, &seen, index, &reply, &mut answer);
        self.update(index, |seen| seen.done = true);
        result
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut RecordedRequest)) {
        if let Some(seen) = self.lock().log.get_mut(index) {
            change(seen);
        }
        self.changed.notify_all();
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        seen: &RecordedRequest,
        index: usize,
        reply: &Reply,
        answer: &mut Answer,
    ) -> io::Result<KeepAlive> {
        std::thread::sleep(reply.delay_head);
        if let Some(gate) = &reply.gate_head {
            gate.pass(&self.stop)?;
        }
        if let Some(cut) = reply.hang_up {
            break_off(stream, cut);
            return Ok(false);
        }
        if let Some(raw) = &reply.raw {
            stream.write_all(raw)?;
            let _ = stream.shutdown(Shutdown::Write);
            return Ok(false);
        }
        if let Some(status) = reply.status {
            answer.status = status;
            answer.fields = vec![("Content-Type".into(), b"application/json".to_vec())];
            answer.content = error_body(status).into();
        }
        if let Some(body) = &reply.body {
            answer.content = body.clone();
        }
        let size = answer.content.size();
        let span = answer.apply_range(seen, reply.range.unwrap_or(Range::On));
        let framing = reply.framing.unwrap_or(Framing::Length);
        let body_len = span.end - span.start;
        match framing {
            Framing::Length => {
                let told = body_len.saturating_add_signed(reply.length_delta);
                answer
                    .fields
                    .push(("Content-Length".into(), told.to_string().into()));
            }
            Framing::Chunked => answer
                .fields
                .push(("Transfer-Encoding".into(), b"chunked".to_vec())),
            Framing::Close => answer.fields.push(("Connection".into(), b"close".to_vec())),
        }
        for name in &reply.remove {
            answer.fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        }
        for (name, value) in &reply.set {
            answer.fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            answer.fields.push((name.clone(), value.clone()));
        }
        answer.fields.extend(reply.add.iter().cloned());
        if let Some((from, to)) = &reply.onward {
            let rest = seen.target.strip_prefix(from.as_str()).unwrap_or_default();
            answer
                .fields
                .push(("Location".into(), format!("{to}{rest}").into()));
        }

        let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status).into_bytes();
        for (name, value) in &answer.fields {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        stream.write_all(&head)?;
        self.update(index, |seen| seen.status = answer.status);
        if seen.method == "HEAD" || answer.status == 304 {
            return Ok(framing != Framing::Close);
        }
        std::thread::sleep(reply.delay_body);

        let started = Instant::now();
        let mut piece = vec![0; PIECE_BYTES as usize + 32];
        let mut offset = span.start;
        loop {
            let sent = offset - span.start;
            if let Some((at, cut)) = reply.cut
                && sent >= at
            {
                if cut == Cut::LastChunk && framing == Framing::Chunked {
                    stream.write_all(b"0\r\n\r\n")?;
                    return Ok(true);
                }
                break_off(stream, cut);
                return Ok(false);
            }
            for (_, gate) in reply.gates.iter().filter(|(at, _)| *at == offset) {
                gate.pass(&self.stop)?;
            }
            if offset == span.end {
                break;
            }
            let mut len = PIECE_BYTES.min(span.end - offset);
            if let Some((at, _)) = reply.cut {
                len = len.min(at - sent);
            }
            for (at, _) in reply.gates.iter().filter(|(at, _)| *at > offset) {
                len = len.min(at - offset);
            }
            if let Some((every, _)) = reply.pause {
                len = len.min(every - sent % every);
            }
            if let Some(rate) = reply.rate {
                // Twenty writes per second are smooth enough and cheap.
                len = len.min((rate / 20).max(1));
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
            let len_bytes = len as usize;
            let wire = if framing == Framing::Chunked {
                let size_line = format!("{len:x}\r\n").into_bytes();
                let start = size_line.len();
                piece[..start].copy_from_slice(&size_line);
                answer
                    .content
                    .read_at(offset, &mut piece[start..start + len_bytes]);
                piece[start + len_bytes..start + len_bytes + 2].copy_from_slice(b"\r\n");
                flip(&mut piece[start..start + len_bytes], offset, reply.flip);
                &piece[..start + len_bytes + 2]
            } else {
                answer.content.read_at(offset, &mut piece[..len_bytes]);
                flip(&mut piece[..len_bytes], offset, reply.flip);
                &piece[..len_bytes]
            };
            stream.write_all(wire)?;
            offset += len;
            self.update(index, |seen| seen.sent = offset - span.start);
            if let Some((every, pause)) = reply.pause
                && (offset - span.start).is_multiple_of(every)
            {
                std::thread::sleep(pause);
            }
        }
        debug_assert!(span.end <= size);
        match framing {
            Framing::Chunked => stream.write_all(b"0\r\n\r\n")?,
            Framing::Close => return Ok(false),
            Framing::Length => {}
        }
        if reply.length_delta != 0 {
            let _ = stream.shutdown(Shutdown::Write);
            return Ok(false);
        }
        Ok(true)
    }
}

fn flip(piece: &mut [u8], offset: u64, at: Option<u64>) {
    if let Some(at) = at
        && at >= offset
        && let Some(byte) = piece.get_mut((at - offset) as usize)
    {
        *byte ^= 1;
    }
}

fn break_off(stream: &TcpStream, cut: Cut) {
    if cut == Cut::Rst {
        // The reset discards unsent bytes. On loopback, bytes stay unsent only if the reader is
        // slow.
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    } else {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn error_body(status: u16) -> String {
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "MANIFEST_UNKNOWN",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    format!(r#"{{"errors":[{{"code":"{code}","message":"scripted error"}}]}}"#)
}

// === Default answers ===

struct Answer {
    status: u16,
    fields: Fields,
    content: Content,
    ranges: bool,
}

impl Answer {
    fn empty() -> Self {
        Answer {
            status: 200,
            fields: Vec::new(),
            content: Content::from(""),
            ranges: false,
        }
    }

    fn error(status: u16) -> Self {
        let fields = vec![("Content-Type".into(), b"application/json".to_vec())];
        Answer {
            status,
            fields,
            content: Content::from(error_body(status).as_str()),
            ranges: false,
        }
    }

    fn ok(media_type: &str, content: Content) -> Self {
        let fields = vec![("Content-Type".into(), media_type.into())];
        Answer {
            status: 200,
            fields,
            content,
            ranges: false,
        }
    }

    fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Turns a 200 into a 206 if the request has a range. Returns the span of content to send.
    fn apply_range(&mut self, seen: &RecordedRequest, mode: Range) -> std::ops::Range<u64> {
        let size = self.content.size();
        let asked = seen.field("range").and_then(|value| {
            let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
            let from: u64 = from.parse().ok()?;
            let last = if to.is_empty() {
                size.checked_sub(1)?
            } else {
                to.parse::<u64>().ok()?.min(size - 1)
            };
            (from <= last).then_some((from, last))
        });
        if !self.ranges
            || self.status != 200
            || !seen.has_range()
            || mode == Range::Off
            || seen.method != "GET"
        {
            return 0..size;
        }
        let Some((from, last)) = asked.filter(|_| mode != Range::Refused) else {
            self.status = 416;
            self.fields = vec![("Content-Range".into(), format!("bytes */{size}").into_bytes())];
            self.content = Content::from("");
            return 0..0;
        };
        self.status = 206;
        let total = if mode == Range::WrongTotal { size + 1 } else { size };
        let told = if mode == Range::WrongStart {
            (from + 1).min(last)
        } else {
            from
        };
        self.fields.push((
            "Content-Range".into(),
            format!("bytes {told}-{last}/{total}").into_bytes(),
        ));
        match mode {
            Range::WrongStart => told..last + 1,
            Range::WrongBytes => 0..last + 1 - from,
            _ => from..last + 1,
        }
    }
}

impl State {
    fn take_rule(&mut self, seen: &RecordedRequest) -> Reply {
        for (on, reply) in &mut self.rules {
            if on.times == Some(0) || !on.matches(seen) {
                continue;
            }
            if on.skip > 0 {
                on.skip -= 1;
                continue;
            }
            if let Some(times) = &mut on.times {
                *times -= 1;
            }
            return reply.clone();
        }
        Reply::new()
    }

    fn ordinary(&mut self, seen: &RecordedRequest) -> Answer {
        let path = seen.target.split('?').next().unwrap_or_default();
        let reads = seen.method == "GET" || seen.method == "HEAD";
        if !reads && (seen.kind != Kind::Token || seen.method != "POST") {
            return Answer::error(405);
        }
        if let Some(answer) = self.behaviour.reject(seen) {
            return answer;
        }
        match seen.kind {
            Kind::Ping => Answer::ok("application/json", Content::from("{}"))
                .with("Docker-Distribution-Api-Version", "registry/2.0"),
            Kind::Token => self.access.token(seen),
            Kind::Cdn
                if let Some(store) = &self.behaviour.store
                    && let Some(refused) =
                        self.signatures
                            .refuse(store, seen, path.trim_start_matches("/cdn/")) =>
            {
                refused
            }
            Kind::Cdn => match self.blobs.get(path.trim_start_matches("/cdn/")) {
                Some(content) => {
                    let mut answer = Answer::ok("binary/octet-stream", content.clone())
                        .with("Accept-Ranges", "bytes")
                        .with("ETag", "\"not-a-digest\"");
                    answer.ranges = true;
                    answer
                }
                None => Answer::error(404),
            },
            Kind::Manifest | Kind::Blob => {
                let Some((repository, reference)) = split_path(path) else {
                    return Answer::error(404);
                };
                if let Err(wrong) = self.access.check(seen.field("authorization"), repository) {
                    let own = self
                        .first
                        .expect("the setting is made before the first request")
                        .to_string();
                    return self.access.refusal(wrong, repository, &own);
                }
                let belongs = |members: &HashSet<String>| members.contains(repository);
                let found = if seen.kind == Kind::Blob {
                    let content = self.blobs.get(reference).filter(|_| {
                        !self.behaviour.blobs_belong || self.members.get(reference).is_some_and(belongs)
                    });
                    content.map(|content| {
                        (
                            reference.to_owned(),
                            content.clone(),
                            "application/octet-stream".to_owned(),
                        )
                    })
                } else {
                    let tag = (repository.to_owned(), reference.to_owned());
                    let digest = self
                        .tags
                        .get(&tag)
                        .cloned()
                        .unwrap_or_else(|| reference.to_owned());
                    let manifest = self.manifests.get(&(repository.to_owned(), digest.clone()));
                    manifest.map(|(content, media_type)| (digest, content.clone(), media_type.clone()))
                };
                let Some((digest, content, media_type)) = found else {
                    return Answer::error(404);
                };
                if seen.kind == Kind::Manifest && self.behaviour.unacceptable(seen, &media_type) {
                    return Answer::error(404);
                }
                if let Some(elsewhere) = self.behaviour.redirect(seen, &mut self.signatures) {
                    return elsewhere;
                }
                if let Some(refused) = self.behaviour.charge(seen) {
                    return refused;
                }
                let mut answer = Answer::ok(&media_type, content)
                    .with("Docker-Content-Digest", digest.as_str())
                    .with("Docker-Distribution-Api-Version", "registry/2.0")
                    .with("ETag", format!("\"{digest}\""))
                    .with("Date", "Tue, 01 Jul 2025 12:00:00 GMT");
                if seen.kind == Kind::Blob {
                    answer = answer.with("Accept-Ranges", "bytes");
                    answer.ranges = true;
                }
                answer
            }
            Kind::Other => Answer::error(404),
        }
    }
}

pub fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let byte = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns `(repository, reference)` of a manifest's or blob's path.
fn split_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v2/")?;
    let (front, reference) = rest.rsplit_once('/')?;
    let repository = front
        .strip_suffix("/manifests")
        .or_else(|| front.strip_suffix("/blobs"))?;
    Some((repository, reference))
}

fn kind_of(target: &str) -> Kind {
    let path = target.split('?').next().unwrap_or_default();
    let front = path.rsplit_once('/').map_or("", |(front, _)| front);
    match path {
        "/v2" | "/v2/" => Kind::Ping,
        "/token" | "/token/" | "/v2/token" | "/v2/auth" | "/oauth2/token" => Kind::Token,
        _ if path.starts_with("/cdn/") => Kind::Cdn,
        _ if path.starts_with("/v2/") && front.ends_with("/manifests") => Kind::Manifest,
        _ if path.starts_with("/v2/") && front.ends_with("/blobs") => Kind::Blob,
        _ => Kind::Other,
    }
}

/// Reads a request head. Returns `None` at a clean end of the connection.
fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    listener: usize,
) -> io::Result<Option<RecordedRequest>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut piece = [0; 8192];
        let n = uninterrupted(|| stream.read(&mut piece))?;
        if n == 0 {
            return Ok(None);
        }
        buffer.extend_from_slice(&piece[..n]);
    };
    let head = buffer[..end].to_vec();
    buffer.drain(..end + 4);
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut lines = head
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = std::str::from_utf8(lines.next().ok_or_else(invalid)?).map_err(|_| invalid())?;
    let mut words = request_line.split(' ');
    let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
        return Err(invalid());
    };
    let mut fields = Fields::new();
    for line in lines {
        let colon = line.iter().position(|&b| b == b':').ok_or_else(invalid)?;
        fields.push((
            String::from_utf8_lossy(&line[..colon]).into_owned(),
            line[colon + 1..].trim_ascii().to_vec(),
        ));
    }
    let length: u64 =
        field(&fields, "content-length").map_or(Ok(0), |text| text.parse().map_err(|_| invalid()))?;
    if length > REQUEST_BODY_BYTES_MAX {
        return Err(invalid());
    }
    while (buffer.len() as u64) < length {
        let mut piece = [0; 8192];
        let n = uninterrupted(|| stream.read(&mut piece))?;
        if n == 0 {
            return Err(invalid());
        }
        buffer.extend_from_slice(&piece[..n]);
    }
    let body = buffer.drain(..length as usize).collect();
    Ok(Some(RecordedRequest {
        listener,
        kind: kind_of(target),
        method: method.into(),
        target: target.into(),
        fields,
        body,
        at: Instant::now(),
        status: 0,
        sent: 0,
        done: false,
    }))
}
