//! kTLS: a socket with the keys of a session encrypts written bytes, pages of files included, and decrypts received
//! bytes.
//!
//! Linux's `Documentation/networking/tls.rst`. Knows keys, and nothing of handshakes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};
use zeroize::Zeroize as _;

/// TLS 1.3 in `crypto_info`. Of 1.2 nothing is handed over: there the kernel would begin its nonces anew, where those
/// of the session so far began.
const VERSION: u16 = 0x0304;

/// The longest `crypto_info`: version, cipher, nonce, key and record number.
const INFO_BYTES_MAX: usize = 56;

/// A record number, which is what `crypto_info` ends with.
const SEQUENCE_BYTES: usize = 8;

/// Header, true type and tag: what a record of TLS 1.3 has beside its content, for all of [`Cipher`].
pub const RECORD_OVERHEAD: u64 = 5 + 1 + 16;

/// Where `tcp_info` has the bytes that the peer has confirmed.
const BYTES_ACKED: std::ops::Range<usize> = 120..128;

/// How often the TX counters are read until two reads agree.
const TX_COUNTER_READS_MAX: usize = 64;

/// The state of a connection that is none.
const TCP_CLOSE: u8 = 7;

const ALERT: u8 = 21;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What the kernel can encrypt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub const ALL: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    pub fn key_bytes(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// `TLS_CIPHER_…`
    fn number(self) -> u16 {
        match self {
            Cipher::Aes128Gcm => 51,
            Cipher::Aes256Gcm => 52,
            Cipher::ChaCha20Poly1305 => 54,
        }
    }

    /// How much of the nonce is called salt, and stands behind the key.
    fn salt_bytes(self) -> usize {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => 4,
            Cipher::ChaCha20Poly1305 => 0,
        }
    }

    fn info_bytes(self) -> usize {
        4 + 12 + self.key_bytes() + SEQUENCE_BYTES
    }
}

/// The keys of one direction, as the kernel wants them. Wiped when dropped.
pub struct Keys {
    cipher: Cipher,
    info: [u8; INFO_BYTES_MAX],
}

impl Keys {
    /// `nonce` as TLS 1.3 calls it the write IV, `sequence` the number of the next record; `None` when the key has another
    /// length than the cipher's.
    pub fn new(cipher: Cipher, key: &[u8], nonce: &[u8; 12], sequence: u64) -> Option<Self> {
        if key.len() != cipher.key_bytes() {
            return None;
        }
        let (salt, rest) = nonce.split_at(cipher.salt_bytes());
        let mut info = [0; INFO_BYTES_MAX];
        let mut at = 0;
        for part in [
            &VERSION.to_ne_bytes()[..],
            &cipher.number().to_ne_bytes(),
            rest,
            key,
            salt,
            &sequence.to_be_bytes(),
        ] {
            info[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        debug_assert_eq!(at, cipher.info_bytes());
        Some(Keys { cipher, info })
    }

    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    fn info(&self) -> &[u8] {
        &self.info[..self.cipher.info_bytes()]
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.info.zeroize();
    }
}

/// Enables kTLS on a connected TCP socket: `ours` for sent bytes, `theirs` for received bytes from here on. Unread
/// bytes in the socket must begin with a record.
///
/// # Errors
///
/// The kernel has no kTLS (`ENOENT`: no module), or kTLS lacks this cipher. The socket is good for closing only then, unless it was the
/// first step that failed.
pub fn install(socket: impl AsFd, ours: &Keys, theirs: &Keys) -> io::Result<()> {
    set(&socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")?;
    set(&socket, libc::SOL_TLS, libc::TLS_TX, ours.info())?;
    set(&socket, libc::SOL_TLS, libc::TLS_RX, theirs.info())
}

/// The number of the next record that is sent: one for each that was encrypted.
pub fn sequence(socket: impl AsFd, cipher: Cipher) -> io::Result<u64> {
    // The keys come with it.
    let mut info = [0; INFO_BYTES_MAX];
    let wanted = &mut info[..cipher.info_bytes()];
    let got = get(&socket, libc::SOL_TLS, libc::TLS_TX, wanted);
    let number = wanted.last_chunk::<SEQUENCE_BYTES>().copied();
    info.zeroize();
    match (got?, number) {
        (got, Some(number)) if got == cipher.info_bytes() => Ok(u64::from_be_bytes(number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Bytes that TCP has taken since the connection began, but for a constant: those the peer has confirmed, and those it has not.
/// Records that wait for TCP in the kernel are not among them.
///
/// # Errors
///
/// `NotConnected` when there is no connection any more; `WouldBlock` when the peer confirms faster than we can ask.
pub fn taken_by_tcp(socket: impl AsFd) -> io::Result<u64> {
    let mut before = confirmed(&socket)?;
    for _ in 0..TX_COUNTER_READS_MAX {
        let mut unconfirmed: c_int = 0;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `TIOCOUTQ` writes one `int`, which lives here; the descriptor is borrowed, so it is open.
        let outcome = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut unconfirmed) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let after = confirmed(&socket)?;
        // Nothing moved from the one to the other in between.
        if before == after {
            return Ok(after + u64::try_from(unconfirmed).unwrap_or(0));
        }
        before = after;
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Bytes the peer has confirmed.
fn confirmed(socket: &impl AsFd) -> io::Result<u64> {
    let mut info = [0; BYTES_ACKED.end];
    if get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)? < BYTES_ACKED.end {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // `tcp_info` begins with the state.
    if info[0] == TCP_CLOSE {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&info[BYTES_ACKED]);
    Ok(u64::from_ne_bytes(bytes))
}

/// Sends the alert that ends our side, behind everything that was sent; `WouldBlock` when the socket takes nothing now.
pub fn send_close_notify(socket: impl AsFd) -> io::Result<()> {
    // Aligned as a `cmsghdr` must be, and larger than one with one byte of content.
    let mut control = [0_u64; 4];
    let mut content = CLOSE_NOTIFY;
    let mut part = libc::iovec {
        iov_base: (&raw mut content).cast::<c_void>(),
        iov_len: content.len(),
    };
    // SAFETY: a `msghdr` is made of integers and pointers, for which zeros are values.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast::<c_void>();
    // SAFETY: arithmetic on a length.
    let space = unsafe { libc::CMSG_SPACE(1) };
    debug_assert!(space as usize <= size_of_val(&control));
    message.msg_controllen = space as _;
    // SAFETY: `msg_control` leads to `control`, which has room for a header and one byte of content (24 bytes of 32) and lives
    // to the end of this function; so the first header is there, and its content behind it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = ALERT;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: everything `message` leads to lives here and is what its lengths say; the descriptor is borrowed, so it is
        // open.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn set(socket: &impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    // No option is nearly as long.
    let len = value.len() as socklen_t;
    // SAFETY: the kernel reads `len` bytes, which is what `value` has; the descriptor is borrowed, so it is open.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast::<c_void>(),
            len,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives how many bytes of `value` the kernel has written.
fn get(socket: &impl AsFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is what `value` has, and their number to `len`, which lives here;
    // the descriptor is borrowed, so it is open.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    if outcome == 0 {
        Ok(len as usize)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn info(cipher: Cipher) -> Vec<u8> {
        let key = vec![0xAB; cipher.key_bytes()];
        Keys::new(cipher, &key, &NONCE, 0x0102).unwrap().info().to_vec()
    }

    fn expected(cipher: u16, parts: &[&[u8]]) -> Vec<u8> {
        let head = [0x0304_u16.to_ne_bytes(), cipher.to_ne_bytes()].concat();
        [&head[..], &parts.concat(), &[0, 0, 0, 0, 0, 0, 1, 2]].concat()
    }

    #[test]
    fn keys_lie_as_the_kernel_reads_them() {
        let (salt, rest) = NONCE.split_at(4);
        assert_eq!(
            info(Cipher::Aes128Gcm),
            expected(51, &[rest, &[0xAB; 16], salt]),
            "struct tls12_crypto_info_aes_gcm_128"
        );
        assert_eq!(
            info(Cipher::Aes256Gcm),
            expected(52, &[rest, &[0xAB; 32], salt]),
            "struct tls12_crypto_info_aes_gcm_256"
        );
        assert_eq!(
            info(Cipher::ChaCha20Poly1305),
            expected(54, &[&NONCE, &[0xAB; 32]]),
            "struct tls12_crypto_info_chacha20_poly1305"
        );
        for (cipher, size) in Cipher::ALL.into_iter().zip([
            size_of::<libc::tls12_crypto_info_aes_gcm_128>(),
            size_of::<libc::tls12_crypto_info_aes_gcm_256>(),
            size_of::<libc::tls12_crypto_info_chacha20_poly1305>(),
        ]) {
            assert_eq!(info(cipher).len(), size, "{cipher:?}");
        }
    }

    #[test]
    fn a_key_of_another_cipher_is_refused() {
        assert!(Keys::new(Cipher::Aes128Gcm, &[0; 32], &NONCE, 0).is_none());
        assert!(Keys::new(Cipher::Aes256Gcm, &[0; 16], &NONCE, 0).is_none());
    }
}
