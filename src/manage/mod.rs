//! Operations on stored content, for the command line, the admin API and the rules of `prune`.

mod background_prune;
mod images;
mod prune_request;
mod prune_schedule;
mod removal;
mod table;

pub use background_prune::BackgroundPrune;
pub use images::{Image, ImageKind, Listing, list};
pub use prune_request::PruneRequest;
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use table::{TableColumns, table};
