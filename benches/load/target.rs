//! Where requests go, what they say, and what answer is right.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::arguments::Arguments;

/// A blocking connection that waits longer than this for bytes has failed.
const BLOCKING_PATIENCE: Duration = Duration::from_secs(60);

/// One request, encoded once and sent as often as wanted.
pub struct Target {
    pub addr: SocketAddr,
    /// The encoded request.
    pub request: Vec<u8>,
    /// Responses carry no body, whatever their Content-Length says.
    pub head_only: bool,
    pub status: u16,
    /// `None`: the first response decides.
    pub length: Option<u64>,
}

impl Target {
    pub fn new(arguments: &Arguments) -> Self {
        let mut request = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: load\r\n",
            arguments.method, arguments.path, arguments.addr
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
            length: arguments.length,
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
