//! Commands that look at stored content.

/// The images of a store, beside a running cache and without one.
mod list;
