//! Parses path, query and `X-Registry` into a route. Pure.
//!
//! The header field, `ns=` and the first part of the path may name a registry, and must not
//! contradict each other. The first part counts only if the part looks like a registry. Without a
//! name, the default applies. The operation is at the end of the path, because `blobs`, `manifests`
//! and `tags` are legal parts of repository names.

use super::pagination;
use super::route_error::RouteError;
use crate::cache::LookupKind;
use crate::http::{ContentItem, ContentName};
use crate::oci::{
    Digest, ListQuery, Namespace, Origin, ParseDigestError, Reference, Repository, pairs, percent_decoded,
};
use crate::upstream::Target;
use crate::web::ASSET_PREFIX;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/v2/`, the check for a registry.
    Ping,
    Health(Probe),
    Stats,
    /// The web page, or one of its files.
    Web,
    Content(Requested, What),
}

/// The kind of a health check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Liveness. Fails if only a restart helps.
    Alive,
    /// Liveness, for programs that read the body as JSON.
    AliveJson,
    /// Readiness. Fails if the cache should receive no requests.
    Ready,
}

/// The origin of the requested content, and the part of the request that chose the registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requested {
    pub origin: Origin,
    pub chosen: Chosen,
    /// The `ns` of the query. The response repeats the value.
    pub ns: Option<String>,
}

/// The part of a request that chose the registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// `X-Registry` or `ns`. The client uses this cache as a mirror, and can contact the registry
    /// directly.
    Beside,
    /// The path, or the default for a path without a registry.
    InName,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Manifest(Reference),
    Blob(Digest),
    /// A page of tags; `None` for an empty page.
    Tags(Option<ListQuery>),
    Referrers(Digest, ListQuery),
}

impl What {
    /// Returns the name of the content for messages, with registry and repository.
    pub fn subject(&self, origin: &Origin) -> String {
        let Origin {
            namespace,
            repository,
        } = origin;
        match self {
            What::Manifest(Reference::Tag(tag)) => format!("manifest {namespace}/{repository}:{tag}"),
            What::Manifest(Reference::Digest(digest)) => {
                format!("manifest {namespace}/{repository}@{digest}")
            }
            What::Blob(digest) => format!("blob {namespace}/{repository}@{digest}"),
            What::Tags(_) => format!("the list of tags of {namespace}/{repository}"),
            What::Referrers(digest, _) => format!("the referrers of {namespace}/{repository}@{digest}"),
        }
    }

    /// Returns the name of the content for the access log.
    pub fn name(&self, origin: &Origin) -> ContentName {
        ContentName {
            registry: origin.namespace.to_string(),
            repository: origin.repository.to_string(),
            item: match self {
                What::Manifest(Reference::Tag(tag)) => ContentItem::Tag(tag.to_string()),
                What::Manifest(Reference::Digest(digest)) | What::Blob(digest) => {
                    ContentItem::Digest(digest.to_string())
                }
                What::Tags(_) | What::Referrers(..) => ContentItem::None,
            },
        }
    }

    /// Returns the kind of the lookup. `None` for a list.
    pub fn lookup_kind(&self) -> Option<LookupKind> {
        match self {
            What::Manifest(Reference::Tag(_)) => Some(LookupKind::Tag),
            What::Manifest(Reference::Digest(_)) => Some(LookupKind::Manifest),
            What::Blob(_) => Some(LookupKind::Blob),
            What::Tags(_) | What::Referrers(..) => None,
        }
    }

    /// Returns the target of the upstream request; `None` for an empty page of tags.
    pub fn target(&self) -> Option<Target> {
        match self {
            What::Manifest(reference) => Some(Target::Manifest(reference.clone())),
            What::Blob(digest) => Some(Target::Blob(*digest)),
            What::Tags(query) => query.clone().map(Target::Tags),
            What::Referrers(digest, query) => Some(Target::Referrers(*digest, query.clone())),
        }
    }
}

/// Parses `path` and `query`, both as received. `field` has the lines of `X-Registry`, or no line
/// if the operator does not allow the field.
pub fn parse<'h>(
    path: &str,
    query: Option<&str>,
    field: impl Iterator<Item = &'h [u8]>,
    default: Option<&Namespace>,
) -> Result<Route, RouteError> {
    match path {
        "/v2/" | "/v2" => return Ok(Route::Ping),
        "/healthz" | "/livez" => return Ok(Route::Health(Probe::Alive)),
        "/readyz" => return Ok(Route::Health(Probe::Ready)),
        "/_/health" => return Ok(Route::Health(Probe::AliveJson)),
        "/_/stats" => return Ok(Route::Stats),
        "/" => return Ok(Route::Web),
        "/v2/_catalog" | "/v2/_catalog/" => return Err(RouteError::Catalog),
        _ if path.starts_with(ASSET_PREFIX) => return Ok(Route::Web),
        _ => {}
    }
    let rest = path.strip_prefix("/v2/").ok_or(RouteError::NotFound)?;
    let parts: Vec<&str> = rest.split('/').collect();
    let (name, verb, last) = match &parts[..] {
        // A trailing slash is ignored. Otherwise the last part would be empty, and no reference is
        // empty.
        [name @ .., verb, last, ""] if !name.is_empty() && is_verb(verb, last) => (name, *verb, *last),
        [name @ .., verb, last] if !name.is_empty() && is_verb(verb, last) => (name, *verb, *last),
        _ => return Err(RouteError::NotFound),
    };
    let requested = requested(name, ns_of(query)?, field_of(field)?, default)?;
    let digest = || decode(last).ok_or(ParseDigestError::Syntax)?.parse::<Digest>();
    let what = match verb {
        "manifests" => What::Manifest(match decode(last) {
            Some(tag) if !tag.contains(':') => {
                Reference::Tag(tag.parse().map_err(|_| RouteError::Reference)?)
            }
            None if !last.contains(':') => return Err(RouteError::Reference),
            _ => Reference::Digest(digest()?),
        }),
        "blobs" => What::Blob(digest()?),
        "referrers" => What::Referrers(digest()?, pagination::referrers(query)?),
        _ => What::Tags(pagination::tags(query)?),
    };
    Ok(Route::Content(requested, what))
}

/// Returns whether two parts of a path select an operation.
fn is_verb(verb: &str, last: &str) -> bool {
    matches!(verb, "manifests" | "blobs" | "referrers") || (verb, last) == ("tags", "list")
}

fn requested(
    name: &[&str],
    ns: Option<String>,
    field: Option<Namespace>,
    default: Option<&Namespace>,
) -> Result<Requested, RouteError> {
    let name: Vec<String> = name
        .iter()
        .map(|part| decode(part).ok_or(RouteError::Name))
        .collect::<Result<_, _>>()?;
    let name = &name[..];
    let in_path = match name {
        [first, _, ..] if Namespace::looks_like(first) => Some(namespace(first)?),
        _ => None,
    };
    let in_query = ns.as_deref().map(namespace).transpose()?;
    let named = [&field, &in_query, &in_path];
    let mut named = named.into_iter().flatten();
    let first = named.next();
    if named.any(|other| Some(other) != first) {
        return Err(RouteError::Disagree);
    }
    let namespace = first.or(default).ok_or(RouteError::NoRegistry)?.clone();
    let chosen = if field.is_some() || in_query.is_some() {
        Chosen::Beside
    } else {
        Chosen::InName
    };
    let name = if in_path.is_some() { &name[1..] } else { name };
    let name = match name {
        [single] if namespace.is_docker_hub() => format!("library/{single}"),
        parts => parts.join("/"),
    };
    let repository: Repository = name.parse().map_err(|_| RouteError::Name)?;
    Ok(Requested {
        origin: Origin {
            namespace,
            repository,
        },
        chosen,
        ns,
    })
}

fn namespace(text: &str) -> Result<Namespace, RouteError> {
    text.parse().map_err(|_| RouteError::Namespace)
}

/// Returns the name in the path of a list, with the registry, as the client wrote the name. `path`
/// must be a route.
pub fn name_in(path: &str) -> Option<String> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (name, _) = path
        .strip_prefix("/v2/")?
        .strip_suffix("/list")?
        .rsplit_once('/')?;
    percent_decoded(name)
}

/// Returns the `ns` of a query. Several values are an error.
fn ns_of(query: Option<&str>) -> Result<Option<String>, RouteError> {
    let mut found = None;
    for (_, value) in pairs(query.unwrap_or_default()).filter(|(key, _)| key == "ns") {
        let value = decode(value).ok_or(RouteError::Namespace)?;
        if found.replace(value).is_some() {
            return Err(RouteError::Namespace);
        }
    }
    // An empty `ns` counts as absent.
    Ok(found.filter(|ns| !ns.is_empty()))
}

/// Returns the registry in `X-Registry`. Several lines are an error.
fn field_of<'h>(mut lines: impl Iterator<Item = &'h [u8]>) -> Result<Option<Namespace>, RouteError> {
    match (lines.next(), lines.next()) {
        (None, _) | (Some([]), None) => Ok(None),
        (Some(value), None) => {
            let text = std::str::from_utf8(value).map_err(|_| RouteError::Namespace)?;
            namespace(text).map(Some)
        }
        (Some(_), Some(_)) => Err(RouteError::Namespace),
    }
}

/// Decodes percent-escapes in a part of a path. `None` for an invalid escape, for a slash, and for
/// characters other than printable ASCII. The grammars reject the rest.
fn decode(text: &str) -> Option<String> {
    // An escaped slash would split the part in two.
    percent_decoded(text).filter(|text| !text.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(target: &str) -> Result<Route, RouteError> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        parse(
            path,
            query,
            std::iter::empty(),
            Some(&"docker.io".parse().unwrap()),
        )
    }

    /// Returns registry, repository and reference of a manifest route.
    fn manifest(target: &str) -> Result<(String, String, String), RouteError> {
        match route(target)? {
            Route::Content(Requested { origin, .. }, What::Manifest(reference)) => Ok((
                origin.namespace.to_string(),
                origin.repository.to_string(),
                reference.to_string(),
            )),
            other => panic!("{target} is {other:?}"),
        }
    }

    fn found(
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Result<(String, String, String), RouteError> {
        Ok((registry.into(), repository.into(), reference.into()))
    }

    #[test]
    fn the_registry_comes_from_ns_or_the_path_or_the_default() {
        for (target, expected) in [
            ("/v2/nginx/manifests/1", found("docker.io", "library/nginx", "1")),
            (
                "/v2/library/nginx/manifests/1",
                found("docker.io", "library/nginx", "1"),
            ),
            (
                "/v2/docker.io/nginx/manifests/1",
                found("docker.io", "library/nginx", "1"),
            ),
            (
                "/v2/registry-1.docker.io/nginx/manifests/1",
                found("docker.io", "library/nginx", "1"),
            ),
            (
                "/v2/nginx/manifests/1?ns=index.docker.io",
                found("docker.io", "library/nginx", "1"),
            ),
            (
                "/v2/ghcr.io/org/app/manifests/V1-rc",
                found("ghcr.io", "org/app", "V1-rc"),
            ),
            ("/v2/app/manifests/1?ns=ghcr.io", found("ghcr.io", "app", "1")),
            (
                "/v2/org/app/manifests/1?ns=localhost%3A5000",
                found("localhost:5000", "org/app", "1"),
            ),
            ("/v2/localhost/app/manifests/1", found("localhost", "app", "1")),
            (
                "/v2/host:5000/a/b/c/d/manifests/1",
                found("host:5000", "a/b/c/d", "1"),
            ),
            (
                "/v2/registry.internal_5000/a/manifests/1",
                found("registry.internal:5000", "a", "1"),
            ),
            (
                "/v2/localhost_5000/a/manifests/1",
                found("localhost:5000", "a", "1"),
            ),
            (
                "/v2/registry.internal_5000/a/manifests/1?ns=registry.internal%3A5000",
                found("registry.internal:5000", "a", "1"),
            ),
            ("/v2/my_5000/a/manifests/1", found("docker.io", "my_5000/a", "1")),
            // A single part is a repository.
            (
                "/v2/localhost_5000/manifests/1",
                found("docker.io", "library/localhost_5000", "1"),
            ),
            (
                "/v2/ghcr.io/org/app/manifests/1?ns=ghcr.io",
                found("ghcr.io", "org/app", "1"),
            ),
            (
                "/v2/ghcr.io/org/app/manifests/1?ns=quay.io",
                Err(RouteError::Disagree),
            ),
            (
                "/v2/a/manifests/1?ns=quay.io&ns=ghcr.io",
                Err(RouteError::Namespace),
            ),
            ("/v2/a/manifests/1?ns=", found("docker.io", "library/a", "1")),
            (
                "/v2/a/blobs/manifests/b/manifests/1",
                found("docker.io", "a/blobs/manifests/b", "1"),
            ),
        ] {
            assert_eq!(manifest(target), expected, "{target}");
        }
    }

    #[test]
    fn registry_field_takes_precedence_and_must_not_conflict() {
        let of = |target: &str, lines: &[&str]| {
            let (path, query) = target
                .split_once('?')
                .map_or((target, None), |(path, query)| (path, Some(query)));
            let lines = lines.iter().map(|line| line.as_bytes());
            match parse(path, query, lines, Some(&"docker.io".parse().unwrap()))? {
                Route::Content(requested, _) => Ok((
                    requested.origin.namespace.to_string(),
                    requested.origin.repository.to_string(),
                    requested.chosen,
                )),
                other => panic!("{target} is {other:?}"),
            }
        };
        let found =
            |registry: &str, repository: &str, chosen| Ok((registry.into(), repository.into(), chosen));
        let path = "/v2/a/b/manifests/1";
        assert_eq!(of(path, &[]), found("docker.io", "a/b", Chosen::InName));
        assert_eq!(of(path, &[""]), found("docker.io", "a/b", Chosen::InName));
        assert_eq!(of(path, &["Q.io"]), found("q.io", "a/b", Chosen::Beside));
        assert_eq!(
            of("/v2/a/manifests/1", &["index.docker.io"]),
            found("docker.io", "library/a", Chosen::Beside)
        );
        let in_path = "/v2/q.io/b/tags/list";
        assert_eq!(of(in_path, &["q.io:443"]), found("q.io", "b", Chosen::Beside));
        assert_eq!(of(in_path, &[]), found("q.io", "b", Chosen::InName));
        assert_eq!(of(in_path, &["r.io"]), Err(RouteError::Disagree));
        let in_query = "/v2/b/tags/list?n=1&ns=q.io";
        assert_eq!(of(in_query, &["q.io"]), found("q.io", "b", Chosen::Beside));
        assert_eq!(of(in_query, &["r.io"]), Err(RouteError::Disagree));
        for bad in [
            &["q.io", "q.io"][..],
            &["q.io, r.io"],
            &["http://q.io"],
            &["q.io/a"],
            &["ä.io"],
        ] {
            assert_eq!(of(path, bad), Err(RouteError::Namespace), "{bad:?}");
        }
    }

    #[test]
    fn list_routes_carry_page_and_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let what = |target: &str| match route(target)? {
            Route::Content(_, what) => Ok(what.target().map(|target| format!("{target:?}"))),
            other => panic!("{target} is {other:?}"),
        };
        assert_eq!(what("/v2/q.io/a/tags/list?n=0"), Ok(None));
        assert!(what("/v2/q.io/a/tags/list?n=5").unwrap().unwrap().contains("n=5"));
        assert!(
            what(&format!("/v2/q.io/a/referrers/{digest}"))
                .unwrap()
                .unwrap()
                .contains(&digest)
        );
        assert_eq!(what("/v2/q.io/a/tags/list?n=x"), Err(RouteError::Page));
        assert_eq!(
            what("/v2/q.io/a/referrers/latest"),
            Err(RouteError::Digest(ParseDigestError::Syntax))
        );
        assert_eq!(what("/v2/q.io/a/tags/other"), Err(RouteError::NotFound));
        assert_eq!(what("/v2/tags/list"), Err(RouteError::NotFound));
        assert_eq!(name_in("/v2/q.io/a%2Db/tags/list").as_deref(), Some("q.io/a-b"));
    }

    #[test]
    fn single_trailing_slash_is_ignored() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for path in [
            "/v2/q.io/a/manifests/1".to_owned(),
            "/v2/a/manifests/manifests".to_owned(),
            format!("/v2/q.io/a/manifests/{digest}"),
            format!("/v2/q.io/a/blobs/{digest}"),
            format!("/v2/q.io/a/referrers/{digest}"),
            "/v2/q.io/a/tags/list".to_owned(),
        ] {
            let bare = route(&path);
            assert!(bare.is_ok(), "{path}");
            assert_eq!(route(&format!("{path}/")), bare, "{path}/");
            assert_eq!(route(&format!("{path}/?ns=")), bare, "{path}/");
            assert!(route(&format!("{path}//")).is_err(), "{path}//");
        }
        assert_eq!(name_in("/v2/q.io/a/tags/list/").as_deref(), Some("q.io/a"));
        for (path, error) in [
            ("/v2//", RouteError::NotFound),
            ("/v2/a/", RouteError::NotFound),
            ("/v2/manifests/1/", RouteError::NotFound),
            ("/v2/a/b/manifests/", RouteError::Reference),
            ("/v2/a/manifests//", RouteError::Reference),
            ("/v2/a//manifests/1/", RouteError::Name),
        ] {
            assert_eq!(route(path), Err(error), "{path}");
        }
    }

    #[test]
    fn without_a_default_a_name_has_to_have_a_registry() {
        let of = |path: &str, query| parse(path, query, std::iter::empty(), None);
        assert_eq!(of("/v2/a/b/manifests/1", None), Err(RouteError::NoRegistry));
        assert!(of("/v2/a/b/manifests/1", Some("ns=q.io")).is_ok());
        assert!(of("/v2/q.io/a/manifests/1", None).is_ok());
        assert_eq!(of("/v2/", None), Ok(Route::Ping));
    }

    #[test]
    fn cosign_tags_are_tags_and_not_digests() {
        let hex = "a".repeat(64);
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig")] {
            assert_eq!(
                manifest(&format!("/v2/q.io/a/manifests/{tag}")),
                found("q.io", "a", &tag)
            );
        }
    }

    #[test]
    fn invalid_route_is_rejected_with_its_reason() {
        let hex = "a".repeat(64);
        for (target, error) in [
            ("/v1/", RouteError::NotFound),
            ("/v1/_ping", RouteError::NotFound),
            ("/v2/_catalog", RouteError::Catalog),
            ("/v2/_catalog?n=100", RouteError::Catalog),
            ("/v2/manifests/1", RouteError::NotFound),
            ("/v2/a/uploads/1", RouteError::NotFound),
            ("/v2/../manifests/1", RouteError::Name),
            ("/v2/a/../b/manifests/1", RouteError::Name),
            ("/v2/a%2f..%2fb/manifests/1", RouteError::Name),
            ("/v2/a/%2e%2e/manifests/1", RouteError::Name),
            ("/v2/a//b/manifests/1", RouteError::Name),
            ("/v2/A/manifests/1", RouteError::Name),
            ("/v2/a%00/manifests/1", RouteError::Name),
            ("/v2/a%zz/manifests/1", RouteError::Name),
            ("/v2/a%2Fb/manifests/1", RouteError::Name),
            ("/v2/x.y:z/a/manifests/1", RouteError::Namespace),
            ("/v2/../../etc/manifests/1", RouteError::Namespace),
            ("/v2/a/manifests/.1", RouteError::Reference),
            ("/v2/a/manifests/", RouteError::Reference),
            (
                "/v2/a/manifests/sha256:x",
                RouteError::Digest(ParseDigestError::Hex),
            ),
            ("/v2/a/blobs/latest", RouteError::Digest(ParseDigestError::Syntax)),
            (
                &format!("/v2/a/blobs/md5:{}", &hex[..32]),
                RouteError::Digest(ParseDigestError::Algorithm),
            ),
            ("/v2/a/blobs/../../x", RouteError::NotFound),
        ] {
            assert_eq!(route(target), Err(error), "{target}");
        }
        assert!(matches!(
            route(&format!("/v2/a/blobs/sha256%3A{hex}")),
            Ok(Route::Content(_, What::Blob(_)))
        ));
        assert_eq!(route("/v2"), Ok(Route::Ping));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 20_000 }))]
        #[test]
        fn route_parser_does_not_panic_on_any_path(path in "/v2/[a-z./%:0-9A-Z_-]{0,60}", query in "(ns=|n=)?[a-z0-9%&=.:]{0,20}", field in "[a-z0-9.:]{0,9}") {
            let default = "docker.io".parse().unwrap();
            let _ = parse(&path, Some(&query), [field.as_bytes()].into_iter(), Some(&default));
        }
    }
}
