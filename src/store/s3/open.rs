//! Opens the bucket. The self-test writes and reads a small object, and creates a missing bucket.
//! Errors include a remedy for the operator.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use tokio::sync::Semaphore;

use super::S3Operation;
use super::circuit_breaker::CircuitBreaker;
use super::error::{S3Error, S3Fault, S3OpenError, classify};
use super::object::failure;
use super::records::Written;
use super::sidecars::Sidecars;
use super::{S3Store, Shared, connect};
use crate::config::S3Settings;
use crate::limits::{
    S3_BREAKER_PAUSE_MAX, S3_BREAKER_PAUSE_MIN, S3_HASHES_MAX, S3_READS_MAX, S3_SELF_TEST_TIMEOUT,
    S3_SHORT_READS_MAX, S3_SIDECAR_TTL, S3_SIDECARS_MAX, S3_UPLOADS_MAX,
};
use crate::store::claims::Claims;

/// The object of the self-test. The object stays, because removal needs an otherwise optional
/// permission, and another machine may be reading the object.
const TRIAL: &str = ".self-test";
const TRIAL_CONTENT: &[u8] = b"written and read by oci-pull-through at start\n";

/// The region of buckets created without a location constraint.
const UNNAMED_REGION: &str = "us-east-1";

impl S3Store {
    pub(super) async fn open_at(sdk: &SdkConfig, settings: &S3Settings) -> Result<Self, S3OpenError> {
        let store = Self::connect_to(sdk, settings).await?;
        match store.try_out_in_time().await {
            Ok(()) => store.begin().await,
            Err(error) if error.fault.is_for_operator() || error.fault == S3Fault::Denied => {
                return Err(store.explain(error));
            }
            Err(error) => {
                tracing::warn!(bucket = %store.0.bucket, %error, "bucket unavailable");
                tokio::spawn(try_again(Arc::downgrade(&store.0)));
            }
        }
        Ok(store)
    }

    /// Returns the bucket before its self-test, without a request to the engine.
    pub(super) async fn connect_to(sdk: &SdkConfig, settings: &S3Settings) -> Result<Self, S3OpenError> {
        let shared = Shared {
            client: connect::client(sdk, settings),
            bucket: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            lifecycle_days: settings.lifecycle_days,
            plain: false,
            tried: AtomicBool::new(false),
            breaker: CircuitBreaker::default(),
            sidecars: Sidecars::new(S3_SIDECAR_TTL, S3_SIDECARS_MAX),
            written: Written::default(),
            adopting: Claims::default(),
            uploads: Arc::new(Semaphore::new(S3_UPLOADS_MAX)),
            reads: Arc::new(Semaphore::new(S3_READS_MAX)),
            short_reads: Arc::new(Semaphore::new(S3_SHORT_READS_MAX)),
            hashes: Semaphore::new(S3_HASHES_MAX),
        };
        let mut store = S3Store(Arc::new(shared));
        // Signing uses only the credentials, and reveals the scheme of the endpoint.
        let sample = store.presign_name(TRIAL, Duration::from_secs(1)).await;
        let sample = sample.map_err(|error| store.explain(error))?;
        let plain = sample.starts_with("http:");
        let shared = Arc::get_mut(&mut store.0).expect("the new store has no other owner");
        shared.plain = plain;
        Ok(store)
    }

    async fn try_out_in_time(&self) -> Result<(), S3Error> {
        let late = |_| Err(failure(S3Operation::Test, &self.0.bucket, S3Fault::Timeout));
        tokio::time::timeout(S3_SELF_TEST_TIMEOUT, self.try_out())
            .await
            .unwrap_or_else(late)
    }

    /// Writes and reads a small object. The requests bypass the circuit breaker.
    async fn try_out(&self) -> Result<(), S3Error> {
        match self.write_trial().await {
            Err(error) if error.fault == S3Fault::NoBucket => {
                self.make_bucket().await?;
                self.write_trial().await?;
            }
            result => result?,
        }
        let name = format!("{}{TRIAL}", self.0.prefix);
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(&name);
        let answer = request.send().await;
        let answer = answer.map_err(|error| classify(S3Operation::Read, &name, &error))?;
        let content = answer.body.collect().await;
        let content = content.map_err(|_| failure(S3Operation::Read, &name, S3Fault::Unavailable))?;
        if content.into_bytes() != TRIAL_CONTENT {
            return Err(failure(S3Operation::Read, &name, S3Fault::Short));
        }
        Ok(())
    }

    async fn write_trial(&self) -> Result<(), S3Error> {
        let name = format!("{}{TRIAL}", self.0.prefix);
        let request = self.0.client.put_object().bucket(&self.0.bucket).key(&name);
        let result = request.body(ByteStream::from_static(TRIAL_CONTENT)).send().await;
        result
            .map(drop)
            .map_err(|error| classify(S3Operation::Write, &name, &error))
    }

    async fn make_bucket(&self) -> Result<(), S3Error> {
        let (client, bucket) = (&self.0.client, &self.0.bucket);
        let region = client.config().region().map(AsRef::<str>::as_ref);
        let place = region.filter(|region| *region != UNNAMED_REGION).map(|region| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        let request = client.create_bucket().bucket(bucket);
        match request.set_create_bucket_configuration(place).send().await {
            Ok(_) => {
                tracing::info!(bucket, "bucket created");
                Ok(())
            }
            Err(error) => match aws_sdk_s3::error::ProvideErrorMetadata::code(&error) {
                // Another machine created the bucket first. The next write fails if the bucket has
                // another owner.
                Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists") => Ok(()),
                _ => {
                    let error = classify(S3Operation::Create, bucket, &error);
                    let missing = matches!(error.fault, S3Fault::Denied | S3Fault::Unexpected);
                    Err(S3Error {
                        fault: if missing { S3Fault::NoBucket } else { error.fault },
                        ..error
                    })
                }
            },
        }
    }

    /// Marks the bucket as available after the self-test.
    async fn begin(&self) {
        self.0.tried.store(true, Ordering::Release);
        if let Err(error) = self.settle_lifecycle().await {
            let days = self.0.lifecycle_days;
            tracing::warn!(bucket = %self.0.bucket, %error, days, "bucket lifecycle rules not updated");
        }
    }

    /// Converts an error to a message with a remedy for the operator.
    fn explain(&self, error: S3Error) -> S3OpenError {
        let bucket = &self.0.bucket;
        let region = self.0.client.config().region().map(AsRef::<str>::as_ref);
        let region = region.unwrap_or(UNNAMED_REGION);
        let remedy = match error.fault {
            S3Fault::NoCredentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or provide credentials with a profile, a web identity or an instance role".into()
            }
            S3Fault::Refused => {
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the endpoint of these credentials (AWS_ENDPOINT_URL)".into()
            }
            S3Fault::Expired => "get new credentials: AWS_SESSION_TOKEN has expired".into(),
            S3Fault::Denied => format!(
                "allow s3:GetObject and s3:PutObject on {bucket}/{}*, or check that the credentials belong to this endpoint",
                self.0.prefix
            ),
            S3Fault::Skew => "set the clock of this machine, for example with NTP".into(),
            S3Fault::NoBucket => format!(
                "create the bucket (aws s3 mb s3://{bucket}), allow s3:CreateBucket, or set S3_BUCKET to another bucket"
            ),
            S3Fault::Region => format!("set AWS_REGION to the region of the bucket; the current value is {region}"),
            _ => "see the log of the engine".into(),
        };
        S3OpenError {
            bucket: bucket.clone(),
            cause: error.to_string(),
            remedy,
        }
    }
}

/// Repeats the self-test until the bucket responds or the store is dropped.
async fn try_again(shared: Weak<Shared>) {
    let mut pause = S3_BREAKER_PAUSE_MIN;
    let mut logged = None;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(S3_BREAKER_PAUSE_MAX);
        let Some(store) = shared.upgrade().map(S3Store) else {
            return;
        };
        match store.try_out_in_time().await {
            Ok(()) => {
                store.begin().await;
                tracing::info!(bucket = %store.0.bucket, "bucket available");
                return;
            }
            Err(error) if error.fault.is_for_operator() || error.fault == S3Fault::Denied => {
                // The engine is reachable again, and reports an error that would have stopped the
                // start.
                if logged.replace(error.fault) != Some(error.fault) {
                    let error = store.explain(error);
                    tracing::error!(bucket = %store.0.bucket, %error, "bucket unusable");
                }
            }
            Err(_) => {}
        }
    }
}
