//! Parses and classifies redirects. Pure.

use http::HeaderMap;
use http::header::LOCATION;
use reqwest::Url;

use crate::oci::Repository;

/// The maximum number of hops after the registry itself. Real chains have one or two, and loops are
/// endless.
pub(super) const REDIRECTS_MAX: usize = 5;

/// Returns whether a response with this status is a redirect. 300 and 304 are not valid answers to
/// our requests.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect. A relative `Location` is resolved against `from`.
///
/// The caller must check the result with [`super::policy::Policy::check_url`].
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Result<Url, &'static str> {
    let mut locations = headers.get_all(LOCATION).iter();
    let location = locations.next().ok_or("the redirect has no Location")?;
    if locations.next().is_some_and(|other| other != location) {
        return Err("the redirect has two different values of Location");
    }
    let location =
        std::str::from_utf8(location.as_bytes()).map_err(|_| "the redirect has an invalid Location")?;
    let mut url = from
        .join(location)
        .map_err(|_| "the redirect has an invalid Location")?;
    url.set_fragment(None);
    Ok(url)
}

/// Returns the repository in a path of the registry API. The API may be below a path prefix.
pub(super) fn repository_of(path: &str) -> Option<Repository> {
    let (_, rest) = path.split_once("/v2/")?;
    let (front, last) = rest.rsplit_once('/')?;
    let name = match front.rsplit_once('/')? {
        (name, "manifests" | "blobs" | "referrers") => name,
        (name, "tags") if last == "list" => name,
        _ => return None,
    };
    name.parse().ok()
}

/// Returns whether two URLs share scheme, host and port, the scope of a secret.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Returns `url` in https if an https origin redirects to itself in plain http. Such a server runs
/// behind a TLS proxy and is unaware of TLS. The port must be absent, 80, or the port of `origin`;
/// the result has the port of `origin`.
pub(super) fn upgraded(mut url: Url, origin: &Url) -> Url {
    let same_host = url.host_str().is_some() && url.host_str() == origin.host_str();
    // A parsed URL never contains the default port of its scheme.
    let same_port = url.port().is_none() || url.port() == origin.port_or_known_default();
    if (url.scheme(), origin.scheme()) == ("http", "https") && same_host && same_port {
        let mut secure = url.clone();
        if secure.set_scheme("https").is_ok() && secure.set_port(origin.port()).is_ok() {
            url = secure;
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(locations: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for location in locations {
            map.append(LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn locations_are_resolved_against_where_they_came_from() {
        let from = Url::parse("https://r.example/v2/a/blobs/sha256:00?x=y").unwrap();
        let table = [
            ("https://cdn.example/b?sig=1", "https://cdn.example/b?sig=1"),
            ("HTTPS://CDN.example:443/b", "https://cdn.example/b"),
            ("/b?c=d", "https://r.example/b?c=d"),
            ("b", "https://r.example/v2/a/blobs/b"),
            ("../x", "https://r.example/v2/a/x"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("?q", "https://r.example/v2/a/blobs/sha256:00?q"),
            ("https://cdn.example/b#frag", "https://cdn.example/b"),
            ("http://cdn.example/b", "http://cdn.example/b"),
            ("\\\\evil.example/b", "https://evil.example/b"),
            ("https:evil", "https://r.example/v2/a/blobs/evil"),
        ];
        for (location, expected) in table {
            assert_eq!(
                target(&from, &headers(&[location])).unwrap().as_str(),
                expected,
                "{location}"
            );
        }
        assert!(
            target(&from, &headers(&["/b", "/b"])).is_ok(),
            "two equal locations are one location"
        );
    }

    #[test]
    fn invalid_redirect_location_is_an_error() {
        let from = Url::parse("https://r.example/v2/").unwrap();
        for bad in [
            &[][..],
            &["https://"],
            &["https://a b/"],
            &["https://[::1/"],
            &["/a", "/b"],
            &["https://x:99999/"],
        ] {
            assert!(target(&from, &headers(bad)).is_err(), "{bad:?}");
        }
        let mut map = HeaderMap::new();
        map.insert(LOCATION, HeaderValue::from_bytes(b"/\xff").unwrap());
        assert!(target(&from, &map).is_err());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://r.example/a", "https://R.example:443/b?c"));
        assert!(same("http://r.example:80/a", "http://r.example/b"));
        assert!(!same("https://r.example/", "http://r.example/"));
        assert!(!same("https://r.example/", "https://r.example:8443/"));
        assert!(!same("http://r.example:443/", "https://r.example/"));
        assert!(!same("https://r.example/", "https://cdn.r.example/"));
        assert!(!same("https://r.example/", "https://r.example./"));
        assert!(!same("https://r.example/", "https://r.example.evil.example/"));
    }

    #[test]
    fn http_url_of_an_https_host_to_itself_is_upgraded_to_https() {
        for (url, origin, expected) in [
            (
                "http://r.example/token?x=1",
                "https://r.example",
                "https://r.example/token?x=1",
            ),
            (
                "http://r.example:80/token",
                "https://r.example",
                "https://r.example/token",
            ),
            (
                "http://r.example:443/token",
                "https://r.example/v2/",
                "https://r.example/token",
            ),
            (
                "http://R.example/token",
                "https://r.example:8443",
                "https://r.example:8443/token",
            ),
            (
                "http://r.example:8443/token",
                "https://r.example:8443",
                "https://r.example:8443/token",
            ),
            (
                "http://127.0.0.1/token",
                "https://127.0.0.1:5000",
                "https://127.0.0.1:5000/token",
            ),
            // Another port, another host, or an origin that is plain itself.
            (
                "http://r.example:8081/token",
                "https://r.example",
                "http://r.example:8081/token",
            ),
            (
                "http://r.example:443/token",
                "https://r.example:8443",
                "http://r.example:443/token",
            ),
            (
                "http://other.example/token",
                "https://r.example",
                "http://other.example/token",
            ),
            (
                "http://a.r.example/token",
                "https://r.example",
                "http://a.r.example/token",
            ),
            (
                "http://r.example/token",
                "http://r.example",
                "http://r.example/token",
            ),
            (
                "https://r.example:1/token",
                "https://r.example",
                "https://r.example:1/token",
            ),
            (
                "ftp://r.example/token",
                "https://r.example",
                "ftp://r.example/token",
            ),
        ] {
            let parsed = |text: &str| Url::parse(text).unwrap();
            assert_eq!(
                upgraded(parsed(url), &parsed(origin)),
                parsed(expected),
                "{url} of {origin}"
            );
        }
    }

    #[test]
    fn only_statuses_that_name_a_place_are_redirects() {
        let followed: Vec<u16> = (100..600).filter(|&status| is_redirect(status)).collect();
        assert_eq!(followed, [301, 302, 303, 307, 308]);
    }

    #[test]
    fn only_a_path_of_the_registry_api_names_a_repository() {
        for (path, repository) in [
            ("/v2/linkerd/proxy/manifests/v1", Some("linkerd/proxy")),
            ("/v2/a/blobs/sha256:00", Some("a")),
            ("/v2/a/blobs/b/blobs/sha256:00", Some("a/blobs/b")),
            ("/prefix/v2/a/b/tags/list", Some("a/b")),
            ("/v2/a/referrers/sha256:00", Some("a")),
            ("/v2/", None),
            ("/v2/a", None),
            ("/v2/manifests/v1", None),
            ("/v2/a/tags/other", None),
            ("/v2/A/manifests/v1", None),
            ("/bucket/blobs/sha256:00", None),
            ("/v2/../a/manifests", None),
        ] {
            let found = repository_of(path);
            assert_eq!(found.as_ref().map(Repository::as_str), repository, "{path}");
        }
    }
}
