//! The helper pool: a small Tokio runtime for upstream requests and blocking file I/O.
//!
//! Cores send futures and closures, and wait for the result with [`oneshot`]. No Tokio type reaches
//! a core.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{sched_getaffinity, sched_setaffinity};
use tokio::sync::Semaphore;

use super::heartbeat::Heartbeat;
use super::oneshot::{self, Lost};
use crate::limits::{
    BLOCKING_THREADS_MAX, HELPER_HEARTBEAT_INTERVAL, READER_QUEUE_TIMEOUT, READERS_CACHED_MAX,
    READERS_LARGE_MAX, READERS_SMALL_MAX, STORE_LOOKUP_TIMEOUT, STORE_LOOKUPS_MAX,
};

/// A handle to the pool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Helper {
    handle: tokio::runtime::Handle,
    readers: Arc<Readers>,
    /// Threads for concurrent store lookups.
    lookups: Arc<Semaphore>,
}

/// Threads for concurrent file reads for clients.
#[derive(Debug)]
struct Readers {
    cached: Arc<Semaphore>,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// The kind of a file read. Each kind has its own threads, so no kind waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// Pages that are probably in memory.
    Cached,
    /// A small body on disk.
    Small,
    /// A large body on disk.
    Large,
}

impl Helper {
    /// Starts a pool of `threads` threads with the CPU affinity of the calling thread. The threads
    /// run until the process ends.
    ///
    /// # Errors
    ///
    /// Fails if the threads or the pool's poller cannot be created.
    pub fn start(threads: NonZeroUsize) -> std::io::Result<Self> {
        // A core may start a thread of the pool. The new thread would inherit the core's CPU and
        // run blocking work there.
        let everywhere = sched_getaffinity(None).ok();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .on_thread_start(move || {
                if let Some(everywhere) = &everywhere {
                    let _ = sched_setaffinity(None, everywhere);
                }
            })
            .worker_threads(threads.get())
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("helper")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        // The process ends with `exit`. Dropping the pool would stop running work.
        std::mem::forget(runtime);
        let readers = Arc::new(Readers {
            cached: Arc::new(Semaphore::new(READERS_CACHED_MAX)),
            small: Arc::new(Semaphore::new(READERS_SMALL_MAX)),
            large: Arc::new(Semaphore::new(READERS_LARGE_MAX)),
        });
        Ok(Helper {
            handle,
            readers,
            lookups: Arc::new(Semaphore::new(STORE_LOOKUPS_MAX)),
        })
    }

    /// Returns a handle whose store lookups have `count` threads of their own.
    pub fn with_lookups(&self, count: usize) -> Self {
        Helper {
            lookups: Arc::new(Semaphore::new(count)),
            ..self.clone()
        }
    }

    /// Returns the threads of the pool, for the watchdog.
    pub fn workers(&self) -> Workers {
        let metrics = self.handle.metrics();
        let seen = vec![(0, Duration::ZERO); metrics.num_workers()];
        Workers { metrics, seen }
    }

    /// Waits for `work`. For the main thread at start; must not be called on a core or on the pool.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    /// Runs `work` on the pool and ignores its result.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// Ticks `heartbeat` after each run of the blocking `work`. The ticks stop if the pool runs no
    /// task or has no free thread.
    pub fn run_heartbeat(&self, heartbeat: Heartbeat, work: impl Fn() + Clone + Send + 'static) {
        self.handle.spawn(async move {
            loop {
                // A panic in `work` has been logged and does not tick.
                if blocking(work.clone()).await.is_ok() {
                    heartbeat.tick();
                }
                tokio::time::sleep(HELPER_HEARTBEAT_INTERVAL).await;
            }
        });
    }

    /// Runs the blocking `work` on a blocking thread and ignores its result.
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(work);
    }

    /// Runs `work` on the pool and returns its result to the calling core.
    ///
    /// # Cancellation
    ///
    /// The work continues.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        let (sender, receiver) = oneshot::channel();
        self.handle.spawn(async move { sender.send(work.await) });
        receiver.recv().await
    }
}

impl Helper {
    /// Runs `work`, a file read, on one of the threads for `kind`. Returns the result to the
    /// calling core. Reads of one kind start in order of arrival.
    ///
    /// # Errors
    ///
    /// Fails if the work panics, or gets no thread within [`READER_QUEUE_TIMEOUT`].
    ///
    /// # Cancellation
    ///
    /// Started work continues. Queued work is dropped.
    pub async fn read<T: Send + 'static>(
        &self,
        kind: ReadKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let threads = match kind {
            ReadKind::Cached => &self.readers.cached,
            ReadKind::Small => &self.readers.small,
            ReadKind::Large => &self.readers.large,
        };
        self.run_on(threads, READER_QUEUE_TIMEOUT, work).await
    }

    /// Runs `work`, a store lookup, on one of the lookup threads. Returns the result to the calling
    /// core, or `None` after [`STORE_LOOKUP_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Fails if the work panics.
    ///
    /// # Cancellation
    ///
    /// Like [`Helper::read`]. The timeout is a cancellation.
    pub async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, Lost>> {
        // The result timeout expires before the queue timeout, so a lookup without a thread returns
        // `None` like a slow lookup.
        let found = self.run_on(&self.lookups, 2 * STORE_LOOKUP_TIMEOUT, work);
        monoio::time::timeout(STORE_LOOKUP_TIMEOUT, found).await.ok()
    }

    /// Does the work of [`Helper::look_up`] for a task of the pool.
    pub(crate) async fn look_up_on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, Lost>> {
        let threads = self.lookups.clone();
        let found = async move {
            // `Err` means a closed semaphore. The semaphore is never closed.
            let permit = threads.acquire_owned().await.map_err(|_| Lost)?;
            blocking(move || {
                let found = work();
                drop(permit);
                found
            })
            .await
        };
        tokio::time::timeout(STORE_LOOKUP_TIMEOUT, found).await.ok()
    }

    /// Runs `work` on one of `threads` and returns its result to the calling core. Waits at most
    /// `wait` for a thread.
    async fn run_on<T: Send + 'static>(
        &self,
        threads: &Arc<Semaphore>,
        wait: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (sender, receiver) = oneshot::channel();
        match threads.clone().try_acquire_owned() {
            Ok(permit) => {
                self.handle.spawn_blocking(move || {
                    let result = work();
                    drop(permit);
                    sender.send(result);
                });
            }
            Err(_) => {
                let threads = threads.clone();
                self.handle.spawn(async move {
                    // The inner `Err` means a closed semaphore. The semaphore is never closed.
                    let Ok(Ok(permit)) = tokio::time::timeout(wait, threads.acquire_owned()).await else {
                        return;
                    };
                    if !sender.is_awaited() {
                        return;
                    }
                    tokio::task::spawn_blocking(move || {
                        let result = work();
                        drop(permit);
                        sender.send(result);
                    });
                });
            }
        }
        receiver.recv().await
    }
}

/// The progress of each thread of the pool: its number of parks and unparks, and its busy time. The
/// pool updates the busy time after some tens of tasks.
pub struct Workers {
    metrics: tokio::runtime::RuntimeMetrics,
    seen: Vec<(u64, Duration)>,
}

impl Workers {
    /// Ticks the heartbeat of each thread with progress since the last call, and of each parked
    /// thread.
    pub fn tick(&mut self, heartbeats: &[Heartbeat]) {
        for (worker, (heartbeat, seen)) in heartbeats.iter().zip(&mut self.seen).enumerate() {
            let parks = self.metrics.worker_park_unpark_count(worker);
            let now = (parks, self.metrics.worker_total_busy_duration(worker));
            // An odd count means a parked thread.
            if parks % 2 == 1 || *seen != now {
                heartbeat.tick();
            }
            *seen = now;
        }
    }
}

/// Runs the blocking `work` for a task of the pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Lost> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Lost)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::sync::Mutex;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_pool_does_not_tick_while_no_blocking_thread_is_free() {
        let helper = Helper::start(NonZeroUsize::MIN).unwrap();
        let (started, all_started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..BLOCKING_THREADS_MAX {
            let (started, released) = (started.clone(), released.clone());
            helper.spawn_blocking(move || {
                started.send(()).unwrap();
                // `Err`: the test released all threads.
                let _ = released.lock().recv();
            });
        }
        for _ in 0..BLOCKING_THREADS_MAX {
            all_started.recv_timeout(PATIENCE).unwrap();
        }
        let heartbeat = Heartbeat::default();
        let (worked, work) = mpsc::channel();
        helper.run_heartbeat(heartbeat.clone(), move || {
            let _ = worked.send(());
        });
        // The pool has one thread, so its tasks run in order. By now the heartbeat waits for a
        // blocking thread.
        let (sender, behind) = mpsc::channel();
        helper.spawn(async move { sender.send(()).unwrap() });
        behind.recv_timeout(PATIENCE).unwrap();
        assert_eq!((heartbeat.ticks(), work.try_recv().is_ok()), (0, false));
        drop(release);
        work.recv_timeout(PATIENCE).unwrap();
    }
}
