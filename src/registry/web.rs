//! The web page of the data port. The page has no content of the cache, so no login is necessary.

use super::Registry;
use super::error::PullError;
use super::respond::{self, in_memory};
use super::route_error::RouteError;
use crate::http::conditional::if_none_match;
use crate::http::{CacheResult, Fields, RequestHead, Response};
use crate::web::{SECURITY_FIELDS, WebFile, WebSite, accepts_gzip};

impl Registry {
    /// Answers a request for the page, or for one of its files.
    ///
    /// # Errors
    ///
    /// The web page is off, or no file has this path.
    pub(super) fn web(&self, head: &RequestHead<'_>) -> Result<Response, PullError> {
        let site = self.options.web.as_ref().ok_or(RouteError::NotFound)?;
        if head.path == "/" {
            let page = site.pull_page(head.host, head.is_tls, head.query);
            return Ok(response(head, &page));
        }
        Ok(response(head, asset(site, head)?))
    }
}

fn asset<'s>(site: &'s WebSite, head: &RequestHead<'_>) -> Result<&'s WebFile, PullError> {
    let codings = head
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("accept-encoding"))
        .filter_map(|(_, value)| std::str::from_utf8(value).ok());
    let found = site.asset(head.path, accepts_gzip(codings));
    Ok(found.ok_or(RouteError::NotFound)?)
}

fn response(head: &RequestHead<'_>, file: &WebFile) -> Response {
    let mut fields = Fields::new();
    for (name, value) in SECURITY_FIELDS {
        fields.add(name, value);
    }
    fields.add("Cache-Control", file.cache_control);
    fields.add("ETag", &file.etag);
    fields.add("Vary", "Accept-Encoding");
    if if_none_match(head.if_none_match(), &file.etag) {
        return respond::not_modified(fields, CacheResult::None);
    }
    fields.add("Content-Type", file.media_type);
    if file.is_gzip {
        fields.add("Content-Encoding", "gzip");
    }
    in_memory(200, fields, file.body.clone(), CacheResult::None)
}
