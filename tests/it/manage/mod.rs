//! Commands that look at stored content.

/// The images of a store, beside a running cache and without one.
mod list;

/// The commands `purge` and `prune`, and the admin socket.
mod remove;
