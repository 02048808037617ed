//! Scripted deviations of the fake registry: [`On`] selects requests, [`Reply`] defines the answer.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Kind, RecordedRequest};
use crate::harness::content::Content;
use crate::harness::{Fields, PATIENCE};

/// The requests that a rule applies to. All conditions must hold. Without conditions, every request
/// matches.
#[derive(Clone, Default)]
pub struct On {
    pub(super) fragment: Option<String>,
    pub(super) kind: Option<Kind>,
    pub(super) method: Option<&'static str>,
    pub(super) range: Option<bool>,
    pub(super) listener: Option<usize>,
    pub(super) authorized: Option<bool>,
    pub(super) skip: usize,
    pub(super) times: Option<usize>,
}

impl On {
    pub fn any() -> Self {
        On::default()
    }

    /// Selects requests whose target contains `fragment`, such as a digest.
    pub fn path(fragment: impl Into<String>) -> Self {
        On {
            fragment: Some(fragment.into()),
            ..On::default()
        }
    }

    pub fn kind(kind: Kind) -> Self {
        On {
            kind: Some(kind),
            ..On::default()
        }
    }

    pub fn and_kind(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    pub fn get(mut self) -> Self {
        self.method = Some("GET");
        self
    }

    pub fn head(mut self) -> Self {
        self.method = Some("HEAD");
        self
    }

    /// Selects only requests with (or without) a `Range` field.
    pub fn range(mut self, present: bool) -> Self {
        self.range = Some(present);
        self
    }

    /// Selects only requests with (or without) an `Authorization` field.
    pub fn authorized(mut self, present: bool) -> Self {
        self.authorized = Some(present);
        self
    }

    pub fn listener(mut self, index: usize) -> Self {
        self.listener = Some(index);
        self
    }

    /// Skips the first `n` matching requests.
    pub fn after(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// Limits the rule to `n` requests. Without a limit, the rule stays active.
    pub fn times(mut self, n: usize) -> Self {
        self.times = Some(n);
        self
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    pub(super) fn matches(&self, seen: &RecordedRequest) -> bool {
        self.fragment
            .as_ref()
            .is_none_or(|f| seen.target.contains(f.as_str()))
            && self.kind.is_none_or(|k| k == seen.kind)
            && self.method.is_none_or(|m| m == seen.method)
            && self.range.is_none_or(|r| r == seen.has_range())
            && self.listener.is_none_or(|l| l == seen.listener)
            && self
                .authorized
                .is_none_or(|a| a == seen.field("authorization").is_some())
    }
}

/// The delimitation of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Length,
    Chunked,
    /// The end of the connection ends the body.
    Close,
}

/// The way to break off a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    Fin,
    Rst,
    /// A valid last chunk, sent too early. Equal to `Fin` for any other framing.
    LastChunk,
}

/// The answer to `Range`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    On,
    /// Ignores the range: 200 with the complete content.
    Off,
    /// 206 with a total that is too high by 1.
    WrongTotal,
    /// 206 that declares and sends a start one byte after the requested start.
    WrongStart,
    /// 206 that declares the requested start but sends bytes from offset 0.
    WrongBytes,
    /// 416 for every range.
    Refused,
}

/// A deviation from the default answer. Unset properties keep their default.
#[derive(Clone, Default)]
pub struct Reply {
    pub(super) status: Option<u16>,
    pub(super) body: Option<Content>,
    pub(super) set: Fields,
    pub(super) add: Fields,
    pub(super) onward: Option<(String, String)>,
    pub(super) remove: Vec<String>,
    pub(super) raw: Option<Vec<u8>>,
    pub(super) delay_head: Duration,
    pub(super) delay_body: Duration,
    pub(super) pause: Option<(u64, Duration)>,
    pub(super) rate: Option<u64>,
    pub(super) framing: Option<Framing>,
    pub(super) length_delta: i64,
    pub(super) cut: Option<(u64, Cut)>,
    pub(super) hang_up: Option<Cut>,
    pub(super) flip: Option<u64>,
    pub(super) range: Option<Range>,
    pub(super) gate_head: Option<Gate>,
    pub(super) gates: Vec<(u64, Gate)>,
}

impl Reply {
    /// Returns the default answer, for modification.
    pub fn new() -> Self {
        Reply::default()
    }

    /// Returns an answer with this status. The body is an OCI error unless [`Reply::body`] sets
    /// another body.
    pub fn status(status: u16) -> Self {
        Reply {
            status: Some(status),
            ..Reply::default()
        }
    }

    /// Returns a redirect to `location`, written as given.
    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Reply::status(status).body("").set("Location", location.into())
    }

    /// Returns a redirect to the request's target, with the prefix `from` replaced by `to`.
    pub fn onward(status: u16, from: impl Into<String>, to: impl Into<String>) -> Self {
        Reply {
            onward: Some((from.into(), to.into())),
            ..Reply::status(status).body("")
        }
    }

    pub fn too_many_requests(retry_after: &str) -> Self {
        Reply::status(429).set("Retry-After", retry_after)
    }

    /// Closes the connection without an answer.
    pub fn hang_up(cut: Cut) -> Self {
        Reply {
            hang_up: Some(cut),
            ..Reply::default()
        }
    }

    /// Sends exactly these bytes and closes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Reply {
            raw: Some(bytes.into()),
            ..Reply::default()
        }
    }

    pub fn body(mut self, content: impl Into<Content>) -> Self {
        self.body = Some(content.into());
        self
    }

    /// Replaces a header field. Any bytes are allowed.
    pub fn set(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.set.push((name.into(), value.into()));
        self
    }

    /// Adds another line of a header field.
    pub fn add(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.add.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.remove.push(name.into());
        self
    }

    pub fn without_digest(self) -> Self {
        self.without("Docker-Content-Digest")
    }

    pub fn delay_head(mut self, delay: Duration) -> Self {
        self.delay_head = delay;
        self
    }

    pub fn delay_body(mut self, delay: Duration) -> Self {
        self.delay_body = delay;
        self
    }

    /// Pauses after every `bytes` of body.
    pub fn pause_every(mut self, bytes: u64, pause: Duration) -> Self {
        self.pause = Some((bytes.max(1), pause));
        self
    }

    /// Limits the body to this number of bytes per second.
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second.max(1));
        self
    }

    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = Some(framing);
        self
    }

    /// Declares a length that is wrong by `delta`. The body does not change.
    pub fn length_delta(mut self, delta: i64) -> Self {
        self.length_delta = delta;
        self
    }

    /// Breaks off after `bytes` of this answer's body.
    pub fn cut_at(mut self, bytes: u64, cut: Cut) -> Self {
        self.cut = Some((bytes, cut));
        self
    }

    /// Inverts the lowest bit of the byte at `offset` of the content.
    pub fn flip(mut self, offset: u64) -> Self {
        self.flip = Some(offset);
        self
    }

    pub fn range(mut self, range: Range) -> Self {
        self.range = Some(range);
        self
    }

    /// Sends nothing, not even the head, until `gate` opens.
    pub fn hold_head(mut self, gate: &Gate) -> Self {
        self.gate_head = Some(gate.clone());
        self
    }

    /// Stops before the byte at `offset` of the content until `gate` opens.
    pub fn hold_at(mut self, offset: u64, gate: &Gate) -> Self {
        self.gates.push((offset, gate.clone()));
        self
    }
}

/// Blocks an answer until the test opens the gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    pub fn new() -> Self {
        Gate::default()
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Whether an answer has arrived at the gate.
    pub fn has_arrived(&self) -> bool {
        self.0.0.lock().unwrap().arrived > 0
    }

    /// Waits until `n` answers have arrived at the gate.
    pub fn wait_arrived(&self, n: usize) {
        let guard = self.0.0.lock().unwrap();
        let (state, timeout) = self
            .0
            .1
            .wait_timeout_while(guard, PATIENCE, |s| s.arrived < n)
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "{} of {n} responses arrived at the gate",
            state.arrived
        );
    }

    pub(super) fn pass(&self, stop: &AtomicBool) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.arrived += 1;
        self.0.1.notify_all();
        while !state.open {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // The registry's shutdown does not notify the gates, so check `stop` periodically.
            state = self.0.1.wait_timeout(state, Duration::from_millis(20)).unwrap().0;
        }
        Ok(())
    }
}
