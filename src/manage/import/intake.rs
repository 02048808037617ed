//! Reads an archive to its end. Each file is hashed once. Content enters the store under its digest, without
//! a name, and the files that describe images are parsed.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::contents::{Contents, Object, Packing, Place, blob_digest};
use super::manifest_file::ManifestFile;
use super::{ImportError, ImportRule};
use crate::limits::{
    BUNDLE_JSON_BYTES_MAX, IMPORT_OBJECTS_MAX, IMPORT_READ_BYTES, MANIFEST_BYTES_MAX, RESERVE_STEP_MAX,
};
use crate::manage::archive::{ArchiveError, Entries, Entry, EntryKind};
use crate::manage::bundle::format::{
    BUNDLE_JSON, BundleContents, DockerArchiveImage, FormatError, INDEX_JSON, MANIFEST_JSON, OCI_LAYOUT,
    OciIndex,
};
use crate::oci::{Algorithm, Digest, Hasher, manifest_type};
use crate::runtime::clock::unix_seconds;
use crate::store::{FsStore, Key, Meta, StoreError, Verified};

/// The media type of a blob without a known type.
const OCTETS: &str = "application/octet-stream";

/// The reader of one archive.
pub(super) struct Intake<'a> {
    store: &'a Arc<FsStore>,
    is_dry_run: bool,
    pub contents: Contents,
    pub manifests: ManifestFile,
    buffer: Vec<u8>,
    /// The first bytes of the file that is read.
    first: [u8; 4],
}

impl<'a> Intake<'a> {
    /// Prepares to read an archive into `store`. Manifests wait in a file without a name in `temporary`.
    pub fn new(store: &'a Arc<FsStore>, temporary: &Path, rule: &ImportRule) -> io::Result<Self> {
        Ok(Intake {
            store,
            is_dry_run: rule.is_dry_run,
            contents: Contents::default(),
            manifests: ManifestFile::create(temporary)?,
            buffer: vec![0; IMPORT_READ_BYTES],
            first: [0; 4],
        })
    }

    /// Reads `archive` to its end.
    ///
    /// # Errors
    ///
    /// The archive is damaged, or the store fails. The content so far stays in [`Intake::contents`].
    pub fn read(&mut self, archive: impl Read) -> Result<(), ImportError> {
        let mut entries = Entries::new(archive);
        while let Some(Entry { path, kind }) = entries.next()? {
            match kind {
                EntryKind::Ignored => self.contents.ignored += u64::from(!path.is_empty()),
                EntryKind::Link { target } => {
                    self.contents
                        .add_link(path, target)
                        .map_err(ImportError::Archive)?;
                }
                EntryKind::File { size } => self.file(&mut entries, path, size)?,
            }
        }
        Ok(entries.finish()?)
    }

    fn file(&mut self, entries: &mut Entries<impl Read>, path: String, size: u64) -> Result<(), ImportError> {
        match &*path {
            BUNDLE_JSON | INDEX_JSON | MANIFEST_JSON => self.description(entries, &path, size),
            OCI_LAYOUT => Ok(()),
            _ => match blob_digest(&path) {
                Some(digest) => self.blob(entries, digest, size),
                None => {
                    let digest = self.content(entries, None, size)?;
                    self.contents.add_file(path, digest).map_err(ImportError::Archive)
                }
            },
        }
    }

    fn description(
        &mut self,
        entries: &mut Entries<impl Read>,
        path: &str,
        size: u64,
    ) -> Result<(), ImportError> {
        let invalid = |source| ImportError::Description {
            path: path.to_owned(),
            source,
        };
        if size > BUNDLE_JSON_BYTES_MAX {
            return Err(invalid(FormatError::TooLarge));
        }
        let json = whole(entries, size)?;
        let contents = &mut self.contents;
        let is_first = match path {
            BUNDLE_JSON => {
                let parsed = BundleContents::parse(&json).map_err(invalid)?;
                contents.bundle.replace(parsed).is_none()
            }
            INDEX_JSON => {
                let parsed = OciIndex::parse(&json).map_err(invalid)?;
                contents.index.replace(parsed).is_none()
            }
            _ => {
                let parsed = DockerArchiveImage::parse_all(&json).map_err(invalid)?;
                contents.docker.replace(parsed).is_none()
            }
        };
        match is_first {
            true => Ok(()),
            false => Err(ImportError::Archive(format!(
                "the archive has two files {path:?}"
            ))),
        }
    }

    fn blob(
        &mut self,
        entries: &mut Entries<impl Read>,
        wanted: Digest,
        size: u64,
    ) -> Result<(), ImportError> {
        let found = self.content(entries, Some(wanted), size)?;
        if found != wanted && self.contents.damaged.len() < IMPORT_OBJECTS_MAX {
            self.contents.damaged.push(wanted);
        }
        Ok(())
    }

    /// Reads content of `size` bytes. Keeps the content unless its digest differs from `wanted`. Returns
    /// the digest.
    fn content(
        &mut self,
        entries: &mut Entries<impl Read>,
        wanted: Option<Digest>,
        size: u64,
    ) -> Result<Digest, ImportError> {
        if self.contents.objects.len() >= IMPORT_OBJECTS_MAX {
            return Err(ImportError::TooManyObjects);
        }
        if size <= MANIFEST_BYTES_MAX as u64 {
            let body = whole(entries, size)?;
            let algorithm = wanted.map_or(Algorithm::Sha256, |wanted| wanted.algorithm());
            let found = Digest::of(algorithm, &body);
            if wanted.is_none_or(|wanted| wanted == found) {
                self.keep_small(found, &body)?;
            }
            return Ok(found);
        }
        self.large(entries, wanted, size)
    }

    /// Keeps content that is whole in memory.
    fn keep_small(&mut self, digest: Digest, body: &[u8]) -> Result<(), ImportError> {
        if self.contents.objects.contains_key(&digest) {
            return Ok(());
        }
        let place = match manifest_type(None, body) {
            Ok(_) => Place::File(self.manifests.add(body).map_err(ImportError::Manifests)?),
            Err(_) => self.store_small(digest, body)?,
        };
        let object = Object {
            size: body.len() as u64,
            place,
            packing: Packing::of(body),
        };
        self.contents.objects.insert(digest, object);
        Ok(())
    }

    /// Stores content that is whole in memory.
    pub fn store_small(&self, digest: Digest, body: &[u8]) -> Result<Place, ImportError> {
        let size = body.len() as u64;
        if self.is_dry_run {
            return Ok(Place::Hashed);
        }
        let key = Key::Blob(digest);
        if self.has(&key, size)? {
            return Ok(Place::Store { is_new: false });
        }
        let mut ingest = self.store.ingest(&key, None, Some(size))?;
        self.store.take_room(&mut ingest, size)?;
        ingest.write_at(body, 0)?;
        let verified = Verified::check(digest, Digest::of(digest.algorithm(), body), size)
            .map_err(|_| ImportError::Archive(format!("the content of {digest} has changed in memory")))?;
        self.store.commit(ingest, &verified, unnamed_meta(&verified))?;
        Ok(Place::Store { is_new: true })
    }

    /// Reads content that is hashed and written in parts.
    fn large(
        &mut self,
        entries: &mut Entries<impl Read>,
        wanted: Option<Digest>,
        size: u64,
    ) -> Result<Digest, ImportError> {
        let is_known = match wanted {
            Some(wanted) => {
                self.contents.objects.contains_key(&wanted) || self.has(&Key::Blob(wanted), size)?
            }
            None => false,
        };
        // The name is set when the digest is known.
        let unknown = Digest::Sha256([0; 32]);
        let mut ingest = match is_known || self.is_dry_run {
            true => None,
            false => {
                let key = Key::Blob(wanted.unwrap_or(unknown));
                Some(self.store.ingest(&key, None, Some(size))?)
            }
        };
        let mut hasher = Hasher::new(wanted.map_or(Algorithm::Sha256, |wanted| wanted.algorithm()));
        let mut offset = 0;
        while offset < size {
            let length = entries.read(&mut self.buffer)?;
            let part = &self.buffer[..length];
            if offset == 0 {
                self.first = *part.first_chunk().unwrap_or(&[0; 4]);
            }
            hasher.update(part);
            let end = offset + length as u64;
            if let Some(ingest) = &mut ingest {
                // A size that lies reserves one step only.
                if end > ingest.reserved() {
                    self.store.reserve(ingest, size.min(end + RESERVE_STEP_MAX))?;
                }
                ingest.write_at(part, offset)?;
            }
            offset = end;
        }
        let found = hasher.finish();
        let Ok(verified) = Verified::check(wanted.unwrap_or(found), found, size) else {
            return Ok(found);
        };
        let mut is_new = false;
        if let Some(mut ingest) = ingest.take() {
            is_new = wanted.is_some() || !self.has(&Key::Blob(found), size)?;
            if is_new {
                ingest.set_blob(found);
                self.store.commit(ingest, &verified, unnamed_meta(&verified))?;
            }
        }
        let place = match self.is_dry_run {
            true => Place::Hashed,
            false => Place::Store { is_new },
        };
        let packing = Packing::of(&self.first);
        let object = Object { size, place, packing };
        self.contents.objects.entry(found).or_insert(object);
        Ok(found)
    }

    /// Returns whether the store has the blob `key` with `size` bytes.
    fn has(&self, key: &Key, size: u64) -> Result<bool, StoreError> {
        Ok(self.store.find(key)?.is_some_and(|entry| entry.meta.size == size))
    }
}

/// Returns the sidecar of a blob without a known source, which only the registries of the configuration
/// make readable.
fn unnamed_meta(verified: &Verified) -> Meta {
    Meta {
        digest: *verified.digest(),
        size: verified.size(),
        content_type: OCTETS.to_owned(),
        created: unix_seconds(),
        public: false,
        sources: Vec::new(),
        verified: true,
        headers: Default::default(),
    }
}

/// Reads a small content into memory. The memory grows with the bytes that arrive.
fn whole(entries: &mut Entries<impl Read>, size: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut body = Vec::new();
    let mut buffer = [0; 32 * 1024];
    while (body.len() as u64) < size {
        let length = entries.read(&mut buffer)?;
        body.extend_from_slice(&buffer[..length]);
    }
    Ok(body)
}
