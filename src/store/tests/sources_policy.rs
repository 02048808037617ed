//! Properties of the bound of a registry: the victims in an index of random content.

use proptest::collection::vec;
use proptest::prelude::*;

use super::index_sample::{digest, facts, image};
use crate::oci::Origin;
use crate::store::eviction::{Minute, Need, Objects as _, choose};
use crate::store::index::Index;
use crate::store::pins::Pins;
use crate::store::{Key, Source};

const MIB: u64 = 1 << 20;
const NOW: Minute = Minute(1_000_000);
const REGISTRIES: [&str; 3] = ["a.example", "b.example", "c.example"];

/// A blob: its size in MiB, its last use in minutes before now, and whether each registry has it.
type Blob = (u64, u32, [bool; 3]);
/// An image: its registry, its last use, and the numbers of its blobs.
type Image = (usize, u32, Vec<usize>);

fn blobs() -> impl Strategy<Value = Vec<Blob>> {
    vec((1..9_u64, 0..10_000_u32, any::<[bool; 3]>()), 1..40)
}

fn images() -> impl Strategy<Value = Vec<Image>> {
    vec((0..3_usize, 0..10_000_u32, vec(0..40_usize, 0..4)), 0..12)
}

/// Whether the bound of the first registry may evict the blob.
fn is_own(number: usize, (_, _, sources): &Blob, images: &[Image]) -> bool {
    let is_named = |(registry, _, layers): &Image| *registry != 0 && layers.contains(&number);
    *sources == [true, false, false] && !images.iter().any(is_named)
}

fn index_of(blobs: &[Blob], images: &[Image]) -> Index {
    let mut index = Index::default();
    for (number, (mib, ago, sources)) in blobs.iter().enumerate() {
        let key = Key::Blob(digest(&number.to_string()));
        index.insert(&key, facts(*mib, NOW.0 - ago), None);
        let sources = REGISTRIES.iter().zip(sources).filter(|(_, has)| **has);
        let sources: Vec<Source> = sources
            .map(|(registry, _)| Source {
                registry: (*registry).to_owned(),
                repository: "a".to_owned(),
            })
            .collect();
        // The order in which the registries become known is without effect.
        for source in sources.iter().rev() {
            index.add_sources(&key, std::slice::from_ref(source));
        }
    }
    for (number, (registry, ago, layers)) in images.iter().enumerate() {
        let origin = Origin {
            namespace: REGISTRIES[*registry].parse().unwrap(),
            repository: "a".parse().unwrap(),
        };
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let key = Key::manifest(&origin, &digest(&format!("manifest {number}")));
        index.insert(&key, facts(0, NOW.0 - ago), Some(&image(&layers)));
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2_000 }))]

    #[test]
    fn bound_of_a_registry_evicts_only_its_own_content_and_enough_of_it(
        blobs in blobs(), images in images(), need_mib in 1..40_u64
    ) {
        let mut index = index_of(&blobs, &images);
        let registry = index.registry_number(&REGISTRIES[0].parse().unwrap()).unwrap();
        let need = Need { bytes: need_mib * MIB, files: 0, metadata_bytes_max: u64::MAX };
        let pins = Pins::default();
        let objects = index.with_pins(&pins).of_registry(registry);
        let victims = choose(&objects, NOW, need);
        let all = choose(&objects, NOW, Need { bytes: u64::MAX, ..need });
        let bytes_of = |numbers: &[u32]| -> u64 {
            numbers.iter().map(|&number| index.get(number).unwrap().bytes).sum()
        };
        for &victim in &all {
            prop_assert!(index.is_only_of(victim, registry));
            if let Some(blob) = blobs.get(victim as usize) {
                prop_assert!(is_own(victim as usize, blob, &images), "{victim}");
            }
        }
        prop_assert!(bytes_of(&victims) >= need.bytes.min(bytes_of(&all)));
        // Old content of the registry alone can always leave.
        for (number, blob) in blobs.iter().enumerate() {
            let is_old = blob.1 > 20 && images.iter().all(|image| image.1 > 20);
            prop_assert!(!is_old || !is_own(number, blob, &images) || all.contains(&(number as u32)), "{number}");
        }
    }

    #[test]
    fn figures_are_the_sums_over_the_objects_of_each_registry(
        blobs in blobs(), images in images(), removed in vec(any::<bool>(), 40)
    ) {
        let mut index = index_of(&blobs, &images);
        let mut left = Vec::new();
        for (number, blob) in blobs.iter().enumerate() {
            match removed[number] {
                true => index.remove(&Key::Blob(digest(&number.to_string()))),
                false => left.push(blob),
            }
        }
        for (place, registry) in REGISTRIES.iter().enumerate() {
            let number = index.registry_number(&registry.parse().unwrap()).unwrap();
            let usage = index.usage_of(number);
            let own = left.iter().filter(|(_, _, sources)| sources[place]);
            let (objects, bytes) = own.clone().fold((0, 0), |(count, sum), (mib, ..)| (count + 1, sum + mib * MIB));
            let alone = own.filter(|(_, _, sources)| sources.iter().filter(|has| **has).count() == 1);
            let alone: u64 = alone.map(|(mib, ..)| mib * MIB).sum();
            let images = images.iter().filter(|(registry, ..)| *registry == place).count() as u64;
            prop_assert_eq!((usage.objects, usage.bytes, usage.bytes_alone), (objects + images, bytes, alone));
        }
    }
}
