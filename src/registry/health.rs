//! Answers health checks. The core reads the recorded heartbeats, and waits for no disk, no helper
//! thread and no upstream. So a health check is answered in time while another part hangs.

use super::error::PullError;
use super::route::Probe;
use super::{Registry, plain};
use crate::fail_point::hit;
use crate::http::Response;

impl Registry {
    pub(super) fn health(&self, probe: Probe) -> Result<Response, PullError> {
        hit("health");
        match probe {
            Probe::Alive => self.options.health.alive()?,
            Probe::AliveJson => {
                self.options.health.alive()?;
                return Ok(plain(200, "application/json", "{\"status\":\"healthy\"}"));
            }
            Probe::Ready => self.ready()?,
        }
        Ok(plain(200, "text/plain", "ok\n"))
    }

    /// Returns an error if requests would not be answered in time. If the store hangs, upstreams
    /// deliver stored content again, at the cost of speed. An air-gapped cache then has no source
    /// left. Unavailable upstreams do not count, because stored content is served without
    /// upstreams.
    fn ready(&self) -> Result<(), PullError> {
        self.options.health.ready()?;
        let answers = self.cache.is_store_answering() && !self.options.health.store().is_silent();
        if self.registries().air_gapped && !answers {
            return Err(PullError::StoreSilent);
        }
        Ok(())
    }
}
