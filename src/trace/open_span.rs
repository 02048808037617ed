//! A span in progress.

use std::future::Future;

use super::ids::span_id;
use super::{Attribute, Operation, Span, Within, current, is_on, record, within};
use crate::http::TraceContext;
use crate::runtime::clock::{monotonic_micros, unix_nanos};

/// A span in progress. Recorded on drop, so also after a cancellation or a panic.
pub struct OpenSpan {
    span: Span,
    /// The start, in microseconds of the monotonic clock.
    started: u64,
}

/// Starts a span below the span of the running task. `None` if the task works for no sampled request.
pub fn child(operation: Operation) -> Option<OpenSpan> {
    let parent = current().filter(|parent| parent.sampled && is_on())?;
    Some(OpenSpan {
        span: Span {
            context: TraceContext {
                span: span_id(),
                ..parent
            },
            parent: Some(parent.span),
            operation,
            start: unix_nanos(),
            end: 0,
            attributes: Vec::new(),
            link: None,
            is_error: false,
        },
        started: monotonic_micros(),
    })
}

/// Runs `work` in `span`, or in the span of the running task if there is none.
///
/// # Cancellation
///
/// Like `work`.
pub fn under<F: Future>(span: &Option<OpenSpan>, work: F) -> Within<F> {
    let context = span.as_ref().map(OpenSpan::context);
    within(context.or_else(current), work)
}

impl OpenSpan {
    pub fn context(&self) -> TraceContext {
        self.span.context
    }

    pub fn add(&mut self, attribute: Attribute) {
        self.span.attributes.push(attribute);
    }

    /// Marks the work as failed.
    pub fn fail(&mut self) {
        self.span.is_error = true;
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let micros = monotonic_micros().saturating_sub(self.started);
        let attributes = std::mem::take(&mut self.span.attributes);
        record(Span {
            end: self.span.start + micros * 1_000,
            attributes,
            ..self.span
        });
    }
}
