//! Tests of every source and of every error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

use super::*;
use crate::config::model::Backend;
use crate::config::options::FS_ROOT_DEFAULT;
use crate::config::{
    FileText, IoDriver, KernelTls, ProxyEnvironment, RegistryConfig, RegistryName, RegistrySettings,
    RootChoice, StorageConfig, SystemdEnvironment,
};

/// Flags, environment and file of a case. The file is `f.yaml`.
#[derive(Default)]
struct Case<'a> {
    flags: &'a [(Setting, &'a str)],
    env: &'a [(&'a str, &'a str)],
    file: Option<&'a str>,
    writable: &'a [&'a str],
}

impl Case<'_> {
    fn resolve(&self) -> Result<Config, Diagnostics> {
        self.with_environment(resolve)
    }

    fn with_environment<T>(&self, run: impl FnOnce(Layer, Environment<'_>) -> T) -> T {
        let mut flags = Layer::default();
        for (setting, text) in self.flags {
            flags.insert_flag(*setting, (*text).to_owned());
        }
        let mut env: HashMap<_, _> = self.env.iter().copied().collect();
        if self.file.is_some() {
            env.insert("CONFIG_FILE", "f.yaml");
        }
        run(
            flags,
            Environment {
                env: &|name| env.get(name).map(|v| (*v).to_owned()),
                read_file: &|path| match self.file {
                    Some(text) if path == Path::new("f.yaml") => Ok(FileText {
                        text: text.to_owned(),
                        mode: 0o600,
                    }),
                    _ => Err(io::Error::from(io::ErrorKind::NotFound)),
                },
                is_writable_dir: &|path| self.writable.iter().any(|w| Path::new(w) == path),
                temp_dir: &|| PathBuf::from("/t"),
            },
        )
    }

    fn diagnostics(&self) -> Vec<String> {
        let diagnostics = self.resolve().expect_err("the configuration has an error").0;
        diagnostics
            .into_iter()
            .map(|m| format!("{}: {}", m.what, m.why))
            .collect()
    }
}

#[test]
fn nothing_configured_gives_the_defaults() {
    let config = Case {
        writable: &[FS_ROOT_DEFAULT],
        ..Case::default()
    }
    .resolve()
    .unwrap();
    let expected = Config {
        values: Values {
            kernel_tls: KernelTls::Off,
            cores: None,
            io_driver: IoDriver::Auto,
            helper_threads: NonZeroUsize::new(2).unwrap(),
            max_connections: None,
            max_connections_per_client: 1_000,
            memory_budget: None,
            default_registry: "docker.io".parse().ok(),
            cache_tag_manifests: true,
            cache_latest_tag: false,
            tag_ttl: Duration::from_secs(60),
            log_level: Level::INFO,
            access_log: true,
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            memory_cache_bytes: 64 << 20,
            always_pull_latest: false,
            stale_while_revalidate: Duration::ZERO,
            registry_header: false,
            client_login: false,
            ..Values::default()
        },
        listen: vec![ListenAddr {
            host: None,
            port: 8080,
            tls: false,
        }],
        tls: None,
        storage: StorageConfig::Fs {
            root: FS_ROOT_DEFAULT.into(),
            chosen: RootChoice::Default,
        },
        systemd: SystemdEnvironment::default(),
        registries: Registries::default(),
        proxies: ProxyEnvironment::default(),
        traces: None,
        client_auth: None,
        prune: Vec::new(),
        warm: Vec::new(),
        warnings: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let ttl = |case: Case<'_>| case.resolve().unwrap().tag_ttl.as_secs();
    let (flag, env, file) = (
        [(Setting::TagTtl, "1s")],
        [("TAG_TTL", "2s")],
        Some("tag_ttl: 3s\n"),
    );
    assert_eq!(
        ttl(Case {
            flags: &flag,
            env: &env,
            file,
            ..Case::default()
        }),
        1
    );
    assert_eq!(
        ttl(Case {
            env: &env,
            file,
            ..Case::default()
        }),
        2
    );
    assert_eq!(
        ttl(Case {
            file,
            ..Case::default()
        }),
        3
    );
    assert_eq!(
        ttl(Case {
            env: &[("TAG_TTL", "")],
            file,
            ..Case::default()
        }),
        3,
        "an empty value is absent"
    );
    assert_eq!(
        ttl(Case {
            flags: &flag,
            env: &[("TAG_TTL", "x")],
            ..Case::default()
        }),
        1,
        "an overridden value is not checked"
    );
}

#[test]
fn every_scalar_setting_is_read_from_the_file() {
    let file = "
listen_addr: [':1', 'localhost:2']
cores: 3
io_driver: epoll
kernel_tls: auto
helper_threads: 4
max_connections: 500
max_connections_per_client: 0
memory_budget: 1GiB
storage_backend: fs
fs_root: /s
memory_cache: 1GiB
default_registry: ghcr.io
cache_tag_manifests: no
cache_latest_tag: on
tag_ttl: 5
log_level: WARN
access_log: off
";
    let config = Case {
        file: Some(file),
        ..Case::default()
    }
    .resolve()
    .unwrap();
    let expected = Config {
        values: Values {
            kernel_tls: KernelTls::Auto,
            cores: NonZeroUsize::new(3),
            io_driver: IoDriver::Epoll,
            storage_backend: Backend::Fs,
            helper_threads: NonZeroUsize::new(4).unwrap(),
            max_connections: NonZeroUsize::new(500),
            max_connections_per_client: 0,
            memory_budget: Some(1 << 30),
            default_registry: "ghcr.io".parse().ok(),
            cache_tag_manifests: false,
            cache_latest_tag: true,
            tag_ttl: Duration::from_secs(5),
            log_level: Level::WARN,
            access_log: false,
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            memory_cache_bytes: 1 << 30,
            always_pull_latest: false,
            stale_while_revalidate: Duration::ZERO,
            registry_header: false,
            client_login: false,
            ..Values::default()
        },
        listen: vec![
            ListenAddr::parse(":1", false).unwrap(),
            ListenAddr::parse("localhost:2", false).unwrap(),
        ],
        tls: None,
        storage: StorageConfig::Fs {
            root: "/s".into(),
            chosen: RootChoice::Given,
        },
        systemd: SystemdEnvironment::default(),
        registries: Registries::default(),
        proxies: ProxyEnvironment::default(),
        traces: None,
        client_auth: None,
        prune: Vec::new(),
        warm: Vec::new(),
        warnings: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn registries_are_a_list_or_a_map() {
    let list = "registries:\n- name: Localhost:5000\n  insecure: true\n- {name: r.example, url: 'https://m.example/x'}\n";
    let map = "registries:\n  localhost:5000: {insecure: true}\n  r.example:\n    url: https://m.example/x\n";
    let expected = vec![
        RegistryConfig {
            name: RegistryName::Exact("localhost:5000".parse().unwrap()),
            settings: RegistrySettings {
                insecure: true,
                ..RegistrySettings::default()
            },
        },
        RegistryConfig {
            name: RegistryName::Exact("r.example".parse().unwrap()),
            settings: RegistrySettings {
                url: Some("https://m.example/x".parse().unwrap()),
                ..RegistrySettings::default()
            },
        },
    ];
    for file in [list, map] {
        assert_eq!(
            Case {
                file: Some(file),
                ..Case::default()
            }
            .resolve()
            .unwrap()
            .registries
            .entries,
            expected,
            "{file}"
        );
    }
    for empty in ["", "# nothing\n", "registries:\n", "registries: []\n", "---\n"] {
        assert_eq!(
            Case {
                file: Some(empty),
                ..Case::default()
            }
            .resolve()
            .unwrap()
            .registries
            .entries,
            [],
            "{empty:?}"
        );
    }
}

#[test]
fn each_diagnostic_names_the_setting_the_value_and_the_expected_form() {
    type Row<'a> = (
        &'a [(Setting, &'a str)],
        &'a [(&'a str, &'a str)],
        Option<&'a str>,
        &'a str,
    );
    let table: &[Row<'_>] = &[
        (
            &[(Setting::ListenAddr, "8080")],
            &[],
            None,
            "--listen-addr \"8080\": expected `:8080`",
        ),
        (
            &[],
            &[("LISTEN_ADDR", ":1,")],
            None,
            "LISTEN_ADDR=\":1,\": expected `:8080`",
        ),
        (
            &[],
            &[("CORES", "0")],
            None,
            "CORES=\"0\": expected auto or a number from 1 to 1024",
        ),
        (&[], &[("CORES", "1025")], None, "CORES=\"1025\": expected auto"),
        (
            &[],
            &[("IO_DRIVER", "uring")],
            None,
            "IO_DRIVER=\"uring\": expected auto, io_uring or epoll",
        ),
        (
            &[],
            &[("HELPER_THREADS", "65")],
            None,
            "HELPER_THREADS=\"65\": expected a number from 1 to 64",
        ),
        (
            &[],
            &[("DEFAULT_REGISTRY", "a/b")],
            None,
            "DEFAULT_REGISTRY=\"a/b\": expected a registry",
        ),
        (
            &[],
            &[("CACHE_TAG_MANIFESTS", "maybe")],
            None,
            "CACHE_TAG_MANIFESTS=\"maybe\": expected true, false",
        ),
        (
            &[],
            &[("TAG_TTL", "1w")],
            None,
            "TAG_TTL=\"1w\": expected a duration",
        ),
        (
            &[],
            &[("LOG_LEVEL", "loud")],
            None,
            "LOG_LEVEL=\"loud\": expected trace, debug, info, warn or error",
        ),
        (
            &[],
            &[("MEMORY_CACHE", "lots")],
            None,
            "MEMORY_CACHE=\"lots\": expected a size",
        ),
        (
            &[],
            &[("STORAGE_BACKEND", "nfs")],
            None,
            "STORAGE_BACKEND=\"nfs\": expected auto, fs, s3 or tiered",
        ),
        (
            &[],
            &[("S3_BUCKET", "s3://b")],
            None,
            "S3_BUCKET=\"s3://b\": expected a bucket's name",
        ),
        (
            &[],
            &[("S3_LIFECYCLE_DAYS", "never")],
            None,
            "S3_LIFECYCLE_DAYS=\"never\": expected a number from 0 to 36500",
        ),
        (
            &[],
            &[("CONFIG_FILE", "no.yaml")],
            None,
            "CONFIG_FILE=\"no.yaml\": cannot be read: ",
        ),
        (
            &[],
            &[],
            Some("\ntag_ttl: x\n"),
            "f.yaml:2: tag_ttl: \"x\": expected a duration",
        ),
        (
            &[],
            &[],
            Some("a: 1\n"),
            "f.yaml:1: \"a\": unknown key; expected one of listen_addr, ",
        ),
        (
            &[],
            &[],
            Some("config_file: x\n"),
            "f.yaml:1: \"config_file\": unknown key",
        ),
        (
            &[],
            &[],
            Some("tag_ttl: {a: 1}\n"),
            "f.yaml:1: tag_ttl: \"a map of 1\": expected a single value",
        ),
        (
            &[],
            &[],
            Some("- 1\n"),
            "f.yaml:1: [0]: \"1\": expected a map with a name",
        ),
        (
            &[],
            &[],
            Some("cores: 1\ncores: 2\n"),
            "f.yaml:2: is not valid YAML: ",
        ),
        (&[], &[], Some("cores: [1\n"), "f.yaml:"),
        (
            &[],
            &[],
            Some("registries: x\n"),
            "f.yaml:1: registries: \"x\": expected a list of maps",
        ),
        (
            &[],
            &[],
            Some("registries:\n- insecure: true\n"),
            "f.yaml:2: registries[0]: a registry needs a name",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a/b\n"),
            "f.yaml:2: registries[0].name: \"a/b\": expected a registry",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a\n  tls: 1\n"),
            "f.yaml:3: registries[0].tls: expected a map of ca, ",
        ),
        (
            &[],
            &[],
            Some("registries:\n  a: {name: b}\n"),
            "f.yaml:2: registries.a.name: the key above is the name already",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a\n  insecure: x\n"),
            "f.yaml:3: registries[0].insecure: \"x\": expected true",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a\n  url: a:5000\n"),
            "f.yaml:3: registries[0].url: \"a:5000\": expected http",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a\n  url: http://u:p@a\n"),
            "f.yaml:3: registries[0].url: \"http://***@a\": cred",
        ),
        (
            &[],
            &[],
            Some("registries:\n- name: a\n- name: A:443\n"),
            "f.yaml:3: registries[1].name: \"A:443\": this registry is named twice",
        ),
    ];
    for (flags, env, file, expected) in table {
        let diagnostics = Case {
            flags,
            env,
            file: *file,
            ..Case::default()
        }
        .diagnostics();
        assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
        assert!(
            diagnostics[0].starts_with(expected),
            "\n  got {}\n wanted {expected}",
            diagnostics[0]
        );
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let case = Case {
        flags: &[(Setting::TagTtl, "x")],
        env: &[("CORES", "many"), ("S3_BUCKET", "/")],
        file: Some("oops: 1\nlog_level: loud\nregistries:\n- {name: ':', url: ftp://x}\n"),
        ..Case::default()
    };
    assert_eq!(case.diagnostics().len(), 7, "{:#?}", case.diagnostics());
    let shown = case.resolve().unwrap_err().to_string();
    assert!(shown.starts_with("7 errors in the configuration:\n  "), "{shown}");
}

#[test]
fn a_bucket_in_the_environment_does_not_matter_when_the_backend_is_named() {
    let env = [
        ("STORAGE_BACKEND", "fs"),
        ("S3_BUCKET", "bucket"),
        ("AWS_ENDPOINT_URL", "u"),
    ];
    let case = Case {
        env: &env,
        ..Case::default()
    };
    assert_eq!(case.resolve().unwrap().storage.backend(), "fs");
}

#[test]
fn the_store_falls_back_to_a_place_the_user_can_write() {
    let both = [("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str, RootChoice);
    let table: &[Row<'_>] = &[
        (&[("FS_ROOT", "/mine")], &[], "/mine", RootChoice::Given),
        (
            &both,
            &[FS_ROOT_DEFAULT, "/x/oci-pull-through"],
            FS_ROOT_DEFAULT,
            RootChoice::Default,
        ),
        (
            &both,
            &["/x/oci-pull-through"],
            "/x/oci-pull-through",
            RootChoice::UserCache,
        ),
        (
            &both[1..],
            &["/h/.cache/oci-pull-through"],
            "/h/.cache/oci-pull-through",
            RootChoice::UserCache,
        ),
        (&both, &[], "/t/oci-pull-through", RootChoice::Temporary),
        (
            &[("HOME", "relative")],
            &["relative/.cache/oci-pull-through"],
            "/t/oci-pull-through",
            RootChoice::Temporary,
        ),
    ];
    for (env, writable, root, chosen) in table {
        let storage = Case {
            env,
            writable,
            ..Case::default()
        }
        .resolve()
        .unwrap()
        .storage;
        assert_eq!(
            storage,
            StorageConfig::Fs {
                root: root.into(),
                chosen: *chosen
            }
        );
    }
}

#[test]
fn a_refused_start_makes_no_directory() {
    let asked = RefCell::new(0);
    let case = Case {
        env: &[("CORES", "x")],
        ..Case::default()
    };
    let result = case.with_environment(|flags, environment| {
        let probe = |_: &Path| {
            *asked.borrow_mut() += 1;
            true
        };
        resolve(
            flags,
            Environment {
                is_writable_dir: &probe,
                ..environment
            },
        )
    });
    assert!(result.is_err());
    assert_eq!(asked.into_inner(), 0);
}

#[test]
fn a_health_check_needs_only_the_address() {
    let case = Case {
        env: &[("CORES", "x")],
        file: Some("listen_addr: ':9'\nunknown: 1\n"),
        ..Case::default()
    };
    let listen = case.with_environment(listen_addresses).unwrap();
    assert_eq!(listen, [ListenAddr::parse(":9", false).unwrap()]);
}

#[test]
fn insecure_registry_uses_plain_http_on_the_port_in_its_name() {
    for (name, url) in [
        ("r.lan:443", Some("http://r.lan:443/")),
        ("[fd00::1]:443", Some("http://[fd00::1]:443/")),
        ("r.lan", None),
        ("r.lan:5000", None),
    ] {
        let file = format!("registries:\n- name: \"{name}\"\n  insecure: true\n");
        let case = Case {
            file: Some(&file),
            writable: &[FS_ROOT_DEFAULT],
            ..Case::default()
        };
        let config = case.resolve().unwrap();
        let settings = &config.registries.entries[0].settings;
        assert_eq!(settings.url.as_ref().map(|url| url.as_str()), url, "{name}");
    }
}
