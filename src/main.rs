//! Parses the command line, runs the command and returns its exit code.

use std::process::ExitCode;

// Faster than the system allocator in measurements of small hits and fills. The allocator of musl,
// used by a static binary, is slow. Sanitizers support only the system allocator.
#[cfg(not(sanitizer))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator requests huge pages. Idle connections leave most of their buffers untouched,
    // and huge pages would make all of those buffers resident.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    oci_pull_through::cli::main()
}
