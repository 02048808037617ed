//! Numbers for the source registries of objects, with the content of each registry.

use std::collections::HashMap;

use crate::limits::REGISTRIES_COUNTED_MAX;
use crate::oci::Namespace;

/// The number of a registry in an index.
pub type RegistryNumber = u16;

/// The content of a registry in an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryUsage {
    pub registry: Namespace,
    /// Blobs, manifests and tags, also those of several registries.
    pub objects: u64,
    /// Bytes on the disk of the objects.
    pub bytes: u64,
    /// Bytes of the objects that no other registry has.
    pub bytes_alone: u64,
    /// Bytes that unfinished ingests may still write.
    pub reserved: u64,
    /// Objects that an eviction removed.
    pub evictions: u64,
}

impl RegistryUsage {
    /// Returns the usage of a registry without content.
    pub fn of_none(registry: Namespace) -> Self {
        RegistryUsage {
            registry,
            objects: 0,
            bytes: 0,
            bytes_alone: 0,
            reserved: 0,
            evictions: 0,
        }
    }
}

/// The registries since the start, by number. A number is never used again.
#[derive(Debug, Default)]
pub struct RegistryTable {
    usages: Vec<RegistryUsage>,
    numbers: HashMap<Namespace, RegistryNumber>,
}

impl RegistryTable {
    /// Returns the number of `registry`, a new one for a new registry. `None` for a new registry
    /// beyond [`REGISTRIES_COUNTED_MAX`], whose content counts for the store only.
    pub fn number(&mut self, registry: &Namespace) -> Option<RegistryNumber> {
        if let Some(number) = self.numbers.get(registry) {
            return Some(*number);
        }
        let number = RegistryNumber::try_from(self.usages.len()).ok()?;
        if usize::from(number) >= REGISTRIES_COUNTED_MAX {
            return None;
        }
        self.usages.push(RegistryUsage::of_none(registry.clone()));
        self.numbers.insert(registry.clone(), number);
        Some(number)
    }

    /// Returns the content of the registry `number`, which must exist.
    pub fn usage(&self, number: RegistryNumber) -> &RegistryUsage {
        &self.usages[usize::from(number)]
    }

    pub fn all(&self) -> &[RegistryUsage] {
        &self.usages
    }

    /// Counts an object for each of the registries `holders`.
    pub fn add(&mut self, holders: &[RegistryNumber], bytes: u64) {
        for &holder in holders {
            let usage = &mut self.usages[usize::from(holder)];
            usage.objects += 1;
            usage.bytes += bytes;
            if holders.len() == 1 {
                usage.bytes_alone += bytes;
            }
        }
    }

    /// Takes back the effect of [`RegistryTable::add`] with the same arguments.
    pub fn remove(&mut self, holders: &[RegistryNumber], bytes: u64) {
        for &holder in holders {
            let usage = &mut self.usages[usize::from(holder)];
            usage.objects -= 1;
            usage.bytes -= bytes;
            if holders.len() == 1 {
                usage.bytes_alone -= bytes;
            }
        }
    }

    pub fn count_eviction(&mut self, holders: &[RegistryNumber]) {
        for &holder in holders {
            self.usages[usize::from(holder)].evictions += 1;
        }
    }

    pub fn reserve(&mut self, number: RegistryNumber, bytes: u64) {
        self.usages[usize::from(number)].reserved += bytes;
    }

    pub fn release(&mut self, number: RegistryNumber, bytes: u64) {
        self.usages[usize::from(number)].reserved -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_beyond_the_limit_have_no_number() {
        let mut registries = RegistryTable::default();
        let name = |number: usize| format!("r{number}.example").parse::<Namespace>().unwrap();
        for number in 0..REGISTRIES_COUNTED_MAX {
            assert_eq!(registries.number(&name(number)), Some(number as RegistryNumber));
        }
        assert_eq!(registries.number(&name(REGISTRIES_COUNTED_MAX)), None);
        assert_eq!(registries.number(&name(7)), Some(7));
    }
}
