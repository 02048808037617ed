//! Path and query to a route. Pure.
//!
//! Which registry: `ns=`, else the first part of the path if it looks like one, else the default. Two that
//! disagree are refused. The verb is looked for from the end: `blobs`, `manifests` and `tags` are legal parts of
//! repository names.

use crate::cache::Origin;
use crate::oci::{Digest, Namespace, ParseDigestError, Reference, Repository};

/// What a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/v2/`: is this a registry?
    Ping,
    Health,
    Stats,
    Manifest {
        origin: Origin,
        reference: Reference,
        ns: Option<String>,
    },
    Blob {
        origin: Origin,
        digest: Digest,
        ns: Option<String>,
    },
    /// `tags/list` and `referrers`.
    Listing,
}

/// Why a path is no route. The client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    #[error("there is nothing here; the registry API begins at /v2/")]
    NotFound,
    #[error("the repository name is not valid")]
    Name,
    #[error("the registry is not valid")]
    Namespace,
    #[error("`ns` and the path name different registries")]
    Disagree,
    #[error("the reference is neither a tag nor a digest")]
    Reference,
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

/// Finds the route of `path` and `query` (both as received).
pub fn parse(path: &str, query: Option<&str>, default: &Namespace) -> Result<Route, RouteError> {
    match path {
        "/v2/" | "/v2" => return Ok(Route::Ping),
        "/_/stats" => return Ok(Route::Stats),
        "/healthz" | "/livez" | "/readyz" | "/_/health" => return Ok(Route::Health),
        _ => {}
    }
    let rest = path.strip_prefix("/v2/").ok_or(RouteError::NotFound)?;
    let parts: Vec<&str> = rest.split('/').collect();
    let (name, verb, last) = match &parts[..] {
        [name @ .., verb, last] if !name.is_empty() => (name, *verb, *last),
        _ => return Err(RouteError::NotFound),
    };
    let ns = ns_of(query)?;
    let digest = || decode(last).ok_or(ParseDigestError::Syntax)?.parse::<Digest>();
    match verb {
        "manifests" => {
            let origin = origin(name, ns.as_deref(), default)?;
            let reference = match decode(last) {
                Some(tag) if !tag.contains(':') => {
                    Reference::Tag(tag.parse().map_err(|_| RouteError::Reference)?)
                }
                None if !last.contains(':') => return Err(RouteError::Reference),
                _ => Reference::Digest(digest()?),
            };
            Ok(Route::Manifest {
                origin,
                reference,
                ns,
            })
        }
        "blobs" => {
            let origin = origin(name, ns.as_deref(), default)?;
            Ok(Route::Blob {
                origin,
                digest: digest()?,
                ns,
            })
        }
        "tags" if last == "list" => origin(name, ns.as_deref(), default).map(|_| Route::Listing),
        "referrers" => {
            origin(name, ns.as_deref(), default)?;
            digest()?;
            Ok(Route::Listing)
        }
        _ => Err(RouteError::NotFound),
    }
}

fn origin(name: &[&str], ns: Option<&str>, default: &Namespace) -> Result<Origin, RouteError> {
    let name: Vec<String> = name
        .iter()
        .map(|part| decode(part).ok_or(RouteError::Name))
        .collect::<Result<_, _>>()?;
    let name = &name[..];
    let in_path = match name {
        [first, _, ..] if Namespace::looks_like(first) => {
            Some(first.parse::<Namespace>().map_err(|_| RouteError::Namespace)?)
        }
        _ => None,
    };
    let in_query = ns
        .map(|ns| ns.parse::<Namespace>().map_err(|_| RouteError::Namespace))
        .transpose()?;
    if let (Some(path), Some(query)) = (&in_path, &in_query)
        && path != query
    {
        return Err(RouteError::Disagree);
    }
    let name = if in_path.is_some() { &name[1..] } else { name };
    let namespace = in_query.or(in_path).unwrap_or_else(|| default.clone());
    let name = match name {
        [single] if namespace.is_docker_hub() => format!("library/{single}"),
        parts => parts.join("/"),
    };
    let repository: Repository = name.parse().map_err(|_| RouteError::Name)?;
    Ok(Origin {
        namespace,
        repository,
    })
}

/// The one `ns` of a query; other parameters mean nothing here.
fn ns_of(query: Option<&str>) -> Result<Option<String>, RouteError> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&') {
        if let Some(value) = pair.strip_prefix("ns=") {
            let value = decode(value).ok_or(RouteError::Namespace)?;
            if found.replace(value).is_some() {
                return Err(RouteError::Namespace);
            }
        }
    }
    // `ns=` says as much as no `ns`.
    Ok(found.filter(|ns| !ns.is_empty()))
}

/// Resolves percent-escapes; `None` for broken ones, and for what is not ASCII or a slash then. The grammars
/// refuse the rest.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let hex = [bytes.next()?, bytes.next()?];
            let hex = std::str::from_utf8(&hex)
                .ok()
                .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(hex, 16).ok()?
        } else {
            byte
        };
        if !byte.is_ascii() || byte.is_ascii_control() {
            return None;
        }
        out.push(char::from(byte));
    }
    // An escaped slash would make two parts of one.
    (!out.contains('/')).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(target: &str) -> Result<Route, RouteError> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        parse(path, query, &"docker.io".parse().unwrap())
    }

    /// registry, repository and reference of a manifest route.
    fn manifest(target: &str) -> Result<(String, String, String), RouteError> {
        match route(target)? {
            Route::Manifest {
                origin, reference, ..
            } => Ok((
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
    fn what_is_no_route_says_why() {
        let hex = "a".repeat(64);
        for (target, error) in [
            ("/", RouteError::NotFound),
            ("/v1/_ping", RouteError::NotFound),
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
            Ok(Route::Blob { .. })
        ));
        assert_eq!(route("/v2"), Ok(Route::Ping));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_path_is_a_route_or_an_error(path in "/v2/[a-z./%:0-9A-Z_-]{0,60}", query in "(ns=)?[a-z%&=.:]{0,20}") {
            let _ = parse(&path, Some(&query), &"docker.io".parse().unwrap());
        }
    }
}
