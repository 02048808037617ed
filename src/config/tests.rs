//! Tests of the file, from the text to the types.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::oci::Platforms;

mod diagnostics;

/// A machine with variables and files. `f.yaml` is the configuration file.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    pub env: HashMap<String, String>,
    pub files: HashMap<PathBuf, String>,
    pub flags: Layer,
    /// The mode of every file.
    pub mode: u32,
}

impl Machine {
    pub fn with_file(text: &str) -> Self {
        let mut machine = Machine::default().file("f.yaml", text);
        machine.env.insert("CONFIG_FILE".into(), "f.yaml".into());
        machine
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub fn with_environment<T>(&self, run: impl FnOnce(Layer, Environment<'_>) -> T) -> T {
        run(
            self.flags.clone(),
            Environment {
                env: &|name| self.env.get(name).cloned(),
                read_file: &|path| {
                    let text = self.files.get(path).cloned();
                    let text = text.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                    Ok(FileText {
                        text,
                        mode: self.mode,
                    })
                },
                is_writable_dir: &|path| path == Path::new("/data/oci-cache"),
                temp_dir: &|| PathBuf::from("/t"),
            },
        )
    }

    pub fn resolve(&self) -> Result<Config, Diagnostics> {
        self.with_environment(resolve)
    }

    #[track_caller]
    pub fn config(&self) -> Config {
        match self.resolve() {
            Ok(config) => config,
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }

    #[track_caller]
    pub fn diagnostics(&self) -> Vec<String> {
        let diagnostics = self.resolve().expect_err("the configuration has an error").0;
        diagnostics
            .into_iter()
            .map(|m| format!("{}: {}", m.what, m.why))
            .collect()
    }
}

pub(super) const CA: &str = include_str!("../../tests/fixtures/config/pki/ca.crt");
pub(super) const CERT: &str = include_str!("../../tests/fixtures/config/pki/client.crt");
pub(super) const KEY: &str = include_str!("../../tests/fixtures/config/pki/client.key");
pub(super) const OTHER_KEY: &str = include_str!("../../tests/fixtures/config/pki/other.key");

pub(super) const EVERYTHING: &str = r#"
default_registry: docker.io
whitelist_mode: true
air_gapped: true
always_pull_latest: true
stale_while_revalidate: 30s
registry_header: true
auth: {username: u, password: p}
defaults:
  upstream_proxy: none
  platforms: [linux/amd64]
registries:
  - name: registry.lan:5000
    url: http://10.0.0.1:5000/prefix
    mirrors: [https://m1.lan, {url: https://m2.lan, pull: true, resolve: false}]
    insecure: true
    auth: {username: u, password: 0123}
    tls: {ca: /ca.pem, cert: /c.pem, key: /k.pem, insecure_skip_verify: false}
    upstream_proxy: socks5://user:p%40w@host:1080
    follow_redirects: true
    realm_hosts: [auth.lan, "auth2.lan:8443"]
    allow_private: true
    access: verify
    tag_rules:
      - {pattern: "v*", revalidate: never}
      - {pattern: "/^nightly/", ttl: 30s, keep_on_404: true}
      - {pattern: "*", revalidate: always}
    platforms: [linux/amd64, linux/arm/v7]
    max_concurrency: 8
    cache_max_size: 500m
    cache_dir: /disk/registry
  - name: "*.lan"
    follow_redirects: false
"#;

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn password_auth(username: &str, password: &str) -> ClientAuthConfig {
    ClientAuthConfig {
        user: Some((username.into(), secret(password))),
        ..ClientAuthConfig::default()
    }
}

fn pem(path: &str, text: &str) -> Pem {
    Pem {
        path: path.into(),
        text: secret(text),
    }
}

#[test]
fn every_key_of_a_complete_file_is_read() {
    let config = Machine::with_file(EVERYTHING)
        .file("/ca.pem", CA)
        .file("/c.pem", CERT)
        .file("/k.pem", KEY)
        .config();
    assert!(config.always_pull_latest && config.registry_header);
    assert_eq!(config.stale_while_revalidate, Duration::from_secs(30));
    assert_eq!(config.client_auth, Some(password_auth("u", "p")));
    let registries = &config.registries;
    assert!(registries.whitelist_mode && registries.air_gapped);
    assert_eq!(registries.unlisted.proxy, Proxy::Direct);
    assert_eq!(registries.unlisted.platforms, ["linux/amd64"]);
    let rule = |pattern, freshness, keep_on_404| TagRule {
        pattern: TagPattern::new(pattern).unwrap(),
        freshness,
        keep_on_404,
    };
    let first = RegistryConfig {
        name: RegistryName::Exact("registry.lan:5000".parse().unwrap()),
        settings: RegistrySettings {
            mirrors: vec![
                Mirror {
                    url: "https://m1.lan".parse().unwrap(),
                    pull: true,
                    resolve: true,
                },
                Mirror {
                    url: "https://m2.lan".parse().unwrap(),
                    pull: true,
                    resolve: false,
                },
            ],
            url: Some("http://10.0.0.1:5000/prefix".parse().unwrap()),
            insecure: true,
            auth: Auth::Basic {
                username: "u".into(),
                password: secret("0123"),
            },
            tls: Tls {
                ca: Some(pem("/ca.pem", CA)),
                client: Some((pem("/c.pem", CERT), pem("/k.pem", KEY))),
                insecure_skip_verify: false,
            },
            proxy: Proxy::Url(ProxyUrl {
                url: "socks5://host:1080".parse().unwrap(),
                credentials: Some(("user".into(), secret("p@w"))),
            }),
            follow_redirects: FollowRedirects::Follow,
            realm_hosts: vec!["auth.lan".into(), "auth2.lan:8443".into()],
            allow_private: Some(true),
            access: Some(Access::Verify),
            tag_rules: vec![
                rule("v*", TagFreshness::NeverAsk, false),
                rule("/^nightly/", TagFreshness::For(Duration::from_secs(30)), true),
                rule("*", TagFreshness::AlwaysAsk, false),
            ],
            platforms: vec!["linux/amd64".into(), "linux/arm/v7".into()],
            max_concurrency: NonZeroUsize::new(8),
            cache_max_size: Some(SizeBound::Bytes(500 << 20)),
            cache_dir: Some("/disk/registry".into()),
        },
    };
    let second = RegistryConfig {
        name: RegistryName::Suffix(".lan".into()),
        settings: RegistrySettings {
            follow_redirects: FollowRedirects::Pass,
            ..registries.unlisted.clone()
        },
    };
    assert_eq!(registries.entries, [first, second]);
}

/// Configurations of other systems, and one of our own, with the keys of the expected warnings.
pub(super) const GOOD: [(&str, &str, &[&str]); 5] = [
    (
        "every-key.yaml",
        include_str!("../../tests/fixtures/config/every-key.yaml"),
        &[],
    ),
    (
        "oci-proxy.yaml",
        include_str!("../../tests/fixtures/config/oci-proxy.yaml"),
        &["whitelist_mode"],
    ),
    (
        "ociregistry-registries.yaml",
        include_str!("../../tests/fixtures/config/ociregistry-registries.yaml"),
        &[],
    ),
    (
        "ociregistry-defaults.yaml",
        include_str!("../../tests/fixtures/config/ociregistry-defaults.yaml"),
        &[],
    ),
    (
        "ociregistry-full.yaml",
        include_str!("../../tests/fixtures/config/ociregistry-full.yaml"),
        &["resolveRef", "listConfig", "providerOpts", "expiry"],
    ),
];

#[test]
fn settings_of_loads_are_read_in_the_form_of_ociregistry() {
    let config = |yaml: &str| Machine::with_file(yaml).config();
    let read =
        config("preloadImages: /lists/start\nimageFile: list\nos: linux\narch: arm64\npullTimeout: 60000\n");
    assert_eq!(read.preload_images.as_deref(), Some(Path::new("/lists/start")));
    assert_eq!(read.image_file.as_deref(), Some(Path::new("list")));
    assert_eq!(read.load_platforms.to_string(), "linux/arm64");
    assert_eq!(read.pull_timeout, Duration::from_secs(60));
    // The absent part is that of this machine.
    assert_eq!(config("os: linux\n").load_platforms, Platforms::host());
    assert_eq!(
        config("load_platforms: [linux/arm64, all]\n").load_platforms,
        Platforms::All
    );
    assert_eq!(
        config("pull_timeout: 2m\n").pull_timeout,
        Duration::from_secs(120)
    );
    let absent = config("preloadImages:\nimageFile:\n");
    assert_eq!(
        (absent.preload_images.clone(), absent.image_file.clone()),
        (None, None)
    );
    assert_eq!(absent.load_platforms, Platforms::host());
    for bad in [
        "arch: a/b/c\n",
        "load_platforms: amd64\n",
        "pull_timeout: 0\n",
        "os: linux\nload_platforms: all\n",
    ] {
        assert!(Machine::with_file(bad).resolve().is_err(), "{bad}");
    }
}

/// A machine with all files and variables that [`GOOD`] names.
pub(super) fn with_files(text: &str) -> Machine {
    Machine::with_file(text)
        .file("/my/ca.crt", CA)
        .file("/remote/ca.crt", CA)
        .file("/my/client.cert", CERT)
        .file("/my/client.key", KEY)
        .file("/my/config.json", "{\"auths\": {}}")
        .file("/run/secrets/registry", "secret\n")
        .env("THEPASS_ENV_VAR", "thepass")
        .env("FRONT_PASSWORD", "front")
}

#[test]
fn configurations_of_other_systems_work_unchanged() {
    for (name, text, keys) in GOOD {
        let config = with_files(text).config();
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), keys.len(), "{name}: {warnings:#?}");
        for key in keys {
            assert!(
                warnings.iter().any(|warning| warning.contains(key)),
                "{name}: {key}: {warnings:#?}"
            );
        }
    }
}

#[test]
fn bound_in_defaults_applies_to_each_registry_without_a_bound_of_its_own() {
    let bounds = |yaml: &str| {
        let config = Machine::with_file(yaml).config();
        let bound = |name: &str| {
            let name = name.parse().unwrap();
            config.registries.settings(&name).0.cache_max_size
        };
        let names = ["own.example", "auto.example", "bare.example", "unlisted.example"];
        (names.map(bound), config.cache_max_size)
    };
    let entries = "registries:\n  own.example: {cache_max_size: 2g}\n  auto.example: {cache_max_size: auto}\n  bare.example: {}\n";
    let gib = |count: u64| Some(SizeBound::Bytes(count << 30));
    assert_eq!(
        bounds(&format!(
            "cache_max_size: 9g\ndefaults: {{cache_max_size: 1g}}\n{entries}"
        )),
        ([gib(2), None, gib(1), gib(1)], gib(9))
    );
    assert_eq!(bounds(entries), ([gib(2), None, None, None], None));
}

fn settings(config: &Config, name: &str) -> RegistrySettings {
    let (settings, named) = config.registries.settings(&name.parse().unwrap());
    assert_eq!(named, Named::Exactly, "{name}");
    settings.clone()
}

#[test]
fn ociregistry_upstream_list_is_read() {
    let config = with_files(GOOD[2].1).config();
    let first = settings(&config, "my-upstream");
    let basic = Auth::Basic {
        username: "theuser".into(),
        password: secret("thepass"),
    };
    assert_eq!(first.auth, basic);
    assert!(first.tls.ca.is_some() && first.tls.client.is_some() && first.tls.insecure_skip_verify);
    assert_eq!(settings(&config, "my-upstream:5000"), RegistrySettings::default());
    for (name, ca, client, skip) in [
        ("one.way.insecure.io", false, false, true),
        ("one.way.os.io", false, false, false),
        ("one.way.ca.io", true, false, false),
        ("mtls.io", false, true, false),
        ("foo.bar.1.io", false, true, true),
        ("foo.bar.2.io", false, true, false),
        ("foo.bar.3.io", true, true, false),
        ("older.chart.io", false, false, true),
    ] {
        let tls = settings(&config, name).tls;
        let found = (tls.ca.is_some(), tls.client.is_some(), tls.insecure_skip_verify);
        assert_eq!(found, (ca, client, skip), "{name}");
    }
}

#[test]
fn ociregistry_file_is_read() {
    let config = with_files(GOOD[4].1).config();
    assert_eq!(config.listen, [ListenAddr::parse("0.0.0.0:8888", false).unwrap()]);
    assert_eq!(config.default_registry, "quay.io".parse().ok());
    assert!(config.always_pull_latest && config.registries.air_gapped);
    let (root, _) = config.storage.root().unwrap();
    assert_eq!(root, Path::new("/var/lib/ociregistry"));
    let auth = |name| settings(&config, name).auth;
    let basic = Auth::Basic {
        username: "theuser".into(),
        password: secret("thepass"),
    };
    assert_eq!(auth("my-corp-registry.myco.org:8888"), basic);
    assert!(settings(&config, "plain.myco.org").insecure);
    assert!(settings(&config, "docker.io").tls.client.is_some());
    let helper = Auth::Helper {
        name: "ecr-login".into(),
    };
    assert_eq!(auth("111122223333.dkr.ecr.us-south-1.amazonaws.com"), helper);
    assert_eq!(
        auth("my-registry.io"),
        Auth::RegistryToken(secret("a-literal-token"))
    );
}

#[test]
fn names_need_a_registry_where_the_default_is_empty() {
    for text in [
        "defaultNs: \"\"\n",
        "default_registry: ''\n",
        "default_registry: none\n",
        "defaultNs: \"\"\nwhitelist_mode: true\n",
    ] {
        let config = Machine::with_file(text).config();
        assert_eq!(config.default_registry, None, "{text}");
        assert!(config.warnings.is_empty(), "{text}: {:?}", config.warnings);
    }
    for text in ["", "defaultNs:\n"] {
        let config = Machine::with_file(text).config();
        assert_eq!(config.default_registry, "docker.io".parse().ok(), "{text}");
    }
    // Compose files and unit files unset a variable with an empty value.
    let empty = Machine::default().env("DEFAULT_REGISTRY", "").config();
    assert_eq!(empty.default_registry, "docker.io".parse().ok());
    let none = Machine::default().env("DEFAULT_REGISTRY", "none").config();
    assert_eq!(none.default_registry, None);
}

#[test]
fn oci_proxy_file_is_read() {
    let config = with_files(GOOD[1].1).config();
    assert_eq!(config.listen, [ListenAddr::parse(":80", false).unwrap()]);
    assert!(config.registries.whitelist_mode);
    assert_eq!(config.client_auth, Some(password_auth("admin", "password")));
    assert_eq!(config.default_registry, "docker.io".parse().ok());
    let (root, _) = config.storage.root().unwrap();
    assert_eq!(root, Path::new("/tmp/oci-proxy-cache"));
    let nvidia = settings(&config, "nvcr.io");
    assert_eq!(nvidia.access(), Access::Shared);
    assert!(
        matches!(&nvidia.proxy, Proxy::Url(proxy) if proxy.credentials.is_some()),
        "{nvidia:?}"
    );
    // The bound of `defaults` is a bound of each registry, and not of the store.
    let bounded = RegistrySettings {
        cache_max_size: Some(SizeBound::Bytes(1 << 30)),
        ..RegistrySettings::default()
    };
    assert_eq!(settings(&config, "another.registry.com"), bounded);
    assert_eq!(config.cache_max_size, None);
    assert!(settings(&config, "localhost:5000").insecure);
    let shared: Vec<String> = config
        .registries
        .shared_by_default()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shared, ["nvcr.io"]);
}

#[test]
fn incomplete_example_and_missing_tls_files_are_errors() {
    let sketch = include_str!("../../tests/fixtures/config/ociregistry-sketch.yaml");
    let diagnostics = Machine::with_file(sketch).diagnostics();
    let starts = [
        "f.yaml:1: [0].name: \"upstream one\": ",
        "f.yaml:5: [1].name: ",
        "f.yaml:9: [2]: \"etc...\": ",
    ];
    assert_eq!(diagnostics.len(), starts.len(), "{diagnostics:#?}");
    for (diagnostic, start) in diagnostics.iter().zip(starts) {
        assert!(diagnostic.starts_with(start), "{diagnostic}");
    }
    let tls = include_str!("../../tests/fixtures/config/ociregistry-tls.yaml");
    let diagnostics = Machine::with_file(tls).diagnostics();
    // The machine has none of its files.
    assert!(
        diagnostics[0].starts_with("f.yaml:3: serverTlsConfig.cert: ")
            && diagnostics[0].contains("cannot be read"),
        "{diagnostics:?}"
    );
    for text in ["tls: {cert: a}\n", "generate_self_signed_tls: maybe\n"] {
        assert!(!Machine::with_file(text).diagnostics().is_empty(), "{text}");
    }
}

#[test]
fn defaults_apply_unless_a_registry_overrides_them() {
    let text = "
defaults:
  auth: {username: d, password: dp}
  tls: {ca: /my/ca.crt, cert: /my/client.cert, key: /my/client.key}
  upstream_proxy: none
  realm_hosts: [a, b]
  tag_rules: [{pattern: '*', ttl: 1}]
  allow_private: true
registries:
  plain:
  other:
    auth: {registry_token: t}
    tls: {insecure_skip_verify: true}
    realm_hosts: c
    tag_rules: []
    allow_private: no
  anonymous: {auth: none, upstream_proxy: environment}
  half: {auth: {username: e, password: ep}}
";
    let config = with_files(text).config();
    let plain = settings(&config, "plain");
    let basic = |username: &str, password| Auth::Basic {
        username: username.into(),
        password: secret(password),
    };
    assert_eq!(plain.auth, basic("d", "dp"));
    assert!(plain.tls.client.is_some() && plain.tls.ca.is_some());
    assert_eq!(plain.realm_hosts, [Box::<str>::from("a"), "b".into()]);
    assert_eq!(plain.allow_private, Some(true));

    let other = settings(&config, "other");
    assert_eq!(other.auth, Auth::RegistryToken(secret("t")));
    assert!(other.tls.client.is_some() && other.tls.insecure_skip_verify);
    assert_eq!((other.realm_hosts, other.tag_rules), (vec!["c".into()], vec![]));
    assert_eq!((other.proxy, other.allow_private), (Proxy::Direct, Some(false)));

    let anonymous = settings(&config, "anonymous");
    assert_eq!(
        (anonymous.auth, anonymous.proxy),
        (Auth::Anonymous, Proxy::Environment)
    );
    assert_eq!(settings(&config, "half").auth, basic("e", "ep"));

    let unlisted = &config.registries.unlisted;
    assert_eq!(
        unlisted.auth,
        Auth::Anonymous,
        "an unlisted registry receives no credentials"
    );
    assert_eq!(unlisted.tls.client, None);
    assert!(unlisted.tls.ca.is_some());
    assert_eq!((&unlisted.proxy, unlisted.tag_rules.len()), (&Proxy::Direct, 1));
}

#[test]
fn secrets_are_read_inline_from_a_file_or_from_a_variable() {
    let text = "
a: {auth: {user: u, password: ' p '}}
b: {auth: {user: u, password_file: /pw}}
c: {auth: {user: u, passwordFromFile: /crlf}}
d: {auth: {user: u, password_env: PW}}
e: {auth: {user: u, passwordFromEnv: PW}}
f: {auth: {identity_token_file: /pw}}
g: {auth: {registry_token_env: TOKEN}}
";
    let text = format!("registries:\n{}", text.replace('\n', "\n  "));
    let config = Machine::with_file(&text)
        .file("/pw", "line 1\nline 2\n\n")
        .file("/crlf", "x\r\n")
        .env("PW", "env\n")
        .env("TOKEN", "t0ken")
        .config();
    let found: Vec<String> = config
        .registries
        .entries
        .iter()
        .map(|entry| match &entry.settings.auth {
            Auth::Basic { password: text, .. } | Auth::IdentityToken(text) | Auth::RegistryToken(text) => {
                text.reveal().to_owned()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        " p ",
        "line 1\nline 2\n",
        "x",
        "env\n",
        "env\n",
        "line 1\nline 2\n",
        "t0ken",
    ];
    assert_eq!(found, expected);
    assert!(!format!("{config:?}").contains("line 1"), "{config:?}");
}

#[test]
fn permissive_defaults_give_warnings() {
    let permissive = "defaults: {insecure: true, allow_private: true, tls: {insecure_skip_verify: true}}\n";
    assert_eq!(Machine::with_file(permissive).config().warnings.len(), 3);
    let closed = format!("{permissive}whitelist_mode: true\nregistries: {{docker.io: }}\n");
    assert_eq!(Machine::with_file(&closed).config().warnings, []);
}

#[test]
fn a_secret_that_every_user_may_read_is_named_with_its_cure() {
    let warned = |machine: &Machine, mode: u32| -> Vec<String> {
        let mut machine = machine.clone();
        machine.mode = mode;
        let config = machine.config();
        config.warnings.iter().map(ToString::to_string).collect()
    };
    let inline = Machine::with_file("- {name: a, auth: {username: u, password: p}}\n");
    let proxy = Machine::with_file("- {name: a, upstream_proxy: \"http://u:p@proxy:1\"}\n");
    let referred =
        Machine::with_file("- {name: a, auth: {username: u, password_file: /pw}}\n").file("/pw", "x");
    let keys = Machine::with_file("- {name: a, tls: {ca: /ca, cert: /c, key: /k}}\n")
        .file("/ca", CA)
        .file("/c", CERT)
        .file("/k", KEY);
    let docker = Machine::with_file("- {name: a, auth: {docker_config: /d}}\n")
        .file("/d", "{\"auths\": {\"a\": {\"auth\": \"dTpw\"}}}");
    for (machine, path) in [
        (&inline, "f.yaml"),
        (&proxy, "f.yaml"),
        (&referred, "/pw"),
        (&keys, "/k"),
        (&docker, "/d"),
    ] {
        let found = warned(machine, 0o644);
        let [warning] = &found[..] else {
            panic!("{path}: {found:?}");
        };
        assert!(
            warning.starts_with(&format!("{path} (mode 0644): ")) && warning.contains("chmod o-rwx"),
            "{warning}"
        );
        assert!(warned(machine, 0o640).is_empty(), "{path}");
    }
    let plain = Machine::with_file("- {name: a, insecure: true}\n");
    assert!(warned(&plain, 0o644).is_empty());
}
