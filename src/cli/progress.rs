//! The progress of a long command on standard error.

use std::io::{IsTerminal as _, Write as _};

use crate::manage::ProgressCounts;

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

    /// Prints the progress, of the job of a cache if there is a job. The caller calls five times a
    /// second.
    pub fn show(&mut self, counts: &ProgressCounts, job: Option<u64>) {
        self.looks += 1;
        let is_due = self.is_terminal || self.looks.is_multiple_of(LOOKS_PER_LINE);
        if self.is_quiet || !is_due {
            return;
        }
        let text = text(counts, job);
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

fn text(counts: &ProgressCounts, job: Option<u64>) -> String {
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
        assert_eq!(text(&counts, None), "3 of 12 objects, 1.5 of 20.0 MB");
        assert_eq!(text(&counts, Some(7)), "job 7: 3 of 12 objects, 1.5 of 20.0 MB");
    }
}
