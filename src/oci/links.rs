//! The content that a manifest names, by the image specification. Performs no I/O.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Digest;
use crate::limits::MANIFEST_LINKS_MAX;

/// The content that a manifest names. Digests of unsupported algorithms are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestLinks {
    /// An index, or a manifest list of Docker.
    Index(Vec<Child>),
    /// The config, if any, and the layers of an image or an artifact.
    Image(Vec<Descriptor>),
}

/// A reference to content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub digest: Digest,
    /// Bytes by the manifest.
    pub size: u64,
}

/// A manifest in an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    pub descriptor: Descriptor,
    /// `os/architecture`, with a variant if present. `None` for content of no platform, such as an
    /// attestation.
    pub platform: Option<String>,
}

#[derive(Deserialize)]
struct Members {
    manifests: Option<Vec<Entry>>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    /// Layers of an artifact manifest of the first draft.
    blobs: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    data: Option<IgnoredAny>,
    #[serde(default)]
    urls: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl ManifestLinks {
    /// Reads the manifest `body`. Returns `None` for other JSON, and for a manifest that names more
    /// than [`MANIFEST_LINKS_MAX`] objects.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let members: Members = serde_json::from_slice(body).ok()?;
        let links = if let Some(manifests) = members.manifests {
            ManifestLinks::Index(manifests.into_iter().filter_map(Entry::child).collect())
        } else {
            let layers = members.layers.or(members.blobs)?;
            let entries = members.config.into_iter().chain(layers);
            ManifestLinks::Image(entries.filter_map(|entry| entry.descriptor()).collect())
        };
        (links.len() <= MANIFEST_LINKS_MAX).then_some(links)
    }

    /// Returns the digests of all named content.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        let (children, descriptors) = match self {
            ManifestLinks::Index(children) => (children.as_slice(), &[][..]),
            ManifestLinks::Image(descriptors) => (&[][..], descriptors.as_slice()),
        };
        let children = children.iter().map(|child| &child.descriptor.digest);
        children.chain(descriptors.iter().map(|descriptor| &descriptor.digest))
    }

    fn len(&self) -> usize {
        match self {
            ManifestLinks::Index(children) => children.len(),
            ManifestLinks::Image(descriptors) => descriptors.len(),
        }
    }
}

/// Returns the blobs of the image or artifact `body` that a client gets from its registry, each once.
/// None for an index, and for content of another kind. A descriptor with its content (`data`) or with
/// other addresses (`urls`) needs no blob of the registry.
pub fn required_blobs(body: &[u8]) -> Vec<Digest> {
    let Ok(members) = serde_json::from_slice::<Members>(body) else {
        return Vec::new();
    };
    let layers = members.layers.or(members.blobs).unwrap_or_default();
    let entries = members.config.into_iter().chain(layers).take(MANIFEST_LINKS_MAX);
    let entries = entries.filter(|entry| members.manifests.is_none() && entry.is_in_registry());
    let mut digests: Vec<Digest> = entries.filter_map(|entry| entry.digest.parse().ok()).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// Returns the manifest to which the manifest `body` refers. `None` for a manifest without a subject.
pub fn subject_of(body: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Referrer {
        subject: Entry,
    }
    let referrer: Referrer = serde_json::from_slice(body).ok()?;
    Some(referrer.subject.descriptor()?.digest)
}

/// Returns the manifests of the platforms in the index `body`. None for a list of artifacts, such as
/// signatures, and for content of another kind.
pub fn platform_manifests(body: &[u8]) -> Vec<Digest> {
    let Some(ManifestLinks::Index(children)) = ManifestLinks::parse(body) else {
        return Vec::new();
    };
    let platforms = children.iter().filter(|child| child.platform.is_some());
    platforms.map(|child| child.descriptor.digest).collect()
}

/// Returns whether the manifest `body` names content in its registry with a digest that this crate does not
/// support. Other functions leave out such content.
pub fn has_unknown_digest(body: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<Members>(body) else {
        return false;
    };
    let lists = [members.manifests, members.layers, members.blobs];
    let entries = lists.into_iter().flatten().flatten().chain(members.config);
    let mut entries = entries.filter(Entry::is_in_registry);
    entries.any(|entry| entry.digest.parse::<Digest>().is_err())
}

impl Entry {
    fn is_in_registry(&self) -> bool {
        self.data.is_none() && self.urls.as_ref().is_none_or(Vec::is_empty)
    }

    fn descriptor(&self) -> Option<Descriptor> {
        let digest = self.digest.parse().ok()?;
        Some(Descriptor {
            digest,
            size: self.size,
        })
    }

    fn child(self) -> Option<Child> {
        Some(Child {
            descriptor: self.descriptor()?,
            platform: self.platform.and_then(Platform::name),
        })
    }
}

impl Platform {
    /// BuildKit marks attestations with the platform `unknown/unknown`.
    fn name(self) -> Option<String> {
        if self.os.is_empty() || self.os == "unknown" {
            return None;
        }
        let mut name = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = self.variant.filter(|variant| !variant.is_empty()) {
            name.push('/');
            name.push_str(&variant);
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    #[test]
    fn image_names_its_config_and_its_layers() {
        let body = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[{{"digest":"{}","size":2}}]}}"#,
            digest("config"),
            digest("layer")
        );
        let expected = [("config", 1), ("layer", 2)].map(|(name, size)| Descriptor {
            digest: digest(name),
            size,
        });
        assert_eq!(
            ManifestLinks::parse(body.as_bytes()),
            Some(ManifestLinks::Image(expected.to_vec()))
        );
    }

    #[test]
    fn index_names_its_manifests_with_their_platforms() {
        let child = |name: &str, platform: &str| {
            format!(
                r#"{{"digest":"{}","size":3,"platform":{platform}}}"#,
                digest(name)
            )
        };
        let body = format!(
            r#"{{"manifests":[{},{},{},{{"digest":"md5:x","size":3}}]}}"#,
            child("amd64", r#"{"os":"linux","architecture":"amd64"}"#),
            child("arm", r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            child("proof", r#"{"os":"unknown","architecture":"unknown"}"#)
        );
        let Some(ManifestLinks::Index(children)) = ManifestLinks::parse(body.as_bytes()) else {
            panic!("the body is an index");
        };
        let found: Vec<_> = children
            .iter()
            .map(|child| (child.descriptor.digest, child.platform.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                (digest("amd64"), Some("linux/amd64")),
                (digest("arm"), Some("linux/arm/v7")),
                (digest("proof"), None),
            ]
        );
    }

    #[test]
    fn platforms_of_an_index_are_its_manifests_without_attestations() {
        let entry = |name: &str, os: &str| match os {
            "" => format!(r#"{{"digest":"{}"}}"#, digest(name)),
            os => format!(
                r#"{{"digest":"{}","platform":{{"os":"{os}","architecture":"amd64"}}}}"#,
                digest(name)
            ),
        };
        let index = |entries: &[String]| format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
        let platforms = index(&[
            entry("a", "linux"),
            entry("proof", "unknown"),
            entry("b", "windows"),
        ]);
        let found = platform_manifests(platforms.as_bytes());
        assert_eq!(found, [digest("a"), digest("b")]);
        let artifacts = index(&[entry("a", ""), entry("b", "")]);
        for body in ["", "{}", r#"{"layers":[]}"#, &artifacts] {
            assert_eq!(platform_manifests(body.as_bytes()), [], "{body}");
        }
    }

    #[test]
    fn image_requires_the_blobs_that_only_the_registry_has() {
        let entry = |name: &str, more: &str| format!(r#"{{"digest":"{}"{more}}}"#, digest(name));
        let layers = [
            entry("own", r#","urls":[]"#),
            entry("own", ""),
            entry("foreign", r#","urls":["https://r.example/layer"]"#),
            entry("inline", r#","data":"e30=""#),
        ];
        let config = entry("config", "");
        let body = format!(r#"{{"config":{config},"layers":[{}]}}"#, layers.join(","));
        let mut expected = vec![digest("config"), digest("own")];
        expected.sort_unstable();
        assert_eq!(required_blobs(body.as_bytes()), expected);
        let index = format!(r#"{{"manifests":[{config}],"layers":[{config}]}}"#);
        for body in [&*index, "{}", "", "[]"] {
            assert_eq!(required_blobs(body.as_bytes()), [], "{body}");
        }
    }

    #[test]
    fn content_with_an_unsupported_digest_is_found() {
        let entry = |digest: &str| format!(r#"{{"digest":"{digest}","size":1}}"#);
        let known = entry(&digest("a").to_string());
        for (layers, is_unknown) in [
            (known.clone(), false),
            (entry("sha384:00"), true),
            (r#"{"digest":"sha384:00","size":1,"data":""}"#.to_owned(), false),
        ] {
            let image = format!(r#"{{"config":{known},"layers":[{layers}]}}"#);
            let index = format!(r#"{{"manifests":[{layers}]}}"#);
            for body in [image, index] {
                assert_eq!(has_unknown_digest(body.as_bytes()), is_unknown, "{body}");
            }
        }
    }

    #[test]
    fn other_content_names_nothing() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"layers":7}"#,
            r#"{"config":{"digest":"x"}}"#,
            "null",
        ] {
            assert_eq!(ManifestLinks::parse(body.as_bytes()), None, "{body}");
        }
        let many = vec![format!(r#"{{"digest":"{}"}}"#, digest("x")); MANIFEST_LINKS_MAX + 1];
        let body = format!(r#"{{"layers":[{}]}}"#, many.join(","));
        assert_eq!(ManifestLinks::parse(body.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn no_body_causes_a_panic(body in any::<Vec<u8>>()) {
            let _ = ManifestLinks::parse(&body);
        }
    }
}
