//! Notifications to the service manager (`sd_notify(3)`), as one datagram per event.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::limits::NOTIFY_TIMEOUT;

/// Sends notifications to the service manager. Sends nothing if the process has no service manager.
/// A failed send is logged and ignored.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// Creates a notifier for the manager at `address`: an absolute path, or a name in the abstract
    /// namespace after `@`.
    ///
    /// # Errors
    ///
    /// The address is neither, or no socket can be created.
    pub fn new(address: Option<&str>) -> io::Result<Self> {
        let Some(address) = address else {
            return Ok(Notifier(None));
        };
        let address = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if address.starts_with('/') => SocketAddr::from_pathname(address)?,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "invalid address; expected an absolute path, or a name that begins with @",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
        Ok(Notifier(Some(Arc::new(Manager { socket, address }))))
    }

    /// Reports that the cache serves clients.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports the start of a configuration reload. [`Notifier::ready`] reports its end.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"));
    }

    /// Reports the start of a shutdown that takes at most `within`.
    pub fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.send(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=stopping"
        ));
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Sends a watchdog keepalive.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some(manager) = &self.0 else { return };
        if let Err(error) = manager.socket.send_to_addr(message.as_bytes(), &manager.address) {
            tracing::debug!(%error, "service manager not notified");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notification_is_one_datagram() {
        let name = format!("oci-pull-through-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::new(Some(&format!("@{name}"))).unwrap();
        let receive = || {
            let mut buffer = [0; 256];
            let len = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        notifier.ready("serving");
        assert_eq!(receive(), "READY=1\nSTATUS=serving");
        notifier.reloading();
        assert!(receive().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.stopping(Duration::from_secs(2));
        assert_eq!(
            receive(),
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\nSTATUS=stopping"
        );
        notifier.alive();
        assert_eq!(receive(), "WATCHDOG=1");
        Notifier::new(None).unwrap().alive();
        assert!(Notifier::new(Some("relative")).is_err());
    }
}
