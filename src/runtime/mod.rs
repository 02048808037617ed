//! Threads and time: one pinned runtime per core, the helper pool, and the communication between
//! them.

pub mod clock;
pub mod condition_log;
pub mod core;
pub mod cores;
pub mod driver;
pub mod heartbeat;
pub mod helper;
pub mod memory_budget;
pub mod oneshot;
pub mod pacer;
pub mod shutdown;
pub mod single_flight;
pub mod split_mix;
pub mod waker;
pub mod watchdog;
