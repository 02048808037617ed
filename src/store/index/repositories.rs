//! Numbers for repositories. An object of the index takes 4 bytes for its repository.

use std::collections::HashMap;
use std::sync::Arc;

use crate::oci::{Namespace, Origin, Repository};

/// All repositories since the start. A number is never used again, because the directories of a
/// repository remain too.
#[derive(Debug, Default)]
pub struct Repositories {
    by_number: Vec<Arc<Origin>>,
    numbers: HashMap<Arc<Origin>, u32>,
}

impl Repositories {
    /// Returns the number of a repository, a new one for a new repository.
    pub fn number(&mut self, namespace: &Namespace, repository: &Repository) -> u32 {
        if let Some(number) = self.find(namespace, repository) {
            return number;
        }
        let origin = Arc::new(origin(namespace, repository));
        let number = u32::try_from(self.by_number.len()).expect("4 billion directories fill a disk before");
        self.by_number.push(origin.clone());
        self.numbers.insert(origin, number);
        number
    }

    pub fn find(&self, namespace: &Namespace, repository: &Repository) -> Option<u32> {
        self.numbers.get(&origin(namespace, repository)).copied()
    }

    /// Returns the repository `number`, which must exist.
    pub fn get(&self, number: u32) -> Arc<Origin> {
        self.by_number[number as usize].clone()
    }
}

fn origin(namespace: &Namespace, repository: &Repository) -> Origin {
    Origin {
        namespace: namespace.clone(),
        repository: repository.clone(),
    }
}
