//! Imports an archive that a client streams.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::{Buf as _, Bytes};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::access::Actor;
use super::api::{Answer, Api, ok};
use super::change::Change;
use super::problem::Problem;
use crate::limits::{IMPORT_IDLE_TIMEOUT, IMPORT_PARTS_QUEUED_MAX};
use crate::manage::{ImportRule, Importer};

/// Whether a connection has a longer time for its request than others. In the extensions of a request.
#[derive(Clone, Debug, Default)]
pub struct LongRequest(Arc<AtomicBool>);

impl LongRequest {
    pub fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part of a streamed archive.
enum Part {
    Bytes(Bytes),
    End,
}

impl Api {
    /// `POST /api/v1/import`
    pub(super) async fn import(&self, actor: Actor, rule: ImportRule, request: Request<Incoming>) -> Answer {
        let importer = Importer::new(self.subjects.cache.clone(), self.stores()?);
        let _slot = self.imports.try_acquire().map_err(|_| Problem::Importing)?;
        if let Some(long) = request.extensions().get::<LongRequest>() {
            long.allow();
        }
        let change = Change {
            actor,
            action: "import",
            selector: rule
                .name
                .as_ref()
                .map_or_else(|| "archive".to_owned(), ToString::to_string),
        };
        change.requested(None);
        let (parts, received) = mpsc::channel(IMPORT_PARTS_QUEUED_MAX);
        let (sender, report) = oneshot::channel();
        let started = thread::Builder::new().name("image-import".into()).spawn(move || {
            let archive = Received {
                parts: received,
                rest: Bytes::new(),
                has_ended: false,
            };
            let run = || {
                let report = importer.run(archive, &rule);
                change.imported(&report);
                report
            };
            // A dropped sender is a panic. A client that has left needs no report.
            if let Ok(report) = catch_unwind(AssertUnwindSafe(run)) {
                let _ = sender.send(report);
            }
        });
        started.map_err(|error| Problem::NoThread(error.to_string()))?;
        forward(request.into_body(), parts).await?;
        ok(StatusCode::OK, &report.await.map_err(|_| Problem::Panicked)?)
    }
}

/// Sends the parts of `body` to the import. After an early end of the import, reads the rest, because a client
/// reads the response after it has sent its request.
async fn forward(mut body: Incoming, parts: mpsc::Sender<Part>) -> Result<(), Problem> {
    let mut is_wanted = true;
    loop {
        let frame = timeout(IMPORT_IDLE_TIMEOUT, body.frame()).await;
        let interrupted = || Problem::Invalid("the body ended early; repeat the import".to_owned());
        let part = match frame.map_err(|_| interrupted())? {
            Some(frame) => match frame.map_err(|_| interrupted())?.into_data() {
                Ok(bytes) => Part::Bytes(bytes),
                Err(_trailers) => continue,
            },
            None => Part::End,
        };
        let is_end = matches!(part, Part::End);
        if is_wanted {
            is_wanted = parts.send(part).await.is_ok();
        }
        if is_end {
            return Ok(());
        }
    }
}

/// Reads the parts of a streamed archive.
struct Received {
    parts: mpsc::Receiver<Part>,
    rest: Bytes,
    has_ended: bool,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.has_ended {
            match self.parts.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.rest = bytes,
                Some(Part::End) => self.has_ended = true,
                // Without this error, an interrupted archive would look like a short one.
                None => {
                    return Err(io::Error::other(
                        "the client has left before the end of the archive",
                    ));
                }
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
