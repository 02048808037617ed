//! Wakers for tasks of a core, usable from any thread.
//!
//! A core's own wakers never leave the core's thread. Other threads use a [`RemoteWaker`] with the
//! core's wake queue and the number of a slot on the core. A socket pair wakes the core. All wakes
//! before the core reads the queue cost one byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// The wake queue of one core. Shared by all threads.
struct WakeQueue {
    tokens: Mutex<Vec<Token>>,
    pending: AtomicBool,
    wake_writer: UnixStream,
}

/// A slot and its generation. A late wake for an earlier generation is ignored.
#[derive(Clone, Copy, PartialEq)]
struct Token {
    slot: u32,
    generation: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    notified: bool,
    waker: Option<Waker>,
}

/// The wake state of a core, used on the core's thread only.
struct Slots {
    queue: Arc<WakeQueue>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

thread_local! {
    static SLOTS: RefCell<Option<Slots>> = const { RefCell::new(None) };
}

/// A notification for a waiting task of this core. Other threads wake the task with
/// [`CoreNotify::waker`].
pub struct CoreNotify {
    token: Token,
}

/// A handle to wake one [`CoreNotify`] from any thread.
#[derive(Clone)]
pub struct RemoteWaker {
    queue: Arc<WakeQueue>,
    token: Token,
}

impl CoreNotify {
    /// Allocates a slot of the calling core.
    ///
    /// # Panics
    ///
    /// Panics on threads other than cores, because [`install`] has not run there.
    #[expect(clippy::new_without_default, reason = "depends on the calling thread")]
    pub fn new() -> Self {
        with_slots(|core| {
            let slot = core.free.pop().unwrap_or_else(|| {
                core.slots.push(Slot::default());
                // The number of slots is the number of waiting tasks. The connection limits keep it
                // far below 2^32.
                (core.slots.len() - 1) as u32
            });
            let state = &mut core.slots[slot as usize];
            state.notified = false;
            state.waker = None;
            CoreNotify {
                token: Token {
                    slot,
                    generation: state.generation,
                },
            }
        })
    }

    pub fn waker(&self) -> RemoteWaker {
        with_slots(|core| RemoteWaker {
            queue: core.queue.clone(),
            token: self.token,
        })
    }

    /// Waits for a wake. Returns at once if a wake has happened since the last wait.
    ///
    /// # Cancellation
    ///
    /// Safe. A wake between two waits is kept for the next wait.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll_wait(cx)).await;
    }

    /// Polls like [`CoreNotify::wait`]. Only the task of the last poll is woken.
    pub fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        with_slots(|core| {
            let slot = &mut core.slots[self.token.slot as usize];
            if std::mem::take(&mut slot.notified) {
                return Poll::Ready(());
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for CoreNotify {
    fn drop(&mut self) {
        with_slots(|core| {
            let slot = &mut core.slots[self.token.slot as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
            core.free.push(self.token.slot);
        });
    }
}

impl RemoteWaker {
    /// Wakes the notification. Blocks at most for a short lock.
    pub fn wake(&self) {
        self.queue.tokens.lock().push(self.token);
        if !self.queue.pending.swap(true, Ordering::AcqRel) {
            // A full socket buffer contains unread bytes, and these wake the core as well.
            let _ = (&self.queue.wake_writer).write(&[1]);
        }
    }
}

fn with_slots<R>(f: impl FnOnce(&mut Slots) -> R) -> R {
    SLOTS.with_borrow_mut(|core| {
        f(core
            .as_mut()
            .expect("a CoreNotify is made on a core, where a wake queue is installed"))
    })
}

/// Creates the wake queue of the calling core, and starts the task to read the queue.
///
/// # Errors
///
/// Fails if no socket pair can be created.
pub fn install() -> std::io::Result<()> {
    let (wake_writer, wake_reader) = UnixStream::pair()?;
    wake_writer.set_nonblocking(true)?;
    wake_reader.set_nonblocking(true)?;
    let queue = Arc::new(WakeQueue {
        tokens: Mutex::default(),
        pending: AtomicBool::new(false),
        wake_writer,
    });
    SLOTS.set(Some(Slots {
        queue: queue.clone(),
        slots: Vec::new(),
        free: Vec::new(),
    }));
    // A second handle for reading, because the driver's stream owns the first for readiness.
    let mut reader = wake_reader.try_clone()?;
    let wake_reader = monoio::net::UnixStream::from_std(wake_reader)?;
    monoio::spawn(async move {
        let mut tokens = Vec::new();
        loop {
            if wake_reader.readable(false).await.is_err() {
                // A socket pair does not fail like a network. Without the socket pair, the core
                // gets no wakes.
                std::process::abort();
            }
            while matches!(reader.read(&mut [0; 64]), Ok(1..)) {}
            // The flag is cleared before the tokens are taken, so a later token writes a new byte.
            queue.pending.store(false, Ordering::Release);
            std::mem::swap(&mut tokens, &mut *queue.tokens.lock());
            for token in tokens.drain(..) {
                let waker = with_slots(|core| {
                    let slot = &mut core.slots[token.slot as usize];
                    if slot.generation != token.generation {
                        return None;
                    }
                    slot.notified = true;
                    slot.waker.take()
                });
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    });
    Ok(())
}
