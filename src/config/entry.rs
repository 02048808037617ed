//! One entry of `registries`, and `defaults`: what may be chosen for a registry, key by key.

use std::num::NonZeroUsize;

use reqwest::Url;

use super::partial_registry::PartialRegistry;
use super::reader::{Field, Fields, Reader, Spanned};
use super::registry::{Access, Mirror, RegistryName, TagFreshness};
use super::schema_tables::{self, MAX_CONCURRENCY_MAX, MIRROR, TAG_RULE};
use super::tag_rule::{TagPattern, TagRule};
use super::{proxy, units};
use crate::oci::Namespace;

impl Reader<'_> {
    /// Everything but the name.
    pub(super) fn partial_registry(&mut self, fields: &mut Fields) -> PartialRegistry {
        let mut tls = self.tls(fields.take("tls"));
        let skip_verify = fields.take("insecure_skip_verify");
        if let (Some(field), true) = (&skip_verify, tls.insecure_skip_verify.is_some()) {
            let (line, path) = (field.node.line, field.path.clone());
            self.record_error_at(line, &path, "is said in tls already");
        } else if skip_verify.is_some() {
            tls.insecure_skip_verify = self.switch(skip_verify);
        }
        let proxy = self.parsed(fields.take("upstream_proxy"), proxy::parse_choice);
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
            _ => Err("accepted is https or http".to_owned()),
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
            let pull = self
                .switch(fields.take("pull"))
                .is_none_or(|spanned| spanned.value);
            let resolve = self
                .switch(fields.take("resolve"))
                .is_none_or(|spanned| spanned.value);
            match url {
                Some(_) if !pull && !resolve => {
                    self.record_error_at(
                        place.line,
                        &place.value,
                        "is asked for nothing: neither pull nor resolve",
                    );
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
            _ => units::parse_duration(text)
                .map(TagFreshness::For)
                .ok_or_else(|| "accepted is always, never or a length of time".to_owned()),
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

/// Reads a registry's name: `host`, `host:port`, or `*.suffix`.
pub(super) fn parse_name(text: &str) -> Result<RegistryName, String> {
    const ACCEPTED: &str = "a registry is `host`, `host:port` or `*.suffix`";
    match text.strip_prefix("*.") {
        None => text
            .parse()
            .map(RegistryName::Exact)
            .map_err(|_| ACCEPTED.to_owned()),
        Some(domain) => match domain.parse::<Namespace>() {
            // The namespace of an alias is another name; only the check is wanted here.
            Ok(_) if !domain.contains([':', '[']) => Ok(RegistryName::Suffix(
                format!(".{}", domain.to_ascii_lowercase()).into(),
            )),
            Ok(_) => Err("a suffix has no port".to_owned()),
            Err(_) => Err(ACCEPTED.to_owned()),
        },
    }
}

pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    const ACCEPTED: &str = "accepted is http://host[:port][/path] or the same with https";
    let url = Url::parse(text).map_err(|_| ACCEPTED)?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(ACCEPTED.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the URL".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ACCEPTED.to_owned());
    }
    Ok(url)
}

fn parse_realm_host(text: &str) -> Result<Box<str>, String> {
    match text.parse::<Namespace>() {
        Ok(_) => Ok(text.to_ascii_lowercase().into()),
        Err(_) => Err("accepted is `host` or `host:port`".to_owned()),
    }
}

fn parse_access(text: &str) -> Result<Access, String> {
    match text {
        "verify" => Ok(Access::Verify),
        "shared" => Ok(Access::Shared),
        "passthrough" => Ok(Access::Passthrough),
        _ => Err(format!("accepted is {}", schema_tables::ACCESS.join(", "))),
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
        Err("accepted is os/arch or os/arch/variant".to_owned())
    }
}

fn parse_concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok();
    count
        .filter(|count| count.get() as u64 <= MAX_CONCURRENCY_MAX)
        .ok_or_else(|| format!("accepted is a number from 1 to {MAX_CONCURRENCY_MAX}"))
}
