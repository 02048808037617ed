//! The command line arguments.

use std::net::SocketAddr;

use clap::Parser;

/// Load generator: many keep-alive GETs of one path, checked and timed.
#[derive(Debug, Parser)]
#[command(name = "load", version)]
pub struct Arguments {
    /// Address of the server, `IP:PORT`.
    #[arg(long)]
    pub addr: SocketAddr,
    /// Path and query of the requests.
    #[arg(
        long,
        required_unless_present = "list",
        default_value = "",
        hide_default_value = true
    )]
    pub path: String,
    /// Request each path of this file once, over `--connections` connections. Each line is a
    /// length in bytes, a space and a path.
    #[arg(long, conflicts_with_all = ["once", "sdk", "idle", "rate", "length"])]
    pub list: Option<std::path::PathBuf>,
    /// Connections kept open, each with one request in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Duration of the load, in seconds, with optional fractions.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Open loop: requests per second over all connections. Latency counts from the due time of
    /// each request, so a stalled server is charged for delayed requests. Without this option:
    /// closed loop.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Pin to this CPU.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// A further request header, `Name: value`. May be repeated.
    #[arg(long = "header")]
    pub headers: Vec<String>,
    /// GET or HEAD.
    #[arg(long, default_value = "GET", value_parser = ["GET", "HEAD"])]
    pub method: String,
    /// The required status of every response.
    #[arg(long, default_value_t = 200)]
    pub status: u16,
    /// The required Content-Length of every response. Default: the length of the first response.
    #[arg(long)]
    pub length: Option<u64>,
    /// Send one request on one connection: time to first byte, total time, digest.
    #[arg(long)]
    pub once: bool,
    /// With --once: hash the body and compare, `sha256:<hex>`.
    #[arg(long, requires = "once")]
    pub digest: Option<String>,
    /// Request an S3 object, `--path /bucket/key`, through the SDK. Region and credentials as in
    /// `AWS_*`.
    #[arg(long)]
    pub sdk: bool,
    /// Open this many connections, send one request on each, print `ready`, and hold the
    /// connections until standard input closes.
    #[arg(long)]
    pub idle: Option<u32>,
    /// Report as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Passed by `cargo bench`, without effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}
