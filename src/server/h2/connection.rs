//! An HTTP/2 connection, from the client preface to the close.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use h2::Reason;
use h2::server::{Builder, Connection};

use super::io::{EndReason, H2Io, Phase, drive};
use super::send_buffer::{Chunk, SendBudget};
use super::shared::Shared;
use super::stream;
use crate::limits::{
    H2_CONNECTION_READ_BYTES_MAX, H2_CONNECTION_UNSENT_BYTES_MAX, H2_CONNECTION_WINDOW_BYTES,
    H2_HEADER_LIST_BYTES_MAX, H2_LOCAL_RESETS_MAX, H2_STREAM_UNSENT_BYTES_MAX, H2_STREAM_WINDOW_BYTES,
    H2_STREAMS_MAX, H2_UNSEEN_RESETS_MAX,
};
use crate::server::deadlines::ConnectionDeadline;
use crate::server::stream::Stream;
use crate::server::{Handler, Server};

/// The interval at which a connection with requests in progress checks for shutdown.
const DRAIN_CHECK: Duration = Duration::from_millis(500);

/// The maximum number of tasks of one connection. A reset stream makes room for another stream
/// before its task has ended.
const TASKS_MAX: usize = 4 * H2_STREAMS_MAX as usize;

/// An accepted HTTP/2 connection. The deadline for the rest of the preface is set.
pub struct AcceptedH2<H> {
    // Declared before the stream, because the deadline must not outlive the descriptor that it may
    // shut down.
    pub deadline: ConnectionDeadline,
    pub stream: Stream,
    pub server: Rc<Server<H>>,
    pub peer: Option<SocketAddr>,
    /// The received bytes, starting with the preface.
    pub received: Vec<u8>,
}

/// Serves requests until either side closes the connection.
pub fn serve<H: Handler>(accepted: AcceptedH2<H>) -> impl Future<Output = ()> {
    let AcceptedH2 {
        deadline,
        stream,
        server,
        peer,
        received,
    } = accepted;
    let io = H2Io::new(deadline, stream, received);
    // Not an `async` function, because its future would also hold the argument.
    async move {
        match io {
            Ok(io) => run(io, server, peer).await,
            Err(_) => tracing::debug!(client = peer.map(tracing::field::display), "HTTP/2 setup failed"),
        }
    }
}

async fn run<H: Handler>(io: H2Io, server: Rc<Server<H>>, peer: Option<SocketAddr>) {
    let shared = Rc::new(Shared {
        server,
        peer,
        certificate: io.certificate().cloned(),
        is_tls: io.is_tls(),
        budget: SendBudget::new(H2_CONNECTION_UNSENT_BYTES_MAX),
        reads: SendBudget::new(H2_CONNECTION_READ_BYTES_MAX),
        sent: Cell::new(0),
        open_ranges: io.open_ranges(),
        io: io.downgrade(),
        tasks: Cell::new(0),
        waker: RefCell::new(None),
    });
    let Some(mut connection) = Box::pin(greet(&io)).await else {
        return;
    };
    let mut closing = false;
    let leaving = Cell::new(false);
    let renewed = Cell::new(false);
    let mut tick = pin!(monoio::time::sleep(DRAIN_CHECK));
    let outcome = drive(
        &io,
        |cx| {
            shared.record_waker(cx);
            if !leaving.get() && (shared.server.shutdown.draining() || io.is_key_near_limit()) {
                leaving.set(true);
                connection.graceful_shutdown();
                // The idle deadline may have expired. The graceful shutdown starts a new deadline.
                io.wait_for(Phase::Leaving, false);
            }
            loop {
                if let Some(reason) = io.end_reason()
                    && !closing
                {
                    closing = true;
                    connection.abrupt_shutdown(match reason {
                        EndReason::Fault(code) => code,
                        EndReason::Expired => Reason::NO_ERROR,
                    });
                }
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(_))) if closing => {}
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        renewed.set(true);
                        io.count_request();
                        if shared.tasks.get() >= TASKS_MAX {
                            io.end_for(EndReason::Fault(Reason::ENHANCE_YOUR_CALM));
                        } else {
                            stream::begin(&shared, request, respond);
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {
                        // A request that arrived when the wait ended is answered.
                        if io.deadline().expired() && shared.tasks.get() == 0 && !renewed.get() {
                            io.end_for(EndReason::Expired);
                        }
                        if closing || io.end_reason().is_none() {
                            break;
                        }
                    }
                }
            }
            while !leaving.get() && shared.tasks.get() > 0 && tick.as_mut().poll(cx).is_ready() {
                tick.set(monoio::time::sleep(DRAIN_CHECK));
                if shared.server.shutdown.draining() {
                    // The next poll sends the GOAWAY.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        },
        || {
            let phase = if !io.greeted() {
                Phase::Greeting
            } else if shared.tasks.get() > 0 {
                Phase::Busy
            } else if leaving.get() {
                Phase::Leaving
            } else {
                Phase::Idle
            };
            io.wait_for(phase, renewed.replace(false));
        },
    )
    .await;
    match (&outcome, io.end_reason()) {
        (_, Some(reason)) => {
            tracing::debug!(
                client = peer.map(tracing::field::display),
                ?reason,
                "HTTP/2 connection closed"
            );
        }
        (Err(error), None) => {
            tracing::debug!(client = peer.map(tracing::field::display), %error, "HTTP/2 connection failed");
        }
        (Ok(()), None) => {}
    }
    // Dropping the connection returns an error to its streams.
    drop(connection);
    Box::pin(io.finish()).await;
}

/// Reads the client preface and sends the server settings. Returns `None` if the handshake fails.
/// Boxed, because otherwise the connection would also occupy space in the future of the caller.
async fn greet(io: &H2Io) -> Option<Box<Connection<H2Io, Chunk>>> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(H2_STREAM_UNSENT_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(Some(H2_LOCAL_RESETS_MAX));
    let mut handshake = pin!(builder.handshake(io.clone()));
    drive(
        io,
        |cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.ok().map(Box::new)),
            Poll::Pending if io.end_reason().is_some() || io.deadline().expired() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        },
        || {},
    )
    .await
}
