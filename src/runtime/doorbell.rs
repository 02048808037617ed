//! Waking a task of a core from any thread.
//!
//! A core's own wakers never leave its thread. What travels is a [`Remote`]: the number of a slot on that
//! core and the core's doorbell, a socket pair. Many rings before the core looks cost one byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Where other threads ring. Shared by all of them.
struct Bell {
    tokens: Mutex<Vec<Token>>,
    rung: AtomicBool,
    button: UnixStream,
}

/// A slot and which use of it: a late ring for an earlier use is ignored.
#[derive(Clone, Copy, PartialEq)]
struct Token {
    slot: u32,
    generation: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    fired: bool,
    waker: Option<Waker>,
}

/// The core's side.
struct Slots {
    bell: Arc<Bell>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

thread_local! {
    static SLOTS: RefCell<Option<Slots>> = const { RefCell::new(None) };
}

/// Something a task of this core can wait for; other threads fire it through [`Signal::remote`].
pub struct Signal {
    token: Token,
}

/// Fires one [`Signal`] from any thread.
#[derive(Clone)]
pub struct Remote {
    bell: Arc<Bell>,
    token: Token,
}

impl Signal {
    /// Takes a slot of the calling core.
    ///
    /// # Panics
    ///
    /// On a thread that is not a core: [`install`] has not run there.
    #[expect(clippy::new_without_default, reason = "it depends on the calling thread")]
    pub fn new() -> Self {
        with_slots(|core| {
            let slot = core.free.pop().unwrap_or_else(|| {
                core.slots.push(Slot::default());
                // As many slots as waiting tasks, which connections bound far below 2^32.
                (core.slots.len() - 1) as u32
            });
            let state = &mut core.slots[slot as usize];
            state.fired = false;
            state.waker = None;
            Signal {
                token: Token {
                    slot,
                    generation: state.generation,
                },
            }
        })
    }

    pub fn remote(&self) -> Remote {
        with_slots(|core| Remote {
            bell: core.bell.clone(),
            token: self.token,
        })
    }

    /// Waits until fired since the last wait; returns at once when that has happened already.
    ///
    /// # Cancellation
    ///
    /// Free: a firing that nobody awaited is kept for the next wait.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            with_slots(|core| {
                let slot = &mut core.slots[self.token.slot as usize];
                if std::mem::take(&mut slot.fired) {
                    return Poll::Ready(());
                }
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        with_slots(|core| {
            let slot = &mut core.slots[self.token.slot as usize];
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
            core.free.push(self.token.slot);
        });
    }
}

impl Remote {
    /// Fires the signal. Never blocks for longer than a short lock.
    pub fn fire(&self) {
        self.bell
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.token);
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            // A full socket buffer means that unread rings are waiting there: just as good.
            let _ = (&self.bell.button).write(&[1]);
        }
    }
}

fn with_slots<R>(f: impl FnOnce(&mut Slots) -> R) -> R {
    SLOTS.with_borrow_mut(|core| {
        f(core
            .as_mut()
            .expect("signals are made on cores, where a doorbell is installed"))
    })
}

/// Gives the calling core its doorbell and starts the task that answers it.
///
/// # Errors
///
/// When no socket pair can be had.
pub fn install() -> std::io::Result<()> {
    let (button, speaker) = UnixStream::pair()?;
    button.set_nonblocking(true)?;
    speaker.set_nonblocking(true)?;
    let bell = Arc::new(Bell {
        tokens: Mutex::default(),
        rung: AtomicBool::new(false),
        button,
    });
    SLOTS.set(Some(Slots {
        bell: bell.clone(),
        slots: Vec::new(),
        free: Vec::new(),
    }));
    // A second handle for reading: the driver's stream owns the first for readiness.
    let mut reader = speaker.try_clone()?;
    let speaker = monoio::net::UnixStream::from_std(speaker)?;
    monoio::spawn(async move {
        let mut tokens = Vec::new();
        loop {
            if speaker.readable(false).await.is_err() {
                // A socket pair of our own has no network to lose; without it the core hears nothing any more.
                std::process::abort();
            }
            while matches!(reader.read(&mut [0; 64]), Ok(1..)) {}
            // The flag falls before the tokens are taken: whoever pushes after that rings again.
            bell.rung.store(false, Ordering::Release);
            std::mem::swap(
                &mut tokens,
                &mut *bell.tokens.lock().unwrap_or_else(PoisonError::into_inner),
            );
            for token in tokens.drain(..) {
                let waker = with_slots(|core| {
                    let slot = &mut core.slots[token.slot as usize];
                    if slot.generation != token.generation {
                        return None;
                    }
                    slot.fired = true;
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
