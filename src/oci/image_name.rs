//! Names of images, as users write them for Docker.

use std::fmt;
use std::str::FromStr;

use super::{Namespace, Origin, Reference};

/// A repository, with or without a tag or a digest: `alpine`, `quay.io/a/b:v1`, `a@sha256:…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageName {
    pub origin: Origin,
    /// The digest of a name with tag and digest.
    pub reference: Option<Reference>,
}

/// The reason why a text is no name of an image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} is no name of an image: {reason}; expected [registry/]repository[:tag][@digest]")]
pub struct ParseImageNameError {
    name: String,
    reason: String,
}

/// The registry of names without a registry, and the prefix of its repositories without a user.
const DOCKER_HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";

impl FromStr for ImageName {
    type Err = ParseImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseImageNameError {
            name: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<ImageName, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the port of the registry.
    let name_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[name_at..].split_once(':') {
        Some((name, tag)) => (&rest[..name_at + name.len()], Some(tag)),
        None => (rest, None),
    };
    let (namespace, repository) = match path.split_once('/') {
        Some((registry, repository)) if Namespace::looks_like(registry) => (registry, repository.to_owned()),
        _ => (DOCKER_HUB, path.to_owned()),
    };
    let namespace: Namespace = namespace.parse().map_err(|error| format!("{error}"))?;
    let is_official = namespace.is_docker_hub() && !repository.contains('/');
    let repository = if is_official {
        format!("{OFFICIAL}{repository}")
    } else {
        repository
    };
    let repository = repository.parse().map_err(|error| format!("{error}"))?;
    let tag = tag.map(|tag| {
        tag.parse()
            .map(Reference::Tag)
            .map_err(|error| format!("{error}"))
    });
    let digest = digest.map(|digest| {
        let parsed = digest.parse().map(Reference::Digest);
        parsed.map_err(|error| format!("{error}"))
    });
    let (tag, digest) = (tag.transpose()?, digest.transpose()?);
    Ok(ImageName {
        origin: Origin {
            namespace,
            repository,
        },
        reference: digest.or(tag),
    })
}

impl ImageName {
    /// Returns the name, with the tag `latest` if the name has no tag and no digest.
    pub fn or_latest(self) -> Self {
        let latest = || Reference::Tag("latest".parse().expect("latest is a valid tag"));
        ImageName {
            reference: Some(self.reference.unwrap_or_else(latest)),
            ..self
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin.namespace, self.origin.repository)?;
        match &self.reference {
            None => Ok(()),
            Some(Reference::Tag(tag)) => write!(f, ":{tag}"),
            Some(Reference::Digest(digest)) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_like_names_for_docker() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, full) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("grafana/loki", "docker.io/grafana/loki"),
            ("index.docker.io/alpine", "docker.io/library/alpine"),
            ("localhost/a", "localhost/a"),
            ("r.example:5000/a/b:v1", "r.example:5000/a/b:v1"),
            ("r.example:5000/a", "r.example:5000/a"),
            (&format!("quay.io/a@{digest}"), &format!("quay.io/a@{digest}")),
            (&format!("quay.io/a:v1@{digest}"), &format!("quay.io/a@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn other_texts_are_rejected_with_the_expected_form() {
        for bad in [
            "",
            "A",
            "a:",
            "a@",
            "a@sha256:1",
            "r.example/",
            "/a",
            "a b",
            "a:b:c",
            "http://r.example/a",
        ] {
            let error = bad.parse::<ImageName>().unwrap_err().to_string();
            assert!(error.contains("[registry/]repository"), "{bad}: {error}");
        }
    }
}
