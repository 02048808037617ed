//! The effective configuration as a file. A comment names the source of each value. Secrets are `***`.

use std::fmt::Write as _;

use super::Config;
use super::model::units::shown_duration;
use super::model::{
    Access, AllowRule, Auth, ClientAuthConfig, Glob, Mirror, Named, Pem, Proxy, ProxyUrl, PruneRuleConfig,
    RegistryName, RootChoice, SizeBound, TagFreshness, TagRule, WarmRuleConfig,
};
use super::options::{InFile, Setting};
use super::resolve::{ClientAuthOrigins, Sources, load};
use super::sources::{Diagnostics, Environment, Layer, PartialEntry, PartialRegistry, Place, Spanned};
use super::value::Kind;

/// The replacement of a secret.
const SECRET: &str = "***";

/// The source of a default.
const DEFAULT: &str = "default";

/// The column of comments after shorter lines.
const COMMENT_COLUMN: usize = 44;

/// Writes the configuration of these flags and this environment. Except for secrets, the output is a valid configuration
/// file.
///
/// # Errors
///
/// Returns all diagnostics of the configuration.
pub fn print(flags: Layer, environment: Environment<'_>) -> Result<String, Diagnostics> {
    let (config, sources) = load(flags, environment)?;
    let file = sources.find(Setting::ConfigFile).map(|given| given.text.clone());
    let mut page = Page {
        text: String::new(),
        file: file.unwrap_or_default(),
    };
    page.settings(&config, &sources);
    if let Some(auth) = &config.client_auth {
        page.client_auth(auth, &sources.client_auth_origins);
    }
    page.rules(0, &sources.file.allow);
    page.prune(&sources.file.prune);
    page.warm(&sources.file.warm);
    page.proxies(&config);
    page.map(0, "defaults", "for registries that are not named");
    page.partial_registry(1, &sources.file.defaults.without_secrets(), None);
    let entries = &sources.file.registries;
    match entries.is_empty() {
        true => page.line(0, "registries: []", "default"),
        false => page.map(0, "registries", ""),
    }
    for entry in entries {
        page.entry(entry);
    }
    Ok(page.text)
}

struct Page {
    text: String,
    /// The path of the configuration file.
    file: String,
}

impl Page {
    /// Writes a line with the comment `origin`.
    fn line(&mut self, depth: usize, text: &str, origin: &str) {
        let line = format!("{:indent$}{text}", "", indent = 2 * depth);
        // Writing to a `String` cannot fail.
        let _ = match origin {
            "" => writeln!(self.text, "{line}"),
            _ => writeln!(self.text, "{line:<COMMENT_COLUMN$}  # {origin}"),
        };
    }

    fn value(&mut self, depth: usize, key: &str, value: &str, origin: &str) {
        self.line(depth, &format!("{key}: {}", quoted(value)), origin);
    }

    fn map(&mut self, depth: usize, key: &str, origin: &str) {
        self.line(depth, &format!("{}:", quoted(key)), origin);
    }

    fn at(&self, line: u64) -> String {
        format!("{}:{line}", self.file)
    }

    fn settings(&mut self, config: &Config, sources: &Sources<'_>) {
        for setting in Setting::ALL {
            let (Some(key), InFile::Key) = (setting.key(), setting.file()) else {
                continue;
            };
            let (value, origin) = match sources.find(setting) {
                Some(given) => (given.text.trim().to_owned(), origin_of(&given.place)),
                None if setting.is_nothing_by_default() => continue,
                None => (setting.default_text().to_owned(), DEFAULT.to_owned()),
            };
            let (value, origin) = match setting.kind() {
                Kind::Secret => (SECRET.to_owned(), origin),
                _ => effective(setting, value, origin, config, sources),
            };
            self.value(0, key, &value, &origin);
        }
    }

    fn proxies(&mut self, config: &Config) {
        let proxies = &config.proxies;
        for (scheme, proxy) in [("https", &proxies.https), ("http", &proxies.http)] {
            if let Some(proxy) = proxy {
                let with = if proxy.credentials.is_some() {
                    " with credentials"
                } else {
                    ""
                };
                let text = format!("# proxy for {scheme}: {}{with}", proxy.url);
                self.line(0, &text, "environment");
            }
        }
        if !proxies.no_proxy.is_empty() {
            self.line(
                0,
                &format!("# no proxy for: {}", proxies.no_proxy.escape_debug()),
                "environment",
            );
        }
    }

    fn entry(&mut self, entry: &PartialEntry) {
        let origin = self.at(entry.name.line);
        let name = quoted(&entry.name.value.to_string());
        self.line(1, &format!("- name: {name}"), &origin);
        self.partial_registry(2, &entry.partial, Some(&entry.name.value));
        self.rules(2, &entry.allow);
    }

    fn client_auth(&mut self, auth: &ClientAuthConfig, origins: &ClientAuthOrigins) {
        let origin = |place: &Option<Place>| place.as_ref().map(origin_of).unwrap_or_default();
        self.map(0, "auth", "");
        if let Some((username, _)) = &auth.user {
            let from = origins.from.clone();
            self.value(1, "username", username, &origin(&origins.username));
            self.value(
                1,
                "password",
                SECRET,
                &from.unwrap_or_else(|| origin(&origins.password)),
            );
        }
        if let Some(htpasswd) = &auth.htpasswd {
            let path = htpasswd.path.to_string_lossy();
            self.value(1, "htpasswd_file", &path, &origin(&origins.htpasswd));
        }
        if !auth.certificates.is_empty() {
            self.map(1, "client_certificates", "");
            for pattern in &auth.certificates {
                self.line(2, &format!("- {}", quoted(&pattern.to_string())), "");
            }
        }
    }

    fn rules(&mut self, depth: usize, rules: &Option<Spanned<Vec<AllowRule>>>) {
        self.list(depth, "allow", rules, |page, depth, rule| {
            fn shown<T>(items: &Option<Vec<T>>, text: impl Fn(&T) -> String) -> Option<String> {
                let items = items.as_ref()?;
                let items = items.iter().map(|item| quoted(&text(item)));
                Some(items.collect::<Vec<_>>().join(", "))
            }
            let glob = |glob: &Glob| glob.as_str().to_owned();
            let parts = [
                ("users", shown(&rule.users, glob)),
                ("registries", shown(&rule.registries, ToString::to_string)),
                ("repositories", shown(&rule.repositories, glob)),
            ];
            let parts = parts
                .into_iter()
                .filter_map(|(key, items)| Some(format!("{key}: [{}]", items?)));
            let parts = parts.collect::<Vec<_>>().join(", ");
            page.line(depth, &format!("- {{{parts}}}"), "");
        });
    }

    /// Writes all rules as rules of `prune`.
    fn prune(&mut self, rules: &[Spanned<PruneRuleConfig>]) {
        if !rules.is_empty() {
            self.map(0, "prune", "");
        }
        for Spanned { value: rule, line } in rules {
            let origin = self.at(*line);
            self.line(1, &format!("- every: {}", shown_duration(rule.every)), &origin);
            let number = |count: usize| (count > 0).then(|| count.to_string());
            let values = [
                (
                    "pattern",
                    Some(rule.filter.text()).filter(|text| !text.is_empty()),
                ),
                ("unused_for", rule.unused_for.map(shown_duration)),
                ("older_than", rule.older_than.map(shown_duration)),
                ("keep_newest", number(rule.keep_newest)),
                ("window", rule.window.map(|window| window.to_string())),
                ("count", rule.images_max.map(|count| count.to_string())),
                ("dry_run", Some(rule.dry_run.to_string())),
            ];
            for (key, value) in values {
                if let Some(value) = value {
                    self.value(2, key, &value, "");
                }
            }
        }
    }

    fn warm(&mut self, rules: &[Spanned<WarmRuleConfig>]) {
        if !rules.is_empty() {
            self.map(0, "warm", "");
        }
        for Spanned { value: rule, line } in rules {
            let origin = self.at(*line);
            self.line(1, &format!("- every: {}", shown_duration(rule.every)), &origin);
            let platforms = rule.platforms.as_ref();
            let values = [
                ("pattern", Some(rule.pattern.as_str().to_owned())),
                ("newest", rule.newest.map(|count| count.to_string())),
                (
                    "platforms",
                    platforms.map(|platforms| platforms.words().join(",")),
                ),
                ("window", rule.window.map(|window| window.to_string())),
                ("pin", Some(rule.pin.to_string())),
                ("reserve", Some(format!("{}%", rule.reserve_percent))),
            ];
            for (key, value) in values {
                if let Some(value) = value {
                    self.value(2, key, &value, "");
                }
            }
        }
    }

    /// Writes all settings of a registry, with defaults. `name` is the name of the entry, or `None` for `defaults`.
    fn partial_registry(&mut self, depth: usize, partial: &PartialRegistry, name: Option<&RegistryName>) {
        let settings = partial.settings();
        if let Some(url) = &partial.url {
            self.value(depth, "url", url.value.as_str(), &self.at(url.line));
        }
        self.list(depth, "mirrors", &partial.mirrors, Page::mirror);
        self.choice(depth, "insecure", &partial.insecure, bool::to_string, "false");
        self.auth(depth, partial);
        self.tls(depth, partial);
        self.proxy(depth, &partial.proxy);
        self.choice(
            depth,
            "follow_redirects",
            &partial.follow_redirects,
            bool::to_string,
            "true",
        );
        self.list(depth, "realm_hosts", &partial.realm_hosts, |page, depth, host| {
            page.line(depth, &format!("- {}", quoted(host)), "");
        });
        let named = match name {
            Some(RegistryName::Exact(_)) => Named::Exactly,
            Some(RegistryName::Suffix(_)) => Named::BySuffix,
            None => Named::No,
        };
        let private = (named == Named::Exactly).to_string();
        self.choice(
            depth,
            "allow_private",
            &partial.allow_private,
            bool::to_string,
            &private,
        );
        self.choice(
            depth,
            "access",
            &partial.access,
            |access| access_word(*access).to_owned(),
            access_word(settings.access()),
        );
        self.list(depth, "tag_rules", &partial.tag_rules, Page::tag_rule);
        self.list(depth, "platforms", &partial.platforms, |page, depth, platform| {
            page.line(depth, &format!("- {}", quoted(platform)), "");
        });
        if let Some(count) = &partial.max_concurrency {
            self.value(
                depth,
                "max_concurrency",
                &count.value.to_string(),
                &self.at(count.line),
            );
        }
        if let Some(size) = &partial.cache_max_size {
            let text = size.value.map_or_else(|| "auto".to_owned(), SizeBound::shown);
            self.value(depth, "cache_max_size", &text, &self.at(size.line));
        }
        if let Some(dir) = &partial.cache_dir {
            let text = quoted(&dir.value.display().to_string());
            self.value(depth, "cache_dir", &text, &self.at(dir.line));
        }
    }

    fn choice<T>(
        &mut self,
        depth: usize,
        key: &str,
        spanned: &Option<Spanned<T>>,
        shown: impl Fn(&T) -> String,
        default: &str,
    ) {
        match spanned {
            Some(spanned) => self.value(depth, key, &shown(&spanned.value), &self.at(spanned.line)),
            None => self.value(depth, key, default, "default"),
        }
    }

    fn list<T>(
        &mut self,
        depth: usize,
        key: &str,
        spanned: &Option<Spanned<Vec<T>>>,
        item: impl Fn(&mut Page, usize, &T),
    ) {
        let Some(spanned) = spanned else { return };
        let origin = self.at(spanned.line);
        if spanned.value.is_empty() {
            return self.line(depth, &format!("{key}: []"), &origin);
        }
        self.map(depth, key, &origin);
        for value in &spanned.value {
            item(self, depth + 1, value);
        }
    }

    fn mirror(&mut self, depth: usize, mirror: &Mirror) {
        self.line(depth, &format!("- url: {}", quoted(mirror.url.as_str())), "");
        self.value(depth + 1, "pull", &mirror.pull.to_string(), "");
        self.value(depth + 1, "resolve", &mirror.resolve.to_string(), "");
    }

    fn tag_rule(&mut self, depth: usize, rule: &TagRule) {
        self.line(
            depth,
            &format!("- pattern: {}", quoted(rule.pattern.as_str())),
            "",
        );
        match rule.freshness {
            TagFreshness::For(time) => self.value(depth + 1, "ttl", &format!("{}ms", time.as_millis()), ""),
            TagFreshness::AlwaysAsk => self.value(depth + 1, "revalidate", "always", ""),
            TagFreshness::NeverAsk => self.value(depth + 1, "revalidate", "never", ""),
        }
        self.value(depth + 1, "keep_on_404", &rule.keep_on_404.to_string(), "");
    }

    fn auth(&mut self, depth: usize, partial: &PartialRegistry) {
        let Some(spanned) = &partial.auth else { return };
        let origin = self.at(spanned.line);
        let from = spanned.value.from.as_deref().unwrap_or_default();
        let inner = depth + 1;
        if spanned.value.auth == Auth::Anonymous {
            return self.value(depth, "auth", "none", &origin);
        }
        self.map(depth, "auth", &origin);
        match &spanned.value.auth {
            Auth::Anonymous => {}
            Auth::Basic { username, .. } => {
                self.value(inner, "username", username, "");
                self.value(inner, "password", SECRET, from);
            }
            Auth::IdentityToken(_) => self.value(inner, "identity_token", SECRET, from),
            Auth::RegistryToken(_) => self.value(inner, "registry_token", SECRET, from),
            Auth::Helper { name } => self.value(inner, "helper", name, ""),
            Auth::DockerConfig { path } => {
                self.value(inner, "docker_config", &path.to_string_lossy(), "");
            }
        }
    }

    fn tls(&mut self, depth: usize, partial: &PartialRegistry) {
        let path = |pem: &Spanned<Pem>| pem.value.path.to_string_lossy().into_owned();
        self.map(depth, "tls", "");
        if let Some(ca) = &partial.tls.ca {
            self.value(depth + 1, "ca", &path(ca), &self.at(ca.line));
        }
        if let Some((cert, key)) = &partial.tls.client {
            self.value(depth + 1, "cert", &path(cert), &self.at(cert.line));
            self.value(depth + 1, "key", &path(key), &self.at(key.line));
        }
        let skip = &partial.tls.insecure_skip_verify;
        self.choice(depth + 1, "insecure_skip_verify", skip, bool::to_string, "false");
    }

    fn proxy(&mut self, depth: usize, spanned: &Option<Spanned<Proxy>>) {
        let shown = |proxy: &Proxy| match proxy {
            Proxy::Environment => "environment".to_owned(),
            Proxy::Direct => "none".to_owned(),
            Proxy::Url(ProxyUrl { url, credentials }) => {
                match (url.as_str().split_once("://"), credentials) {
                    (Some((scheme, host)), Some(_)) => format!("{scheme}://{SECRET}@{host}"),
                    _ => url.to_string(),
                }
            }
        };
        self.choice(depth, "upstream_proxy", spanned, shown, "environment");
    }
}

/// Returns the effective value and its source, for settings whose default depends on others.
fn effective(
    setting: Setting,
    value: String,
    origin: String,
    config: &Config,
    sources: &Sources<'_>,
) -> (String, String) {
    match setting {
        Setting::ListenAddr if origin == DEFAULT => {
            let shown: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
            (shown.join(","), origin)
        }
        Setting::FsRoot => match config.storage.root() {
            Some((root, RootChoice::UserCache | RootChoice::Temporary)) => {
                let why = format!("default, because {value} cannot be written");
                (root.display().to_string(), why)
            }
            _ => (value, origin),
        },
        Setting::StorageBackend if value == "auto" => {
            let origin = match sources.s3_sign() {
                Some(sign) => format!("{origin}, because {sign} is set"),
                None => origin,
            };
            (config.storage.backend().to_owned(), origin)
        }
        _ => (value, origin),
    }
}

fn access_word(access: Access) -> &'static str {
    match access {
        Access::Verify => "verify",
        Access::Shared => "shared",
        Access::Passthrough => "passthrough",
    }
}

fn origin_of(place: &Place) -> String {
    match place {
        Place::Flag(name) => format!("flag --{name}"),
        Place::Environment(name) => format!("environment {name}"),
        Place::File { path, line, .. } => format!("{}:{line}", path.display()),
    }
}

/// Returns the text as a YAML scalar: plain if unambiguous, otherwise in double quotes.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b'+');
    let begins = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    // A colon is plain unless a blank or the end follows.
    let colons = text.split(':').skip(1).all(|rest| !rest.is_empty());
    if begins && colons && text.bytes().all(|b| plain(b) || b == b':') {
        return text.to_owned();
    }
    // Every JSON string is a YAML string.
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{CA, CERT, EVERYTHING, KEY, Machine};

    fn without_comments(text: &str) -> String {
        let lines = text
            .lines()
            .map(|line| line.split("  # ").next().unwrap_or_default().trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn machine(text: &str) -> Machine {
        Machine::with_file(text)
            .file("/ca.pem", CA)
            .file("/c.pem", CERT)
            .file("/k.pem", KEY)
            .file("/pw", "canary-file\n")
            .file("/d.json", "{}")
            .env("TOKEN", "canary-env")
    }

    #[test]
    fn printed_configuration_parses_to_the_same_configuration() {
        for text in [
            "",
            EVERYTHING,
            "defaults: {tag_rules: [{pattern: 'a: #b', ttl: 5}], auth: {user: u, password: p}}\nregistries: {a: , b: {tag_rules: [], auth: none}}\n",
            "prune: [{pattern: '^a:1$,b', unused_for: 90m, every: 1d, window: '22:00-02:00', count: 3}]\npruneConfig: {enabled: true, type: created, duration: 30d, dryrun: true}\n",
            "- {name: a, auth: {docker_config: /d.json}}\n- {name: b, auth: {helper: x}}\n",
        ] {
            let printed = machine(text).with_environment(print).unwrap();
            let again = machine(&printed).with_environment(print).unwrap();
            assert_eq!(without_comments(&printed), without_comments(&again), "{printed}");
        }
    }

    #[test]
    fn each_value_says_where_it_came_from_and_no_secret_is_shown() {
        let file = "
tag_ttl: 5m
auth: {username: u, password: canary-auth}
defaults:
  auth: {username: d, password_file: /pw}
registries:
  a: {upstream_proxy: 'http://u:canary-proxy@p:3128'}
  b: {auth: {registry_token_env: TOKEN}}
  c: {auth: {identity_token: canary-identity}, tls: {cert: /c.pem, key: /k.pem}}
";
        let mut machine = machine(file)
            .env("CORES", "2")
            .env("HTTPS_PROXY", "http://u:canary-https@p:3128");
        machine.flags.insert_flag(Setting::LogLevel, "warn".into());
        let printed = machine.with_environment(print).unwrap();
        assert!(
            !printed.contains("canary") && !printed.contains("PRIVATE"),
            "{printed}"
        );
        let line = |start: &str| {
            let found = printed.lines().find(|line| line.trim_start().starts_with(start));
            found.unwrap_or_else(|| panic!("no line starts with {start} in\n{printed}"))
        };
        for (start, origin) in [
            ("tag_ttl: 5m", "# f.yaml:2"),
            ("cores: 2", "# environment CORES"),
            ("log_level: warn", "# flag --log-level"),
            ("io_driver: auto", "# default"),
            ("- name: a", "# f.yaml:7"),
            ("upstream_proxy: \"http://***@p:3128/\"", "# f.yaml:7"),
            ("password: \"***\"", ""),
            ("registry_token: \"***\"", "# variable TOKEN"),
            ("identity_token: \"***\"", ""),
            ("key: /k.pem", "# f.yaml:9"),
            ("access: shared", "# default"),
        ] {
            assert!(line(start).ends_with(origin), "{}", line(start));
        }
        assert!(printed.contains("# file /pw"), "{printed}");
    }

    #[test]
    fn a_text_is_quoted_where_it_could_be_misread() {
        for (text, expected) in [
            ("a.b:5000", "a.b:5000"),
            ("/x/y", "/x/y"),
            (":8080", "\":8080\""),
            ("a:", "\"a:\""),
            ("", "\"\""),
            ("*.lan", "\"*.lan\""),
            ("a b", "\"a b\""),
            ("a#b", "\"a#b\""),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
