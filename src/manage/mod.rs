//! Operations on stored content, for the command line, the admin API and the rules of `prune`.

mod background_prune;
mod details;
mod explain;
mod images;
mod page;
mod prune_request;
mod prune_schedule;
mod registry_stats;
mod removal;
mod table;
mod verify;
mod verify_request;

pub use background_prune::BackgroundPrune;
pub use details::{BlobDetails, BlobUses, ImageDetails, ManifestDetails, show_blob, show_images};
pub use explain::{
    Cause, Explanation, Finding, PullOutcome, PullSettings, RegistryChoice, TagState, explain_stored,
};
pub use images::{Image, ImageKind, Listing, list};
pub use page::{Cursor, ImagePage, ImageQuery, ListedImage, list_page};
pub use prune_request::PruneRequest;
pub use registry_stats::registry_stats;
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use table::{TableColumns, table};
pub use verify::{
    DamagedObject, PlannedVerification, ProgressCounts, UnreadableObject, VerifyProgress, VerifyReport,
    plan_verify,
};
pub use verify_request::{VerifyRequest, VerifyRule};
