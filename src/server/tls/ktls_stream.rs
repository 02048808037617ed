//! A kTLS session of one client. Wraps the socket calls and handles the differences of kTLS.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::time::Duration;

use rustls::{ConnectionTrafficSecrets, ServerConnection};

use super::key_usage::{KeyUsage, records_of};
use crate::http::Certificate;
use crate::limits::SEND_STALL_TIMEOUT;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::sys::ktls::{self, Cipher, Keys, RECORD_OVERHEAD};
use crate::sys::{Pipe, Socket};

/// The first and the longest pause between two checks whether TCP has accepted all bytes.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// A kTLS socket.
///
/// The keys cannot be changed. A connection near the key limit ([`KeyUsage::NearLimit`]) accepts no
/// further request. If the client changes its keys, the connection ends.
pub struct KtlsStream {
    socket: Socket,
    cipher: Cipher,
    h2: bool,
    certificate: Option<Certificate>,
    /// The TX counters of the socket when kTLS was enabled.
    initial: TxCounters,
    /// Content bytes passed to the kernel.
    sent: Cell<u64>,
    /// The maximum number of records for these bytes.
    records: Cell<u64>,
    /// The server has sent its close notification.
    finished: Cell<bool>,
}

#[derive(Clone, Copy, Default)]
struct TxCounters {
    /// The number of the next record.
    sequence: u64,
    /// Bytes that TCP has accepted.
    taken: u64,
}

impl KtlsStream {
    /// Moves `session` to kTLS. The session must have no bytes to send and no undelivered input.
    /// After an error, the caller can only close the stream.
    pub fn new(
        socket: Socket,
        session: ServerConnection,
        cipher: Cipher,
        h2: bool,
        certificate: Option<Certificate>,
    ) -> (Self, io::Result<()>) {
        let mut stream = KtlsStream {
            socket,
            cipher,
            h2,
            certificate,
            initial: TxCounters::default(),
            sent: Cell::new(0),
            records: Cell::new(0),
            finished: Cell::new(false),
        };
        let outcome = stream.install(session);
        if outcome.is_err() {
            stream.reset_on_close();
        }
        (stream, outcome)
    }

    fn install(&mut self, session: ServerConnection) -> io::Result<()> {
        let secrets = session.dangerous_extract_secrets().map_err(io::Error::other)?;
        let keys =
            |(sequence, secrets)| keys(self.cipher, &secrets, sequence).ok_or(io::ErrorKind::InvalidData);
        ktls::install(&self.socket, &keys(secrets.tx)?, &keys(secrets.rx)?)?;
        self.initial = self.tx_counters()?;
        Ok(())
    }

    fn tx_counters(&self) -> io::Result<TxCounters> {
        // In this order, `taken` is never newer than `sequence`, so `finish` never reports
        // completion too early.
        let taken = ktls::taken_by_tcp(&self.socket)?;
        let sequence = ktls::sequence(&self.socket, self.cipher)?;
        Ok(TxCounters { sequence, taken })
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub fn is_h2(&self) -> bool {
        self.h2
    }

    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Returns whether the keys are near their usage limit.
    pub fn is_key_near_limit(&self) -> bool {
        KeyUsage::after(self.records.get()) != KeyUsage::Ok
    }

    /// Appends received bytes to `buffer`, up to its spare capacity. Returns 0 at the end of the
    /// client's input.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self.socket.recv(buffer) {
            // A record without content. An alert ends the client's input. The kernel does not
            // support a key update.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            received => received,
        }
    }

    /// Sends some of `bytes`. With `more`, the record stays open for the next bytes.
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.counted(|socket| socket.send(bytes, more))
    }

    /// Sends some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        self.counted(|socket| socket.send_vectored(slices, more))
    }

    /// Sends file bytes; see [`Socket::sendfile`].
    pub fn sendfile(&self, file: &std::fs::File, offset: u64, len: usize) -> io::Result<usize> {
        self.counted(|socket| socket.sendfile(file, offset, len))
    }

    /// Sends bytes from a pipe; see [`Socket::splice`].
    pub fn splice(&self, pipe: &mut Pipe, max: u64, more: bool) -> io::Result<usize> {
        self.counted(|socket| socket.splice(pipe, max, more))
    }

    fn counted(&self, send: impl FnOnce(&Socket) -> io::Result<usize>) -> io::Result<usize> {
        if KeyUsage::after(self.records.get()) == KeyUsage::Exhausted {
            return Err(io::Error::other("the keys of the TLS session are exhausted"));
        }
        let sent = send(&self.socket)?;
        self.records.set(self.records.get() + records_of(sent));
        self.sent.set(self.sent.get() + sent as u64);
        Ok(sent)
    }

    /// Sends the close notification (close_notify). Returns `Ok(())` if TCP has accepted all bytes.
    /// Until then, returns `WouldBlock`, and the socket must not be shut down or closed.
    ///
    /// The kernel encrypts written bytes at once and keeps the bytes that TCP has no room for. A
    /// shutdown of TCP discards the kept bytes.
    pub fn finish(&self) -> io::Result<()> {
        if !self.finished.get() {
            ktls::send_close_notify(&self.socket)?;
            self.finished.set(true);
            self.sent.set(self.sent.get() + 2);
        }
        let now = self.tx_counters()?;
        let records = now.sequence.saturating_sub(self.initial.sequence);
        let due = self.initial.taken + self.sent.get() + records * RECORD_OVERHEAD;
        if now.taken < due {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    /// Ends the session like [`KtlsStream::finish`], and waits until TCP has accepted all bytes.
    /// The wait ends early if the client accepts no more bytes or the connection is evicted. The
    /// connection is then reset, so that the response looks truncated.
    pub async fn leave(&self, deadline: &ConnectionDeadline) {
        let mut pause = LOOK;
        deadline.set(WaitReason::Output, SEND_STALL_TIMEOUT);
        loop {
            match self.finish() {
                Ok(()) => return deadline.clear(),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && !deadline.expired()
                        && !deadline.evicted() => {}
                Err(_) => return self.reset_on_close(),
            }
            // The socket becomes writable before the kernel thread has passed on the kept bytes. No
            // event reports their completion.
            monoio::time::sleep(pause).await;
            pause = (2 * pause).min(LOOK_MAX);
        }
    }

    pub fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }
}

fn keys(cipher: Cipher, secrets: &ConnectionTrafficSecrets, sequence: u64) -> Option<Keys> {
    let (key, nonce) = match (cipher, secrets) {
        (Cipher::Aes128Gcm, ConnectionTrafficSecrets::Aes128Gcm { key, iv })
        | (Cipher::Aes256Gcm, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
        | (Cipher::ChaCha20Poly1305, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) => (key, iv),
        _ => return None,
    };
    Keys::new(cipher, key.as_ref(), nonce.as_ref().try_into().ok()?, sequence)
}
