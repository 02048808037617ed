//! Names of stored files and objects, relative to a directory or a bucket prefix. No other module
//! builds these names.

use std::path::PathBuf;

use crate::oci::{Accept, Algorithm, Digest, Namespace, Repository, Tag};
use crate::store::{Key, RecordName};

pub const BLOBS: &str = "blobs";
pub const MANIFESTS: &str = "manifests";
pub const TAGS: &str = "_tags";
pub const REFERRERS: &str = "_referrers";
pub const RECORD_SUFFIX: &str = ".json";
/// Used in directories only.
pub const TEMPORARY: &str = ".tmp";
/// Used in directories only.
pub const PINS: &str = "pins.json";
/// Used in directories only.
pub const SCRUB: &str = "scrub.json";
/// Used in directories only.
pub const MISSING: &str = "missing.json";
/// Used in directories only.
pub const LOCK: &str = ".lock";
pub const SIDECAR_SUFFIX: &str = ".meta.json";

/// Directory levels below a registry. Repository names have at most 255 bytes, so at most 128
/// parts.
pub const REPOSITORY_DEPTH_MAX: usize = 130;

/// Returns the path of an entry's data, relative to the root. Different keys have different paths,
/// and no path is a parent of another.
pub fn content(key: &Key) -> PathBuf {
    match key {
        Key::Blob(digest) => PathBuf::from(BLOBS).join(file_name(digest)),
        Key::Manifest {
            namespace,
            repository,
            digest,
        } => repository_dir(namespace, repository).join(file_name(digest)),
    }
}

/// Returns the path of an entry's sidecar.
pub fn sidecar(key: &Key) -> PathBuf {
    let mut path = content(key).into_os_string();
    path.push(SIDECAR_SUFFIX);
    path.into()
}

/// Returns the path of a tag pointer. The file name is the tag for the native class, and
/// `tag@class` for other classes. No tag contains an `@`.
pub fn pointer(namespace: &Namespace, repository: &Repository, tag: &Tag, class: &str) -> PathBuf {
    tag_file(namespace, repository, &pointer_name(tag, class))
}

/// Returns the file name of a tag pointer.
pub fn pointer_name(tag: &Tag, class: &str) -> String {
    if class == Accept::NATIVE {
        tag.to_string()
    } else {
        format!("{tag}@{class}")
    }
}

/// Returns the path of the tag pointer with the name `file_name`.
pub fn tag_file(namespace: &Namespace, repository: &Repository, file_name: &str) -> PathBuf {
    repository_dir(namespace, repository).join(TAGS).join(file_name)
}

/// Returns the path of a record of referrers. No name looks like a content file, so older releases
/// leave the records alone. No tag contains an `@`, so records of tags and records of pages never
/// collide.
pub fn record(namespace: &Namespace, repository: &Repository, name: &RecordName) -> PathBuf {
    let stem = match name {
        RecordName::Page { subject, query } if query.is_empty() => file_name(subject),
        RecordName::Page { subject, query } => {
            // A query can be longer than a file name. Half a digest is enough to distinguish the
            // queries of one subject.
            let query = Digest::of(Algorithm::Sha256, query.as_bytes()).hex();
            format!("{}@{}", file_name(subject), &query[..32])
        }
        RecordName::Unsupported => "unsupported".to_owned(),
        RecordName::AbsentTag(tag) => format!("{tag}@absent"),
    };
    let records = repository_dir(namespace, repository).join(REFERRERS);
    records.join(stem + RECORD_SUFFIX)
}

pub fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Returns the directory of a repository. A name component that looks like a content file gets the
/// prefix `_`, and no component starts with `_`. Otherwise repository `a/sha256-…` would collide
/// with manifest `sha256-…` of repository `a`.
pub fn repository_dir(namespace: &Namespace, repository: &Repository) -> PathBuf {
    let mut path = PathBuf::from(MANIFESTS).join(namespace.as_str());
    for part in repository.as_str().split('/') {
        let bare = part.strip_suffix(SIDECAR_SUFFIX).unwrap_or(part);
        if Digest::from_file_name(bare).is_some() {
            path.push(format!("_{part}"));
        } else {
            path.push(part);
        }
    }
    path
}

/// Returns the part of a repository name for which a directory named `name` stands, inside the
/// directory of a registry. `None` for other files and directories of the store.
pub fn repository_part(name: &str) -> Option<&str> {
    let bare = name.strip_suffix(SIDECAR_SUFFIX).unwrap_or(name);
    let is_other = name == TAGS || name == REFERRERS || Digest::from_file_name(bare).is_some();
    (!is_other).then(|| name.strip_prefix('_').unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"x")
    }

    fn manifest(repository: &str) -> Key {
        Key::Manifest {
            namespace: "example.org:5000".parse().unwrap(),
            repository: repository.parse().unwrap(),
            digest: digest(),
        }
    }

    #[test]
    fn paths_are_those_of_the_format() {
        let name = format!("sha256-{}", digest().hex());
        assert_eq!(
            content(&Key::Blob(digest())).to_str().unwrap(),
            format!("blobs/{name}")
        );
        assert_eq!(
            sidecar(&manifest("a/b")).to_str().unwrap(),
            format!("manifests/example.org:5000/a/b/{name}.meta.json")
        );
        let hub = "docker.io".parse().unwrap();
        assert_eq!(
            pointer(
                &hub,
                &"library/a".parse().unwrap(),
                &"v1".parse().unwrap(),
                "native"
            )
            .to_str()
            .unwrap(),
            "manifests/docker.io/library/a/_tags/v1"
        );
        assert_eq!(
            pointer(
                &hub,
                &"library/a".parse().unwrap(),
                &"v1".parse().unwrap(),
                "dl+dm"
            )
            .to_str()
            .unwrap(),
            "manifests/docker.io/library/a/_tags/v1@dl+dm"
        );
    }

    #[test]
    fn referrer_records_have_distinct_paths() {
        let hub: Namespace = "docker.io".parse().unwrap();
        let repository: Repository = "library/a".parse().unwrap();
        let path = |name: RecordName| record(&hub, &repository, &name).to_str().unwrap().to_owned();
        let page = |query: &str| {
            let (subject, query) = (digest(), query.to_owned());
            path(RecordName::Page { subject, query })
        };
        let stem = format!("sha256-{}", digest().hex());
        let dir = "manifests/docker.io/library/a/_referrers";
        let tag = |text: &str| path(RecordName::AbsentTag(text.parse().unwrap()));
        assert_eq!(page(""), format!("{dir}/{stem}.json"));
        assert_eq!(path(RecordName::Unsupported), format!("{dir}/unsupported.json"));
        assert_eq!(tag(&stem), format!("{dir}/{stem}@absent.json"));
        let filtered = page("artifactType=a");
        assert!(filtered.starts_with(&format!("{dir}/{stem}@")), "{filtered}");
        let all = [
            page(""),
            filtered,
            page("artifactType=b"),
            tag(&stem),
            tag(&format!("{stem}.sig")),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        for path in &all {
            let (_, name) = path.rsplit_once('/').unwrap();
            let bare = name.strip_suffix(SIDECAR_SUFFIX).unwrap_or(name);
            assert!(
                Digest::from_file_name(bare).is_none(),
                "an older release reads the name as content: {name}"
            );
        }
    }

    #[test]
    fn a_repository_that_looks_like_a_content_file_is_moved_aside() {
        let name = format!("sha256-{}", digest().hex());
        for repository in [
            format!("a/{name}"),
            format!("a/{name}.meta.json"),
            format!("a/{name}/b"),
        ] {
            let path = content(&manifest(&repository));
            assert!(!path.starts_with(content(&manifest("a"))), "{path:?}");
            assert!(!path.starts_with(sidecar(&manifest("a"))), "{path:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 20_000 }))]

        /// Checks that no two keys collide, no path is inside another, and no path leaves the root.
        #[test]
        fn keys_never_collide(a in "[a-z0-9]{1,3}((\\.|_|__|-|/)[a-z0-9]{1,3}){0,3}",
                              b in "[a-z0-9]{1,3}((\\.|_|__|-|/)[a-z0-9]{1,3}){0,3}",
                              tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,8}") {
            let (a, b) = (manifest(&a), manifest(&b));
            let Key::Manifest { namespace, repository, .. } = &b else { unreachable!() };
            let tag = pointer(namespace, repository, &tag.parse().unwrap(), "native");
            let paths = [content(&a), sidecar(&a), tag];
            let others = [content(&b), sidecar(&b)];
            for (i, path) in paths.iter().enumerate() {
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                for (j, other) in others.iter().enumerate() {
                    if a == b && i == j {
                        prop_assert_eq!(path, other);
                    } else {
                        prop_assert!(!path.starts_with(other) && !other.starts_with(path), "{:?} {:?}", path, other);
                    }
                }
            }
        }
    }
}
