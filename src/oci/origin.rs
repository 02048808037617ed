//! A registry and one of its repositories.

use super::{Namespace, Repository};

/// A repository of a registry: the target of a request, and the source of a fill.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    pub namespace: Namespace,
    pub repository: Repository,
}
