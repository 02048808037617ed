//! The promises of the table, checked for every row: names, help, documents, schema, `config print`, and reload.

use std::path::Path;

use super::*;
use crate::config::tests::{CA, CERT, KEY, Machine};
use crate::config::{print, schema};

/// Returns a machine with all files of the tests, and with the settings that `setting` needs.
fn machine(setting: Setting) -> Machine {
    let machine = Machine::default()
        .file("/c.pem", CERT)
        .file("/k.pem", KEY)
        .file("/ca.pem", CA)
        .file("/pw", "secret\n")
        .file(
            "/h",
            "alice:$2y$04$abcdefghijklmnopqrstuuZVtbkHNIzXDySbF5.qVDcG5jZkm0QVG\n",
        );
    let needs: &[(&str, &str)] = match setting {
        Setting::TlsCertFile => &[("TLS_KEY_FILE", "/k.pem")],
        Setting::TlsKeyFile => &[("TLS_CERT_FILE", "/c.pem")],
        Setting::TlsClientCaFile => &[("TLS_CERT_FILE", "/c.pem"), ("TLS_KEY_FILE", "/k.pem")],
        Setting::TlsClientAuth => &[
            ("TLS_CERT_FILE", "/c.pem"),
            ("TLS_KEY_FILE", "/k.pem"),
            ("TLS_CLIENT_CA_FILE", "/ca.pem"),
        ],
        Setting::AuthUsername => &[("AUTH_PASSWORD", "p")],
        Setting::LegacyAdmin => &[("AUTH_USERNAME", "u"), ("AUTH_PASSWORD", "p")],
        Setting::AuthPassword | Setting::AuthPasswordFile => &[("AUTH_USERNAME", "u")],
        Setting::SpoolDir | Setting::S3Prefix | Setting::S3ForcePathStyle => &[("STORAGE_BACKEND", "s3")],
        Setting::S3LifecycleDays | Setting::S3Redirect => &[("STORAGE_BACKEND", "s3")],
        _ => &[],
    };
    needs
        .iter()
        .fold(machine, |machine, (name, value)| machine.env(name, value))
}

/// Returns a valid value other than the default.
fn other_value(setting: Setting) -> &'static str {
    match (setting, setting.kind()) {
        (Setting::TlsCertFile, _) => "/c.pem",
        (Setting::TlsKeyFile, _) => "/k.pem",
        (Setting::TlsClientCaFile, _) => "/ca.pem",
        (Setting::AuthPasswordFile, _) => "/pw",
        (Setting::AuthHtpasswdFile, _) => "/h",
        (Setting::ConfigFile, _) => "f.yaml",
        // `fs` is the effective default.
        (Setting::StorageBackend, _) => "tiered",
        (_, Kind::Switch) if matches!(setting.default_text(), "true" | "on") => "false",
        (_, Kind::Switch) => "true",
        (_, Kind::Word(words)) => words
            .iter()
            .find(|word| **word != setting.default_text())
            .unwrap(),
        (_, Kind::BaseUrl) => "https://cache.example",
        (_, Kind::Addresses) => ":1",
        (_, Kind::AddressOrOff) => "127.0.0.1:7",
        (_, Kind::Duration | Kind::DurationOrMillis) => "7s",
        (_, Kind::Platforms) => "linux/s390x",
        (_, Kind::Bytes | Kind::BytesOrAuto) => "5MiB",
        (_, Kind::Registry | Kind::RegistryOrNone) => "r.example",
        (_, Kind::Path) => "/other",
        (_, Kind::Bucket | Kind::Prefix | Kind::Text | Kind::Secret) => "other",
        _ => "7",
    }
}

fn with_value(setting: Setting) -> Machine {
    let machine = machine(setting).env(setting.env(), other_value(setting));
    match setting {
        Setting::ConfigFile => machine.file("f.yaml", "tag_ttl: 60s\n"),
        _ => machine,
    }
}

#[test]
fn variable_flag_and_key_derive_from_the_setting_name() {
    assert_eq!(Setting::DrainDelay.env(), "DRAIN_DELAY");
    assert_eq!(Setting::DrainDelay.flag(), "drain-delay");
    assert_eq!(Setting::DrainDelay.key(), Some("drain_delay"));
    assert_eq!(Setting::S3ForcePathStyle.env(), "S3_FORCE_PATH_STYLE");
    assert_eq!(Setting::ConfigFile.key(), None);
    for (at, setting) in Setting::ALL.into_iter().enumerate() {
        assert_eq!(format!("{setting:?}"), ROWS[at].name);
        assert_eq!(
            setting.env().to_ascii_lowercase(),
            setting.flag().replace('-', "_")
        );
        let key = setting.key().unwrap_or("config_file");
        assert_eq!(key, setting.env().to_ascii_lowercase());
    }
}

#[test]
fn every_value_is_parsed_from_its_default_and_an_invalid_text_names_the_expected_form() {
    let defaults = Values::default();
    for setting in Setting::ALL {
        let mut values = defaults.clone();
        assert_eq!(values.set(setting, setting.default_text()), Ok(()), "{setting:?}");
        assert_eq!(values, defaults, "{setting:?}");
        assert_eq!(values.set(setting, other_value(setting)), Ok(()), "{setting:?}");
        if let Kind::Word(words) = setting.kind() {
            for word in words {
                assert_eq!(values.set(setting, word), Ok(()), "{setting:?} {word}");
            }
        }
        if let Err(expected) = values.set(setting, "\u{0}") {
            assert_eq!(expected, setting.kind().expected(), "{setting:?}");
        }
    }
}

/// Appends the text of all documents below `dir`.
fn append_pages(dir: &Path, pages: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append_pages(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_row_has_a_line_of_help_and_is_documented() {
    let mut pages = std::fs::read_to_string("README.md").unwrap();
    append_pages(Path::new("docs"), &mut pages);
    for setting in Setting::ALL {
        let help = setting.summary();
        assert!(!help.is_empty() && help.len() <= 41, "{setting:?}: {help}");
        let row = format!("| `{}` | ", setting.env());
        assert!(
            pages.lines().any(|line| line.starts_with(&row)),
            "no table of README.md or docs/ has {}",
            setting.env()
        );
    }
}

const PAGE: &str = "docs/reference/configuration.md";
const PAGE_HEAD: &str = "| Environment | Flag | Key | Default | Applied | Meaning |";

/// Returns the row of `setting` in [`PAGE`]. Only the meaning is taken from `old`, and the class of a setting that is
/// part of a larger value. A new setting gets its help.
fn page_row(setting: Setting, old: Option<&str>) -> String {
    let cells: Vec<&str> = old.map_or_else(Vec::new, |row| row.splitn(6, " | ").collect());
    let code = |text: &str| match text {
        "none" => "none".to_owned(),
        text => format!("`{text}`"),
    };
    let applied = match setting.reload() {
        // Flags and environment of a process never change.
        _ if setting.file() == InFile::Nowhere => "restart",
        Reload::Live => "reload",
        Reload::Restart => "restart",
        Reload::Part => cells.get(4).unwrap_or(&"restart"),
    };
    let fallback = format!("{} |", setting.summary());
    format!(
        "| `{}` | `--{}` | {} | {} | {applied} | {}",
        setting.env(),
        setting.flag(),
        setting.key().map_or("–".to_owned(), code),
        code(setting.default_text()),
        cells.get(5).unwrap_or(&fallback.as_str()),
    )
}

/// Returns `page` with the table of settings rendered from [`ROWS`].
fn with_rendered_table(page: &str) -> String {
    let (before, rest) = page.split_once(PAGE_HEAD).expect("the page has the table");
    let (old, after) = rest.split_once("\n\n").expect("a paragraph follows the table");
    let rows = Setting::ALL.map(|setting| {
        let name = format!("| `{}` | ", setting.env());
        page_row(setting, old.lines().find(|line| line.starts_with(&name)))
    });
    format!(
        "{before}{PAGE_HEAD}\n|---|---|---|---|---|---|\n{}\n\n{after}",
        rows.join("\n")
    )
}

#[test]
fn the_table_of_the_configuration_page_is_rendered_from_the_rows() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let rendered = with_rendered_table(&page);
    // A switch of the test, and no setting.
    #[allow(clippy::disallowed_methods)]
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    if update {
        std::fs::write(PAGE, &rendered).unwrap();
    } else if page != rendered {
        let stale = page.lines().zip(rendered.lines()).find(|(old, new)| old != new);
        panic!(
            "{PAGE} differs from the rows: {stale:?}; run `UPDATE_DOCS=1 cargo test --lib config::options`"
        );
    }
}

#[test]
fn a_new_setting_gets_a_row_with_its_help_and_an_edited_meaning_stays() {
    let row = page_row(Setting::DrainDelay, None);
    assert_eq!(
        row,
        format!(
            "| `DRAIN_DELAY` | `--drain-delay` | `drain_delay` | `0s` | restart | {} |",
            Setting::DrainDelay.summary()
        )
    );
    let edited = "| `DRAIN_DELAY` | `--old` | `old` | `1s` | reload | The time, see [stop](a.md). |";
    assert_eq!(
        page_row(Setting::DrainDelay, Some(edited)),
        "| `DRAIN_DELAY` | `--drain-delay` | `drain_delay` | `0s` | restart | The time, see [stop](a.md). |"
    );
}

#[test]
fn every_key_is_in_the_schema() {
    let schema = schema();
    let properties = &schema["anyOf"][0]["properties"];
    for setting in Setting::ALL {
        let Some(key) = setting.key() else { continue };
        for key in std::iter::once(&key).chain(setting.aliases()) {
            assert_eq!(properties[key]["description"], setting.summary(), "{key}");
        }
    }
}

#[test]
fn config_print_shows_every_value_with_its_source_and_no_secret() {
    for setting in Setting::ALL {
        let printed = with_value(setting).with_environment(print).unwrap();
        let key = match setting {
            // In the map `auth`, without the prefix.
            _ if setting.file() == InFile::Auth => {
                let key = setting.key().unwrap().strip_prefix("auth_").unwrap();
                if key == "password_file" { "password" } else { key }
            }
            Setting::ConfigFile => continue,
            _ => setting.key().unwrap(),
        };
        let line = printed
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{key}: ")));
        let line = line.unwrap_or_else(|| panic!("no key {key} in\n{printed}"));
        let (shown, source) = match setting {
            Setting::AuthPasswordFile => ("\"***\"", "# file /pw".to_owned()),
            Setting::ListenAddr => ("\":1\"", "# environment LISTEN_ADDR".to_owned()),
            _ if setting.kind() == Kind::Secret => ("\"***\"", format!("# environment {}", setting.env())),
            _ => (other_value(setting), format!("# environment {}", setting.env())),
        };
        assert!(line.contains(shown) && line.ends_with(&source), "{line}");
        if setting.file() == InFile::Key && !setting.is_nothing_by_default() {
            let printed = Machine::default().with_environment(print).unwrap();
            assert!(
                printed.contains(&format!("{key}: ")),
                "no default of {key} in\n{printed}"
            );
        }
    }
}

#[test]
fn a_changed_value_needs_a_restart_if_the_row_says_so() {
    for setting in Setting::ALL {
        let old = machine(setting);
        // A setting that cannot be absent is compared with another valid value.
        let old = match setting {
            Setting::TlsCertFile | Setting::TlsKeyFile => old.env(setting.env(), other_value(setting)),
            Setting::AuthUsername => old.env("AUTH_USERNAME", "u"),
            Setting::AuthPassword => old.env("AUTH_PASSWORD", "p"),
            Setting::AuthPasswordFile => old.env("AUTH_PASSWORD", "p"),
            _ => old,
        };
        let changed = old.config().needs_restart(&with_value(setting).config());
        let key = setting.key().unwrap_or_default();
        match (setting.reload(), setting) {
            (Reload::Live, _) => assert_eq!(changed, [""; 0], "{setting:?}"),
            (Reload::Restart, _) => assert_eq!(changed, [key]),
            // A reload applies these, unless TLS is enabled or disabled.
            (Reload::Part, Setting::TlsCertFile | Setting::TlsKeyFile) => assert_eq!(changed, [""; 0]),
            (Reload::Part, Setting::TlsClientCaFile | Setting::TlsClientAuth) => assert_eq!(changed, [""; 0]),
            (Reload::Part, Setting::GenerateSelfSignedTls) => {
                assert_eq!(changed, ["listen_addr", "tls_cert_file"]);
            }
            (Reload::Part, Setting::StorageBackend) => {
                assert_eq!(changed, ["storage_backend", "s3", "spool_dir"]);
            }
            (Reload::Part, Setting::S3Bucket) => {
                assert_eq!(changed, ["storage_backend", "fs_root", "s3", "spool_dir"]);
            }
            (Reload::Part, _) if key.starts_with("s3_") => assert_eq!(changed, ["s3"], "{setting:?}"),
            (Reload::Part, _) => assert_eq!(changed, [key]),
        }
    }
}

/// The example of "Adding a setting" in `CONTRIBUTING.md`: a table with a single row, which is a complete setting.
#[test]
fn single_table_row_defines_a_complete_setting() {
    mod example {
        use std::time::Duration;

        use super::super::super::value::DURATION;
        use super::super::table::{Group, InFile, Names, Reload, Row, first_or, settings};

        settings! {
            /// The time between two scans of the store.
            ScanInterval => pub scan_interval: Duration {
                value: DURATION,
                default: "1h",
                group: Storage,
                reload: Restart,
                help: "time between two scans of the store",
            }
        }

        pub fn names() -> Names {
            Names::of(&ROWS[Setting::ScanInterval as usize])
        }
    }
    use example::{Setting, Values};

    let names = example::names();
    assert_eq!(names.env, "SCAN_INTERVAL");
    assert_eq!(names.flag, "scan-interval");
    assert_eq!(names.key, "scan_interval");
    let mut values = Values::default();
    assert_eq!(values.scan_interval, Duration::from_secs(3600));
    assert!(
        values
            .set(Setting::ScanInterval, "soon")
            .unwrap_err()
            .contains("60s")
    );
    assert_eq!(values.set(Setting::ScanInterval, "5m"), Ok(()));
    assert_eq!(values.changed(&Values::default()), [Setting::ScanInterval]);
}
