//! Operations on stored content, for the command line, the admin API and the rules of `prune`.

mod background_prune;
mod details;
mod explain;
mod images;
mod manifests;
mod page;
mod prune_request;
mod prune_schedule;
mod removal;
mod sorted_page;
mod table;
mod upstreams;
mod verify;
mod verify_request;

pub use background_prune::BackgroundPrune;
pub use details::{ImageDetails, show_blob, show_images};
pub use explain::{Explanation, PullSettings, explain_stored};
pub use images::{Image, ImageKind, Listing, list};
pub use manifests::{ListedManifest, list_manifests};
pub use page::{Cursor, ImagePage, ImageQuery, ListedImage, list_page};
pub use prune_request::PruneRequest;
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use sorted_page::Sort;
pub use table::{TableColumns, TableStyle, table};
pub use upstreams::{UpstreamReport, active_registries, registry_stats};
pub use verify::{
    DamagedObject, PlannedVerification, ProgressCounts, UnreadableObject, VerifyProgress, VerifyReport,
    plan_verify,
};
pub use verify_request::{VerifyRequest, VerifyRule};
