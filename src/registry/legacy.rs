//! The commands of ociregistry under `/cmd/`, for clients that have logged in.

use super::Registry;
use super::error::PullError;
use super::respond::{common, in_memory};
use crate::admin::{LegacyAdmin, LegacyAnswer, LegacyRequest};
use crate::auth::Identity;
use crate::http::{CacheResult, RequestHead, Response};

impl Registry {
    /// Returns the commands of ociregistry if `head` is for one of them. `None` without
    /// `LEGACY_ADMIN`, and while client authentication is off.
    pub(super) fn legacy_admin(&self, head: &RequestHead<'_>) -> Option<&LegacyAdmin> {
        let legacy = self.options.legacy_admin.as_ref()?;
        (head.path.starts_with("/cmd/") && self.authenticator.is_enabled()).then_some(legacy)
    }

    /// Answers a command.
    ///
    /// # Errors
    ///
    /// The client has not logged in.
    pub(super) async fn command(
        &self,
        legacy: &LegacyAdmin,
        head: &RequestHead<'_>,
        identity: &Identity,
    ) -> Result<Response, PullError> {
        let Identity::User(user) = identity else {
            return Err(self.authenticator.rejection().into());
        };
        if is_from_page(head) {
            let text = "a page of another site must not send commands\n".to_owned();
            return Ok(response(403, None, text));
        }
        let answer = legacy.answer(LegacyRequest {
            method: head.method_text,
            path: head.path,
            query: head.query,
            user,
            peer: head.peer,
            id: head.id,
        });
        Ok(match answer.await {
            LegacyAnswer::Done(text) => response(200, None, text),
            LegacyAnswer::Invalid(text) => response(400, None, text),
            LegacyAnswer::Unknown(text) => response(404, None, text),
            LegacyAnswer::Method(allowed, text) => response(405, Some(allowed), text),
            LegacyAnswer::NoStore(text) => response(409, None, text),
            LegacyAnswer::Failed(text) => response(500, None, text),
            LegacyAnswer::Busy(text) => response(503, None, text),
        })
    }
}

/// Returns whether a browser sent the request for a page. A browser adds the stored password to the
/// request of any page.
fn is_from_page(head: &RequestHead<'_>) -> bool {
    head.headers().any(|(name, value)| {
        let is_site = name.eq_ignore_ascii_case("sec-fetch-site");
        name.eq_ignore_ascii_case("origin") || is_site && !matches!(value, b"none" | b"same-origin")
    })
}

fn response(status: u16, allowed: Option<&str>, text: String) -> Response {
    let mut fields = common()
        .with("Content-Type", "text/plain")
        .with("Cache-Control", "no-store");
    if let Some(allowed) = allowed {
        fields.add("Allow", allowed);
    }
    in_memory(status, fields, text.into(), CacheResult::None)
}
