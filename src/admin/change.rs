//! The log lines of changes: one before and one after each change.

use super::access::Actor;
use crate::log;
use crate::manage::{PlannedRemoval, RemovalReport};
use crate::store::FsStore;

/// A change that a client requested.
#[derive(Debug)]
pub struct Change {
    pub actor: Actor,
    pub action: &'static str,
    pub selector: String,
}

impl Change {
    /// Applies `plan`. Writes a log line before and a log line after the change.
    pub fn apply(&self, store: &FsStore, plan: PlannedRemoval) -> RemovalReport {
        self.requested(Some(&plan.report()));
        let report = plan.apply(store);
        tracing::info!(
            actor = self.actor.name,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            objects = report.objects,
            bytes = report.bytes,
            kept = report.kept,
            "change completed"
        );
        report
    }

    /// Logs the request of a change, with the planned removal if any. A kill during the change does
    /// not lose the line.
    pub fn requested(&self, planned: Option<&RemovalReport>) {
        tracing::info!(
            actor = self.actor.name,
            role = self.actor.role.word(),
            remote = self.actor.remote,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            images = planned.map(|planned| planned.images.len()),
            objects = planned.map(|planned| planned.objects),
            bytes = planned.map(|planned| planned.bytes),
            "change requested"
        );
        log::flush();
    }

    /// Logs the outcome of a changed pin. `None` means that the pins could not be written.
    pub fn pinned(&self, changed: Option<bool>) {
        tracing::info!(
            actor = self.actor.name,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            changed,
            "change completed"
        );
    }
}
