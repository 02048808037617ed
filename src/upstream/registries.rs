//! The registry table of one configuration: the registries, their mirrors, and the clients for
//! each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Semaphore;

use super::auth::credential_source::CredentialSource;
use super::auth::token::Tokens;
use super::client::{Client, ClientBuilder};
use super::endpoint::{Endpoint, EndpointClients, base_url, check_base};
use super::error::{BuildError, Refusal, UpstreamError};
use super::lookups::Lookups;
use super::policy::Policy;
use super::proxy::Routes;
use super::tls::{Peer, TlsBuilder};
use super::{Options, Target};
use crate::config::{
    FollowRedirects, Mirror, Named, ProxyEnvironment, Registries, RegistryConfig, RegistryName,
    RegistrySettings,
};
use crate::oci::{Namespace, Reference};
use crate::sync::Mutex;

/// All registries under one configuration.
pub(super) struct RegistryTable {
    pub registries: Arc<Registries>,
    exact: HashMap<Namespace, Arc<RegistryEntry>>,
    /// Sorted by length of the suffix, longest first.
    suffixes: Vec<(RegistryName, Arc<RegistryEntry>)>,
    /// Docker Hub without an entry. Has the settings of unlisted registries, but its own
    /// connections, lookups and limits.
    docker_hub: Arc<RegistryEntry>,
    /// All other registries. Connects to public addresses only, unless the operator allows private
    /// addresses.
    unlisted: Arc<RegistryEntry>,
}

/// The shared state of the registries of one configuration entry.
pub(super) struct RegistryEntry {
    settings: RegistrySettings,
    named: Named,
    /// The endpoint of the registry, without the parts that depend on the name.
    template: Template,
    mirrors: Vec<MirrorEndpoint>,
    pub credentials: CredentialSource,
    pub tokens: Tokens,
    /// Slots for requests in flight. `None` without a limit.
    pub slots: Option<Arc<Semaphore>>,
}

struct Template {
    policy: Policy,
    clients: EndpointClients,
    routes: Routes,
    realm_hosts: Arc<[Box<str>]>,
}

/// A mirror of the registries of one entry.
pub(super) struct MirrorEndpoint {
    pull: bool,
    resolve: bool,
    endpoint: Endpoint,
    /// The end of the cool-down after a failure. The mirror gets no requests before.
    cooling_until: Mutex<Option<Instant>>,
}

/// How long a failed mirror is skipped. Each request to a silent mirror costs seconds.
const MIRROR_COOLDOWN: Duration = Duration::from_secs(5);

impl RegistryTable {
    /// Builds the table and reads the system's root certificates. Unchanged entries of `before` are
    /// reused with their connections, credentials and limits.
    pub fn build(
        registries: Arc<Registries>,
        proxies: &ProxyEnvironment,
        options: &Options,
        before: Option<&RegistryTable>,
    ) -> Result<Self, BuildError> {
        let builder = Builder {
            tls: TlsBuilder::new(),
            options,
            proxies,
        };
        let mut exact = HashMap::new();
        let mut suffixes = Vec::new();
        for config in &registries.entries {
            let known = before.and_then(|before| before.entry_named(&config.name));
            let twice = || BuildError::Registry {
                name: config.name.to_string(),
                reason: "the registry is configured twice",
            };
            let entry = builder.entry(config, known)?;
            match &config.name {
                RegistryName::Exact(name) => {
                    if exact.insert(name.clone(), entry).is_some() {
                        return Err(twice());
                    }
                }
                suffix => {
                    if suffixes.iter().any(|(known, _)| known == suffix) {
                        return Err(twice());
                    }
                    suffixes.push((suffix.clone(), entry));
                }
            }
        }
        suffixes.sort_by_key(|(name, _)| std::cmp::Reverse(name.to_string().len()));
        let unlisted = |known: Option<&Arc<RegistryEntry>>, lookups: Lookups| match known {
            Some(known) if known.settings == registries.unlisted => Ok(known.clone()),
            _ => builder.build("(not listed)", &registries.unlisted, None, Named::No, lookups),
        };
        let resolver = &options.resolver;
        Ok(RegistryTable {
            docker_hub: unlisted(
                before.map(|before| &before.docker_hub),
                Lookups::of_entry(resolver.clone()),
            )?,
            unlisted: unlisted(
                before.map(|before| &before.unlisted),
                Lookups::of_unlisted(resolver.clone()),
            )?,
            registries,
            exact,
            suffixes,
        })
    }

    /// Returns the entry of `namespace`.
    pub fn entry(&self, namespace: &Namespace) -> &Arc<RegistryEntry> {
        self.exact
            .get(namespace)
            .or_else(|| {
                let fits = self.suffixes.iter().find(|(name, _)| name.covers(namespace));
                fits.map(|(_, entry)| entry)
            })
            .unwrap_or(match namespace.is_docker_hub() {
                true => &self.docker_hub,
                false => &self.unlisted,
            })
    }

    /// Returns `endpoint` with the policy of unlisted registries, for anonymous requests.
    pub fn as_unlisted(&self, endpoint: &Endpoint) -> Endpoint {
        self.unlisted
            .template
            .endpoint(endpoint.base.clone(), false, None)
    }

    fn entry_named(&self, name: &RegistryName) -> Option<&Arc<RegistryEntry>> {
        match name {
            RegistryName::Exact(namespace) => self.exact.get(namespace),
            suffix => {
                let known = self.suffixes.iter().find(|(known, _)| known == suffix);
                known.map(|(_, entry)| entry)
            }
        }
    }
}

impl RegistryEntry {
    /// Returns the endpoint of the registry `namespace`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Refused`] for addresses, ports and names without a dot, unless they are
    /// configured.
    pub fn registry(&self, namespace: &Namespace) -> Result<Endpoint, UpstreamError> {
        let refused = |reason| UpstreamError::Refused {
            host: namespace.as_str().into(),
            reason,
        };
        let (base, ns) = match &self.settings.url {
            Some(url) if self.named == Named::Exactly => (url.clone(), None),
            // An endpoint for many registries needs the name of the requested registry.
            Some(url) => (url.clone(), Some(namespace.clone())),
            // A namespace is a valid host and port. If the URL parser rejects the host, it is not a
            // host name.
            None => {
                let base =
                    base_url(namespace, self.settings.insecure).map_err(|()| refused(Refusal::Host))?;
                (base, None)
            }
        };
        self.template.policy.check_url(&base).map_err(refused)?;
        let certified = self.settings.tls.client.is_some();
        Ok(self.template.endpoint(base, certified, ns))
    }

    /// Returns the mirrors for `target`, in order.
    pub fn mirrors(&self, target: &Target) -> impl Iterator<Item = &MirrorEndpoint> {
        let by_tag = matches!(target, Target::Manifest(Reference::Tag(_)));
        self.mirrors
            .iter()
            .filter(move |mirror| if by_tag { mirror.resolve } else { mirror.pull })
    }

    /// Returns whether clients follow redirects to other origins themselves.
    pub fn passes_redirects(&self) -> bool {
        self.settings.follow_redirects == FollowRedirects::Pass
    }
}

impl Template {
    fn endpoint(&self, base: Url, certified: bool, ns: Option<Namespace>) -> Endpoint {
        Endpoint {
            base,
            policy: self.policy.clone(),
            clients: self.clients.clone(),
            routes: self.routes.clone(),
            realm_hosts: self.realm_hosts.clone(),
            certified,
            ns,
            joins_traces: false,
        }
    }
}

/// Domains of public registries that also serve as mirrors. Their operators get no `traceparent`.
const PUBLIC_SERVICES: [&str; 10] = [
    "amazonaws.com",
    "azurecr.io",
    "docker.com",
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "k8s.io",
    "mcr.microsoft.com",
    "pkg.dev",
    "quay.io",
];

/// Returns whether the host of a mirror belongs to a public registry.
fn is_public_service(mirror: &Url) -> bool {
    let host = mirror.host_str().unwrap_or_default().trim_end_matches('.');
    PUBLIC_SERVICES.iter().any(|domain| {
        let below = host.strip_suffix(domain);
        below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
    })
}

impl MirrorEndpoint {
    fn new(mirror: &Mirror, policy: Policy, client: Client, routes: Routes) -> Self {
        let template = Template {
            policy,
            clients: EndpointClients {
                own: client.clone(),
                elsewhere: client,
            },
            routes,
            realm_hosts: Arc::default(),
        };
        MirrorEndpoint {
            pull: mirror.pull,
            resolve: mirror.resolve,
            endpoint: Endpoint {
                joins_traces: !is_public_service(&mirror.url),
                ..template.endpoint(mirror.url.clone(), false, None)
            },
            cooling_until: Mutex::default(),
        }
    }

    /// Returns the mirror as an endpoint for the content of `namespace`.
    pub fn endpoint(&self, namespace: &Namespace) -> Endpoint {
        Endpoint {
            ns: Some(namespace.clone()),
            ..self.endpoint.clone()
        }
    }

    /// Returns the base URL.
    pub fn base(&self) -> Arc<str> {
        self.endpoint.base.as_str().into()
    }

    /// Returns whether the mirror is skipped at `now`.
    pub fn is_cooling_down(&self, now: Instant) -> bool {
        self.cooling_until.lock().is_some_and(|until| now < until)
    }

    /// Skips the mirror from `now` on, for [`MIRROR_COOLDOWN`].
    pub fn cool_down(&self, now: Instant) {
        *self.cooling_until.lock() = Some(now + MIRROR_COOLDOWN);
    }
}

/// Builds registry entries.
struct Builder<'a> {
    tls: TlsBuilder,
    options: &'a Options,
    proxies: &'a ProxyEnvironment,
}

impl Builder<'_> {
    fn entry(
        &self,
        config: &RegistryConfig,
        known: Option<&Arc<RegistryEntry>>,
    ) -> Result<Arc<RegistryEntry>, BuildError> {
        if let Some(known) = known.filter(|known| known.settings == config.settings) {
            return Ok(known.clone());
        }
        let (named, namespace) = match &config.name {
            RegistryName::Exact(namespace) => (Named::Exactly, Some(namespace)),
            RegistryName::Suffix(_) => (Named::BySuffix, None),
        };
        let lookups = Lookups::of_entry(self.options.resolver.clone());
        self.build(
            &config.name.to_string(),
            &config.settings,
            namespace,
            named,
            lookups,
        )
    }

    /// `namespace` is the registry of the entry, or `None` if the entry covers several registries.
    fn build(
        &self,
        name: &str,
        settings: &RegistrySettings,
        namespace: Option<&Namespace>,
        named: Named,
        lookups: Lookups,
    ) -> Result<Arc<RegistryEntry>, BuildError> {
        let wrong = |reason| BuildError::Registry {
            name: name.to_owned(),
            reason,
        };
        let policy = policy_of(settings, namespace).map_err(wrong)?;
        let routes = Routes::new(&settings.proxy, self.proxies).map_err(wrong)?;
        let clients = ClientBuilder {
            lookups,
            deadlines: self.options.deadlines,
        };
        let client = |policy: &Policy, peer| {
            let tls = self
                .tls
                .config(&settings.tls, peer)
                .map_err(|unusable| BuildError::Pem {
                    name: name.to_owned(),
                    file: unusable.file,
                    reason: unusable.reason,
                })?;
            Ok::<_, BuildError>(clients.build(policy.clone(), tls, &routes)?)
        };
        let own = client(&policy, Peer::Registry)?;
        let clients = EndpointClients {
            // Without its own CA and client certificate, the registry needs no separate client.
            elsewhere: if settings.tls.ca.is_none() && settings.tls.client.is_none() {
                own.clone()
            } else {
                client(&policy, Peer::Elsewhere)?
            },
            own,
        };

        let mirror = |mirror: &Mirror| {
            check_base(&mirror.url).map_err(|_| wrong("a mirror has an invalid url"))?;
            let policy = Policy::written(&mirror.url, settings.allow_private.unwrap_or(true));
            let client = client(&policy, Peer::Elsewhere)?;
            Ok::<_, BuildError>(MirrorEndpoint::new(mirror, policy, client, routes.clone()))
        };
        let mirrors = settings.mirrors.iter().map(mirror).collect::<Result<_, _>>()?;
        Ok(Arc::new(RegistryEntry {
            settings: settings.clone(),
            named,
            template: Template {
                policy,
                clients,
                routes,
                realm_hosts: settings.realm_hosts.iter().cloned().collect(),
            },
            mirrors,
            credentials: CredentialSource::new(&settings.auth).map_err(wrong)?,
            tokens: Tokens::default(),
            slots: settings
                .max_concurrency
                .map(|max| Arc::new(Semaphore::new(max.get()))),
        }))
    }
}

/// Returns the policy for the addresses of a registry. `namespace` is `None` for an entry that covers
/// several registries.
fn policy_of(settings: &RegistrySettings, namespace: Option<&Namespace>) -> Result<Policy, &'static str> {
    let written = match (&settings.url, namespace) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(namespace)) => {
            Some(base_url(namespace, settings.insecure).map_err(|()| "its name is not a host")?)
        }
        (None, None) => None,
    };
    match &written {
        Some(url) => {
            check_base(url)?;
            Ok(Policy::written(url, settings.allow_private.unwrap_or(true)))
        }
        None => Ok(Policy::public()
            .with_plain_http(settings.insecure)
            .with_local(settings.allow_private.unwrap_or(false))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(
        entries: &[(&str, RegistrySettings)],
        unlisted: RegistrySettings,
    ) -> Result<RegistryTable, BuildError> {
        let entries = entries.iter().map(|(name, settings)| RegistryConfig {
            name: match name.strip_prefix('*') {
                Some(suffix) => RegistryName::Suffix(suffix.into()),
                None => RegistryName::Exact(name.parse().unwrap()),
            },
            settings: settings.clone(),
        });
        let registries = Registries {
            entries: entries.collect(),
            unlisted,
            ..Registries::default()
        };
        RegistryTable::build(
            registries.into(),
            &ProxyEnvironment::default(),
            &Options::default(),
            None,
        )
    }

    fn place(table: &RegistryTable, name: &str) -> Option<String> {
        let namespace = name.parse().unwrap();
        let endpoint = table.entry(&namespace).registry(&namespace).ok()?;
        let target = Target::Manifest(Reference::Tag("1.0".parse().unwrap()));
        Some(
            endpoint
                .url(&"library/nginx".parse().unwrap(), &target)
                .to_string(),
        )
    }

    fn at(url: &str) -> RegistrySettings {
        RegistrySettings {
            url: Some(url.parse().unwrap()),
            ..RegistrySettings::default()
        }
    }

    fn insecure() -> RegistrySettings {
        RegistrySettings {
            insecure: true,
            ..RegistrySettings::default()
        }
    }

    const REST: &str = "v2/library/nginx/manifests/1.0";
    const HUB: &str = "https://registry-1.docker.io/v2/library/nginx/manifests/1.0";

    #[test]
    fn unlisted_registry_is_reached_only_by_a_public_name() {
        let table = table(&[], RegistrySettings::default()).unwrap();
        assert_eq!(place(&table, "docker.io").as_deref(), Some(HUB));
        assert_eq!(place(&table, "ghcr.io"), Some(format!("https://ghcr.io/{REST}")));
        for refused in [
            "localhost",
            "localhost:5000",
            "ghcr.io:5000",
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "[::1]",
            "registry",
            "8.8.8.8",
        ] {
            assert_eq!(place(&table, refused), None, "{refused}");
        }
    }

    #[test]
    fn a_named_registry_is_where_its_name_or_its_configuration_says() {
        for (name, settings, expected) in [
            (
                "localhost:5000",
                insecure(),
                format!("http://localhost:5000/{REST}"),
            ),
            ("r.lan", insecure(), format!("http://r.lan/{REST}")),
            (
                "r.lan",
                RegistrySettings::default(),
                format!("https://r.lan/{REST}"),
            ),
            ("docker.io", RegistrySettings::default(), HUB.to_owned()),
            (
                "a.lan",
                at("http://10.0.0.1:81/"),
                format!("http://10.0.0.1:81/{REST}"),
            ),
            (
                "a.lan",
                at("https://b.lan/prefix/"),
                format!("https://b.lan/prefix/{REST}"),
            ),
        ] {
            let table = table(&[(name, settings)], RegistrySettings::default()).unwrap();
            assert_eq!(place(&table, name), Some(expected));
        }
        for bad in [
            "ftp://a.lan",
            "https://a.lan/?q",
            "https://a.lan/#f",
            "https://u:p@a.lan/",
            "unix:/run/x",
        ] {
            assert!(
                table(&[("a.lan", at(bad))], RegistrySettings::default()).is_err(),
                "{bad}"
            );
        }
        let twice = [("docker.io", insecure()), ("index.docker.io", insecure())];
        assert!(matches!(
            table(&twice, RegistrySettings::default()),
            Err(BuildError::Registry { .. })
        ));
    }

    #[test]
    fn longest_matching_suffix_applies_to_all_names_below_it() {
        let private = RegistrySettings {
            allow_private: Some(true),
            ..insecure()
        };
        let entries = [
            ("*.lan", RegistrySettings::default()),
            ("*.inner.lan", private),
            ("*.far.lan", at("http://10.0.0.1:5000")),
            ("r.inner.lan", at("https://exact.lan")),
        ];
        let table = table(&entries, RegistrySettings::default()).unwrap();
        for (name, expected) in [
            ("r.lan", format!("https://r.lan/{REST}")),
            ("a.inner.lan", format!("http://a.inner.lan/{REST}")),
            ("r.inner.lan", format!("https://exact.lan/{REST}")),
            ("a.far.lan", format!("http://10.0.0.1:5000/{REST}?ns=a.far.lan")),
            ("inner.lan", format!("https://inner.lan/{REST}")),
        ] {
            assert_eq!(place(&table, name), Some(expected));
        }
        assert_eq!(place(&table, "r.lan:5000"), None, "a port that is not configured");
    }

    #[test]
    fn defaults_apply_to_unconfigured_registries() {
        let open = RegistrySettings {
            allow_private: Some(true),
            ..insecure()
        };
        let open = table(&[], open).unwrap();
        assert_eq!(
            place(&open, "localhost:5000"),
            Some(format!("http://localhost:5000/{REST}"))
        );
        let plain = table(&[], insecure()).unwrap();
        assert_eq!(
            place(&plain, "r.example"),
            Some(format!("http://r.example/{REST}"))
        );
        assert_eq!(place(&plain, "localhost:5000"), None);
        let through = table(&[], at("https://cache.example/all")).unwrap();
        assert_eq!(
            place(&through, "ghcr.io"),
            Some(format!("https://cache.example/all/{REST}?ns=ghcr.io"))
        );
    }

    #[test]
    fn mirror_of_a_public_registry_joins_no_trace() {
        for (url, is_public) in [
            ("https://mirror.gcr.io", true),
            ("https://quay.io./x", true),
            ("https://123.dkr.ecr.eu-west-1.amazonaws.com", true),
            ("https://mirror.corp.example", false),
            ("https://notgcr.io", false),
            ("http://10.0.0.1:5000", false),
        ] {
            assert_eq!(is_public_service(&url.parse().unwrap()), is_public, "{url}");
        }
    }

    #[test]
    fn mirrors_get_requests_for_their_targets_only() {
        let mirror = |url: &str, pull, resolve| crate::config::Mirror {
            url: url.parse().unwrap(),
            pull,
            resolve,
        };
        let settings = RegistrySettings {
            mirrors: vec![
                mirror("http://m1.lan", true, true),
                mirror("https://m2.lan/x", true, false),
                mirror("https://m3.lan", false, true),
            ],
            ..RegistrySettings::default()
        };
        let table = table(&[("r.lan", settings)], RegistrySettings::default()).unwrap();
        let namespace = "r.lan".parse().unwrap();
        let digest: crate::oci::Digest = format!("sha256:{}", "0a".repeat(32)).parse().unwrap();
        let hosts = |target: &Target| {
            let found = table.entry(&namespace).mirrors(target);
            found
                .map(|mirror| mirror.endpoint.base.host_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(hosts(&Target::Blob(digest)), ["m1.lan", "m2.lan"]);
        assert_eq!(
            hosts(&Target::Manifest(Reference::Digest(digest))),
            ["m1.lan", "m2.lan"]
        );
        assert_eq!(
            hosts(&Target::Manifest(Reference::Tag("v1".parse().unwrap()))),
            ["m1.lan", "m3.lan"]
        );
        let second = table
            .entry(&namespace)
            .mirrors(&Target::Blob(digest))
            .nth(1)
            .unwrap();
        let url = second
            .endpoint(&namespace)
            .url(&"a/b".parse().unwrap(), &Target::Blob(digest));
        assert_eq!(
            url.as_str(),
            format!("https://m2.lan/x/v2/a/b/blobs/{digest}?ns=r.lan")
        );
    }

    #[test]
    fn entries_that_did_not_change_go_on_after_a_reload() {
        let before = table(
            &[("a.lan", insecure()), ("b.lan", insecure())],
            RegistrySettings::default(),
        )
        .unwrap();
        let mut registries = (*before.registries).clone();
        registries.entries[1].settings.insecure = false;
        let after = RegistryTable::build(
            registries.into(),
            &ProxyEnvironment::default(),
            &Options::default(),
            Some(&before),
        )
        .unwrap();
        let same = |name: &str| {
            let namespace = name.parse().unwrap();
            Arc::ptr_eq(before.entry(&namespace), after.entry(&namespace))
        };
        assert!(same("a.lan") && !same("b.lan") && same("elsewhere.example") && same("docker.io"));
    }
}
