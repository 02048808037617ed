//! The choice of the objects that a full store evicts. Pure: takes values and returns victims.

mod minute;
mod policy;

pub use minute::Minute;
pub use policy::{Kind, Need, Object, Objects, Use, choose, is_recent, uses};
