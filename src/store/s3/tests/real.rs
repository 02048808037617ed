//! Tests with external engines. `scripts/s3.sh` starts the engines and sets `AWS_*` and
//! `S3_TEST_REFUSAL`.

use super::*;
use crate::config::StorageConfig;
use crate::oci::Origin;
use crate::store::index::ObjectName;
use futures_util::StreamExt as _;

/// Returns the settings of the bucket from the environment.
fn settings() -> S3Settings {
    let config = crate::config::resolve(
        crate::config::Layer::default(),
        crate::config::Environment::of_process().looking_only(),
    );
    match config.expect("the environment has a valid configuration").storage {
        StorageConfig::S3 { s3, .. } => s3,
        other => panic!("the environment names no bucket: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs an engine: scripts/s3.sh"]
async fn an_engine_keeps_what_is_stored_whole_in_parts_and_under_every_digest() {
    let (one, other) = (
        S3Store::open(&settings()).await.unwrap(),
        S3Store::open(&settings()).await.unwrap(),
    );
    let scratch = Scratch::new();
    let seed = u64::from(std::process::id());
    for size in [
        0,
        1,
        3_000_001,
        crate::limits::S3_MULTIPART_BYTES_MIN as usize + 5,
    ] {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let content = content(size, seed);
            let key = Key::Blob(Digest::of(algorithm, &content));
            one.find(&key).await.unwrap();
            put_file(&one, &key, &content, &scratch).await;
            assert_eq!(other.find(&key).await.unwrap().unwrap().size, size as u64);
            let size = size as u64;
            for (from, to) in [(0, size), (size / 3, size / 2), (size.saturating_sub(1), size)] {
                let part = read(&other, &key, from, to).await.unwrap();
                assert!(
                    part == content[from as usize..to as usize],
                    "{size}: {from}..{to}"
                );
            }
            other.verify(&key).await;
            assert!(other.find(&key).await.unwrap().is_some(), "the object is valid");
        }
    }
}

#[tokio::test]
#[ignore = "needs an engine: scripts/s3.sh"]
async fn an_engine_keeps_tags_with_every_character_they_may_have() {
    let store = S3Store::open(&settings()).await.unwrap();
    let (namespace, repository) = ("r.example:5000".parse().unwrap(), "a/b__c".parse().unwrap());
    let tag = "v1.0-rc_2".parse().unwrap();
    for class in ["native", "dl+dm"] {
        let pointer = TagPointer {
            digest: Digest::of(Algorithm::Sha256, class.as_bytes()),
            media_type: "a/b".into(),
            size: 3,
            checked_at_ms: 5,
            etag: Some("\"é\"".into()),
            accept_class: class.into(),
            headers: Default::default(),
        };
        store
            .put_tag(&namespace, &repository, &tag, class, &pointer)
            .await
            .unwrap();
        let found = store.find_tag(&namespace, &repository, &tag, class).await;
        assert_eq!(found.unwrap(), Some(pointer));
    }
}

#[tokio::test]
#[ignore = "needs an engine: scripts/s3.sh"]
async fn an_engine_lists_more_objects_than_a_page_and_removes_one() {
    let settings = S3Settings {
        prefix: "listed/".to_owned(),
        ..settings()
    };
    let store = S3Store::open(&settings).await.unwrap();
    let origin = Arc::new(Origin {
        namespace: "r.example".parse().unwrap(),
        repository: "a/b".parse().unwrap(),
    });
    let pointer = TagPointer {
        digest: Digest::of(Algorithm::Sha256, b"manifest"),
        media_type: "a/b".into(),
        size: 3,
        checked_at_ms: 5,
        etag: None,
        accept_class: "native".into(),
        headers: Default::default(),
    };
    let count = LISTED_PER_REQUEST + 5;
    let puts = (0..count).map(|number| {
        let (store, origin, pointer) = (store.clone(), origin.clone(), pointer.clone());
        async move {
            let tag = format!("v{number}").parse().unwrap();
            let Origin {
                namespace,
                repository,
            } = &*origin;
            let put = store.put_tag(namespace, repository, &tag, "native", &pointer);
            put.await.unwrap();
        }
    });
    futures_util::stream::iter(puts)
        .buffer_unordered(16)
        .collect::<()>()
        .await;
    let command = S3Store::open_for_command(&settings).await.unwrap();
    let mut pages = 0;
    let listing = command.list(|_| pages += 1).await.unwrap();
    assert_eq!((listing.count(), listing.reads(), pages), (count, count, 2));
    let scratch = Scratch::new();
    let mut reads = 0;
    command.copy(&listing, &scratch.0, || reads += 1).await.unwrap();
    assert_eq!(reads, count);
    let tags = scratch.0.join("manifests/r.example/a/b/_tags");
    assert_eq!(std::fs::read_dir(&tags).unwrap().count() as u64, count);
    let removed = ObjectName::Tag {
        origin,
        file_name: "v7".into(),
    };
    command.remove_object(&removed).await.unwrap();
    let left = command.list(|_| ()).await.unwrap();
    assert_eq!(left.count(), count - 1);
    assert_eq!(left.bytes_of([&removed].into_iter()), 0);
}

#[tokio::test]
#[ignore = "needs an engine: scripts/s3.sh"]
async fn an_engine_that_refuses_says_so_at_start() {
    // A word of the expected advice. The script causes the error.
    #[allow(
        clippy::disallowed_methods,
        reason = "the script passes the settings in the environment"
    )]
    let wanted = std::env::var("S3_TEST_REFUSAL").expect("S3_TEST_REFUSAL has a word of the error");
    let error = S3Store::open(&settings())
        .await
        .err()
        .expect("the engine rejects the settings");
    assert!(error.to_string().contains(&wanted), "{error}");
}

#[tokio::test]
#[ignore = "needs an engine: scripts/s3.sh"]
async fn an_engine_is_opened() {
    let store = S3Store::open(&settings()).await.unwrap();
    assert!(store.is_available());
    let key = put(&store, &content(100, 1)).await;
    println!("{}", store.presign(&key, Duration::from_secs(60)).await.unwrap());
}
