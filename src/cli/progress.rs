//! The progress of a long command on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, after, bounded};

use super::target::Failure;
use crate::admin::{AdminClient, JobReport, JobState};
use crate::manage::ProgressCounts;

/// Interval of the looks at the progress.
const LOOK: Duration = Duration::from_millis(200);

/// The error of a report of another kind than the requested job.
pub(super) const OTHER_JOB: &str =
    "the cache sent the report of another kind of job; use the command of the same version as the cache";

/// Looks between two lines without a terminal: five seconds.
const LOOKS_PER_LINE: u32 = 25;

/// The progress: a line that changes on a terminal, and otherwise a line each five seconds.
pub(super) struct ProgressLine {
    is_quiet: bool,
    is_terminal: bool,
    looks: u32,
}

impl ProgressLine {
    pub fn new(is_quiet: bool) -> Self {
        ProgressLine {
            is_quiet,
            is_terminal: std::io::stderr().is_terminal(),
            looks: 0,
        }
    }

    /// Shows the progress of the job `id` of a cache until its end. Returns its report.
    pub fn follow_job(&mut self, cache: &AdminClient, id: u64) -> Result<JobReport, Failure> {
        loop {
            let job = cache.job(id).map_err(Failure::of)?;
            match (job.state, job.result) {
                (JobState::Running, _) => self.show(&counts_text(&job.progress, Some(id))),
                (_, Some(report)) => return Ok(report),
                (_, None) => return Err(Failure::of(job.error.unwrap_or_default())),
            }
            let _ = after(LOOK).recv();
        }
    }

    /// Runs `work` on a thread of this process, and shows `text` until its end.
    pub fn show_while<T: Send>(
        &mut self,
        text: impl Fn() -> String,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Failure> {
        let (sender, result) = bounded(1);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || sender.send(work()));
            loop {
                match result.recv_timeout(LOOK) {
                    Ok(result) => return Ok(result),
                    Err(RecvTimeoutError::Timeout) => self.show(&text()),
                    Err(RecvTimeoutError::Disconnected) => {
                        // Otherwise the panic of the thread would continue here.
                        let _ = thread.join();
                        return Err(Failure::of(
                            "the command panicked, which is a bug; report the message before this line",
                        ));
                    }
                }
            }
        })
    }

    /// Prints the progress. The caller calls once in each [`LOOK`].
    fn show(&mut self, text: &str) {
        self.looks += 1;
        let is_due = self.is_terminal || self.looks.is_multiple_of(LOOKS_PER_LINE);
        if self.is_quiet || !is_due {
            return;
        }
        let mut stderr = std::io::stderr();
        // A closed terminal is no reason to end the command.
        let _ = match self.is_terminal {
            true => write!(stderr, "\r{text}\x1b[K"),
            false => writeln!(stderr, "{text}"),
        };
        let _ = stderr.flush();
    }

    /// Removes the line from a terminal.
    pub fn clear(&self) {
        if self.is_terminal && !self.is_quiet && self.looks > 0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Returns the progress in objects and bytes, of the job of a cache if there is a job.
pub(super) fn counts_text(counts: &ProgressCounts, job: Option<u64>) -> String {
    let job = job.map_or_else(String::new, |id| format!("job {id}: "));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "{job}{} of {} objects, {:.1} of {:.1} MB",
        counts.objects,
        counts.objects_total,
        megabytes(counts.bytes),
        megabytes(counts.bytes_total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_counts_and_the_job() {
        let counts = ProgressCounts {
            objects: 3,
            objects_total: 12,
            bytes: 1_500_000,
            bytes_total: 20_000_000,
        };
        assert_eq!(counts_text(&counts, None), "3 of 12 objects, 1.5 of 20.0 MB");
        assert_eq!(
            counts_text(&counts, Some(7)),
            "job 7: 3 of 12 objects, 1.5 of 20.0 MB"
        );
    }
}
