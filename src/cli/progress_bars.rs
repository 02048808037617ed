//! Bars on a terminal: one for each image in work, and one for the whole command.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::Progress;

/// A bar with bytes, the rate, and the time that is left. A terminal of 80 columns has 33 for the name.
const WITH_BYTES: &str =
    "{wide_msg} {bar:10} {decimal_bytes:>9}/{decimal_total_bytes:<9} {decimal_bytes_per_sec:>11} {eta:>3}";

const TEXT_ONLY: &str = "{wide_msg}";

pub(super) struct Bars {
    bars: MultiProgress,
    /// The bar of the whole command, below the other bars.
    total: ProgressBar,
    /// The names of the images in work, with their bars.
    images: Vec<(String, ProgressBar)>,
}

impl Bars {
    /// Returns bars on standard error. `None` for a terminal whose cursor cannot move.
    pub fn new() -> Option<Self> {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        if bars.is_hidden() {
            return None;
        }
        let total = bars.add(ProgressBar::no_length().with_style(style(TEXT_ONLY)));
        Some(Bars {
            bars,
            total,
            images: Vec::new(),
        })
    }

    /// Shows the progress in place of the earlier progress.
    pub fn show(&mut self, progress: &Progress) {
        self.remove_ended(progress);
        for image in &progress.images {
            let known = self.images.iter().find(|(name, _)| *name == image.image);
            let bar = known.map(|(_, bar)| bar.clone()).unwrap_or_else(|| {
                let bar = ProgressBar::new(0).with_style(style(WITH_BYTES));
                let bar = self.bars.insert_before(&self.total, bar);
                bar.set_message(image.image.clone());
                self.images.push((image.image.clone(), bar.clone()));
                bar
            });
            bar.set_length(image.bytes_total);
            bar.set_position(image.bytes);
        }
        if let Some(counts) = progress.counts.filter(|counts| counts.bytes_total > 0) {
            self.total.set_style(style(WITH_BYTES));
            self.total.set_length(counts.bytes_total);
            self.total.set_position(counts.bytes);
        }
        let text = match progress.counts {
            Some(counts) => {
                let job = progress.job.map_or_else(String::new, |id| format!("job {id}: "));
                format!("{job}{} of {} objects", counts.objects, counts.objects_total)
            }
            None => progress.line(),
        };
        self.total.set_message(text);
        self.total.tick();
    }

    fn remove_ended(&mut self, progress: &Progress) {
        let bars = &self.bars;
        self.images.retain(|(name, bar)| {
            let is_in_work = progress.images.iter().any(|image| image.image == *name);
            if !is_in_work {
                bar.finish_and_clear();
                bars.remove(bar);
            }
            is_in_work
        });
    }

    /// Removes all bars.
    pub fn clear(&mut self) {
        // A closed terminal is no reason to end the command.
        let _ = self.bars.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are valid, which a test checks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [WITH_BYTES, TEXT_ONLY] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
