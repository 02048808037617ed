//! The objects that the bound of one registry may evict.

use super::pinned::WithPins;
use super::registries::RegistryNumber;
use crate::store::eviction::{Kind, Object, Objects};

/// The objects that one registry alone has. All other objects of the index are hidden.
pub struct OfRegistry<'a> {
    objects: WithPins<'a>,
    /// Whether the registry alone has the object, by number.
    is_own: Vec<bool>,
}

impl<'a> WithPins<'a> {
    /// Returns the objects that `registry` alone has. A blob that a manifest of another registry names
    /// belongs to that registry too, whichever registry has delivered the blob.
    pub fn of_registry(self, registry: RegistryNumber) -> OfRegistry<'a> {
        let index = self.index;
        let numbers = 0..index.numbers();
        let mut is_own: Vec<bool> = numbers.map(|number| index.is_only_of(number, registry)).collect();
        let manifests = index.of_kind(Kind::Manifest);
        let others = manifests.filter(|&number| !index.is_only_of(number, registry));
        for other in others {
            index.for_each_named(other, |named| is_own[named as usize] = false);
        }
        OfRegistry {
            objects: self,
            is_own,
        }
    }
}

impl Objects for OfRegistry<'_> {
    fn numbers(&self) -> u32 {
        self.objects.numbers()
    }

    fn get(&self, number: u32) -> Option<Object> {
        let is_own = self.is_own.get(number as usize).copied().unwrap_or(false);
        self.objects.get(number).filter(|_| is_own)
    }

    fn for_each_named(&self, number: u32, mut visit: impl FnMut(u32)) {
        self.objects.for_each_named(number, |named| {
            if self.is_own[named as usize] {
                visit(named);
            }
        });
    }

    fn is_pinned(&self, number: u32) -> bool {
        self.objects.is_pinned(number)
    }
}
