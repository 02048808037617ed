//! An engine whose pooled connections all die at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use super::{ACCESS, SECRET};

/// Pooled connections at the replacement of the engine. More than the attempts of the SDK.
const KEPT: usize = 8;

#[tokio::test]
async fn kept_connections_that_all_died_cost_the_bucket_no_request() {
    for reset in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let generation = Arc::<AtomicUsize>::default();
        let (alive, together) = (generation.clone(), Arc::new(Barrier::new(KEPT)));
        let engine = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (alive, together) = (alive.clone(), together.clone());
                tokio::spawn(async move {
                    let (generation, mut buffer) = (alive.load(Ordering::SeqCst), Vec::new());
                    loop {
                        while !buffer.ends_with(b"\r\n\r\n") {
                            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                                return;
                            }
                        }
                        buffer.clear();
                        if alive.load(Ordering::SeqCst) != generation {
                            if reset {
                                let socket = socket2::SockRef::from(&stream);
                                socket.set_linger(Some(Duration::ZERO)).unwrap();
                            }
                            return;
                        }
                        if generation == 0 {
                            // Forces each request to use a separate connection.
                            together.wait().await;
                        }
                        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        if stream.write_all(head).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let credentials = Credentials::new(ACCESS, SECRET, None, None, "test");
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(super::super::connect::http_client(None))
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .build();
        let config = aws_sdk_s3::config::Builder::from(&sdk)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .build();
        let client = aws_sdk_s3::Client::from_conf(config);
        let look = || client.head_object().bucket("b").key("k").send();
        for outcome in futures_util::future::join_all((0..KEPT).map(|_| look())).await {
            outcome.unwrap();
        }
        generation.fetch_add(1, Ordering::SeqCst);
        for _ in 0..4 {
            look().await.unwrap();
        }
        engine.abort();
    }
}
