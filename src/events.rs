//! Events of the process, for the readers of the admin API. Each reader has a queue with a bound, and a
//! slow reader loses events. Without a reader, an event costs one load.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use serde::Serialize;

use crate::limits::{EVENT_READERS_MAX, EVENTS_QUEUED_MAX};
use crate::sync::Mutex;

/// An event, or a gap in the events of a reader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    FillStarted {
        registry: String,
        repository: String,
        digest: String,
    },
    FillCompleted {
        registry: String,
        repository: String,
        digest: String,
        bytes: u64,
    },
    FillFailed {
        registry: String,
        repository: String,
        digest: String,
        error: String,
    },
    /// A command or a rule has removed an image. Evictions have no event.
    ImageRemoved {
        image: String,
    },
    /// A job has begun, or has ended.
    JobChanged {
        job: u64,
        state: &'static str,
    },
    /// The circuit breaker of a registry has tripped.
    RegistryUnavailable {
        registry: String,
    },
    RegistryAvailable {
        registry: String,
    },
    /// The reader was too slow for `count` events.
    Lost {
        count: u64,
    },
}

/// The readers of a process.
struct Hub {
    /// The length of `queues`. Read without the lock.
    readers: AtomicUsize,
    queues: Mutex<Vec<Arc<Queue>>>,
}

/// The unread events of a reader.
#[derive(Default)]
struct Queue {
    /// At most [`EVENTS_QUEUED_MAX`] events, and a gap at the end.
    events: Mutex<VecDeque<Arc<Event>>>,
    waker: AtomicWaker,
}

/// A reader of all events after its creation.
pub struct EventReader(Arc<Queue>);

static HUB: Hub = Hub {
    readers: AtomicUsize::new(0),
    queues: Mutex::new(Vec::new()),
};

/// Sends an event to all readers. Calls `event` if there is a reader.
pub fn publish(event: impl FnOnce() -> Event) {
    if HUB.readers.load(Ordering::Relaxed) == 0 {
        return;
    }
    let event = Arc::new(event());
    for queue in HUB.queues.lock().iter() {
        queue.push(event.clone());
    }
}

impl EventReader {
    /// Creates a reader. `None` if there are [`EVENT_READERS_MAX`] readers.
    pub fn new() -> Option<Self> {
        let mut queues = HUB.queues.lock();
        if queues.len() == EVENT_READERS_MAX {
            return None;
        }
        let queue = Arc::new(Queue::default());
        queues.push(queue.clone());
        HUB.readers.store(queues.len(), Ordering::Relaxed);
        Some(EventReader(queue))
    }

    /// Takes the next event, or registers the task for its arrival.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Arc<Event>> {
        // Registered before the look, so that no event is missed.
        self.0.waker.register(context.waker());
        match self.0.events.lock().pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let mut queues = HUB.queues.lock();
        queues.retain(|queue| !Arc::ptr_eq(queue, &self.0));
        HUB.readers.store(queues.len(), Ordering::Relaxed);
    }
}

impl Queue {
    fn push(&self, event: Arc<Event>) {
        {
            let mut events = self.events.lock();
            if events.len() < EVENTS_QUEUED_MAX {
                events.push_back(event);
            } else if let Some(Event::Lost { count }) = events.back_mut().and_then(Arc::get_mut) {
                *count += 1;
            } else {
                events.push_back(Arc::new(Event::Lost { count: 1 }));
            }
        }
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::poll_fn;

    use super::*;

    fn removed(number: u64) -> Arc<Event> {
        Arc::new(Event::ImageRemoved {
            image: number.to_string(),
        })
    }

    fn taken(queue: &Arc<Queue>) -> Option<Arc<Event>> {
        let reader = std::mem::ManuallyDrop::new(EventReader(queue.clone()));
        poll_fn(|context| reader.poll_next(context)).now_or_never()
    }

    #[test]
    fn slow_reader_loses_the_newest_events_and_gets_their_number_in_order() {
        let queue = Arc::new(Queue::default());
        let count = EVENTS_QUEUED_MAX as u64;
        (0..count + 3).for_each(|number| queue.push(removed(number)));
        assert_eq!(taken(&queue), Some(removed(0)));
        // The gap still fills the queue.
        queue.push(removed(count + 3));
        assert_eq!(taken(&queue), Some(removed(1)));
        queue.push(removed(count + 4));
        for number in 2..count {
            assert_eq!(taken(&queue), Some(removed(number)));
        }
        assert_eq!(taken(&queue), Some(Arc::new(Event::Lost { count: 4 })));
        assert_eq!(taken(&queue), Some(removed(count + 4)));
        assert_eq!(taken(&queue), None);
    }

    #[test]
    fn readers_have_a_limit_and_see_events_after_their_creation() {
        let mut readers: Vec<_> = std::iter::from_fn(EventReader::new).collect();
        assert!(EventReader::new().is_none());
        publish(|| Event::JobChanged {
            job: u64::MAX,
            state: "running",
        });
        let is_seen = |reader: &EventReader| {
            let next = || poll_fn(|context| reader.poll_next(context)).now_or_never();
            std::iter::from_fn(next).any(|event| matches!(*event, Event::JobChanged { job: u64::MAX, .. }))
        };
        assert!(readers.iter().all(is_seen), "{} readers", readers.len());
        readers.pop();
        let late = EventReader::new().expect("a free place");
        assert!(!is_seen(&late));
    }

    #[test]
    fn event_is_an_object_with_its_kind() {
        let event = Event::RegistryUnavailable {
            registry: "quay.io".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"registry-unavailable","registry":"quay.io"}"#
        );
    }
}
