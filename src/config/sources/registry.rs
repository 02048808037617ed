//! An entry of `registries`, and `defaults`: the settings of a registry, key by key.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use reqwest::Url;

use super::super::model::units::parse_duration;
use super::super::model::{Access, Mirror, RegistryName, TagFreshness, TagPattern, TagRule};
use super::super::value::{Kind, SIZE_OR_AUTO};
use super::keys::{ACCESS, MAX_CONCURRENCY_MAX, MIRROR, REGISTRY, REVALIDATE, SCHEMES, TAG_RULE};
use super::partial_registry::{PartialEntry, PartialRegistry};
use super::proxy::parse_choice;
use super::reader::{Field, Fields, Reader, Spanned, below};
use super::yaml::{Key, Node, Value};

impl Reader<'_> {
    /// Reads `registries`: a list of maps with a name, or a map by name.
    pub(super) fn registries(&mut self, path: &str, node: Node) -> Vec<PartialEntry> {
        let mut entries = Vec::new();
        // The line in which each name first occurs.
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
                let why = "expected a list of maps with a name, or a map by name";
                self.record_error(node.line, path, &text, why);
            }
        }
        entries
    }

    fn entry(
        &mut self,
        path: &str,
        key: Option<Key>,
        node: Node,
        names: &mut HashMap<RegistryName, u64>,
    ) -> Option<PartialEntry> {
        let line = node.line;
        if let (Value::Scalar(_) | Value::List(_), true) = (&node.value, key.is_none()) {
            self.record_error(line, path, &node.value.shown(), "expected a map with a name");
            return None;
        }
        let before = self.diagnostics.len();
        let mut fields = self.fields(path, node, REGISTRY);
        let inner = fields.take("name");
        let mut partial = self.partial_registry(&mut fields);
        partial.cache_dir = self.parsed(fields.take("cache_dir"), |text| Ok(PathBuf::from(text)));
        let allow = self.allow_here(fields.take("allow"));
        let (text, path) = self.entry_name(path, line, key, inner)?;
        let name = self.unique_name(&text, &path, names)?;
        // A name does not keep the port of https. For plain http, the URL therefore keeps the port.
        let plain = partial.insecure.as_ref().is_some_and(|insecure| insecure.value);
        if plain && partial.url.is_none() && text.value.ends_with(":443") {
            let url = parse_url(&format!("http://{}", text.value)).ok();
            partial.url = url.map(|value| Spanned {
                value,
                line: name.line,
            });
        }
        (self.diagnostics.len() == before).then_some(PartialEntry { name, partial, allow })
    }

    /// Returns the name of an entry as written, with its path: the key of the map, or the value of `name`.
    fn entry_name(
        &mut self,
        path: &str,
        line: u64,
        key: Option<Key>,
        inner: Option<Field>,
    ) -> Option<(Spanned<String>, String)> {
        match (key, inner) {
            (Some(Key { text, line }), None) => Some((Spanned { value: text, line }, path.to_owned())),
            (Some(_), Some(Field { node, path, .. })) => {
                self.record_error_at(node.line, &path, "the key above is the name already; remove name");
                None
            }
            (None, Some(field)) => {
                let path = field.path.clone();
                Some((self.text(field)?, path))
            }
            (None, None) => {
                self.record_error_at(line, path, "a registry needs a name, `host` or `host:port`");
                None
            }
        }
    }

    fn unique_name(
        &mut self,
        text: &Spanned<String>,
        path: &str,
        names: &mut HashMap<RegistryName, u64>,
    ) -> Option<Spanned<RegistryName>> {
        let line = text.line;
        let why = match RegistryName::parse(&text.value) {
            Err(why) => why,
            Ok(name) => match names.get(&name) {
                Some(first) => format!("this registry is named twice, in line {first} too"),
                None => {
                    names.insert(name.clone(), line);
                    return Some(Spanned { value: name, line });
                }
            },
        };
        self.record_error(line, path, &text.value, &why);
        None
    }

    /// Reads the settings of a registry, without the keys of a single registry.
    pub(super) fn partial_registry(&mut self, fields: &mut Fields) -> PartialRegistry {
        let mut tls = self.tls(fields.take("tls"));
        let skip_verify = fields.take("insecure_skip_verify");
        if let (Some(field), true) = (&skip_verify, tls.insecure_skip_verify.is_some()) {
            let (line, path) = (field.node.line, field.path.clone());
            self.record_error_at(line, &path, "is already set in tls");
        } else if skip_verify.is_some() {
            tls.insecure_skip_verify = self.switch(skip_verify);
        }
        let proxy = self.parsed(fields.take("upstream_proxy"), parse_choice);
        self.holds_secret |= proxy.as_ref().is_some_and(|spanned| spanned.value.has_password());
        PartialRegistry {
            url: self.parsed(fields.take("url"), parse_url),
            mirrors: self.mirrors(fields.take("mirrors")),
            insecure: self.insecure(fields),
            auth: self.auth(fields.take("auth")),
            tls,
            proxy,
            follow_redirects: self.switch(fields.take("follow_redirects")),
            realm_hosts: self.list(fields.take("realm_hosts"), parse_realm_host),
            allow_private: self.switch(fields.take("allow_private")),
            access: self.parsed(fields.take("access"), parse_access),
            tag_rules: self.tag_rules(fields.take("tag_rules")),
            platforms: self.list(fields.take("platforms"), parse_platform),
            max_concurrency: self.parsed(fields.take("max_concurrency"), parse_concurrency),
            cache_max_size: self.parsed(fields.take("cache_max_size"), |text| SIZE_OR_AUTO.read(text)),
            cache_dir: None,
        }
    }

    fn insecure(&mut self, fields: &mut Fields) -> Option<Spanned<bool>> {
        let scheme = fields.take("scheme");
        let insecure = self.switch(fields.take("insecure"));
        let Some(Field { path, .. }) = &scheme else {
            return insecure;
        };
        let path = path.clone();
        let scheme = self.parsed(scheme, |text| match text {
            "http" => Ok(true),
            "https" => Ok(false),
            _ => Err(expected(Kind::Word(SCHEMES))),
        });
        match (insecure, scheme) {
            (Some(insecure), Some(scheme)) if insecure.value != scheme.value => {
                self.record_error_at(scheme.line, &path, "contradicts insecure");
                None
            }
            (insecure, scheme) => insecure.or(scheme),
        }
    }

    fn mirrors(&mut self, field: Option<Field>) -> Option<Spanned<Vec<Mirror>>> {
        let maps = self.maps(field, MIRROR, Some("url"))?;
        let line = maps.line;
        let mut mirrors = Vec::new();
        for (place, mut fields) in maps.value {
            let before = self.diagnostics.len();
            let url = self.parsed(fields.take("url"), parse_url);
            let mut is_on = |name| {
                let switch = self.switch(fields.take(name));
                switch.is_none_or(|spanned| spanned.value)
            };
            let (pull, resolve) = (is_on("pull"), is_on("resolve"));
            match url {
                Some(_) if !pull && !resolve => {
                    let why = "has no use: pull and resolve are both off";
                    self.record_error_at(place.line, &place.value, why);
                }
                Some(url) => mirrors.push(Mirror {
                    url: url.value,
                    pull,
                    resolve,
                }),
                None if self.diagnostics.len() == before => {
                    self.record_error_at(place.line, &place.value, "a mirror needs a url");
                }
                None => {}
            }
        }
        Some(Spanned { value: mirrors, line })
    }

    fn tag_rules(&mut self, field: Option<Field>) -> Option<Spanned<Vec<TagRule>>> {
        let maps = self.maps(field, TAG_RULE, None)?;
        let line = maps.line;
        let rules = maps
            .value
            .into_iter()
            .filter_map(|(place, fields)| self.tag_rule(&place, fields));
        let rules = rules.collect();
        Some(Spanned { value: rules, line })
    }

    fn tag_rule(&mut self, place: &Spanned<String>, mut fields: Fields) -> Option<TagRule> {
        let before = self.diagnostics.len();
        let pattern = self.parsed(fields.take("pattern"), TagPattern::new);
        let ttl = self.duration(fields.take("ttl"));
        let revalidate = self.parsed(fields.take("revalidate"), |text| match text {
            "always" => Ok(TagFreshness::AlwaysAsk),
            "never" => Ok(TagFreshness::NeverAsk),
            _ => parse_duration(text)
                .map(TagFreshness::For)
                .ok_or_else(|| expected(Kind::WordOrDuration(REVALIDATE))),
        });
        let keep_on_404 = self
            .switch(fields.take("keep_on_404"))
            .is_some_and(|spanned| spanned.value);
        if self.diagnostics.len() > before {
            return None;
        }
        let freshness = match (ttl, revalidate) {
            (Some(ttl), None) => TagFreshness::For(ttl.value),
            (None, Some(revalidate)) => revalidate.value,
            _ => {
                self.record_error_at(place.line, &place.value, "a rule needs either ttl or revalidate");
                return None;
            }
        };
        let Some(pattern) = pattern else {
            self.record_error_at(place.line, &place.value, "a rule needs a pattern");
            return None;
        };
        Some(TagRule {
            pattern: pattern.value,
            freshness,
            keep_on_404,
        })
    }
}

fn expected(kind: Kind) -> String {
    format!("expected {}", kind.expected())
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| expected(Kind::Url))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(expected(Kind::Url));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong in the URL; set auth".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(expected(Kind::Url));
    }
    Ok(url)
}

fn parse_realm_host(text: &str) -> Result<Box<str>, String> {
    match text.parse::<crate::oci::Namespace>() {
        Ok(_) => Ok(text.to_ascii_lowercase().into()),
        Err(_) => Err("expected `host` or `host:port`".to_owned()),
    }
}

fn parse_access(text: &str) -> Result<Access, String> {
    match text {
        "verify" => Ok(Access::Verify),
        "shared" => Ok(Access::Shared),
        "passthrough" => Ok(Access::Passthrough),
        _ => Err(expected(Kind::Word(ACCESS))),
    }
}

fn parse_platform(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if matches!(parts.len(), 2 | 3) && parts.iter().all(plain) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected os/arch or os/arch/variant".to_owned())
    }
}

fn parse_concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok();
    count
        .filter(|count| count.get() as u64 <= MAX_CONCURRENCY_MAX)
        .ok_or_else(|| expected(Kind::Count(MAX_CONCURRENCY_MAX)))
}
