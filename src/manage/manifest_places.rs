//! The repositories of a registry that have a manifest. An air-gapped cache serves a manifest by digest also
//! under the names of the other repositories.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use crate::limits::MANIFEST_PLACES_MAX;
use crate::oci::{Digest, Namespace, Origin};
use crate::store::{StoreReader, StoredRepository};

type Places = HashMap<Digest, Vec<Rc<Origin>>>;

/// The places of the manifests of each registry. A registry is read once, at its first lookup.
pub(super) struct ManifestPlaces<'a> {
    reader: &'a StoreReader,
    known: RefCell<HashMap<Namespace, Places>>,
}

impl<'a> ManifestPlaces<'a> {
    pub fn new(reader: &'a StoreReader) -> Self {
        ManifestPlaces {
            reader,
            known: RefCell::default(),
        }
    }

    /// Returns the repositories of a registry with the manifest `digest`, at most [`MANIFEST_PLACES_MAX`].
    pub fn of(&self, namespace: &Namespace, digest: &Digest) -> Vec<Rc<Origin>> {
        let mut known = self.known.borrow_mut();
        let places = known
            .entry(namespace.clone())
            .or_insert_with(|| places_in(self.reader, namespace));
        places.get(digest).cloned().unwrap_or_default()
    }
}

fn places_in(reader: &StoreReader, namespace: &Namespace) -> Places {
    let mut places = Places::default();
    let mut add = |repository: StoredRepository| {
        let origin = Rc::new(repository.origin);
        for digest in repository.manifests {
            let of_digest = places.entry(digest).or_default();
            if of_digest.len() < MANIFEST_PLACES_MAX {
                of_digest.push(origin.clone());
            }
        }
        ControlFlow::Continue(())
    };
    // An unreadable directory has no manifests for a cache either.
    let _ = reader.repositories(&|origin| origin.namespace == *namespace, &mut add, &mut |_, _| {});
    places
}
