//! `GET /_/stats`, the use, the content and the availability of the registries as JSON. The names of pulled content are
//! private, so the statistics require client authentication.

use super::Registry;
use super::error::PullError;
use super::respond::{common, in_memory};
use super::route_error::RouteError;
use crate::http::{CacheResult, Response};
use crate::manage::{active_registries, registry_stats};

impl Registry {
    pub(super) async fn stats(&self) -> Result<Response, PullError> {
        if !self.authenticator.is_enabled() {
            return Err(RouteError::NotFound.into());
        }
        let statuses = self.cache.registry_statuses().await?;
        let requests = self.cache.lookup_counts().totals();
        let active = active_registries(&statuses, &requests);
        let contents = self.cache.registry_contents(active).await?;
        let body = registry_stats(&statuses, contents, requests).to_string();
        let fields = common()
            .with("Content-Type", "application/json")
            .with("Cache-Control", "no-store");
        Ok(in_memory(200, fields, body.into(), CacheResult::None))
    }
}
