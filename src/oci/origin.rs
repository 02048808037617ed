//! A registry and one of its repositories.

use super::{Namespace, Repository};

/// A repository of a registry: where content is requested, and where a fill fetches it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    pub namespace: Namespace,
    pub repository: Repository,
}
