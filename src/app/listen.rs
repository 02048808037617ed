//! The listening sockets of each core: bound by this process, or inherited from systemd.

use std::net::{SocketAddr, TcpListener};

use super::AppError;
use crate::config::{Config, SocketName};
use crate::server::{BIND_WAIT, Listener, bind};

/// A listening address and its protocol.
#[derive(Clone, Copy)]
pub(super) struct Address {
    at: SocketAddr,
    tls: bool,
}

impl Address {
    /// Returns the address as a URL, for the log.
    pub(super) fn url(self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.at)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{} ({scheme})", self.at)
    }
}

/// All listening addresses and sockets.
pub(super) struct Listening {
    pub addresses: Vec<Address>,
    /// The listeners of each core.
    pub listeners: Vec<Vec<Listener>>,
}

/// Binds the addresses of `config` for `cores` cores. If systemd `passed` sockets, binds nothing
/// and lets all cores accept from each passed socket.
pub(super) fn open(
    config: &Config,
    passed: Vec<(SocketAddr, TcpListener)>,
    cores: usize,
) -> Result<Listening, AppError> {
    let mut listening = Listening {
        addresses: Vec::new(),
        listeners: (0..cores).map(|_| Vec::new()).collect(),
    };
    for (name, (address, socket)) in config.systemd.sockets.iter().zip(passed) {
        let tls = speaks_tls(*name, address, config.tls.is_some())?;
        listening.addresses.push(Address { at: address, tls });
        for core in &mut listening.listeners {
            let socket = socket.try_clone().map_err(AppError::passed_socket)?;
            core.push(Listener {
                socket,
                tls,
                inherited: true,
            });
        }
    }
    if !listening.addresses.is_empty() {
        return Ok(listening);
    }
    for addr in &config.listen {
        let waiting = || {
            let timeout_s = BIND_WAIT.as_secs();
            tracing::warn!(address = %addr, timeout_s, "listen address in use");
        };
        let (local, sockets) =
            bind(addr.host, addr.port, cores, BIND_WAIT, waiting).map_err(|source| AppError::Listen {
                addr: *addr,
                hint: hint(&source),
                source,
            })?;
        listening.addresses.push(Address {
            at: local,
            tls: addr.tls,
        });
        for (core, socket) in listening.listeners.iter_mut().zip(sockets) {
            core.push(Listener {
                socket,
                tls: addr.tls,
                inherited: false,
            });
        }
    }
    Ok(listening)
}

/// Returns whether a passed socket uses TLS. The socket's name decides. Otherwise the setting for
/// addresses without a scheme applies.
fn speaks_tls(name: SocketName, address: SocketAddr, configured: bool) -> Result<bool, AppError> {
    match name {
        SocketName::Http => Ok(false),
        SocketName::Https if !configured => Err(AppError::PassedTls(address)),
        SocketName::Https => Ok(true),
        SocketName::Other => Ok(configured),
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process uses the address; set LISTEN_ADDR to another address"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege; set LISTEN_ADDR to a higher port"
        }
        _ => "",
    }
}
