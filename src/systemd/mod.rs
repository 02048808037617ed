//! The systemd protocols for inherited sockets and notifications, also implemented by other service
//! managers.
//!
//! `config::SystemdEnvironment` reads the systemd variables. `app` uses the sockets.

mod notify;
mod sockets;

pub use notify::Notifier;
pub use sockets::{TakeError, take_sockets};
