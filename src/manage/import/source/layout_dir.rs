//! An unpacked archive: an OCI image layout, a docker-archive or a bundle.

use std::path::Path;

use super::SourceError;
use super::files::files_below;
use super::tar_stream::Part;

/// Returns the files of the directory `root` under their own names.
pub(super) fn parts(root: &Path) -> Result<Vec<Part>, SourceError> {
    let files = files_below(root)?;
    let parts = files
        .into_iter()
        .map(|file| Part::file(file.relative, file.path, file.size));
    Ok(parts.collect())
}
