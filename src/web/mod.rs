//! The web page: the pull commands and the client configuration on the data port, and the state of the
//! cache on the admin listener. All files are part of the binary. A browser loads nothing from another
//! host, and the page works without a build step.
//!
//! The page of the data port is rendered here and also works without JavaScript. The page of the admin
//! listener reads the admin API.

mod admin_page;
mod assets;
mod client_setup;
mod commands;
mod markup;
mod pasted;
mod pull_page;
mod security;

use std::sync::Arc;

use crate::config::BaseUrl;

pub use assets::{ASSET_PREFIX, WebFile};
pub use security::SECURITY_FIELDS;

use assets::Assets;

/// The pages and the files of the web page. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WebSite(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    assets: Assets,
    admin_page: WebFile,
    admin_page_gzip: WebFile,
    /// The address of the cache in all commands. `None` means the host of each request.
    base_url: Option<BaseUrl>,
}

impl WebSite {
    /// Compresses the files. Takes some milliseconds, so the process calls this once at start.
    pub fn new(base_url: Option<BaseUrl>) -> Self {
        let assets = Assets::load();
        let (admin_page, admin_page_gzip) = admin_page::render(&assets);
        WebSite(Arc::new(Parts {
            assets,
            admin_page,
            admin_page_gzip,
            base_url,
        }))
    }

    /// Returns the page of the data port. `host` is the host of the request, and `query` its query as
    /// received.
    pub fn pull_page(&self, host: Option<&str>, is_https: bool, query: Option<&str>) -> WebFile {
        let Parts { assets, base_url, .. } = &*self.0;
        let of_request = || host.and_then(|host| BaseUrl::of_host(host, is_https));
        let address = base_url.clone().or_else(of_request);
        pull_page::render(assets, address.as_ref(), query.unwrap_or_default())
    }

    /// Returns the page of the admin listener.
    pub fn admin_page(&self, accepts_gzip: bool) -> &WebFile {
        match accepts_gzip {
            true => &self.0.admin_page_gzip,
            false => &self.0.admin_page,
        }
    }

    /// Returns the file with the path of a request. `None` for another path.
    pub fn asset(&self, path: &str, accepts_gzip: bool) -> Option<&WebFile> {
        self.0.assets.find(path, accepts_gzip)
    }
}

/// Returns whether the values of `Accept-Encoding` accept gzip (RFC 9110, section 12.5.3). A weight of
/// 0 refuses gzip.
pub fn accepts_gzip<'v>(values: impl IntoIterator<Item = &'v str>) -> bool {
    let mut codings = values.into_iter().flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::trim);
        let is_refused = weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_accepted_by_name_unless_its_weight_is_zero() {
        for (values, accepted) in [
            (&["gzip"][..], true),
            (&["br, GZIP;q=0.5"], true),
            (&["br", "deflate, gzip"], true),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.000"], false),
            (&["identity"], false),
            (&["*"], false),
            (&[], false),
        ] {
            assert_eq!(accepts_gzip(values.iter().copied()), accepted, "{values:?}");
        }
    }
}
