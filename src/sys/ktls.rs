//! kTLS: a socket with the keys of a TLS session encrypts written bytes, including pages of files,
//! and decrypts received bytes. See Linux's `Documentation/networking/tls.rst`. Handles keys, but
//! no handshakes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};
use zeroize::Zeroize as _;

/// TLS 1.3 in `crypto_info`. TLS 1.2 sessions never use kTLS, because the kernel would restart the
/// nonces at the first nonce of the session.
const VERSION: u16 = 0x0304;

/// The size of the longest `crypto_info`: version, cipher, nonce, key and record number.
const INFO_BYTES_MAX: usize = 56;

/// The size of the record number at the end of `crypto_info`.
const SEQUENCE_BYTES: usize = 8;

/// The bytes that a TLS 1.3 record adds to its content: header, content type and tag. Equal for
/// every [`Cipher`].
pub const RECORD_OVERHEAD: u64 = 5 + 1 + 16;

/// The position of the acknowledged bytes in `tcp_info`.
const BYTES_ACKED: std::ops::Range<usize> = 120..128;

/// The maximum number of reads of the TX counters until two reads agree.
const TX_COUNTER_READS_MAX: usize = 64;

const TCP_CLOSE: u8 = 7;

const ALERT: u8 = 21;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// The ciphers of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub const ALL: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// Returns the name for logs.
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

    /// Returns the `TLS_CIPHER_…` constant.
    fn number(self) -> u16 {
        match self {
            Cipher::Aes128Gcm => 51,
            Cipher::Aes256Gcm => 52,
            Cipher::ChaCha20Poly1305 => 54,
        }
    }

    /// Returns the length of the nonce part called salt, which follows the key.
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

/// The keys of one direction in the format of the kernel. Wiped on drop.
pub struct Keys {
    cipher: Cipher,
    info: [u8; INFO_BYTES_MAX],
}

impl Keys {
    /// Creates the keys. `nonce` is the write IV of TLS 1.3, and `sequence` is the number of the
    /// next record. Returns `None` if the length of the key does not match the cipher.
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

/// Enables kTLS on a connected TCP socket, with `ours` for sent bytes and `theirs` for bytes
/// received from here on. Unread bytes in the socket must start with a record.
///
/// # Errors
///
/// The kernel has no kTLS (`ENOENT`: no module), or kTLS lacks this cipher. Unless the first step
/// failed, the caller can then only close the socket.
pub fn install(socket: impl AsFd, ours: &Keys, theirs: &Keys) -> io::Result<()> {
    set(&socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")?;
    set(&socket, libc::SOL_TLS, libc::TLS_TX, ours.info())?;
    set(&socket, libc::SOL_TLS, libc::TLS_RX, theirs.info())
}

/// Returns the number of the next sent record, which counts the encrypted records.
pub fn sequence(socket: impl AsFd, cipher: Cipher) -> io::Result<u64> {
    // The kernel also returns the keys.
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

/// Returns the bytes that TCP has accepted since the start of the connection, up to a constant:
/// acknowledged and unacknowledged bytes. Excludes records that wait for TCP in the kernel.
///
/// # Errors
///
/// `NotConnected` if the connection is closed. `WouldBlock` if acknowledgements arrive faster than
/// the counters can be read.
pub fn taken_by_tcp(socket: impl AsFd) -> io::Result<u64> {
    let mut before = confirmed(&socket)?;
    for _ in 0..TX_COUNTER_READS_MAX {
        let mut unconfirmed: c_int = 0;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `TIOCOUTQ` writes one `int`, which lives here; the descriptor is borrowed, so it
        // is open.
        let outcome = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut unconfirmed) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let after = confirmed(&socket)?;
        // No byte was acknowledged between the two reads.
        if before == after {
            return Ok(after + u64::try_from(unconfirmed).unwrap_or(0));
        }
        before = after;
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Returns the bytes that the peer has acknowledged.
fn confirmed(socket: &impl AsFd) -> io::Result<u64> {
    let mut info = [0; BYTES_ACKED.end];
    if get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)? < BYTES_ACKED.end {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // `tcp_info` starts with the state.
    if info[0] == TCP_CLOSE {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&info[BYTES_ACKED]);
    Ok(u64::from_ne_bytes(bytes))
}

/// Sends the close_notify alert after all sent bytes. Returns `WouldBlock` if the socket accepts no
/// bytes now.
pub fn send_close_notify(socket: impl AsFd) -> io::Result<()> {
    // Aligned like a `cmsghdr`, and larger than one with one byte of content.
    let mut control = [0_u64; 4];
    let mut content = CLOSE_NOTIFY;
    let mut part = libc::iovec {
        iov_base: (&raw mut content).cast::<c_void>(),
        iov_len: content.len(),
    };
    // SAFETY: a `msghdr` consists of integers and pointers, for which zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast::<c_void>();
    // SAFETY: arithmetic on a length.
    let space = unsafe { libc::CMSG_SPACE(1) };
    debug_assert!(space as usize <= size_of_val(&control));
    message.msg_controllen = space as _;
    // SAFETY: `msg_control` points to `control`, which lives until the end of this function.
    // `control` has room for a header and one byte of content (24 of 32 bytes). Therefore the first
    // header exists and is followed by its content.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = ALERT;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: all memory behind `message` lives here and matches the given lengths. The
        // descriptor is borrowed, so it is open.
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
    // Every option is far shorter than the maximum of `socklen_t`.
    let len = value.len() as socklen_t;
    // SAFETY: the kernel reads `len` bytes, the length of `value`. The descriptor is borrowed, so
    // it is open.
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

/// Returns the number of bytes that the kernel has written to `value`.
fn get(socket: &impl AsFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the length of `value`, and writes their number
    // to `len`, which lives here. The descriptor is borrowed, so it is open.
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
    fn ktls_key_layout_matches_the_kernel_structs() {
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
