//! The systemd protocols, which other service managers implement too: inherited sockets and notifications.
//!
//! Not here: reading the systemd variables (`config::SystemdEnvironment`), and the use of the sockets.

mod notify;
mod sockets;

pub use notify::Notifier;
pub use sockets::{TakeError, take_sockets};
