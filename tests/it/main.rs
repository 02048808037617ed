//! The server, tested from outside: a fake upstream on one side, byte-exact clients on the other.
//!
//! Each file is a theme, each test a sentence that is true of the running binary. Every test brings its own
//! upstream, server and store, so they run in any order and side by side. `TEST_IO_DRIVER` chooses the driver for
//! a whole run, `TEST_KERNEL_TLS=auto` has the kernel encrypt where it can, `TEST_BINARY` another binary than the one cargo
//! built, `TEST_STORAGE` (`s3` or `tiered`) puts a bucket behind servers that ask for no storage of their own; `SEED` repeats
//! a random test.

#![allow(
    clippy::disallowed_methods,
    reason = "tests run on threads of their own, read their settings from the environment, and wait for processes"
)]

/// The fake upstream, the client, the server's process, the store checker.
mod harness;

/// The harness against itself: the fake upstream misbehaves exactly as told.
mod harness_itself;

/// Signatures while their registry is down, and the memory of what is missing.
mod signatures;

/// Ordinary pulls, cold and warm, by every spelling.
mod pull;

/// Names, their errors, and hostile paths.
mod naming;

/// Single-flight, followers, clients that leave.
mod fill;

/// Flipped bytes, cuts, wrong lengths: nothing wrong completes or sticks.
mod integrity;

/// 200s that are no answer, fields written anew, bits that rot, and what errors say.
mod answers;

/// Broken upstream bodies continued with `Range`.
mod resume;

/// Ranges and conditional requests against a model.
mod range;

/// Lifetimes of tags, revalidation, stale answers.
mod tag_order;
mod tag_rules;
mod tags;

/// Parts of blobs that clients fetch side by side.
mod open_range;

/// Slow disks and short memory beside clients that need neither.
mod slow_disk;

/// Kills, restarts, garbage in the store.
mod crash;

/// Every state a crash can leave, from the calls of a real run.
mod crash_states;

/// A panic hurts one connection, or one fill.
#[cfg(feature = "fail-points")]
mod panic;

/// Full, read-only and vanished stores.
mod faults;

/// Every errno of every call of the store.
mod errno_matrix;

/// Slow clients of fast upstreams.
mod backpressure;

/// Mixed load with a fault in every second.
mod soak;

/// Power cuts, disks that fail late, quotas.
mod powercut;

/// Token flow, credentials, refusals, redirects.
mod auth;

/// Fronts that redirect the API into a registry that challenges by itself.
mod fronts;

/// Registries that challenge at `/v2/` only.
mod pings;

/// Who may read what: users, rights, and what others learn.
mod private;

/// A real registry as upstream, with passwords and with tokens.
mod real_registry;

/// Registries of the world and their ideas, each a test named after it.
mod quirks;

/// Registries that answer HEAD otherwise than GET, and statuses that say nothing about the content.
mod verdicts;

/// Mirrors that give wrong bytes, break off or stall.
mod mirrors;

/// Upstreams that are down, silent or broken: what is served meanwhile, and how often they are asked.
mod outage;

/// 429, of every kind.
mod ratelimit;

/// Secrets stay at their origin: canaries over realms, redirects, mirrors; helpers and files.
mod credentials;

/// Real proxies, and what fails with them.
mod proxy;

/// Certificates, good and bad, ours and theirs.
mod upstream_tls;

/// TLS with clients, and their certificates.
mod ktls;
mod mtls;
mod tls;

/// Which header fields travel, in both directions.
mod headers;

/// Sizes, counts, deadlines.
mod limits;

/// One party takes all it can of what is shared; a bystander does not notice.
mod adversary;

/// The same, measured; by hand.
mod adversary_measured;

/// What browsers are told with each answer.
mod policy_fields;

/// More connections, work or patience than there is; cores that share what comes.
mod overload;
mod overload_cores;
mod overload_ends;
mod overload_protocols;

/// Requests on the edge of HTTP/1.1, read by the parser's own tests too.
#[allow(dead_code, reason = "its bounds are for the parser's tests")]
mod corpus;

/// The corpus against the running server, pipelining, who closes when.
mod wire;

/// The corpus read by another HTTP server.
mod wire_twice;

/// Answers of upstreams on the edge of HTTP/1.1.
mod upstream_wire;

/// JSON that is deep, wide or endless.
mod bombs;

/// HTTP/2: what it does like HTTP/1.1, what it does otherwise, its grammar, its floods.
mod h2;
mod h2_flood;
mod h2_spec;

/// Start, health, signals, configuration mistakes.
mod lifecycle;

/// The configuration: checked, printed, described, reloaded.
mod config;

/// House rules about the sources: imports, `unsafe`, leftovers, settings that are told everywhere.
mod tidy;

/// Lists of tags and referrers.
mod listing;

/// What chooses a registry, which registries there are, caches behind caches.
mod selectors;

/// Who may come in.
mod client_auth;

/// Who may read what, by rules.
mod allow;

/// Logins that clients have for registries.
mod client_login;

/// Signatures, charts and other things that are no images.
mod artifacts;

/// Pulls with a bucket, alone and behind the local store.
mod s3_pull;
mod s3_tls;

/// Who is given what lies in a shared bucket.
mod s3_access;

/// Drain, exit codes, passed sockets, what a service manager is told.
mod restart;
mod restart_protocols;

/// Buckets that fail, lose and lie.
mod s3_faults;

/// What lies in a bucket over every protocol, past every rule.
mod s3_front;

/// The port after a kill, a log that is not read, limits and modes of files.
mod process;

/// Liveness and readiness on bad days.
mod health;

/// io_uring and epoll where one of them is refused.
mod drivers;

/// Cores, disks and threads that hang.
#[cfg(feature = "fail-points")]
mod watchdog;
