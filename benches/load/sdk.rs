//! Sends the requests through the S3 SDK directly to the engine, as a baseline for a cache in front
//! of the engine.
//!
//! `--path` is `/bucket/key`. Region and credentials come from the environment. Bodies are received
//! and dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::arguments::Arguments;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Object {
    client: Client,
    bucket: String,
    key: String,
    length: Option<u64>,
}

/// Runs the load of `arguments` and prints the report as one line of JSON. Returns whether every
/// response was correct.
pub fn run(arguments: &Arguments) -> Result<bool, Failure> {
    // Equals the number of threads in the cache's helper pool.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let object = Object::new(arguments).await?;
        // Loads credentials and opens a connection before the measurement.
        object.get(Some("bytes=0-0")).await?;
        if arguments.once {
            once(&object).await
        } else {
            load(object, arguments).await
        }
    })?;
    println!("{report}");
    Ok(report["errors"] == 0)
}

impl Object {
    async fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let (bucket, key) = arguments
            .path
            .trim_start_matches('/')
            .split_once('/')
            .ok_or("--path wants /bucket/key")?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let sdk = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(format!("http://{}", arguments.addr))
            .load()
            .await;
        let config = Builder::from(&sdk)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Object {
            client: Client::from_conf(config),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            length: arguments.length,
        })
    }

    /// Gets the object. Returns the number of bytes and the time to the first byte.
    async fn get(&self, range: Option<&str>) -> Result<(u64, Duration), Failure> {
        let start = Instant::now();
        let request = self.client.get_object().bucket(&self.bucket).key(&self.key);
        let mut body = request.set_range(range.map(str::to_owned)).send().await?.body;
        let (mut bytes, mut first) = (0, None);
        while let Some(chunk) = body.next().await {
            bytes += chunk?.len() as u64;
            first.get_or_insert_with(|| start.elapsed());
        }
        if range.is_none() && self.length.is_some_and(|length| length != bytes) {
            return Err(format!("{bytes} bytes").into());
        }
        Ok((bytes, first.unwrap_or_else(|| start.elapsed())))
    }
}

async fn once(object: &Object) -> Result<serde_json::Value, Failure> {
    let start = Instant::now();
    let (bytes, first) = object.get(None).await?;
    Ok(serde_json::json!({
        "first_byte_ms": first.as_secs_f64() * 1e3,
        "total_ms": start.elapsed().as_secs_f64() * 1e3,
        "bytes": bytes,
        "errors": 0,
    }))
}

async fn load(object: Object, arguments: &Arguments) -> Result<serde_json::Value, Failure> {
    let object = Arc::new(object);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(arguments.seconds);
    let tasks: Vec<_> = (0..arguments.connections)
        .map(|_| {
            let object = object.clone();
            tokio::spawn(async move {
                let (mut requests, mut bytes) = (0_u64, 0);
                while Instant::now() < end {
                    bytes += object.get(None).await?.0;
                    requests += 1;
                }
                Ok::<_, Failure>((requests, bytes))
            })
        })
        .collect();
    let (mut requests, mut bytes) = (0, 0);
    for task in tasks {
        let (more_requests, more_bytes) = task.await??;
        requests += more_requests;
        bytes += more_bytes;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(serde_json::json!({
        "requests": requests,
        "bytes": bytes,
        "requests_per_second": requests as f64 / seconds,
        "bytes_per_second": bytes as f64 / seconds,
        "errors": 0,
    }))
}
