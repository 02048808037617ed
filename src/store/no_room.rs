//! Refusals of room by the bounds of the store. An error of the file system, such as an exceeded quota,
//! is never one of them.

use std::io;

use crate::oci::Namespace;

/// A bound that leaves no room for an object. Travels in an [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("the content of {0} fills its cache_max_size, and none of it may be evicted")]
    Registry(Namespace),
    #[error("the size of the content of {0} is unknown until the scan at start has ended")]
    Unscanned(Namespace),
    #[error("the object is larger than cache_max_size of {0}")]
    ObjectOfRegistry(Namespace),
    #[error("the object is larger than CACHE_MAX_OBJECT_SIZE")]
    Object,
    #[error("unfinished blobs of the registry hold its whole share of the free room")]
    Share,
    #[error("the spool is full of blobs that wait for their upload")]
    Spool,
}

impl NoRoom {
    /// Returns the refusal in `error`, if a bound caused the error.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|source| source.downcast_ref())
    }
}

impl From<NoRoom> for io::Error {
    fn from(refusal: NoRoom) -> Self {
        io::Error::other(refusal)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use crate::store::StoreError;

    #[test]
    fn error_of_the_file_system_is_no_bound_of_a_registry_or_of_an_object() {
        // EBUSY and EDQUOT have the kinds of io::Error that a bound would suggest.
        for errno in [Errno::DQUOT, Errno::BUSY, Errno::IO, Errno::ROFS] {
            let error = StoreError {
                doing: StoreError::RESERVE,
                path: "sha256/00".to_owned(),
                source: errno.into(),
            };
            let about = [
                error.is_about_room(),
                error.is_about_registry_room(),
                error.is_about_scan(),
                error.is_about_size(),
            ];
            assert_eq!(about, [false; 4], "{error}");
        }
    }
}
