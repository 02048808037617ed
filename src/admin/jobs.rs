//! Jobs: verifications and loads that run on threads of their own, longer than a request. The load at
//! start and the runs of the rules of `warm` are jobs too.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::job_work::{JobReport, JobWork};
use super::problem::Problem;
use crate::events::{self, Event};
use crate::limits::{JOB_STACK_BYTES, JOBS_ENDED_MAX, JOBS_RUNNING_MAX, WARM_JOBS_ENDED_MAX};
use crate::manage::{ImageInWork, LoadProgress, LoadReport, LoadRule, Loader, ProgressCounts, WarmRun};
use crate::runtime::clock::unix_seconds;
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
    work: JobWork,
    /// The drop stops the job.
    stop: Mutex<Option<Sender<()>>>,
    end: Mutex<Option<End>>,
}

enum End {
    /// Completed or canceled.
    Report(JobReport),
    Failed(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Verify,
    Load,
    Warm,
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
    /// The images that a running load pulls now, in the order of their begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageInWork>,
    /// The report of a completed or canceled job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobReport>,
    /// The reason of a failed job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl JobKind {
    /// Returns the word of the API.
    pub fn word(self) -> &'static str {
        match self {
            JobKind::Verify => "verify",
            JobKind::Load => "load",
            JobKind::Warm => "warm",
        }
    }

    fn thread_name(self) -> &'static str {
        match self {
            JobKind::Verify => "store-verify",
            JobKind::Load => "image-load",
            JobKind::Warm => "warm-run",
        }
    }
}

impl Jobs {
    /// Starts a job. Returns its identifier.
    ///
    /// # Errors
    ///
    /// [`JOBS_RUNNING_MAX`] jobs run already, or no thread can be created.
    pub fn start(&self, change: Change, work: JobWork) -> Result<u64, Problem> {
        self.start_with(work, move |work, id, stopped| work.run(id, &change, stopped))
    }

    /// Starts the load at the start of the cache, which no client requested. Calls `began` before the load,
    /// and `ended` after the load.
    ///
    /// # Errors
    ///
    /// [`JOBS_RUNNING_MAX`] jobs run already, or no thread can be created.
    pub fn preload(
        &self,
        loader: Loader,
        rule: LoadRule,
        began: impl FnOnce(u64) + Send + 'static,
        ended: impl FnOnce(&LoadReport) + Send + 'static,
    ) -> Result<u64, Problem> {
        let work = JobWork::Load {
            loader,
            rule,
            progress: LoadProgress::default(),
        };
        self.start_with(work, move |work, id, stopped| {
            began(id);
            let report = work.report(stopped)?;
            if let JobReport::Load(report) = &report {
                ended(report);
            }
            Ok(report)
        })
    }

    /// Starts a run of a rule of `warm`. Calls `began` before the run, and `ended` after the run. The caller
    /// starts one run at a time, so the run does not count for [`JOBS_RUNNING_MAX`].
    ///
    /// # Errors
    ///
    /// No thread can be created.
    pub fn warm(
        &self,
        run: WarmRun,
        began: impl FnOnce(u64) + Send + 'static,
        ended: impl FnOnce(u64, &io::Result<JobReport>) + Send + 'static,
    ) -> Result<u64, Problem> {
        let work = JobWork::Warm {
            run: Box::new(run),
            progress: LoadProgress::default(),
        };
        self.start_with(work, move |work, id, stopped| {
            began(id);
            let report = work.report(stopped);
            ended(id, &report);
            report
        })
    }

    fn start_with(
        &self,
        work: JobWork,
        run: impl FnOnce(&JobWork, u64, &Receiver<()>) -> io::Result<JobReport> + Send + 'static,
    ) -> Result<u64, Problem> {
        let mut table = self.0.lock();
        let (job, stopped) = table.add(work)?;
        let id = job.id;
        let running = job.clone();
        let name = job.work.kind().thread_name();
        let thread = thread::Builder::new()
            .name(name.into())
            .stack_size(JOB_STACK_BYTES);
        let started = thread.spawn(move || {
            running.publish();
            let run = || run(&running.work, id, &stopped);
            let end = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(report)) => End::Report(report),
                Ok(Err(error)) => End::Failed(error.to_string()),
                Err(_) => End::Failed(Problem::Panicked.to_string()),
            };
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
            images: Vec::new(),
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

    /// Stops all running jobs, at the stop of the cache.
    pub fn cancel_all(&self) {
        for job in &self.0.lock().jobs {
            drop(job.stop.lock().take());
        }
    }

    fn find(&self, id: u64) -> Result<Arc<Job>, Problem> {
        let table = self.0.lock();
        let found = table.jobs.iter().find(|job| job.id == id);
        found.cloned().ok_or(Problem::NoJob)
    }
}

impl Table {
    /// Adds a job. Forgets the oldest ended jobs beyond [`JOBS_ENDED_MAX`], and [`WARM_JOBS_ENDED_MAX`] of
    /// the rules of `warm`.
    fn add(&mut self, work: JobWork) -> Result<(Arc<Job>, Receiver<()>), Problem> {
        let is_warm = work.kind() == JobKind::Warm;
        let alike = |job: &&Arc<Job>| (job.work.kind() == JobKind::Warm) == is_warm;
        let running = self
            .jobs
            .iter()
            .filter(|job| alike(job) && job.is_running())
            .count();
        if !is_warm && running >= JOBS_RUNNING_MAX {
            return Err(Problem::TooManyJobs);
        }
        let ended = self.jobs.iter().filter(alike).count() - running;
        let ended_max = if is_warm {
            WARM_JOBS_ENDED_MAX
        } else {
            JOBS_ENDED_MAX
        };
        let mut surplus = ended.saturating_sub(ended_max - 1);
        self.jobs.retain(|job| {
            let is_surplus = surplus > 0 && alike(&job) && !job.is_running();
            surplus -= usize::from(is_surplus);
            !is_surplus
        });
        let (stop, stopped) = bounded(0);
        self.last += 1;
        let job = Arc::new(Job {
            id: self.last,
            began_at: unix_seconds(),
            work,
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
            Some(End::Report(report)) if report.is_complete() => {
                (JobState::Completed, Some(report.clone()), None)
            }
            Some(End::Report(report)) => (JobState::Canceled, Some(report.clone()), None),
            Some(End::Failed(error)) => (JobState::Failed, None, Some(error.clone())),
        };
        JobStatus {
            job: self.id,
            kind: self.work.kind(),
            state,
            began_at: self.began_at,
            progress: self.work.counts(),
            images: match state {
                JobState::Running => self.work.images(),
                _ => Vec::new(),
            },
            result,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::{VerifyProgress, VerifyRequest, plan_verify};
    use crate::store::tests::Scratch;
    use crate::store::{FsStore, Stores};

    fn work() -> JobWork {
        let scratch = Scratch::new();
        let store = FsStore::open(&scratch.0).unwrap();
        store.scan();
        let stores = Stores::alone(store);
        JobWork::Verify {
            plan: plan_verify(&stores, &VerifyRequest::default().rule().unwrap()).unwrap(),
            stores,
            progress: VerifyProgress::default(),
        }
    }

    fn end(job: &Job) {
        *job.end.lock() = Some(End::Failed(Problem::Panicked.to_string()));
    }

    #[test]
    fn jobs_beyond_the_running_limit_are_refused() {
        let mut table = Table::default();
        let jobs: Vec<_> = (0..JOBS_RUNNING_MAX)
            .map(|_| table.add(work()).unwrap())
            .collect();
        assert!(matches!(table.add(work()), Err(Problem::TooManyJobs)));
        end(&jobs[0].0);
        assert!(table.add(work()).is_ok());
    }

    #[test]
    fn oldest_ended_jobs_are_forgotten_and_running_jobs_stay() {
        let mut table = Table::default();
        let (running, _stopped) = table.add(work()).unwrap();
        for _ in 0..JOBS_ENDED_MAX + 3 {
            end(&table.add(work()).unwrap().0);
        }
        let ids: Vec<u64> = table.jobs.iter().map(|job| job.id).collect();
        assert_eq!(ids.len(), JOBS_ENDED_MAX + 1, "{ids:?}");
        assert_eq!((ids[0], ids[1]), (running.id, running.id + 4));
    }

    #[test]
    fn panic_of_a_job_is_its_state_and_a_cancel_drops_the_sender() {
        let jobs = Jobs::default();
        let (job, stopped) = jobs.0.lock().add(work()).unwrap();
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
