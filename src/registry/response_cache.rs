//! Answers of one core, encoded: a hit on a small object costs one `send`, one on a file the head's and its own.
//!
//! Keyed by the request target as received, so that a hit parses no path. Only public content is here.

use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{CachedAccess, Readers};
use crate::http::{Fields, Ready, RequestHead};
use crate::limits::MEMORY_OBJECTS_MAX;
use crate::lru::Lru;
use crate::oci::accepts;
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::server::h1::send::encode_ready;

/// What an entry costs beside body, fields and key: slots, headers of allocations, index.
const OVERHEAD_BYTES: u64 = 512;

pub struct ResponseCache {
    answers: Lru<Box<str>, CachedResponse>,
    /// Answers whose body is an open file. Bounded by their number: each may be the last to hold its descriptor.
    files: Lru<Box<str>, CachedResponse>,
}

/// One answer.
struct CachedResponse {
    fields: Fields,
    body: CachedBody,
    /// For answers to tags.
    tag: Option<CachedTagTerms>,
    readers: Readers,
    ready: Rc<Ready>,
    /// The second for which `ready` was encoded: `Date` and `Age` say so.
    encoded_at: u64,
}

enum CachedBody {
    Bytes(Bytes),
    /// A committed file and its size.
    File(Arc<File>, u64),
}

/// Under which terms a tag's answer may be repeated.
pub struct CachedTagTerms {
    pub media_type: String,
    pub checked_ms: u64,
    pub fresh_until_ms: u64,
}

impl ResponseCache {
    pub fn new(bytes_max: u64, files_max: usize) -> Self {
        let files_max = if bytes_max == 0 { 0 } else { files_max };
        ResponseCache {
            answers: Lru::new(bytes_max, MEMORY_OBJECTS_MAX),
            files: Lru::new(files_max as u64, files_max),
        }
    }

    /// Returns the cached response to `head`, if `head` meets its terms and `access` allows it.
    pub fn find(&mut self, head: &RequestHead<'_>, access: &CachedAccess) -> Option<Rc<Ready>> {
        let entry = match self.answers.get(head.target) {
            Some(entry) => entry,
            None => self.files.get(head.target)?,
        };
        if !entry.readers.include(access) {
            return None;
        }
        if let Some(tag) = &entry.tag
            && (unix_millis() >= tag.fresh_until_ms || !accepts(head.accept(), &tag.media_type))
        {
            return None;
        }
        let now = unix_seconds();
        if entry.encoded_at != now {
            entry.encode(now);
        }
        Some(entry.ready.clone())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.answers.clear();
        self.files.clear();
    }

    /// Forgets the answer to `target`.
    pub fn forget(&mut self, target: &str) {
        self.answers.remove(target);
        self.files.remove(target);
    }

    /// Remembers an answer to `target`. `fields` say that it was a hit. Without a target it would be found by nobody.
    pub fn remember(
        &mut self,
        target: &str,
        fields: Fields,
        body: Bytes,
        tag: Option<CachedTagTerms>,
        readers: Readers,
    ) {
        if target.is_empty() {
            return;
        }
        let weight =
            2 * body.len() as u64 + 2 * fields.as_bytes().len() as u64 + target.len() as u64 + OVERHEAD_BYTES;
        let entry = CachedResponse::new(fields, CachedBody::Bytes(body), tag, readers);
        self.answers.insert(target.into(), entry, weight);
    }

    /// Remembers that the answer to `target` is `file`, of `size` bytes.
    pub fn remember_file(
        &mut self,
        target: &str,
        fields: Fields,
        file: Arc<File>,
        size: u64,
        readers: Readers,
    ) {
        if size > 0 && !target.is_empty() {
            self.files.insert(
                target.into(),
                CachedResponse::new(fields, CachedBody::File(file, size), None, readers),
                1,
            );
        }
    }
}

impl CachedResponse {
    fn new(fields: Fields, body: CachedBody, tag: Option<CachedTagTerms>, readers: Readers) -> Self {
        let nothing = Rc::new(Ready::new(Vec::new(), 0, Bytes::new(), None));
        let mut entry = CachedResponse {
            fields,
            body,
            tag,
            readers,
            ready: nothing,
            encoded_at: 0,
        };
        entry.encode(unix_seconds());
        entry
    }

    fn encode(&mut self, now: u64) {
        self.encoded_at = now;
        let nothing = Bytes::new();
        let (bytes, file) = match &self.body {
            CachedBody::Bytes(bytes) => (bytes, None),
            CachedBody::File(file, size) => (&nothing, Some((file.clone(), *size))),
        };
        self.ready = Rc::new(match &self.tag {
            None => encode_ready(&self.fields, bytes, file, now),
            Some(tag) => {
                let age = now.saturating_sub(tag.checked_ms / 1000);
                let fields = self.fields.clone().with("Age", age.to_string());
                encode_ready(&fields, bytes, file, now)
            }
        });
    }
}
