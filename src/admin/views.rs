//! The resources that show the state of the cache and change nothing.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::AdminSubjects;
use super::api::{Answer, Api, json_body, ok, reader};
use super::body::{self, Form};
use super::problem::Problem;
use super::streams;
use crate::events::EventReader;
use crate::limits::{ADMIN_PAGE_TIMEOUT, ADMIN_SORT_TIMEOUT, LOAD_BODY_BYTES_MAX};
use crate::manage::{
    AirGapSettings, ImagePage, ImageQuery, PullSettings, ReadinessRequest, Sort, check_readiness,
    explain_stored, list_page, report_missing, show_blob, show_images,
};
use crate::oci::{Digest, ImageName};
use crate::runtime::clock::monotonic_millis;
use crate::runtime::helper::blocking;
use crate::store::Stores;

impl Api {
    /// `GET /api/v1/images`
    pub(super) async fn list(&self, query: ImageQuery, form: Form) -> Answer {
        let stores = self.stores()?;
        if form == Form::Lines {
            if query.sort != Sort::default() {
                return Err(Problem::Invalid(
                    "a sorted listing has pages; request JSON, or leave out the parameter sort".to_owned(),
                ));
            }
            reader(&stores)?;
            let next = move |query: &ImageQuery| page(&stores, query).map_err(|problem| problem.to_string());
            return Ok(body::lines(StatusCode::OK, streams::images(query, next)));
        }
        let listed = blocking(move || page(&stores, &query));
        ok(StatusCode::OK, &listed.await.map_err(|_| Problem::Panicked)??)
    }

    /// `GET /api/v1/events`
    pub(super) fn events(&self) -> Answer {
        let reader = EventReader::new().ok_or(Problem::TooManyReaders)?;
        Ok(body::events(streams::events(reader)))
    }

    /// `GET /api/v1/jobs/{id}`
    pub(super) fn show_job(&self, id: u64, form: Form) -> Answer {
        let status = self.subjects.jobs.get(id)?;
        match form {
            Form::Lines => Ok(body::lines(
                StatusCode::OK,
                streams::job(self.subjects.jobs.clone(), id),
            )),
            Form::Whole => ok(StatusCode::OK, &status),
        }
    }

    /// `GET /api/v1/images/{name}`
    pub(super) async fn show(&self, name: ImageName) -> Answer {
        if name.reference.is_none() {
            return Err(Problem::Invalid(format!(
                "the name has no tag and no digest; list the images with GET /api/v1/images?repository={}",
                name.origin.repository
            )));
        }
        let stores = self.stores()?;
        let images = blocking(move || {
            let reader = reader(&stores)?;
            Ok::<_, Problem>(show_images(&stores.pinned(), &reader, &name))
        });
        let images = images.await.map_err(|_| Problem::Panicked)??;
        match images.is_empty() {
            true => Err(Problem::NotStored),
            false => ok(StatusCode::OK, &json!({"images": images})),
        }
    }

    /// `GET /api/v1/blobs/{digest}`
    pub(super) async fn blob(&self, digest: Digest) -> Answer {
        let stores = self.stores()?;
        let blob = blocking(move || show_blob(&stores, &digest)).await;
        match blob.map_err(|_| Problem::Panicked)? {
            Some(blob) => ok(StatusCode::OK, &blob),
            None => Err(Problem::NotStored),
        }
    }

    /// `GET /api/v1/missing`
    pub(super) async fn missing(&self, form: Form) -> Answer {
        let stores = self.stores()?;
        let AdminSubjects {
            cache,
            live,
            tag_policy,
            ..
        } = self.subjects.clone();
        let missing = blocking(move || {
            let (recorded, _) = cache.missing();
            let air_gap = AirGapSettings {
                registries: &live.registries(),
                caches_tags: tag_policy.cache_tags,
            };
            Ok::<_, Problem>(report_missing(&reader(&stores)?, air_gap, recorded))
        });
        let missing = missing.await.map_err(|_| Problem::Panicked)??;
        Ok(form.list("missing", &missing))
    }

    /// `POST /api/v1/readiness`
    pub(super) async fn readiness(&self, request: Request<Incoming>, form: Form) -> Answer {
        let stores = self.stores()?;
        let invalid = |error: String| Problem::Invalid(format!("the body is no readiness request: {error}"));
        let wanted: ReadinessRequest = json_body(request, LOAD_BODY_BYTES_MAX, invalid).await?;
        let AdminSubjects {
            live,
            tag_policy,
            load_settings,
            ..
        } = self.subjects.clone();
        let images = blocking(move || {
            let reader = reader(&stores)?;
            let request = wanted.into_load();
            let air_gap = AirGapSettings {
                registries: &live.registries(),
                caches_tags: tag_policy.cache_tags,
            };
            check_readiness(&reader, air_gap, &request, &load_settings).map_err(invalid)
        });
        let images = images.await.map_err(|_| Problem::Panicked)??;
        Ok(form.list("images", &images))
    }

    /// `GET /api/v1/explain`
    pub(super) async fn explain(&self, name: ImageName, user: Option<String>) -> Answer {
        let stores = self.stores()?;
        let AdminSubjects {
            upstreams,
            live,
            tag_policy,
            has_client_auth,
            ..
        } = self.subjects.clone();
        let explanation = blocking(move || {
            let statuses = upstreams.statuses();
            let namespace = &name.origin.namespace;
            let status = statuses.iter().find(|status| status.namespace == *namespace);
            let settings = PullSettings {
                registries: &live.registries(),
                tag_policy: &tag_policy,
                has_client_auth,
            };
            explain_stored(&stores, settings, status, name, user.as_deref())
        });
        let explanation = explanation.await.map_err(|_| Problem::Panicked)?;
        let explanation = explanation.map_err(|error| Problem::Unreadable(error.to_string()))?;
        ok(StatusCode::OK, &explanation)
    }
}

/// Lists a page of images. Blocks.
fn page(stores: &Stores, query: &ImageQuery) -> Result<ImagePage, Problem> {
    let reader = reader(stores)?;
    let limit = match query.sort == Sort::default() {
        true => ADMIN_PAGE_TIMEOUT,
        false => ADMIN_SORT_TIMEOUT,
    };
    let started = monotonic_millis();
    let goes_on = || u128::from(monotonic_millis() - started) < limit.as_millis();
    list_page(&reader, &stores.pinned(), query, goes_on).ok_or(Problem::SortTooSlow)
}
