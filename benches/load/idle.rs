//! Idle connections, to measure their memory cost in the server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::head::HeadReader;
use crate::target::Target;

/// Opens `count` connections, sends one request on each, and prints `ready`. Holds the connections
/// until standard input closes. Returns whether the server kept all connections.
///
/// # Errors
/// The server rejects a connection, a response is wrong, or there are not enough descriptors.
pub fn hold(target: &Target, count: u32) -> Result<bool, Box<dyn std::error::Error>> {
    let mut reader = HeadReader::new(target);
    let mut held = Vec::new();
    for number in 0..count {
        let stream = target
            .connect()
            .map_err(|error| format!("connection {number}: {error}"))?;
        exchange(target, &stream, &mut reader).map_err(|error| format!("connection {number}: {error}"))?;
        held.push(stream);
    }
    println!("ready {count}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let kept = held.iter().filter(|stream| still_open(stream)).count();
    println!("kept {kept}");
    Ok(kept == held.len())
}

fn exchange(
    target: &Target,
    stream: &TcpStream,
    reader: &mut HeadReader,
) -> Result<(), Box<dyn std::error::Error>> {
    send(stream, &target.request, SendFlags::NOSIGNAL)?;
    let mut buffer = [0; 16 * 1024];
    let mut filled = 0;
    let mut needed = None;
    while needed.is_none_or(|needed| (filled as u64) < needed) {
        if filled == buffer.len() {
            return Err("the response exceeds the buffer of an idle connection".into());
        }
        let (_, count) = recv(stream, &mut buffer[filled..], RecvFlags::empty())?;
        if count == 0 {
            return Err("the server closed the connection".into());
        }
        filled += count;
        if needed.is_none() {
            let head = reader
                .read(&buffer[..filled])
                .map_err(|wrong| wrong.to_string())?;
            needed = head.map(|head| head.size as u64 + head.body);
        }
    }
    Ok(())
}

fn still_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(
        recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Err(Errno::AGAIN)
    )
}
