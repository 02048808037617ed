//! Health check of a running cache, using only the standard library and rustls. Container runtimes
//! start the check every few seconds, in containers with nothing but this binary.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::healthcheck_tls as tls;
use crate::config::ListenAddr;

/// Time limit of the whole request, including the connect.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Enough for the status line. The rest of the response does not matter.
const ANSWER_BYTES_MAX: usize = 64;

/// Sends the request to the first listener, on each address of the listener. The result contains
/// one line to print in either case.
pub(super) fn check_any(listen: &[ListenAddr], within: Duration) -> Result<String, String> {
    let deadline = Instant::now() + within;
    // A plain listener is preferred, because the request then needs no TLS handshake.
    let Some(first) = listen.iter().find(|addr| !addr.tls).or(listen.first()) else {
        return Err("no listen address is configured; set LISTEN_ADDR".into());
    };
    if first.port == 0 {
        return Err(format!(
            "{first}: port 0 means a port chosen at start; expected a fixed port; set LISTEN_ADDR"
        ));
    }
    let mut failures = Vec::new();
    for address in first.reachable_at() {
        let scheme = first.scheme();
        match check(address, first.tls, deadline) {
            Ok(how) => return Ok(format!("healthy: {scheme}://{address}/healthz {how}")),
            Err(error) => failures.push(format!("{scheme}://{address}/healthz: {error}")),
        }
    }
    Err(format!("unhealthy: {}", failures.join("; ")))
}

/// Sends the request to `address`. Returns the reason why the cache is healthy.
fn check(address: SocketAddr, tls: bool, deadline: Instant) -> io::Result<&'static str> {
    let stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    if !tls {
        return request(stream, |stream| stream, address, deadline).map(|()| "answered 200");
    }
    let tls = tls::session().map(|session| rustls::StreamOwned::new(session, stream));
    match request(tls?, |tls| &tls.sock, address, deadline) {
        Ok(()) => Ok("answered 200"),
        // The server completes handshakes, but requires a client certificate.
        Err(error) if tls::is_demand_for_a_certificate(&error) => Ok("requires a client certificate"),
        Err(error) => Err(error),
    }
}

fn request<S: Read + Write>(
    mut stream: S,
    socket: impl Fn(&S) -> &TcpStream,
    address: SocketAddr,
    deadline: Instant,
) -> io::Result<()> {
    socket(&stream).set_read_timeout(Some(left(deadline)?))?;
    write!(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    stream.flush()?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < ANSWER_BYTES_MAX {
        // Set again before each read, so that a server sending single bytes cannot extend the
        // deadline.
        socket(&stream).set_read_timeout(Some(left(deadline)?))?;
        let mut piece = [0; ANSWER_BYTES_MAX];
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::other("closed the connection without a response")),
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    if line.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(io::Error::other(format!("answered {line:?}")))
}

/// Returns the remaining time, never zero. Socket options interpret zero as no timeout.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no response in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Checks a server that sends `answer` on the first connection and then waits until the client
    /// closes.
    fn check(answer: &'static [u8], within: Duration) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = ListenAddr::parse(&listener.local_addr().unwrap().to_string(), false).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            if !answer.is_empty() {
                let _ = stream.read_to_end(&mut Vec::new());
            }
            request
        });
        let outcome = check_any(&[listen], within);
        assert!(
            server
                .join()
                .unwrap()
                .starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:")
        );
        outcome
    }

    #[test]
    fn only_200_is_healthy() {
        assert!(check(b"HTTP/1.1 200 OK\r\n\r\n", DEADLINE).is_ok());
        let refused = check(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", DEADLINE).unwrap_err();
        assert!(
            refused.ends_with("answered \"HTTP/1.1 503 Service Unavailable\""),
            "{refused}"
        );
        let closed = check(b"", DEADLINE).unwrap_err();
        assert!(
            closed.ends_with("closed the connection without a response"),
            "{closed}"
        );
    }

    #[test]
    fn health_check_fails_at_the_deadline_if_the_response_is_incomplete() {
        let late = check(b"HTTP/1.1 200", Duration::from_millis(50)).unwrap_err();
        assert!(late.ends_with("no response in time"), "{late}");
    }

    #[test]
    fn health_check_without_a_listener_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = ListenAddr::parse(&listener.local_addr().unwrap().to_string(), false).unwrap();
        drop(listener);
        assert!(
            check_any(&[listen], DEADLINE)
                .unwrap_err()
                .starts_with("unhealthy: http://127.0.0.1:")
        );
        let unknown = ListenAddr::parse(":0", false).unwrap();
        assert!(
            check_any(&[unknown], DEADLINE)
                .unwrap_err()
                .contains("fixed port")
        );
    }
}
