//! The sources of values: flags, environment, and the YAML file. Each value keeps its place for messages.

mod allow;
mod client_auth;
mod diagnostics;
mod environment;
mod file;
pub(super) mod keys;
mod layer;
mod partial_registry;
mod pem;
mod proxy;
mod prune;
mod reader;
mod registry;
mod registry_auth;
mod registry_tls;
mod secret;
mod server_tls;
mod suggest;
mod systemd_env;
mod traces;
mod yaml;

pub(super) use allow::collect_rules;
pub(super) use client_auth::{PAIR, PartialClientAuth};
pub(super) use diagnostics::Place;
pub use diagnostics::{Diagnostic, Diagnostics, Warning};
pub use environment::{Environment, FileText};
pub(super) use file::{File, parse};
pub(super) use layer::Given;
pub use layer::Layer;
pub(super) use partial_registry::{PartialEntry, PartialRegistry};
pub(super) use pem::{check_pair, check_roots, parse_certificates, parse_key};
pub(super) use proxy::proxies_of_environment;
pub(super) use reader::Spanned;
pub(super) use secret::without_line_end;
pub(super) use systemd_env::systemd_of_environment;
pub(super) use traces::traces_of_environment;
