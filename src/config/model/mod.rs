//! Plain types of a resolved configuration, and the parsers of single values. Nothing here reads a source.

mod access_rule;
mod client_auth;
mod glob;
mod htpasswd;
mod listen;
mod proxy;
mod registries;
mod registry;
mod registry_name;
mod s3;
mod secret;
mod serving;
mod storage;
mod systemd;
mod tag_rule;
mod tls;
pub(super) mod units;

pub use access_rule::{ANONYMOUS, Allow, AllowRule};
pub use client_auth::{CertificatePattern, ClientAuthConfig};
pub use glob::Glob;
pub use htpasswd::{HTPASSWD_BYTES_MAX, Htpasswd};
pub use listen::ListenAddr;
pub use proxy::{Proxy, ProxyEnvironment, ProxyUrl};
pub use registries::{Named, Registries, RegistryConfig};
pub use registry::{Access, Auth, FollowRedirects, Mirror, RegistrySettings};
pub use registry_name::RegistryName;
pub use s3::S3Settings;
pub(super) use s3::{LIFECYCLE_DAYS_MAX, parse_bucket, parse_days, parse_prefix};
pub use secret::SecretText;
pub use serving::{IoDriver, KernelTls};
pub(super) use storage::Backend;
pub use storage::{RootChoice, StorageConfig};
pub use systemd::{SocketName, SystemdEnvironment};
pub use tag_rule::{TagFreshness, TagPattern, TagRule};
pub(super) use tls::ClientCertificateMode;
pub use tls::{ClientCertificateConfig, Pem, ServerIdentityConfig, ServerTls, Tls};
