//! The engine against an S3 in this process: what is stored, found, marked and removed.

use std::io::Write;

use super::*;
use crate::oci::{Algorithm, Digest};

pub(in crate::store) mod engine;
mod faults;
mod real;

use engine::{ACCESS, Engine, SECRET, Scratch, eventually};

fn content(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

fn blob(content: &[u8]) -> Key {
    Key::Blob(Digest::of(Algorithm::Sha256, content))
}

fn meta(key: &Key, size: u64) -> Meta {
    let mut meta = Meta::parse(
        *key.digest(),
        format!(r#"{{"Content-Length":["{size}"]}}"#).as_bytes(),
    )
    .unwrap();
    meta.content_type = "application/octet-stream".into();
    meta.verified = true;
    meta
}

fn verified(key: &Key, content: &[u8]) -> Verified {
    let found = Digest::of(key.digest().algorithm(), content);
    Verified::check(*key.digest(), found, content.len() as u64).unwrap()
}

async fn put(store: &S3Store, content: &Bytes) -> Key {
    let key = blob(content);
    put_as(store, &key, content, &meta(&key, content.len() as u64)).await;
    key
}

async fn put_as(store: &S3Store, key: &Key, content: &Bytes, meta: &Meta) {
    let verified = verified(key, content);
    store
        .put(key, Content::Bytes(content.clone()), &verified, meta)
        .await
        .unwrap();
}

/// Stores content from a file that has no name any more, as a spool is.
async fn put_file(store: &S3Store, key: &Key, content: &[u8], scratch: &Scratch) {
    let path = scratch.0.join("spool");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all(content).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (verified, meta) = (verified(key, content), meta(key, content.len() as u64));
    let file = Content::File(Arc::new(file));
    store.put(key, file, &verified, &meta).await.unwrap();
}

async fn read(store: &S3Store, key: &Key, from: u64, to: u64) -> Result<Vec<u8>, S3Error> {
    let meta = store.find(key).await?.expect("it is there");
    let mut body = store.read(key, &meta, from, to).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn sidecar_of(engine: &Engine, key: &Key) -> std::path::PathBuf {
    engine.path(&format!("eu/{}", layout::sidecar(key).display()))
}

fn data_of(engine: &Engine, key: &Key) -> std::path::PathBuf {
    engine.path(&format!("eu/{}", layout::content(key).display()))
}

/// As the older system left it: no marks.
fn plant(engine: &Engine, key: &Key, content: &[u8]) {
    std::fs::create_dir_all(data_of(engine, key).parent().unwrap()).unwrap();
    std::fs::write(data_of(engine, key), content).unwrap();
    let json = format!(
        r#"{{"Content-Length":["{}"],"Content-Type":["a/b"]}}"#,
        content.len()
    );
    std::fs::write(sidecar_of(engine, key), json).unwrap();
}

#[tokio::test]
async fn what_is_stored_is_found_and_read_in_any_part_by_every_machine() {
    let engine = Engine::start().await;
    let (one, other) = (engine.open().await.unwrap(), engine.open().await.unwrap());
    let content = content(300_000, 1);
    assert!(other.find(&blob(&content)).await.unwrap().is_none());
    let key = put(&one, &content).await;
    for store in [&one, &other] {
        assert_eq!(store.find(&key).await.unwrap().unwrap().size, 300_000);
        for (from, to) in [(0, 300_000), (0, 1), (299_999, 300_000), (1_000, 250_000), (7, 7)] {
            let part = read(store, &key, from, to).await.unwrap();
            assert!(part == content[from as usize..to as usize], "{from}..{to}");
        }
    }
}

#[tokio::test]
async fn names_and_sidecars_are_those_of_the_store_on_disk() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let content = content(10, 2);
    let digest = Digest::of(Algorithm::Sha256, &content);
    let key = Key::Manifest {
        namespace: "r.example:5000".parse().unwrap(),
        repository: "a/b".parse().unwrap(),
        digest,
    };
    let meta = meta(&key, 10);
    put_as(&store, &key, &content, &meta).await;
    let path = format!("eu/manifests/r.example:5000/a/b/sha256-{}", digest.hex());
    assert_eq!(std::fs::read(engine.path(&path)).unwrap(), content);
    let sidecar = std::fs::read(engine.path(&format!("{path}.meta.json"))).unwrap();
    assert_eq!(sidecar, meta.to_json());
}

#[tokio::test]
async fn an_empty_blob_is_content_too() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &Bytes::new()).await;
    assert_eq!(read(&store, &key, 0, 0).await.unwrap(), b"");
}

#[tokio::test]
async fn a_file_without_a_name_goes_up_whole_and_in_parts() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let scratch = Scratch::new();
    // The second needs five parts, of which the last is short.
    for size in [1_000_003, crate::limits::S3_MULTIPART_BYTES_MIN as usize + 5] {
        let content = content(size, 3);
        let key = blob(&content);
        put_file(&store, &key, &content, &scratch).await;
        assert!(
            std::fs::read(data_of(&engine, &key)).unwrap() == content,
            "{size}"
        );
        assert!(read(&store, &key, 17, size as u64).await.unwrap() == content[17..]);
    }
}

#[tokio::test]
async fn a_file_that_is_too_short_is_not_stored() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let content = content(100, 4);
    let key = blob(&content);
    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("f"), &content[..99]).unwrap();
    let file = Content::File(Arc::new(File::open(scratch.0.join("f")).unwrap()));
    let stored = store
        .put(&key, file, &verified(&key, &content), &meta(&key, 100))
        .await;
    assert_eq!(stored.unwrap_err().fault, S3Fault::Spool);
    assert_eq!(engine.objects(), [""; 0]);
}

#[tokio::test]
async fn halves_of_an_entry_are_misses_and_heal_with_the_next_store() {
    let engine = Engine::start().await;
    let content = content(1_000, 5);
    let first = engine.open().await.unwrap();
    let key = put(&first, &content).await;
    type Damage = fn(&Engine, &Key);
    let damages: [(&str, Damage); 4] = [
        ("no sidecar", |engine, key| {
            std::fs::remove_file(sidecar_of(engine, key)).unwrap();
        }),
        ("no data", |engine, key| {
            std::fs::remove_file(data_of(engine, key)).unwrap();
        }),
        ("short data", |engine, key| {
            std::fs::write(data_of(engine, key), "short").unwrap();
        }),
        ("an unreadable sidecar", |engine, key| {
            std::fs::write(sidecar_of(engine, key), "{").unwrap();
        }),
    ];
    for (what, damage) in damages {
        damage(&engine, &key);
        let store = engine.open().await.unwrap();
        assert!(store.find(&key).await.unwrap().is_none(), "{what}");
        assert!(!sidecar_of(&engine, &key).exists(), "{what}: it is cleaned");
        put(&store, &content).await;
        assert!(read(&store, &key, 0, 1_000).await.unwrap() == content, "{what}");
    }
}

#[tokio::test]
async fn an_entry_of_the_older_system_is_hashed_before_it_is_found_and_then_marked() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let (good, bad) = (content(5_000, 6), content(5_000, 7));
    let (sound, forged) = (blob(&good), blob(&bad));
    plant(&engine, &sound, &good);
    plant(&engine, &forged, &good);
    let found = store.find(&sound).await.unwrap().unwrap();
    assert!(found.verified && !found.public);
    let marked = std::fs::read(sidecar_of(&engine, &sound)).unwrap();
    assert!(Meta::parse(*sound.digest(), &marked).unwrap().verified);
    assert!(store.find(&forged).await.unwrap().is_none());
    assert!(!sidecar_of(&engine, &forged).exists() && !data_of(&engine, &forged).exists());
}

#[tokio::test]
async fn what_is_there_already_is_not_sent_again_and_nothing_known_is_lost() {
    let engine = Engine::start().await;
    let (one, other) = (engine.open().await.unwrap(), engine.open().await.unwrap());
    let content = content(1_000, 8);
    let key = blob(&content);
    let from = |registry: &str| Source {
        registry: registry.into(),
        repository: "a".into(),
    };
    let mut known = meta(&key, 1_000);
    known.sources = vec![from("one.example")];
    put_as(&one, &key, &content, &known).await;
    let name = format!("PUT /oci-cache/eu/{}", layout::content(&key).display());
    let data_puts = || {
        let seen = engine.seen.lock().unwrap();
        seen.iter()
            .filter(|line| line.split('?').next() == Some(name.as_str()))
            .count()
    };
    assert_eq!(data_puts(), 1);
    let mut known = meta(&key, 1_000);
    known.sources = vec![from("two.example")];
    known.public = true;
    put_as(&other, &key, &content, &known).await;
    assert_eq!(data_puts(), 1, "the data is there");
    one.vouch(&key, &from("three.example"), false).await.unwrap();
    let json = std::fs::read(sidecar_of(&engine, &key)).unwrap();
    let meta = Meta::parse(*key.digest(), &json).unwrap();
    assert!(meta.verified && meta.public);
    for registry in ["one.example", "two.example", "three.example"] {
        assert!(meta.is_from(registry), "{registry}");
    }
}

#[tokio::test]
async fn distrust_removes_what_has_changed_and_nothing_else() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &content(1_000, 9)).await;
    store.distrust(&key).await;
    assert!(store.find(&key).await.unwrap().is_some());
    std::fs::write(data_of(&engine, &key), content(1_000, 10)).unwrap();
    store.distrust(&key).await;
    assert!(store.find(&key).await.unwrap().is_none());
    assert_eq!(engine.objects(), [""; 0]);
}

#[tokio::test]
async fn the_last_writer_of_a_tag_wins_and_every_machine_sees_it() {
    let engine = Engine::start().await;
    let (one, other) = (engine.open().await.unwrap(), engine.open().await.unwrap());
    let (namespace, repository) = ("docker.io".parse().unwrap(), "library/a".parse().unwrap());
    let tag = "v1".parse().unwrap();
    let pointer = |content: &[u8]| TagPointer {
        digest: Digest::of(Algorithm::Sha256, content),
        media_type: "a/b".into(),
        size: 3,
        checked_at_ms: 5,
        etag: None,
        accept_class: "native".into(),
        headers: Default::default(),
    };
    for text in [&b"old"[..], b"new"] {
        let pointer = pointer(text);
        let class = &pointer.accept_class;
        one.put_tag(&namespace, &repository, &tag, class, &pointer)
            .await
            .unwrap();
        let found = other.find_tag(&namespace, &repository, &tag, class).await;
        assert_eq!(found.unwrap(), Some(pointer.clone()));
    }
    assert!(engine.path("eu/manifests/docker.io/library/a/_tags/v1").exists());
    let other_class = other.find_tag(&namespace, &repository, &tag, "dm").await;
    assert_eq!(other_class.unwrap(), None);
}

#[tokio::test]
async fn a_presigned_url_is_enough_to_read_and_lives_a_minute_at_most() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let content = content(100, 11);
    let key = put(&store, &content).await;
    let url = store.presign(&key, Duration::from_secs(3600)).await.unwrap();
    assert!(url.contains("X-Amz-Expires=60&"), "{url}");
    assert!(!url.contains(SECRET) && url.contains(ACCESS));
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut answer)
        .await
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer.ends_with(&content));
}

#[tokio::test]
async fn machines_that_store_the_same_at_once_leave_one_sound_copy() {
    let engine = Engine::start().await;
    let content = content(200_000, 12);
    let key = blob(&content);
    let mut machines = Vec::new();
    for _ in 0..4 {
        let (store, content) = (engine.open().await.unwrap(), content.clone());
        machines.push(tokio::spawn(async move { put(&store, &content).await }));
    }
    for machine in machines {
        assert_eq!(machine.await.unwrap(), key);
    }
    let store = engine.open().await.unwrap();
    assert!(read(&store, &key, 0, 200_000).await.unwrap() == content);
}
