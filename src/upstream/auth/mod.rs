//! Authentication at registries: credentials, challenges, and the tokens that answer them.

pub(super) mod challenge;
pub(super) mod credential;
pub(super) mod credential_source;
mod docker_config;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod helper;
pub(super) mod realm;
mod secret;
pub(super) mod token;
pub(super) mod token_key;
pub(super) mod token_request;

pub use secret::Secret;
