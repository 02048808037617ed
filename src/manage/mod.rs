//! Operations on stored content, for the command line, the admin API and the rules of `prune`.

mod archive;
mod background_prune;
mod bundle;
mod details;
mod explain;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod image_list;
mod images;
mod import;
mod load;
mod manifest_places;
mod manifests;
mod missing;
mod page;
mod pin_repair;
mod pinned_images;
mod prune_request;
mod readiness;
mod removal;
mod schedule;
mod sorted_page;
mod table;
mod temporary;
mod upstreams;
mod verify;
mod verify_request;
mod warm;

pub use background_prune::BackgroundPrune;
pub use bundle::{
    Base, Destination, ExportError, ExportProgress, ExportReport, ExportRequest, ExportSelection,
    IncompleteImage, export, format,
};
pub use details::{ImageDetails, show_blob, show_images};
pub use explain::{Explanation, PullSettings, explain_stored};
pub use image_list::{ImageList, ReadListError, read_image_list};
pub use images::{Image, ImageKind, Listing, list};
pub use import::{
    ForeignStore, ImportReport, ImportRule, ImportSource, ImportState, ImportedImage, Importer, SourceError,
};
pub use load::{
    ImageInWork, ListedTags, LoadProgress, LoadReport, LoadRequest, LoadRule, LoadState, LoadedImage, Loader,
    WantedImage,
};
pub use manifests::{ListedManifest, list_manifests};
pub use missing::{MissingImage, report_missing};
pub use page::{Cursor, ImagePage, ImageQuery, ListedImage, list_page};
pub use pin_repair::PinRepair;
pub use pinned_images::images_of_pin;
pub use prune_request::PruneRequest;
pub use readiness::{
    AirGapSettings, ImageReadiness, ProblemKind, ReadinessProblem, ReadinessRequest, check_readiness,
};
pub use removal::{PlanError, PlannedRemoval, PruneRule, RemovalReport, plan_prune, plan_purge};
pub use sorted_page::Sort;
pub use table::{TableColumns, TableStyle, aligned, table};
pub use temporary::TemporaryDir;
pub use upstreams::{UpstreamReport, active_registries, registry_stats};
pub use verify::{
    DamagedObject, PlannedVerification, ProgressCounts, UnreadableObject, VerifyProgress, VerifyReport,
    plan_verify,
};
pub use verify_request::{VerifyRequest, VerifyRule};
pub use warm::{BackgroundWarm, StartRun, WarmReport, WarmRun};
