//! The file's grammar, from the text to the types.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

/// A machine with these variables and these files; `f.yaml` is the configuration.
#[derive(Clone, Default)]
pub(super) struct Machine {
    pub env: HashMap<String, String>,
    pub files: HashMap<PathBuf, String>,
    pub flags: Layer,
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

    pub fn with_surroundings<T>(&self, run: impl FnOnce(Layer, Surroundings<'_>) -> T) -> T {
        run(
            self.flags.clone(),
            Surroundings {
                env: &|name| self.env.get(name).cloned(),
                read_file: &|path| {
                    let text = self.files.get(path).cloned();
                    text.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
                },
                is_writable_dir: &|path| path == Path::new("/data/oci-cache"),
                temp_dir: &|| PathBuf::from("/t"),
            },
        )
    }

    pub fn resolve(&self) -> Result<Config, Mistakes> {
        self.with_surroundings(resolve)
    }

    #[track_caller]
    pub fn config(&self) -> Config {
        match self.resolve() {
            Ok(config) => config,
            Err(mistakes) => panic!("{mistakes}"),
        }
    }

    #[track_caller]
    pub fn mistakes(&self) -> Vec<String> {
        let mistakes = self.resolve().expect_err("there is a mistake").0;
        mistakes
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
  - name: "*.lan"
    follow_redirects: false
"#;

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn pem(path: &str, text: &str) -> Pem {
    Pem {
        path: path.into(),
        text: secret(text),
    }
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let config = Machine::with_file(EVERYTHING)
        .file("/ca.pem", CA)
        .file("/c.pem", CERT)
        .file("/k.pem", KEY)
        .config();
    assert!(config.always_pull_latest && config.registry_header);
    assert_eq!(config.stale_while_revalidate, Duration::from_secs(30));
    assert_eq!(config.front_auth, Some(("u".into(), secret("p"))));
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
