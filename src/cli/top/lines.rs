//! The figures of `top` as lines of text.

use indicatif::DecimalBytes;

use super::view::{FillRow, StoreRow, View};
use crate::admin::{JobStatus, RateLimitView, UpstreamView};

/// Characters of a short digest, as in `list --short-digest`.
const SHORT_DIGEST: usize = 12;

/// Characters of the first column of a table on the narrowest terminal.
const FIRST_COLUMN_MIN: usize = 12;

/// The columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// A table with a title. The first row has the names of the columns.
struct Section {
    title: String,
    rows: Vec<Vec<String>>,
    /// Rows that the terminal has no room for.
    hidden: usize,
}

/// Returns the view as lines. The lines fit `size`, if there is a terminal.
pub(super) fn lines(view: &View, size: Option<Size>) -> Vec<String> {
    let head = head(view);
    let mut sections = [fills(view), upstreams(view), jobs(view)];
    if let Some(size) = size {
        shorten(&mut sections, size.rows.saturating_sub(head.len()));
    }
    let columns = size.map(|size| size.columns);
    let tables = sections.iter().flat_map(|section| section.lines(columns));
    let lines = head.into_iter().chain(tables);
    match size {
        Some(size) => lines
            .take(size.rows)
            .map(|line| line.chars().take(size.columns).collect())
            .collect(),
        None => lines.collect(),
    }
}

fn head(view: &View) -> Vec<String> {
    let requests = view.requests_per_second.map(|rate| format!("{rate:.1}"));
    let mut lines = vec![
        format!(
            "clients    {} requests/s, {}, {} of {} connections",
            requests.unwrap_or_else(none),
            byte_rate(view.sent_bytes_per_second),
            view.connections,
            view.connections_max
        ),
        format!(
            "hit ratio  {} in total, {} since the last refresh",
            percentage(view.hit_ratio),
            percentage(view.recent_hit_ratio)
        ),
        format!("upstreams  {}", byte_rate(view.received_bytes_per_second)),
    ];
    lines.extend(view.stores.iter().map(store));
    lines
}

fn store(row: &StoreRow) -> String {
    let bound = match row.bytes_max {
        Some(max) => format!(
            "{} ({})",
            DecimalBytes(max),
            percentage(Some(row.bytes as f64 / max.max(1) as f64))
        ),
        None => "an unlimited size".to_owned(),
    };
    let name = match row.store.as_str() {
        "default" => String::new(),
        directory => format!(" in {directory}"),
    };
    format!(
        "store      {} of {bound}, {} reserved{name}",
        DecimalBytes(row.bytes),
        DecimalBytes(row.reserved_bytes)
    )
}

fn fills(view: &View) -> Section {
    let names = [
        "FILL", "DIGEST", "PROGRESS", "BYTES", "RATE", "CLIENTS", "UPSTREAM",
    ];
    Section::new("fills in progress", &names, view.fills.iter().map(fill))
}

fn fill(row: &FillRow) -> Vec<String> {
    let fill = &row.fill;
    let digest = fill
        .digest
        .split_once(':')
        .map_or(fill.digest.as_str(), |(_, hex)| hex);
    let total = fill.bytes_total.map(|total| DecimalBytes(total).to_string());
    vec![
        format!("{}/{}", fill.registry, fill.repository),
        digest.chars().take(SHORT_DIGEST).collect(),
        row.percent.map_or_else(none, |percent| format!("{percent} %")),
        format!(
            "{} of {}",
            DecimalBytes(fill.bytes),
            total.unwrap_or_else(|| "?".to_owned())
        ),
        byte_rate(row.bytes_per_second),
        fill.followers.to_string(),
        fill.upstream
            .clone()
            .unwrap_or_else(|| match fill.source.as_str() {
                "bucket" => "bucket".to_owned(),
                _ => none(),
            }),
    ]
}

fn upstreams(view: &View) -> Section {
    let rows = view.upstreams.iter().map(upstream);
    Section::new("upstreams", &["REGISTRY", "STATE", "BUDGET", "RESET"], rows)
}

fn upstream(upstream: &UpstreamView) -> Vec<String> {
    let limit = upstream.rate_limit.as_ref();
    let reset = limit.and_then(|limit| limit.reset_seconds);
    vec![
        upstream.registry.clone(),
        upstream.state.clone(),
        limit.map_or_else(none, budget),
        reset.map_or_else(none, |seconds| format!("in {seconds} s")),
    ]
}

fn budget(limit: &RateLimitView) -> String {
    let number = |number: Option<u64>| number.map_or_else(none, |number| number.to_string());
    format!("{} of {} left", number(limit.remaining), number(limit.limit))
}

fn jobs(view: &View) -> Section {
    let rows = view.jobs.iter().map(job);
    Section::new("running jobs", &["JOB", "KIND", "OBJECTS", "BYTES"], rows)
}

fn job(job: &JobStatus) -> Vec<String> {
    let progress = job.progress;
    vec![
        job.job.to_string(),
        job.kind.word().to_owned(),
        format!("{} of {}", progress.objects, progress.objects_total),
        format!(
            "{} of {}",
            DecimalBytes(progress.bytes),
            DecimalBytes(progress.bytes_total)
        ),
    ]
}

impl Section {
    fn new(title: &str, names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let rows: Vec<_> = std::iter::once(names).chain(rows).collect();
        Section {
            title: format!("{}: {title}", rows.len() - 1),
            rows,
            hidden: 0,
        }
    }

    /// Returns the count of [`Section::lines`].
    fn height(&self) -> usize {
        match (self.rows.len(), self.hidden) {
            (1, 0) => 2,
            (rows, 0) => rows + 2,
            (rows, _) => rows + 3,
        }
    }

    /// Returns an empty line, the title, and the rows in columns.
    fn lines(&self, columns: Option<usize>) -> Vec<String> {
        let mut lines = vec![String::new(), self.title.clone()];
        if self.rows.len() > 1 || self.hidden > 0 {
            let widths = self.widths(columns);
            lines.extend(self.rows.iter().map(|row| row_line(row, &widths)));
        }
        if self.hidden > 0 {
            lines.push(format!("{} more", self.hidden));
        }
        lines
    }

    /// Returns the widths of the columns. Only the first column shrinks.
    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let mut widths: Vec<usize> = (0..self.rows[0].len()).filter_map(width).collect();
        if let Some(columns) = columns {
            let others = widths[1..].iter().map(|width| width + 2).sum();
            let room = columns.saturating_sub(others).max(FIRST_COLUMN_MIN);
            widths[0] = widths[0].min(room);
        }
        widths
    }
}

/// Hides rows of the longest section until the sections have at most `rows` lines, or no further rows.
fn shorten(sections: &mut [Section], rows: usize) {
    while sections.iter().map(Section::height).sum::<usize>() > rows {
        let longest = sections
            .iter_mut()
            .filter(|section| section.rows.len() > 1)
            .max_by_key(|section| section.rows.len());
        let Some(section) = longest else {
            return;
        };
        section.rows.pop();
        section.hidden += 1;
    }
}

fn row_line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, &width)| {
        let cell = ended(cell, width);
        format!("{cell:<width$}")
    });
    let line = cells.collect::<Vec<_>>().join("  ");
    line.trim_end().to_owned()
}

/// Returns the end of a text that is wider than `width`. The end of a repository names the image.
fn ended(text: &str, width: usize) -> String {
    let length = text.chars().count();
    match length <= width {
        true => text.to_owned(),
        false => format!("...{}", text.chars().skip(length + 3 - width).collect::<String>()),
    }
}

fn percentage(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |ratio| format!("{:.1} %", ratio * 100.0))
}

fn byte_rate(rate: Option<u64>) -> String {
    rate.map_or_else(none, |rate| format!("{}/s", DecimalBytes(rate)))
}

/// The text of an absent figure.
fn none() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests;
