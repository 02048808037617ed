//! What a service manager and we tell each other: sockets in, news out. The protocols of systemd, which others speak too.
//!
//! Not here: reading its variables (`config::Supervisor`), and what the sockets are for.

mod notify;
mod sockets;

pub use notify::Notifier;
pub use sockets::{TakeError, take_sockets};
