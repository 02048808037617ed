//! Operations on stored content, for the command line and the admin API.

mod filter;
mod images;
mod prune_request;
mod removal;
mod table;
mod verify;
mod verify_request;

pub use filter::Filter;
pub use images::{Image, ImageKind, Listing, list};
pub use prune_request::PruneRequest;
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use table::{TableColumns, table};
pub use verify::{
    DamagedObject, PlannedVerification, ProgressCounts, UnreadableObject, VerifyProgress, VerifyReport,
    plan_verify,
};
pub use verify_request::{VerifyRequest, VerifyRule};
