//! Overload: limits, and fair shares of connections, memory, descriptors, disk and bucket.

/// Sizes, counts, deadlines.
mod limits;

/// Too many connections, too few descriptors, too little memory, slow clients.
mod connections;

/// Balance of connections between cores.
mod cores;

/// Memory for small objects.
mod memory_cache;

/// Connections that end in every known manner and leave no resource behind.
mod ends;

/// The limits over TLS and HTTP/2.
mod protocols;

/// An adversary takes all it can of a shared resource beside a bystander.
mod adversary;

/// Latency of a bystander beside each adversary; run by hand.
mod adversary_measured;

/// Mixed load with a fault in every second.
mod soak;
