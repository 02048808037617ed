//! Resolution of all sources into a [`Config`].

mod client_auth;
mod registry_stores;
mod s3;
mod server_tls;
mod storage;

use std::path::Path;

pub(super) use self::client_auth::ClientAuthOrigins;
use super::Config;
use super::model::{ListenAddr, Named, Registries, StorageConfig};
use super::options::{Setting, Values};
use super::sources::{
    self, Diagnostic, Diagnostics, Environment, File, Given, Layer, PartialEntry, Place, Warning,
    collect_rules, proxies_of_environment, systemd_of_environment, traces_of_environment,
};
use super::value::{Kind, parse_addresses};

/// Resolves the whole configuration: flag over environment over file over default.
///
/// An overridden value is not checked, so a flag can repair a broken environment. A variable that is set but empty
/// counts as absent, because compose files and unit files unset variables in this way.
///
/// # Errors
///
/// Returns all diagnostics of the configuration.
pub fn resolve(flags: Layer, environment: Environment<'_>) -> Result<Config, Diagnostics> {
    load(flags, environment).map(|(config, _)| config)
}

/// Resolves the configuration, and returns the sources too, for the places of the values.
pub(super) fn load<'a>(
    flags: Layer,
    environment: Environment<'a>,
) -> Result<(Config, Sources<'a>), Diagnostics> {
    let mut sources = Sources::load(flags, environment);
    let values = sources.values();
    let listen = sources.listen();
    let tls = sources.server_tls(&values);
    let proxies = proxies_of_environment(environment, &mut sources.diagnostics);
    let systemd = systemd_of_environment(environment, &mut sources.diagnostics);
    let traces = traces_of_environment(environment, &mut sources.diagnostics, &mut sources.warnings);
    let ca_bundle = sources.ca_bundle();
    let client_auth = sources.client_auth(&tls);
    sources.check_listen(listen.as_deref());
    sources.check_client_login(values.client_login);
    sources.check_legacy_admin(values.legacy_admin);

    let (Some(listen), Ok(tls), Ok(ca_bundle), true) =
        (listen, tls, ca_bundle, sources.diagnostics.is_empty())
    else {
        return Err(Diagnostics(sources.diagnostics));
    };
    // Last, because the search for a store root creates directories: a refused start leaves no trace.
    let storage = sources.storage(&values, ca_bundle);
    let registries = sources.registries(&values);
    sources.check_registry_stores(&storage, &registries);
    if !sources.diagnostics.is_empty() {
        return Err(Diagnostics(sources.diagnostics));
    }
    let prune: Vec<_> = sources.file.prune.iter().map(|rule| rule.value.clone()).collect();
    let warm: Vec<_> = sources.file.warm.iter().map(|rule| rule.value.clone()).collect();
    sources.add_warnings(&values, &storage, &registries, client_auth.is_some());
    let config = Config {
        values,
        listen,
        tls,
        storage,
        systemd,
        registries,
        proxies,
        traces,
        client_auth,
        prune,
        warm,
        warnings: std::mem::take(&mut sources.warnings),
    };
    Ok((config, sources))
}

/// Resolves the listen addresses only, for a command that connects to a running server. Other errors of the
/// configuration do not matter to such a command.
///
/// # Errors
///
/// Returns the diagnostics if the address, or the configuration file, cannot be read.
pub fn listen_addresses(flags: Layer, environment: Environment<'_>) -> Result<Vec<ListenAddr>, Diagnostics> {
    let mut sources = Sources::load(flags, environment);
    let listen = sources.listen();
    listen.ok_or(Diagnostics(sources.diagnostics))
}

/// The sources of values, with all diagnostics so far.
pub(super) struct Sources<'a> {
    flags: Layer,
    variables: Layer,
    pub file: File,
    pub client_auth_origins: ClientAuthOrigins,
    environment: Environment<'a>,
    diagnostics: Vec<Diagnostic>,
    warnings: Vec<Warning>,
    /// The settings with a recorded error.
    invalid: Vec<Setting>,
    /// The warning about the configuration file, for the case that the file holds a secret.
    exposed: Option<Warning>,
}

/// The outcome of a function that has recorded its error in the diagnostics.
#[derive(Debug)]
struct Recorded;

impl<'a> Sources<'a> {
    fn load(flags: Layer, environment: Environment<'a>) -> Self {
        let mut variables = Layer::default();
        for setting in Setting::ALL {
            if let Some(text) = (environment.env)(setting.env()).filter(|text| !text.is_empty()) {
                let place = Place::Environment(setting.env());
                variables.insert(setting, Given { text, place });
            }
        }
        let mut sources = Sources {
            flags,
            variables,
            file: File::default(),
            client_auth_origins: ClientAuthOrigins::default(),
            environment,
            diagnostics: Vec::new(),
            warnings: Vec::new(),
            invalid: Vec::new(),
            exposed: None,
        };
        if let Some(given) = sources.find(Setting::ConfigFile).cloned() {
            sources.read_file(&given);
        }
        sources
    }

    fn read_file(&mut self, given: &Given) {
        let path = Path::new(&given.text);
        match (self.environment.read_file)(path) {
            Ok(read) => {
                self.exposed = read.exposed(path);
                self.file = sources::parse(
                    path,
                    &read.text,
                    self.environment,
                    &mut self.diagnostics,
                    &mut self.warnings,
                );
            }
            Err(error) => self.record_setting_error(Setting::ConfigFile, &format!("cannot be read: {error}")),
        }
    }

    /// Returns the value of `setting` from the first source that has one.
    pub(super) fn find(&self, setting: Setting) -> Option<&Given> {
        self.flags
            .find(setting)
            .or_else(|| self.variables.find(setting))
            .or_else(|| self.file.settings.find(setting))
    }

    /// Parses every setting that has a field, and records errors. A setting with an error keeps its default.
    fn values(&mut self) -> Values {
        let mut values = Values::default();
        for setting in Setting::ALL {
            if let Some(given) = self.find(setting)
                && let Err(expected) = values.set(setting, given.text.trim())
            {
                self.record_setting_error(setting, &format!("expected {expected}"));
                self.invalid.push(setting);
            }
        }
        values
    }

    /// Returns an error if the value of `setting` is invalid.
    fn check_valid(&self, setting: Setting) -> Result<(), Recorded> {
        match self.invalid.contains(&setting) {
            true => Err(Recorded),
            false => Ok(()),
        }
    }

    fn listen(&mut self) -> Option<Vec<ListenAddr>> {
        let tls = self.wants_tls();
        let Some(given) = self.find(Setting::ListenAddr) else {
            let default = if tls {
                LISTEN_TLS_DEFAULT
            } else {
                Setting::ListenAddr.default_text()
            };
            return parse_addresses(default, tls);
        };
        let listen = parse_addresses(given.text.trim(), tls);
        if listen.is_none() {
            let expected = Kind::Addresses.expected();
            self.record_setting_error(Setting::ListenAddr, &format!("expected {expected}"));
        }
        listen
    }

    /// Checks that TLS is configured for an https address, and that an https address exists for configured TLS.
    fn check_listen(&mut self, listen: Option<&[ListenAddr]>) {
        let Some(listen) = listen else { return };
        let (wanted, any) = (self.wants_tls(), listen.iter().any(|addr| addr.tls));
        if any && !wanted {
            self.record_setting_error(
                Setting::ListenAddr,
                "https needs a certificate: TLS_CERT_FILE and TLS_KEY_FILE, or GENERATE_SELF_SIGNED_TLS",
            );
        }
        if wanted && !any {
            self.record_setting_error(
                Setting::ListenAddr,
                "TLS is configured, and no address here is for https",
            );
        }
    }

    /// Checks that clients send credentials either for the cache or for their registries.
    fn check_client_login(&mut self, client_login: bool) {
        if let Some(client_auth) = self.client_auth_place().filter(|_| client_login) {
            let why = format!(
                "conflicts with {client_auth}: a client has a single login, for the cache or for a registry; set one of them"
            );
            self.record_setting_error(Setting::ClientLogin, &why);
        }
    }

    /// Checks that only clients with a login can use the commands of ociregistry.
    fn check_legacy_admin(&mut self, legacy_admin: bool) {
        if legacy_admin && self.client_auth_place().is_none() {
            self.record_setting_error(
                Setting::LegacyAdmin,
                "needs client authentication, because its commands remove content and stop the cache; set AUTH_HTPASSWD_FILE, or AUTH_USERNAME with AUTH_PASSWORD_FILE, or `auth`",
            );
        }
    }

    fn registries(&self, values: &Values) -> Registries {
        Registries {
            entries: self.file.registries.iter().map(PartialEntry::config).collect(),
            unlisted: self.file.defaults.without_secrets().settings(),
            whitelist_mode: values.whitelist_mode,
            air_gapped: values.air_gapped,
            trust_existing: values.trust_existing,
            allow: collect_rules(self.file.allow.as_ref(), &self.file.registries),
        }
    }

    /// Adds the warnings that depend on several settings.
    fn add_warnings(
        &mut self,
        values: &Values,
        storage: &StorageConfig,
        registries: &Registries,
        has_client_auth: bool,
    ) {
        if storage.s3().is_some() {
            let exposed = s3::exposed_credentials(self.environment);
            self.warnings.extend(exposed);
        }
        if storage.root().is_none()
            && let Some(rule) = self.file.prune.first()
        {
            self.warnings.push(Warning {
                what: rule.value.place.clone(),
                why: "has no effect, because the store is a bucket; S3_LIFECYCLE_DAYS removes old content there"
                    .into(),
            });
        }
        if let Some(rule) = self.file.warm.first()
            && let Some(why) = no_warm_rules(values, storage, registries)
        {
            self.warnings.push(Warning {
                what: rule.value.place.clone(),
                why: why.into(),
            });
        }
        if !has_client_auth && registries.allow.names_users() {
            self.warnings.push(Warning {
                what: "allow names users".into(),
                why: "without auth, no client has a name, so no client matches these rules".into(),
            });
        }
        if values.whitelist_mode
            && let Some(default_registry) = &values.default_registry
            && registries.settings(default_registry).1 == Named::No
        {
            self.warnings.push(Warning {
                what: format!("whitelist_mode with default_registry {default_registry}"),
                why: "names without a registry do not exist, because that registry is not among registries"
                    .into(),
            });
        }
        if !values.whitelist_mode {
            self.warnings.extend(self.file.permissive_defaults());
        }
        if self.file.holds_secret {
            self.warnings.extend(self.exposed.take());
        }
    }

    /// Records an error of a setting, with the value as written.
    fn record_setting_error(&mut self, setting: Setting, why: &str) {
        let what = match self.find(setting) {
            Some(given) => given.place.with_value(&given.text),
            None => setting.env().to_owned(),
        };
        self.record_error(what, why);
    }

    fn record_error(&mut self, what: String, why: &str) {
        let why = why.to_owned();
        self.diagnostics.push(Diagnostic { what, why });
    }
}

/// Returns the reason why no rule of `warm` has an effect. `None` if the rules have an effect.
fn no_warm_rules(values: &Values, storage: &StorageConfig, registries: &Registries) -> Option<&'static str> {
    if storage.root().is_none() {
        return Some("has no effect, because the store is a bucket; use STORAGE_BACKEND=both, or fs");
    }
    if registries.air_gapped {
        return Some("has no effect, because air_gapped is set and no registry gets requests");
    }
    (!values.cache_tag_manifests)
        .then_some("has no effect, because CACHE_TAG_MANIFESTS=false and tags are not stored")
}

/// The default listen address with TLS.
const LISTEN_TLS_DEFAULT: &str = ":8443";

#[cfg(test)]
mod tests;
