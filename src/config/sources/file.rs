//! The configuration file: YAML with known keys only. Each diagnostic has its line.
//!
//! [`super::yaml`] first parses the document into a small tree with positions. This module then checks the tree.
//! Deserialising into the final types directly would stop at the first error.

use std::path::Path;

use super::super::model::{AllowRule, PruneRuleConfig, WarmRuleConfig};
use super::super::options::Setting;
use super::super::value::Kind;
use super::client_auth::PartialClientAuth;
use super::diagnostics::{Diagnostic, Warning};
use super::environment::Environment;
use super::keys::{DEFAULTS, DOCUMENT, KeySpec, REGISTRY, setting_of, setting_spellings};
use super::layer::Layer;
use super::partial_registry::{PartialEntry, PartialRegistry};
use super::reader::{Fields, Reader, Spanned};
use super::suggest::nearest;
use super::yaml::{self, Key, Node, Value};
use crate::oci::Platform;

/// The content of the configuration file.
#[derive(Debug, Default)]
pub(in crate::config) struct File {
    /// Whether the file itself holds a secret.
    pub holds_secret: bool,
    pub settings: Layer,
    /// The named registries, with the defaults applied. Names are unique.
    pub registries: Vec<PartialEntry>,
    pub defaults: PartialRegistry,
    pub client_auth: PartialClientAuth,
    pub allow: Option<Spanned<Vec<AllowRule>>>,
    /// The rules of `prune` and `prune_config`.
    pub prune: Vec<Spanned<PruneRuleConfig>>,
    pub warm: Vec<Spanned<WarmRuleConfig>>,
    /// Whether the authorities of the system verify client certificates.
    pub clients_by_system: bool,
}

impl File {
    /// Returns a warning for each option of `defaults` that weakens protection for unnamed registries.
    pub(in crate::config) fn permissive_defaults(&self) -> impl Iterator<Item = Warning> {
        let is_on = |spanned: &Option<Spanned<bool>>| spanned.as_ref().is_some_and(|spanned| spanned.value);
        let options = [
            (
                is_on(&self.defaults.insecure),
                "insecure",
                "the cache uses plain http for every unnamed registry",
            ),
            (
                is_on(&self.defaults.tls.insecure_skip_verify),
                "tls.insecure_skip_verify",
                "the cache accepts any certificate of every unnamed registry",
            ),
            (
                is_on(&self.defaults.allow_private),
                "allow_private",
                "a client that names a registry in your network makes the cache connect there",
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
pub(in crate::config) fn parse(
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
            let why = format!("is not valid YAML: {}", broken.why);
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
            Value::Scalar(text) => self.record_error(line, "", &text, "expected `key: value` lines"),
        }
        let mut rest = Vec::new();
        for (key, node) in entries {
            match setting_of(&key.text) {
                Some(setting) => self.setting(setting, &key, node, &mut file.settings),
                None => rest.push((key, node)),
            }
        }
        let value = Value::Map(self.known(rest));
        let fields = self.fields("", Node { value, line }, DOCUMENT);
        self.structured(fields, file);
        for entry in &mut file.registries {
            entry.partial = std::mem::take(&mut entry.partial).or(&file.defaults);
        }
    }

    /// Reads the top-level keys besides the settings.
    fn structured(&mut self, mut fields: Fields, file: &mut File) {
        self.port(&mut fields, &mut file.settings);
        self.platform(&mut fields, &mut file.settings);
        if let Some(field) = fields.take("server_tls_config") {
            file.clients_by_system = self.server_tls(field, &mut file.settings);
        }
        if let Some(field) = fields.take("auth") {
            file.client_auth = self.client_auth(field, &mut file.settings);
        }
        file.allow = self.allow(fields.take("allow"));
        file.prune = self.prune(fields.take("prune"));
        file.warm = self.warm(fields.take("warm"));
        if let Some(field) = fields.take("prune_config") {
            file.prune.extend(self.prune_config(field));
        }
        if let Some(field) = fields.take("defaults") {
            let mut fields = self.fields(&field.path, field.node, DEFAULTS);
            file.defaults = self.partial_registry(&mut fields);
            self.store_directory(&mut fields, &mut file.settings);
        }
        if let Some(field) = fields.take("registries") {
            file.registries = self.registries(&field.path, field.node);
        }
    }

    /// Removes unknown keys and records an error for each. The suggestions come from all top-level tables.
    fn known(&mut self, entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
        let (known, unknown): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|(key, _)| DOCUMENT.find(&key.text).is_some());
        for (key, _) in unknown {
            if REGISTRY.find(&key.text).is_some() {
                let why = "unknown key here; set it in defaults or in an entry of registries";
                self.record_error(key.line, "", &key.text, why);
                continue;
            }
            let settings = Setting::ALL.into_iter().flat_map(setting_spellings);
            let words: Vec<String> = settings
                .chain(DOCUMENT.iter().flat_map(KeySpec::spellings))
                .collect();
            let why = match nearest(&key.text, words.iter().map(String::as_str)) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => {
                    let settings = Setting::ALL.into_iter().filter_map(Setting::key);
                    let known: Vec<_> = settings
                        .chain(["auth", "allow", "prune", "warm", "defaults", "registries"])
                        .collect();
                    format!("unknown key; expected one of {}", known.join(", "))
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
            Value::List(items) if matches!(setting.kind(), Kind::Addresses | Kind::Platforms) => {
                let texts = items.into_iter().map(|item| item.value.shown());
                texts.collect::<Vec<_>>().join(",")
            }
            other => return self.record_error(line, &key.text, &other.shown(), "expected a single value"),
        };
        self.give(setting, Spanned { value: text, line }, &key.text, settings);
    }

    /// Reads `port` and `host`, short forms of `listen_addr`.
    fn port(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let host = fields.take("host").and_then(|field| {
            let path = field.path.clone();
            self.text(field).map(|spanned| (spanned, path))
        });
        let port = fields.take("port");
        let key = port.as_ref().map_or_else(String::new, |field| field.path.clone());
        let port = self.parsed(port, |text| {
            text.parse::<u16>()
                .map_err(|_| format!("expected {}", Kind::Port.expected()))
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
                let why = "needs port; set port, or both in listen_addr";
                self.record_error(spanned.line, &path, &spanned.value, why);
            }
            _ => {}
        }
    }

    /// Reads `os` and `arch`, the form of `load_platforms` of ociregistry. The absent part is that of this
    /// machine.
    fn platform(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let mut take = |name| {
            let field = fields.take(name)?;
            let path = field.path.clone();
            self.text(field).map(|spanned| (spanned, path))
        };
        let (os, arch) = (take("os"), take("arch"));
        let Some((first, path)) = os.clone().or(arch.clone()) else {
            return;
        };
        let host = Platform::host().to_string();
        let (host_os, host_arch) = host.split_once('/').unwrap_or_default();
        let part = |given: Option<(Spanned<String>, String)>, host: &str| {
            given.map_or_else(|| host.to_owned(), |(spanned, _)| spanned.value)
        };
        let text = format!("{}/{}", part(os, host_os), part(arch, host_arch));
        self.give(Setting::LoadPlatforms, first.map(|_| text), &path, settings);
    }

    /// Reads the directory of the store in `defaults`, the place of oci-proxy.
    fn store_directory(&mut self, fields: &mut Fields, settings: &mut Layer) {
        let Some(field) = fields.take("cache_dir") else {
            return;
        };
        let path = field.path.clone();
        if let Some(spanned) = self.text(field) {
            self.give(Setting::FsRoot, spanned, &path, settings);
        }
    }
}
