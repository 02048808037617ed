//! What goes wrong with a bucket, and whose fault it is. Never an error for a client by itself.

/// A failed operation on the bucket.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {key} in the bucket: {fault}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct S3Error {
    pub doing: &'static str,
    /// The object's name, or what else it was about.
    pub key: String,
    pub fault: S3Fault,
    /// The engine's own code and words; holds no secret and no query string.
    pub detail: String,
}

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum S3Fault {
    #[error("it is not there")]
    NotFound,
    #[error("the credentials do not allow it")]
    Denied,
    #[error("the engine asks us to slow down")]
    Throttled,
    #[error("no answer in time")]
    Timeout,
    #[error("the engine cannot be reached or has failed")]
    Unavailable,
    #[error("this machine's clock is wrong")]
    Skew,
    #[error("the credentials have expired")]
    Expired,
    #[error("there are no usable credentials")]
    NoCredentials,
    #[error("the bucket is not there")]
    NoBucket,
    #[error("the bucket is in another region")]
    Region,
    #[error("the body ended early")]
    Short,
    #[error("the answer is not understood")]
    Unexpected,
    #[error("what is to be stored cannot be read")]
    Spool,
    #[error("the bucket is not asked until it has recovered")]
    Closed,
}

/// Why the store cannot be used at all: something the operator has to change.
#[derive(Debug, thiserror::Error)]
#[error("the bucket {bucket} cannot be used: {cause}; {remedy}")]
pub struct S3OpenError {
    pub bucket: String,
    pub cause: String,
    pub remedy: String,
}
