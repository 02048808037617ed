//! Proving to a registry that we may read: challenges, and the tokens that answer them.

pub(super) mod challenge;
mod secret;
pub(super) mod token;

pub use secret::Secret;
