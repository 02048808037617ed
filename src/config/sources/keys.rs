//! The tables of keys in the file, besides the settings of `options.rs`. A table has every key of a map in every spelling,
//! with the shape of the value.
//!
//! The reader, the suggestions and the JSON Schema follow these tables.

use super::super::options::Setting;
use super::super::value::{Kind, TLS_CLIENT_AUTH};
use crate::limits::WARM_IMAGES_MAX;

/// A key of a map.
#[derive(Debug)]
pub(in crate::config) struct KeySpec {
    pub name: &'static str,
    /// Other spellings. The camelCase form of every spelling is valid too.
    pub aliases: &'static [&'static str],
    pub shape: Shape,
    /// The meaning of the key, in half a line.
    pub summary: &'static str,
    scope: Scope,
}

/// The maps that share a list of keys and have a given key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Both maps.
    Both,
    /// The map for all registries: `defaults`, and `allow` at the top.
    All,
    /// The map of a single registry: an entry of `registries`, and `allow` in an entry.
    Entry,
}

/// The keys of a map.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Table {
    keys: &'static [KeySpec],
    scope: Scope,
}

/// The shape of a value.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Shape {
    One(Kind),
    /// A list. A single value counts as a list with a single item.
    Many(Kind),
    Map(Table),
    /// A list of maps. A single value stands for a map with only the given key.
    Maps(Table, Option<&'static str>),
    /// A map, or a word of the list.
    MapOr(Table, &'static [&'static str]),
    /// Registries: a list of maps with a `name`, or a map by name. See [`REGISTRY`].
    Named,
    /// A key of another system, without function in this version.
    Absent(Loss),
}

/// The loss by a key without function in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Loss {
    /// A missing function, without danger. Worth a warning.
    Less,
    /// None: the key only describes.
    Nothing,
}

impl KeySpec {
    /// Returns the spellings of the key. The name is first.
    pub(in crate::config) fn spellings(&self) -> impl Iterator<Item = String> {
        spellings_of(self.name, self.aliases)
    }
}

impl Table {
    const fn of(keys: &'static [KeySpec]) -> Self {
        Table {
            keys,
            scope: Scope::Both,
        }
    }

    const fn in_scope(keys: &'static [KeySpec], scope: Scope) -> Self {
        Table { keys, scope }
    }

    pub(in crate::config) fn iter(self) -> impl Iterator<Item = &'static KeySpec> {
        let in_scope = move |key: &&KeySpec| key.scope == Scope::Both || key.scope == self.scope;
        self.keys.iter().filter(in_scope)
    }

    /// Returns the key that `written` spells.
    pub(in crate::config) fn find(self, written: &str) -> Option<&'static KeySpec> {
        self.iter()
            .find(|key| key.spellings().any(|spelling| spelling == written))
    }

    /// Returns the names of the keys, for messages.
    pub(in crate::config) fn names(self) -> String {
        let shown = self.iter().filter(|key| !matches!(key.shape, Shape::Absent(_)));
        shown.map(|key| key.name).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the setting that a key of the file spells.
pub(super) fn setting_of(written: &str) -> Option<Setting> {
    Setting::ALL
        .into_iter()
        .find(|setting| setting_spellings(*setting).any(|spelling| spelling == written))
}

/// Returns the spellings of a setting in the file.
pub(in crate::config) fn setting_spellings(setting: Setting) -> impl Iterator<Item = String> {
    let key = setting.key().into_iter();
    key.flat_map(move |key| spellings_of(key, setting.aliases()))
}

fn spellings_of(name: &'static str, aliases: &'static [&'static str]) -> impl Iterator<Item = String> {
    std::iter::once(name)
        .chain(aliases.iter().copied())
        .flat_map(|word| {
            let camel = camel_case(word);
            let other = (camel != word).then_some(camel);
            std::iter::once(word.to_owned()).chain(other)
        })
}

/// Returns `air_gapped` as `airGapped`.
fn camel_case(snake: &str) -> String {
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
        scope: Scope::Both,
    }
}

const fn also(aliases: &'static [&'static str], key: KeySpec) -> KeySpec {
    KeySpec { aliases, ..key }
}

const fn absent(name: &'static str, loss: Loss, summary: &'static str) -> KeySpec {
    key(name, Shape::Absent(loss), summary)
}

/// Restricts a key to the map for all registries.
const fn all_only(key: KeySpec) -> KeySpec {
    KeySpec {
        scope: Scope::All,
        ..key
    }
}

/// Restricts a key to the map of a single registry.
const fn entry_only(key: KeySpec) -> KeySpec {
    KeySpec {
        scope: Scope::Entry,
        ..key
    }
}

use Shape::{Many, Map, MapOr, Maps, Named, One};

/// Words for no credentials.
pub(super) const ANONYMOUS: &[&str] = &["none", "anonymous"];
/// Words for no proxy, and for the proxy of the environment.
pub(super) const PROXY_WORDS: &[&str] = &["none", "direct", "environment"];
pub(super) const SCHEMES: &[&str] = &["https", "http"];
pub(super) const ACCESS: &[&str] = &["verify", "shared", "passthrough"];
pub(super) const REVALIDATE: &[&str] = &["always", "never"];
pub(super) const PROVIDERS: &[&str] = &["ecr"];

/// Upper bound of `max_concurrency`. A larger number of in-flight requests is no bound.
pub(super) const MAX_CONCURRENCY_MAX: u64 = 1024;

/// Top-level keys besides the settings.
pub(in crate::config) const DOCUMENT: Table = Table::of(&[
    key(
        "port",
        One(Kind::Port),
        "port to listen on; short for listen_addr",
    ),
    key("host", One(Kind::Text), "address to listen on, with port"),
    key("auth", Map(CLIENT_AUTH), "client authentication"),
    key(
        "allow",
        Maps(ALLOW, None),
        "access rules; without rules, clients read everything",
    ),
    key(
        "prune",
        Maps(PRUNE_RULE, None),
        "rules that remove stored images in the background",
    ),
    key(
        "prune_config",
        Map(PRUNE_CONFIG),
        "a rule of prune, in the form of ociregistry",
    ),
    key(
        "warm",
        Maps(WARM_RULE, Some("pattern")),
        "rules that keep images in the store up to date",
    ),
    key("defaults", Map(DEFAULTS), "settings for every registry"),
    key("registries", Named, "registries, by name"),
    also(
        &["tls"],
        key("server_tls_config", Map(SERVER_TLS), "TLS towards clients"),
    ),
    absent("list_config", Loss::Less, "how content is listed"),
    absent("resolve_ref", Loss::Less, "name of an image to load"),
    key("os", One(Kind::Text), "operating system of load_platforms"),
    key("arch", One(Kind::Text), "architecture of load_platforms"),
]);

/// Upper bound of the numbers of images in a rule of `prune`. A larger number is no bound.
pub(super) const PRUNE_IMAGES_MAX: u64 = 1_000_000_000;

/// Rules of `prune`.
pub(super) const PRUNE_RULE: Table = Table::of(&[
    key(
        "pattern",
        One(Kind::Text),
        "images whose reference matches one of these regular expressions, separated by commas",
    ),
    key(
        "unused_for",
        One(Kind::Duration),
        "images without a use for this time",
    ),
    key("older_than", One(Kind::Duration), "images stored longer ago"),
    key(
        "keep_newest",
        One(Kind::Count(PRUNE_IMAGES_MAX)),
        "the tags of each repository that stay: those stored last",
    ),
    key("every", One(Kind::Duration), "time between two runs; 5h"),
    key(
        "window",
        One(Kind::Text),
        "time of day in UTC in which a run starts, such as 02:00-05:00",
    ),
    key(
        "count",
        One(Kind::Count(PRUNE_IMAGES_MAX)),
        "images that a run removes at most: those unused for the longest time",
    ),
    key("dry_run", One(Kind::Switch), "true: a run only logs the images"),
]);

/// Rules of `warm`. A text stands for a rule with only a pattern.
pub(super) const WARM_RULE: Table = Table::of(&[
    key(
        "pattern",
        One(Kind::Text),
        "images, with * or a range of versions, as for a pin",
    ),
    key(
        "newest",
        One(Kind::Count(WARM_IMAGES_MAX as u64)),
        "the tags with the highest versions that the registry lists",
    ),
    key(
        "platforms",
        Many(Kind::Text),
        "platforms to fetch of an index: all, host, or a list",
    ),
    key("every", One(Kind::Duration), "time between two runs; 1h"),
    key(
        "window",
        One(Kind::Text),
        "time of day in UTC in which a run starts, such as 02:00-05:00",
    ),
    key("pin", One(Kind::Switch), "true: pins the images of the pattern"),
    key(
        "reserve",
        One(Kind::Text),
        "part of the request budget of a registry that stays for clients; 30%",
    ),
]);

/// The values of `type` in `prune_config`.
pub(super) const PRUNE_TYPES: &[&str] = &["accessed", "created", "pattern"];

/// A rule of `prune`, under the names of ociregistry.
pub(super) const PRUNE_CONFIG: Table = Table::of(&[
    key("enabled", One(Kind::Switch), "false: no rule"),
    key(
        "type",
        One(Kind::Word(PRUNE_TYPES)),
        "accessed: unused for duration; created: stored longer ago; pattern: expr matches",
    ),
    key("duration", One(Kind::Text), "a time such as 30d"),
    key(
        "expr",
        One(Kind::Text),
        "regular expressions, separated by commas",
    ),
    key("frequency", One(Kind::Text), "the same as every"),
    key(
        "count",
        One(Kind::Text),
        "the same as count; 50, and -1 means all",
    ),
    also(
        &["dryrun"],
        key("dry_run", One(Kind::Switch), "the same as dry_run"),
    ),
]);

/// TLS towards clients, under the names of ociregistry. Each key is a setting too.
pub(super) const SERVER_TLS: Table = Table::of(&[
    key("cert", One(Kind::Path), "the same as tls_cert_file"),
    key("key", One(Kind::Path), "the same as tls_key_file"),
    key("ca", One(Kind::Path), "the same as tls_client_ca_file"),
    key(
        "client_auth",
        One(TLS_CLIENT_AUTH.kind),
        "the same as tls_client_auth; verify without ca means the system's authorities",
    ),
]);

/// Client authentication. `htpasswd_file` is the setting `auth_htpasswd_file`.
pub(super) const CLIENT_AUTH: Table = Table::of(&[
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
]);

/// Rules of `allow` at the top.
pub(super) const ALLOW: Table = Table::in_scope(ALLOW_KEYS, Scope::All);
/// Rules of `allow` in an entry of `registries`.
pub(super) const ALLOW_HERE: Table = Table::in_scope(ALLOW_KEYS, Scope::Entry);

const ALLOW_KEYS: &[KeySpec] = &[
    key(
        "users",
        Many(Kind::Text),
        "names, with `*`; `cert:<name>` for certificates, `anonymous` for clients without credentials",
    ),
    all_only(key(
        "registries",
        Many(Kind::Registry),
        "`host`, `host:port` or `*.suffix`",
    )),
    key(
        "repositories",
        Many(Kind::Text),
        "names, with `*` within a part and `**` across parts",
    ),
];

/// The keys of an entry of `registries`.
pub(in crate::config) const REGISTRY: Table = Table::in_scope(REGISTRY_KEYS, Scope::Entry);
/// The keys of `defaults`: all but the location of a single registry.
pub(super) const DEFAULTS: Table = Table::in_scope(REGISTRY_KEYS, Scope::All);

const REGISTRY_KEYS: &[KeySpec] = &[
    entry_only(key(
        "name",
        One(Kind::Registry),
        "name that clients use: `host`, `host:port` or `*.suffix`",
    )),
    entry_only(absent("description", Loss::Nothing, "for readers")),
    entry_only(key("url", One(Kind::Url), "URL of the registry itself")),
    entry_only(key(
        "mirrors",
        Maps(MIRROR, Some("url")),
        "requested before the registry itself, in this order",
    )),
    key("insecure", One(Kind::Switch), "plain http, if `url` is not set"),
    key("scheme", One(Kind::Word(SCHEMES)), "http is the same as insecure"),
    key("auth", MapOr(AUTH, ANONYMOUS), "our credentials there"),
    key("tls", Map(TLS), "TLS towards the registry"),
    key(
        "insecure_skip_verify",
        One(Kind::Switch),
        "the same as tls.insecure_skip_verify",
    ),
    key(
        "upstream_proxy",
        One(Kind::ProxyUrl(PROXY_WORDS)),
        "proxy for the registry, its token service and its redirects",
    ),
    key(
        "follow_redirects",
        One(Kind::Switch),
        "false: a blob's redirect is given to the client and nothing is stored",
    ),
    key(
        "realm_hosts",
        Many(Kind::Registry),
        "other hosts that may be its token service and receive our credentials",
    ),
    key(
        "allow_private",
        One(Kind::Switch),
        "whether it may be at a loopback or private address",
    ),
    key(
        "access",
        One(Kind::Word(ACCESS)),
        "readers of content that needs credentials",
    ),
    key(
        "tag_rules",
        Maps(TAG_RULE, None),
        "how long tags are fresh; the first pattern that matches counts",
    ),
    key(
        "platforms",
        Many(Kind::Text),
        "`os/arch[/variant]` of whole images that are loaded",
    ),
    key(
        "max_concurrency",
        One(Kind::Count(MAX_CONCURRENCY_MAX)),
        "requests to it in flight at once",
    ),
    entry_only(key(
        "allow",
        Maps(ALLOW_HERE, None),
        "access rules of this registry; in place of allow at the top",
    )),
    all_only(key(
        "cache_dir",
        One(Kind::Path),
        "directory of the store; the same as fs_root",
    )),
    entry_only(key(
        "cache_dir",
        One(Kind::Path),
        "directory of a store for the registry's content alone; not with STORAGE_BACKEND=s3",
    )),
    key(
        "cache_max_size",
        One(Kind::SizeOrAuto),
        "size of the registry's content in the local store; auto or 0: only the bounds of the store count",
    ),
];

pub(super) const MIRROR: Table = Table::of(&[
    key("url", One(Kind::Url), "URL of the mirror"),
    key("pull", One(Kind::Switch), "requested for content by digest; true"),
    key("resolve", One(Kind::Switch), "requested for tags; true"),
]);

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
pub(super) const AUTH: Table = Table::of(&[
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
]);

/// Tokens, in the form of another system.
pub(super) const TOKEN: Table = Table::of(&[
    key(
        "provider",
        One(Kind::Word(PROVIDERS)),
        "ecr is the helper ecr-login",
    ),
    absent(
        "provider_opts",
        Loss::Less,
        "options; the helper reads its environment",
    ),
    absent("expiry", Loss::Less, "life of a token; the helper knows it"),
    key("static", One(Kind::Secret), "the same as registry_token"),
]);

pub(super) const TLS: Table = Table::of(&[
    key(
        "ca",
        One(Kind::Path),
        "PEM, trusted instead of the system's roots",
    ),
    key(
        "cert",
        One(Kind::Path),
        "PEM, presented when the registry requests one",
    ),
    key("key", One(Kind::Path), "PEM, the key of cert"),
    key(
        "insecure_skip_verify",
        One(Kind::Switch),
        "accepts any certificate",
    ),
]);

pub(super) const TAG_RULE: Table = Table::of(&[
    key(
        "pattern",
        One(Kind::Text),
        "`*` and `?` as in a shell, or /regular expression/",
    ),
    key("ttl", One(Kind::Duration), "how long a tag is fresh"),
    key(
        "revalidate",
        One(Kind::WordOrDuration(REVALIDATE)),
        "always, never, or after a time",
    ),
    key(
        "keep_on_404",
        One(Kind::Switch),
        "a tag that is deleted upstream is still served",
    ),
]);

#[cfg(test)]
pub(in crate::config) mod tests {
    use super::*;

    /// Every map of the file, around `KEY`, with its table.
    pub const TABLES: [(&str, Table); 11] = [
        ("KEY", DOCUMENT),
        ("prune: KEY", PRUNE_RULE),
        ("warm: KEY", WARM_RULE),
        ("prune_config: KEY", PRUNE_CONFIG),
        ("registries: [KEY]", REGISTRY),
        ("defaults: KEY", DEFAULTS),
        ("registries: {r: {auth: KEY}}", AUTH),
        ("registries: {r: {auth: {token: KEY}}}", TOKEN),
        ("registries: {r: {tls: KEY}}", TLS),
        ("registries: {r: {tag_rules: KEY}}", TAG_RULE),
        ("registries: {r: {mirrors: KEY}}", MIRROR),
    ];

    #[test]
    fn key_spellings_are_unique_per_table() {
        for (around, table) in TABLES {
            let mut spellings: Vec<String> = table.iter().flat_map(KeySpec::spellings).collect();
            let count = spellings.len();
            spellings.sort();
            spellings.dedup();
            assert_eq!(spellings.len(), count, "{around}");
        }
    }
}
