//! Encoded responses of one core. A hit on a small object costs one `send`. A hit on a file costs
//! one for the head, and the transfer of the file.
//!
//! The key is the request target as received, so that a hit parses no path. All cached content is
//! public, or comes from registries that the operator shares, so all permitted readers receive
//! equal responses.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::{CachedAccess, Readers};
use crate::cache::{LookupKind, LookupResult, RegistryLookups};
use crate::http::{ContentName, Fields, Ready, RequestHead, Resource, Version};
use crate::limits::{MEMORY_OBJECTS_MAX, USE_REPORT_INTERVAL};
use crate::lru::Lru;
use crate::oci::{DigestPrefix, accepts};
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::server::h1::send::encode_ready;
use crate::shared_file::SharedFile;

/// Memory of an entry besides texts and the encoded response: the tables of the map, the
/// reference-counted structs, and the reference count of the encoded bytes.
const ENTRY_BYTES: usize = Lru::<Box<str>, CachedResponse>::ENTRY_BYTES_MAX
    + allocated(2 * size_of::<usize>() + size_of::<Ready>())
    + allocated(2 * size_of::<usize>() + size_of::<ContentName>())
    + allocated(4 * size_of::<usize>());

/// Capacity of an encoded response beyond its length.
const ENCODED_SLACK_BYTES: usize = 64;

/// Memory of the fields for HTTP/2. The map has 24 places of 104 bytes and 32 indexes of 4 bytes.
/// 14 values take at most 128 bytes each, with a reference count of 32 bytes.
const MAP_BYTES_MAX: u64 = 24 * 104 + 32 * 4 + 14 * (128 + 32);

/// Returns the memory that the allocator takes for `bytes`. The allocator has four sizes between
/// powers of two.
const fn allocated(bytes: usize) -> usize {
    let step = bytes.next_power_of_two() / 8;
    bytes.next_multiple_of(if step < 16 { 16 } else { step })
}

pub struct ResponseCache {
    /// Content with a use to report, at most once per [`USE_REPORT_INTERVAL`] and entry.
    used: Vec<DigestPrefix>,
    answers: Lru<Box<str>, CachedResponse>,
    /// Responses with an open file as body. Their number is limited, because an entry may be the
    /// last owner of a file descriptor.
    files: Lru<Box<str>, CachedResponse>,
}

/// The content of a cached response.
pub struct CachedContent {
    pub digest: DigestPrefix,
    pub readers: Readers,
    /// The name for the access log.
    pub name: Option<Rc<ContentName>>,
    /// Content without which the response must not be served. `None` if the registry of the content
    /// gets requests.
    pub needs: Option<Arc<[DigestPrefix]>>,
    /// The cells of the registry, and the kind of the content. `None` if the registry is not counted.
    pub lookups: Option<(Arc<RegistryLookups>, LookupKind)>,
    pub resource: Resource,
}

struct CachedResponse {
    digest: DigestPrefix,
    /// The time of the last reported use, in seconds since 1970.
    reported_at: u64,
    /// The terms of a response to a tag.
    tag: Option<CachedTagTerms>,
    readers: Readers,
    needs: Option<Arc<[DigestPrefix]>>,
    lookups: Option<(Arc<RegistryLookups>, LookupKind)>,
    /// The response, with the only copy of its fields and its body.
    ready: Rc<Ready>,
    /// The time of `Date` and `Age` in `ready`, in seconds since 1970.
    encoded_at: u64,
    /// Whether the weight of the entry includes the fields for HTTP/2.
    weighs_map: bool,
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
            used: Vec::new(),
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
            entry.encode_again(now);
            if now.saturating_sub(entry.reported_at) >= USE_REPORT_INTERVAL.as_secs() {
                entry.reported_at = now;
                self.used.push(entry.digest);
            }
        }
        if let Some((cells, kind)) = &entry.lookups {
            cells.add(*kind, LookupResult::Memory);
        }
        let ready = entry.ready.clone();
        if head.version == Version::Http2 && !entry.weighs_map {
            entry.weighs_map = true;
            self.answers.add_weight(head.target, MAP_BYTES_MAX);
        }
        Some(ready)
    }

    /// Returns the content that was used, each at most once per [`USE_REPORT_INTERVAL`].
    pub fn take_used(&mut self) -> Vec<DigestPrefix> {
        std::mem::take(&mut self.used)
    }

    /// Forgets the responses whose content `is_removed`.
    pub fn forget_removed(&mut self, is_removed: impl Fn(DigestPrefix) -> bool) {
        for responses in [&mut self.answers, &mut self.files] {
            responses.retain(|_, response| {
                let needs = response.needs.as_deref().unwrap_or_default();
                !is_removed(response.digest) && !needs.iter().any(|&needed| is_removed(needed))
            });
        }
    }

    /// Forgets the manifests whose registry `is_suspended`, unless their needs are known.
    pub fn forget_suspended(&mut self, is_suspended: impl Fn(&ContentName) -> bool) {
        self.answers.retain(|target, response| {
            let is_manifest = target.contains("/manifests/") && response.needs.is_none();
            let name = response.ready.content.as_deref();
            !(is_manifest && name.is_none_or(&is_suspended))
        });
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
        fields: &Fields,
        body: &[u8],
        tag: Option<CachedTagTerms>,
        content: CachedContent,
    ) {
        if target.is_empty() {
            return;
        }
        let entry = CachedResponse::new(fields, body, None, tag, content);
        let weight = entry.weight(target);
        self.answers.insert(target.into(), entry, weight);
    }

    /// Caches `file`, of `size` bytes, as the response to `target`.
    pub fn remember_file(
        &mut self,
        target: &str,
        fields: &Fields,
        file: SharedFile,
        size: u64,
        content: CachedContent,
    ) {
        if size > 0 && !target.is_empty() {
            let entry = CachedResponse::new(fields, b"", Some((file, size)), None, content);
            self.files.insert(target.into(), entry, 1);
        }
    }
}

impl CachedResponse {
    fn new(
        fields: &Fields,
        body: &[u8],
        file: Option<(SharedFile, u64)>,
        tag: Option<CachedTagTerms>,
        content: CachedContent,
    ) -> Self {
        let now = unix_seconds();
        let age = tag.as_ref().map(|tag| tag.age(now));
        let mut ready = encode_ready(fields.as_bytes(), age, body, file, now);
        ready.content = content.name;
        ready.resource = content.resource;
        CachedResponse {
            digest: content.digest,
            // The lookup or the fill of the content counts as a use.
            reported_at: now,
            tag,
            readers: content.readers,
            needs: content.needs,
            lookups: content.lookups,
            ready: Rc::new(ready),
            encoded_at: now,
            weighs_map: false,
        }
    }

    /// Encodes the response with another time. A response being sent keeps the previous encoding.
    fn encode_again(&mut self, now: u64) {
        self.encoded_at = now;
        let old = &self.ready;
        let (fields, body) = (&old.encoded[old.fields.clone()], &old.encoded[old.head_len..]);
        let age = self.tag.as_ref().map(|tag| tag.age(now));
        let mut ready = encode_ready(fields, age, body, old.file.clone(), now);
        ready.content = old.content.clone();
        ready.resource = old.resource;
        self.ready = Rc::new(ready);
    }

    /// Returns the memory of the entry with the key `target`, without the fields for HTTP/2.
    fn weight(&self, target: &str) -> u64 {
        let encoded = allocated(self.ready.encoded.len() + ENCODED_SLACK_BYTES);
        let key = allocated(target.len());
        // The parts of the target are the name of the content, in three texts.
        let name = key + 3 * allocated(1);
        let media_type = self.tag.as_ref().map_or(0, |tag| allocated(tag.media_type.len()));
        let needs = self
            .needs
            .as_ref()
            .map_or(0, |needs| allocated(16 + size_of_val(&**needs)));
        (ENTRY_BYTES + encoded + key + name + media_type + needs) as u64
    }
}

impl CachedTagTerms {
    /// Returns the seconds since the upstream confirmed the tag.
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.checked_ms / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;

    const TARGET: &str = "/v2/r.example/a/blobs/sha256:1";
    const NOW: u64 = 1_784_111_777;

    fn readers() -> Readers {
        Readers::of_service(&Identity::Open).unwrap()
    }

    fn entry(body: &[u8], tag: Option<CachedTagTerms>) -> CachedResponse {
        let fields = Fields::new().with("ETag", "\"sha256:1\"");
        CachedResponse::new(&fields, body, None, tag, content(1))
    }

    fn content(digest: u64) -> CachedContent {
        CachedContent {
            digest: DigestPrefix(digest),
            readers: readers(),
            name: None,
            needs: None,
            lookups: None,
            resource: Resource::Blob,
        }
    }

    #[test]
    fn responses_with_removed_content_are_forgotten() {
        let mut cache = ResponseCache::new(1 << 20, 4);
        for digest in [1, 2] {
            let target = format!("/{digest}");
            cache.remember(&target, &Fields::new(), b"body", None, content(digest));
        }
        cache.forget_removed(|digest| digest == DigestPrefix(1));
        assert!(cache.answers.get("/1").is_none());
        assert!(cache.answers.get("/2").is_some());
    }

    fn needing(needs: Option<&[u64]>) -> CachedContent {
        let registry = "r.example".to_owned();
        let name = ContentName {
            registry,
            repository: "a".to_owned(),
            item: crate::http::ContentItem::None,
        };
        CachedContent {
            name: Some(Rc::new(name)),
            needs: needs.map(|needs| needs.iter().copied().map(DigestPrefix).collect()),
            ..content(1)
        }
    }

    #[test]
    fn manifest_is_forgotten_with_a_blob_that_it_needs() {
        let mut cache = ResponseCache::new(1 << 20, 4);
        cache.remember("/a", &Fields::new(), b"body", None, needing(Some(&[7, 8])));
        cache.forget_removed(|digest| digest == DigestPrefix(9));
        assert!(cache.answers.get("/a").is_some());
        cache.forget_removed(|digest| digest == DigestPrefix(8));
        assert!(cache.answers.get("/a").is_none());
    }

    #[test]
    fn suspension_of_a_registry_forgets_its_manifests_with_unknown_needs() {
        let mut cache = ResponseCache::new(1 << 20, 4);
        let targets = ["/v2/a/manifests/1", "/v2/a/manifests/2", "/v2/a/blobs/3"];
        for (target, needs) in targets.iter().zip([None, Some(&[7][..]), None]) {
            cache.remember(target, &Fields::new(), b"body", None, needing(needs));
        }
        cache.forget_suspended(|name| name.registry == "other.example");
        assert!(targets.iter().all(|target| cache.answers.get(*target).is_some()));
        cache.forget_suspended(|name| name.registry == "r.example");
        let left = targets.map(|target| cache.answers.get(target).is_some());
        assert_eq!(left, [false, true, true]);
    }

    fn tag() -> CachedTagTerms {
        CachedTagTerms {
            media_type: "text/plain".to_owned(),
            checked_ms: (NOW - 9) * 1000,
            fresh_until_ms: u64::MAX,
        }
    }

    fn text(entry: &CachedResponse) -> String {
        String::from_utf8_lossy(&entry.ready.encoded).into_owned()
    }

    #[test]
    fn an_entry_encoded_again_differs_in_date_and_age_alone() {
        let mut entry = entry(b"body", Some(tag()));
        for (now, date, age) in [
            (NOW, "Wed, 15 Jul 2026 10:36:17 GMT", 9),
            (NOW + 91, "Wed, 15 Jul 2026 10:37:48 GMT", 100),
        ] {
            entry.encode_again(now);
            assert_eq!(
                text(&entry),
                format!(
                    "HTTP/1.1 200 OK\r\nDate: {date}\r\nETag: \"sha256:1\"\r\nAge: {age}\r\nContent-Length: 4\r\n\r\nbody"
                )
            );
            assert_eq!(entry.ready.body(), "body");
        }
    }

    #[test]
    fn a_response_being_sent_keeps_its_bytes_when_the_entry_is_encoded_again() {
        let mut entry = entry(b"body", None);
        entry.encode_again(NOW);
        let sending = entry.ready.clone();
        let before = sending.encoded.clone();
        entry.encode_again(NOW + 1);
        assert_eq!(sending.encoded, before);
        assert_ne!(entry.ready.encoded, before);
    }

    #[test]
    fn an_entry_weighs_at_least_its_parts() {
        for size in [0, 1, 2_048, 32 * 1024] {
            let entry = entry(&vec![7; size], Some(tag()));
            let parts = entry.ready.encoded.len() + 2 * TARGET.len() + size_of::<CachedResponse>();
            let weight = entry.weight(TARGET) as usize;
            assert!(weight > parts, "{size}: {weight}");
            // A quarter for the allocator, and the tables.
            assert!(weight < parts * 5 / 4 + 2 * ENTRY_BYTES, "{size}: {weight}");
        }
    }

    #[test]
    fn allocator_sizes_are_quarters_of_powers_of_two() {
        for (bytes, size) in [
            (1, 16),
            (16, 16),
            (17, 32),
            (129, 160),
            (2_049, 2_560),
            (2_560, 2_560),
            (33_000, 40_960),
        ] {
            assert_eq!(allocated(bytes), size, "{bytes}");
        }
    }
}
