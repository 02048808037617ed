//! Tags: lifetimes, revalidation, stale responses.

/// Lifetimes, revalidation, and stale responses while the upstream fails.
mod lifetime;

/// Lifetime rules (`tag_rules`), `STALE_WHILE_REVALIDATE`, and tags that are made from digests.
mod stale_while_revalidate;

/// Order of tag states, on every core and after clock jumps.
mod tag_order;
