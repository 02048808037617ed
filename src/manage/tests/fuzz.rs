//! Fuzz targets: arbitrary bytes as archives, as the files that describe images, and as lists of images.

use std::io::Cursor;

use super::ImageList;
use super::archive::{ArchiveError, Entries, EntryKind, decoded};
use super::format::{BundleContents, BundleVolumes, DockerArchiveImage, OciIndex};
use crate::limits::{IMAGE_LIST_MISTAKES_MAX, LOAD_IMAGES_MAX};

/// Reads an archive to its end, and the bytes as each file that describes images. No path leaves the archive.
pub fn archive(bytes: &[u8]) {
    let _ = read_whole(bytes);
    if let Ok(index) = OciIndex::parse(bytes) {
        let written = index.to_json();
        let again = OciIndex::parse(&written).expect("a written index is valid");
        assert_eq!(again.to_json(), written);
    }
    let _ = BundleContents::parse(bytes);
    let _ = DockerArchiveImage::parse_all(bytes);
    if let Ok(list) = BundleVolumes::parse(bytes) {
        // A volume is beside its list.
        assert!(list.volumes.iter().all(|volume| !volume.name.contains('/')));
    }
}

fn read_whole(bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut entries = Entries::new(decoded(Cursor::new(bytes.to_vec()))?);
    let mut buffer = [0; 4096];
    while let Some(entry) = entries.next()? {
        expect_inside(&entry.path);
        match entry.kind {
            EntryKind::Link { target } => expect_inside(&target),
            EntryKind::File { size } => {
                let mut left = size;
                while left > 0 {
                    let length = entries.read(&mut buffer)? as u64;
                    assert!(
                        length > 0 && length <= left,
                        "content has its size, or the read fails"
                    );
                    left -= length;
                }
            }
            EntryKind::Ignored => {}
        }
    }
    entries.finish()
}

fn expect_inside(path: &str) {
    let is_normal = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    assert!(path.is_empty() || path.split('/').all(is_normal), "{path:?}");
}

/// Reads a list of images. Each name of the result is a name in a list of its own.
pub fn image_list(bytes: &[u8]) {
    let Ok(list) = ImageList::parse(bytes) else {
        return;
    };
    assert!(list.images.len() <= LOAD_IMAGES_MAX);
    assert!(list.mistakes.len() <= list.mistakes_count.min(IMAGE_LIST_MISTAKES_MAX));
    for name in list.images.iter().take(20) {
        let again = ImageList::parse(name.as_bytes()).expect("a name is a list");
        assert_eq!(again.images, std::slice::from_ref(name));
    }
}
