//! The settings of a registry in the file, before the defaults are applied.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use reqwest::Url;

use super::super::model::{
    Access, AllowRule, Auth, FollowRedirects, Mirror, Proxy, RegistryConfig, RegistryName, RegistrySettings,
    SizeBound, TagRule,
};
use super::reader::Spanned;
use super::registry_auth::PartialAuth;
use super::registry_tls::PartialTls;

/// The settings of a registry. `None` means absent in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct PartialRegistry {
    pub url: Option<Spanned<Url>>,
    pub mirrors: Option<Spanned<Vec<Mirror>>>,
    pub insecure: Option<Spanned<bool>>,
    pub auth: Option<Spanned<PartialAuth>>,
    pub tls: PartialTls,
    pub proxy: Option<Spanned<Proxy>>,
    pub follow_redirects: Option<Spanned<bool>>,
    pub realm_hosts: Option<Spanned<Vec<Box<str>>>>,
    pub allow_private: Option<Spanned<bool>>,
    pub access: Option<Spanned<Access>>,
    pub tag_rules: Option<Spanned<Vec<TagRule>>>,
    pub platforms: Option<Spanned<Vec<String>>>,
    pub max_concurrency: Option<Spanned<NonZeroUsize>>,
    pub cache_max_size: Option<Spanned<Option<SizeBound>>>,
    pub cache_dir: Option<Spanned<PathBuf>>,
}

/// A registry with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct PartialEntry {
    pub name: Spanned<RegistryName>,
    pub partial: PartialRegistry,
    /// The access rules of this registry.
    pub allow: Option<Spanned<Vec<AllowRule>>>,
}

impl PartialRegistry {
    /// Replaces absent settings by `defaults`. Credentials and lists are never merged.
    pub(super) fn or(self, defaults: &PartialRegistry) -> PartialRegistry {
        PartialRegistry {
            url: self.url,
            mirrors: self.mirrors,
            insecure: self.insecure.or_else(|| defaults.insecure.clone()),
            auth: self.auth.or_else(|| defaults.auth.clone()),
            tls: self.tls.or(&defaults.tls),
            proxy: self.proxy.or_else(|| defaults.proxy.clone()),
            follow_redirects: self
                .follow_redirects
                .or_else(|| defaults.follow_redirects.clone()),
            realm_hosts: self.realm_hosts.or_else(|| defaults.realm_hosts.clone()),
            allow_private: self.allow_private.or_else(|| defaults.allow_private.clone()),
            access: self.access.or_else(|| defaults.access.clone()),
            tag_rules: self.tag_rules.or_else(|| defaults.tag_rules.clone()),
            platforms: self.platforms.or_else(|| defaults.platforms.clone()),
            max_concurrency: self.max_concurrency.or_else(|| defaults.max_concurrency.clone()),
            cache_max_size: self.cache_max_size.or_else(|| defaults.cache_max_size.clone()),
            // `defaults` has the directory of the default store under this key.
            cache_dir: self.cache_dir,
        }
    }

    /// Returns the settings for unnamed registries: without credentials and client certificates, because clients choose
    /// the unnamed registries.
    pub(in crate::config) fn without_secrets(&self) -> PartialRegistry {
        PartialRegistry {
            auth: None,
            tls: PartialTls {
                client: None,
                ..self.tls.clone()
            },
            ..self.clone()
        }
    }

    pub(in crate::config) fn settings(&self) -> RegistrySettings {
        fn value<T: Clone>(spanned: &Option<Spanned<T>>) -> Option<T> {
            spanned.as_ref().map(|spanned| spanned.value.clone())
        }
        RegistrySettings {
            mirrors: value(&self.mirrors).unwrap_or_default(),
            url: value(&self.url),
            insecure: value(&self.insecure).unwrap_or_default(),
            auth: self
                .auth
                .as_ref()
                .map_or(Auth::Anonymous, |spanned| spanned.value.auth.clone()),
            tls: self.tls.settings(),
            proxy: value(&self.proxy).unwrap_or_default(),
            follow_redirects: match value(&self.follow_redirects) {
                Some(false) => FollowRedirects::Pass,
                Some(true) | None => FollowRedirects::Follow,
            },
            realm_hosts: value(&self.realm_hosts).unwrap_or_default(),
            allow_private: value(&self.allow_private),
            access: value(&self.access),
            tag_rules: value(&self.tag_rules).unwrap_or_default(),
            platforms: value(&self.platforms).unwrap_or_default(),
            max_concurrency: value(&self.max_concurrency),
            cache_max_size: value(&self.cache_max_size).flatten(),
            cache_dir: value(&self.cache_dir),
        }
    }
}

impl PartialEntry {
    pub(in crate::config) fn config(&self) -> RegistryConfig {
        RegistryConfig {
            name: self.name.value.clone(),
            settings: self.partial.settings(),
        }
    }
}
