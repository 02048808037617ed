//! The tables of keys: what may stand in the file, in every spelling, and what each key holds.
//!
//! The reader, the suggestions and the JSON Schema all follow these tables. Scalar settings have a table of their own,
//! [`Setting`]; here is everything that has a shape.

use super::server_tls::TLS_CLIENT_AUTH;
use super::setting::Setting;

/// One key of a map.
#[derive(Debug)]
pub(super) struct KeySpec {
    pub name: &'static str,
    /// Other words for it, in the spelling of `name`. The camelCase form of every word is accepted as well.
    pub aliases: &'static [&'static str],
    pub shape: Shape,
    /// What it chooses, half a line.
    pub summary: &'static str,
}

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    One(Kind),
    /// A list; a single value counts as a list of one.
    Many(Kind),
    Map(&'static [KeySpec]),
    /// Maps, or single values that stand for a map with nothing but that key.
    Maps(&'static [KeySpec], Option<&'static str>),
    /// A map, or one of a few words.
    MapOr(&'static [KeySpec], &'static [&'static str]),
    /// Registries: a list of maps with a `name`, or a map by name; see [`REGISTRY`].
    Named,
    /// Known from elsewhere, and not in this version.
    Absent(Loss),
}

/// What a key that is not in this version would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Without it there is less, and nothing wrong: a warning.
    Less,
    /// It only describes.
    Nothing,
}

/// What a single value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    /// From 1 to this.
    Count(u64),
    /// As `Count`, or `auto`.
    CountOrAuto(u64),
    /// As `Count`, or 0.
    CountFrom0(u64),
    Port,
    Bytes,
    /// As `Bytes`, or `auto`.
    BytesOrAuto,
    Duration,
    /// One of these.
    Word(&'static [&'static str]),
    /// One of these, or a length of time.
    WordOrDuration(&'static [&'static str]),
    /// `http` or `https`.
    Url,
    /// A proxy's URL, or one of these.
    ProxyUrl(&'static [&'static str]),
    /// A registry's name.
    Registry,
    Path,
    Text,
    Secret,
}

impl KeySpec {
    /// The spellings of the key, its name first.
    pub(super) fn spellings(&self) -> impl Iterator<Item = String> {
        std::iter::once(&self.name).chain(self.aliases).flat_map(|word| {
            let camel = camel_case(word);
            let other = (camel != **word).then_some(camel);
            std::iter::once((*word).to_owned()).chain(other)
        })
    }
}

/// The key of `table` that `written` spells.
pub(super) fn find<'a>(table: &'a [KeySpec], written: &str) -> Option<&'a KeySpec> {
    table
        .iter()
        .find(|key| key.spellings().any(|spelling| spelling == written))
}

/// `air_gapped` as `airGapped`.
pub(super) fn camel_case(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut text, word| {
        let mut letters = word.chars();
        text.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        text.push_str(letters.as_str());
        text
    })
}

const fn key(name: &'static str, shape: Shape, summary: &'static str) -> KeySpec {
    KeySpec {
        name,
        aliases: &[],
        shape,
        summary,
    }
}

const fn also(aliases: &'static [&'static str], key: KeySpec) -> KeySpec {
    KeySpec { aliases, ..key }
}

const fn absent(name: &'static str, loss: Loss, summary: &'static str) -> KeySpec {
    key(name, Shape::Absent(loss), summary)
}

use Shape::{Many, Map, MapOr, Maps, Named, One};

/// Words for "no credentials".
pub(super) const ANONYMOUS: &[&str] = &["none", "anonymous"];
/// Words for "never through a proxy" and "as the environment says".
pub(super) const PROXY_WORDS: &[&str] = &["none", "direct", "environment"];
pub(super) const SCHEMES: &[&str] = &["https", "http"];
pub(super) const ACCESS: &[&str] = &["verify", "shared", "passthrough"];
pub(super) const REVALIDATE: &[&str] = &["always", "never"];
pub(super) const PROVIDERS: &[&str] = &["ecr"];

/// Upper bound of `max_concurrency`. A larger number of requests in flight is no bound.
pub(super) const MAX_CONCURRENCY_MAX: u64 = 1024;

/// Top-level keys besides the settings of [`Setting`].
pub(super) const DOCUMENT: &[KeySpec] = &[
    key(
        "port",
        One(Kind::Port),
        "port to listen on; short for listen_addr",
    ),
    key("host", One(Kind::Text), "address to listen on, with port"),
    key("auth", Map(CLIENT_AUTH), "who may use the cache at all"),
    key(
        "allow",
        Maps(ALLOW, None),
        "who may read what; without rules, everybody everything",
    ),
    key("defaults", Map(DEFAULTS), "what holds for every registry"),
    key("registries", Named, "registries, by name"),
    also(
        &["tls"],
        key("server_tls_config", Map(SERVER_TLS), "TLS towards clients"),
    ),
    absent("base_url", Loss::Less, "the cache's own address"),
    absent("cache_max_size", Loss::Less, "bound of the store"),
    absent("prune_config", Loss::Less, "removal of old content"),
    absent("list_config", Loss::Less, "how content is listed"),
    absent("preload_images", Loss::Less, "images to load at the start"),
    absent("image_file", Loss::Less, "images to load"),
    absent("resolve_ref", Loss::Less, "name of an image to load"),
    absent("os", Loss::Less, "platform of images to load"),
    absent("arch", Loss::Less, "platform of images to load"),
    absent("pull_timeout", Loss::Less, "how long a pull may take"),
    absent("hello_world", Loss::Less, "built-in test image"),
    absent("health", Loss::Less, "port of a health listener"),
    absent("metrics", Loss::Less, "port of a metrics listener"),
    absent("log_file", Loss::Less, "file of the log"),
];

/// TLS towards clients as other systems write it; each is a setting of its own too.
pub(super) const SERVER_TLS: &[KeySpec] = &[
    key("cert", One(Kind::Path), "the same as tls_cert_file"),
    key("key", One(Kind::Path), "the same as tls_key_file"),
    key("ca", One(Kind::Path), "the same as tls_client_ca_file"),
    key(
        "client_auth",
        One(Kind::Word(TLS_CLIENT_AUTH)),
        "the same as tls_client_auth; verify without ca means the system's authorities",
    ),
];

/// Client authentication. `htpasswd_file` is the setting of the same name.
const CLIENT_AUTH: &[KeySpec] = &[
    USERNAME,
    PASSWORD,
    PASSWORD_FILE,
    PASSWORD_ENV,
    key(
        "htpasswd_file",
        One(Kind::Path),
        "users with bcrypt hashes; the same as auth_htpasswd_file",
    ),
    key(
        "client_certificates",
        Many(Kind::Text),
        "client certificates that are accepted too: CN=, DNS:, EMAIL: or URI: with a pattern",
    ),
];

/// A rule of `allow`.
pub(super) const ALLOW: &[KeySpec] = &[ALLOW_USERS, ALLOW_REGISTRIES, ALLOW_REPOSITORIES];
/// The same, below the registry that it is about.
pub(super) const ALLOW_HERE: &[KeySpec] = &[ALLOW_USERS, ALLOW_REPOSITORIES];

const ALLOW_USERS: KeySpec = key(
    "users",
    Many(Kind::Text),
    "names, with `*`; `cert:<name>` for certificates, `anonymous` for whoever shows nothing",
);
const ALLOW_REGISTRIES: KeySpec = key(
    "registries",
    Many(Kind::Registry),
    "`host`, `host:port` or `*.suffix`",
);
const ALLOW_REPOSITORIES: KeySpec = key(
    "repositories",
    Many(Kind::Text),
    "names, with `*` within a part and `**` across parts",
);

/// What may be chosen for a registry.
pub(super) const REGISTRY: &[KeySpec] = &[
    key(
        "name",
        One(Kind::Registry),
        "what clients call it: `host`, `host:port` or `*.suffix`",
    ),
    absent("description", Loss::Nothing, "for readers"),
    key("url", One(Kind::Url), "where it really is"),
    key(
        "mirrors",
        Maps(MIRROR, Some("url")),
        "asked before the registry itself, in this order",
    ),
    INSECURE,
    SCHEME,
    AUTH_KEY,
    TLS_KEY,
    SKIP_VERIFY,
    UPSTREAM_PROXY,
    FOLLOW_REDIRECTS,
    REALM_HOSTS,
    ALLOW_PRIVATE,
    ACCESS_KEY,
    TAG_RULES,
    PLATFORMS,
    MAX_CONCURRENCY,
    key(
        "allow",
        Maps(ALLOW_HERE, None),
        "who may read what of it; in place of allow at the top",
    ),
    absent("cache_dir", Loss::Less, "a store of its own"),
    absent("cache_max_size", Loss::Less, "bound of the store"),
];

/// What may be chosen for all registries: everything but where one of them is.
pub(super) const DEFAULTS: &[KeySpec] = &[
    INSECURE,
    SCHEME,
    AUTH_KEY,
    TLS_KEY,
    SKIP_VERIFY,
    UPSTREAM_PROXY,
    FOLLOW_REDIRECTS,
    REALM_HOSTS,
    ALLOW_PRIVATE,
    ACCESS_KEY,
    TAG_RULES,
    PLATFORMS,
    MAX_CONCURRENCY,
    key(
        "cache_dir",
        One(Kind::Path),
        "directory of the store; the same as fs_root",
    ),
    absent("cache_max_size", Loss::Less, "bound of the store"),
];

const INSECURE: KeySpec = key(
    "insecure",
    One(Kind::Switch),
    "plain http, where `url` does not say",
);
const SCHEME: KeySpec = key("scheme", One(Kind::Word(SCHEMES)), "http is the same as insecure");
const AUTH_KEY: KeySpec = key("auth", MapOr(AUTH, ANONYMOUS), "our credentials there");
const TLS_KEY: KeySpec = key("tls", Map(TLS), "how TLS is spoken with it");
const SKIP_VERIFY: KeySpec = key(
    "insecure_skip_verify",
    One(Kind::Switch),
    "the same as tls.insecure_skip_verify",
);
const UPSTREAM_PROXY: KeySpec = key(
    "upstream_proxy",
    One(Kind::ProxyUrl(PROXY_WORDS)),
    "proxy for the registry, its token service and its redirects",
);
const FOLLOW_REDIRECTS: KeySpec = key(
    "follow_redirects",
    One(Kind::Switch),
    "false: a blob's redirect is given to the client and nothing is stored",
);
const REALM_HOSTS: KeySpec = key(
    "realm_hosts",
    Many(Kind::Registry),
    "other hosts that may be its token service and see our credentials",
);
const ALLOW_PRIVATE: KeySpec = key(
    "allow_private",
    One(Kind::Switch),
    "whether it may be at a loopback or private address",
);
const ACCESS_KEY: KeySpec = key(
    "access",
    One(Kind::Word(ACCESS)),
    "who may read what needs credentials",
);
const TAG_RULES: KeySpec = key(
    "tag_rules",
    Maps(TAG_RULE, None),
    "how long tags are believed; the first pattern that matches counts",
);
const PLATFORMS: KeySpec = key(
    "platforms",
    Many(Kind::Text),
    "`os/arch[/variant]` of whole images that are loaded",
);
const MAX_CONCURRENCY: KeySpec = key(
    "max_concurrency",
    One(Kind::Count(MAX_CONCURRENCY_MAX)),
    "requests to it in flight at once",
);

pub(super) const MIRROR: &[KeySpec] = &[
    key("url", One(Kind::Url), "where it is"),
    key("pull", One(Kind::Switch), "asked for content by digest; true"),
    key("resolve", One(Kind::Switch), "asked what tags mean; true"),
];

const USERNAME: KeySpec = also(&["user"], key("username", One(Kind::Text), "name for a password"));
const PASSWORD: KeySpec = key("password", One(Kind::Secret), "password, or a token used as one");
const PASSWORD_FILE: KeySpec = also(
    &["password_from_file"],
    key("password_file", One(Kind::Path), "file with the password"),
);
const PASSWORD_ENV: KeySpec = also(
    &["password_from_env"],
    key("password_env", One(Kind::Text), "variable with the password"),
);

/// Our credentials for a registry.
pub(super) const AUTH: &[KeySpec] = &[
    USERNAME,
    PASSWORD,
    PASSWORD_FILE,
    PASSWORD_ENV,
    key(
        "identity_token",
        One(Kind::Secret),
        "refresh token, exchanged by OAuth2",
    ),
    key(
        "identity_token_file",
        One(Kind::Path),
        "file with the refresh token",
    ),
    key(
        "identity_token_env",
        One(Kind::Text),
        "variable with the refresh token",
    ),
    key("registry_token", One(Kind::Secret), "bearer token, sent as it is"),
    key(
        "registry_token_file",
        One(Kind::Path),
        "file with the bearer token",
    ),
    key(
        "registry_token_env",
        One(Kind::Text),
        "variable with the bearer token",
    ),
    key(
        "helper",
        One(Kind::Text),
        "the program docker-credential-<helper>",
    ),
    key("docker_config", One(Kind::Path), "a config.json or auth.json"),
    key("token", Map(TOKEN), "a token from elsewhere"),
];

/// The form in which another system writes tokens.
pub(super) const TOKEN: &[KeySpec] = &[
    key(
        "provider",
        One(Kind::Word(PROVIDERS)),
        "ecr is the helper ecr-login",
    ),
    absent(
        "provider_opts",
        Loss::Less,
        "options; the helper takes them from its environment",
    ),
    absent("expiry", Loss::Less, "life of a token; the helper knows it"),
    key("static", One(Kind::Secret), "the same as registry_token"),
];

pub(super) const TLS: &[KeySpec] = &[
    key(
        "ca",
        One(Kind::Path),
        "PEM, trusted instead of the system's roots",
    ),
    key(
        "cert",
        One(Kind::Path),
        "PEM, presented when the registry asks for one",
    ),
    key("key", One(Kind::Path), "PEM, the key of cert"),
    key("insecure_skip_verify", One(Kind::Switch), "takes any certificate"),
];

pub(super) const TAG_RULE: &[KeySpec] = &[
    key(
        "pattern",
        One(Kind::Text),
        "`*` and `?` as in a shell, or /regular expression/",
    ),
    key("ttl", One(Kind::Duration), "how long a tag is believed"),
    key(
        "revalidate",
        One(Kind::WordOrDuration(REVALIDATE)),
        "asked every time, or never again",
    ),
    key(
        "keep_on_404",
        One(Kind::Switch),
        "a tag that is gone upstream is served as it was",
    ),
];

impl Setting {
    /// Other words for it in the file.
    pub(super) fn key_aliases(self) -> &'static [&'static str] {
        match self {
            Setting::FsRoot => &["image_path", "cache_dir"],
            Setting::DefaultRegistry => &["default_ns"],
            _ => &[],
        }
    }

    /// Whether it is on or off.
    pub fn is_switch(self) -> bool {
        self.kind() == Kind::Switch
    }

    /// What its value means.
    pub(super) fn kind(self) -> Kind {
        match self {
            Setting::ListenAddr => Kind::Text,
            Setting::Cores => Kind::CountOrAuto(super::CORES_MAX as u64),
            Setting::KernelTls => Kind::Word(&["off", "auto"]),
            Setting::IoDriver => Kind::Word(&["auto", "io_uring", "epoll"]),
            Setting::HelperThreads => Kind::Count(super::HELPER_THREADS_MAX as u64),
            Setting::MaxConnections => Kind::CountOrAuto(super::MAX_CONNECTIONS_MAX as u64),
            Setting::MaxConnectionsPerClient => Kind::CountFrom0(super::MAX_CONNECTIONS_MAX as u64),
            Setting::MemoryBudget => Kind::BytesOrAuto,
            Setting::StorageBackend => Kind::Word(&["auto", "fs", "s3", "tiered"]),
            Setting::S3Bucket | Setting::S3Prefix => Kind::Text,
            Setting::S3LifecycleDays => Kind::CountFrom0(u64::from(super::s3::LIFECYCLE_DAYS_MAX)),
            Setting::FsRoot
            | Setting::SpoolDir
            | Setting::ConfigFile
            | Setting::AuthPasswordFile
            | Setting::AuthHtpasswdFile
            | Setting::TlsCertFile
            | Setting::TlsKeyFile
            | Setting::TlsClientCaFile => Kind::Path,
            Setting::AuthUsername => Kind::Text,
            Setting::AuthPassword => Kind::Secret,
            Setting::TlsClientAuth => Kind::Word(TLS_CLIENT_AUTH),
            Setting::MemoryCache => Kind::Bytes,
            Setting::DefaultRegistry => Kind::Registry,
            Setting::TagTtl | Setting::StaleWhileRevalidate | Setting::DrainTimeout | Setting::DrainDelay => {
                Kind::Duration
            }
            Setting::LogLevel => Kind::Word(&["trace", "debug", "info", "warn", "error"]),
            Setting::CacheTagManifests
            | Setting::CacheLatestTag
            | Setting::AlwaysPullLatest
            | Setting::WhitelistMode
            | Setting::AirGapped
            | Setting::RegistryHeader
            | Setting::ClientLogin
            | Setting::S3ForcePathStyle
            | Setting::S3Redirect
            | Setting::GenerateSelfSignedTls
            | Setting::AccessLog => Kind::Switch,
        }
    }
}
