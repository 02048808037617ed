//! The `--once` mode: one request on one connection, with detailed times.

use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::cpu;
use crate::head::{Head, HeadReader};
use crate::target::Target;

/// Largest read of a hashed body. Fits in the second-level cache.
const HASHED_READ: usize = 256 * 1024;
/// Largest read of a dropped body.
const DROPPED_READ: usize = 1024 * 1024;

/// The result of one exchange. Times count from the start of the connect.
pub struct Outcome {
    connected: Duration,
    head: Duration,
    /// Time of the first body byte, or of the head if there is no body.
    first_byte: Duration,
    total: Duration,
    bytes: u64,
    expected: u64,
    /// `None` if no digest was given.
    digest_right: Option<bool>,
    cpu: Duration,
}

/// Sends the request and receives the whole response.
///
/// # Errors
/// The connection breaks, no byte arrives for a minute, or the head is not the expected one.
pub fn get(target: &Target, digest: Option<&str>) -> Result<Outcome, Box<dyn std::error::Error>> {
    let wanted = match digest {
        None => None,
        Some(text) => Some(
            text.strip_prefix("sha256:")
                .ok_or("--digest wants sha256:<hex>")?,
        ),
    };
    let cpu_before = cpu::used();
    let start = Instant::now();
    let stream = target.connect()?;
    let connected = start.elapsed();
    let mut rest = &target.request[..];
    while !rest.is_empty() {
        let count = send(&stream, rest, SendFlags::NOSIGNAL)?;
        rest = &rest[count..];
    }
    let mut hasher = wanted.map(|_| Context::new(&SHA256));
    let mut buffer = vec![
        0;
        if hasher.is_some() {
            HASHED_READ
        } else {
            DROPPED_READ
        }
    ];
    let (head, early, head_time) = read_head(target, &stream, &mut buffer, start)?;
    let mut bytes = early as u64;
    let mut first_byte = (early > 0 || head.body == 0).then_some(head_time);
    if let Some(hasher) = &mut hasher {
        hasher.update(&buffer[head.size..head.size + early]);
    }
    let flags = if hasher.is_some() {
        RecvFlags::empty()
    } else {
        RecvFlags::TRUNC
    };
    while bytes < head.body {
        let limit = usize::try_from(head.body - bytes)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let (_, count) = recv(&stream, &mut buffer[..limit], flags)?;
        if count == 0 {
            break;
        }
        first_byte.get_or_insert_with(|| start.elapsed());
        if let Some(hasher) = &mut hasher {
            hasher.update(&buffer[..count]);
        }
        bytes += count as u64;
    }
    let digest_right = hasher.zip(wanted).map(|(hasher, wanted)| {
        let found: String = hasher
            .finish()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        found == wanted
    });
    let total = start.elapsed();
    Ok(Outcome {
        connected,
        head: head_time,
        first_byte: first_byte.unwrap_or(total),
        total,
        bytes,
        expected: head.body,
        digest_right,
        cpu: cpu::used().saturating_sub(cpu_before),
    })
}

/// Reads the head. Returns the head, the number of body bytes received with the head, and the time
/// of its first byte.
pub fn read_head(
    target: &Target,
    stream: &std::net::TcpStream,
    buffer: &mut [u8],
    start: Instant,
) -> Result<(Head, usize, Duration), Box<dyn std::error::Error>> {
    let mut reader = HeadReader::new(target);
    let mut filled = 0;
    let mut first = None;
    loop {
        if filled == buffer.len() {
            return Err("the response head is too large".into());
        }
        let (_, count) = recv(stream, &mut buffer[filled..], RecvFlags::empty())?;
        if count == 0 {
            return Err("the server closed the connection before the response".into());
        }
        let time = *first.get_or_insert_with(|| start.elapsed());
        filled += count;
        if let Some(head) = reader
            .read(&buffer[..filled])
            .map_err(|wrong| wrong.to_string())?
        {
            let early = filled - head.size;
            if early as u64 > head.body {
                return Err("the server sent more than the response".into());
            }
            return Ok((head, early, time));
        }
    }
}

impl Outcome {
    /// Returns whether all bytes arrived and their digest is correct.
    pub fn right(&self) -> bool {
        self.bytes == self.expected && self.digest_right != Some(false)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "connect_ms": milliseconds(self.connected),
            "head_ms": milliseconds(self.head),
            "first_byte_ms": milliseconds(self.first_byte),
            "total_ms": milliseconds(self.total),
            "bytes": self.bytes,
            "expected": self.expected,
            "digest_right": self.digest_right,
            "client_cpu_ms": milliseconds(self.cpu),
        })
    }

    pub fn text(&self) -> String {
        let digest = match self.digest_right {
            None => "not checked",
            Some(true) => "right",
            Some(false) => "WRONG",
        };
        format!(
            "head {:.3} ms, first byte {:.3} ms, total {:.3} ms, {} of {} bytes, {:.3} GB/s, digest {digest}",
            milliseconds(self.head),
            milliseconds(self.first_byte),
            milliseconds(self.total),
            self.bytes,
            self.expected,
            self.bytes as f64 / self.total.as_secs_f64() / 1e9,
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
