//! Registries: selection, quirks, mirrors, failures, proxies, certificates.

/// Selection of a registry, allowed registries, and caches behind caches.
mod selectors;

/// Deviations of real registries; each test is named after a registry.
mod quirks;

/// Registries whose HEAD and GET differ, and statuses that prove nothing about the content.
mod verdicts;

/// Mirrors that return wrong bytes, break off or stall.
mod mirrors;

/// Upstreams that are down, silent or broken.
mod outage;

/// Content of an air-gapped cache under the names of other repositories.
mod air_gap;

/// Status 429 and `Retry-After`.
mod ratelimit;

/// Real proxies, and their failures.
mod proxy;

/// Certificates of registries, and client certificates of the cache.
mod certificates;

/// JSON that is deep, wide or endless.
mod bombs;
