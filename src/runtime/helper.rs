//! The helper pool: a small Tokio runtime for upstreams and for blocking file work.
//!
//! Cores send futures and closures and wait for a [`oneshot`]; no Tokio type reaches a core.

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

/// A handle to the pool; cheap to clone.
#[derive(Clone, Debug)]
pub struct Helper {
    handle: tokio::runtime::Handle,
    readers: Arc<Readers>,
    /// Threads that may look something up in the store at once.
    lookups: Arc<Semaphore>,
}

/// Threads that may read files for clients at once.
#[derive(Debug)]
struct Readers {
    cached: Arc<Semaphore>,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// What a thread that reads a file for a client may have to wait for. None of these waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// Pages that are in memory as far as is known.
    Cached,
    /// A disk, for a small body.
    Small,
    /// A disk, for a large body.
    Large,
}

impl Helper {
    /// Starts `threads` threads, which may run on the CPUs that the calling thread may. They live until the process
    /// ends.
    ///
    /// # Errors
    ///
    /// When threads or the pool's poller cannot be had.
    pub fn start(threads: NonZeroUsize) -> std::io::Result<Self> {
        // A thread is started by whoever finds that one is missing, which may be a core: it would inherit the
        // core's CPU and do there what was to be kept off it.
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
        // The process ends with `exit`, never by taking the pool down under running work.
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

    /// Returns the threads of the pool for the watchdog.
    pub fn workers(&self) -> Workers {
        let metrics = self.handle.metrics();
        let seen = vec![(0, Duration::ZERO); metrics.num_workers()];
        Workers { metrics, seen }
    }

    /// Waits for `work`; at start, on the main thread. Never on a core or on the pool.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    /// Runs `work` on the pool, unattended.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// Ticks `heartbeat` after each run of the blocking `work`. The ticks stop when the pool runs no task or has no
    /// free thread.
    pub fn run_heartbeat(&self, heartbeat: Heartbeat, work: impl Fn() + Clone + Send + 'static) {
        self.handle.spawn(async move {
            loop {
                // A panic in `work` has been logged and is no tick.
                if blocking(work.clone()).await.is_ok() {
                    heartbeat.tick();
                }
                tokio::time::sleep(HELPER_HEARTBEAT_INTERVAL).await;
            }
        });
    }

    /// Runs blocking `work` on a thread of its own, unattended.
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(work);
    }

    /// Runs `work` on the pool and brings its result to the calling core.
    ///
    /// # Cancellation
    ///
    /// The work goes on.
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
    /// Runs `work`, which reads a file, on one of the threads that `kind` has, and brings its result to the calling core.
    /// Steps of one kind are read in the order in which they came.
    ///
    /// # Errors
    ///
    /// The work panicked, or found no thread for [`READER_QUEUE_TIMEOUT`].
    ///
    /// # Cancellation
    ///
    /// Work that has begun goes on; other work is not begun.
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

    /// Runs `work`, which looks something up in the store, on one of the threads for lookups, and brings its result to the
    /// calling core. `None` after [`STORE_LOOKUP_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// The work panicked.
    ///
    /// # Cancellation
    ///
    /// As for [`Helper::read`]; the time limit is a cancellation.
    pub async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, Lost>> {
        // The limit for the answer ends first, so that a lookup without a thread is one that took too long.
        let found = self.run_on(&self.lookups, 2 * STORE_LOOKUP_TIMEOUT, work);
        monoio::time::timeout(STORE_LOOKUP_TIMEOUT, found).await.ok()
    }

    /// As [`Helper::look_up`], for a task of the pool.
    pub(crate) async fn look_up_on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, Lost>> {
        let threads = self.lookups.clone();
        let found = async move {
            // `Err`: the semaphore is closed, which it never is.
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

    /// Runs `work` on one of `threads`, waiting for it no longer than `wait`, and brings its result to the calling core.
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
                    // `Err` of the semaphore: it is closed, which it never is.
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

/// Where each thread of the pool stands: how often it has parked and gone on, and how long it has worked. Both are counted
/// by the pool itself, the second each time it has run some tens of tasks.
pub struct Workers {
    metrics: tokio::runtime::RuntimeMetrics,
    seen: Vec<(u64, Duration)>,
}

impl Workers {
    /// Ticks for each thread that waits for work, or has moved since the last call.
    pub fn tick(&mut self, heartbeats: &[Heartbeat]) {
        for (worker, (heartbeat, seen)) in heartbeats.iter().zip(&mut self.seen).enumerate() {
            let parks = self.metrics.worker_park_unpark_count(worker);
            let now = (parks, self.metrics.worker_total_busy_duration(worker));
            // An odd number says that it is parked.
            if parks % 2 == 1 || *seen != now {
                heartbeat.tick();
            }
            *seen = now;
        }
    }
}

/// Runs blocking `work` from a task of the pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Lost> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Lost)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

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
                let _ = released.lock().unwrap().recv();
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
        // The pool has one thread, which runs tasks in order: the heartbeat waits for a blocking thread by then.
        let (sender, behind) = mpsc::channel();
        helper.spawn(async move { sender.send(()).unwrap() });
        behind.recv_timeout(PATIENCE).unwrap();
        assert_eq!((heartbeat.ticks(), work.try_recv().is_ok()), (0, false));
        drop(release);
        work.recv_timeout(PATIENCE).unwrap();
    }
}
