//! The loop that drives one HTTP/2 connection: turns, and waits for the socket.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use super::{H2Io, Phase};
use crate::limits::{SEND_STALL_TIMEOUT, SEND_TURN_BYTES};
use crate::runtime::waker::CoreNotify;
use crate::server::deadlines::WaitReason;

/// Calls `step` until it is ready: after each wake of the task, and after the socket becomes readable
/// or writable. Between calls, sends the collected bytes. Calls `rest` at the end of each turn.
pub async fn drive<T>(
    io: &H2Io,
    mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    mut rest: impl FnMut(),
) -> T {
    let stream = &io.0.stream;
    let mut readable = pin!(stream.readable());
    let mut reading = true;
    // Boxed on demand, because most connections only wait for input.
    let mut writable = None;
    let mut next_turn: Option<CoreNotify> = None;
    poll_fn(|cx| {
        io.deadline().wake_by(Some(cx.waker()));
        loop {
            if let Some(turn) = &next_turn {
                if turn.poll_wait(cx).is_pending() {
                    return Poll::Pending;
                }
                next_turn = None;
            }
            if let Poll::Ready(done) = step(cx) {
                return Poll::Ready(done);
            }
            if io.flush().is_err() {
                // `h2` receives the error at its next read or write.
                io.0.state.borrow_mut().read_blocked = false;
                continue;
            }
            let (read_blocked, write_blocked) = {
                let state = io.0.state.borrow();
                (state.read_blocked, state.write_blocked)
            };
            let mut again = false;
            if read_blocked {
                if !reading {
                    readable.set(stream.readable());
                    reading = true;
                }
                if readable.as_mut().poll(cx).is_ready() {
                    reading = false;
                    io.0.state.borrow_mut().read_blocked = false;
                    again = true;
                }
            }
            if write_blocked {
                let room = writable.get_or_insert_with(|| Box::pin(stream.writable()));
                if room.as_mut().poll(cx).is_ready() {
                    writable = None;
                    unblock_writes(io);
                    again = true;
                }
            }
            let mut state = io.0.state.borrow_mut();
            let turn_ended = state.has_read_enough() || state.forwarded as u64 >= SEND_TURN_BYTES;
            if again && !turn_ended {
                continue;
            }
            state.end_turn();
            drop(state);
            // Replaces the deadline of the last wait.
            rest();
            if !turn_ended {
                return Poll::Pending;
            }
            // A wake by the wake queue arrives through the driver. Thus the driver first reports the
            // ready sockets of other tasks. A task that yields in the run queue gets several turns
            // until then, and so does a task whose socket epoll knows as ready.
            let turn = CoreNotify::new();
            turn.waker().wake();
            next_turn = Some(turn);
        }
    })
    .await
}

/// Lets the connection send again, after the socket has accepted bytes.
fn unblock_writes(io: &H2Io) {
    let mut state = io.0.state.borrow_mut();
    state.write_blocked = false;
    if io.0.phase.get() == Phase::Sending {
        if !io.0.deadline.meets_minimum_rate() {
            state.failed = Some(io::ErrorKind::TimedOut);
        }
        // The last wait is counted. The next wait starts now.
        io.0.deadline.set(WaitReason::Output, SEND_STALL_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::pin::Pin;
    use std::rc::Rc;

    use rustix::net::sockopt::tcp_cork;
    use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

    use super::super::CORK_BYTES;
    use super::*;
    use crate::limits::H2_REQUESTS_PER_TURN;
    use crate::runtime::core;
    use crate::server::connection_limits::ConnectionLimits;
    use crate::server::deadlines::DeadlineTable;
    use crate::server::h2::PREFACE;
    use crate::server::stream::Stream;
    use crate::sys::Socket;

    /// Returns a client and its connection, with `received` after the preface.
    fn connected(received: &[u8]) -> (TcpStream, H2Io) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let stream = Stream::Plain(Socket::new(accepted).unwrap());
        let slot = ConnectionLimits::new(1, 0, 1).acquire(0, None).ok().unwrap();
        let deadline = DeadlineTable::default().add(stream.local(), slot);
        let io = H2Io::new(deadline, stream, [PREFACE, received].concat());
        (client, io.ok().unwrap())
    }

    /// Reads all bytes that the connection returns now.
    fn read(io: &H2Io, cx: &mut Context<'_>) -> usize {
        let (mut bytes, mut count) = ([0; 64], 0);
        loop {
            let mut room = ReadBuf::new(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut io.clone()).poll_read(cx, &mut room) else {
                return count;
            };
            read.unwrap();
            count += room.filled().len();
        }
    }

    #[test]
    fn ready_sockets_are_served_before_a_connection_reads_more_requests_than_a_turn_has() {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        core::run_test(async {
            let (mut client, io) = connected(&SETTINGS);
            let (mut peer, socket) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = monoio::net::UnixStream::from_std(socket).unwrap();
            let other_ran = Rc::new(Cell::new(false));
            let ran = other_ran.clone();
            drop(monoio::spawn(async move {
                socket.readable(false).await.unwrap();
                ran.set(true);
            }));
            // The task waits for its socket once the run queue has reached this task.
            monoio::spawn(async {}).await;
            let rested = Rc::new(Cell::new(false));
            let (connection, rest) = (io.clone(), rested.clone());
            let mut steps = 0;
            let step = move |cx: &mut Context<'_>| {
                steps += 1;
                assert!(steps < 10, "the connection does not read");
                if steps == 1 {
                    for _ in 0..H2_REQUESTS_PER_TURN {
                        io.count_request();
                    }
                    client.write_all(&PING).unwrap();
                    let count = read(&io, cx);
                    assert!(
                        count < PREFACE.len() + SETTINGS.len() + PING.len(),
                        "the turn has ended"
                    );
                    // Only the driver reports this byte.
                    peer.write_all(&[0]).unwrap();
                } else if read(&io, cx) > 0 {
                    assert!(other_ran.get(), "the connection reads before the other task");
                    assert!(rested.get(), "the deadline of the last wait continues");
                    return Poll::Ready(());
                }
                Poll::Pending
            };
            // A task, as on a core. The runtime polls the driver before each poll of the main future.
            monoio::spawn(async move { drive(&connection, step, || rest.set(true)).await }).await;
        });
    }

    #[test]
    fn socket_is_corked_after_a_full_frame_and_not_while_the_connection_waits() {
        core::run_test(async {
            let (mut client, io) = connected(&[]);
            let is_corked = || match &io.0.stream {
                Stream::Plain(socket) => tcp_cork(socket).unwrap(),
                Stream::Tls(_) | Stream::Ktls(_) => unreachable!("the connection is plain"),
            };
            let mut steps = 0;
            let step = |cx: &mut Context<'_>| {
                read(&io, cx);
                steps += 1;
                if steps == 2 {
                    assert!(!is_corked(), "the last segment waits");
                    return Poll::Ready(());
                }
                for (size, corked) in [(CORK_BYTES - 1, false), (CORK_BYTES, true)] {
                    let written = Pin::new(&mut io.clone()).poll_write(cx, &vec![0; size]);
                    assert!(
                        matches!(written, Poll::Ready(Ok(count)) if count == size),
                        "{written:?}"
                    );
                    assert_eq!(is_corked(), corked, "{size} bytes");
                }
                client.write_all(&[0]).unwrap();
                Poll::Pending
            };
            drive(&io, step, || {}).await;
        });
    }

    /// A SETTINGS frame of 100 values. The client sends one byte each time the server has read the
    /// last byte.
    #[test]
    fn client_with_endless_input_does_not_starve_other_tasks() {
        const SETTINGS: [u8; 9] = [0, 2, 88, 4, 0, 0, 0, 0, 0];
        let steps = core::run_test(async {
            let (mut client, io) = connected(&SETTINGS);
            let had_their_turn = Rc::new(Cell::new(false));
            let mut steps = 0;
            let step = |cx: &mut Context<'_>| {
                read(&io, cx);
                if had_their_turn.get() || steps == 500 {
                    return Poll::Ready(steps);
                }
                steps += 1;
                // The driver has reported the socket as ready once. With epoll, later polls may
                // rely on that report.
                if steps == 2 {
                    let others = had_their_turn.clone();
                    drop(monoio::spawn(async move { others.set(true) }));
                }
                client.write_all(&[0]).unwrap();
                Poll::Pending
            };
            drive(&io, step, || {}).await
        });
        assert!(steps <= 4, "{} steps before another task ran", steps - 1);
    }
}
