//! The export: selects images, plans the bundle, and writes the bundle.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::format::{BUNDLE_JSON, INDEX_JSON, MANIFEST_JSON, OCI_LAYOUT, OCI_LAYOUT_CONTENT, blob_path};
use super::hash::ObjectHasher;
use super::output::Destination;
use super::plan::{Base, Plan};
use super::selection::ExportSelection;
use super::tar_stream::TarStream;
use crate::fail_point::hit;
use crate::limits::{BUNDLE_JSON_BYTES_MAX, EXPORT_CHUNK_BYTES, EXPORT_INCOMPLETE_NAMED_MAX};
use crate::manage::ProgressCounts;
use crate::oci::{Algorithm, Digest};
use crate::store::{Key, StoreReader, StoredEntry};

/// An export as the operator wants it.
#[derive(Debug)]
pub struct ExportRequest {
    pub selection: ExportSelection,
    pub base: Option<Base>,
    pub is_compressed: bool,
    pub destination: Destination,
}

/// A finished export.
#[derive(Debug, Default)]
pub struct ExportReport {
    pub images: usize,
    /// Objects inside the bundle.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Blobs that the base has.
    pub blobs_in_base: u64,
    /// The images that were left out.
    pub skipped: Vec<IncompleteImage>,
}

/// A selected image whose content is not all in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncompleteImage {
    pub image: String,
    /// The objects that the store lacks.
    pub missing: Vec<String>,
}

/// The reason why an export ended. No file has the name of a bundle then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("no stored image is selected; `oci-pull-through list` prints the stored images")]
    Nothing,
    #[error(
        "{} incomplete:\n{}load the images, or leave them out with --skip-incomplete",
        counted(.0.len()), listed(.0)
    )]
    Incomplete(Vec<IncompleteImage>),
    #[error("the bundle would have too many images or blobs; export fewer images")]
    TooLarge,
    #[error("{0}")]
    Unreadable(String),
    #[error("the object {digest} of {image} {why}")]
    Object {
        image: String,
        digest: Digest,
        why: String,
    },
    #[error("cannot write the bundle: {0}; check the path, its permissions and the free space")]
    Output(#[from] io::Error),
}

/// The progress of a running export, for other threads.
#[derive(Debug, Default)]
pub struct ExportProgress {
    objects: AtomicU64,
    objects_total: AtomicU64,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
}

impl ExportProgress {
    pub fn counts(&self) -> ProgressCounts {
        ProgressCounts {
            objects: self.objects.load(Ordering::Relaxed),
            objects_total: self.objects_total.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }
}

/// Writes the bundle of `request`. Takes no lock of the store and changes nothing there. Blocks.
///
/// # Errors
///
/// An image is incomplete, content is damaged or disappears meanwhile, or the bundle cannot be written.
/// The files of the destination keep their earlier content.
pub fn export(
    store: &StoreReader,
    request: &ExportRequest,
    progress: &ExportProgress,
) -> Result<ExportReport, ExportError> {
    let base = request.base.as_ref();
    let mut plan = Plan::of(store, &request.selection, base)?;
    let contents = plan.contents(base);
    let bundle_json = Bytes::from(contents.to_json());
    if bundle_json.len() as u64 > BUNDLE_JSON_BYTES_MAX {
        return Err(ExportError::TooLarge);
    }
    let output = request.destination.open()?;
    let mut tar = TarStream::new(output, request.is_compressed)?;
    tar.file(BUNDLE_JSON, bundle_json.clone())?;
    tar.file(INDEX_JSON, contents.index().to_json().into())?;
    if let Some(archive) = plan.archive() {
        tar.file(MANIFEST_JSON, archive.into())?;
    }
    tar.file(OCI_LAYOUT, Bytes::from_static(OCI_LAYOUT_CONTENT.as_bytes()))?;
    let mut report = ExportReport {
        images: contents.images.len(),
        blobs_in_base: (contents.blobs.len() - plan.objects().count()) as u64,
        ..ExportReport::default()
    };
    drop(contents);
    for (_, size, ..) in plan.objects() {
        report.objects += 1;
        report.bytes += size;
    }
    progress.objects_total.store(report.objects, Ordering::Relaxed);
    progress.bytes_total.store(report.bytes, Ordering::Relaxed);
    write_objects(store, &plan, &mut tar, progress)?;
    tar.finish()?.finish(&bundle_json)?;
    report.skipped = plan.skipped();
    Ok(report)
}

fn write_objects(
    store: &StoreReader,
    plan: &Plan,
    tar: &mut TarStream,
    progress: &ExportProgress,
) -> Result<(), ExportError> {
    let mut directory: Option<Algorithm> = None;
    for (digest, size, key, image) in plan.objects() {
        hit("export-object");
        if directory.is_none() {
            tar.directory("blobs/")?;
        }
        if directory != Some(digest.algorithm()) {
            directory = Some(digest.algorithm());
            tar.directory(&format!("blobs/{}/", digest.algorithm().name()))?;
        }
        let failed = |why: String| ExportError::Object {
            image: image.to_owned(),
            digest: *digest,
            why,
        };
        let file = open(store, &key, size).map_err(failed)?;
        tar.begin_file(&blob_path(digest), size)?;
        let found = copy(&file, size, digest.algorithm(), tar, progress)?.map_err(failed)?;
        if found != *digest {
            let why = "does not match its digest; run `oci-pull-through verify`, then load the image again";
            return Err(failed(why.to_owned()));
        }
        tar.end_file(size)?;
        progress.objects.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn open(store: &StoreReader, key: &Key, size: u64) -> Result<StoredEntry, String> {
    match store.content(key) {
        Ok(Some(entry)) if entry.meta.size == size => Ok(entry),
        Ok(_) => {
            Err("was removed or replaced during the export; repeat the export, or pin the image".to_owned())
        }
        Err(error) => Err(format!("is unreadable: {error}; check the disk")),
    }
}

/// Copies `size` bytes of `entry` into `tar`. Returns their digest, or a message about the file.
fn copy(
    entry: &StoredEntry,
    size: u64,
    algorithm: Algorithm,
    tar: &mut TarStream,
    progress: &ExportProgress,
) -> io::Result<Result<Digest, String>> {
    let file: &File = &entry.file;
    let mut left = size;
    let mut hasher = ObjectHasher::start(algorithm, size)?;
    while left > 0 {
        let wanted = left.min(EXPORT_CHUNK_BYTES as u64) as usize;
        let mut chunk = Vec::with_capacity(wanted);
        match rustix::io::read(file, spare_capacity(&mut chunk)) {
            Ok(0) => {
                return Ok(Err(format!(
                    "has less than {size} bytes; run `oci-pull-through verify`"
                )));
            }
            Ok(_) => {}
            Err(error) => return Ok(Err(format!("is unreadable: {error}; check the disk"))),
        }
        // The capacity may exceed the wanted bytes.
        chunk.truncate(wanted);
        left -= chunk.len() as u64;
        progress.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let chunk = Bytes::from(chunk);
        hasher.update(&chunk);
        tar.write(chunk)?;
    }
    hasher.finish().map(Ok)
}

fn counted(images: usize) -> String {
    match images {
        1 => "1 selected image is".to_owned(),
        count => format!("{count} selected images are"),
    }
}

/// Returns a line for each of the first images.
fn listed(images: &[IncompleteImage]) -> String {
    let mut text = String::new();
    for image in images.iter().take(EXPORT_INCOMPLETE_NAMED_MAX) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  {image}");
    }
    if images.len() > EXPORT_INCOMPLETE_NAMED_MAX {
        let _ = writeln!(text, "  and {} more", images.len() - EXPORT_INCOMPLETE_NAMED_MAX);
    }
    text
}

impl std::fmt::Display for IncompleteImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let IncompleteImage { image, missing } = self;
        let first = missing.first().map_or("content", String::as_str);
        match missing.len() {
            0 | 1 => write!(f, "{image}: the store lacks {first}"),
            count => write!(
                f,
                "{image}: the store lacks {first} and {} more objects",
                count - 1
            ),
        }
    }
}
