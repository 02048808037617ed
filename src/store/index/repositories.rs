//! Numbers for repositories. An object of the index takes 4 bytes for its repository.

use std::collections::HashMap;
use std::sync::Arc;

use super::registries::RegistryNumber;
use crate::oci::{Namespace, Origin, Repository};

/// The repositories with objects. The number of a repository without an object is used again.
#[derive(Debug, Default)]
pub struct Repositories {
    by_number: Vec<Known>,
    numbers: HashMap<Arc<Origin>, u32>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Known {
    origin: Arc<Origin>,
    /// `None` beyond the limit of registries.
    registry: Option<RegistryNumber>,
    /// Manifests and tags.
    objects: u32,
}

impl Repositories {
    /// Returns the number of a repository, to which the caller adds an object. `registry` returns the
    /// number of the registry of a new repository.
    pub fn number(
        &mut self,
        namespace: &Namespace,
        repository: &Repository,
        registry: impl FnOnce() -> Option<RegistryNumber>,
    ) -> u32 {
        if let Some(number) = self.find(namespace, repository) {
            return number;
        }
        let origin = Arc::new(origin(namespace, repository));
        let known = Known {
            origin: origin.clone(),
            registry: registry(),
            objects: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.by_number[number as usize] = known;
                number
            }
            None => {
                self.by_number.push(known);
                let number = self.by_number.len() - 1;
                u32::try_from(number).expect("4 billion directories fill a disk before")
            }
        };
        self.numbers.insert(origin, number);
        number
    }

    /// Copies the repositories of `other`, which must be locked. [`Repositories::fill_numbers`] completes
    /// the copy without the lock.
    pub fn copy_origins(&mut self, other: &Repositories) {
        self.by_number.clone_from(&other.by_number);
        self.free.clone_from(&other.free);
    }

    /// Fills the numbers of a copy.
    pub fn fill_numbers(&mut self) {
        let known = self
            .by_number
            .iter()
            .zip(0..)
            .filter(|(known, _)| known.objects > 0);
        self.numbers = known
            .map(|(known, number)| (known.origin.clone(), number))
            .collect();
    }

    pub fn find(&self, namespace: &Namespace, repository: &Repository) -> Option<u32> {
        self.numbers.get(&origin(namespace, repository)).copied()
    }

    /// Returns the repository `number`, or the last repository with this number.
    pub fn get(&self, number: u32) -> Arc<Origin> {
        self.by_number[number as usize].origin.clone()
    }

    /// Returns the registry of the repository `number`, which must have an object or be new.
    pub fn registry(&self, number: u32) -> &Option<RegistryNumber> {
        &self.by_number[number as usize].registry
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn add_object(&mut self, number: u32) {
        self.by_number[number as usize].objects += 1;
    }

    /// Takes an object from the repository `number`, and forgets a repository without an object.
    pub fn remove_object(&mut self, number: u32) {
        let known = &mut self.by_number[number as usize];
        known.objects -= 1;
        if known.objects == 0 {
            self.numbers.remove(&known.origin);
            self.free.push(number);
        }
    }
}

fn origin(namespace: &Namespace, repository: &Repository) -> Origin {
    Origin {
        namespace: namespace.clone(),
        repository: repository.clone(),
    }
}
