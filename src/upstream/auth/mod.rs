//! Proving to a registry that we may read: credentials, challenges, and the tokens that answer them.

pub(super) mod challenge;
mod docker_config;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
pub(super) mod grant;
mod helper;
pub(super) mod login;
pub(super) mod logins;
pub(super) mod realm;
mod secret;
pub(super) mod token;

pub use secret::Secret;
