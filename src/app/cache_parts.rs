//! The parts of a cache behind its listeners: the stores, the registries, and the cache between them.

use super::{AppError, resources};
use crate::cache::{Cache, FetchOptions, PrefetchOptions, TagPolicy};
use crate::config::{Config, Live, StoreDirs};
use crate::fairness::Parties;
use crate::manage::Loader;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::{MemoryBudget, default_budget};
use crate::shared_file;
use crate::storage::Storages;
use crate::upstream::Upstreams;

pub(super) struct CacheParts {
    pub live: Live,
    pub storages: Storages,
    pub upstreams: Upstreams,
    pub cache: Cache,
}

impl CacheParts {
    /// Opens the stores of `config`, for a process that may open `descriptors` file descriptors.
    ///
    /// # Errors
    ///
    /// A store or the settings of a registry cannot be used.
    pub fn open(
        config: &Config,
        helper: &Helper,
        memory: &MemoryBudget,
        descriptors: u64,
    ) -> Result<Self, AppError> {
        let live = Live::new(config.registries.clone());
        let storages = Storages::open(
            &config.storage,
            StoreDirs::of(&config.registries),
            config.store_bounds(),
            live.clone(),
            config.verify_on_open,
            Parties::new(live.clone()),
            helper.clone(),
            memory.clone(),
        )?;
        let upstreams = Upstreams::new(live.registries(), config.proxies.clone())?;
        let cache = Cache::new(
            storages.clone(),
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
            storages,
            upstreams,
            cache,
        })
    }

    /// Opens the stores of `config` for a command without cores and listeners.
    ///
    /// # Errors
    ///
    /// Like [`CacheParts::open`], or a thread cannot be created.
    pub fn open_for_command(config: &Config) -> Result<Self, AppError> {
        let descriptors = resources::raise_descriptor_limit();
        shared_file::start_closing_thread().map_err(AppError::threads)?;
        let helper = Helper::start(config.helper_threads).map_err(AppError::threads)?;
        let memory = MemoryBudget::new(config.memory_budget.unwrap_or_else(default_budget), 1);
        CacheParts::open(config, &helper, &memory, descriptors)
    }

    pub fn loader(&self) -> Loader {
        Loader::new(self.cache.clone(), self.live.clone())
    }
}
