//! Threads and time: one pinned runtime per core, the helper pool, and the ways between them.

pub mod clock;
pub mod core;
pub mod cores;
pub mod doorbell;
pub mod driver;
pub mod episode;
pub mod helper;
pub mod memory;
pub mod reply;
pub mod shutdown;
pub mod vitals;
pub mod watchdog;
