//! A load generator for HTTP/1.1 servers of large and small files, used by `scripts/bench.sh`.
//!
//! Uses one thread, one epoll instance and keep-alive connections. With `MSG_TRUNC`, the kernel
//! drops body bytes instead of copying them. The low cost of the generator lets the benchmark
//! measure the server. The generator checks status and length of every response. A wrong response
//! is an error and never counts as a request.
//!
//! There are four modes. The default mode generates load. `--once` sends one request, with
//! detailed times and an optional check of `--digest`. `--list FILE` requests many paths once each.
//! `--idle N` holds connections open, to measure their memory cost in the server. With `--sdk`, the
//! first two modes use the S3 SDK.

mod arguments;
mod connection;
mod cpu;
mod head;
mod histogram;
mod idle;
mod list;
mod load;
mod once;
mod sdk;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use target::Target;

fn main() -> ExitCode {
    // `cargo bench` and `cargo test --all-targets` run this program without a server, so missing
    // arguments are not a failure.
    let bare = std::env::args()
        .skip(1)
        .all(|argument| argument == "--bench" || argument == "--test");
    if bare {
        println!(
            "load: --addr and --path are required; scripts/bench.sh sets both (--help lists all options)"
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

/// Runs the chosen mode and prints its report. Returns whether every response was correct.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    cpu::prepare(arguments.cpu)?;
    if arguments.sdk {
        return sdk::run(arguments).map_err(|failure| -> Box<dyn std::error::Error> { failure });
    }
    if let Some(file) = &arguments.list {
        let report = list::pull(arguments, file)?;
        println!("{}", report.json());
        return Ok(report.errors() == 0);
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
