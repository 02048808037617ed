//! A load generator for HTTP/1.1 servers of large and small files, and the client of `scripts/bench.sh`.
//!
//! One thread, one epoll instance, keep-alive connections. Bodies are received with `MSG_TRUNC`, which makes
//! the kernel drop the bytes instead of copying them, so that the generator costs as little as a client can
//! and measures the server. Every response's status and length are checked; a wrong one is an error and never
//! counts as a request.
//!
//! Three modes: a load (the default), `--once` (one request, timed in detail, its digest checked with `--digest`),
//! and `--idle N` (connections held open, for the memory they cost the server). With `--sdk` the first two go through the SDK
//! of S3 instead.

mod arguments;
mod connection;
mod cpu;
mod head;
mod histogram;
mod idle;
mod load;
mod once;
mod sdk;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use target::Target;

fn main() -> ExitCode {
    // `cargo bench` and `cargo test --all-targets` run this program without a server to talk to: that is no
    // failure.
    let bare = std::env::args()
        .skip(1)
        .all(|argument| argument == "--bench" || argument == "--test");
    if bare {
        println!(
            "load: nothing to do without --addr and --path; scripts/bench.sh drives this program (--help lists its options)"
        );
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the chosen mode, prints its report, and says whether every response was right.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    cpu::prepare(arguments.cpu)?;
    if arguments.sdk {
        return sdk::run(arguments).map_err(|failure| -> Box<dyn std::error::Error> { failure });
    }
    let target = Target::new(arguments);
    if let Some(count) = arguments.idle {
        return idle::hold(&target, count);
    }
    if arguments.once {
        let outcome = once::get(&target, arguments.digest.as_deref())?;
        println!(
            "{}",
            if arguments.json {
                outcome.json().to_string()
            } else {
                outcome.text()
            }
        );
        return Ok(outcome.right());
    }
    let report = load::run(&target, arguments)?;
    println!(
        "{}",
        if arguments.json {
            report.json().to_string()
        } else {
            report.text()
        }
    );
    Ok(report.errors == 0)
}
