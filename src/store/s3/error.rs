//! Errors of bucket operations and their causes. A bucket error alone never fails a client.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3Operation;

/// Characters kept from the engine's error message.
const DETAIL_CHARS_MAX: usize = 200;

/// A failed operation on the bucket.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {key} in the bucket: {fault}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct S3Error {
    pub doing: S3Operation,
    /// The object's name, or another subject of the operation.
    pub key: String,
    pub fault: S3Fault,
    /// The engine's error code and message, without secrets and query strings.
    pub detail: String,
}

/// The cause of a failed operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum S3Fault {
    #[error("the object does not exist")]
    NotFound,
    #[error("the credentials do not permit the operation")]
    Denied,
    #[error("the engine rejects the credentials")]
    Refused,
    #[error("no usable credentials")]
    NoCredentials,
    #[error("the credentials have expired")]
    Expired,
    #[error("the clock of this machine is wrong")]
    Skew,
    #[error("the bucket does not exist")]
    NoBucket,
    #[error("the bucket is in another region")]
    Region,
    #[error("the engine throttles requests")]
    Throttled,
    #[error("no response in time")]
    Timeout,
    #[error("the engine is unreachable or has failed")]
    Unavailable,
    #[error(
        "the engine's certificate is not trusted; check AWS_ENDPOINT_URL, and name trusted certificates with AWS_CA_BUNDLE"
    )]
    Untrusted,
    #[error("the engine does not speak TLS; for plain HTTP, set AWS_ENDPOINT_URL to a URL with http://")]
    NotTls,
    #[error("the received content differs from the stored content")]
    Short,
    #[error("unexpected response")]
    Unexpected,
    #[error("the local file of the upload cannot be read")]
    Spool,
    #[error("the limit of concurrent requests is reached")]
    Busy,
    #[error("the circuit breaker of the bucket is tripped; requests resume when the bucket has recovered")]
    Tripped,
}

impl S3Fault {
    /// Returns whether every other request would fail too, at least for a while.
    pub(super) fn is_lasting(self) -> bool {
        self.is_for_operator() || matches!(self, S3Fault::Throttled | S3Fault::Untrusted | S3Fault::NotTls)
    }

    /// Returns whether the fault lasts until an operator changes something.
    pub(super) fn is_for_operator(self) -> bool {
        matches!(
            self,
            S3Fault::Refused
                | S3Fault::NoCredentials
                | S3Fault::Expired
                | S3Fault::Skew
                | S3Fault::NoBucket
                | S3Fault::Region
        )
    }

    /// Returns whether the fault concerns the engine, and not one object or this process.
    pub(super) fn is_of_engine(self) -> bool {
        self.is_lasting()
            || matches!(
                self,
                S3Fault::Timeout | S3Fault::Unavailable | S3Fault::Unexpected
            )
    }
}

/// The reason why the store cannot be used at all. The operator has to change something.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the bucket {bucket}: {cause}; {remedy}")]
pub struct S3OpenError {
    pub bucket: String,
    pub cause: String,
    pub remedy: String,
}

/// Converts an error of the SDK.
pub(super) fn classify<E>(doing: S3Operation, key: &str, error: &SdkError<E>) -> S3Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let (fault, detail) = match error {
        SdkError::TimeoutError(_) => (S3Fault::Timeout, String::new()),
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or_default();
            let words = answer.err().message().unwrap_or_default();
            let detail = match (code, words) {
                ("", _) => format!("status {status}"),
                (code, "") => code.to_owned(),
                (code, words) => format!("{code}, {words}"),
            };
            (fault_of(code, words, status), detail)
        }
        SdkError::ResponseError(answer) if answer.raw().status().as_u16() < 500 => {
            (S3Fault::Unexpected, innermost(error))
        }
        SdkError::DispatchFailure(failure) if failure.is_timeout() => (S3Fault::Timeout, String::new()),
        SdkError::DispatchFailure(_) if let Some(fault) = tls_fault(error) => (fault, innermost(error)),
        _ if speaks_of_credentials(error) => (S3Fault::NoCredentials, innermost(error)),
        SdkError::ConstructionFailure(_) => (S3Fault::Unexpected, innermost(error)),
        _ => (S3Fault::Unavailable, innermost(error)),
    };
    S3Error {
        doing,
        key: key.to_owned(),
        fault,
        detail: without_query(&detail),
    }
}

/// Returns the fault for an engine's error code. Without a known code, for example in a response
/// without a body, uses the status.
fn fault_of(code: &str, words: &str, status: u16) -> S3Fault {
    match code {
        "NoSuchBucket" => S3Fault::NoBucket,
        "NoSuchKey" | "NotFound" | "NoSuchVersion" => S3Fault::NotFound,
        "AccessDenied" | "AllAccessDisabled" | "Forbidden" => S3Fault::Denied,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "InvalidSecurity"
        | "NotSignedUp" => S3Fault::Refused,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => S3Fault::Expired,
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => S3Fault::Skew,
        "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => S3Fault::Region,
        // AWS also sends this code for a signature with another region.
        "AuthorizationHeaderMalformed"
            if ["region", "expecting", "scope"]
                .iter()
                .any(|word| words.contains(word)) =>
        {
            S3Fault::Region
        }
        "AuthorizationHeaderMalformed" => S3Fault::Refused,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded" => S3Fault::Throttled,
        "RequestTimeout" => S3Fault::Timeout,
        "InvalidRange" => S3Fault::Short,
        _ => match status {
            301 | 302 | 307 => S3Fault::Region,
            401 | 403 => S3Fault::Denied,
            404 => S3Fault::NotFound,
            408 => S3Fault::Timeout,
            416 => S3Fault::Short,
            429 => S3Fault::Throttled,
            500.. => S3Fault::Unavailable,
            _ => S3Fault::Unexpected,
        },
    }
}

fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = String> + 'a {
    std::iter::successors(Some(error), |error| error.source()).map(|error| error.to_string())
}

/// Returns the innermost cause, such as `Connection refused (os error 111)`.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).last().unwrap_or_default()
}

/// Returns the fault of a failed TLS handshake. `source` of an I/O error skips the wrapped error,
/// so the search uses `get_ref`.
fn tls_fault(error: &(dyn std::error::Error + 'static)) -> Option<S3Fault> {
    let mut chain = std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<std::io::Error>() {
            Some(io) => io
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    });
    match chain.find_map(|error| error.downcast_ref())? {
        rustls::Error::InvalidCertificate(_) => Some(S3Fault::Untrusted),
        rustls::Error::InvalidMessage(_) => Some(S3Fault::NotTls),
        _ => None,
    }
}

/// The SDK has no type for missing credentials. A provider's failure appears as a failure of
/// dispatch or of construction.
fn speaks_of_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).any(|text| text.contains("credential") || text.contains("identity"))
}

/// Truncates a text to `DETAIL_CHARS_MAX`. Removes the query of each URL, because it may contain a
/// signature.
fn without_query(text: &str) -> String {
    let words = text.split_whitespace();
    let bare: Vec<&str> = words
        .map(|word| {
            word.split_once('?').map_or(
                word,
                |(before, after)| if after.is_empty() { word } else { before },
            )
        })
        .collect();
    bare.join(" ").chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_error_codes_and_statuses_map_to_faults() {
        for (code, words, status, fault) in [
            ("NoSuchKey", "", 404, S3Fault::NotFound),
            ("", "", 404, S3Fault::NotFound),
            ("NoSuchBucket", "", 404, S3Fault::NoBucket),
            ("AccessDenied", "", 403, S3Fault::Denied),
            ("", "", 403, S3Fault::Denied),
            ("SignatureDoesNotMatch", "", 403, S3Fault::Refused),
            ("ExpiredToken", "", 400, S3Fault::Expired),
            ("RequestTimeTooSkewed", "", 403, S3Fault::Skew),
            ("SlowDown", "", 503, S3Fault::Throttled),
            ("ServiceUnavailable", "", 503, S3Fault::Unavailable),
            ("InternalError", "", 500, S3Fault::Unavailable),
            ("PermanentRedirect", "", 301, S3Fault::Region),
            (
                "AuthorizationHeaderMalformed",
                "the region 'a' is wrong; expecting 'b'",
                400,
                S3Fault::Region,
            ),
            (
                "AuthorizationHeaderMalformed",
                "unexpected scope: '20261121/a/s3/aws4_request', expected: '20261121/b/s3/aws4_request'",
                400,
                S3Fault::Region,
            ),
            ("WhoKnows", "", 400, S3Fault::Unexpected),
        ] {
            assert_eq!(fault_of(code, words, status), fault, "{code} {status}");
        }
    }

    #[test]
    fn texts_of_engines_are_kept_short_and_without_queries() {
        let text = "no access to http://h/b/k?X-Amz-Signature=canary now";
        assert_eq!(without_query(text), "no access to http://h/b/k now");
        assert_eq!(without_query(&"é".repeat(900)).chars().count(), DETAIL_CHARS_MAX);
        assert_eq!(without_query("why?"), "why?");
    }
}
