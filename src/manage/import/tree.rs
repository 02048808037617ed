//! The content of an image: its manifests and blobs, and the objects that are missing.

use std::collections::{BTreeSet, HashSet};

use crate::limits::INDEX_DEPTH_MAX;
use crate::oci::{Child, Descriptor, Digest, ManifestLinks, required_blobs};

/// The objects of an archive and of the store.
pub(super) trait Objects {
    type Error;

    /// Returns the body of a manifest.
    fn manifest(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Returns the size of a blob in bytes.
    fn blob_size(&mut self, digest: &Digest) -> Result<Option<u64>, Self::Error>;

    /// Returns whether the archive lists the object. `None` for an archive without a list of its content.
    fn is_listed(&self, digest: &Digest) -> Option<bool>;
}

/// The content of an image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tree {
    /// Each manifest after the manifests that it names, so the image is the last.
    pub manifests: Vec<Digest>,
    pub blobs: BTreeSet<Digest>,
    /// The platforms of an index.
    pub platforms: Vec<String>,
    /// Objects that are neither in the archive nor in the store.
    pub missing: BTreeSet<Digest>,
    /// A contradiction of a manifest.
    pub error: Option<String>,
}

impl Tree {
    /// Walks from the manifest `root`. The platforms of an index without any content count as left out
    /// by the archive, if another platform is whole.
    pub fn of<O: Objects>(root: &Digest, objects: &mut O) -> Result<Self, O::Error> {
        let mut walk = Walk {
            objects,
            seen: HashSet::new(),
        };
        match walk.objects.manifest(root)? {
            Some(body) => walk.manifest(root, &body, 0),
            None => Ok(Tree {
                missing: BTreeSet::from([*root]),
                ..Tree::default()
            }),
        }
    }

    fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.error.is_none()
    }

    fn add(&mut self, other: Tree) {
        self.manifests.extend(other.manifests);
        self.blobs.extend(other.blobs);
        self.missing.extend(other.missing);
        self.error = self.error.take().or(other.error);
    }
}

struct Walk<'a, O> {
    objects: &'a mut O,
    /// Manifests of the walk, each visited once.
    seen: HashSet<Digest>,
}

impl<O: Objects> Walk<'_, O> {
    fn manifest(&mut self, digest: &Digest, body: &[u8], depth: usize) -> Result<Tree, O::Error> {
        if !self.seen.insert(*digest) {
            return Ok(Tree::default());
        }
        let mut tree = match ManifestLinks::parse(body) {
            Some(ManifestLinks::Index(_)) if depth == INDEX_DEPTH_MAX => Tree {
                error: Some(format!(
                    "indexes are nested in more than {INDEX_DEPTH_MAX} levels"
                )),
                ..Tree::default()
            },
            Some(ManifestLinks::Index(children)) => self.children(&children, depth)?,
            Some(ManifestLinks::Image(named)) => self.image(digest, body, &named)?,
            None => Tree::default(),
        };
        tree.manifests.push(*digest);
        Ok(tree)
    }

    fn children(&mut self, children: &[Child], depth: usize) -> Result<Tree, O::Error> {
        let mut tree = Tree::default();
        let mut partial = Vec::new();
        let mut absent = BTreeSet::new();
        let mut whole = 0;
        for child in children {
            let digest = child.descriptor.digest;
            let Some(body) = self.objects.manifest(&digest)? else {
                absent.insert(digest);
                continue;
            };
            let found = self.manifest(&digest, &body, depth + 1)?;
            if !found.is_whole() {
                partial.push(found);
                continue;
            }
            whole += 1;
            tree.platforms.extend(child.platform.clone());
            tree.add(found);
        }
        for found in partial {
            let has_nothing = found.error.is_none() && found.blobs.is_subset(&found.missing);
            let is_left_out = self.is_left_out(&found, has_nothing && whole > 0);
            if !is_left_out {
                tree.add(found);
            }
        }
        absent.retain(|digest| {
            self.objects
                .is_listed(digest)
                .unwrap_or(whole == 0 && !children.is_empty())
        });
        tree.missing.extend(absent);
        Ok(tree)
    }

    /// Returns whether the archive leaves out the platform `found`. An archive with a list of its content
    /// leaves out what the list leaves out.
    fn is_left_out(&self, found: &Tree, has_nothing: bool) -> bool {
        let Some(manifest) = found.manifests.last() else {
            return has_nothing;
        };
        match self.objects.is_listed(manifest) {
            Some(is_listed) => !is_listed && has_nothing,
            None => has_nothing,
        }
    }

    fn image(&mut self, digest: &Digest, body: &[u8], named: &[Descriptor]) -> Result<Tree, O::Error> {
        let mut tree = Tree {
            blobs: required_blobs(body).into_iter().collect(),
            ..Tree::default()
        };
        for blob in &tree.blobs {
            let Some(found) = self.objects.blob_size(blob)? else {
                tree.missing.insert(*blob);
                continue;
            };
            let wrong = named
                .iter()
                .find(|named| named.digest == *blob && named.size != found);
            if let Some(wrong) = wrong {
                tree.error = Some(format!(
                    "the manifest {digest} gives {blob} {} bytes, and the blob has {found}",
                    wrong.size
                ));
            }
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use super::*;
    use crate::oci::Algorithm;

    #[derive(Default)]
    struct Sample {
        manifests: HashMap<Digest, Vec<u8>>,
        blobs: HashMap<Digest, u64>,
        listed: Option<HashSet<Digest>>,
    }

    impl Objects for Sample {
        type Error = Infallible;

        fn manifest(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Infallible> {
            Ok(self.manifests.get(digest).cloned())
        }

        fn blob_size(&mut self, digest: &Digest) -> Result<Option<u64>, Infallible> {
            Ok(self.blobs.get(digest).copied())
        }

        fn is_listed(&self, digest: &Digest) -> Option<bool> {
            self.listed.as_ref().map(|listed| listed.contains(digest))
        }
    }

    impl Sample {
        fn add(&mut self, body: String) -> Digest {
            let digest = digest_of(&body);
            self.manifests.insert(digest, body.into_bytes());
            digest
        }

        fn image(&mut self, name: &str, has_blobs: bool) -> Digest {
            let blobs = ["config", "layer"].map(|kind| digest_of(&format!("{name} {kind}")));
            if has_blobs {
                self.blobs.extend(blobs.map(|blob| (blob, 7)));
            }
            self.add(format!(
                r#"{{"config":{{"digest":"{}","size":7}},"layers":[{{"digest":"{}","size":7}}]}}"#,
                blobs[0], blobs[1]
            ))
        }

        fn index(&mut self, children: &[Digest]) -> Digest {
            let entries = children.iter().map(|child| {
                format!(
                    r#"{{"digest":"{child}","size":3,"platform":{{"os":"linux","architecture":"{}"}}}}"#,
                    &child.hex()[..4]
                )
            });
            self.add(format!(
                r#"{{"manifests":[{}]}}"#,
                entries.collect::<Vec<_>>().join(",")
            ))
        }

        fn tree(&mut self, root: &Digest) -> Tree {
            Tree::of(root, self).unwrap()
        }
    }

    fn digest_of(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    #[test]
    fn image_comes_after_its_platforms() {
        let mut sample = Sample::default();
        let (one, two) = (sample.image("one", true), sample.image("two", true));
        let index = sample.index(&[one, two, digest_of("left out")]);
        let tree = sample.tree(&index);
        assert_eq!(tree.manifests, [one, two, index]);
        assert_eq!((tree.blobs.len(), tree.platforms.len()), (4, 2));
        assert!(tree.is_whole());
    }

    #[test]
    fn missing_content_is_named() {
        let mut sample = Sample::default();
        let one = sample.image("one", true);
        let layer = digest_of("one layer");
        sample.blobs.remove(&layer);
        assert_eq!(sample.tree(&one).missing, BTreeSet::from([layer]));
        let index = sample.index(&[one]);
        assert_eq!(sample.tree(&index).missing, BTreeSet::from([layer]));
        let unknown = digest_of("unknown");
        assert_eq!(sample.tree(&unknown).missing, BTreeSet::from([unknown]));
        let empty = sample.index(&[unknown]);
        assert_eq!(
            sample.tree(&empty).missing,
            BTreeSet::from([unknown]),
            "no platform is there"
        );
    }

    #[test]
    fn platform_without_content_is_left_out_beside_a_whole_platform() {
        let mut sample = Sample::default();
        let (one, two) = (sample.image("one", true), sample.image("two", false));
        let index = sample.index(&[one, two]);
        let tree = sample.tree(&index);
        assert_eq!(tree.manifests, [one, index]);
        assert!(tree.is_whole());
        sample.listed = Some(HashSet::from([one, two, index]));
        assert_eq!(
            sample.tree(&index).missing.len(),
            2,
            "the archive lists the platform"
        );
    }

    #[test]
    fn blob_of_another_size_than_its_manifest_gives_is_an_error() {
        let mut sample = Sample::default();
        let one = sample.image("one", true);
        sample.blobs.insert(digest_of("one layer"), 8);
        assert!(sample.tree(&one).error.is_some_and(|error| error.contains("8")));
    }

    #[test]
    fn nested_indexes_have_a_bound() {
        let mut sample = Sample::default();
        let mut root = sample.image("one", true);
        for _ in 0..INDEX_DEPTH_MAX {
            root = sample.index(&[root]);
        }
        assert!(sample.tree(&root).is_whole());
        root = sample.index(&[root]);
        assert!(sample.tree(&root).error.is_some());
    }
}
