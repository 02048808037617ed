//! Fairness between registries. Each registry has a share of every common resource. Common workers
//! serve the registries in turn.

mod parties;
mod queue;
mod shares;

pub use parties::{Parties, Party};
pub use queue::FairQueue;
pub use shares::{Lease, Ledger, SharedLedger};
