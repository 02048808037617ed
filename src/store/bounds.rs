//! The arithmetic of the bounds of a local store. Pure.

use super::space::Space;
use crate::config::{SizeBound, StoreBounds};
use crate::limits::{
    EVICTION_START_SHARE, EVICTION_STEP_SHARE, FREE_BYTES_MIN, FREE_INODES_SHARE, FREE_SHARE,
    FREE_SHARE_OF_SMALL, METADATA_BYTES_MIN, METADATA_SHARE, OBJECT_SHARE, RESERVE_STEP_MAX,
};

/// The bounds of a store on a file system of a known size, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// `None` means no bound besides `free_min`.
    pub size_max: Option<u64>,
    pub free_min: u64,
    pub object_max: u64,
    pub metadata_max: u64,
    free_inodes_min: u64,
}

/// The state of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes of all content, and bytes that unfinished ingests may still write.
    pub bytes: u64,
    /// Bytes of removed content that the file system may not have freed yet.
    pub releasing: u64,
    pub space: Space,
}

/// The room that a store lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shortage {
    pub bytes: u64,
    pub inodes: u64,
    /// Whether most of `bytes` is free space of the file system, and not room below the bound.
    is_of_space: bool,
}

/// The reason of an eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvictionReason {
    /// `CACHE_MAX_SIZE`.
    Size,
    /// `CACHE_MIN_FREE`.
    FreeSpace,
    FreeInodes,
}

impl Bounds {
    pub fn new(wanted: &StoreBounds, space: &Space) -> Self {
        let size_max = bound(wanted.size_max).map(|size| size.of(space.bytes));
        let free_min = match wanted.free_min {
            Some(free) => free.of(space.bytes),
            None => {
                let least = FREE_BYTES_MIN.min(space.bytes / FREE_SHARE_OF_SMALL);
                (space.bytes / FREE_SHARE).max(least)
            }
        };
        // A file system that does not report its size has no free space to keep.
        let free_min = if space.bytes == 0 { 0 } else { free_min };
        let whole = size_max.unwrap_or(match space.bytes {
            0 => u64::MAX,
            bytes => bytes.saturating_sub(free_min),
        });
        let object_max = match (bound(wanted.object_max), wanted.object_max, size_max) {
            (Some(object), ..) => object.of(whole),
            (None, None, Some(size)) => size / OBJECT_SHARE,
            (None, ..) => u64::MAX,
        };
        Bounds {
            size_max,
            free_min,
            object_max,
            metadata_max: metadata_max(whole),
            free_inodes_min: space.inodes / FREE_INODES_SHARE,
        }
    }

    /// Returns the bounds of the content of one registry. `None` without a bound. The space of the file
    /// system bounds the store only.
    pub fn of_registry(wanted: Option<SizeBound>, space: &Space) -> Option<Self> {
        let size_max = bound(wanted)?.of(space.bytes);
        Some(Bounds {
            size_max: Some(size_max),
            free_min: 0,
            object_max: size_max,
            metadata_max: metadata_max(size_max),
            free_inodes_min: 0,
        })
    }

    /// Returns the room that the store lacks for `more` bytes.
    pub fn shortage(&self, usage: &Usage, more: u64) -> Shortage {
        let wanted = usage.bytes.saturating_add(more);
        let over = self.size_max.map_or(0, |max| wanted.saturating_sub(max));
        let lacking = self.lacking_space(usage, more);
        Shortage {
            bytes: over.max(lacking),
            inodes: self.free_inodes_min.saturating_sub(usage.space.free_inodes),
            is_of_space: lacking > over,
        }
    }

    /// Returns the bytes that the store may still take without an eviction.
    pub fn room(&self, usage: &Usage) -> u64 {
        let by_size = self
            .size_max
            .map_or(u64::MAX, |max| max.saturating_sub(usage.bytes));
        let by_space = match usage.space.bytes {
            0 => u64::MAX,
            _ => usage.space.free_bytes.saturating_sub(self.free_min),
        };
        by_size.min(by_space)
    }

    /// Returns the shortage for `more` bytes with some room ahead, so that the next steps of ingests
    /// need no choice of victims.
    pub fn shortage_with_margin(&self, usage: &Usage, more: u64) -> Shortage {
        let shortage = self.shortage(usage, more);
        let margin = (usage.bytes / EVICTION_STEP_SHARE).min(RESERVE_STEP_MAX);
        let bytes = match shortage.bytes {
            0 => 0,
            bytes => bytes.saturating_add(margin),
        };
        Shortage { bytes, ..shortage }
    }

    /// Returns the room to make in the background, so that the next ingests need not wait. More room
    /// at once means fewer choices of victims.
    pub fn surplus(&self, usage: &Usage) -> Shortage {
        let over = self.size_max.map_or(0, |max| {
            let start = max - max / EVICTION_START_SHARE;
            let end = max - max / EVICTION_STEP_SHARE;
            if usage.bytes > start { usage.bytes - end } else { 0 }
        });
        let lacking = match self.lacking_space(usage, 0) {
            0 => 0,
            lacking => lacking + self.free_min / EVICTION_STEP_SHARE,
        };
        let inodes = match self.free_inodes_min.saturating_sub(usage.space.free_inodes) {
            0 => 0,
            lacking => lacking + self.free_inodes_min / EVICTION_STEP_SHARE,
        };
        Shortage {
            bytes: over.max(lacking),
            inodes,
            is_of_space: lacking > over,
        }
    }

    /// Bytes that are being released fill at most half of the free space to keep, because the file
    /// system may have freed them already.
    fn lacking_space(&self, usage: &Usage, more: u64) -> u64 {
        let free = usage.space.free_bytes + usage.releasing.min(self.free_min / 2);
        match usage.space.bytes {
            0 => 0,
            _ => self.free_min.saturating_add(more).saturating_sub(free),
        }
    }
}

impl Usage {
    /// Returns the usage of a registry with `bytes` of content and reserved room.
    pub fn of_registry(bytes: u64) -> Self {
        Usage {
            bytes,
            releasing: 0,
            space: Space::default(),
        }
    }
}

impl Shortage {
    /// Returns the reason of an eviction for the shortage. `None` without a shortage.
    pub fn reason(&self) -> Option<EvictionReason> {
        match (self.bytes, self.inodes) {
            (0, 0) => None,
            (0, _) => Some(EvictionReason::FreeInodes),
            _ if self.is_of_space => Some(EvictionReason::FreeSpace),
            _ => Some(EvictionReason::Size),
        }
    }

    pub fn is_none(&self) -> bool {
        self.reason().is_none()
    }
}

/// Returns the budget of the metadata within `whole` bytes.
fn metadata_max(whole: u64) -> u64 {
    (whole / METADATA_SHARE).max(METADATA_BYTES_MIN.min(whole / 4))
}

fn bound(wanted: Option<SizeBound>) -> Option<SizeBound> {
    wanted.filter(|&bound| bound != SizeBound::Bytes(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn space(bytes: u64, free_bytes: u64) -> Space {
        Space {
            bytes,
            free_bytes,
            used_bytes: bytes - free_bytes,
            inodes: 1_000,
            free_inodes: 500,
        }
    }

    fn bounds(wanted: StoreBounds, bytes: u64) -> Bounds {
        Bounds::new(&wanted, &space(bytes, bytes))
    }

    #[test]
    fn free_space_by_default_is_a_twentieth_and_at_least_2_gib_or_a_tenth() {
        for (bytes, free_min) in [
            (1000 * GIB, 50 * GIB),
            (30 * GIB, 2 * GIB),
            (10 * GIB, GIB),
            (0, 0),
        ] {
            assert_eq!(
                bounds(StoreBounds::default(), bytes).free_min,
                free_min,
                "{bytes}"
            );
        }
    }

    #[test]
    fn largest_object_by_default_is_half_of_the_bound_and_unlimited_without_a_bound() {
        let size_max = Some(SizeBound::Percent(80));
        let bounded = StoreBounds {
            size_max,
            ..StoreBounds::default()
        };
        let found = bounds(bounded, 100 * GIB);
        assert_eq!((found.size_max, found.object_max), (Some(80 * GIB), 40 * GIB));
        assert_eq!(bounds(StoreBounds::default(), 100 * GIB).object_max, u64::MAX);
        let unlimited = StoreBounds {
            object_max: Some(SizeBound::Bytes(0)),
            ..bounded
        };
        assert_eq!(bounds(unlimited, 100 * GIB).object_max, u64::MAX);
    }

    #[test]
    fn shortage_is_the_larger_of_the_excess_and_the_lacking_space() {
        let wanted = StoreBounds {
            size_max: Some(SizeBound::Bytes(10 * GIB)),
            free_min: Some(SizeBound::Bytes(2 * GIB)),
            object_max: None,
        };
        let bounds = bounds(wanted, 100 * GIB);
        let shortage = |bytes, free, more| {
            let space = space(100 * GIB, free);
            bounds
                .shortage(
                    &Usage {
                        bytes,
                        releasing: 0,
                        space,
                    },
                    more,
                )
                .bytes
        };
        assert_eq!(shortage(9 * GIB, 50 * GIB, GIB), 0);
        assert_eq!(shortage(9 * GIB, 50 * GIB, 2 * GIB), GIB);
        assert_eq!(shortage(GIB, GIB, 0), GIB);
        assert_eq!(shortage(9 * GIB, GIB, 4 * GIB), 5 * GIB);
    }

    #[test]
    fn background_eviction_starts_below_the_bound_and_makes_a_twentieth_free() {
        let wanted = StoreBounds {
            size_max: Some(SizeBound::Bytes(1_000_000)),
            ..StoreBounds::default()
        };
        let bounds = bounds(wanted, 100 * GIB);
        let surplus = |bytes| {
            let space = space(100 * GIB, 50 * GIB);
            bounds
                .surplus(&Usage {
                    bytes,
                    releasing: 0,
                    space,
                })
                .bytes
        };
        assert_eq!([979_999, 980_001, 1_000_000].map(surplus), [0, 30_001, 50_000]);
    }

    #[test]
    fn bytes_being_released_count_as_free_up_to_half_of_the_free_space() {
        let wanted = StoreBounds {
            free_min: Some(SizeBound::Bytes(10 * GIB)),
            ..StoreBounds::default()
        };
        let bounds = bounds(wanted, 100 * GIB);
        let lacking = |free, releasing| {
            let space = space(100 * GIB, free);
            let usage = Usage {
                bytes: 0,
                releasing,
                space,
            };
            bounds.shortage(&usage, 0).bytes
        };
        assert_eq!(lacking(7 * GIB, 0), 3 * GIB);
        assert_eq!(lacking(7 * GIB, 3 * GIB), 0);
        assert_eq!(lacking(4 * GIB, 100 * GIB), GIB);
    }

    #[test]
    fn shortage_of_a_registry_depends_on_its_own_bytes_only() {
        let space = space(100 * GIB, 0);
        let bounds = Bounds::of_registry(Some(SizeBound::Percent(10)), &space).unwrap();
        let usage = |bytes| Usage::of_registry(bytes);
        assert_eq!(bounds.shortage(&usage(9 * GIB), GIB), Shortage::default());
        assert_eq!(bounds.shortage(&usage(9 * GIB), 2 * GIB).bytes, GIB);
        assert_eq!(bounds.object_max, 10 * GIB);
        for none in [None, Some(SizeBound::Bytes(0))] {
            assert_eq!(Bounds::of_registry(none, &space), None);
        }
    }

    #[test]
    fn few_free_inodes_are_a_shortage() {
        let found = bounds(StoreBounds::default(), 100 * GIB);
        let usage = |free_inodes| Usage {
            bytes: 0,
            releasing: 0,
            space: Space {
                free_inodes,
                ..space(100 * GIB, 50 * GIB)
            },
        };
        assert_eq!(found.shortage(&usage(50), 0).inodes, 0);
        assert_eq!(found.shortage(&usage(40), 0).inodes, 10);
    }

    #[test]
    fn reason_of_an_eviction_is_the_larger_shortage_of_bytes_before_inodes() {
        let wanted = StoreBounds {
            size_max: Some(SizeBound::Bytes(10 * GIB)),
            free_min: Some(SizeBound::Bytes(2 * GIB)),
            object_max: None,
        };
        let bounds = bounds(wanted, 100 * GIB);
        for (bytes, free, free_inodes, expected) in [
            (GIB, 50 * GIB, 500, None),
            (GIB, 50 * GIB, 40, Some(EvictionReason::FreeInodes)),
            (12 * GIB, 50 * GIB, 40, Some(EvictionReason::Size)),
            (12 * GIB, GIB, 500, Some(EvictionReason::Size)),
            (GIB, GIB, 500, Some(EvictionReason::FreeSpace)),
        ] {
            let space = Space {
                free_inodes,
                ..space(100 * GIB, free)
            };
            let usage = Usage {
                bytes,
                releasing: 0,
                space,
            };
            assert_eq!(bounds.shortage(&usage, 0).reason(), expected, "{bytes} {free}");
            assert_eq!(bounds.surplus(&usage).reason(), expected, "{bytes} {free}");
        }
    }
}
