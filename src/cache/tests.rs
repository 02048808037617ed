//! What the cache promises about its storage, on stores of its own and an S3 in this process.

mod tiered;
