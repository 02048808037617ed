//! The request of the command line about an import.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{AdminClient, AdminError, RequestBody};
use crate::limits::IMPORT_TIMEOUT;
use crate::manage::{ImportReport, ImportRule};
use crate::sync::Mutex;

/// Bytes of an archive that are sent at once.
const PART_BYTES: usize = 256 * 1024;

impl AdminClient {
    /// Streams an archive to the cache, which imports it.
    ///
    /// # Errors
    ///
    /// The archive cannot be read, or the request failed. No image is visible then.
    pub fn import(
        &self,
        archive: impl Read + Send + 'static,
        rule: &ImportRule,
    ) -> Result<ImportReport, AdminError> {
        let mut target = format!(
            "/api/v1/import?public={}&dry_run={}",
            rule.is_public, rule.is_dry_run
        );
        if let Some(name) = &rule.name {
            let name = name.to_string();
            target += &format!("&name={}", utf8_percent_encode(&name, NON_ALPHANUMERIC));
        }
        let failure = Arc::new(Mutex::new(None));
        let mut request = Request::new(body_of(archive, failure.clone()));
        *request.method_mut() = Method::POST;
        let tar = header::HeaderValue::from_static("application/x-tar");
        request.headers_mut().insert(header::CONTENT_TYPE, tar);
        let sent = self.send_request(request, &target, IMPORT_TIMEOUT);
        match failure.lock().take() {
            Some(error) => Err(AdminError::Input(error)),
            None => sent,
        }
    }
}

/// Returns the archive as a body. A read that fails ends the request, and stays in `failure`.
fn body_of(archive: impl Read + Send + 'static, failure: Arc<Mutex<Option<std::io::Error>>>) -> RequestBody {
    let parts = stream::unfold(Some(archive), move |archive| {
        let failure = failure.clone();
        async move {
            let mut archive = archive?;
            let mut part = vec![0; PART_BYTES];
            // The runtime has no other work.
            let read = loop {
                match archive.read(&mut part) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            match read {
                Ok(0) => None,
                Ok(length) => {
                    part.truncate(length);
                    Some((Ok(Frame::data(Bytes::from(part))), Some(archive)))
                }
                Err(error) => {
                    let end = std::io::Error::from(error.kind());
                    *failure.lock() = Some(error);
                    Some((Err(end), None))
                }
            }
        }
    });
    StreamBody::new(parts).boxed_unsync()
}
