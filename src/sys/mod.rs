//! Raw system calls behind safe functions. The only module with `unsafe`.

mod file;
mod inherit;
pub mod ktls;
mod pipe;
mod priority;
mod residency;
mod signals;
mod socket;

pub use file::{read_exact_at, read_resident};
pub use inherit::take_inherited;
pub use pipe::Pipe;
pub use priority::lower_io_priority;
pub use residency::{Inode, Presence, is_absent, presence};
pub use signals::block_terminal_stops;
pub use socket::{Cork, Local, Peer, Socket};
