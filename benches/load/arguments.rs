//! The arguments of the command line.

use std::net::SocketAddr;

use clap::Parser;

/// Load generator: many keep-alive GETs of one path, checked and timed.
#[derive(Debug, Parser)]
#[command(name = "load", version)]
pub struct Arguments {
    /// Server to talk to, `IP:PORT`.
    #[arg(long)]
    pub addr: SocketAddr,
    /// Path and query of the requests.
    #[arg(long)]
    pub path: String,
    /// Connections kept open, each with one request in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// How long to load the server, in seconds; fractions are fine.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Open loop: requests per second over all connections. Latency then counts from the moment each request
    /// was due, so a server that stalls is charged for the requests it kept waiting. Without it, closed loop.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Pin to this CPU.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// A further request header, `Name: value`; may be repeated.
    #[arg(long = "header")]
    pub headers: Vec<String>,
    /// GET or HEAD.
    #[arg(long, default_value = "GET", value_parser = ["GET", "HEAD"])]
    pub method: String,
    /// The status every response must have.
    #[arg(long, default_value_t = 200)]
    pub status: u16,
    /// The Content-Length every response must have; without it, that of the first response.
    #[arg(long)]
    pub length: Option<u64>,
    /// One connection, one request: time to first byte, total time, digest.
    #[arg(long)]
    pub once: bool,
    /// With --once: hash the body and compare, `sha256:<hex>`.
    #[arg(long, requires = "once")]
    pub digest: Option<String>,
    /// Ask for an object of S3, `--path /bucket/key`, through the SDK; region and credentials as in `AWS_*`.
    #[arg(long)]
    pub sdk: bool,
    /// Open this many connections, make one request on each, print `ready`, and hold them until standard
    /// input closes.
    #[arg(long)]
    pub idle: Option<u32>,
    /// Report as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    pub bench: bool,
}
