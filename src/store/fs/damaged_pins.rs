//! The pinned images that lose damaged content.

use std::collections::BTreeSet;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::FsStore;
use crate::limits::DAMAGED_PINS_MAX;
use crate::oci::{ImageName, Platforms, Reference};
use crate::store::pins::Pins;
use crate::sync::Mutex;

/// A pinned image with removed content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedPin {
    /// With a tag or a digest.
    pub image: ImageName,
    /// The platforms that pins hold.
    pub platforms: Platforms,
}

/// The receiver of such images, if any.
#[derive(Debug, Default)]
pub(super) struct DamageWatch(Mutex<Option<Sender<DamagedPin>>>);

impl FsStore {
    /// Returns a receiver of the pinned images that lose damaged content from now on. At most
    /// [`DAMAGED_PINS_MAX`] images wait, and further images are left out.
    pub fn watch_damaged_pins(&self) -> Receiver<DamagedPin> {
        let (sender, receiver) = bounded(DAMAGED_PINS_MAX);
        *self.damage_watch.0.lock() = Some(sender);
        receiver
    }

    /// Sends the pinned images among the references `images`, which name a removed entry.
    pub(super) fn report_damaged_pins(&self, pins: &Pins, images: &[String]) {
        let sender = self.damage_watch.0.lock();
        let Some(sender) = &*sender else { return };
        for damaged in damaged_pins(pins, images) {
            // A full queue holds the images of a failing disk. A client fetches the others.
            let _ = sender.try_send(damaged);
        }
    }
}

fn damaged_pins(pins: &Pins, images: &[String]) -> Vec<DamagedPin> {
    let matcher = pins.matcher();
    let mut found = Vec::new();
    let mut origins = BTreeSet::new();
    for image in images.iter().filter_map(|text| text.parse::<ImageName>().ok()) {
        let held = match &image.reference {
            Some(Reference::Tag(tag)) => matcher.platforms_of(&image.origin, Some(tag.as_str()), None),
            Some(Reference::Digest(digest)) => matcher.platforms_of(&image.origin, None, Some(digest)),
            None => None,
        };
        origins.insert(format!("{}/{}", image.origin.namespace, image.origin.repository));
        found.extend(held.map(|platforms| DamagedPin { image, platforms }));
    }
    // An image with a tag is named by its tag, so its digest is unknown here. An image that is intact
    // costs some lookups.
    for pin in pins.iter() {
        if let Some(image) = pin.image()
            && matches!(image.reference, Some(Reference::Digest(_)))
            && origins.contains(&format!("{}/{}", image.origin.namespace, image.origin.repository))
            && !found.iter().any(|known| known.image == *image)
        {
            found.push(DamagedPin {
                image: image.clone(),
                platforms: pin.platforms().clone(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};
    use crate::store::pins::Pin;

    #[test]
    fn pinned_images_are_found_by_tag_and_by_digest() {
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        let mut pins = Pins::default();
        let platforms: Platforms = "linux/amd64".parse().unwrap();
        let by_digest = format!("quay.io/a@{digest}");
        for pin in [
            Pin::parse("alpine:3").unwrap().for_platforms(platforms.clone()),
            Pin::parse(&by_digest).unwrap(),
            Pin::parse("quay.io/other:1").unwrap(),
        ] {
            pins.add(pin).unwrap();
        }
        let found = |images: &[&str]| {
            let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
            let found = damaged_pins(&pins, &images);
            let shown = found.iter().map(|pin| format!("{} {}", pin.image, pin.platforms));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(
            found(&["docker.io/library/alpine:3", "docker.io/library/alpine:2"]),
            ["docker.io/library/alpine:3 linux/amd64"]
        );
        assert_eq!(found(&["quay.io/a:v1"]), [format!("{by_digest} all")]);
        assert_eq!(found(&[&by_digest]), [format!("{by_digest} all")]);
        assert!(found(&["quay.io/b:1"]).is_empty());
    }
}
