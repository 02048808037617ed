//! The errors of the route parser.

use crate::oci::ParseDigestError;

/// The reason that a request has no route. Always a mistake of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    #[error("no such path; the registry API begins at /v2/")]
    NotFound,
    #[error("this cache has no catalog of repositories; request the catalog of the registry itself")]
    Catalog,
    #[error("invalid repository name; expected lower-case letters, digits and single separators")]
    Name,
    #[error("invalid registry; expected `host` or `host:port`")]
    Namespace,
    #[error("the name contains no registry, and this cache has no default registry; use `<registry>/<name>`")]
    NoRegistry,
    #[error("`X-Registry`, `ns` and the path name different registries; send the same registry in each")]
    Disagree,
    #[error("invalid reference; expected a tag or a digest")]
    Reference,
    #[error("invalid query; expected a page of this list, such as `n=100&last=<name>`")]
    Page,
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}
