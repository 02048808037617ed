//! One connection: the client's beginning, its requests, and how it ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};

use super::chunk::{Budget, Chunk};
use super::exchange;
use super::unread::OpenRanges;
use super::wire::{Phase, Verdict, WeakWire, Wire, drive};
use crate::http::Certificate;
use crate::limits::{
    H2_CONNECTION_READ_BYTES_MAX, H2_CONNECTION_UNSENT_BYTES_MAX, H2_CONNECTION_WINDOW_BYTES,
    H2_HEADER_LIST_BYTES_MAX, H2_LOCAL_RESETS_MAX, H2_STREAM_UNSENT_BYTES_MAX, H2_STREAM_WINDOW_BYTES,
    H2_STREAMS_MAX, H2_UNSEEN_RESETS_MAX, LINGER_BYTES_MAX,
};
use crate::server::stream::Stream;
use crate::server::watch::Watch;
use crate::server::{Handler, Server};

/// How often a connection with requests under way looks whether to stop.
const DRAIN_CHECK: Duration = Duration::from_millis(500);

/// Tasks of one connection. A stream that is reset makes room for another before its task has noticed.
const TASKS_MAX: usize = 4 * H2_STREAMS_MAX as usize;

/// What the streams of a connection share.
pub struct Shared<H> {
    pub server: Rc<Server<H>>,
    pub peer: Option<SocketAddr>,
    /// The certificate the client has proved to be its own.
    pub certificate: Option<Certificate>,
    pub budget: Budget,
    /// What helper threads read for streams, until it has its part of the budget.
    pub reads: Budget,
    /// Bytes of bodies handed over.
    pub sent: Cell<u64>,
    pub open_ranges: Rc<OpenRanges>,
    pub wire: WeakWire,
    /// Streams with a task of their own.
    tasks: Cell<usize>,
    /// Of the connection's task.
    waker: RefCell<Option<Waker>>,
}

/// Counts one task of a stream as long as it lives.
pub struct Running<H: 'static>(Rc<Shared<H>>);

impl<H> Shared<H> {
    pub fn count(self: &Rc<Self>) -> Running<H> {
        self.tasks.set(self.tasks.get() + 1);
        Running(self.clone())
    }

    fn note_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl<H> Drop for Running<H> {
    fn drop(&mut self) {
        let left = self.0.tasks.get() - 1;
        self.0.tasks.set(left);
        // The connection is idle from now on, which is a deadline.
        if left == 0
            && let Some(waker) = &*self.0.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// A connection that is for HTTP/2. The deadline for the rest of its beginning is set.
pub struct Begun<H> {
    // Before the stream: the watch must not outlive the descriptor it may shut down.
    pub watch: Watch,
    pub stream: Stream,
    pub server: Rc<Server<H>>,
    pub peer: Option<SocketAddr>,
    /// What the client has sent so far, from its preface on.
    pub received: Vec<u8>,
}

/// Serves requests until one side has had enough.
pub fn serve<H: Handler>(begun: Begun<H>) -> impl Future<Output = ()> {
    let Begun {
        watch,
        stream,
        server,
        peer,
        received,
    } = begun;
    let wire = Wire::new(watch, stream, received);
    // Not `async` as a whole: such a function would keep its argument beside what became of it.
    async move {
        match wire {
            Ok(wire) => converse(wire, server, peer).await,
            Err(_) => tracing::debug!(?peer, "no HTTP/2 behind its preface"),
        }
    }
}

async fn converse<H: Handler>(wire: Wire, server: Rc<Server<H>>, peer: Option<SocketAddr>) {
    let shared = Rc::new(Shared {
        server,
        peer,
        certificate: wire.certificate().cloned(),
        budget: Budget::new(H2_CONNECTION_UNSENT_BYTES_MAX),
        reads: Budget::new(H2_CONNECTION_READ_BYTES_MAX),
        sent: Cell::new(0),
        open_ranges: wire.open_ranges(),
        wire: wire.downgrade(),
        tasks: Cell::new(0),
        waker: RefCell::new(None),
    });
    let Some(mut connection) = Box::pin(greet(&wire)).await else {
        return;
    };
    let mut closing = false;
    let leaving = Cell::new(false);
    let renewed = Cell::new(false);
    let mut tick = pin!(monoio::time::sleep(DRAIN_CHECK));
    let outcome = drive(
        &wire,
        |cx| {
            shared.note_waker(cx);
            if !leaving.get() && (shared.server.shutdown.draining() || wire.is_worn_out()) {
                leaving.set(true);
                connection.graceful_shutdown();
                // It may have been ended for being idle, which is not how it ends.
                wire.wait_for(Phase::Leaving, false);
            }
            loop {
                if let Some(verdict) = wire.verdict()
                    && !closing
                {
                    closing = true;
                    connection.abrupt_shutdown(match verdict {
                        Verdict::Fault(reason) => reason,
                        Verdict::Expired => Reason::NO_ERROR,
                    });
                }
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(_))) if closing => {}
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        renewed.set(true);
                        if shared.tasks.get() >= TASKS_MAX {
                            wire.end_for(Verdict::Fault(Reason::ENHANCE_YOUR_CALM));
                        } else {
                            exchange::begin(&shared, request, respond);
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {
                        // Whose request came in the moment that its wait was ended is answered.
                        if wire.watch().expired() && shared.tasks.get() == 0 && !renewed.get() {
                            wire.end_for(Verdict::Expired);
                        }
                        if closing || wire.verdict().is_none() {
                            break;
                        }
                    }
                }
            }
            while !leaving.get() && shared.tasks.get() > 0 && tick.as_mut().poll(cx).is_ready() {
                tick.set(monoio::time::sleep(DRAIN_CHECK));
                if shared.server.shutdown.draining() {
                    // It has something to say now.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        },
        || {
            let phase = if !wire.greeted() {
                Phase::Greeting
            } else if shared.tasks.get() > 0 {
                Phase::Busy
            } else if leaving.get() {
                Phase::Leaving
            } else {
                Phase::Idle
            };
            wire.wait_for(phase, renewed.replace(false));
        },
    )
    .await;
    match (&outcome, wire.verdict()) {
        (_, Some(verdict)) => tracing::debug!(?peer, ?verdict, "closed an HTTP/2 connection"),
        (Err(error), None) => tracing::debug!(?peer, %error, "an HTTP/2 connection ended"),
        (Ok(()), None) => {}
    }
    // Streams learn from it that nobody listens any more.
    drop(connection);
    Box::pin(wire.finish()).await;
}

/// Reads the client's preface and sends our settings; `None` when nothing comes of it. Boxed: once in the state of the
/// connection would be once more in that of whoever waits for it.
async fn greet(wire: &Wire) -> Option<Box<Connection<Wire, Chunk>>> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(H2_STREAM_UNSENT_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(Some(H2_LOCAL_RESETS_MAX));
    let mut handshake = pin!(builder.handshake(wire.clone()));
    drive(
        wire,
        |cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.ok().map(Box::new)),
            Poll::Pending if wire.verdict().is_some() || wire.watch().expired() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        },
        || {},
    )
    .await
}

/// Throws away what a client sends behind its request, for as long as it is little and comes within `patience`.
pub async fn throw_away(body: &mut RecvStream, patience: Duration) {
    let all = async {
        let mut thrown_away = 0;
        while let Some(Ok(bytes)) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
            thrown_away += bytes.len();
            if thrown_away > LINGER_BYTES_MAX || body.flow_control().release_capacity(bytes.len()).is_err() {
                return;
            }
        }
    };
    let _ = monoio::time::timeout(patience, all).await;
}
