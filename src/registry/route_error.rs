//! The errors of the route parser.

use crate::oci::ParseDigestError;

/// The reason that a request has no route. Always a mistake of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    #[error("there is nothing here; the registry API begins at /v2/")]
    NotFound,
    #[error("this cache keeps no catalog of repositories; ask the registry itself for its own")]
    Catalog,
    #[error("the repository name is not valid")]
    Name,
    #[error("the registry is not valid")]
    Namespace,
    #[error("the name has no registry in it, and there is no default; ask for `<registry>/<name>`")]
    NoRegistry,
    #[error("`X-Registry`, `ns` and the path name different registries")]
    Disagree,
    #[error("the reference is neither a tag nor a digest")]
    Reference,
    #[error("the query does not describe a page of this list")]
    Page,
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}
