//! Tests of the S3 store with an S3 engine in this process, in addition to the contract tests
//! (`store/tests`).

use std::fs::File;
use std::io::Write;

use super::*;
use crate::oci::{Algorithm, Digest};
use crate::store::tests::sample::{blob, content, meta, source, verified};

mod connections;
pub(in crate::store) mod engine;
mod faults;
mod real;

use engine::{ACCESS, Engine, SECRET, Scratch, eventually};

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

/// Stores content from an unnamed file, as in the spool.
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
    let file = Content::File(SharedFile::new(file));
    store.put(key, file, &verified, &meta).await.unwrap();
}

async fn read(store: &S3Store, key: &Key, from: u64, to: u64) -> Result<Vec<u8>, S3Error> {
    let meta = store.find(key).await?.expect("the bucket has the object");
    let mut body = store.read(key, &meta, from, to).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn sidecar_of(engine: &Engine, key: &Key) -> std::path::PathBuf {
    engine.place(layout::sidecar(key).to_str().unwrap())
}

fn data_of(engine: &Engine, key: &Key) -> std::path::PathBuf {
    engine.place(layout::content(key).to_str().unwrap())
}

#[tokio::test]
async fn existing_object_is_not_uploaded_again_and_its_sources_are_merged() {
    let engine = Engine::start().await;
    let (one, other) = (engine.open().await.unwrap(), engine.open().await.unwrap());
    let content = content(1_000, 8);
    let key = blob(&content);
    let mut known = meta(&key, 1_000);
    known.sources = vec![source("one.example")];
    put_as(&one, &key, &content, &known).await;
    let name = format!("PUT /oci-cache/eu/{}", layout::content(&key).display());
    let data_puts = || {
        let seen = engine.seen.lock();
        seen.iter()
            .filter(|line| line.split('?').next() == Some(name.as_str()))
            .count()
    };
    assert_eq!(data_puts(), 1);
    let mut known = meta(&key, 1_000);
    known.sources = vec![source("two.example")];
    known.public = true;
    put_as(&other, &key, &content, &known).await;
    assert_eq!(data_puts(), 1, "existing data is not uploaded again");
    one.record_source(&key, &source("three.example"), false)
        .await
        .unwrap();
    let json = std::fs::read(sidecar_of(&engine, &key)).unwrap();
    let meta = Meta::parse(*key.digest(), &json).unwrap();
    assert!(meta.verified && meta.public);
    for registry in ["one.example", "two.example", "three.example"] {
        assert!(meta.is_from(registry), "{registry}");
    }
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
