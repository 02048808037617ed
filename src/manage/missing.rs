//! The report of references that clients requested and the store still lacks.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::manifest_places::ManifestPlaces;
use super::readiness::{AirGapSettings, ProblemKind, Wanted, problems};
use crate::oci::{Digest, ImageName, ManifestLinks, Origin, Reference};
use crate::store::{MissingReference, StoreReader};

/// A reference that clients requested and the store lacks, with its platform if an index names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingImage {
    #[serde(flatten)]
    pub missing: MissingReference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Returns the references of `recorded` that the store still lacks, in their order. Blocks.
pub fn report_missing(
    reader: &StoreReader,
    air_gap: AirGapSettings<'_>,
    recorded: Vec<MissingReference>,
) -> Vec<MissingImage> {
    let mut platforms = PlatformsOfRepositories {
        reader,
        known: HashMap::new(),
    };
    // A cache with a connection requests the manifest from the repository of the name.
    let places = air_gap.registries.air_gapped.then(|| ManifestPlaces::new(reader));
    let missing = recorded.into_iter().filter_map(|missing| {
        let name: ImageName = missing.reference.parse().ok()?;
        let problems = problems(reader, air_gap, places.as_ref(), &name, Wanted::AnyPlatform);
        // Another client may read private content, so the store does not lack it.
        if problems
            .iter()
            .all(|problem| problem.kind == ProblemKind::NotServed)
        {
            return None;
        }
        let platform = match &name.reference {
            Some(Reference::Digest(digest)) => platforms.of(&name.origin, digest),
            _ => None,
        };
        Some(MissingImage { missing, platform })
    });
    missing.collect()
}

/// The platforms of the manifests that the indexes of repositories name. Each repository is read once.
struct PlatformsOfRepositories<'a> {
    reader: &'a StoreReader,
    known: HashMap<Origin, HashMap<Digest, String>>,
}

impl PlatformsOfRepositories<'_> {
    fn of(&mut self, origin: &Origin, digest: &Digest) -> Option<String> {
        let reader = self.reader;
        let of_repository = self
            .known
            .entry(origin.clone())
            .or_insert_with(|| platforms_of(reader, origin));
        of_repository.get(digest).cloned()
    }
}

fn platforms_of(reader: &StoreReader, origin: &Origin) -> HashMap<Digest, String> {
    let mut platforms = HashMap::new();
    for digest in reader.manifests(origin) {
        // An unreadable manifest names nothing.
        let Ok(Some(stored)) = reader.manifest(origin, &digest) else {
            continue;
        };
        if let Some(ManifestLinks::Index(children)) = ManifestLinks::parse(&stored.body) {
            let named = children
                .into_iter()
                .filter_map(|child| Some((child.descriptor.digest, child.platform?)));
            platforms.extend(named);
        }
    }
    platforms
}
