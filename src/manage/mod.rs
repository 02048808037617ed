//! Operations on stored content, for the command line.

mod filter;
mod images;
mod table;

pub use filter::Filter;
pub use images::{Image, ImageKind, Listing, list};
pub use table::{TableColumns, table};
