//! Fairness between registries: each registry has a share of every resource that all registries use, and waits for its
//! turn where one worker serves all of them.

mod parties;
mod queue;
mod shares;

pub use parties::{Parties, Party};
pub use queue::FairQueue;
pub use shares::{Lease, Ledger, SharedLedger};
