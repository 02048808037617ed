//! The table of settings: a row per scalar that an operator can set. Flags, environment, file, `--help`, `config print`,
//! `config schema` and reload read this table only.
//!
//! A row has these columns:
//!
//! - The name. Flag, variable and key derive from the name: `DrainDelay` is `--drain-delay`, `DRAIN_DELAY` and
//!   `drain_delay`.
//! - `=> pub field: Type`. The setting is a single value, in this field of [`Config`](super::Config). A setting
//!   without a field is part of a larger value, and a file in `resolve/` reads the setting by name.
//! - `value`. The kind and the parser, from `value.rs`. The compiler checks the parser against the type of the field.
//! - `default`. The text of an absent value, parsed like any text. `none` means no value.
//! - `group`. The heading in `--help`.
//! - `reload`. The effect of a change on SIGHUP.
//! - `help`. Half a line for `--help` and the schema.
//! - `aliases` (optional). Further keys in the file.
//! - `file` (optional). The place in the file, by default a top-level key.

mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

pub use table::Group;
pub(super) use table::{InFile, Reload};
use tracing::Level;

use table::{Names, Row, first_or, settings};

use super::model::{
    Backend, BaseUrl, ClientCertificateMode, IoDriver, KernelTls, ListenAddr, Prefetch, SizeBound,
    VerifyOnOpen,
};
use super::value::{
    ADDRESS_OR_PORT, ADDRESSES, ADMIN_ADDRESS, BASE_URL, BUCKET, BYTES, BYTES_OR_AUTO, CONNECTIONS_FROM_0,
    CONNECTIONS_OR_AUTO, CORES, DURATION, DURATION_OR_MILLIS, HELPER_THREADS, IO_DRIVER, KERNEL_TLS, Kind,
    LIFECYCLE_DAYS, LOG_FORMAT, LOG_LEVEL, PATH, PATH_OR_NONE, PLATFORMS, PREFETCH, PREFIX, REGISTRY_OR_NONE,
    SECRET, SIZE_OR_AUTO, STORAGE_BACKEND, SWITCH, TEXT, TLS_CLIENT_AUTH, VERIFY_ON_OPEN,
};
use crate::log::FormatChoice;
use crate::oci::{Namespace, Platforms};

/// The default directory of the store.
pub(super) const FS_ROOT_DEFAULT: &str = "/data/oci-cache";

settings! {
    /// The addresses of the listeners. With TLS, the default is `:8443`.
    ListenAddr {
        value: ADDRESSES,
        default: ":8080",
        group: Serving,
        reload: Part,
        help: "address to listen on, or --port",
    }

    /// The certificate chain of the cache.
    TlsCertFile {
        value: PATH,
        default: "none",
        group: Serving,
        reload: Part,
        help: "certificate and chain for https, PEM",
    }

    /// The key of the certificate.
    TlsKeyFile {
        value: PATH,
        default: "none",
        group: Serving,
        reload: Part,
        help: "its key, PEM",
    }

    /// Authorities of client certificates.
    TlsClientCaFile {
        value: PATH,
        default: "none",
        group: Serving,
        reload: Part,
        help: "authority of clients' certificates",
    }

    /// Whether clients show certificates.
    TlsClientAuth => pub(super) tls_client_auth: ClientCertificateMode {
        value: TLS_CLIENT_AUTH,
        default: "auto",
        group: Serving,
        reload: Part,
        help: "auto, none, optional or verify",
    }

    /// Whether the cache generates a certificate.
    GenerateSelfSignedTls => pub(super) generate_self_signed_tls: bool {
        value: SWITCH,
        default: "false",
        group: Serving,
        reload: Part,
        help: "https with a certificate made here",
    }

    /// The place of encryption after a TLS handshake.
    KernelTls => pub kernel_tls: KernelTls {
        value: KERNEL_TLS,
        default: "off",
        group: Serving,
        reload: Restart,
        help: "off, or auto: the kernel encrypts",
    }

    /// The address of the cache for its clients. `None` means the host of each request.
    BaseUrl => pub base_url: Option<BaseUrl> {
        value: BASE_URL,
        default: "none",
        group: Serving,
        reload: Restart,
        help: "address of the cache on its web page",
    }

    /// Whether `/` of the data port and of the admin listener is a web page.
    WebUi => pub web_ui: bool {
        value: SWITCH,
        default: "true",
        group: Serving,
        reload: Restart,
        help: "web page at / of the ports",
    }

    /// The number of serving cores. `None` means all cores that the process may use.
    Cores => pub cores: Option<NonZeroUsize> {
        value: CORES,
        default: "auto",
        group: Serving,
        reload: Restart,
        help: "cores that serve",
    }

    /// The interface by which the cores wait for the kernel.
    IoDriver => pub io_driver: IoDriver {
        value: IO_DRIVER,
        default: "auto",
        group: Serving,
        reload: Restart,
        help: "auto, io_uring or epoll",
    }

    /// The threads of the helper pool, 1 to `HELPER_THREADS_MAX`.
    HelperThreads => pub helper_threads: NonZeroUsize {
        value: HELPER_THREADS,
        default: "2",
        group: Serving,
        reload: Restart,
        help: "threads for upstream traffic",
    }

    /// The limit of all connections. `None` means a limit by the file descriptors.
    MaxConnections => pub max_connections: Option<NonZeroUsize> {
        value: CONNECTIONS_OR_AUTO,
        default: "auto",
        group: Serving,
        reload: Restart,
        help: "connections of all clients",
    }

    /// The connections of a client address or IPv6 network. 0 means no limit.
    MaxConnectionsPerClient => pub max_connections_per_client: usize {
        value: CONNECTIONS_FROM_0,
        default: "1000",
        group: Serving,
        reload: Restart,
        help: "of one address; 0: any number",
    }

    /// Bytes for in-flight fetches and responses. `None` means a share of the memory of the process.
    MemoryBudget => pub memory_budget: Option<u64> {
        value: BYTES_OR_AUTO,
        default: "auto",
        group: Serving,
        reload: Restart,
        help: "memory for requests in progress",
    }

    /// The kind of store.
    StorageBackend => pub(super) storage_backend: Backend {
        value: STORAGE_BACKEND,
        default: "auto",
        group: Storage,
        reload: Part,
        help: "fs, s3, or tiered: fs in front of s3",
    }

    /// The directory of the local store.
    FsRoot {
        value: PATH,
        default: FS_ROOT_DEFAULT,
        group: Storage,
        reload: Part,
        help: "directory of the store",
        aliases: &["image_path", "cache_dir"],
    }

    /// The directory of pending uploads.
    SpoolDir {
        value: PATH,
        default: "auto",
        group: Storage,
        reload: Part,
        help: "directory of pending uploads",
    }

    /// The bucket.
    S3Bucket => pub(super) s3_bucket: String {
        value: BUCKET,
        default: "oci-cache",
        group: Storage,
        reload: Part,
        help: "bucket of the shared store",
    }

    /// The prefix of every key: empty, or a path that ends with `/`.
    S3Prefix => pub(super) s3_prefix: String {
        value: PREFIX,
        default: "none",
        group: Storage,
        reload: Part,
        help: "prefix of all keys in the bucket",
    }

    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    S3ForcePathStyle => pub(super) s3_force_path_style: bool {
        value: SWITCH,
        default: "true",
        group: Storage,
        reload: Part,
        help: "bucket in the path, not in the host",
    }

    /// The age in days at which the bucket deletes an object. 0 means no lifecycle rule.
    S3LifecycleDays => pub(super) s3_lifecycle_days: u32 {
        value: LIFECYCLE_DAYS,
        default: "28",
        group: Storage,
        reload: Part,
        help: "removed by the bucket after; 0: never",
    }

    /// Whether clients are redirected to the bucket for public blobs.
    S3Redirect => pub(super) s3_redirect: bool {
        value: SWITCH,
        default: "false",
        group: Storage,
        reload: Part,
        help: "send clients to the bucket",
    }

    /// The bytes of all content in the directory. `None` means that only the free space is a bound.
    CacheMaxSize => pub cache_max_size: Option<SizeBound> {
        value: SIZE_OR_AUTO,
        default: "auto",
        group: Storage,
        reload: Restart,
        help: "size of the store, or % of the disk",
    }

    /// The free bytes of the file system. `None` means a part of the file system.
    CacheMinFree => pub cache_min_free: Option<SizeBound> {
        value: SIZE_OR_AUTO,
        default: "auto",
        group: Storage,
        reload: Restart,
        help: "space left free, or % of the disk",
    }

    /// The bytes of the largest object. `None` means half of `CacheMaxSize`.
    CacheMaxObjectSize => pub cache_max_object_size: Option<SizeBound> {
        value: SIZE_OR_AUTO,
        default: "auto",
        group: Storage,
        reload: Restart,
        help: "largest object, or % of the store",
    }

    /// The time between the begins of two scrubs of the whole store. 0 means no scrub.
    ScrubInterval => pub scrub_interval: Duration {
        value: DURATION,
        default: "30d",
        group: Storage,
        reload: Restart,
        help: "verify the whole store; 0: never",
    }

    /// The bytes per second that the scrub reads. 0 means no bound.
    ScrubRate => pub scrub_rate: u64 {
        value: BYTES,
        default: "50m",
        group: Storage,
        reload: Restart,
        help: "bytes per second of that; 0: any",
    }

    /// The verification of a stored blob before its first response after a start.
    VerifyOnOpen => pub verify_on_open: VerifyOnOpen {
        value: VERIFY_ON_OPEN,
        default: "off",
        group: Storage,
        reload: Restart,
        help: "off, or first: verify before serving",
    }

    /// Bytes for hot small objects, in equal shares for all cores. 0 disables the memory cache.
    MemoryCache => pub memory_cache_bytes: u64 {
        value: BYTES,
        default: "64MiB",
        group: Storage,
        reload: Restart,
        help: "memory for small objects",
    }

    /// The registry of requests that name no registry. `None` rejects such requests.
    DefaultRegistry => pub default_registry: Option<Namespace> {
        value: REGISTRY_OR_NONE,
        default: "docker.io",
        group: Content,
        reload: Restart,
        help: "registry of names without one",
        aliases: &["default_ns"],
    }

    /// Whether tags are cached. Manifests by digest are always cached.
    CacheTagManifests => pub cache_tag_manifests: bool {
        value: SWITCH,
        default: "true",
        group: Content,
        reload: Restart,
        help: "remember which digest a tag means",
    }

    /// Whether the tag `latest` is cached too. Needs `cache_tag_manifests`.
    CacheLatestTag => pub cache_latest_tag: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Restart,
        help: "do so for the tag `latest` too",
    }

    /// The time for which a tag is served without revalidation.
    TagTtl => pub tag_ttl: Duration {
        value: DURATION,
        default: "60s",
        group: Content,
        reload: Restart,
        help: "time until a tag is revalidated",
    }

    /// Whether `latest` is always revalidated. Overrides `cache_latest_tag` and the tag rules.
    AlwaysPullLatest => pub always_pull_latest: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Restart,
        help: "revalidate `latest` each time",
    }

    /// The time in which an expired tag is served stale, with revalidation in the background.
    StaleWhileRevalidate => pub stale_while_revalidate: Duration {
        value: DURATION,
        default: "0s",
        group: Content,
        reload: Restart,
        help: "then: serve stale while revalidating",
    }

    /// Whether unnamed registries are rejected.
    WhitelistMode => pub(super) whitelist_mode: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Live,
        help: "only registries of the file exist",
    }

    /// Whether the cache contacts no upstream.
    AirGapped => pub(super) air_gapped: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Live,
        help: "never contact a registry",
    }

    /// Whether every client may read content without access rights during an outage of its registry.
    TrustExisting => pub(super) trust_existing: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Live,
        help: "serve content without access rights",
    }

    /// Whether the field `X-Registry` of a request can select the registry.
    RegistryHeader => pub registry_header: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Restart,
        help: "X-Registry may choose the registry",
    }

    /// Whether `/v2/` requests the registry credentials of clients. Conflicts with `client_auth`.
    ClientLogin => pub client_login: bool {
        value: SWITCH,
        default: "false",
        group: Content,
        reload: Restart,
        help: "request clients' registry credentials",
    }

    /// The blobs that the cache fetches after a client has received a manifest.
    Prefetch => pub prefetch: Prefetch {
        value: PREFETCH,
        default: "image",
        group: Content,
        reload: Restart,
        help: "blobs to fetch early: off, config, image",
    }

    /// The time in which a client must request a blob of an image with a prefetch.
    PrefetchTimeout => pub prefetch_timeout: Duration {
        value: DURATION,
        default: "30s",
        group: Content,
        reload: Restart,
        help: "for a client to use a prefetch",
    }

    /// The user name of client authentication.
    AuthUsername {
        value: TEXT,
        default: "none",
        group: Content,
        reload: Live,
        help: "user name that clients need",
        file: Auth,
    }

    /// The password of client authentication.
    AuthPassword {
        value: SECRET,
        default: "none",
        group: Content,
        reload: Live,
        help: "better in AUTH_PASSWORD_FILE",
        file: Auth,
    }

    /// A file with the password of client authentication.
    AuthPasswordFile {
        value: PATH,
        default: "none",
        group: Content,
        reload: Live,
        help: "file with that password",
        file: Auth,
    }

    /// An htpasswd file for client authentication.
    AuthHtpasswdFile {
        value: PATH,
        default: "none",
        group: Content,
        reload: Live,
        help: "file with users and bcrypt hashes",
        file: Auth,
    }

    /// The lowest level of log lines that are written.
    LogLevel => pub log_level: Level {
        value: LOG_LEVEL,
        default: "info",
        group: Operation,
        reload: Restart,
        help: "trace, debug, info, warn or error",
    }

    /// The format of log lines.
    LogFormat => pub log_format: FormatChoice {
        value: LOG_FORMAT,
        default: "auto",
        group: Operation,
        reload: Restart,
        help: "auto, text or json",
    }

    /// The file to which log lines are appended. `None` means standard error.
    LogFile => pub log_file: Option<PathBuf> {
        value: PATH_OR_NONE,
        default: "none",
        group: Operation,
        reload: Restart,
        help: "file instead of standard error",
    }

    /// Whether each request is logged.
    AccessLog => pub access_log: bool {
        value: SWITCH,
        default: "on",
        group: Operation,
        reload: Restart,
        help: "one log line per request",
    }

    /// The time for in-flight responses after a stop signal.
    DrainTimeout => pub drain_timeout: Duration {
        value: DURATION,
        default: "30s",
        group: Operation,
        reload: Restart,
        help: "for running responses after SIGTERM",
    }

    /// The time after a stop signal in which only readiness fails and the cache still serves.
    DrainDelay => pub drain_delay: Duration {
        value: DURATION,
        default: "0s",
        group: Operation,
        reload: Restart,
        help: "before that: not ready, still serving",
    }

    /// The address of the admin API. `None` means no listener.
    AdminAddr => pub admin_addr: Option<ListenAddr> {
        value: ADMIN_ADDRESS,
        default: "127.0.0.1:9090",
        group: Operation,
        reload: Restart,
        help: "address of the admin API, or off",
    }

    /// The file with the tokens of the admin API.
    AdminTokensFile => pub admin_tokens_file: Option<PathBuf> {
        value: PATH_OR_NONE,
        default: "none",
        group: Operation,
        reload: Restart,
        help: "tokens for it: name, role, SHA-256",
    }

    /// The address of a listener for health checks only. `None` means no listener.
    HealthAddr => pub health_addr: Option<ListenAddr> {
        value: ADDRESS_OR_PORT,
        default: "off",
        group: Operation,
        reload: Restart,
        help: "address or port for /health only",
        aliases: &["health"],
    }

    /// The address of a listener for metrics only. `None` means no listener.
    MetricsAddr => pub metrics_addr: Option<ListenAddr> {
        value: ADDRESS_OR_PORT,
        default: "off",
        group: Operation,
        reload: Restart,
        help: "address or port for /metrics only",
        aliases: &["metrics"],
    }

    /// Whether the data port answers the commands of ociregistry under `/cmd/`.
    LegacyAdmin => pub legacy_admin: bool {
        value: SWITCH,
        default: "false",
        group: Operation,
        reload: Restart,
        help: "/cmd/ of ociregistry, for logged-in users",
    }

    /// Whether the cache serves one embedded image from a temporary store, and contacts no registry.
    HelloWorld => pub hello_world: bool {
        value: SWITCH,
        default: "false",
        group: Operation,
        reload: Restart,
        help: "serve a test image, without a registry",
    }

    /// A list of images to load at start.
    PreloadImages => pub preload_images: Option<PathBuf> {
        value: PATH_OR_NONE,
        default: "none",
        group: Operation,
        reload: Restart,
        help: "file of images to load at start",
    }

    /// The list of images of the command `load`.
    ImageFile => pub image_file: Option<PathBuf> {
        value: PATH_OR_NONE,
        default: "none",
        group: Operation,
        reload: Live,
        help: "file of images for load; - is stdin",
    }

    /// The platforms that loads fetch of an image.
    LoadPlatforms => pub load_platforms: Platforms {
        value: PLATFORMS,
        default: "host",
        group: Operation,
        reload: Restart,
        help: "to load: host, all or a list",
    }

    /// The time of a load for one image.
    PullTimeout => pub pull_timeout: Duration {
        value: DURATION_OR_MILLIS,
        default: "10m",
        group: Operation,
        reload: Restart,
        help: "time of a load for one image",
    }

    /// Bytes per second of all fetches without clients together. 0 means no bound.
    BackgroundBandwidth => pub background_bandwidth: u64 {
        value: BYTES,
        default: "0",
        group: Operation,
        reload: Restart,
        help: "bytes/s of loads and prefetches; 0: any",
    }

    /// The path of the configuration file.
    ConfigFile {
        value: PATH,
        default: "none",
        group: Operation,
        reload: Live,
        help: "or -c; YAML: all of these and more",
        file: Nowhere,
    }
}

static NAMES: LazyLock<Vec<Names>> = LazyLock::new(|| ROWS.iter().map(Names::of).collect());

impl Setting {
    /// Returns the variable.
    pub fn env(self) -> &'static str {
        &self.names().env
    }

    /// Returns the flag, without dashes in front.
    pub fn flag(self) -> &'static str {
        &self.names().flag
    }

    /// Returns the key in the file, if any.
    pub fn key(self) -> Option<&'static str> {
        (self.file() != InFile::Nowhere).then(|| self.names().key.as_str())
    }

    /// Returns further keys in the file. The camelCase form of every key is valid too.
    pub(super) fn aliases(self) -> &'static [&'static str] {
        self.row().aliases
    }

    /// Returns the text of an absent value.
    pub fn default_text(self) -> &'static str {
        self.row().default
    }

    /// Returns whether an absent value means no value. `config print` then omits the setting.
    pub(super) fn is_nothing_by_default(self) -> bool {
        self.default_text() == "none"
    }

    /// Returns the heading in `--help`.
    pub fn group(self) -> Group {
        self.row().group
    }

    /// Returns half a line for `--help`.
    pub fn summary(self) -> &'static str {
        self.row().help
    }

    /// Returns whether the value is on or off.
    pub fn is_switch(self) -> bool {
        self.kind() == Kind::Switch
    }

    pub(super) fn kind(self) -> Kind {
        self.row().kind
    }

    pub(super) fn reload(self) -> Reload {
        self.row().reload
    }

    pub(super) fn file(self) -> InFile {
        self.row().file
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    fn names(self) -> &'static Names {
        &NAMES[self as usize]
    }
}

#[cfg(test)]
mod tests;
