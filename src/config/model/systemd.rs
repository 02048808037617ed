//! The environment that systemd passes.

use std::time::Duration;

/// The environment that systemd passes. Each part may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemdEnvironment {
    /// The passed sockets, in the order of their descriptors. The first descriptor is 3.
    pub sockets: Vec<SocketName>,
    /// The notify socket of systemd: a path, or a name that begins with `@`.
    pub notify: Option<String>,
    /// The watchdog timeout, after which systemd restarts the process.
    pub watchdog: Option<Duration>,
}

/// The name of a passed socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// `http`: clients do not use TLS.
    Http,
    /// `https`: clients use TLS.
    Https,
    /// Another name, or none: TLS as for an address without a scheme.
    Other,
}
