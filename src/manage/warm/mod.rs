//! Rules that keep images in the store up to date: each run checks the tags of a rule at their registries,
//! and fetches the images of tags that have moved.

mod background;
mod image;
mod report;
mod reserve;
mod run;
mod selection;

pub use background::{BackgroundWarm, StartRun};
pub use report::WarmReport;
pub use reserve::{HeldBack, Requested, Reserve};
pub use run::WarmRun;
