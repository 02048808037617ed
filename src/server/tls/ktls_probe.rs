//! Probe of the kTLS support of the kernel, at startup.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustls::CipherSuite;

use crate::sys::ktls::{self, Cipher, Keys, RECORD_OVERHEAD};

/// The timeout of the loopback connection of the probe.
const PATIENCE: Duration = Duration::from_secs(1);

/// The ciphers that kTLS supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KtlsSupport {
    /// Support flags in the order of [`Cipher::ALL`].
    ciphers: [bool; 3],
}

impl KtlsSupport {
    /// No kTLS. The process encrypts every session itself.
    pub const NONE: KtlsSupport = KtlsSupport { ciphers: [false; 3] };

    /// Tries each cipher of this kernel with one byte over a loopback connection. Blocking; only
    /// for startup.
    ///
    /// # Errors
    ///
    /// The reason why no cipher works, as a message for the operator.
    pub fn probe() -> Result<Self, String> {
        let tried = Cipher::ALL.map(attempt);
        let found = KtlsSupport {
            ciphers: tried.each_ref().map(Result::is_ok),
        };
        match tried {
            [Err(error), ..] if !found.any() => Err(explain(&error)),
            _ => Ok(found),
        }
    }

    /// Returns whether any cipher is supported.
    pub fn any(self) -> bool {
        self != Self::NONE
    }

    /// Returns the names of the supported ciphers, for logs.
    pub fn names(self) -> String {
        let names = Cipher::ALL.iter().zip(self.ciphers);
        let names: Vec<_> = names
            .filter_map(|(cipher, has)| has.then_some(cipher.name()))
            .collect();
        names.join(", ")
    }

    /// Returns the kernel cipher of a session, if supported.
    pub(super) fn cipher(self, suite: CipherSuite) -> Option<Cipher> {
        let cipher = match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Cipher::ChaCha20Poly1305,
            _ => return None,
        };
        let mut ciphers = Cipher::ALL.iter().zip(self.ciphers);
        ciphers.any(|known| known == (&cipher, true)).then_some(cipher)
    }
}

/// Sends one byte over a loopback connection with `cipher`, with kTLS on both sides. Verifies the
/// record numbers and byte counts that [`super::KtlsStream`] relies on.
fn attempt(cipher: Cipher) -> io::Result<()> {
    const FIRST: u64 = 7;
    let keys = |byte: u8| {
        let key = vec![byte; cipher.key_bytes()];
        Keys::new(cipher, &key, &[byte; 12], FIRST).ok_or(io::ErrorKind::InvalidInput)
    };
    let (one, other) = (keys(1)?, keys(2)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut here = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (mut there, _) = listener.accept()?;
    there.set_read_timeout(Some(PATIENCE))?;
    ktls::install(&here, &one, &other)?;
    ktls::install(&there, &other, &one)?;
    let before = ktls::taken_by_tcp(&here)?;
    here.write_all(b"?")?;
    let mut byte = [0];
    there.read_exact(&mut byte)?;
    let written = ktls::taken_by_tcp(&here)?.checked_sub(before);
    if (byte, ktls::sequence(&here, cipher)?, written) != (*b"?", FIRST + 1, Some(1 + RECORD_OVERHEAD)) {
        return Err(io::Error::other(
            "the kernel counts TLS records in an unexpected way",
        ));
    }
    Ok(())
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "the kernel has no TLS module, or the module is not loaded; run modprobe tls".to_owned()
        }
        _ => format!("kernel TLS is unusable: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_with_a_cipher_unknown_to_the_kernel_is_not_offloaded() {
        let some = KtlsSupport {
            ciphers: [false, true, true],
        };
        assert_eq!(some.cipher(CipherSuite::TLS13_AES_128_GCM_SHA256), None);
        assert_eq!(
            some.cipher(CipherSuite::TLS13_AES_256_GCM_SHA384),
            Some(Cipher::Aes256Gcm)
        );
        assert_eq!(
            some.cipher(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
            None
        );
        assert_eq!(some.names(), "AES-256-GCM, ChaCha20-Poly1305");
        assert!(some.any() && !KtlsSupport::NONE.any());
    }

    #[test]
    fn missing_kernel_tls_is_explained_with_a_remedy() {
        match KtlsSupport::probe() {
            Ok(found) => assert!(found.any()),
            Err(why) => assert!(why.contains("kernel"), "{why}"),
        }
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        assert!(explain(&missing).contains("modprobe tls"));
    }
}
