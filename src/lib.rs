//! A pull-only, pull-through cache for OCI registries. The order of the modules follows the path of
//! a request.
// The nested futures of a request are deeper than the default limit of the compiler.
#![recursion_limit = "256"]

pub mod cli;
pub mod config;

pub mod app;
pub mod runtime;
pub mod systemd;

pub mod server;

pub mod auth;
pub mod registry;

pub mod cache;

pub mod admin;
pub mod manage;
pub mod web;

pub mod storage;
pub mod store;

pub mod upstream;

pub mod anchor;
pub mod calendar;
pub mod events;
pub mod fail_point;
pub mod fairness;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
pub mod http;
pub mod limits;
pub mod local_time;
pub mod log;
pub mod lru;
pub mod metrics;
pub mod oci;
pub mod shared_file;
pub mod sync;
pub mod sys;
pub mod trace;
