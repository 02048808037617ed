//! The source tree and the test harness.

/// Rules for the sources: imports, `unsafe`, leftovers, documentation of every setting.
mod tidy;

/// The dashboards and rules in `deploy/`, compared with the documents.
mod dashboards;

/// The harness, tested against itself.
mod harness_itself;

/// The table of features in `tests/README.md`.
mod readme;
