//! The configuration file: YAML, every key known, every diagnostic with its line.
//!
//! The document is read into a small tree with positions first ([`super::yaml`]) and judged second. Deserialising into
//! the final types directly would stop at the first error.

use std::collections::HashMap;
use std::path::Path;

use super::Environment;
use super::allow::AllowRule;
use super::client_auth::PartialClientAuth;
use super::diagnostics::{Diagnostic, Warning};
use super::entry::{parse_name, parse_url};
use super::partial_registry::{Entry, PartialRegistry};
use super::reader::{Field, Fields, Reader, Spanned, below};
use super::registry::RegistryName;
use super::schema_tables::{self, DEFAULTS, DOCUMENT, KeySpec, REGISTRY, Shape};
use super::setting::{Given, Layer, Setting};
use super::yaml::{self, Key, Node, Value};

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// A secret stands in the file itself.
    pub holds_secret: bool,
    pub settings: Layer,
    /// Each name once; the defaults are worked in.
    pub registries: Vec<Entry>,
    pub defaults: PartialRegistry,
    pub client_auth: PartialClientAuth,
    pub allow: Option<Spanned<Vec<AllowRule>>>,
    /// Clients' certificates are verified by the system's authorities.
    pub clients_by_system: bool,
}

impl File {
    /// Returns a warning for each option of `defaults` that weakens protection for unnamed registries.
    pub(super) fn permissive_defaults(&self) -> impl Iterator<Item = Warning> {
        let said = |spanned: &Option<Spanned<bool>>| spanned.as_ref().is_some_and(|spanned| spanned.value);
        let options = [
            (
                said(&self.defaults.insecure),
                "insecure",
                "every registry that is not named is asked over plain http",
            ),
            (
                said(&self.defaults.tls.insecure_skip_verify),
                "tls.insecure_skip_verify",
                "every registry that is not named may show any certificate",
            ),
            (
                said(&self.defaults.allow_private),
                "allow_private",
                "every client may have addresses inside your network asked, by naming a registry there",
            ),
        ];
        let open = options.into_iter().filter(|(open, ..)| *open);
        open.map(|(_, key, why)| Warning {
            what: format!("defaults.{key} without whitelist_mode"),
            why: why.to_owned(),
        })
    }
}

/// Reads `text`. Errors are appended to `diagnostics`; valid values are returned.
pub(super) fn parse(
    path: &Path,
    text: &str,
    environment: Environment<'_>,
    diagnostics: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Warning>,
) -> File {
    let mut reader = Reader::new(path, environment);
    let mut file = File::default();
    match yaml::parse(text) {
        Ok(document) => reader.document(document, &mut file),
        Err(broken) => {
            let why = format!("not YAML we can read: {}", broken.why);
            reader.record_error_at(broken.line, "", &why);
        }
    }
    diagnostics.append(&mut reader.diagnostics);
    warnings.append(&mut reader.warnings);
    file.holds_secret = reader.holds_secret;
    file
}

impl Reader<'_> {
    fn document(&mut self, document: Node, file: &mut File) {
        let line = document.line;
        let mut entries = Vec::new();
        match document.value {
            Value::Nothing => {}
            Value::Map(all) => entries = all,
            // The whole file may be the list of registries.
            Value::List(_) => file.registries = self.registries("", document),
            Value::Scalar(text) => self.record_error(line, "", &text, "accepted are `key: value` lines"),
        }
        let mut rest = Vec::new();
        for (key, node) in entries {
            match setting_of(&key.text) {
                Some(setting) => self.setting(setting, &key, node, &mut file.settings),
                None => rest.push((key, node)),
            }
        }
        let rest = self.known(rest);
        let mut fields = self.fields(
            "",
            Node {
                value: Value::Map(rest),
                line,
            },
            DOCUMENT,
        );
        self.port(&mut fields, &mut file.settings);
        if let Some(field) = fields.take("server_tls_config") {
            file.clients_by_system = self.server_tls(field, &mut file.settings);
        }
        if let Some(field) = fields.take("auth") {
            let Shape::Map(table) = field.spec.shape else {
                unreachable!("the table says that `auth` is a map")
            };
            file.client_auth = self.client_auth(Some(field), table, &mut file.settings);
        }
        file.allow = self.allow(fields.take("allow"));
        if let Some(field) = fields.take("defaults") {
            let mut fields = self.fields(&field.path, field.node, DEFAULTS);
            file.defaults = self.partial_registry(&mut fields);
            self.cache_dir(&mut fields, &mut file.settings);
        }
        if let Some(field) = fields.take("registries") {
            file.registries = self.registries(&field.path, field.node);
        }
        for entry in &mut file.registries {
            entry.partial = std::mem::take(&mut entry.partial).or(&file.defaults);
        }
    }

    /// Removes unknown keys and records an error for each. The suggestions come from all top-level tables.
    fn known(&mut self, entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
        let (known, unknown): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|(key, _)| schema_tables::find(DOCUMENT, &key.text).is_some());
        for (key, _) in unknown {
            if schema_tables::find(REGISTRY, &key.text).is_some() {
                let why = "unknown key here; it belongs into defaults or into an entry of registries";
                self.record_error(key.line, "", &key.text, why);
                continue;
            }
            let settings = Setting::ALL.into_iter().flat_map(spellings);
            let words: Vec<String> = settings
                .chain(DOCUMENT.iter().flat_map(KeySpec::spellings))
                .collect();
            let why = match super::suggest::nearest(&key.text, words.iter().map(String::as_str)) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => {
                    let settings = Setting::ALL.into_iter().filter_map(Setting::key);
                    let known: Vec<_> = settings
                        .chain(["auth", "allow", "defaults", "registries"])
                        .collect();
                    format!("unknown key; known are {}", known.join(", "))
                }
            };
            self.record_error(key.line, "", &key.text, &why);
        }
        known
    }

    fn setting(&mut self, setting: Setting, key: &Key, node: Node, settings: &mut Layer) {
        let line = node.line;
        let text = match node.value {
            Value::Nothing => return,
            Value::Scalar(text) => text,
            Value::List(items) if setting == Setting::ListenAddr => {
                let texts = items.into_iter().map(|item| item.value.shown());
                texts.collect::<Vec<_>>().join(",")
            }
            other => return self.record_error(line, &key.text, &other.shown(), "accepted is a single value"),
        };
        self.give(setting, Spanned { value: text, line }, &key.text, settings);
    }

    /// Puts a value into the file's layer, once.
    pub(super) fn give(
        &mut self,
        setting: Setting,
        spanned: Spanned<String>,
        key: &str,
        settings: &mut Layer,
    ) {
        if settings.find(setting).is_some() {
            let why = format!(
                "says the same as {}, which is said already",
                setting.key().unwrap_or_default()
            );
            return self.record_error_at(spanned.line, key, &why);
        }
        let place = self.place(spanned.line, key);
        settings.insert(
            setting,
            Given {
                text: spanned.value,
                place,
            },
        );
    }

    /// `port`, and `host` with it, are other words for the address to listen on.
    fn port(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let host = fields.take("host").and_then(|field| {
            let path = field.path.clone();
            self.text(field).map(|spanned| (spanned, path))
        });
        let port = fields.take("port");
        let key = port.as_ref().map_or_else(String::new, |field| field.path.clone());
        let port = self.parsed(port, |text| {
            text.parse::<u16>()
                .map_err(|_| "accepted is a number up to 65535".to_owned())
        });
        match (host, port) {
            (host, Some(port)) => {
                let host = match host.map(|(spanned, _)| spanned.value) {
                    None => String::new(),
                    Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
                    Some(host) => host,
                };
                let text = port.map(|port| format!("{host}:{port}"));
                self.give(Setting::ListenAddr, text, &key, settings);
            }
            (Some((spanned, path)), None) if key.is_empty() => {
                self.record_error(
                    spanned.line,
                    &path,
                    &spanned.value,
                    "needs port; or say both in listen_addr",
                );
            }
            _ => {}
        }
    }

    fn cache_dir(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let Some(field) = fields.take("cache_dir") else {
            return;
        };
        let path = field.path.clone();
        if let Some(spanned) = self.text(field) {
            self.give(Setting::FsRoot, spanned, &path, settings);
        }
    }

    fn registries(&mut self, path: &str, node: Node) -> Vec<Entry> {
        let mut entries = Vec::new();
        // Where each name was said first.
        let mut names = HashMap::new();
        match node.value {
            Value::Nothing => {}
            Value::List(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    let entry = self.entry(&format!("{path}[{index}]"), None, item, &mut names);
                    entries.extend(entry);
                }
            }
            Value::Map(items) => {
                for (name, item) in items {
                    let path = below(path, &name.text);
                    let entry = self.entry(&path, Some(name), item, &mut names);
                    entries.extend(entry);
                }
            }
            Value::Scalar(text) => {
                let why = "accepted is a list of maps with a name, or a map by name";
                self.record_error(node.line, path, &text, why);
            }
        }
        entries
    }

    fn entry(
        &mut self,
        path: &str,
        name: Option<Key>,
        node: Node,
        names: &mut HashMap<RegistryName, u64>,
    ) -> Option<Entry> {
        let line = node.line;
        if let (Value::Scalar(_) | Value::List(_), true) = (&node.value, name.is_none()) {
            self.record_error(line, path, &node.value.shown(), "accepted is a map with a name");
            return None;
        }
        let before = self.diagnostics.len();
        let mut fields = self.fields(path, node, REGISTRY);
        let inner = fields.take("name");
        let mut partial = self.partial_registry(&mut fields);
        let allow = self.allow_here(fields.take("allow"));
        let (line, text, path) = match (name, inner) {
            (Some(key), None) => (key.line, key.text, path.to_owned()),
            (Some(_), Some(Field { node, path, .. })) => {
                self.record_error_at(node.line, &path, "the key above is the name already");
                return None;
            }
            (None, Some(field)) => {
                let path = field.path.clone();
                let spanned = self.text(field)?;
                (spanned.line, spanned.value, path)
            }
            (None, None) => {
                self.record_error_at(line, path, "a registry needs a name, `host` or `host:port`");
                return None;
            }
        };
        let name = match parse_name(&text) {
            Ok(name) => name,
            Err(why) => {
                self.record_error(line, &path, &text, &why);
                return None;
            }
        };
        if let Some(first) = names.get(&name) {
            let why = format!("this registry is named twice, in line {first} too");
            self.record_error(line, &path, &text, &why);
            return None;
        }
        names.insert(name.clone(), line);
        // A name does not keep the port of https; where plain http is spoken at it, the URL does.
        let plain = partial.insecure.as_ref().is_some_and(|insecure| insecure.value);
        if plain && partial.url.is_none() && text.ends_with(":443") {
            let url = parse_url(&format!("http://{text}")).ok();
            partial.url = url.map(|value| Spanned { value, line });
        }
        (self.diagnostics.len() == before).then_some(Entry {
            name: Spanned { value: name, line },
            partial,
            allow,
        })
    }
}

/// The setting that a key of the file spells.
fn setting_of(written: &str) -> Option<Setting> {
    Setting::ALL
        .into_iter()
        .find(|setting| spellings(*setting).any(|spelling| spelling == written))
}

/// The spellings of a setting's key.
pub(super) fn spellings(setting: Setting) -> impl Iterator<Item = String> {
    let words = setting.key().into_iter().chain(
        match setting.key() {
            Some(_) => setting.key_aliases(),
            None => &[],
        }
        .iter()
        .copied(),
    );
    words.flat_map(|word| {
        let camel = schema_tables::camel_case(word);
        let other = (camel != word).then_some(camel);
        std::iter::once(word.to_owned()).chain(other)
    })
}
