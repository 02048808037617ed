//! The log lines of changes: one before and one after each change.

use super::access::Actor;
use crate::log;
use crate::manage::{ImportReport, LoadReport, PlannedRemoval, RemovalReport, VerifyReport};
use crate::store::Stores;

/// A change that a client requested.
#[derive(Debug)]
pub struct Change {
    pub actor: Actor,
    pub action: &'static str,
    pub selector: String,
}

/// The content that a change concerns, before the change.
#[derive(Clone, Copy, Debug)]
pub struct PlannedChange {
    /// The job that makes the change.
    pub job: Option<u64>,
    pub images: u64,
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Change {
    /// Applies `plan`. Writes a log line before and a log line after the change.
    pub fn apply(&self, stores: &Stores, plan: PlannedRemoval) -> RemovalReport {
        let (objects, bytes) = plan.totals();
        self.requested(Some(PlannedChange {
            job: None,
            images: plan.images().len() as u64,
            objects,
            bytes,
        }));
        let report = plan.apply(stores);
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

    /// Logs the request of a change of content, of a pin, or of the process. A kill during the change
    /// does not lose the line.
    pub fn requested(&self, planned: Option<PlannedChange>) {
        tracing::info!(
            actor = self.actor.name,
            role = self.actor.role.word(),
            remote = self.actor.remote,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            job = planned.and_then(|planned| planned.job),
            images = planned.map(|planned| planned.images),
            objects = planned.map(|planned| planned.objects),
            bytes = planned.map(|planned| planned.bytes),
            "change requested"
        );
        log::flush();
    }

    /// Logs the outcome of a changed pin, or of forgotten references. `None` means that the pins could not
    /// be written.
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

    /// Logs the outcome of a verification.
    pub fn verified(&self, job: u64, report: &VerifyReport) {
        tracing::info!(
            actor = self.actor.name,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            job,
            objects = report.removed_objects,
            damaged = report.damaged_objects,
            complete = report.complete,
            "change completed"
        );
    }

    /// Logs the outcome of an import.
    pub fn imported(&self, report: &ImportReport) {
        tracing::info!(
            actor = self.actor.name,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            held = report.held,
            failed = report.failed,
            damaged = report.damaged.len(),
            objects = report.objects,
            bytes = report.bytes,
            complete = report.error.is_none(),
            error = report.error,
            "change completed"
        );
    }

    /// Logs the outcome of a load.
    pub fn loaded(&self, job: u64, report: &LoadReport) {
        tracing::info!(
            actor = self.actor.name,
            request_id = %self.actor.request,
            action = self.action,
            selector = self.selector,
            job,
            held = report.held,
            failed = report.failed,
            bytes = report.fetched_bytes,
            complete = report.complete,
            "change completed"
        );
    }
}
