//! The sockets of every address, one for each core.

use super::AppError;
use crate::config::ListenAddr;
use crate::server::{Listener, bind};

/// Binds `addresses`; gives where it listens and the listeners of each of `cores` cores.
pub(super) fn open(
    addresses: &[ListenAddr],
    cores: usize,
) -> Result<(Vec<std::net::SocketAddr>, Vec<Vec<Listener>>), AppError> {
    let mut bound = Vec::new();
    let mut listeners: Vec<Vec<Listener>> = (0..cores).map(|_| Vec::new()).collect();
    for addr in addresses {
        let (local, sockets) = bind(addr.host, addr.port, cores).map_err(|source| AppError::Listen {
            addr: *addr,
            hint: hint(&source),
            source,
        })?;
        bound.push(local);
        for (core, socket) in listeners.iter_mut().zip(sockets) {
            core.push(Listener { socket, tls: false });
        }
    }
    Ok((bound, listeners))
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process has it, choose another with LISTEN_ADDR",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege, choose another with LISTEN_ADDR"
        }
        _ => "",
    }
}
