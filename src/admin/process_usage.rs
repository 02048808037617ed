//! The resources that the process uses, from `/proc/self`.

use std::fmt;
use std::fs;

use prometheus_client::registry::Unit;

use super::metrics::{Families, labels};

/// The unit of times in `/proc/self/stat` (`USER_HZ`), the same on all architectures of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Zero for values that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ProcessUsage {
    cpu_ticks: u64,
    threads: u64,
    resident_bytes: u64,
    open_files: u64,
}

impl ProcessUsage {
    /// Reads the usage of this process. Blocks for some microseconds.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let page = rustix::param::page_size() as u64;
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        ProcessUsage {
            // The open directory is a file, too.
            open_files: (open_files as u64).saturating_sub(1),
            ..ProcessUsage::parse(&stat, page)
        }
    }

    /// Parses the line of `stat`, see proc(5).
    fn parse(stat: &str, page_bytes: u64) -> Self {
        // The name of the process may have spaces and parentheses.
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            return ProcessUsage::default();
        };
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first field after the name is field 3.
        let number = |field: usize| {
            fields
                .get(field - 3)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        ProcessUsage {
            cpu_ticks: number(14) + number(15),
            threads: number(20),
            resident_bytes: number(24) * page_bytes,
            open_files: 0,
        }
    }

    pub fn encode(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let cpu_seconds = self.cpu_ticks as f64 / TICKS_PER_SECOND;
        families.seconds("process_cpu", "CPU time of the process", cpu_seconds)?;
        families.gauges(
            "process_resident_memory",
            "Resident memory of the process",
            Some(&Unit::Bytes),
            [(labels([]), self.resident_bytes)],
        )?;
        families.gauges(
            "process_open_files",
            "Open file descriptors",
            None,
            [(labels([]), self.open_files)],
        )?;
        families.gauges(
            "process_threads",
            "Threads of the process",
            None,
            [(labels([]), self.threads)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_the_fields_after_the_last_parenthesis() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 77 8192 3 18446744073709551615";
        let usage = ProcessUsage::parse(stat, 4096);
        let expected = ProcessUsage {
            cpu_ticks: 300,
            threads: 9,
            resident_bytes: 3 * 4096,
            open_files: 0,
        };
        assert_eq!(usage, expected);
        assert_eq!(ProcessUsage::parse("", 4096), ProcessUsage::default());
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let usage = ProcessUsage::read();
        assert!(
            usage.resident_bytes > 0 && usage.threads > 0 && usage.open_files > 0,
            "{usage:?}"
        );
    }
}
