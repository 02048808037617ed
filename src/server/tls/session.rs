//! The TLS session of one client over its socket. Provides the same non-blocking calls as the
//! socket.
//!
//! An idle session holds only the few KiB of buffer in which a record arrives. Sent data is
//! encrypted into records, which are freed once the socket has accepted them. While the socket
//! accepts no bytes, no further records are created.

use std::cell::{OnceCell, RefCell};
use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::net;
use std::pin::pin;
use std::sync::Arc;

use std::time::Duration;

use rustls::{ProtocolVersion, ServerConfig, ServerConnection};

use super::handshake_limiter::HandshakeLimiter;
use super::ktls_stream::KtlsStream;
use super::record::Record;
use super::{KtlsSupport, subject};
use crate::http::Certificate;
use crate::limits::{FIRST_REQUEST_TIMEOUT, HANDSHAKE_TIMEOUT, TLS_PENDING_BYTES, TLS_READS_MAX};
use crate::runtime::clock::{monotonic_seconds, unix_seconds};
use crate::runtime::shutdown::Shutdown;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::server::h1;
use crate::sys::Socket;
use crate::sys::ktls::Cipher;

/// A socket with a TLS session.
pub struct TlsStream {
    socket: Socket,
    session: RefCell<ServerConnection>,
    h2: OnceCell<bool>,
    certificate: OnceCell<Certificate>,
    /// The ciphers that kTLS supports after the handshake. With any cipher, the handshake reads no
    /// byte beyond the client's last handshake record.
    ktls: KtlsSupport,
}

/// The reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("plain HTTP on a TLS listener")]
    PlainHttp,
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Late,
    #[error("the client certificate of the resumed session has expired")]
    Outlived,
    #[error("{0}")]
    Failed(io::Error),
}

impl TlsStream {
    /// Creates the session for a client from which no byte has been read.
    pub fn new(socket: Socket, config: Arc<ServerConfig>, ktls: KtlsSupport) -> io::Result<Self> {
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        // `send_vectored` limits the pending bytes, counted in plaintext.
        session.set_buffer_limit(None);
        Ok(TlsStream {
            socket,
            session: RefCell::new(session),
            h2: OnceCell::new(),
            certificate: OnceCell::new(),
            ktls,
        })
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns whether the client chose HTTP/2. `false` until the handshake completes.
    pub fn is_h2(&self) -> bool {
        self.h2.get().copied().unwrap_or(false)
    }

    /// Returns the verified certificate of the client.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.get()
    }

    /// Performs the handshake within [`HANDSHAKE_TIMEOUT`]. On [`HandshakeError::PlainHttp`], the
    /// client has already received an HTTP response.
    pub async fn handshake(
        &self,
        deadline: &ConnectionDeadline,
        limiter: &HandshakeLimiter,
        shutdown: &Shutdown,
    ) -> Result<(), HandshakeError> {
        let ends = monotonic_seconds() + HANDSHAKE_TIMEOUT.as_secs() as u32;
        let left = || Duration::from_secs(u64::from(ends.saturating_sub(monotonic_seconds())));
        let mut begin = FirstBytes::default();
        let mut wait_reason = WaitReason::Nothing;
        let mut last_chance = false;
        loop {
            match self.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_reason = WaitReason::Output;
                    deadline.set(wait_reason, left());
                    self.socket.writable().await.map_err(HandshakeError::Failed)?;
                    if deadline.expired() {
                        return Err(HandshakeError::Late);
                    }
                    continue;
                }
                Err(error) => return Err(HandshakeError::Failed(error)),
            }
            if !self.session.borrow().is_handshaking() {
                break;
            }
            // A client that has sent no byte does not delay a shutdown, and is evicted first.
            let wait = if begin.len == 0 {
                WaitReason::Idle
            } else {
                WaitReason::Input
            };
            if wait != wait_reason {
                wait_reason = wait;
                deadline.set(wait, left());
            }
            let readable = pin!(self.socket.readable());
            match deadline.unless_ended(readable).await {
                Some(readable) => {
                    readable.map_err(HandshakeError::Failed)?;
                    // A drain ends idle waits. While the handshake waits for its turn, the client is
                    // not idle, and the end of a wait would shut down the socket.
                    if wait == WaitReason::Idle {
                        wait_reason = WaitReason::Nothing;
                        deadline.clear();
                    }
                }
                // The first bytes of a new connection are probably in flight.
                None if begin.len == 0 && !last_chance && shutdown.draining() => {
                    last_chance = true;
                    monoio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
                }
                None => return Err(HandshakeError::Late),
            }
            let turn = limiter.acquire().await;
            let processed = self.process_input(&mut begin);
            drop(turn);
            match processed {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if begin.looks_like_http() => {
                    // With kTLS enabled, only the header of a record was read.
                    let mut more = [0; FirstBytes::BYTES];
                    if let Ok(received) = self.socket.recv_into(&mut more) {
                        begin.keep(&more[..received]);
                    }
                    let answer = match begin.is_docker_s() {
                        true => h1::HTTPS_WANTED_BY_DOCKER,
                        false => h1::HTTPS_WANTED,
                    };
                    let _ = self.socket.send(answer, false);
                    self.linger(deadline).await;
                    return Err(HandshakeError::PlainHttp);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // The client received an alert with the reason.
                    self.linger(deadline).await;
                    return Err(HandshakeError::Failed(error));
                }
                Err(error) => return Err(HandshakeError::Failed(error)),
            }
        }
        deadline.clear();
        let session = self.session.borrow();
        let _ = self.h2.set(session.alpn_protocol() == Some(b"h2"));
        if let Some(first) = session.peer_certificates().and_then(<[_]>::first) {
            match subject::read(first) {
                // A resumed session does not verify its certificate again.
                Some((_, until)) if until < unix_seconds().cast_signed() => {
                    return Err(HandshakeError::Outlived);
                }
                Some((certificate, _)) => {
                    let _ = self.certificate.set(certificate);
                }
                // The verifier has already parsed the certificate.
                None => return Err(HandshakeError::Failed(io::ErrorKind::InvalidData.into())),
            }
        }
        Ok(())
    }

    /// Switches to kTLS after the handshake if the session uses TLS 1.3 and a supported cipher.
    /// Returns any other session unchanged.
    pub fn into_ktls(self: Box<Self>) -> Result<(KtlsStream, io::Result<()>), Box<Self>> {
        let Some(cipher) = self.kernel_cipher() else {
            return Err(self);
        };
        let h2 = self.is_h2();
        let TlsStream {
            socket,
            session,
            certificate,
            ..
        } = *self;
        let (session, certificate) = (session.into_inner(), certificate.into_inner());
        Ok(KtlsStream::new(socket, session, cipher, h2, certificate))
    }

    fn kernel_cipher(&self) -> Option<Cipher> {
        let mut session = self.session.borrow_mut();
        let cipher = self.ktls.cipher(session.negotiated_cipher_suite()?.suite())?;
        let is_1_3 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let waits =
            matches!(session.reader().fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        (is_1_3 && waits && !session.wants_write()).then_some(cipher)
    }

    /// Reads and processes input: one read, or one record before a switch to kTLS.
    fn process_input(&self, begin: &mut FirstBytes) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        loop {
            let mut arriving = SocketReader {
                socket: &self.socket,
                begin: Some(begin),
                by_record: self.ktls.any(),
            };
            if session.read_tls(&mut arriving)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = session.process_new_packets() {
                if !begin.looks_like_http() {
                    // Sends an alert with the reason. If the socket does not accept the alert, the
                    // client receives none.
                    let _ = self.push(&mut session);
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if !self.ktls.any() || begin.record.is_over() {
                return Ok(());
            }
        }
    }

    /// Waits until a rejected client has read the alert, like `Connection::linger`. A client that
    /// considers its handshake complete has already sent a request. An immediate close would then
    /// reset the connection.
    async fn linger(&self, deadline: &ConnectionDeadline) {
        self.socket.shutdown(net::Shutdown::Write);
        deadline.set(WaitReason::Input, crate::limits::LINGER_TIMEOUT);
        let mut thrown_away = 0;
        while thrown_away < crate::limits::LINGER_BYTES_MAX {
            let mut rubbish = [0; 1024];
            match self.socket.recv_into(&mut rubbish) {
                Ok(0) => return,
                Ok(received) => thrown_away += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Waits for input. Returns at once if the session holds decrypted bytes.
    pub async fn readable(&self) -> io::Result<()> {
        let held = match self.session.borrow_mut().reader().fill_buf() {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if held {
            return Ok(());
        }
        self.socket.readable().await
    }

    /// Appends received bytes to `buffer`, up to its spare capacity. Returns 0 at any end of the
    /// stream, orderly or not. The request parser detects an incomplete request.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(buffer.len() < buffer.capacity());
        let mut session = self.session.borrow_mut();
        for _ in 0..TLS_READS_MAX {
            let mut reader = session.reader();
            match reader.fill_buf() {
                Ok(plain) => {
                    let taken = plain.len().min(buffer.capacity() - buffer.len());
                    buffer.extend_from_slice(&plain[..taken]);
                    reader.consume(taken);
                    return Ok(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            let mut arriving = SocketReader {
                socket: &self.socket,
                begin: None,
                by_record: false,
            };
            session.read_tls(&mut arriving)?;
            let processed = session.process_new_packets();
            // An alert or a key update of the server. Unsent bytes precede the next bytes.
            let pushed = self.push(&mut session);
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match pushed {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "TLS records without content",
        ))
    }

    /// Encrypts some of `slices` and sends as much as the socket accepts now. Returns the number of
    /// plaintext bytes accepted. If earlier bytes are still pending, returns `WouldBlock` and
    /// accepts nothing.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        self.push(&mut session)?;
        let mut room = TLS_PENDING_BYTES;
        let mut taken = 0;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total <= room {
            // A single write, so that head and body share a record.
            taken = session.writer().write_vectored(slices)?;
        } else {
            for slice in slices {
                let part = &slice[..slice.len().min(room)];
                taken += session.writer().write(part)?;
                room -= part.len();
                if room == 0 {
                    break;
                }
            }
        }
        match self.push_with(&mut session, more && taken == total) {
            // The bytes are accepted anyway. The rest precedes the next bytes or leaves with
            // `flush`.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends pending records. Returns `Ok(())` if the kernel has all bytes. On `WouldBlock`, wait
    /// until the socket is writable and call again.
    pub fn flush(&self) -> io::Result<()> {
        self.push(&mut self.session.borrow_mut())
    }

    /// Sends the close notification (close_notify), so that the client can detect the end of the
    /// data. Then flushes like `flush`.
    pub fn finish(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        self.push(&mut session)
    }

    fn push(&self, session: &mut ServerConnection) -> io::Result<()> {
        self.push_with(session, false)
    }

    fn push_with(&self, session: &mut ServerConnection, more: bool) -> io::Result<()> {
        while session.wants_write() {
            let mut leaving = SocketWriter {
                socket: &self.socket,
                more,
            };
            session.write_tls(&mut leaving)?;
        }
        Ok(())
    }
}

/// The first bytes of a client, to distinguish plain HTTP from invalid input.
#[derive(Default)]
struct FirstBytes {
    bytes: [u8; FirstBytes::BYTES],
    len: usize,
    record: Record,
}

impl FirstBytes {
    /// The length of `GET /v2/ `, which identifies the first request of Docker.
    const BYTES: usize = 9;

    fn add(&mut self, received: &[u8]) {
        self.keep(received);
        self.record.add(received);
    }

    fn keep(&mut self, received: &[u8]) {
        let new = received.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + new].copy_from_slice(&received[..new]);
        self.len += new;
    }

    /// Returns whether this is the request with which Docker detects a registry. Apart from Docker,
    /// only `docker login` and people send it.
    fn is_docker_s(&self) -> bool {
        self.bytes == *b"GET /v2/ "
    }

    /// Returns whether the bytes look like HTTP. A method starts with capital letters; a TLS record
    /// starts with a small number.
    fn looks_like_http(&self) -> bool {
        let bytes = &self.bytes[..self.len.min(4)];
        bytes.len() >= 3
            && bytes[0].is_ascii_uppercase()
            && bytes.iter().all(|b| b.is_ascii_uppercase() || *b == b' ')
    }
}

struct SocketReader<'a> {
    socket: &'a Socket,
    begin: Option<&'a mut FirstBytes>,
    by_record: bool,
}

impl Read for SocketReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let room = match &self.begin {
            Some(begin) if self.by_record => bytes.len().min(begin.record.room()),
            _ => bytes.len(),
        };
        let received = self.socket.recv_into(&mut bytes[..room])?;
        if let Some(begin) = &mut self.begin {
            begin.add(&bytes[..received]);
        }
        Ok(received)
    }
}

struct SocketWriter<'a> {
    socket: &'a Socket,
    more: bool,
}

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes, self.more)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.socket.send(one, self.more),
            slices => self.socket.send_vectored(slices, self.more),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::rc::Rc;

    use super::super::{Acceptor, ClientCertificates, Material, ServerIdentity};
    use super::*;
    use crate::runtime::core;
    use crate::server::connection_limits::ConnectionLimits;
    use crate::server::deadlines::DeadlineTable;

    #[test]
    fn drain_does_not_end_a_handshake_that_waits_for_its_turn() {
        core::run_test(async {
            let material = Material {
                identity: ServerIdentity::SelfSigned,
                clients: ClientCertificates::NotRequested,
            };
            let config = Acceptor::new(material, KtlsSupport::NONE).unwrap().config();
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let tls = TlsStream::new(Socket::new(accepted).unwrap(), config, KtlsSupport::NONE).unwrap();
            let deadlines = DeadlineTable::default();
            let slot = ConnectionLimits::new(1, 0, 1).acquire(0, None).ok().unwrap();
            let deadline = Rc::new(deadlines.add(tls.socket.local(), slot));
            let (limiter, shutdown) = (HandshakeLimiter::closed(), Shutdown::default());
            let (of_task, queue) = (deadline.clone(), limiter.clone());
            shutdown.drain();
            drop(monoio::spawn(async move {
                let _ = tls.handshake(&of_task, &queue, &shutdown).await;
            }));
            // The first bytes of a record.
            client.write_all(&[0x16, 3, 1]).unwrap();
            let queued = async {
                while limiter.waiting() == 0 {
                    monoio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let queued = monoio::time::timeout(Duration::from_secs(60), queued).await;
            queued.expect("the handshake requests a turn");
            deadlines.sweep(true);
            assert!(!deadline.expired(), "the drain has shut down the socket");
        });
    }
}
