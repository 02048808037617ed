//! Connections on their way from the core that accepted them to one that has fewer.
//!
//! Nobody has read from them, so that a socket is all there is to hand over.

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::accept::Arrived;
use crate::limits::HANDED_OVER_MAX;
use crate::runtime::doorbell::{Remote, Signal};

/// Where other cores put connections for a core.
pub(super) struct Mailbox {
    sender: Sender<Arrived>,
    bell: Remote,
}

/// The core's own end.
pub(super) struct Inbox {
    receiver: Receiver<Arrived>,
    signal: Signal,
}

/// A pair for the calling core.
pub(super) fn mailbox() -> (Mailbox, Inbox) {
    let (sender, receiver) = crossbeam_channel::bounded(HANDED_OVER_MAX);
    let signal = Signal::new();
    let bell = signal.remote();
    (Mailbox { sender, bell }, Inbox { receiver, signal })
}

impl Mailbox {
    /// Hands `arrived` over, or back when too many are on their way.
    pub(super) fn put(&self, arrived: Arrived) -> Result<(), Arrived> {
        match self.sender.try_send(arrived) {
            Ok(()) => {
                self.bell.fire();
                Ok(())
            }
            Err(TrySendError::Full(arrived) | TrySendError::Disconnected(arrived)) => Err(arrived),
        }
    }
}

impl Inbox {
    /// Gives `take` every connection that comes, for ever.
    pub(super) async fn serve(self, take: impl Fn(Arrived)) -> ! {
        loop {
            self.signal.wait().await;
            // A ring that comes from here on is kept for the next wait.
            while let Ok(arrived) = self.receiver.try_recv() {
                take(arrived);
            }
        }
    }
}
