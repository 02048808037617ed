//! The configuration from the operator's side.

/// Checking, printing, schema, reload.
mod check_and_reload;
