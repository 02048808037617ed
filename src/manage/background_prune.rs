//! The removal of images by the rules of `prune`, on a thread for each store. A long removal delays no
//! check of the bounds, and no removal from another store.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::schedule::Schedule;
use super::{PruneRule, plan_prune};
use crate::config::PruneRuleConfig;
use crate::fail_point::hit;
use crate::limits::{PRUNE_CHECK_INTERVAL, PRUNE_IMAGES_LOGGED_MAX};
use crate::log;
use crate::runtime::clock::{monotonic_millis, unix_seconds};
use crate::store::Stores;
use crate::sync::Mutex;

/// The running threads. The drop ends the threads after the present run. The end of the process may
/// interrupt a run, and the next start continues the removal.
pub struct BackgroundPrune(Vec<PruneThread>);

/// The thread of one store.
struct PruneThread {
    new_rules: Arc<NewRules>,
    _stop: Sender<()>,
}

/// Rules that the thread has not read. `None` if the rules are unchanged.
type NewRules = Mutex<Option<Vec<PruneRuleConfig>>>;

impl BackgroundPrune {
    /// Starts a thread with `rules` for each store. The first runs begin when the scan of the store has
    /// ended.
    ///
    /// # Errors
    ///
    /// A thread cannot be created.
    pub fn start(stores: &Stores, rules: &[PruneRuleConfig]) -> io::Result<Self> {
        let threads = stores.iter().map(|store| {
            let store = Stores::alone(store.clone());
            PruneThread::start(store, rules.to_vec())
        });
        threads.collect::<io::Result<_>>().map(BackgroundPrune)
    }

    /// Replaces the rules. A run in progress keeps its rule.
    pub fn replace(&self, rules: &[PruneRuleConfig]) {
        for thread in &self.0 {
            *thread.new_rules.lock() = Some(rules.to_vec());
        }
    }
}

impl PruneThread {
    fn start(store: Stores, rules: Vec<PruneRuleConfig>) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let new_rules = Arc::new(Mutex::new(Some(rules)));
        let for_thread = new_rules.clone();
        thread::Builder::new()
            .name("store-prune".into())
            .spawn(move || run(&store, &for_thread, &stopped))?;
        Ok(PruneThread {
            new_rules,
            _stop: stop,
        })
    }
}

fn run(store: &Stores, new_rules: &NewRules, stopped: &Receiver<()>) {
    let mut schedule = Schedule::default();
    // The sender never sends, so only the drop of the sender ends the wait early.
    while stopped.recv_timeout(PRUNE_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if let Some(rules) = new_rules.lock().take() {
            schedule.replace(rules);
        }
        while store.are_scanned()
            && let Some(rule) = schedule.take_due(monotonic_millis(), unix_seconds())
        {
            // A panic is a bug, and the other rules may succeed.
            if catch_unwind(AssertUnwindSafe(|| prune(store, &rule))).is_err() {
                tracing::error!(rule = rule.place, "prune rule panicked");
            }
        }
    }
}

/// Plans the removal of `config`, and applies it unless the rule is a dry run.
fn prune(store: &Stores, config: &PruneRuleConfig) {
    hit("prune-rule");
    let (rule, dry_run) = (&config.place, config.dry_run);
    // `None`, and no field, for the default store.
    let directory = store.default_store().registry_dir();
    let plan = match plan_prune(store, &PruneRule::in_background(config)) {
        Ok(plan) => plan,
        Err(error) => return tracing::warn!(rule, %error, directory, "prune rule failed"),
    };
    let planned = plan.report();
    let (images, objects, bytes) = (planned.images.len(), planned.objects, planned.bytes);
    tracing::info!(
        rule,
        dry_run,
        images,
        objects,
        bytes,
        directory,
        "prune rule started"
    );
    if dry_run {
        for image in planned.images.iter().take(PRUNE_IMAGES_LOGGED_MAX) {
            tracing::info!(rule, image, "image selected by prune rule");
        }
        return;
    }
    // A kill during the removal must not lose the line.
    log::flush();
    let removed = plan.apply(store);
    tracing::info!(
        rule,
        images,
        objects = removed.objects,
        bytes = removed.bytes,
        kept = removed.kept,
        directory,
        "prune rule completed"
    );
}
