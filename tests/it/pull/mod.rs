//! Pulls by clients: manifests, blobs, ranges, lists.

/// Cold and warm pulls, by every spelling of a request.
mod cold_and_warm;

/// Repository names, errors about names, and hostile paths.
mod naming;

/// Single-flight, followers, and clients that disconnect during a fill.
mod fill;

/// Blobs that the cache fetches before a client requests the blobs.
mod prefetch;

/// Slow clients of fast upstreams.
mod backpressure;

/// Flipped bytes, cuts and wrong lengths from the upstream; no wrong byte completes or is cached.
mod integrity;

/// Status 200 with foreign content, rewritten header fields, damaged entries, and error texts.
mod answers;

/// Broken upstream bodies, continued with `Range`.
mod resume;

/// Ranges and conditional requests, compared with a model.
mod range;

/// Parallel requests of one client for parts of a blob.
mod open_range;

/// Header fields that the cache forwards, in both directions.
mod headers;

/// Header fields that restrict browsers.
mod policy_fields;

/// Lists of tags and of referrers.
mod listing;

/// Charts, signatures and other content that is no image.
mod artifacts;

/// Signatures while the registry is down, and cached absences.
mod signatures;
