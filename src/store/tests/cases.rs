//! Test cases for every store used by one process.

use std::collections::BTreeSet;

use super::sample::{
    RecordOf, TagName, blob, content, data_name, manifest, meta, pointer, pointer_name, record, record_name,
    record_of, sidecar_name, source, tag, unmarked, verified,
};
use super::{Place, Shelf};
use crate::limits::{RECORD_BYTES_MAX, S3_MULTIPART_BYTES_MIN, SIDECAR_BYTES_MAX};
use crate::oci::{Algorithm, Digest};
use crate::store::{Key, Meta, RecordName, ReferrersRecord, SOURCES_MAX};

/// Bytes per write of an ingest.
const STEP: usize = 1024 * 1024;

async fn ingest<S: Shelf>(store: &S, key: &Key, bytes: &[u8]) -> S::Ingest {
    let mut ingest = store.begin(key, Some(bytes.len() as u64)).await;
    for piece in bytes.chunks(STEP) {
        store.write(&mut ingest, piece).await;
    }
    ingest
}

/// Stores `bytes` under `key`, described by `meta`.
pub(crate) async fn put_as<S: Shelf>(store: &S, key: &Key, bytes: &[u8], meta: Meta) {
    let ingest = ingest(store, key, bytes).await;
    let committed = store.commit(ingest, verified(key, bytes), meta).await;
    committed.unwrap_or_else(|why| panic!("{key:?} is not committed: {why}"));
}

pub(crate) async fn put<S: Shelf>(store: &S, key: &Key, bytes: &[u8]) {
    put_as(store, key, bytes, meta(key, bytes.len() as u64)).await;
}

/// Fails unless `key` holds `bytes`.
pub(crate) async fn expect<S: Shelf>(store: &S, key: &Key, bytes: &[u8]) -> Meta {
    let found = store.find(key).await;
    let found = found.unwrap_or_else(|| panic!("{key:?} is missing"));
    assert_eq!((found.digest, found.size), (*key.digest(), bytes.len() as u64));
    assert!(found.verified);
    let read = store.read(key, 0, bytes.len() as u64).await;
    assert!(read == bytes, "{key:?} has wrong content");
    found
}

/// Fails unless the place holds only the entries of `keys`.
pub(crate) fn expect_only<P: Place>(place: &P, keys: &[&Key]) {
    let mut names: Vec<String> = keys
        .iter()
        .flat_map(|key| [data_name(key), sidecar_name(key)])
        .collect();
    names.sort();
    assert_eq!(place.names(), names);
}

/// Returns all copies of an entry's sidecar, at least one.
pub(crate) fn sidecars<P: Place>(place: &P, key: &Key) -> Vec<Meta> {
    let copies = place.copies(&sidecar_name(key));
    assert!(!copies.is_empty(), "{key:?} has no sidecar");
    let parsed = copies.iter().map(|json| Meta::parse(*key.digest(), json));
    parsed.map(|meta| meta.expect("the sidecar is valid")).collect()
}

pub(crate) async fn content_of_every_size_is_read_as_it_was_written<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    // The last size needs a multipart upload with a short last part.
    for size in [0, 1, 100, 1_000_003, S3_MULTIPART_BYTES_MIN as usize + 5] {
        let bytes = content(size, 1);
        let key = blob(&bytes);
        assert!(store.find(&key).await.is_none());
        put(&store, &key, &bytes).await;
        expect(&store, &key, &bytes).await;
        for copy in place.copies(&data_name(&key)) {
            assert!(copy == bytes, "{size} bytes are stored with wrong content");
        }
    }
}

pub(crate) async fn every_part_of_an_entry_can_be_read<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(300_000, 2);
    let key = blob(&bytes);
    put(&store, &key, &bytes).await;
    for (from, to) in [
        (0, 0),
        (0, 1),
        (0, 300_000),
        (7, 7),
        (1_000, 250_000),
        (299_999, 300_000),
        (300_000, 300_000),
    ] {
        let part = store.read(&key, from, to).await;
        assert!(part == bytes[from as usize..to as usize], "{from}..{to}");
    }
}

pub(crate) async fn digests_of_every_kind_name_content<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(1_000, 3);
    let keys = [Algorithm::Sha256, Algorithm::Sha512].map(|kind| Key::Blob(Digest::of(kind, &bytes)));
    put(&store, &keys[1], &bytes).await;
    assert!(
        store.find(&keys[0]).await.is_none(),
        "an entry is found only by the stored digest"
    );
    expect_only(&place, &[&keys[1]]);
    put(&store, &keys[0], &bytes).await;
    for key in &keys {
        expect(&store, key, &bytes).await;
    }
    expect_only(&place, &[&keys[0], &keys[1]]);
}

pub(crate) async fn names_and_sidecars_are_those_of_the_format<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(10, 4);
    let (layer, page) = (blob(&bytes), manifest("r.example:5000", "a/b", &bytes));
    let hex = layer.digest().hex();
    for (key, name) in [
        (layer, format!("blobs/sha256-{hex}")),
        (page, format!("manifests/r.example:5000/a/b/sha256-{hex}")),
    ] {
        let mut known = meta(&key, 10);
        known.created = 1_767_225_600;
        known.public = true;
        known.sources = vec![source("r.example:5000")];
        known.headers.insert("Etag".into(), vec!["\"x\"".into()]);
        put_as(&store, &key, &bytes, known).await;
        let data = place.copies(&name);
        assert!(
            !data.is_empty() && data.iter().all(|copy| copy == &bytes),
            "{name}"
        );
        let sidecar = format!(
            concat!(
                r#"{{"Content-Length":["10"],"Content-Type":["application/octet-stream"],"#,
                r#""Docker-Content-Digest":["sha256:{}"],"Etag":["\"x\""],"X-Cache-Created":["1767225600"],"#,
                r#""X-Cache-Public":["true"],"X-Cache-Source":["r.example:5000/a/b"],"X-Cache-Verified":["sha256"]}}"#
            ),
            hex
        );
        let copies = place.copies(&format!("{name}.meta.json"));
        assert!(!copies.is_empty(), "{name} has no sidecar");
        for copy in copies {
            assert_eq!(String::from_utf8(copy).unwrap(), sidecar);
        }
    }
}

pub(crate) async fn manifests_belong_to_their_repository_and_blobs_to_all<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(500, 5);
    let keys = [
        manifest("docker.io", "library/a", &bytes),
        manifest("docker.io", "library/b", &bytes),
        manifest("r.example", "library/a", &bytes),
        blob(&bytes),
    ];
    for (at, key) in keys.iter().enumerate() {
        for absent in &keys[at..] {
            assert!(store.find(absent).await.is_none(), "{absent:?}");
        }
        put(&store, key, &bytes).await;
        expect(&store, key, &bytes).await;
    }
    expect_only(&place, &keys.iter().collect::<Vec<_>>());
}

pub(crate) async fn a_repository_named_like_a_content_file_is_kept_apart<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(50, 6);
    let name = format!("sha256-{}", Digest::of(Algorithm::Sha256, &bytes).hex());
    let keys = [
        manifest("r.example", "a", &bytes),
        manifest("r.example", &format!("a/{name}"), &bytes),
        manifest("r.example", &format!("a/{name}.meta.json/b"), &bytes),
    ];
    let fits = |key: &&Key| sidecar_name(key).len() <= P::NAME_MAX;
    let keys: Vec<&Key> = keys.iter().filter(fits).collect();
    for key in &keys {
        put(&store, key, &bytes).await;
    }
    for key in &keys {
        expect(&store, key, &bytes).await;
    }
    expect_only(&place, &keys);
}

pub(crate) async fn an_ingest_is_invisible_and_leaves_nothing_when_dropped<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(2_000, 7);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        // With and without a known size, and with incomplete or complete bytes.
        for (size, written) in [
            (None, 0),
            (None, 1_000),
            (Some(2_000), 1_000),
            (Some(2_000), 2_000),
        ] {
            let mut ingest = store.begin(&key, size).await;
            store.write(&mut ingest, &bytes[..written]).await;
            assert!(store.find(&key).await.is_none());
            drop(ingest);
            assert!(store.find(&key).await.is_none());
            assert_eq!(place.names(), [""; 0]);
        }
    }
    drop(store);
    place.open().await;
    assert_eq!(place.names(), [""; 0]);
}

pub(crate) async fn an_ingest_that_is_not_what_was_verified_is_not_committed<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(2_000, 8);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        for wrong in [&bytes[..1_999], &[], &[&bytes[..], b"x"].concat()] {
            let ingest = ingest(&store, &key, wrong).await;
            let committed = store
                .commit(ingest, verified(&key, &bytes), meta(&key, 2_000))
                .await;
            assert!(committed.is_err(), "{} bytes", wrong.len());
            assert!(store.find(&key).await.is_none());
            assert_eq!(place.names(), [""; 0]);
        }
    }
}

pub(crate) async fn the_second_of_two_commits_is_no_error_and_adds_what_it_knows<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(3_000, 9);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        let mut first = meta(&key, 3_000);
        first.created = 100;
        first.sources = vec![source("one.example")];
        put_as(&store, &key, &bytes, first.clone()).await;
        let mut second = meta(&key, 3_000);
        second.created = 200;
        second.content_type = "text/plain".into();
        second.public = true;
        second.sources = vec![source("two.example")];
        put_as(&store, &key, &bytes, second).await;
        let found = expect(&store, &key, &bytes).await;
        for known in sidecars(&place, &key).into_iter().chain([found]) {
            assert_eq!((known.created, &known.content_type), (100, &first.content_type));
            assert_eq!(known.sources, [source("one.example"), source("two.example")]);
            assert!(known.public && known.verified);
        }
    }
    let (layer, page) = (blob(&bytes), manifest("r.example", "a", &bytes));
    expect_only(&place, &[&layer, &page]);
}

pub(crate) async fn ingests_of_the_same_content_at_once_leave_one_entry<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(200_000, 10);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        let mut ingests = Vec::new();
        for _ in 0..4 {
            ingests.push(ingest(&store, &key, &bytes).await);
        }
        let commits = ingests.into_iter().map(|ingest| {
            let (store, key, bytes) = (store.clone(), &key, &bytes);
            async move {
                store
                    .commit(ingest, verified(key, bytes), meta(key, 200_000))
                    .await
            }
        });
        for committed in futures_util::future::join_all(commits).await {
            committed.unwrap();
        }
        expect(&store, &key, &bytes).await;
    }
    let (layer, page) = (blob(&bytes), manifest("r.example", "a", &bytes));
    expect_only(&place, &[&layer, &page]);
}

pub(crate) async fn another_process_finds_all_of_it<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(10_000, 11);
    let keys = [blob(&bytes), blob(b""), manifest("r.example", "a/b", &bytes)];
    let name = tag("library/a", "v1", "native");
    let mut known = Vec::new();
    for key in &keys {
        let bytes = if *key == keys[1] { &[][..] } else { &bytes };
        let mut meta = meta(key, bytes.len() as u64);
        meta.sources = vec![source("one.example"), source("two.example")];
        meta.public = *key == keys[0];
        meta.headers.insert("Etag".into(), vec!["\"x\"".into()]);
        put_as(&store, key, bytes, meta).await;
        known.push((expect(&store, key, bytes).await, bytes));
    }
    store.set_tag(&name, &pointer(&name, &bytes, 7)).await;
    drop(store);
    let store = place.open().await;
    for (key, (known, bytes)) in keys.iter().zip(known) {
        // After reading, `headers` also contains the fields added by `to_json`, such as
        // `Content-Length`.
        let found = expect(&store, key, bytes).await;
        assert_eq!(
            (found.sources, found.public, found.created, &found.headers["Etag"]),
            (known.sources, known.public, known.created, &known.headers["Etag"])
        );
    }
    assert_eq!(store.tag(&name).await, Some(pointer(&name, &bytes, 7)));
}

type Damage<P> = fn(&P, &Key);

/// Damage to an entry of a thousand bytes, as after a kill, a lost object or a manual change.
fn damages<P: Place>() -> [(&'static str, Damage<P>); 7] {
    [
        ("no sidecar", |place, key| place.remove(&sidecar_name(key))),
        ("no data", |place, key| place.remove(&data_name(key))),
        ("short data", |place, key| place.plant(&data_name(key), &[0; 999])),
        ("long data", |place, key| {
            place.plant(&data_name(key), &[0; 1_001]);
        }),
        ("empty data", |place, key| place.plant(&data_name(key), b"")),
        ("an empty sidecar", |place, key| {
            place.plant(&sidecar_name(key), b"");
        }),
        ("a truncated sidecar", |place, key| {
            let whole = place.copies(&sidecar_name(key)).remove(0);
            place.plant(&sidecar_name(key), &whole[..whole.len() / 2]);
        }),
    ]
}

pub(crate) async fn halves_are_misses_and_heal_with_the_next_commit<P: Place>() {
    let place = P::make().await;
    let bytes = content(1_000, 12);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        for (what, damage) in damages::<P>() {
            let store = place.open().await;
            put(&store, &key, &bytes).await;
            drop(store);
            damage(&place, &key);
            // Once with a lookup before the next commit, and once without.
            for looked in [true, false] {
                let store = place.open().await;
                if looked {
                    assert!(store.find(&key).await.is_none(), "{what}");
                    assert_eq!(
                        place.copies(&sidecar_name(&key)),
                        [[0; 0]; 0],
                        "{what}: the damaged entry is removed"
                    );
                }
                put(&store, &key, &bytes).await;
                expect(&store, &key, &bytes).await;
                drop(store);
                damage(&place, &key);
            }
            let store = place.open().await;
            put(&store, &key, &bytes).await;
            expect(&store, &key, &bytes).await;
        }
    }
    let (layer, page) = (blob(&bytes), manifest("r.example", "a", &bytes));
    expect_only(&place, &[&layer, &page]);
}

pub(crate) async fn a_sidecar_that_does_not_fit_is_removed_with_its_data<P: Place>() {
    let place = P::make().await;
    let bytes = content(1_000, 13);
    let key = blob(&bytes);
    let other = blob(b"other").digest().to_string();
    let huge = "x".repeat(SIDECAR_BYTES_MAX as usize);
    for (what, sidecar) in [
        ("a different size", unmarked(999)),
        ("no size", r#"{"X-Cache-Verified":["sha256"]}"#.into()),
        (
            "a different digest",
            format!(r#"{{"Content-Length":["1000"],"Docker-Content-Digest":["{other}"]}}"#),
        ),
        (
            "more than the maximum size of a sidecar",
            format!(r#"{{"Content-Length":["1000"],"Etag":["{huge}"]}}"#),
        ),
        ("invalid JSON", "hello".into()),
    ] {
        place.plant(&data_name(&key), &bytes);
        place.plant(&sidecar_name(&key), sidecar.as_bytes());
        let store = place.open().await;
        assert!(store.find(&key).await.is_none(), "{what}");
        assert_eq!(place.names(), [""; 0], "{what}");
    }
}

pub(crate) async fn an_unmarked_pair_is_hashed_before_it_is_found_and_then_marked<P: Place>() {
    let place = P::make().await;
    let bytes = content(5_000, 14);
    let keys = [blob(&bytes), manifest("docker.io", "library/a", &bytes)];
    for key in &keys {
        place.plant(&data_name(key), &bytes);
        place.plant(&sidecar_name(key), unmarked(5_000).as_bytes());
    }
    let store = place.open().await;
    for key in &keys {
        let found = expect(&store, key, &bytes).await;
        assert!(
            !found.public && found.sources.is_empty(),
            "an entry without a record of access is not public"
        );
        assert_eq!(found.content_type, "a/b");
        for known in sidecars(&place, key) {
            assert!(known.verified && !known.public);
        }
    }
    expect_only(&place, &[&keys[0], &keys[1]]);
}

pub(crate) async fn an_unmarked_pair_that_is_wrong_is_removed<P: Place>() {
    let place = P::make().await;
    let (named, found) = (content(5_000, 15), content(5_000, 16));
    for key in [blob(&named), manifest("docker.io", "library/a", &named)] {
        place.plant(&data_name(&key), &found);
        place.plant(&sidecar_name(&key), unmarked(5_000).as_bytes());
        let store = place.open().await;
        assert!(store.find(&key).await.is_none());
        assert_eq!(place.names(), [""; 0]);
    }
}

pub(crate) async fn sources_are_added_up_to_their_bound_and_public_stays<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let bytes = content(700, 17);
    let key = blob(&bytes);
    let mut first = meta(&key, 700);
    first.sources = vec![source("r0.example")];
    put_as(&store, &key, &bytes, first).await;
    for number in 0..SOURCES_MAX + 3 {
        let registry = format!("r{number}.example");
        // The third source is public. Later sources do not change this.
        store.record_source(&key, &source(&registry), number == 2).await;
    }
    drop(store);
    let store = place.open().await;
    let found = expect(&store, &key, &bytes).await;
    for known in sidecars(&place, &key).into_iter().chain([found]) {
        assert!(known.public && known.verified);
        assert_eq!(known.sources.len(), SOURCES_MAX);
        let registries: BTreeSet<_> = known.sources.iter().map(|source| &source.registry).collect();
        assert_eq!(registries.len(), SOURCES_MAX, "each source is listed once");
        assert!(known.is_from("r0.example") && !known.is_from(&format!("r{SOURCES_MAX}.example")));
    }
}

pub(crate) async fn no_source_is_recorded_for_what_is_not_there<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let key = blob(b"absent");
    store.record_source(&key, &source("one.example"), true).await;
    store.recheck(&key).await;
    assert!(store.find(&key).await.is_none());
    assert_eq!(place.names(), [""; 0]);
}

pub(crate) async fn hashing_again_removes_what_has_changed_and_nothing_else<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let (bytes, wrong) = (content(1_000, 18), content(1_000, 19));
    let keys = [blob(&bytes), manifest("r.example", "a", &bytes)];
    for key in &keys {
        put(&store, key, &bytes).await;
        store.recheck(key).await;
        expect(&store, key, &bytes).await;
    }
    for key in &keys {
        place.plant(&data_name(key), &wrong);
        store.recheck(key).await;
        assert!(store.find(key).await.is_none());
    }
    assert_eq!(place.names(), [""; 0]);
}

pub(crate) async fn a_tag_is_replaced_as_a_whole<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let name = tag("library/a", "v1", "native");
    assert_eq!(store.tag(&name).await, None);
    let mut long = pointer(&name, b"old", 5);
    long.headers.insert("X-Long".into(), vec!["y".repeat(2_000)]);
    store.set_tag(&name, &long).await;
    assert_eq!(store.tag(&name).await, Some(long));
    let short = pointer(&name, b"new", 6);
    store.set_tag(&name, &short).await;
    assert_eq!(store.tag(&name).await, Some(short.clone()));
    assert_eq!(place.names(), ["manifests/docker.io/library/a/_tags/v1"]);
    for copy in place.copies(&pointer_name(&name)) {
        assert_eq!(copy, serde_json::to_vec(&short).unwrap());
    }
}

fn odd_tags() -> Vec<TagName> {
    let digest = "0a".repeat(32);
    let mut names = vec![
        tag("a/b__c", "v1.0-rc_2", "native"),
        tag("a/b__c", "v1.0-rc_2", "dl+dm"),
        tag("a/b__c", "V1.0-RC_2", "native"),
        tag("a/b__c", &format!("sha256-{digest}"), "native"),
        tag("a/b__c", &format!("sha256-{digest}.meta.json"), "native"),
        tag("a/b__c", &"x".repeat(128), "oi+om+dl+dm+s1+sj"),
        tag("a/b__c", &"y".repeat(60), "oi+om+dl+dm+s1+sj"),
        tag("a/b__c", "_", "native"),
        tag("a", "v1.0-rc_2", "native"),
        tag(&format!("a/sha256-{digest}"), "v1.0-rc_2", "native"),
    ];
    let mut elsewhere = names[0].clone();
    elsewhere.namespace = "r.example:5000".parse().unwrap();
    names.push(elsewhere);
    names
}

pub(crate) async fn tags_of_every_spelling_and_class_are_kept_apart<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let mut names = odd_tags();
    names.retain(|name| pointer_name(name).len() <= P::NAME_MAX);
    for (at, name) in names.iter().enumerate() {
        assert_eq!(store.tag(name).await, None, "{name:?}");
        store.set_tag(name, &pointer(name, &at.to_le_bytes(), 5)).await;
    }
    for (at, name) in names.iter().enumerate() {
        let wanted = pointer(name, &at.to_le_bytes(), 5);
        assert_eq!(store.tag(name).await, Some(wanted), "{name:?}");
    }
    assert_eq!(place.names().len(), names.len());
}

pub(crate) async fn a_pointer_that_cannot_be_read_is_none_and_heals<P: Place>() {
    let place = P::make().await;
    let name = tag("library/a", "v1", "native");
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("half", b"{\"digest\":"),
        ("noise", b"hello"),
        ("a list", b"[]"),
    ] {
        place.plant(&pointer_name(&name), bytes);
        let store = place.open().await;
        assert_eq!(store.tag(&name).await, None, "{what}");
        let wanted = pointer(&name, b"new", 5);
        store.set_tag(&name, &wanted).await;
        assert_eq!(store.tag(&name).await, Some(wanted), "{what}");
    }
}

fn page(repository: &str, query: &str) -> RecordOf {
    let name = RecordName::Page {
        subject: Digest::of(Algorithm::Sha256, b"subject"),
        query: query.into(),
    };
    record_of(repository, name)
}

/// Returns the stored form.
fn text(record: Option<ReferrersRecord>) -> Option<String> {
    record.map(|record| serde_json::to_string(&record).unwrap())
}

pub(crate) async fn a_record_is_replaced_as_a_whole_and_removed<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let of = page("library/a", "");
    assert_eq!(text(store.record(&of).await), None);
    for (mark, checked) in [("first".repeat(300), 5), ("second".to_owned(), 6)] {
        let wanted = record(&of, &mark, checked);
        store.set_record(&of, Some(&wanted)).await;
        assert_eq!(text(store.record(&of).await), text(Some(wanted.clone())));
        assert_eq!(place.names(), [record_name(&of)]);
        for copy in place.copies(&record_name(&of)) {
            assert_eq!(copy, serde_json::to_vec(&wanted).unwrap());
        }
    }
    for _ in 0..2 {
        store.set_record(&of, None).await;
        assert_eq!(text(store.record(&of).await), None);
        assert_eq!(place.names(), [""; 0]);
    }
    // A removed record is written again, even with equal content.
    store.set_record(&of, Some(&record(&of, "second", 7))).await;
    assert!(store.record(&of).await.is_some());
    // The largest lists do not fit, and the old record is outdated.
    let large = record(&of, &"x".repeat(RECORD_BYTES_MAX as usize), 8);
    store.set_record(&of, Some(&large)).await;
    assert_eq!(text(store.record(&of).await), None);
}

pub(crate) async fn records_of_every_kind_are_kept_apart<P: Place>() {
    let place = P::make().await;
    let store = place.open().await;
    let absent = |text: &str| RecordName::AbsentTag(text.parse().unwrap());
    let tag = format!("sha256-{}", "0a".repeat(32));
    let mut all = vec![
        page("a/b__c", ""),
        page("a/b__c", "artifactType=a"),
        page("a/b__c", "artifactType=b"),
        page("a", ""),
        record_of("a/b__c", RecordName::Unsupported),
        record_of("a", RecordName::Unsupported),
        record_of("a/b__c", absent(&tag)),
        record_of("a/b__c", absent(&format!("{tag}.sig"))),
        record_of(&format!("a/{tag}"), absent(&tag)),
    ];
    all.retain(|of| record_name(of).len() <= P::NAME_MAX);
    for (at, of) in all.iter().enumerate() {
        assert_eq!(text(store.record(of).await), None, "{of:?}");
        store
            .set_record(of, Some(&record(of, &at.to_string(), 5 + at as u64)))
            .await;
    }
    for (at, of) in all.iter().enumerate() {
        let wanted = record(of, &at.to_string(), 5 + at as u64);
        assert_eq!(text(store.record(of).await), text(Some(wanted)), "{of:?}");
    }
    assert_eq!(place.names().len(), all.len());
}

pub(crate) async fn a_record_that_cannot_be_read_is_none_and_heals<P: Place>() {
    let place = P::make().await;
    for of in [
        page("library/a", ""),
        record_of("library/a", RecordName::Unsupported),
    ] {
        for (what, bytes) in [
            ("nothing", &b""[..]),
            ("half", b"{\"checkedAtMs\":"),
            ("noise", b"hello"),
            ("a list", b"[]"),
            (
                "a different query",
                b"{\"checkedAtMs\":1,\"query\":\"n=5\",\"index\":{}}",
            ),
        ] {
            place.plant(&record_name(&of), bytes);
            let store = place.open().await;
            assert_eq!(text(store.record(&of).await), None, "{what}");
            let wanted = record(&of, "new", 5);
            store.set_record(&of, Some(&wanted)).await;
            assert_eq!(text(store.record(&of).await), text(Some(wanted)), "{what}");
        }
    }
}

/// Copies a place, name by name, to another place, and reads everything there.
pub(crate) async fn what_was_written_here_is_found_there<From: Place, To: Place>() {
    let (here, there) = (From::make().await, To::make().await);
    let store = here.open().await;
    let bytes = content(4_000, 20);
    let keys = [
        blob(&bytes),
        Key::Blob(Digest::of(Algorithm::Sha512, &bytes)),
        manifest("r.example:5000", "a/b", &bytes),
    ];
    for key in &keys {
        let mut known = meta(key, 4_000);
        known.sources = vec![source("one.example")];
        put_as(&store, key, &bytes, known).await;
        store.record_source(key, &source("two.example"), true).await;
    }
    let name = tag("a/b", "v1", "dl+dm");
    store.set_tag(&name, &pointer(&name, &bytes, 5)).await;
    let of = page("a/b", "artifactType=a");
    store.set_record(&of, Some(&record(&of, "copied", 5))).await;
    drop(store);
    for path in here.names() {
        there.plant(&path, &here.copies(&path)[0]);
    }
    let (here, before) = (here.open().await, there.names());
    let store = there.open().await;
    for key in &keys {
        let known = expect(&here, key, &bytes).await;
        let found = expect(&store, key, &bytes).await;
        assert_eq!(known.to_json(), found.to_json());
        assert!(found.public && found.is_from("two.example"));
    }
    assert_eq!(store.tag(&name).await, Some(pointer(&name, &bytes, 5)));
    assert_eq!(
        text(store.record(&of).await),
        text(Some(record(&of, "copied", 5)))
    );
    assert_eq!(there.names(), before);
}
