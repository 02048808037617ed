//! The streamed bodies: images, the images of a plan, the progress of a job, and events. Each has at
//! most one part in memory.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::poll_fn;
use futures_util::stream::{Stream, iter, unfold};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::body::line;
use super::jobs::{JobState, Jobs};
use crate::events::EventReader;
use crate::limits::{EVENT_HEARTBEAT_INTERVAL, JOB_LINE_INTERVAL, PLAN_PART_IMAGES};
use crate::manage::{Cursor, ImagePage, ImageQuery};
use crate::runtime::helper::blocking;

/// Streams all images that `query` selects, one per line. `page` lists a page, and blocks.
pub fn images(
    query: ImageQuery,
    page: impl Fn(&ImageQuery) -> Result<ImagePage, String> + Clone + Send + 'static,
) -> impl Stream<Item = Vec<u8>> + Send {
    unfold(Some(query), move |query| {
        let page = page.clone();
        async move {
            let mut query = query?;
            let listed = blocking(move || {
                let listed = page(&query);
                (listed, query)
            });
            let listed = match listed.await {
                Ok((Ok(listed), back)) => {
                    query = back;
                    listed
                }
                Ok((Err(error), _)) => return Some((line(&json!({"failure": error})), None)),
                Err(_) => return Some((line(&json!({"failure": "the listing panicked"})), None)),
            };
            let images = listed.images.iter().flat_map(line);
            let failures = listed
                .failures
                .iter()
                .flat_map(|failure| line(&json!({"failure": failure})));
            let part = images.chain(failures).collect();
            query.after = listed.next.as_deref().and_then(Cursor::parse);
            Some((part, query.after.is_some().then_some(query)))
        }
    })
}

/// Streams `head`, and the `images` of a plan, one per line.
pub fn plan(head: Vec<u8>, images: Arc<[String]>) -> impl Stream<Item = Vec<u8>> + Send {
    let parts = (0..images.len()).step_by(PLAN_PART_IMAGES);
    let parts = parts.map(move |from| {
        let to = images.len().min(from + PLAN_PART_IMAGES);
        let lines = images[from..to]
            .iter()
            .flat_map(|image| line(&json!({"image": image})));
        lines.collect()
    });
    iter(std::iter::once(head).chain(parts))
}

/// Streams the state of a job, one line per [`JOB_LINE_INTERVAL`], until the job has ended. The last
/// line has the result.
pub fn job(jobs: Arc<Jobs>, id: u64) -> impl Stream<Item = Vec<u8>> + Send {
    unfold(Some((jobs, Duration::ZERO)), move |state| async move {
        let (jobs, pause) = state?;
        sleep(pause).await;
        // The job may have been forgotten.
        let status = jobs.get(id).ok()?;
        let is_running = status.state == JobState::Running;
        Some((line(&status), is_running.then_some((jobs, JOB_LINE_INTERVAL))))
    })
}

/// Streams the events of the process, with a comment if no event comes for some time. A client that has
/// received the first comment misses no later event, except for gaps.
pub fn events(reader: EventReader) -> impl Stream<Item = Vec<u8>> + Send {
    let events = unfold(reader, |reader| async move {
        let next = poll_fn(|context| reader.poll_next(context));
        let part = match timeout(EVENT_HEARTBEAT_INTERVAL, next).await {
            Ok(event) => {
                let json = serde_json::to_string(&*event).expect("an event is strings and numbers");
                format!("data: {json}\n\n").into_bytes()
            }
            Err(_) => b": heartbeat\n\n".to_vec(),
        };
        Some((part, reader))
    });
    iter([b": events\n\n".to_vec()]).chain(events)
}
