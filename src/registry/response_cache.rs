//! Encoded responses of one core. A hit on a small object costs one `send`. A hit on a file costs
//! one for the head, and the transfer of the file.
//!
//! The key is the request target as received, so that a hit parses no path. All cached content is
//! public, or comes from registries that the operator shares, so all permitted readers receive
//! equal responses.

use std::rc::Rc;

use bytes::Bytes;

use crate::auth::{CachedAccess, Readers};
use crate::http::{ContentName, Fields, Ready, RequestHead};
use crate::limits::MEMORY_OBJECTS_MAX;
use crate::lru::Lru;
use crate::oci::accepts;
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::server::h1::send::encode_ready;
use crate::shared_file::SharedFile;

/// Memory of an entry besides body, fields and key: slots, allocation headers, index.
const OVERHEAD_BYTES: u64 = 512;

pub struct ResponseCache {
    answers: Lru<Box<str>, CachedResponse>,
    /// Responses with an open file as body. Their number is limited, because an entry may be the
    /// last owner of a file descriptor.
    files: Lru<Box<str>, CachedResponse>,
}

struct CachedResponse {
    fields: Fields,
    body: CachedBody,
    /// The name of the content, for the access log.
    content: Option<Rc<ContentName>>,
    /// The terms of a response to a tag.
    tag: Option<CachedTagTerms>,
    readers: Readers,
    ready: Rc<Ready>,
    /// The time of `Date` and `Age` in `ready`, in seconds since 1970.
    encoded_at: u64,
}

enum CachedBody {
    Bytes(Bytes),
    /// A committed file and its size.
    File(SharedFile, u64),
}

/// The terms under which the response to a tag may be served again.
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

    /// Returns the cached response to `head`, if the terms are met and `access` permits the
    /// response.
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

    pub fn clear(&mut self) {
        self.answers.clear();
        self.files.clear();
    }

    pub fn forget(&mut self, target: &str) {
        self.answers.remove(target);
        self.files.remove(target);
    }

    /// Caches the response to `target`. `fields` must describe a hit. Without a target, nothing is
    /// cached.
    pub fn remember(
        &mut self,
        target: &str,
        fields: Fields,
        body: Bytes,
        tag: Option<CachedTagTerms>,
        readers: Readers,
        content: Option<Rc<ContentName>>,
    ) {
        if target.is_empty() {
            return;
        }
        // The target is the key, and its parts are the name of the content.
        let texts = 2 * fields.as_bytes().len() as u64 + 2 * target.len() as u64;
        let weight = 2 * body.len() as u64 + texts + OVERHEAD_BYTES;
        let entry = CachedResponse::new(fields, CachedBody::Bytes(body), tag, readers, content);
        self.answers.insert(target.into(), entry, weight);
    }

    /// Caches `file`, of `size` bytes, as the response to `target`.
    pub fn remember_file(
        &mut self,
        target: &str,
        fields: Fields,
        file: SharedFile,
        size: u64,
        readers: Readers,
        content: Option<Rc<ContentName>>,
    ) {
        if size > 0 && !target.is_empty() {
            let body = CachedBody::File(file, size);
            let entry = CachedResponse::new(fields, body, None, readers, content);
            self.files.insert(target.into(), entry, 1);
        }
    }
}

impl CachedResponse {
    fn new(
        fields: Fields,
        body: CachedBody,
        tag: Option<CachedTagTerms>,
        readers: Readers,
        content: Option<Rc<ContentName>>,
    ) -> Self {
        let nothing = Rc::new(Ready::new(Vec::new(), 0, Bytes::new(), None));
        let mut entry = CachedResponse {
            fields,
            body,
            content,
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
        let mut ready = match &self.tag {
            None => encode_ready(&self.fields, bytes, file, now),
            Some(tag) => {
                let age = now.saturating_sub(tag.checked_ms / 1000);
                let fields = self.fields.clone().with("Age", age.to_string());
                encode_ready(&fields, bytes, file, now)
            }
        };
        ready.content = self.content.clone();
        self.ready = Rc::new(ready);
    }
}
