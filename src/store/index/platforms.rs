//! The platforms of the manifests that each index names, for pins with platforms.

use std::collections::HashMap;

use crate::limits::PLATFORMS_KNOWN_MAX;
use crate::oci::{ManifestLinks, Platform, Platforms};

/// The platforms of the children of each index, in the order of its links.
#[derive(Debug, Default)]
pub(super) struct ChildPlatforms {
    known: Vec<Platform>,
    children: HashMap<u32, Box<[ChildPlatform]>>,
}

/// The platform of a child: a number in `known`, or one of the two words.
type ChildPlatform = u16;

const NO_PLATFORM: ChildPlatform = u16::MAX;
/// A platform beyond [`PLATFORMS_KNOWN_MAX`]. Each selection has it, because a pin must not lose content.
const OTHER: ChildPlatform = u16::MAX - 1;
const _: () = assert!(PLATFORMS_KNOWN_MAX < OTHER as usize);

impl ChildPlatforms {
    /// Keeps the platforms of the manifest `number`, if the manifest is an index.
    pub fn insert(&mut self, number: u32, links: &ManifestLinks) {
        if let ManifestLinks::Index(children) = links {
            let platforms = children
                .iter()
                .map(|child| self.number(child.platform.as_deref()));
            let platforms = platforms.collect();
            self.children.insert(number, platforms);
        }
    }

    pub fn remove(&mut self, number: u32) {
        self.children.remove(&number);
    }

    /// Copies the platforms of the manifest `number` in `other`. Their numbers need
    /// [`ChildPlatforms::copy_known`].
    pub fn copy(&mut self, other: &ChildPlatforms, number: u32) {
        if let Some(children) = other.children.get(&number) {
            self.children.insert(number, children.clone());
        }
    }

    /// Copies the meaning of the numbers of platforms, which never changes.
    pub fn copy_known(&mut self, other: &ChildPlatforms) {
        self.known.clone_from(&other.known);
    }

    /// Returns for each child of the manifest `number` whether it is selected. `None` unless the
    /// manifest is an index.
    pub fn select(&self, number: u32, platforms: &Platforms) -> Option<Vec<bool>> {
        let children = self.children.get(&number)?;
        let selected = platforms.select(children.iter().map(|&child| self.known.get(child as usize)));
        let selected = children.iter().zip(selected);
        Some(
            selected
                .map(|(&child, selected)| selected || child == OTHER)
                .collect(),
        )
    }

    fn number(&mut self, platform: Option<&str>) -> ChildPlatform {
        let Some(platform) = platform.and_then(Platform::parse) else {
            return NO_PLATFORM;
        };
        if let Some(at) = self.known.iter().position(|known| *known == platform) {
            return at as ChildPlatform;
        }
        if self.known.len() == PLATFORMS_KNOWN_MAX {
            return OTHER;
        }
        self.known.push(platform);
        (self.known.len() - 1) as ChildPlatform
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Child, Descriptor, Digest};

    fn index(platforms: &[Option<&str>]) -> ManifestLinks {
        let child = |platform: &Option<&str>| Child {
            descriptor: Descriptor {
                digest: Digest::of(Algorithm::Sha256, b"x"),
                size: 1,
            },
            platform: platform.map(str::to_owned),
        };
        ManifestLinks::Index(platforms.iter().map(child).collect())
    }

    #[test]
    fn platforms_beyond_the_bound_stay_selected() {
        let mut table = ChildPlatforms::default();
        let names: Vec<String> = (0..PLATFORMS_KNOWN_MAX + 2)
            .map(|n| format!("linux/a{n}"))
            .collect();
        let children: Vec<Option<&str>> = names
            .iter()
            .map(|name| Some(name.as_str()))
            .chain([None])
            .collect();
        table.insert(7, &index(&children));
        let selected = table.select(7, &"linux/a0".parse().unwrap()).unwrap();
        let places: Vec<usize> = (0..selected.len()).filter(|&at| selected[at]).collect();
        assert_eq!(places, [0, PLATFORMS_KNOWN_MAX, PLATFORMS_KNOWN_MAX + 1]);
        assert_eq!(table.select(8, &Platforms::All), None);
        table.remove(7);
        assert_eq!(table.select(7, &Platforms::All), None);
    }
}
