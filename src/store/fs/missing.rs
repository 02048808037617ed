//! The file of the references that clients requested and the store lacked.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::reader::StoreReader;
use super::{FsStore, layout};
use crate::limits::MISSING_REFERENCES_MAX;
use crate::store::MissingReference;

#[derive(Default, Serialize, Deserialize)]
struct MissingFile {
    references: Vec<MissingReference>,
}

impl FsStore {
    /// Returns the references of the file. None without a readable file.
    pub fn read_missing(&self) -> Vec<MissingReference> {
        read(&self.root)
    }

    /// Replaces the references of the file. The file survives a kill.
    ///
    /// # Errors
    ///
    /// The file system failed. The file is unchanged.
    pub fn write_missing(&self, references: Vec<MissingReference>) -> io::Result<()> {
        let file = MissingFile { references };
        let json = serde_json::to_vec(&file).expect("references are strings and numbers");
        self.replace(Path::new(layout::MISSING), &json)
    }
}

impl StoreReader {
    /// Returns the references that clients requested and the store lacked, by the file. A running cache
    /// writes the file every few seconds.
    pub fn missing(&self) -> Vec<MissingReference> {
        read(&self.root)
    }
}

fn read(root: &Path) -> Vec<MissingReference> {
    let path = root.join(layout::MISSING);
    let Ok(json) = fs::read(&path) else {
        return Vec::new();
    };
    let mut file: MissingFile = serde_json::from_slice(&json).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "record of missing references unreadable");
        MissingFile::default()
    });
    file.references.truncate(MISSING_REFERENCES_MAX);
    file.references
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn references_survive_a_restart_and_a_damaged_file_means_no_references() {
        let scratch = Scratch::new();
        let references = vec![MissingReference {
            reference: "quay.io/a:1".to_owned(),
            first_at: 1,
            last_at: 2,
            requests: 3,
        }];
        {
            let store = FsStore::open(&scratch.0).unwrap();
            assert_eq!(store.read_missing(), []);
            store.write_missing(references.clone()).unwrap();
        }
        let store = FsStore::open(&scratch.0).unwrap();
        assert_eq!(store.read_missing(), references);
        assert_eq!(StoreReader::open(&scratch.0).unwrap().missing(), references);
        for damaged in ["", "{", r#"{"references": [{}]}"#] {
            fs::write(scratch.0.join(layout::MISSING), damaged).unwrap();
            assert_eq!(store.read_missing(), [], "{damaged}");
        }
    }
}
