//! Traces: spans of sampled requests, exported by OTLP over http/protobuf.
//!
//! A span ends on any thread, and enters a bounded queue without a wait. A task of the helper pool
//! exports the queue in batches. A collector that is slow or down costs dropped spans only. Without
//! a configured endpoint, [`is_on`] is a load of memory that no thread writes after the start.
//!
//! `docs/how-to/traces.md` describes the spans. Attributes are from a closed set ([`Attribute`]),
//! without credentials, queries and user names.

mod current;
mod encode;
mod export;
mod ids;
mod open_span;
mod otlp;
mod span;
mod tracer;

pub use current::{Within, current, within};
pub use export::TraceExporter;
pub use open_span::{OpenSpan, child, under};
pub use span::{Attribute, Operation, Span};
pub use tracer::{is_on, of_request, record};
