//! The address and content of requests, and the expected response.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::arguments::Arguments;

/// Read and write timeout of a blocking connection.
const BLOCKING_PATIENCE: Duration = Duration::from_secs(60);

/// A request, encoded once and sent repeatedly.
pub struct Target {
    pub addr: SocketAddr,
    /// The encoded request.
    pub request: Vec<u8>,
    /// Whether responses have no body, regardless of their Content-Length.
    pub head_only: bool,
    pub status: u16,
    /// `None` if the first response determines the length.
    pub length: Option<u64>,
}

impl Target {
    pub fn new(arguments: &Arguments) -> Self {
        Self::of(arguments, &arguments.path, arguments.length)
    }

    /// Returns the target for `path` instead of the path and the length of the arguments.
    pub fn of(arguments: &Arguments, path: &str, length: Option<u64>) -> Self {
        let mut request = format!(
            "{} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: load\r\n",
            arguments.method, arguments.addr
        );
        for header in &arguments.headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Self {
            addr: arguments.addr,
            request: request.into_bytes(),
            head_only: arguments.method == "HEAD",
            status: arguments.status,
            length,
        }
    }

    /// Opens a blocking connection without Nagle's delay.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BLOCKING_PATIENCE))?;
        stream.set_write_timeout(Some(BLOCKING_PATIENCE))?;
        Ok(stream)
    }
}
