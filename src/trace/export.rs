//! Exports finished spans to the collector, in batches. Runs on the helper pool.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use http::header::CONTENT_TYPE;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::{Span, encode, tracer};
use crate::config::TraceSettings;
use crate::limits::{
    TRACE_ANSWER_BYTES_MAX, TRACE_BATCH_SPANS_MAX, TRACE_EXPORT_INTERVAL, TRACE_PAUSE_MAX, TRACE_PAUSE_MIN,
    TRACE_STOP_TIMEOUT,
};
use crate::metrics::{TraceCounters, trace_counters};
use crate::runtime::helper::Helper;

/// The running export.
pub struct TraceExporter {
    helper: Helper,
    stop: Arc<Notify>,
    stopped: oneshot::Receiver<()>,
}

/// The task of the export.
struct Exporter {
    settings: TraceSettings,
    client: reqwest::Client,
    queue: Receiver<Span>,
    counters: TraceCounters,
    /// The wait after the next failure.
    pause: Duration,
    /// Whether the last request failed. The log has a line for each change.
    is_failing: bool,
}

impl TraceExporter {
    /// Enables traces, and starts the export with `client` on the helper pool. `None` if traces are
    /// enabled already.
    pub fn start(settings: TraceSettings, client: reqwest::Client, helper: &Helper) -> Option<Self> {
        let counters = trace_counters();
        let queue = tracer::enable(settings.sampler, counters.clone())?;
        let exporter = Exporter {
            settings,
            client,
            queue,
            counters,
            pause: TRACE_PAUSE_MIN,
            is_failing: false,
        };
        let stop = Arc::new(Notify::new());
        let (sender, stopped) = oneshot::channel();
        let task = exporter.run(stop.clone());
        helper.spawn(async move {
            task.await;
            // An error means that `TraceExporter` was dropped without a stop.
            let _ = sender.send(());
        });
        Some(TraceExporter {
            helper: helper.clone(),
            stop,
            stopped,
        })
    }

    /// Exports the queued spans, and ends the export. Waits at most [`TRACE_STOP_TIMEOUT`]. Blocking;
    /// for the end of the process.
    pub fn stop(self) {
        self.stop.notify_one();
        // An error means a panic of the task or the end of the time. The queued spans are then lost.
        let _ = self
            .helper
            .wait(async { timeout(TRACE_STOP_TIMEOUT, self.stopped).await });
    }
}

impl Exporter {
    async fn run(mut self, stop: Arc<Notify>) {
        let mut wait = TRACE_EXPORT_INTERVAL;
        let mut is_stopping = false;
        while !is_stopping {
            is_stopping = timeout(wait, stop.notified()).await.is_ok();
            wait = self.export_queue().await;
        }
    }

    /// Exports the queue until it has no whole batch more, or a request fails. Returns the time until
    /// the next export.
    async fn export_queue(&mut self) -> Duration {
        loop {
            let batch: Vec<Span> = self.queue.try_iter().take(TRACE_BATCH_SPANS_MAX).collect();
            if batch.is_empty() {
                return TRACE_EXPORT_INTERVAL;
            }
            let count = batch.len() as u64;
            match self.send(&batch).await {
                Ok(()) => {
                    self.counters.exported.inc_by(count);
                    self.record_success();
                }
                // A batch is sent once. Repetitions would delay the export of newer spans.
                Err(cause) => {
                    self.counters.failed.inc_by(count);
                    return self.record_failure(&cause);
                }
            }
            if batch.len() < TRACE_BATCH_SPANS_MAX {
                return TRACE_EXPORT_INTERVAL;
            }
        }
    }

    /// Sends one request, within the deadline of the settings.
    async fn send(&self, batch: &[Span]) -> Result<(), String> {
        let body = encode::request(&self.settings.resource, batch);
        let mut request = reqwest::Request::new(http::Method::POST, self.settings.endpoint.clone());
        let headers = request.headers_mut();
        headers.extend(self.settings.headers.iter().cloned());
        let protobuf = http::HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        *request.body_mut() = Some(body.into());
        let exchange = async {
            let response = self.client.execute(request).await;
            // The event has the URL in a field of its own.
            let response = response.map_err(|error| innermost(&error.without_url()))?;
            let status = response.status();
            discard(response).await;
            match status.is_success() {
                true => Ok(()),
                false => Err(format!("status {}", status.as_u16())),
            }
        };
        match timeout(self.settings.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err("no response within the deadline".to_owned()),
        }
    }

    fn record_success(&mut self) {
        self.pause = TRACE_PAUSE_MIN;
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("trace export resumed");
        }
    }

    /// Returns the pause, which doubles with each failure in a row.
    fn record_failure(&mut self, cause: &str) -> Duration {
        if !std::mem::replace(&mut self.is_failing, true) {
            let endpoint = &self.settings.endpoint;
            tracing::warn!(%endpoint, cause, "trace export failed; check OTEL_EXPORTER_OTLP_ENDPOINT and the collector");
        }
        let pause = self.pause;
        self.pause = (2 * pause).min(TRACE_PAUSE_MAX);
        pause
    }
}

/// Reads the body to its end, so that the connection stays usable. A larger body ends the connection.
async fn discard(mut response: reqwest::Response) {
    let mut bytes = 0;
    while let Ok(Some(piece)) = response.chunk().await {
        bytes += piece.len();
        if bytes > TRACE_ANSWER_BYTES_MAX {
            return;
        }
    }
}

/// Returns the text of the first cause.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
