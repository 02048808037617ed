//! What health checks are told. Answered on the core from what was heard already: nothing is waited for, no disk, no helper
//! thread, no upstream, so that it is told in time whatever hangs.

use super::error::PullError;
use super::route::Probe;
use super::{Registry, plain};
use crate::fail_point::reach;
use crate::http::Response;

impl Registry {
    /// The answer to a health check.
    pub(super) fn health(&self, probe: Probe) -> Result<Response, PullError> {
        reach("health");
        match probe {
            Probe::Alive => self.options.vitals.alive()?,
            Probe::AliveJson => {
                self.options.vitals.alive()?;
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
        self.options.vitals.ready()?;
        let answers = self.cache.is_store_answering() && !self.options.vitals.store().is_silent();
        if self.registries().air_gapped && !answers {
            return Err(PullError::StoreSilent);
        }
        Ok(())
    }
}
