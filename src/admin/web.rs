//! The web page of the admin listener. The page and its files need no token, because they have no
//! content of the cache. The requests of the page to the API need one.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::api::{Answer, Api};
use super::body::whole;
use super::problem::Problem;
use crate::http::conditional::if_none_match;
use crate::web::{SECURITY_FIELDS, WebFile, accepts_gzip};

impl Api {
    /// Answers `GET /` and `GET /ui/…`.
    pub(super) fn web(&self, path: &str, headers: &HeaderMap) -> Answer {
        let site = self.subjects.web.as_ref().ok_or(Problem::NotFound)?;
        let accepts_gzip = accepts_gzip(values(headers, &header::ACCEPT_ENCODING));
        let file = match path {
            "/" => site.admin_page(accepts_gzip),
            _ => site.asset(path, accepts_gzip).ok_or(Problem::NotFound)?,
        };
        Ok(response(headers, file))
    }
}

fn response(headers: &HeaderMap, file: &WebFile) -> Response<super::body::Body> {
    let is_known = if_none_match(values(headers, &header::IF_NONE_MATCH), &file.etag);
    let mut response = match is_known {
        true => Response::new(whole("")),
        false => Response::new(whole(file.body.clone())),
    };
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let coding = (file.is_gzip && !is_known).then_some(("Content-Encoding", "gzip"));
    let own = [
        ("Content-Type", file.media_type),
        ("Cache-Control", file.cache_control),
        ("ETag", &file.etag),
        ("Vary", "Accept-Encoding"),
    ];
    for (name, value) in own.into_iter().chain(coding).chain(SECURITY_FIELDS) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("each name is a token");
        let value = HeaderValue::from_str(value).expect("each value is printable ASCII");
        response.headers_mut().insert(name, value);
    }
    response
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}
