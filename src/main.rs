//! Parses the command line, runs the command, and turns the outcome into an exit code.

use std::process::ExitCode;

// Measured against the system's allocator on small hits and fills; musl's, which a static binary would have, is slow.
// A sanitizer watches the system's alone.
#[cfg(not(sanitizer))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages. Buffers of idle connections are mostly untouched, and would all be there.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    oci_pull_through::cli::main()
}
