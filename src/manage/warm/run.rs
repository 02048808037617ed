//! One run of a rule of `warm`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;

use crossbeam_channel::Receiver;
use futures_util::future::{Either, select};

use super::image::{Kept, WarmImage, held_back};
use super::report::WarmReport;
use super::reserve::Reserve;
use super::selection::{ListError, Selection, listed_tags, stored_tags};
use crate::config::{LoadSettings, WarmRuleConfig};
use crate::limits::WARM_IMAGES_MAX;
use crate::manage::load::{tags::TagsError, until_stopped};
use crate::manage::{LoadProgress, Loader, WantedImage};
use crate::oci::{ImageName, Namespace, Origin, Platforms, Reference, Tag};
use crate::runtime::core;
use crate::store::{Pin, Stores};

/// A run of a rule.
#[derive(Clone)]
pub struct WarmRun {
    pub loader: Loader,
    pub stores: Stores,
    pub rule: WarmRuleConfig,
    pub settings: LoadSettings,
    /// The begin of the run, in milliseconds since 1970.
    pub began_ms: u64,
    /// The registries that held back an earlier run, with the begin of that run. This run continues it there.
    pub continued: BTreeMap<Namespace, u64>,
}

impl WarmRun {
    /// Checks the tags of the rule at their registries, one after another, and fetches the images of tags
    /// that have moved. A tag that fails does not end the run. The drop of the sender of `stopped` ends the
    /// run. Blocks.
    ///
    /// # Errors
    ///
    /// The thread cannot wait for events, for example because the process has no free descriptor.
    pub fn run(&self, progress: &LoadProgress, stopped: &Receiver<()>) -> io::Result<WarmReport> {
        progress.follow(&self.loader.cache);
        let report = RefCell::new(WarmReport {
            rule: self.rule.place.clone(),
            ..WarmReport::default()
        });
        self.pin(&report);
        let stored = stored_tags(&self.stores, &self.rule);
        let fetched = Cell::new(0);
        let complete = core::run_aside(async {
            let work = self.check(stored, &report, &fetched, progress);
            match select(pin!(work), pin!(until_stopped(stopped))).await {
                Either::Left(_) => true,
                Either::Right(_) => false,
            }
        })?;
        Ok(WarmReport {
            complete,
            fetched_bytes: fetched.get(),
            ..report.into_inner()
        })
    }

    async fn check(
        &self,
        stored: Selection,
        report: &RefCell<WarmReport>,
        fetched: &Cell<u64>,
        progress: &LoadProgress,
    ) {
        let percent = self.rule.reserve_percent;
        let reserve = Reserve::new(|origin| {
            let upstreams = self.loader.cache.upstreams();
            upstreams.allowance(&origin.namespace, &origin.repository, percent)
        });
        let mut selection = self.select(stored, report, &reserve).await;
        let left_out = selection.limit(WARM_IMAGES_MAX) as u64;
        let images = selection.tags.len() as u64;
        progress.expect(images, 0);
        {
            let mut report = report.borrow_mut();
            (report.images, report.left_out) = (images, left_out);
        }
        for place in selection.tags {
            self.check_image(place, report, (fetched, progress), &reserve)
                .await;
        }
    }

    /// Returns the tags of the run. The stored tags stand in for a list that the registry does not send.
    async fn select(
        &self,
        stored: Selection,
        report: &RefCell<WarmReport>,
        reserve: &Reserve<'_>,
    ) -> Selection {
        let origin = self.rule.pattern.repository_of_tags();
        let Some(origin) = origin.filter(|_| self.rule.lists_tags()) else {
            return stored;
        };
        let listed = Box::pin(listed_tags(&self.loader, &self.rule, &origin, reserve));
        let within = self.settings.pull_timeout;
        let listed = monoio::time::timeout(within, listed).await;
        let error = match listed {
            Ok(Ok(listed)) => return listed,
            Ok(Err(error)) => error,
            Err(_elapsed) => ListError::Tags(TagsError::TooSlow(within.as_secs_f64())),
        };
        let mut report = report.borrow_mut();
        match error.held_back(reserve, &origin) {
            (Some(held), _) => report.record_held_list(held),
            (None, why) => report.record_failure(self.rule.pattern.as_str().to_owned(), why),
        }
        stored
    }

    async fn check_image(
        &self,
        place: (Origin, Tag),
        report: &RefCell<WarmReport>,
        (fetched, progress): (&Cell<u64>, &LoadProgress),
        reserve: &Reserve<'_>,
    ) {
        let name = ImageName {
            origin: place.0.clone(),
            reference: Some(Reference::Tag(place.1.clone())),
        };
        let shown = name.to_string();
        let image = WarmImage {
            loader: &self.loader,
            reserve,
            wanted: WantedImage {
                name,
                platforms: self.platforms().clone(),
            },
            place,
            fetched,
        };
        let within = self.settings.pull_timeout;
        let since_ms = self.since_ms(&image.place.0.namespace);
        let keep = Box::pin(image.keep(since_ms, progress));
        let kept = monoio::time::timeout(within, keep).await;
        let mut report = report.borrow_mut();
        match kept {
            Ok(Ok(kept)) => {
                match kept {
                    Kept::Recent => report.recent += 1,
                    Kept::Unchanged => report.checked += 1,
                    Kept::Changed => {
                        report.checked += 1;
                        report.changed += 1;
                    }
                }
                progress.advance(0);
            }
            Ok(Err(error)) => match held_back(&error, reserve, &image.place.0) {
                Some(held) => report.record_held_back(held, &image.place.0.namespace),
                None => report.record_failure(shown, error.to_string()),
            },
            Err(_elapsed) => {
                let why = format!(
                    "the image was not complete within {} s; set a longer PULL_TIMEOUT",
                    within.as_secs_f64()
                );
                report.record_failure(shown, why);
            }
        }
    }

    /// Returns the begin of this run, or of the run that this run continues. Tags that the registry has
    /// confirmed since then get no request.
    pub fn since_ms(&self, registry: &Namespace) -> u64 {
        self.continued.get(registry).copied().unwrap_or(self.began_ms)
    }

    /// Returns the platforms to fetch of an index.
    pub fn platforms(&self) -> &Platforms {
        self.rule.platforms.as_ref().unwrap_or(&self.settings.platforms)
    }

    fn pin(&self, report: &RefCell<WarmReport>) {
        if !self.rule.pin {
            return;
        }
        let pin = Pin::of(self.rule.pattern.clone()).for_platforms(self.platforms().clone());
        if let Err(error) = self.stores.pin(&pin) {
            report
                .borrow_mut()
                .record_failure(pin.to_string(), error.to_string());
        }
    }
}
