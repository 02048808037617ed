//! Tests with a failing engine: rejected requests, misses, and no wrong content in any response.

use super::*;
use crate::limits::{S3_BREAKER_FAILURES, S3_BREAKER_PAUSE_MIN};
use crate::metrics::{StoreOperation, store_failures};
use engine::Act;

fn fault<T>(result: Result<T, S3Error>) -> S3Fault {
    match result {
        Ok(_) => panic!("the operation succeeded"),
        Err(error) => error.fault,
    }
}

/// Waits for the pause and sends requests until the bucket is used again.
async fn recovered(store: &S3Store) {
    for _ in 0..600 {
        if store.is_available() && store.find(&blob(b"anything")).await.is_ok() {
            return;
        }
        tokio::time::sleep(S3_BREAKER_PAUSE_MIN / 10).await;
    }
    panic!("the bucket is not used again within a minute");
}

#[tokio::test]
async fn start_fails_with_the_setting_to_change() {
    for (status, code, words) in [
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", "s3:PutObject on oci-cache/eu/*"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (301, "PermanentRedirect", "AWS_REGION"),
    ] {
        let engine = Engine::start().await;
        engine.script(move |_| Act::Refuse(status, code));
        let error = engine.open().await.err().expect(code).to_string();
        assert!(
            error.contains("oci-cache") && error.contains(words),
            "{code}: {error}"
        );
        assert!(!error.contains(SECRET));
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_by_the_engine_itself() {
    let engine = Engine::start().await;
    let opened = S3Store::open_at(&engine.sdk("wrong"), &engine.settings()).await;
    let error = opened
        .err()
        .expect("the engine rejects the credentials")
        .to_string();
    assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
}

#[tokio::test]
async fn a_missing_bucket_is_made_and_where_that_is_refused_the_start_fails() {
    // The engine of these tests creates buckets on demand, so the fault proxy reports a missing
    // bucket until its creation.
    for allowed in [true, false] {
        let engine = Engine::start().await;
        let mut made = false;
        engine.script(move |line| {
            let making = line.starts_with("PUT") && !line.contains(".self-test");
            made |= making && allowed;
            match (making, made) {
                (true, false) => Act::Refuse(403, "AccessDenied"),
                (false, false) => Act::Refuse(404, "NoSuchBucket"),
                (_, true) => Act::Forward,
            }
        });
        let opened = engine.open().await;
        if allowed {
            assert!(opened.expect("the bucket is created").is_available());
        } else {
            let error = opened.err().expect("the bucket is missing").to_string();
            assert!(error.contains("aws s3 mb s3://oci-cache"), "{error}");
        }
    }
}

#[tokio::test]
async fn an_engine_that_is_down_at_start_is_used_when_it_answers() {
    let engine = Engine::start().await;
    engine.script(|_| Act::Refuse(500, "InternalError"));
    let store = engine
        .open()
        .await
        .expect("a failure of the lifecycle rule does not stop the start");
    assert!(!store.is_available());
    assert_eq!(fault(store.find(&blob(b"x")).await), S3Fault::Tripped);
    engine.heal();
    recovered(&store).await;
    let content = content(10, 20);
    let key = put(&store, &content).await;
    assert!(read(&store, &key, 0, 10).await.unwrap() == content);
}

#[tokio::test]
async fn failures_in_a_row_trip_the_breaker_and_an_answer_recovers_it() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &content(10, 21)).await;
    engine.script(|_| Act::Refuse(500, "InternalError"));
    let absent = blob(b"absent");
    assert_eq!(store.state(), S3State::Available);
    let failures = store_failures(StoreOperation::S3Read);
    for _ in 0..S3_BREAKER_FAILURES {
        assert!(store.find(&absent).await.is_err());
    }
    assert!(!store.is_available());
    assert_eq!(store.state(), S3State::Suspended);
    // Other tests count in the same process.
    assert!(store_failures(StoreOperation::S3Read) >= failures + u64::from(S3_BREAKER_FAILURES));
    let before = engine.requests("");
    assert_eq!(fault(store.find(&absent).await), S3Fault::Tripped);
    assert_eq!(engine.requests(""), before, "no request is sent");
    engine.heal();
    recovered(&store).await;
    assert_eq!(store.state(), S3State::Available);
    assert!(store.find(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn what_holds_for_every_request_trips_the_breaker_at_once() {
    for (status, code, wanted) in [
        (503, "SlowDown", S3Fault::Throttled),
        (400, "ExpiredToken", S3Fault::Expired),
        (404, "NoSuchBucket", S3Fault::NoBucket),
        (403, "RequestTimeTooSkewed", S3Fault::Skew),
    ] {
        let engine = Engine::start().await;
        let store = engine.open().await.unwrap();
        engine.script(move |line| match line.starts_with("GET") {
            true => Act::Refuse(status, code),
            false => Act::Forward,
        });
        assert_eq!(fault(store.find(&blob(b"x")).await), wanted, "{code}");
        engine.heal();
        recovered(&store).await;
    }
}

#[tokio::test]
async fn failed_s3_upload_is_retried() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    for code in ["InternalError", "SlowDown"] {
        let mut first = true;
        engine.script(
            move |line| match line.starts_with("PUT") && std::mem::take(&mut first) {
                true => Act::Refuse(503, code),
                false => Act::Forward,
            },
        );
        let content = content(100, 22 + code.len() as u64);
        let key = put(&store, &content).await;
        assert!(read(&store, &key, 0, 100).await.unwrap() == content);
    }
    assert!(store.is_available());
}

#[tokio::test]
async fn denied_read_after_a_successful_start_is_a_miss() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    engine.script(|line| match line.starts_with("GET") || line.starts_with("HEAD") {
        true => Act::Refuse(403, "AccessDenied"),
        false => Act::Forward,
    });
    for _ in 0..2 * S3_BREAKER_FAILURES {
        assert!(store.find(&blob(b"x")).await.unwrap().is_none());
    }
    assert!(store.is_available());
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_and_never_a_shorter_object() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let content = content(100_000, 23);
    let key = put(&store, &content).await;
    engine.script(|line| match line.starts_with("GET") {
        true => Act::Cut(60_000),
        false => Act::Forward,
    });
    assert_eq!(fault(read(&store, &key, 0, 100_000).await), S3Fault::Short);
    engine.heal();
    assert!(read(&store, &key, 0, 100_000).await.unwrap() == content);
}

#[tokio::test]
async fn stalled_s3_body_ends_with_a_timeout() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &content(100_000, 29)).await;
    engine.script(|line| match line.starts_with("GET") {
        true => Act::Stall,
        false => Act::Forward,
    });
    assert_eq!(fault(read(&store, &key, 0, 100_000).await), S3Fault::Timeout);
}

#[tokio::test]
async fn data_that_is_lost_behind_a_remembered_sidecar_is_an_error_and_then_a_miss() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &content(1_000, 24)).await;
    assert!(store.find(&key).await.unwrap().is_some());
    std::fs::remove_file(data_of(&engine, &key)).unwrap();
    assert_eq!(fault(read(&store, &key, 0, 1_000).await), S3Fault::NotFound);
    assert!(store.find(&key).await.unwrap().is_none());
    assert!(!sidecar_of(&engine, &key).exists());
}

#[tokio::test]
async fn object_whose_size_differs_from_its_cached_sidecar_is_an_error() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    let key = put(&store, &content(1_000, 25)).await;
    for size in [999, 1_001] {
        std::fs::write(data_of(&engine, &key), content(size, 26)).unwrap();
        put_sidecar_back(&engine, &key);
        let meta = meta(&key, 1_000);
        for (from, to) in [(0, 1_000), (0, 10)] {
            let opened = store.read(&key, &meta, from, to).await;
            assert_eq!(fault(opened), S3Fault::Short, "{size} {from}..{to}");
        }
    }
}

fn put_sidecar_back(engine: &Engine, key: &Key) {
    std::fs::write(sidecar_of(engine, key), meta(key, 1_000).to_json()).unwrap();
}

#[tokio::test]
async fn cancelled_s3_request_counts_as_a_failure() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    engine.script(|_| Act::Hang);
    let patience = crate::limits::S3_CANCELLED_FAILURE_AGE + Duration::from_millis(200);
    for _ in 0..S3_BREAKER_FAILURES {
        if !store.is_available() {
            break;
        }
        let found = tokio::time::timeout(patience, store.find(&blob(b"x"))).await;
        assert!(found.is_err(), "the request does not end");
    }
    assert!(!store.is_available());
}

#[tokio::test]
async fn an_upload_that_fails_leaves_no_parts_and_no_entry() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    engine.script(|line| match line.contains("partNumber=3") {
        true => Act::Refuse(400, "EntityTooSmall"),
        false => Act::Forward,
    });
    let size = crate::limits::S3_MULTIPART_BYTES_MIN as usize;
    let content = content(size, 27);
    let key = blob(&content);
    let whole = Content::Bytes(content.clone());
    let stored = store
        .put(&key, whole, &verified(&key, &content), &meta(&key, size as u64))
        .await;
    assert_eq!(fault(stored), S3Fault::Unexpected);
    eventually("the parts are removed", || engine.requests("DELETE") > 0).await;
    assert!(store.find(&key).await.unwrap().is_none());
    assert!(!sidecar_of(&engine, &key).exists());
}

#[tokio::test]
async fn a_sidecar_is_written_only_after_its_data() {
    let engine = Engine::start().await;
    let store = engine.open().await.unwrap();
    engine.script(
        |line| match line.starts_with("PUT") && !line.contains(".meta.json") {
            true => Act::Refuse(403, "AccessDenied"),
            false => Act::Forward,
        },
    );
    let content = content(100, 28);
    let key = blob(&content);
    let whole = Content::Bytes(content.clone());
    let stored = store
        .put(&key, whole, &verified(&key, &content), &meta(&key, 100))
        .await;
    assert_eq!(fault(stored), S3Fault::Denied);
    assert_eq!(engine.names(), [""; 0]);
}
