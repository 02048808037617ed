//! Plans of removals.

use super::index_sample::{blob, digest, facts, image, insert_tag, manifest, origin};
use crate::oci::{Child, Descriptor, ManifestLinks, Origin};
use crate::store::eviction::Minute;
use crate::store::index::{Index, IndexedImage, ObjectName, RemovalLimits};

fn index_of(children: &[&str]) -> ManifestLinks {
    let children = children.iter().map(|name| Child {
        descriptor: Descriptor {
            digest: digest(name),
            size: 1,
        },
        platform: None,
    });
    ManifestLinks::Index(children.collect())
}

/// An image `name` with a layer of its own and the shared layer `base`.
fn insert_image(index: &mut Index, name: &str) {
    let layer = format!("{name}-layer");
    for layer in ["base", &layer] {
        index.insert(&blob(layer), facts(1, 1), None);
    }
    let links = image(&["base", &layer]);
    index.insert(&manifest("a", name), facts(0, 1), Some(&links));
}

fn find<'a>(images: &'a [IndexedImage], tag: Option<&str>, name: &str) -> &'a IndexedImage {
    let is_wanted = |image: &&IndexedImage| image.tag.as_deref() == tag && image.digest == Some(digest(name));
    images.iter().find(is_wanted).expect("the image is listed")
}

/// Returns the readable names of the objects that the removal of `images` removes.
fn removed(index: &Index, images: &[&IndexedImage], known: &[&str]) -> Vec<String> {
    let plan = index.plan_removal(images.iter().copied());
    let name = |object: &ObjectName| match object {
        ObjectName::Tag { file_name, .. } => format!("tag {file_name}"),
        ObjectName::Entry(key) => {
            let name = known.iter().find(|name| digest(name) == *key.digest());
            (*name.expect("a known name")).to_owned()
        }
    };
    let mut names: Vec<_> = plan.objects.iter().map(|object| name(&object.name)).collect();
    names.sort();
    names
}

const KNOWN: &[&str] = &["base", "one", "one-layer", "two", "two-layer", "list"];

#[test]
fn shared_layer_stays_until_its_last_image_leaves() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        insert_image(&mut index, name);
        insert_tag(&mut index, "a", name, name);
    }
    let images = index.images();
    let [one, two] = [
        find(&images, Some("one"), "one"),
        find(&images, Some("two"), "two"),
    ];
    assert_eq!(removed(&index, &[one], KNOWN), ["one", "one-layer", "tag one"]);
    assert_eq!(
        removed(&index, &[one, two], KNOWN),
        [
            "base",
            "one",
            "one-layer",
            "tag one",
            "tag two",
            "two",
            "two-layer"
        ]
    );
}

#[test]
fn manifest_leaves_with_its_last_tag() {
    let mut index = Index::default();
    insert_image(&mut index, "one");
    for tag in ["v1", "v1@dl", "latest"] {
        insert_tag(&mut index, "a", tag, "one");
    }
    let images = index.images();
    assert_eq!(images.len(), 2, "{images:?}");
    let v1 = find(&images, Some("v1"), "one");
    assert_eq!(removed(&index, &[v1], KNOWN), ["tag v1", "tag v1@dl"]);
    let latest = find(&images, Some("latest"), "one");
    assert_eq!(removed(&index, &[v1, latest], KNOWN).len(), 6);
}

#[test]
fn index_leaves_with_its_platforms_but_without_a_platform_that_has_a_tag() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        insert_image(&mut index, name);
    }
    index.insert(
        &manifest("a", "list"),
        facts(0, 1),
        Some(&index_of(&["one", "two", "list"])),
    );
    insert_tag(&mut index, "a", "v1", "list");
    insert_tag(&mut index, "a", "two", "two");
    let images = index.images();
    let list = find(&images, Some("v1"), "list");
    assert_eq!(
        removed(&index, &[list], KNOWN),
        ["list", "one", "one-layer", "tag v1"]
    );
}

#[test]
fn tag_without_a_stored_manifest_is_an_image_that_can_be_removed() {
    let mut index = Index::default();
    insert_tag(&mut index, "a", "v1", "absent");
    let images = index.images();
    assert_eq!((images.len(), images[0].digest), (1, None));
    assert_eq!(*images[0].origin, origin("a"));
    assert_eq!(removed(&index, &[&images[0]], KNOWN), ["tag v1"]);
}

#[test]
fn removal_by_digest_removes_the_tags_of_the_manifest() {
    let mut index = Index::default();
    insert_image(&mut index, "one");
    insert_tag(&mut index, "a", "v1", "one");
    let by_digest = find(&index.images(), Some("v1"), "one").clone().by_digest();
    assert_eq!(
        removed(&index, &[&by_digest], KNOWN),
        ["base", "one", "one-layer", "tag v1"]
    );
}

#[test]
fn image_of_a_platform_stays_while_its_index_stays() {
    let mut index = Index::default();
    insert_image(&mut index, "one");
    let links = index_of(&["one"]);
    index.insert(&manifest("a", "list"), facts(0, 1), Some(&links));
    insert_tag(&mut index, "a", "v1", "list");
    let images = index.images();
    let platform = find(&images, None, "one");
    assert!(removed(&index, &[platform], KNOWN).is_empty());
    let by_digest = platform.clone().by_digest();
    assert_eq!(
        removed(&index, &[&by_digest], KNOWN),
        ["base", "one", "one-layer"]
    );
}

/// Minutes after which content may leave by a rule in the background.
const OLD: u32 = 60;

fn limited(index: &Index, limits: RemovalLimits) -> Vec<String> {
    let mut images = index.images();
    index.limit(&mut images, limits, Minute(OLD));
    removed(index, &images.iter().collect::<Vec<_>>(), KNOWN)
}

#[test]
fn limit_of_images_takes_those_unused_for_the_longest_time_and_counts_no_platforms() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        insert_image(&mut index, name);
    }
    index.insert(&manifest("a", "list"), facts(0, 1), Some(&index_of(&["one"])));
    insert_tag(&mut index, "a", "v1", "list");
    insert_tag(&mut index, "a", "two", "two");
    index.record_use(digest("list").prefix(), Minute(5));
    let at_most = |count| RemovalLimits {
        images_max: Some(count),
        spares_recent: false,
    };
    assert_eq!(limited(&index, at_most(0)), [""; 0]);
    assert_eq!(limited(&index, at_most(1)), ["tag two", "two", "two-layer"]);
    assert_eq!(limited(&index, at_most(2)).len(), 8);
    index.record_use(digest("two").prefix(), Minute(9));
    assert_eq!(
        limited(&index, at_most(1)),
        ["list", "one", "one-layer", "tag v1"]
    );
}

#[test]
fn image_whose_own_content_is_in_use_stays_and_shared_content_keeps_nothing() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        insert_image(&mut index, name);
        insert_tag(&mut index, "a", name, name);
    }
    let spares = RemovalLimits {
        images_max: None,
        spares_recent: true,
    };
    assert_eq!(limited(&index, spares).len(), 7);
    // A running pull of the first image.
    index.record_use(digest("one-layer").prefix(), Minute(OLD));
    assert_eq!(limited(&index, spares), ["tag two", "two", "two-layer"]);
    // A use of the manifest, and of the layer that the images share.
    for name in ["one", "base"] {
        index.record_use(digest(name).prefix(), Minute(OLD));
    }
    assert_eq!(limited(&index, spares), ["tag two", "two", "two-layer"]);
}

#[test]
fn check_of_a_tag_does_not_renew_the_time_of_storage_of_its_image() {
    let mut index = Index::default();
    insert_image(&mut index, "one");
    let Origin {
        namespace,
        repository,
    } = origin("a");
    let names = digest("one").prefix();
    index.insert_tag(&namespace, &repository, "v1", names, facts(0, OLD));
    let images = index.images();
    let image = find(&images, Some("v1"), "one");
    assert_eq!(image.stored, Minute(1));
    assert!(image.used >= Minute(OLD));
}
