//! Handoff of accepted sockets from the accepting core to a core with fewer connections. No core
//! has read from an accepted socket, so the handoff moves only the socket.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::connection_limits::ConnectionSlot;
use crate::limits::HANDOFF_QUEUE_MAX;
use crate::runtime::shutdown::Running;
use crate::runtime::waker::{CoreNotify, RemoteWaker};

/// An accepted socket that no core has read from.
pub(super) struct AcceptedSocket {
    pub stream: std::net::TcpStream,
    pub peer: Option<SocketAddr>,
    pub tls: bool,
    pub slot: ConnectionSlot,
    pub running: Running,
}

/// The handoff queue of a core. Other cores push accepted sockets.
pub(super) struct HandoffQueue {
    sender: Sender<AcceptedSocket>,
    waker: RemoteWaker,
}

pub(super) struct HandoffReceiver {
    receiver: Receiver<AcceptedSocket>,
    notify: CoreNotify,
}

/// Creates the handoff queue and the receiver of the calling core.
pub(super) fn handoff_queue() -> (HandoffQueue, HandoffReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(HANDOFF_QUEUE_MAX);
    let notify = CoreNotify::new();
    let waker = notify.waker();
    (
        HandoffQueue { sender, waker },
        HandoffReceiver { receiver, notify },
    )
}

/// The handoff queues of all cores. Cheap to clone.
#[derive(Clone)]
pub struct HandoffQueues(Arc<[OnceLock<HandoffQueue>]>);

impl HandoffQueues {
    pub fn new(cores: usize) -> Self {
        HandoffQueues((0..cores).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn set(&self, core: usize, queue: HandoffQueue) {
        // A core starts only once. No core would read a second queue.
        let _ = self.0[core].set(queue);
    }

    /// Returns the handoff queue of `core`, or `None` while the core starts.
    pub(super) fn get(&self, core: usize) -> Option<&HandoffQueue> {
        self.0[core].get()
    }
}

impl HandoffQueue {
    /// Pushes `accepted`. Returns the socket if the queue is full.
    pub(super) fn push(&self, accepted: AcceptedSocket) -> Result<(), AcceptedSocket> {
        match self.sender.try_send(accepted) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(accepted) | TrySendError::Disconnected(accepted)) => Err(accepted),
        }
    }
}

impl HandoffReceiver {
    /// Calls `take` with every accepted socket. Never returns.
    pub(super) async fn serve(self, take: impl Fn(AcceptedSocket)) -> ! {
        loop {
            self.notify.wait().await;
            // A wake after this point is kept for the next wait.
            while let Ok(accepted) = self.receiver.try_recv() {
                take(accepted);
            }
        }
    }
}
