//! The attempts of a request to get a blob. A request joins another fill after a fill ended without an
//! answer for the request.

use std::sync::Arc;

use crate::cache::FetchError;
use crate::cache::fill::Fill;
use crate::storage::Within;

/// The number of fills that a request may join. More than a few such ends are a bug.
const JOINS_MAX: usize = 4;

/// The state of a request between two attempts.
pub(in crate::cache) struct Attempts {
    left: usize,
    /// The last fill, which the next attempt does not join.
    pub not: Option<Arc<Fill>>,
    /// The places of the next lookup.
    pub within: Within,
}

impl Attempts {
    pub fn new() -> Self {
        Attempts {
            left: JOINS_MAX,
            not: None,
            within: Within::Everywhere,
        }
    }

    /// Begins an attempt.
    ///
    /// # Errors
    ///
    /// The request has joined [`JOINS_MAX`] fills.
    pub fn begin(&mut self) -> Result<(), FetchError> {
        let abandoned = FetchError::Abandoned("no fetch of the content served the request");
        self.left = self.left.checked_sub(1).ok_or(abandoned)?;
        Ok(())
    }

    /// Prepares an attempt after the `error` of a fill. `is_for_caller`: the fill has the repository and
    /// the caller of the request.
    ///
    /// # Errors
    ///
    /// Returns `error` if another fill would have the same error.
    pub fn continue_after(
        &mut self,
        error: FetchError,
        fill: Arc<Fill>,
        is_for_caller: bool,
    ) -> Result<(), FetchError> {
        match error {
            FetchError::Gone | FetchError::Abandoned(_) | FetchError::Displaced => {}
            // The next attempt requests the content from the registry.
            _ if fill.is_from_bucket() => self.within = Within::Machine,
            // The registry refused another repository or another caller.
            error if error.is_refusal() && !is_for_caller => {}
            error => return Err(error),
        }
        self.not = Some(fill);
        Ok(())
    }
}
