//! The queue of finished spans, and the start of traces.

use std::sync::OnceLock;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Span;
use super::ids::{span_id, trace_id};
use crate::config::Sampler;
use crate::http::{RequestTrace, TraceContext};
use crate::limits::TRACE_QUEUE_SPANS_MAX;
use crate::metrics::TraceCounters;

static TRACER: OnceLock<Tracer> = OnceLock::new();

struct Tracer {
    sampler: Sampler,
    spans: Sender<Span>,
    counters: TraceCounters,
}

/// Returns whether the process exports traces.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Enables traces, and returns the queue of finished spans. `None` if traces are enabled already.
pub(super) fn enable(sampler: Sampler, counters: TraceCounters) -> Option<Receiver<Span>> {
    // The receiver never blocks on the queue, so a sender makes no system call.
    let (spans, queue) = bounded(TRACE_QUEUE_SPANS_MAX);
    let tracer = Tracer {
        sampler,
        spans,
        counters,
    };
    TRACER.set(tracer).is_ok().then_some(queue)
}

/// Returns the trace of a request with this value of `traceparent`. `None` if the request has no
/// valid value, and is not sampled.
pub fn of_request(traceparent: Option<&[u8]>) -> Option<RequestTrace> {
    let tracer = TRACER.get();
    if tracer.is_none() && traceparent.is_none() {
        return None;
    }
    let sent = traceparent.and_then(TraceContext::parse);
    match tracer {
        Some(tracer) => begin(tracer.sampler, sent),
        None => sent.map(without_span),
    }
}

fn begin(sampler: Sampler, sent: Option<TraceContext>) -> Option<RequestTrace> {
    let trace = sent.map_or_else(trace_id, |sent| sent.trace);
    if !sampler.samples(trace.0.get(), sent.map(|sent| sent.sampled)) {
        return sent.map(without_span);
    }
    Some(RequestTrace {
        context: TraceContext {
            trace,
            span: span_id(),
            sampled: true,
        },
        parent: sent.map(|sent| sent.span),
    })
}

/// Returns the trace of a request without a span of its own.
fn without_span(sent: TraceContext) -> RequestTrace {
    RequestTrace {
        context: TraceContext {
            sampled: false,
            ..sent
        },
        parent: None,
    }
}

/// Adds a finished span to the queue. Drops and counts the span if the queue is full. Never waits.
pub fn record(span: Span) {
    let Some(tracer) = TRACER.get() else { return };
    if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = tracer.spans.try_send(span) {
        tracer.counters.dropped.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sampler;

    const SENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn sampled_request_has_a_span_below_the_span_of_its_client() {
        let sent = TraceContext::parse(SENT).unwrap();
        let trace = begin(Sampler::all(), Some(sent)).unwrap();
        assert_eq!(trace.parent, Some(sent.span));
        assert_eq!(trace.context.trace, sent.trace);
        assert!(trace.context.sampled && trace.context.span != sent.span);
        let root = begin(Sampler::all(), None).unwrap();
        assert_eq!(root.parent, None);
        assert_ne!(root.context.trace, sent.trace);
    }

    #[test]
    fn request_that_is_not_sampled_keeps_the_context_of_its_client() {
        let sent = TraceContext::parse(SENT).unwrap();
        let trace = begin(Sampler::none(), Some(sent)).unwrap();
        assert_eq!((trace.context.trace, trace.context.span), (sent.trace, sent.span));
        assert_eq!((trace.context.sampled, trace.parent), (false, None));
        assert_eq!(begin(Sampler::none(), None), None);
    }

    #[test]
    fn without_an_endpoint_a_valid_traceparent_alone_gives_a_trace() {
        assert_eq!(of_request(None), None);
        assert_eq!(of_request(Some(b"nonsense")), None);
        let trace = of_request(Some(SENT)).unwrap();
        assert_eq!((trace.context.sampled, trace.parent), (false, None));
    }
}
