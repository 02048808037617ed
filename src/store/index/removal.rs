//! The removal of images: tags and manifests that an operator chose, and the content that no other
//! image needs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Index, ObjectName, tag_of};
use crate::oci::{Digest, DigestPrefix, Origin};
use crate::store::eviction::{Kind, Minute, Objects, Use, is_recent, uses};

/// A tag with the manifest that the tag names, or a manifest without a tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexedImage {
    pub origin: Arc<Origin>,
    /// `None` for a manifest that no stored tag names.
    pub tag: Option<String>,
    /// The manifest. `None` for a tag whose manifest is not stored.
    pub digest: Option<Digest>,
    /// The time of storage of the manifest, or of the tag of a missing manifest.
    pub stored: Minute,
    /// The last use, also through an index that names the manifest.
    pub used: Minute,
    /// The tag pointers of all classes of clients, and the manifests.
    pub(super) numbers: Vec<u32>,
    /// Whether the manifest leaves although other content names it.
    is_by_digest: bool,
}

impl IndexedImage {
    /// Returns whether one of `numbers` belongs to the image.
    pub fn is_among(&self, numbers: &HashSet<u32>) -> bool {
        self.numbers.iter().any(|number| numbers.contains(number))
    }

    /// Returns the manifest of the image without the tag. Its removal removes all tags that name it,
    /// and leaves the indexes that name it incomplete.
    pub fn by_digest(self) -> Self {
        IndexedImage {
            tag: None,
            is_by_digest: true,
            ..self
        }
    }
}

/// An object that a removal will remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedObject {
    pub(in crate::store) number: u32,
    pub name: ObjectName,
    /// The beginning of the digest that a tag names.
    pub(in crate::store) names: Option<DigestPrefix>,
    /// Whether a manifest leaves although an index names it.
    pub(in crate::store) is_by_digest: bool,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// The objects that a removal will remove, in the order of the removal.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RemovalPlan {
    pub objects: Vec<PlannedObject>,
    /// Whether content stays that was stored or used within
    /// [`EVICTION_AGE_MIN`](crate::limits::EVICTION_AGE_MIN) of the removal.
    pub(in crate::store) spares_recent: bool,
}

impl RemovalPlan {
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }
}

/// The limits of a removal that no operator watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemovalLimits {
    /// The images that leave at most: those without a use for the longest time.
    pub images_max: Option<usize>,
    /// Whether an image stays if the removal would remove content that was stored or used within
    /// [`EVICTION_AGE_MIN`](crate::limits::EVICTION_AGE_MIN).
    pub spares_recent: bool,
}

impl Index {
    /// Removes the images from `images`, which must be of this state of the index, that stay because
    /// of `limits`.
    pub fn limit(&self, images: &mut Vec<IndexedImage>, limits: RemovalLimits, now: Minute) {
        if limits.spares_recent {
            images.retain(|image| !is_recent(now, image.stored) && !is_recent(now, image.used));
            // A slow pull uses blobs long after the manifest.
            let plan = self.plan_removal(&*images);
            let planned = plan.objects.iter().map(|object| object.number);
            let recent: HashSet<u32> = planned.filter(|&number| self.is_recent(number, now)).collect();
            if !recent.is_empty() {
                images.retain(|image| !self.contains_any(image, &recent));
            }
        }
        if let Some(images_max) = limits.images_max {
            // The image of a platform leaves with its index, so it does not count.
            let parents = self.parents();
            let has_index = |image: &IndexedImage| {
                let is_named = |number| parents.contains_key(number);
                image.tag.is_none() && image.numbers.iter().any(is_named)
            };
            images.retain(|image| !has_index(image));
            images.sort_by_key(|image| (image.used, image.stored));
            images.truncate(images_max);
        }
    }

    pub(super) fn is_recent(&self, number: u32, now: Minute) -> bool {
        let object = self.get(number);
        object.is_some_and(|object| is_recent(now, object.stored) || is_recent(now, object.used))
    }

    /// Returns whether `image` has one of the objects `wanted`, at any depth.
    fn contains_any(&self, image: &IndexedImage, wanted: &HashSet<u32>) -> bool {
        let mut open = image.numbers.clone();
        let mut seen = HashSet::new();
        while let Some(number) = open.pop() {
            if wanted.contains(&number) {
                return true;
            }
            if seen.insert(number) {
                self.for_each_named(number, |named| open.push(named));
            }
        }
        false
    }

    /// Returns all images, sorted by repository and tag.
    pub fn images(&self) -> Vec<IndexedImage> {
        let uses = uses(self, Minute::now());
        let mut tags: HashMap<(u32, &str), Vec<u32>> = HashMap::new();
        let mut with_tag = HashSet::new();
        for number in self.of_kind(Kind::Tag) {
            let Some(file_name) = self.tag_names.get(&number) else {
                continue;
            };
            let repository = self.objects[number as usize].repository;
            let numbers = tags.entry((repository, tag_of(file_name))).or_default();
            numbers.push(number);
            self.for_each_named(number, |manifest| {
                with_tag.insert(manifest);
                numbers.push(manifest);
            });
        }
        let tagged = tags
            .into_iter()
            .map(|((_, tag), numbers)| self.image(&uses, Some(tag.to_owned()), numbers));
        let untagged = self.of_kind(Kind::Manifest);
        let untagged = untagged.filter(|number| !with_tag.contains(number));
        let untagged = untagged.map(|number| self.image(&uses, None, vec![number]));
        let mut images: Vec<_> = tagged.chain(untagged).flatten().collect();
        images.sort_by_cached_key(|image| {
            let Origin {
                namespace,
                repository,
            } = &*image.origin;
            let place = format!("{namespace}/{repository}");
            (place, image.tag.is_none(), image.tag.clone(), image.digest)
        });
        images
    }

    /// Returns the image of a tag or of a manifest. `numbers` is not empty.
    fn image(&self, uses: &[Use], tag: Option<String>, mut numbers: Vec<u32>) -> Option<IndexedImage> {
        numbers.sort_unstable();
        numbers.dedup();
        let object = |number: u32| &self.objects[number as usize];
        let is_manifest = |number: &u32| object(*number).kind() == Some(Kind::Manifest);
        let manifest = numbers.iter().copied().find(is_manifest);
        // A check renews a tag, and not its manifest.
        let lasting = numbers.iter().copied();
        let lasting = lasting.filter(|number| manifest.is_none() || is_manifest(number));
        Some(IndexedImage {
            origin: self.repositories.get(object(*numbers.first()?).repository),
            tag,
            digest: manifest.and_then(|number| Some(*self.key(number)?.digest())),
            stored: lasting.map(|number| object(number).stored).max()?,
            used: numbers.iter().map(|&number| uses[number as usize].last).max()?,
            numbers,
            is_by_digest: false,
        })
    }

    /// Returns the plan that removes `images`, which must be of this state of the index. A manifest
    /// leaves with its last tag, an image of a platform with its last index, and a blob with its last
    /// manifest. A manifest of [`IndexedImage::by_digest`] leaves with all tags that name it.
    pub fn plan_removal<'a>(&self, images: impl IntoIterator<Item = &'a IndexedImage>) -> RemovalPlan {
        let parents = self.parents();
        let (mut removed, mut by_digest) = (HashSet::new(), HashSet::new());
        // Manifests that leave if nothing else names them.
        let mut candidates = BTreeSet::new();
        for image in images {
            for &number in &image.numbers {
                if image.is_by_digest {
                    removed.insert(number);
                    by_digest.insert(number);
                    removed.extend(self.tags_of(number, &parents));
                    candidates.extend(self.named_manifests(number));
                } else if self.objects[number as usize].kind() == Some(Kind::Tag) {
                    removed.insert(number);
                } else {
                    candidates.insert(number);
                }
            }
        }
        while let Some(number) = candidates.pop_first() {
            let is_free = parents
                .get(&number)
                .is_none_or(|parents| parents.iter().all(|by| removed.contains(by)));
            if is_free && removed.insert(number) {
                candidates.extend(self.named_manifests(number));
            }
        }
        let mut numbers: Vec<u32> = self.blobs_of(&removed).into_iter().chain(removed).collect();
        // A crash between two removals leaves no tag without its manifest.
        numbers.sort_unstable_by_key(|&number| (self.objects[number as usize].kind(), number));
        let objects = numbers.into_iter().filter_map(|number| {
            let object = &self.objects[number as usize];
            Some(PlannedObject {
                number,
                name: self.name(number)?.0,
                names: self.named_by_tag(number),
                is_by_digest: by_digest.contains(&number),
                bytes: object.bytes(),
            })
        });
        RemovalPlan {
            objects: objects.collect(),
            spares_recent: false,
        }
    }

    /// Returns the beginning of the digest that the tag `number` names. `None` if the object is no tag.
    pub fn named_by_tag(&self, number: u32) -> Option<DigestPrefix> {
        let object = self.objects.get(number as usize)?;
        (object.kind() == Some(Kind::Tag)).then(|| object.prefix())
    }

    /// Returns the blobs that only `manifests` name.
    fn blobs_of(&self, manifests: &HashSet<u32>) -> HashSet<u32> {
        let is_blob = |number: u32| self.objects[number as usize].kind() == Some(Kind::Blob);
        let mut blobs = HashSet::new();
        for &manifest in manifests {
            self.for_each_named(manifest, |named| {
                if is_blob(named) {
                    blobs.insert(named);
                }
            });
        }
        let kept = self.of_kind(Kind::Manifest);
        for manifest in kept.filter(|number| !manifests.contains(number)) {
            self.for_each_named(manifest, |named| {
                blobs.remove(&named);
            });
        }
        blobs
    }

    /// Returns the tags and indexes that name each manifest.
    fn parents(&self) -> HashMap<u32, Vec<u32>> {
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for by in self.of_kind(Kind::Manifest).chain(self.of_kind(Kind::Tag)) {
            self.for_each_named(by, |named| {
                let kind = self.objects[named as usize].kind();
                if kind == Some(Kind::Manifest) && named != by {
                    parents.entry(named).or_default().push(by);
                }
            });
        }
        parents
    }

    fn tags_of<'a>(
        &'a self,
        manifest: u32,
        parents: &'a HashMap<u32, Vec<u32>>,
    ) -> impl Iterator<Item = u32> + 'a {
        let parents = parents.get(&manifest).into_iter().flatten().copied();
        parents.filter(|&by| self.objects[by as usize].kind() == Some(Kind::Tag))
    }

    fn named_manifests(&self, number: u32) -> Vec<u32> {
        let mut named = Vec::new();
        if self.objects[number as usize].kind() == Some(Kind::Manifest) {
            self.for_each_named(number, |child| {
                if self.objects[child as usize].kind() == Some(Kind::Manifest) {
                    named.push(child);
                }
            });
        }
        named
    }

    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = u32> + '_ {
        let numbers = 0..self.objects.len() as u32;
        numbers.filter(move |&number| self.objects[number as usize].kind() == Some(kind))
    }
}
