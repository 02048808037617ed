//! Operations on stored content, for the command line, the admin API and the rules of `prune`.

mod background_prune;
mod details;
mod images;
mod page;
mod prune_request;
mod prune_schedule;
mod registry_stats;
mod removal;
mod table;

pub use background_prune::BackgroundPrune;
pub use details::{BlobUses, ImageDetails, show_blob, show_images};
pub use images::{Image, ImageKind, Listing, list};
pub use page::{Cursor, ImagePage, ImageQuery, ListedImage, list_page};
pub use prune_request::PruneRequest;
pub use registry_stats::registry_stats;
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use table::{TableColumns, table};
