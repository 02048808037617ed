//! What a file says about one registry, before the defaults are worked in.

use std::num::NonZeroUsize;

use reqwest::Url;

use super::allow::AllowRule;
use super::auth::PartialAuth;
use super::reader::Spanned;
use super::registry::{
    Access, Auth, FollowRedirects, Mirror, Proxy, RegistryConfig, RegistryName, RegistrySettings,
};
use super::tag_rule::TagRule;
use super::tls::PartialTls;

/// The settings of a registry as far as they are said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartialRegistry {
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
}

/// A registry with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: Spanned<RegistryName>,
    pub partial: PartialRegistry,
    /// Who may read what of it.
    pub allow: Option<Spanned<Vec<AllowRule>>>,
}

impl PartialRegistry {
    /// Fills in what is not said from `defaults`. Credentials and lists are taken as a whole or not at all.
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
        }
    }

    /// Without what is for named registries only: nobody decides what an unnamed one does with our secrets.
    pub(super) fn without_secrets(&self) -> PartialRegistry {
        PartialRegistry {
            auth: None,
            tls: PartialTls {
                client: None,
                ..self.tls.clone()
            },
            ..self.clone()
        }
    }

    pub(super) fn settings(&self) -> RegistrySettings {
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
        }
    }
}

impl Entry {
    pub(super) fn config(&self) -> RegistryConfig {
        RegistryConfig {
            name: self.name.value.clone(),
            settings: self.partial.settings(),
        }
    }
}
