//! The parts of a cache behind its listeners: the store, the registries, and the cache between them.

use super::AppError;
use crate::cache::{Cache, FetchOptions, PrefetchOptions, TagPolicy};
use crate::config::{Config, Live};
use crate::fairness::Parties;
use crate::manage::Loader;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::MemoryBudget;
use crate::storage::Storage;
use crate::upstream::Upstreams;

pub(super) struct CacheParts {
    pub live: Live,
    pub storage: Storage,
    pub upstreams: Upstreams,
    pub cache: Cache,
}

impl CacheParts {
    /// Opens the store of `config`, for a process that may open `descriptors` file descriptors.
    ///
    /// # Errors
    ///
    /// The store or the settings of a registry cannot be used.
    pub fn open(
        config: &Config,
        helper: &Helper,
        memory: &MemoryBudget,
        descriptors: u64,
    ) -> Result<Self, AppError> {
        let live = Live::new(config.registries.clone());
        let storage = Storage::open(
            &config.storage,
            config.store_bounds(),
            live.clone(),
            config.verify_on_open,
            Parties::new(live.clone()),
            helper.clone(),
            memory.clone(),
        )?;
        let upstreams = Upstreams::new(live.registries(), config.proxies.clone())?;
        let cache = Cache::new(
            storage.clone(),
            upstreams.clone(),
            live.clone(),
            helper.clone(),
            TagPolicy::of(config),
            memory.clone(),
            FetchOptions {
                descriptors,
                background_bandwidth: config.background_bandwidth,
                prefetch: PrefetchOptions {
                    mode: config.prefetch,
                    timeout: config.prefetch_timeout,
                },
            },
        );
        Ok(CacheParts {
            live,
            storage,
            upstreams,
            cache,
        })
    }

    pub fn loader(&self) -> Loader {
        Loader::new(self.cache.clone(), self.live.clone())
    }
}
