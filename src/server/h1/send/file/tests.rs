//! Tests of the sending of files, with a client on another thread.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::net::sockopt::tcp_cork;

use super::*;
use crate::http::{Body, CacheResult, Fields, Method, RequestHead, Response};
use crate::limits::READERS_LARGE_MAX;
use crate::runtime::core;
use crate::runtime::helper::Helper;
use crate::runtime::waker::CoreNotify;
use crate::server::access_log::Stopwatch;
use crate::server::connection_limits::ConnectionLimits;
use crate::server::deadlines::DeadlineTable;
use crate::server::stream::Stream;
use crate::sync::Mutex;
use crate::sys::Socket;

const MIB: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// A file on the disk of the build directory, not on a file system in memory. Removed on drop.
struct OnDisk(PathBuf, SharedFile);

impl OnDisk {
    fn new(name: &str, size: u64) -> Self {
        let place = std::env::current_exe().unwrap().with_file_name(name);
        let mut file = File::create(&place).unwrap();
        let bytes: Vec<u8> = (0..size).map(byte).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        let file = SharedFile::new(File::open(&place).unwrap());
        OnDisk(place, file)
    }

    fn body(&self, span: Span) -> Body {
        Body::File {
            file: self.1.clone(),
            span,
        }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The byte of a test file at an offset.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// Sends a 200 with `body` to a client. `client` runs on a separate thread with the client's end
/// and a handle of the server's socket. Returns the handle and the result of `client`.
async fn send<T: Send + 'static>(
    helper: &Helper,
    length: u64,
    body: Body,
    client: impl FnOnce(TcpStream, TcpStream) -> T + Send + 'static,
) -> (TcpStream, T) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let (handle, of_client) = (accepted.try_clone().unwrap(), accepted.try_clone().unwrap());
    let client = std::thread::spawn(move || client(peer, of_client));
    let stream = Stream::Plain(Socket::new(accepted).unwrap());
    let slot = ConnectionLimits::new(1, 0, 1).acquire(0, None).ok().unwrap();
    let deadline = DeadlineTable::default().add(stream.local(), slot);
    let head = RequestHead {
        method: Method::Get,
        ..RequestHead::refused()
    };
    let sending = Sending {
        stream: &stream,
        deadline: &deadline,
        helper,
        head: &head,
        keep_alive: true,
        stopwatch: &Stopwatch::start(),
    };
    let response = Response {
        status: 200,
        fields: Fields::new(),
        length: Some(length),
        body,
        cache: CacheResult::Hit,
    };
    assert!(sending.response(response).await.complete);
    (handle, client.join().unwrap())
}

/// Waits until `socket` is or is not corked.
fn await_cork(socket: &TcpStream, on: bool) {
    let began = Instant::now();
    while tcp_cork(socket).unwrap() != on {
        assert!(began.elapsed() < PATIENCE, "the cork is never {on}");
        std::thread::yield_now();
    }
}

/// Reads `length` bytes after the head.
fn body_of(peer: &mut TcpStream, length: u64) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut next = [0];
        peer.read_exact(&mut next).unwrap();
        head.push(next[0]);
    }
    let mut body = vec![0; length as usize];
    peer.read_exact(&mut body).unwrap();
    body
}

fn is_content(bytes: &[u8], from: u64) -> bool {
    bytes.iter().zip(from..).all(|(&found, at)| found == byte(at))
}

#[test]
fn socket_is_corked_during_a_large_body_and_not_afterwards() {
    // More than the kernel buffers for a client that reads nothing.
    let size = 40 * MIB + 1;
    let disk = OnDisk::new("send-corked", size);
    core::run_test(async {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        for span in [
            Span { start: 0, end: size },
            Span {
                start: 7,
                end: size - 5,
            },
        ] {
            let length = span.size();
            let (socket, received) = send(&helper, length, disk.body(span), move |mut peer, socket| {
                await_cork(&socket, true);
                body_of(&mut peer, length)
            })
            .await;
            assert!(!tcp_cork(&socket).unwrap(), "the last segment waits");
            assert!(is_content(&received, span.start), "{span:?}");
        }
    });
}

#[test]
fn socket_is_not_corked_after_a_body_with_one_byte_in_its_last_step() {
    let disk = OnDisk::new("send-last-byte", MIB + 1);
    core::run_test(async {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let span = Span {
            start: 0,
            end: MIB + 1,
        };
        // First by a helper thread, then on the core.
        for _ in 0..2 {
            let (socket, received) = send(&helper, MIB + 1, disk.body(span), |mut peer, _| {
                body_of(&mut peer, MIB + 1)
            })
            .await;
            assert!(!tcp_cork(&socket).unwrap(), "the last byte waits");
            assert!(is_content(&received, 0));
        }
    });
}

#[test]
fn socket_is_not_corked_after_a_multipart_body() {
    let disk = OnDisk::new("send-multipart", 4 * MIB);
    let spans = [(0, MIB + 1), (5, 6), (MIB, 3 * MIB - 9)].map(|(start, end)| Span { start, end });
    let length = spans.iter().map(|span| span.size() + 4).sum::<u64>() + 3;
    let body = Body::Parts {
        file: disk.1.clone(),
        parts: spans.iter().map(|&span| (b"part".to_vec(), span)).collect(),
        tail: b"end".to_vec(),
    };
    core::run_test(async {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let (socket, received) = send(&helper, length, body, move |mut peer, _| {
            body_of(&mut peer, length)
        })
        .await;
        assert!(!tcp_cork(&socket).unwrap(), "the tail waits");
        let mut rest = &received[..];
        for span in spans {
            let (head, after) = rest.split_at(4);
            let (part, after) = after.split_at(span.size() as usize);
            assert!(head == b"part" && is_content(part, span.start), "{span:?}");
            rest = after;
        }
        assert_eq!(rest, b"end");
    });
}

#[test]
fn socket_is_not_corked_while_a_body_waits_for_missing_pages() {
    let size = 2 * MIB + 1;
    let disk = OnDisk::new("send-waits", size);
    // The core may read the first MiB. The other pages are missing.
    let touch = |_, step| Ok(step as usize);
    Pages::of(&disk.1).read_steps(&disk.1, 0, MIB, touch).unwrap();
    fadvise(&*disk.1, MIB, None, Advice::DontNeed).unwrap();
    if read_resident(&disk.1, size - 1, &mut [0]).unwrap().is_some() {
        eprintln!("SKIPPED: the file system keeps cached pages");
        return;
    }
    core::run_test(async {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let (release, reads) = block_large_reads(&helper).await;
        let body = disk.body(Span { start: 0, end: size });
        let (_, received) = send(&helper, size, body, move |mut peer, socket| {
            let mut received = body_of(&mut peer, MIB);
            // No thread is free to read the other pages.
            await_cork(&socket, false);
            drop(release);
            received.resize(size as usize, 0);
            peer.read_exact(&mut received[MIB as usize..]).unwrap();
            received
        })
        .await;
        for read in reads {
            read.await;
        }
        assert!(is_content(&received, 0));
    });
}

/// Occupies every thread for reads of large bodies until the drop of the returned sender. Also
/// returns the tasks of the reads.
async fn block_large_reads(helper: &Helper) -> (mpsc::Sender<()>, Vec<monoio::task::JoinHandle<()>>) {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let mut reads = Vec::new();
    for _ in 0..READERS_LARGE_MAX {
        let started = CoreNotify::new();
        let (helper, start, released) = (helper.clone(), started.waker(), released.clone());
        reads.push(monoio::spawn(async move {
            let read = helper.read(ReadKind::Large, move || {
                start.wake();
                // `Err`: the client has dropped the sender.
                let _ = released.lock().recv();
            });
            read.await.unwrap();
        }));
        let started = monoio::time::timeout(PATIENCE, started.wait()).await;
        started.expect("the read starts");
    }
    (release, reads)
}
