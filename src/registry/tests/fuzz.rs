//! Parses arbitrary bytes as a request. The lines are the path, the query and the `X-Registry`
//! field.

use super::route::{self, Route, What};
use crate::oci::{Namespace, Reference, Repository};

/// Checks the guarantees of a route. Names are valid parts of paths, and digests have the canonical
/// form.
pub fn route(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let Some(Ok(path)) = lines.next().map(std::str::from_utf8) else {
        return;
    };
    let query = lines.next().and_then(|query| std::str::from_utf8(query).ok());
    let field = lines.next();
    let default: Namespace = "docker.io".parse().expect("a name");
    let Ok(Route::Content(requested, what)) = route::parse(path, query, field.into_iter(), Some(&default))
    else {
        return;
    };
    let origin = &requested.origin;
    let (namespace, repository) = (origin.namespace.as_str(), origin.repository.as_str());
    assert_eq!(namespace.parse::<Namespace>().as_ref(), Ok(&origin.namespace));
    assert_eq!(
        repository.parse::<Repository>().ok().as_ref(),
        Some(&origin.repository)
    );
    // In the directory of a repository, the store reserves names with a leading underscore.
    assert!(!repository.split('/').any(|part| part.starts_with('_')));
    for part in repository.split('/').chain([namespace]) {
        assert!(!part.is_empty() && part != "." && part != "..");
        assert!(
            part.bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"/\\%?#".contains(&byte))
        );
    }
    if let Some(ns) = &requested.ns {
        assert!(ns.bytes().all(|byte| byte.is_ascii_graphic()), "{ns:?}");
    }
    let digest = match &what {
        What::Blob(digest) | What::Referrers(digest, _) | What::Manifest(Reference::Digest(digest)) => digest,
        What::Manifest(Reference::Tag(tag)) => {
            assert!(tag.as_str().len() <= 128 && !tag.as_str().contains(['/', '@', ':']));
            return;
        }
        What::Tags(_) => {
            assert!(route::name_in(path).is_some());
            return;
        }
    };
    assert_eq!(digest.to_string().parse().ok().as_ref(), Some(digest));
}
