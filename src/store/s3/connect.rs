//! The SDK client, with its trusted certificates, timeouts and retries. The SDK finds endpoint,
//! region and credentials in the usual places: environment, profile, web identity, ECS, EC2.

use std::time::Duration;

use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};

use super::connections::kept_or_fresh;
use super::pool::pooled;
use super::tls;
use crate::config::{Pem, S3Settings};
use crate::limits::{
    S3_ATTEMPT_TIMEOUT, S3_ATTEMPTS_MAX, S3_CONNECT_TIMEOUT, S3_IDLE_CONNECTIONS_MAX, S3_OPERATION_TIMEOUT,
    S3_UPLOAD_RATE_MIN,
};

/// The region used if none is configured. The first region of AWS, and the default of most other
/// engines.
const REGION_DEFAULT: &str = "us-east-1";

/// Timeout of a cloud's metadata service. The service runs on the machine itself, so it responds at
/// once or does not exist.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// Returns the machine's endpoint, region and credentials. Reads files. Queries metadata services
/// if no other source has credentials.
pub(super) async fn of_machine(settings: &S3Settings) -> SdkConfig {
    let http_client = http_client(settings.ca_bundle.as_ref());
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client.clone())
        .region(region(http_client).await)
        .load()
        .await
}

/// Returns a client for the configured bucket.
pub(super) fn client(sdk: &SdkConfig, settings: &S3Settings) -> Client {
    let config = Builder::from(sdk)
        .force_path_style(settings.force_path_style)
        // By default, the SDK adds checksums. Engines other than AWS reject them or store them
        // inside the object.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Downloads have a separate deadline, which does not count the time spent waiting for slow
        // clients.
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .download_enabled(false)
                .grace_period(2 * S3_ATTEMPT_TIMEOUT)
                .build(),
        )
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(S3_ATTEMPTS_MAX)
                .with_initial_backoff(Duration::from_millis(100))
                .with_max_backoff(Duration::from_secs(2)),
        )
        .timeout_config(timeouts(S3_ATTEMPT_TIMEOUT, S3_OPERATION_TIMEOUT))
        .build();
    Client::from_conf(config)
}

/// Returns longer timeouts for a request with a body of `bytes`, or for a request that takes
/// `longer`.
pub(super) fn patience(bytes: u64, longer: Duration) -> Builder {
    let attempt = S3_ATTEMPT_TIMEOUT + longer + Duration::from_secs(bytes / S3_UPLOAD_RATE_MIN);
    aws_sdk_s3::Config::builder().timeout_config(timeouts(attempt, attempt * S3_ATTEMPTS_MAX))
}

fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(S3_CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}

pub(super) fn http_client(bundle: Option<&Pem>) -> SharedHttpClient {
    let tls = tls::client_config(bundle);
    kept_or_fresh(pooled(&tls, S3_IDLE_CONNECTIONS_MAX), pooled(&tls, 0))
}

/// Returns the region named by environment or profile. Without other credentials, queries the
/// metadata service. Outside a cloud, no such service responds.
async fn region(http_client: SharedHttpClient) -> Region {
    let named = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    if let Some(region) = named.region().await {
        return region;
    }
    let known = EnvironmentVariableCredentialsProvider::new()
        .provide_credentials()
        .await
        .is_ok();
    let mut region = None;
    if !known {
        let metadata = imds::Client::builder()
            .configure(&ProviderConfig::default().with_http_client(http_client))
            .max_attempts(1)
            .connect_timeout(METADATA_WAIT)
            .read_timeout(METADATA_WAIT)
            .build();
        region = ImdsRegionProvider::builder()
            .imds_client(metadata)
            .build()
            .region()
            .await;
    }
    region.unwrap_or(Region::from_static(REGION_DEFAULT))
}
