//! Answers health checks. The core reads the recorded heartbeats, and waits for no disk, no helper thread and no upstream.
//! So a health check gets its answer in time while another part hangs.

use super::error::PullError;
use super::route::Probe;
use super::{Registry, plain};
use crate::fail_point::hit;
use crate::http::Response;

impl Registry {
    /// The answer to a health check.
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

    /// Whether requests would be answered in time. A store that hangs costs speed, and what it holds comes from upstream
    /// again; where no upstream may be asked, there is nothing left to answer with. How the upstreams are is no matter: what
    /// is held is served without them.
    fn ready(&self) -> Result<(), PullError> {
        self.options.health.ready()?;
        let answers = self.cache.is_store_answering() && !self.options.health.store().is_silent();
        if self.registries().air_gapped && !answers {
            return Err(PullError::StoreSilent);
        }
        Ok(())
    }
}
