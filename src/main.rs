//! Parses the command line, runs the command, and turns the outcome into an exit code.

use std::process::ExitCode;

// Measured against the system's allocator on small hits and fills; musl's, which a static binary would have, is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oci_pull_through::cli::main()
}
