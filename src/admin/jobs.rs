//! Jobs: verifications that run on threads of their own, longer than a request.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::change::{Change, PlannedChange};
use super::problem::Problem;
use crate::events::{self, Event};
use crate::limits::{CONNECTION_SWEEP_INTERVAL, JOBS_ENDED_MAX, JOBS_RUNNING_MAX};
use crate::manage::{PlannedVerification, ProgressCounts, VerifyProgress, VerifyReport};
use crate::runtime::clock::unix_seconds;
use crate::store::FsStore;
use crate::sync::Mutex;

/// The running jobs and the last ended jobs.
#[derive(Default)]
pub struct Jobs(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: u64,
    /// In the order of their identifiers.
    jobs: VecDeque<Arc<Job>>,
}

struct Job {
    id: u64,
    /// In seconds since 1970.
    began_at: u64,
    plan: PlannedVerification,
    progress: VerifyProgress,
    /// The drop stops the job.
    stop: Mutex<Option<Sender<()>>>,
    end: Mutex<Option<End>>,
}

enum End {
    /// Completed or canceled.
    Report(VerifyReport),
    Panicked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Verify,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    Completed,
    Canceled,
    Failed,
}

impl JobState {
    /// Returns the word of the state.
    pub fn word(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Completed => "completed",
            JobState::Canceled => "canceled",
            JobState::Failed => "failed",
        }
    }
}

/// A job, for clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    pub job: u64,
    pub kind: JobKind,
    pub state: JobState,
    /// In seconds since 1970.
    pub began_at: u64,
    pub progress: ProgressCounts,
    /// The report of a completed or canceled job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<VerifyReport>,
    /// The reason of a failed job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Jobs {
    /// Starts a verification. Returns its identifier.
    ///
    /// # Errors
    ///
    /// [`JOBS_RUNNING_MAX`] jobs run already, or no thread can be created.
    pub fn start(
        &self,
        store: Arc<FsStore>,
        change: Change,
        plan: PlannedVerification,
    ) -> Result<u64, Problem> {
        let mut table = self.0.lock();
        let (job, stopped) = table.add(plan)?;
        let id = job.id;
        let running = job.clone();
        let started = thread::Builder::new().name("store-verify".into()).spawn(move || {
            running.publish();
            let run = || running.run(&store, &change, stopped);
            let end = catch_unwind(AssertUnwindSafe(run)).map_or(End::Panicked, End::Report);
            *running.end.lock() = Some(end);
            running.publish();
        });
        match started {
            Ok(_) => Ok(id),
            Err(error) => {
                table.jobs.retain(|job| job.id != id);
                Err(Problem::NoThread(error.to_string()))
            }
        }
    }

    /// Returns all jobs without their results, the newest first.
    pub fn list(&self) -> Vec<JobStatus> {
        let table = self.0.lock();
        let jobs = table.jobs.iter().rev();
        jobs.map(|job| JobStatus {
            result: None,
            ..job.status()
        })
        .collect()
    }

    /// Returns a job.
    ///
    /// # Errors
    ///
    /// The job is unknown, or too many jobs have ended since.
    pub fn get(&self, id: u64) -> Result<JobStatus, Problem> {
        Ok(self.find(id)?.status())
    }

    /// Stops a running job after its current read. An ended job stays as it is.
    ///
    /// # Errors
    ///
    /// The job is unknown, or too many jobs have ended since.
    pub fn cancel(&self, id: u64) -> Result<JobStatus, Problem> {
        let job = self.find(id)?;
        drop(job.stop.lock().take());
        Ok(job.status())
    }

    fn find(&self, id: u64) -> Result<Arc<Job>, Problem> {
        let table = self.0.lock();
        let found = table.jobs.iter().find(|job| job.id == id);
        found.cloned().ok_or(Problem::NoJob)
    }
}

impl Table {
    /// Adds a job. Forgets the oldest ended jobs beyond [`JOBS_ENDED_MAX`].
    fn add(&mut self, plan: PlannedVerification) -> Result<(Arc<Job>, Receiver<()>), Problem> {
        let running = self.jobs.iter().filter(|job| job.is_running()).count();
        if running >= JOBS_RUNNING_MAX {
            return Err(Problem::TooManyJobs);
        }
        let mut surplus = (self.jobs.len() - running).saturating_sub(JOBS_ENDED_MAX - 1);
        self.jobs.retain(|job| {
            let is_surplus = surplus > 0 && !job.is_running();
            surplus -= usize::from(is_surplus);
            !is_surplus
        });
        let (stop, stopped) = bounded(0);
        self.last += 1;
        let job = Arc::new(Job {
            id: self.last,
            began_at: unix_seconds(),
            plan,
            progress: VerifyProgress::default(),
            stop: Mutex::new(Some(stop)),
            end: Mutex::default(),
        });
        self.jobs.push_back(job.clone());
        Ok((job, stopped))
    }
}

impl Job {
    fn is_running(&self) -> bool {
        self.end.lock().is_none()
    }

    /// Verifies the objects. Writes a log line before and a log line after a verification that may
    /// remove objects.
    fn run(&self, store: &FsStore, change: &Change, stopped: Receiver<()>) -> VerifyReport {
        if !self.plan.is_dry_run() {
            let counts = self.plan.counts(&self.progress);
            change.requested(Some(PlannedChange {
                job: Some(self.id),
                images: self.plan.images(),
                objects: counts.objects_total,
                bytes: counts.bytes_total,
            }));
        }
        let report = self.plan.run(store, &self.progress, stopped);
        if !self.plan.is_dry_run() {
            change.verified(self.id, &report);
        }
        if report.removed_objects > 0 {
            // The next request for the content must not find it in the memory of a core.
            let _ = crossbeam_channel::after(2 * CONNECTION_SWEEP_INTERVAL).recv();
        }
        report
    }

    /// Sends the event of the job's beginning or end.
    fn publish(&self) {
        events::publish(|| Event::JobChanged {
            job: self.id,
            state: self.status().state.word(),
        });
    }

    fn status(&self) -> JobStatus {
        let (state, result, error) = match &*self.end.lock() {
            None => (JobState::Running, None, None),
            Some(End::Report(report)) if report.complete => (JobState::Completed, Some(report.clone()), None),
            Some(End::Report(report)) => (JobState::Canceled, Some(report.clone()), None),
            Some(End::Panicked) => (JobState::Failed, None, Some(Problem::Panicked.to_string())),
        };
        JobStatus {
            job: self.id,
            kind: JobKind::Verify,
            state,
            began_at: self.began_at,
            progress: self.plan.counts(&self.progress),
            result,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::{VerifyRequest, plan_verify};
    use crate::store::tests::Scratch;

    fn plan() -> PlannedVerification {
        let scratch = Scratch::new();
        let store = FsStore::open(&scratch.0).unwrap();
        store.scan();
        plan_verify(&store, &VerifyRequest::default().rule().unwrap()).unwrap()
    }

    fn end(job: &Job) {
        *job.end.lock() = Some(End::Panicked);
    }

    #[test]
    fn jobs_beyond_the_running_limit_are_refused() {
        let mut table = Table::default();
        let jobs: Vec<_> = (0..JOBS_RUNNING_MAX)
            .map(|_| table.add(plan()).unwrap())
            .collect();
        assert!(matches!(table.add(plan()), Err(Problem::TooManyJobs)));
        end(&jobs[0].0);
        assert!(table.add(plan()).is_ok());
    }

    #[test]
    fn oldest_ended_jobs_are_forgotten_and_running_jobs_stay() {
        let mut table = Table::default();
        let (running, _stopped) = table.add(plan()).unwrap();
        for _ in 0..JOBS_ENDED_MAX + 3 {
            end(&table.add(plan()).unwrap().0);
        }
        let ids: Vec<u64> = table.jobs.iter().map(|job| job.id).collect();
        assert_eq!(ids.len(), JOBS_ENDED_MAX + 1, "{ids:?}");
        assert_eq!((ids[0], ids[1]), (running.id, running.id + 4));
    }

    #[test]
    fn panic_of_a_job_is_its_state_and_a_cancel_drops_the_sender() {
        let jobs = Jobs::default();
        let (job, stopped) = jobs.0.lock().add(plan()).unwrap();
        assert_eq!(jobs.cancel(1).unwrap().state, JobState::Running);
        assert_eq!(
            stopped.try_recv(),
            Err(crossbeam_channel::TryRecvError::Disconnected)
        );
        end(&job);
        let status = jobs.get(1).unwrap();
        assert_eq!(status.state, JobState::Failed);
        assert!(
            status
                .error
                .is_some_and(|error| error.contains("the log has the message"))
        );
        assert!(matches!(jobs.get(2), Err(Problem::NoJob)));
    }
}
