//! The configuration, as used by operators.

/// Check, print, schema, reload.
mod check_and_reload;
