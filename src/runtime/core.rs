//! A core: a pinned thread with its own runtime.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use core_affinity::CoreId;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::driver::{Driver, RING_ENTRIES, patiently, ring_builder};
use super::waker;
use crate::log;

/// The settings of all cores.
#[derive(Clone, Copy, Debug)]
pub struct CoreSettings {
    pub driver: Driver,
    /// Whether rings use the flags of kernel 6.1 and later.
    pub modern_ring: bool,
}

/// Starts core number `index` on `cpu` and runs `main` on the core.
///
/// If a core panics, the process aborts. The listener of the core is lost with the thread, and
/// systemd restarts processes but not threads.
///
/// # Errors
///
/// Fails if the thread cannot be started. If the runtime cannot be created, the process logs the
/// reason and exits.
pub fn start<F, M>(
    index: usize,
    cpu: Option<CoreId>,
    settings: CoreSettings,
    main: M,
) -> io::Result<JoinHandle<()>>
where
    F: Future<Output = ()> + 'static,
    M: FnOnce() -> F + Send + 'static,
{
    std::thread::Builder::new()
        .name(format!("core-{index}"))
        .spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if let Some(cpu) = cpu
                    && !core_affinity::set_for_current(cpu)
                {
                    tracing::warn!(core = index, cpu = cpu.id, "core not pinned to its CPU");
                }
                run(settings, main)
            }));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(core = index, %error, "core not started");
                    log::flush();
                    std::process::exit(1);
                }
                Err(_) => {
                    tracing::error!(core = index, "core panicked; aborting the process");
                    log::abort();
                }
            }
        })
}

fn run<F, M>(settings: CoreSettings, main: M) -> io::Result<()>
where
    F: Future<Output = ()> + 'static,
    M: FnOnce() -> F,
{
    let body = async move {
        waker::install()?;
        main().await;
        Ok(())
    };
    // A runtime is never dropped while the process lives. The kernel may still write to buffers of
    // submitted operations.
    match settings.driver {
        Driver::IoUring => {
            let mut runtime = std::mem::ManuallyDrop::new(patiently(|| {
                RuntimeBuilder::<IoUringDriver>::new()
                    .with_entries(RING_ENTRIES)
                    .uring_builder(ring_builder(settings.modern_ring))
                    .enable_timer()
                    .build()
            })?);
            runtime.block_on(body)
        }
        Driver::Epoll => {
            let mut runtime =
                std::mem::ManuallyDrop::new(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?);
            runtime.block_on(body)
        }
    }
}

/// Runs `main` on the calling thread, like the main task of a core with epoll. For threads that make
/// requests of their own to the cache.
///
/// # Errors
///
/// Fails if the runtime or its wake queue cannot be created.
pub fn run_aside<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    runtime.block_on(async {
        waker::install()?;
        Ok(main.await)
    })
}

/// Runs `test` like the main task of a core with epoll.
#[cfg(test)]
pub fn run_test<T>(test: impl Future<Output = T>) -> T {
    run_aside(test).expect("every kernel has epoll, and the process may open sockets")
}
