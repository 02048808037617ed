//! The configuration file: YAML, every key known, every mistake with its line.
//!
//! The document is read into a small tree with positions first ([`super::yaml`]) and judged second. Deserialising into
//! the final types directly would stop at the first mistake.

use std::collections::HashMap;
use std::path::Path;

use super::Surroundings;
use super::allow::AllowRule;
use super::draft::{Draft, Entry};
use super::entry::{parse_name, parse_url};
use super::front::FrontDraft;
use super::key::{self, DEFAULTS, DOCUMENT, KeySpec, REGISTRY, Shape};
use super::mistake::{Mistake, Warning};
use super::reader::{Field, Fields, Reader, Told, below};
use super::registry::RegistryName;
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
    pub defaults: Draft,
    pub front: FrontDraft,
    pub allow: Option<Told<Vec<AllowRule>>>,
    /// Clients' certificates are verified by the system's authorities.
    pub clients_by_system: bool,
}

impl File {
    /// What `defaults` give up for registries that nobody named, and that is allowed and rarely meant.
    pub(super) fn open_doors(&self) -> impl Iterator<Item = Warning> {
        let said = |told: &Option<Told<bool>>| told.as_ref().is_some_and(|told| told.value);
        let doors = [
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
        let open = doors.into_iter().filter(|(open, ..)| *open);
        open.map(|(_, key, why)| Warning {
            what: format!("defaults.{key} without whitelist_mode"),
            why: why.to_owned(),
        })
    }
}

/// Reads `text`; what is wrong goes to `mistakes`, what is right is returned.
pub(super) fn parse(
    path: &Path,
    text: &str,
    surroundings: Surroundings<'_>,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Warning>,
) -> File {
    let mut reader = Reader::new(path, surroundings);
    let mut file = File::default();
    match yaml::parse(text) {
        Ok(document) => reader.document(document, &mut file),
        Err(broken) => {
            let why = format!("not YAML we can read: {}", broken.why);
            reader.note_unseen(broken.line, "", &why);
        }
    }
    mistakes.append(&mut reader.mistakes);
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
            Value::Scalar(text) => self.note(line, "", &text, "accepted are `key: value` lines"),
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
            file.front = self.front_auth(Some(field), table, &mut file.settings);
        }
        file.allow = self.allow(fields.take("allow"));
        if let Some(field) = fields.take("defaults") {
            let mut fields = self.fields(&field.path, field.node, DEFAULTS);
            file.defaults = self.draft(&mut fields);
            self.cache_dir(&mut fields, &mut file.settings);
        }
        if let Some(field) = fields.take("registries") {
            file.registries = self.registries(&field.path, field.node);
        }
        for entry in &mut file.registries {
            entry.draft = std::mem::take(&mut entry.draft).or(&file.defaults);
        }
    }

    /// Without the keys that nobody knows, after noting them: their suggestions come from all tables of the top.
    fn known(&mut self, entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
        let (known, unknown): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|(key, _)| key::find(DOCUMENT, &key.text).is_some());
        for (key, _) in unknown {
            if key::find(REGISTRY, &key.text).is_some() {
                let why = "unknown key here; it belongs into defaults or into an entry of registries";
                self.note(key.line, "", &key.text, why);
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
            self.note(key.line, "", &key.text, &why);
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
            other => return self.note(line, &key.text, &other.shown(), "accepted is a single value"),
        };
        self.give(setting, Told { value: text, line }, &key.text, settings);
    }

    /// Puts a value into the file's layer, once.
    pub(super) fn give(&mut self, setting: Setting, told: Told<String>, key: &str, settings: &mut Layer) {
        if settings.find(setting).is_some() {
            let why = format!(
                "says the same as {}, which is said already",
                setting.key().unwrap_or_default()
            );
            return self.note_unseen(told.line, key, &why);
        }
        let place = self.place(told.line, key);
        settings.insert(
            setting,
            Given {
                text: told.value,
                place,
            },
        );
    }

    /// `port`, and `host` with it, are other words for the address to listen on.
    fn port(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let host = fields.take("host").and_then(|field| {
            let path = field.path.clone();
            self.text(field).map(|told| (told, path))
        });
        let port = fields.take("port");
        let key = port.as_ref().map_or_else(String::new, |field| field.path.clone());
        let port = self.parsed(port, |text| {
            text.parse::<u16>()
                .map_err(|_| "accepted is a number up to 65535".to_owned())
        });
        match (host, port) {
            (host, Some(port)) => {
                let host = match host.map(|(told, _)| told.value) {
                    None => String::new(),
                    Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
                    Some(host) => host,
                };
                let text = port.map(|port| format!("{host}:{port}"));
                self.give(Setting::ListenAddr, text, &key, settings);
            }
            (Some((told, path)), None) if key.is_empty() => {
                self.note(
                    told.line,
                    &path,
                    &told.value,
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
        if let Some(told) = self.text(field) {
            self.give(Setting::FsRoot, told, &path, settings);
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
                self.note(node.line, path, &text, why);
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
            self.note(line, path, &node.value.shown(), "accepted is a map with a name");
            return None;
        }
        let before = self.mistakes.len();
        let mut fields = self.fields(path, node, REGISTRY);
        let inner = fields.take("name");
        let mut draft = self.draft(&mut fields);
        let allow = self.allow_here(fields.take("allow"));
        let (line, text, path) = match (name, inner) {
            (Some(key), None) => (key.line, key.text, path.to_owned()),
            (Some(_), Some(Field { node, path, .. })) => {
                self.note_unseen(node.line, &path, "the key above is the name already");
                return None;
            }
            (None, Some(field)) => {
                let path = field.path.clone();
                let told = self.text(field)?;
                (told.line, told.value, path)
            }
            (None, None) => {
                self.note_unseen(line, path, "a registry needs a name, `host` or `host:port`");
                return None;
            }
        };
        let name = match parse_name(&text) {
            Ok(name) => name,
            Err(why) => {
                self.note(line, &path, &text, &why);
                return None;
            }
        };
        if let Some(first) = names.get(&name) {
            let why = format!("this registry is named twice, in line {first} too");
            self.note(line, &path, &text, &why);
            return None;
        }
        names.insert(name.clone(), line);
        // A name does not keep the port of https; where plain http is spoken at it, the URL does.
        let plain = draft.insecure.as_ref().is_some_and(|insecure| insecure.value);
        if plain && draft.url.is_none() && text.ends_with(":443") {
            let url = parse_url(&format!("http://{text}")).ok();
            draft.url = url.map(|value| Told { value, line });
        }
        (self.mistakes.len() == before).then_some(Entry {
            name: Told { value: name, line },
            draft,
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
        let camel = key::camel_case(word);
        let other = (camel != word).then_some(camel);
        std::iter::once(word.to_owned()).chain(other)
    })
}
