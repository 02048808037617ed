//! Removals of images. A removal is planned first and applied afterwards.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ImageFilter, PruneRuleConfig};
use crate::events::{self, Event};
use crate::oci::{ImageName, Reference};
use crate::store::{IndexedImage, Minute, ObjectName, RemovalLimits, RemovalPlan, Removed, Stores};

/// The images that a prune removes. A rule without conditions selects every image.
#[derive(Debug, Default)]
pub struct PruneRule {
    pub filter: ImageFilter,
    /// Only images stored before this time, in seconds since 1970.
    pub stored_before: Option<u64>,
    /// Only images without a use for this time.
    pub unused_for: Option<Duration>,
    /// The number of tags of each repository that stay: those stored last.
    pub keep_newest: usize,
    pub limits: RemovalLimits,
}

/// A removal that can be applied.
#[derive(Clone, Debug, Default)]
pub struct PlannedRemoval {
    /// The references of the selected images.
    images: Arc<[String]>,
    /// A plan for each store, in the order of the stores.
    plans: Vec<RemovalPlan>,
}

/// The content of a removal, planned or applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovalReport {
    /// The references of the selected images.
    pub images: Vec<String>,
    /// Manifests, tags and blobs.
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Objects that stayed, because they have changed since the plan or could not be removed.
    #[serde(default)]
    pub kept: u64,
}

/// The reason why a removal cannot be planned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// The content of the store is not known.
    #[error("the scan of the store has not ended; repeat the command when the log has `store scanned`")]
    NotScanned,
    #[error("{0} is pinned; remove the pin with `oci-pull-through unpin`")]
    Pinned(String),
}

/// Plans the removal of the image `name`, or of all images of a repository.
///
/// # Errors
///
/// The scan of the store has not ended, or a pin holds an image.
pub fn plan_purge(stores: &Stores, name: &ImageName) -> Result<PlannedRemoval, PlanError> {
    let (planned, pinned) = plan(stores, RemovalLimits::default(), |images| {
        images.retain(|image| *image.origin == name.origin);
        match &name.reference {
            None => {}
            Some(Reference::Tag(tag)) => images.retain(|image| image.tag.as_deref() == Some(tag.as_str())),
            Some(Reference::Digest(digest)) => {
                images.retain(|image| image.digest == Some(*digest));
                *images = images.drain(..).map(IndexedImage::by_digest).collect();
            }
        }
    })?;
    match pinned.first() {
        Some(image) => Err(PlanError::Pinned(reference(image))),
        None => Ok(planned),
    }
}

/// Plans the removal of the images that `rule` selects and no pin holds. The limits of `rule` are those of
/// each store.
///
/// # Errors
///
/// The scan of the store has not ended.
pub fn plan_prune(stores: &Stores, rule: &PruneRule) -> Result<PlannedRemoval, PlanError> {
    let now = Minute::now();
    let (planned, _pinned) = plan(stores, rule.limits, |images| {
        let newest = newest(images, rule.keep_newest);
        let mut number = 0;
        images.retain(|image| {
            let is_newest = newest.contains(&number);
            number += 1;
            !is_newest && rule.selects(image, now)
        });
    })?;
    Ok(planned)
}

impl PruneRule {
    /// Returns the selection of a rule that runs in the background now.
    pub fn in_background(config: &PruneRuleConfig) -> Self {
        let now = Minute::now().unix_seconds();
        PruneRule {
            filter: config.filter.clone(),
            stored_before: config.older_than.map(|age| now.saturating_sub(age.as_secs())),
            unused_for: config.unused_for,
            keep_newest: config.keep_newest,
            limits: RemovalLimits {
                images_max: config.images_max.map(NonZeroUsize::get),
                spares_recent: true,
            },
        }
    }

    fn selects(&self, image: &IndexedImage, now: Minute) -> bool {
        let is_old = |before| image.stored.unix_seconds() < before;
        let is_unused = |limit: Duration| u64::from(now.since(image.used)) * 60 >= limit.as_secs();
        self.filter.matches(&reference(image))
            && self.stored_before.is_none_or(is_old)
            && self.unused_for.is_none_or(is_unused)
    }
}

/// Returns the places of the `count` images of each repository that were stored last. Images without
/// a tag do not count. `images` is sorted by repository.
fn newest(images: &[IndexedImage], count: usize) -> std::collections::HashSet<usize> {
    let mut newest = std::collections::HashSet::new();
    let mut from = 0;
    for repository in images.chunk_by(|a, b| a.origin == b.origin) {
        let places = from..from + repository.len();
        let mut tagged: Vec<usize> = places.filter(|&at| images[at].tag.is_some()).collect();
        tagged.sort_by_key(|&at| std::cmp::Reverse(images[at].stored));
        newest.extend(tagged.into_iter().take(count));
        from += repository.len();
    }
    newest
}

/// Plans the removal of the selected images without a pin. Returns the other selected images too.
fn plan(
    stores: &Stores,
    limits: RemovalLimits,
    select: impl Fn(&mut Vec<IndexedImage>),
) -> Result<(PlannedRemoval, Vec<IndexedImage>), PlanError> {
    let (mut images, mut pinned, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    for store in stores.iter() {
        let selected = store.plan_removal(limits, &select).ok_or(PlanError::NotScanned)?;
        images.extend(selected.images.iter().map(reference));
        pinned.extend(selected.pinned);
        plans.push(selected.plan);
    }
    let planned = PlannedRemoval {
        images: images.into(),
        plans,
    };
    Ok((planned, pinned))
}

/// Returns the reference of an image.
pub(super) fn reference(image: &IndexedImage) -> String {
    let name = format!("{}/{}", image.origin.namespace, image.origin.repository);
    match (&image.tag, &image.digest) {
        (Some(tag), _) => format!("{name}:{tag}"),
        (None, Some(digest)) => format!("{name}@{digest}"),
        (None, None) => name,
    }
}

impl PlannedRemoval {
    /// Returns the references of the selected images.
    pub fn images(&self) -> Arc<[String]> {
        self.images.clone()
    }

    /// Returns the number of objects, and their bytes on the disk.
    pub fn totals(&self) -> (u64, u64) {
        let objects: usize = self.plans.iter().map(|plan| plan.objects.len()).sum();
        (objects as u64, self.plans.iter().map(RemovalPlan::bytes).sum())
    }

    pub fn report(&self) -> RemovalReport {
        let (objects, bytes) = self.totals();
        RemovalReport {
            images: self.images.to_vec(),
            objects,
            bytes,
            kept: 0,
        }
    }

    /// Returns the names of the planned objects, in the order of their removal.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        let objects = self.plans.iter().flat_map(|plan| &plan.objects);
        objects.map(|object| &object.name)
    }

    /// Removes the planned objects that are still stored, from the stores of the plan.
    pub fn apply(self, stores: &Stores) -> RemovalReport {
        let (mut objects, mut bytes, mut kept) = (0, 0, 0);
        for (store, plan) in stores.iter().zip(&self.plans) {
            let removed: Removed = store.remove_planned(plan);
            objects += removed.objects;
            bytes += removed.bytes;
            kept += removed.kept;
        }
        // Some objects of an image may stay.
        for image in self.images.iter().filter(|_| objects > 0) {
            events::publish(|| Event::ImageRemoved { image: image.clone() });
        }
        RemovalReport {
            images: self.images.to_vec(),
            objects,
            bytes,
            kept,
        }
    }
}
