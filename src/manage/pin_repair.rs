//! Fetches damaged content of pinned images again, on a thread for each store. Other damaged content is
//! fetched by the next client.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::{LoadProgress, LoadRule, Loader, WantedImage};
use crate::config::LoadSettings;
use crate::limits::LOAD_CONCURRENCY_DEFAULT;
use crate::store::{DamagedPin, FsStore, Stores};

/// The running threads. The drop ends a fetch in progress.
pub struct PinRepair {
    _threads: Vec<RepairThread>,
}

/// The thread of one store.
struct RepairThread {
    _stop: Sender<()>,
}

impl PinRepair {
    /// Starts a thread for each store.
    ///
    /// # Errors
    ///
    /// A thread cannot be created.
    pub fn start(stores: &Stores, loader: &Loader, settings: &LoadSettings) -> io::Result<Self> {
        let threads = stores
            .iter()
            .map(|store| RepairThread::start(store, loader.clone(), settings.clone()));
        Ok(PinRepair {
            _threads: threads.collect::<io::Result<_>>()?,
        })
    }
}

impl RepairThread {
    fn start(store: &FsStore, loader: Loader, settings: LoadSettings) -> io::Result<Self> {
        let damaged = store.watch_damaged_pins();
        let (stop, stopped) = bounded(0);
        let work = move || {
            loop {
                let first = select! {
                    recv(damaged) -> first => first,
                    // The sender never sends, so only its drop ends the wait.
                    recv(stopped) -> _ => return,
                };
                let Ok(first) = first else { return };
                // Several objects of one image are often damaged together.
                let mut pins = vec![first];
                for pin in damaged.try_iter() {
                    if !pins.contains(&pin) {
                        pins.push(pin);
                    }
                }
                // A panic is a bug, and later damage may be repaired.
                let repair = || fetch(pins, &loader, &settings, &stopped);
                if catch_unwind(AssertUnwindSafe(repair)).is_err() {
                    tracing::error!("fetch of damaged pinned images panicked");
                }
            }
        };
        thread::Builder::new().name("pin-repair".into()).spawn(work)?;
        Ok(RepairThread { _stop: stop })
    }
}

fn fetch(pins: Vec<DamagedPin>, loader: &Loader, settings: &LoadSettings, stopped: &Receiver<()>) {
    let wanted = pins.into_iter().map(|pin| WantedImage {
        name: pin.image,
        platforms: pin.platforms,
    });
    let rule = LoadRule {
        images: wanted.collect(),
        tags: Vec::new(),
        concurrency: LOAD_CONCURRENCY_DEFAULT,
        pull_timeout: settings.pull_timeout,
        referrers: false,
    };
    let report = match loader.run(&rule, &LoadProgress::default(), stopped) {
        Ok(report) => report,
        Err(error) => return tracing::warn!(%error, "damaged pinned image not fetched"),
    };
    for image in &report.images {
        let name = &image.image;
        match &image.error {
            None => tracing::info!(
                image = name,
                bytes = image.fetched_bytes,
                "damaged pinned image fetched"
            ),
            Some(error) => {
                let status = image.upstream_status;
                tracing::warn!(
                    image = name,
                    upstream_status = status,
                    error,
                    "damaged pinned image not fetched"
                );
            }
        }
    }
}
