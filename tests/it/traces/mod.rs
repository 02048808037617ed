//! Traces by OTLP.

mod collector_faults;
mod spans;
