//! Rules for the sources, as tests. Each rule is a function that returns the violations in a text.
//! Each test first checks that the rule rejects a bad example, and then applies the rule to the
//! source tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oci_pull_through::config::{Environment, Layer, Setting, resolve};

use crate::harness::Server;
use crate::harness::server::TempDir;

/// The folders that each folder of `src/` may import. `docs/explanation/architecture.md` contains
/// the same table. Only `cli` imports `app`. A folder without a row imports only [`FOR_ALL`].
const ARROWS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "admin", "app", "cache", "config", "manage", "oci", "runtime", "store", "upstream",
        ],
    ),
    (
        "admin",
        &[
            "cache", "config", "http", "manage", "metrics", "oci", "runtime", "server", "store", "upstream",
            "web",
        ],
    ),
    (
        "manage",
        &[
            "auth", "cache", "config", "oci", "runtime", "store", "sys", "upstream",
        ],
    ),
    (
        "app",
        &[
            "admin", "auth", "cache", "config", "fairness", "manage", "metrics", "oci", "registry",
            "runtime", "server", "storage", "store", "sys", "systemd", "trace", "upstream", "web",
        ],
    ),
    ("systemd", &["sys"]),
    ("web", &["config", "oci"]),
    ("server", &["http", "metrics", "runtime", "sys", "trace"]),
    (
        "registry",
        &[
            "admin", "auth", "cache", "config", "http", "manage", "oci", "runtime", "server", "upstream",
            "web",
        ],
    ),
    ("auth", &["config", "http", "oci", "runtime"]),
    (
        "cache",
        &[
            "config", "fairness", "http", "metrics", "oci", "runtime", "storage", "trace", "upstream",
        ],
    ),
    (
        "storage",
        &["config", "fairness", "metrics", "oci", "runtime", "store", "sys"],
    ),
    ("fairness", &["config", "oci"]),
    ("store", &["config", "metrics", "oci", "sys"]),
    ("metrics", &["http"]),
    ("upstream", &["config", "metrics", "oci", "trace"]),
    ("trace", &["config", "http", "metrics", "runtime"]),
    ("config", &["oci"]),
];

/// Modules that every folder may import. These modules import no module outside of this list.
const FOR_ALL: &[&str] = &[
    "anchor",
    "calendar",
    "events",
    "fail_point",
    "limits",
    "local_time",
    "log",
    "lru",
    "shared_file",
    "sync",
];

/// Files that may use Tokio: code that runs on the helper pool, and code shared between the pool
/// and a core.
const TOKIO: &[&str] = &[
    "src/admin/api.rs",
    "src/admin/client.rs",
    "src/admin/import.rs",
    "src/admin/legacy/mod.rs",
    "src/admin/listen.rs",
    "src/admin/streams.rs",
    "src/cache/blob/remote.rs",
    "src/cache/body_channel.rs",
    "src/cache/fill/body_hasher.rs",
    "src/cache/fill/commit.rs",
    "src/cache/fill/disk_writer.rs",
    "src/cache/fill/mod.rs",
    "src/cache/fill/source.rs",
    "src/cache/fill/watch.rs",
    "src/cache/fill/writer.rs",
    "src/cache/passthrough.rs",
    "src/cache/prefetch.rs",
    "src/cache/slots.rs",
    "src/cache/small_body.rs",
    "src/runtime/helper.rs",
    "src/runtime/single_flight.rs",
    "src/server/h2/io/mod.rs",
    "src/storage/bucket.rs",
    "src/storage/first_hash.rs",
    "src/storage/records.rs",
    "src/storage/small.rs",
    "src/storage/upload_queue.rs",
    "src/store/s3/find.rs",
    "src/store/s3/mod.rs",
    "src/store/s3/object.rs",
    "src/store/s3/open.rs",
    "src/store/s3/pool.rs",
    "src/store/s3/read.rs",
    "src/store/s3/upload.rs",
    "src/trace/export.rs",
    "src/upstream/auth/credential_source.rs",
    "src/upstream/auth/helper.rs",
    "src/upstream/auth/token.rs",
    "src/upstream/authenticate.rs",
    "src/upstream/challenger.rs",
    "src/upstream/exchange.rs",
    "src/upstream/lookups.rs",
    "src/upstream/mod.rs",
    "src/upstream/registries.rs",
    "src/upstream/resolve.rs",
    "src/upstream/response.rs",
];

/// Files that may read a clock directly instead of through `runtime::clock`. These files compute
/// deadlines outside of the cores, or compare the start of a scan with file times.
const CLOCKS: &[&str] = &[
    "src/app/stop.rs",
    "src/cache/fill/watch.rs",
    "src/cache/fill/writer.rs",
    "src/cli/healthcheck.rs",
    "src/fail_point.rs",
    "src/log/output.rs",
    "src/log/queue.rs",
    "src/log/time.rs",
    "src/server/listen.rs",
    "src/store/eviction/minute.rs",
    "src/store/fs/evict.rs",
    "src/store/fs/room.rs",
    "src/store/fs/scan.rs",
    "src/store/s3/find.rs",
    "src/store/s3/object.rs",
    "src/store/s3/records.rs",
    "src/store/s3/upload.rs",
    "src/upstream/auth/credential_source.rs",
    "src/upstream/auth/token.rs",
    "src/upstream/authenticate.rs",
    "src/upstream/challenger.rs",
    "src/upstream/exchange.rs",
    "src/upstream/heads.rs",
    "src/upstream/lookups.rs",
    "src/upstream/mod.rs",
    "src/upstream/response.rs",
];

/// Files that may exceed [`LINES_MAX`], because each consists mostly of a table.
const LONG: &[&str] = &[
    "src/config/options.rs",
    "src/limits.rs",
    "src/server/h1/parse.rs",
    "src/upstream/tests.rs",
];

const LINES_MAX: usize = 700;

/// A source file, with its path relative to the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    /// Returns the code without comments and without the test module at its end. A `//` in a string
    /// literal also cuts the line, which only hides the rest of the line from the rules.
    fn code(&self) -> String {
        let code = self
            .text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        code.lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Returns `cache` for `src/cache/fill/mod.rs`, and `app` for `src/app/mod.rs`.
    fn folder(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split(['/', '.']).next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file below `dir` with one of these `endings`.
fn read(dir: &str, endings: &[&str]) -> Vec<Source> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join(dir), &mut files);
    files.sort();
    files
        .iter()
        .filter_map(|path| {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
            let wanted = endings.iter().any(|ending| relative.ends_with(ending));
            wanted.then(|| Source::new(relative, &fs::read_to_string(path).unwrap()))
        })
        .collect()
}

/// Fails with all violations of `rule` in `sources`.
fn hold(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    assert!(!sources.is_empty(), "no source was found");
    let broken: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            rule(source)
                .into_iter()
                .map(|what| format!("{}: {what}", source.path))
        })
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Returns the words of a text: runs of letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

// ---- unsafe ----------------------------------------------------------------------------------------------------------

fn unsafe_is_in_its_place(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut wrong = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !words(code).any(|word| word == "unsafe") {
            continue;
        }
        if source.folder() != "sys" {
            wrong.push(format!("line {}: `unsafe` is for `src/sys/` only", at + 1));
        }
        let comment = lines[..at]
            .iter()
            .rev()
            .map(|line| line.trim_start())
            .take_while(|line| line.starts_with("//"));
        if !comment.into_iter().any(|line| line.starts_with("// SAFETY:")) {
            wrong.push(format!("line {}: no SAFETY comment directly above", at + 1));
        }
    }
    wrong
}

#[test]
fn unsafe_is_only_in_sys_and_says_why_it_is_sound() {
    let sound = "// SAFETY: open for as long as `self`\n// lives.\nunsafe { f() }\n";
    assert!(unsafe_is_in_its_place(&Source::new("src/sys/a.rs", sound)).is_empty());
    assert_eq!(
        unsafe_is_in_its_place(&Source::new("src/cache/a.rs", sound)).len(),
        1
    );
    let bare = "// Fast.\nlet x = unsafe { f() };\n";
    assert_eq!(
        unsafe_is_in_its_place(&Source::new("src/sys/a.rs", bare)).len(),
        1
    );
    hold(&read("src", &[".rs"]), unsafe_is_in_its_place);
}

// ---- imports ---------------------------------------------------------------------------------------------------------

/// Returns the folders of the crate that a text imports by `crate::`, including groups in braces.
fn imports(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(words(rest).next());
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => begins |= depth == 0,
                c if begins && depth == 0 && !c.is_whitespace() => {
                    found.extend(words(&group[at..]).next());
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn imports_follow_the_arrows(source: &Source) -> Vec<String> {
    let folder = source.folder();
    if source.is_test() || matches!(folder, "main" | "lib") {
        return Vec::new();
    }
    let allowed = ARROWS
        .iter()
        .find(|(from, _)| *from == folder)
        .map_or(&[][..], |(_, to)| to);
    imports(&source.code())
        .into_iter()
        .filter(|&to| to != folder && !FOR_ALL.contains(&to) && !allowed.contains(&to))
        .map(|to| {
            format!("`{folder}` may not import `{to}`; see ARROWS and docs/explanation/architecture.md")
        })
        .collect()
}

#[test]
fn imports_between_folders_are_in_the_table_of_allowed_imports() {
    let text =
        "use crate::{limits::A, cache::{B, c::D},\n    oci};\nuse crate::store::{E, F};\n// crate::app\n";
    let source = Source::new("src/server/h1/a.rs", text);
    let code = source.code();
    let found: Vec<&str> = imports(&code).into_iter().collect();
    assert_eq!(found, ["cache", "limits", "oci", "store"], "{text}");
    assert_eq!(imports_follow_the_arrows(&source).len(), 3);
    assert_eq!(
        imports_follow_the_arrows(&Source::new("src/store/fs/a.rs", text)).len(),
        1
    );
    hold(&read("src", &[".rs"]), imports_follow_the_arrows);
}

#[test]
fn every_allowed_import_is_used_and_documented() {
    let sources = read("src", &[".rs"]);
    let drawing = fs::read_to_string(root().join("docs/explanation/architecture.md")).unwrap();
    for (from, to) in ARROWS {
        let used: BTreeSet<String> = sources
            .iter()
            .filter(|source| source.folder() == *from && !source.is_test())
            .flat_map(|source| {
                imports(&source.code())
                    .into_iter()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        for to in *to {
            assert!(
                used.contains(*to),
                "`{from}` does not import `{to}`; remove `{to}` from ARROWS"
            );
        }
        if *from == "app" {
            continue;
        }
        let line = drawing
            .lines()
            .find(|line| words(line).next() == Some(from) && line.contains("->"))
            .unwrap_or_else(|| panic!("docs/explanation/architecture.md does not list `{from}`"));
        let drawn: BTreeSet<&str> = words(line.split_once("->").unwrap().1).collect();
        assert_eq!(
            drawn,
            to.iter().copied().collect(),
            "docs/explanation/architecture.md: {line}"
        );
    }
}

// ---- leftovers -------------------------------------------------------------------------------------------------------

fn leftovers(source: &Source) -> Vec<String> {
    // Assembled from parts, so that this file does not violate the rule.
    let words_of_haste = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|parts| parts.concat());
    let macros = [["todo", "!("], ["unimplemented", "!("], ["dbg", "!("]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        if words(line).any(|word| words_of_haste.iter().any(|haste| haste == word))
            || macros.iter().any(|name| line.contains(name.as_str()))
        {
            wrong.push(format!("line {}: unfinished code: {}", at + 1, line.trim()));
        }
    }
    wrong
}

#[test]
fn no_todo_markers_or_unfinished_macros_remain() {
    let haste = ["// TO", "DO: later\n"].concat();
    assert_eq!(leftovers(&Source::new("a.rs", &haste)).len(), 1);
    let unfinished = ["fn f() { unimplemented", "!() }\n"].concat();
    assert_eq!(leftovers(&Source::new("a.rs", &unfinished)).len(), 1);
    assert!(leftovers(&Source::new("a.rs", "let toddler = \"methods\";\n")).is_empty());
    for dir in ["src", "tests", "benches", "scripts", "docs"] {
        hold(&read(dir, &[".rs", ".sh", ".py", ".md"]), leftovers);
    }
}

/// Finds words about the development process instead of the product.
fn workshop_words(source: &Source) -> Vec<String> {
    let places = [["/wo", "rk/"], ["/tmp/", "wt"], ["/home/", "user"]].map(|parts| parts.concat());
    let numbered = [["issue", " #"], ["issue", " no"], ["pull request", " #"]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        let lower = line.to_lowercase();
        let found = places
            .iter()
            .chain(&numbered)
            .find(|word| lower.contains(word.as_str()));
        let session = ["this se", "ssion"].concat();
        if let Some(word) = found.or(Some(&session).filter(|word| lower.contains(word.as_str()))) {
            wrong.push(format!(
                "line {}: {word:?} is about the development process",
                at + 1
            ));
        }
    }
    wrong
}

#[test]
fn texts_do_not_mention_the_development_process() {
    let told = ["// See issue", " #7 in /wo", "rk/notes.\n"].concat();
    assert_eq!(workshop_words(&Source::new("a.rs", &told)).len(), 1);
    assert!(workshop_words(&Source::new("a.rs", "// A TLS session; work/day\n")).is_empty());
    for dir in ["src", "tests", "benches", "scripts", "docs", "fuzz/fuzz_targets"] {
        hold(&read(dir, &[".rs", ".sh", ".py", ".md", ".toml"]), workshop_words);
    }
    hold(&documents(), workshop_words);
    for name in ["Cargo.toml", ".clippy.toml", ".deny.toml"] {
        hold(&[Source::new(name, &page(name))], workshop_words);
    }
}

// ---- shape -----------------------------------------------------------------------------------------------------------

fn begins_with_its_head(source: &Source) -> Vec<String> {
    let sound = source.text.starts_with("//! ");
    if sound {
        Vec::new()
    } else {
        vec!["the file does not start with a `//!` comment".into()]
    }
}

#[test]
fn every_file_begins_with_a_module_comment() {
    assert_eq!(
        begins_with_its_head(&Source::new("a.rs", "use std::fs;\n")).len(),
        1
    );
    assert_eq!(
        begins_with_its_head(&Source::new("a.rs", "\n//! Late.\n")).len(),
        1
    );
    assert!(begins_with_its_head(&Source::new("a.rs", "//! Early.\n")).is_empty());
    hold(&read("src", &[".rs"]), begins_with_its_head);
    hold(&read("tests/it", &[".rs"]), begins_with_its_head);
}

fn is_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > LINES_MAX && !LONG.contains(&source.path.as_str()) {
        vec![format!(
            "{lines} lines; expected at most {LINES_MAX}; split the file"
        )]
    } else {
        Vec::new()
    }
}

#[test]
fn files_are_short() {
    let long = "\n".repeat(LINES_MAX + 1);
    assert_eq!(is_short(&Source::new("src/a.rs", &long)).len(), 1);
    assert!(is_short(&Source::new(LONG[0], &long)).is_empty());
    hold(&read("src", &[".rs"]), is_short);
}

// ---- restricted names ----------------------------------------------------------------------------------------------

fn names_tokio(source: &Source) -> bool {
    words(&source.code()).any(|word| word == "tokio")
}

fn reads_a_clock(source: &Source) -> bool {
    let code = source.code();
    ["SystemTime::now", "Instant::now"]
        .iter()
        .any(|name| code.contains(name))
}

/// Compares the files with a property with the list of allowed files.
fn only(list: &[&str], does: impl Fn(&Source) -> bool) {
    let found: Vec<String> = read("src", &[".rs"])
        .into_iter()
        .filter(|source| !source.is_test() && does(source))
        .map(|source| source.path)
        .collect();
    assert_eq!(
        found, list,
        "left: files with the construct, right: files that may have the construct"
    );
}

#[test]
fn tokio_is_named_only_where_the_helper_pool_works() {
    assert!(names_tokio(&Source::new("a.rs", "use tokio::sync::Notify;\n")));
    assert!(!names_tokio(&Source::new(
        "a.rs",
        "// No tokio here.\nuse crate::a;\n"
    )));
    only(TOKIO, names_tokio);
}

#[test]
fn clocks_are_read_only_where_the_list_says() {
    assert!(reads_a_clock(&Source::new("a.rs", "let now = Instant::now();\n")));
    let test_only = "fn f() {}\n#[cfg(test)]\nmod tests {\n    Instant::now();\n}\n";
    assert!(!reads_a_clock(&Source::new("a.rs", test_only)));
    only(CLOCKS, reads_a_clock);
}

// ---- reference pages --------------------------------------------------------------------------------------------------

/// Returns the text of a file of the repository.
fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the rows of each table whose first heading is `heading`, as cells without backticks.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let head = format!("| {heading} |");
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line.starts_with(&head)) {
        let body = lines
            .by_ref()
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|row| {
                let cells = row.trim_matches('|').split('|');
                cells
                    .map(|cell| cell.trim().trim_matches('`').to_owned())
                    .collect()
            });
        rows.extend(body.collect::<Vec<_>>());
    }
    rows
}

/// Returns `(flag, environment, default)` of each setting in `--help`.
fn settings_of_help(text: &str) -> Vec<[String; 3]> {
    text.lines()
        .filter(|line| line.starts_with("  --"))
        .map(|line| {
            let mut columns = line.split_whitespace().map(str::to_owned);
            std::array::from_fn(|_| columns.next().unwrap_or_default())
        })
        .collect()
}

const CONFIGURATION: &str = "docs/reference/configuration.md";

#[test]
fn configuration_page_help_and_code_name_the_same_settings() {
    let table = "x\n| Environment | Flag |\n|---|---|\n| `A_B` | `1` |\n| `C` | none |\n\n| D | E |\n|---|---|\n| f | g |\n";
    assert_eq!(rows(table, "Environment"), [["A_B", "1"], ["C", "none"]]);

    let code: Vec<[String; 4]> = Setting::ALL
        .iter()
        .map(|setting| {
            [
                setting.env().to_owned(),
                format!("--{}", setting.flag()),
                setting.key().unwrap_or("–").to_owned(),
                setting.default_text().to_owned(),
            ]
        })
        .collect();
    let page: Vec<Vec<String>> = rows(&page(CONFIGURATION), "Environment")
        .into_iter()
        .map(|row| row[..4].to_vec())
        .collect();
    assert_eq!(
        page, code,
        "left: {CONFIGURATION}, right: the settings of the code"
    );

    let home = TempDir::new();
    let output = Server::command(&home.path, &home.path.join("store"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success());
    let help = settings_of_help(&String::from_utf8(output.stdout).unwrap());
    let code: Vec<[String; 3]> = code
        .into_iter()
        .map(|[env, flag, _, default]| [flag, env, default])
        .collect();
    assert_eq!(help, code, "left: --help, right: the settings of the code");
}

/// Values of settings.
type Given = Vec<(Setting, String)>;

/// Returns two configurations that differ in `setting`.
fn change(setting: Setting, home: &Path) -> (Given, Given) {
    let file = |name: &str| home.join(name).display().to_string();
    let with = |pairs: &[(Setting, &str)]| -> Given {
        pairs
            .iter()
            .map(|&(setting, text)| (setting, text.to_owned()))
            .collect()
    };
    let tls = |n: u8| {
        let (cert, key) = (file(&format!("tls{n}.crt")), file(&format!("tls{n}.key")));
        vec![(Setting::TlsCertFile, cert), (Setting::TlsKeyFile, key)]
    };
    let ca = |text: &str| {
        let mut all = tls(1);
        all.push((Setting::TlsClientCaFile, file("ca.crt")));
        all.push((Setting::TlsClientAuth, text.to_owned()));
        all
    };
    let user = |name: &str, password: Setting, text: &str| {
        vec![
            (Setting::AuthUsername, name.to_owned()),
            (password, text.to_owned()),
        ]
    };
    let bucket = |setting: Setting, text: &str| {
        let base = with(&[(Setting::StorageBackend, "s3")]);
        let mut changed = base.clone();
        changed.push((setting, text.to_owned()));
        (base, changed)
    };
    let text = match setting {
        Setting::TlsCertFile | Setting::TlsKeyFile => return (tls(1), tls(2)),
        Setting::TlsClientCaFile => return (tls(1), ca("verify")),
        Setting::TlsClientAuth => return (ca("verify"), ca("optional")),
        Setting::GenerateSelfSignedTls => return (tls(1), with(&[(setting, "true")])),
        Setting::AuthUsername => {
            let password = Setting::AuthPassword;
            return (user("a", password, "p"), user("b", password, "p"));
        }
        Setting::AuthPassword => return (user("a", setting, "p"), user("a", setting, "q")),
        Setting::AuthPasswordFile => {
            return (
                user("a", Setting::AuthPassword, "p"),
                user("a", setting, &file("password")),
            );
        }
        Setting::AuthHtpasswdFile => return (Vec::new(), vec![(setting, file("users"))]),
        Setting::SpoolDir => return bucket(setting, &file("spool")),
        Setting::S3Bucket | Setting::S3Prefix => return bucket(setting, "another"),
        Setting::S3ForcePathStyle => return bucket(setting, "false"),
        Setting::S3LifecycleDays => return bucket(setting, "7"),
        Setting::S3Redirect => return bucket(setting, "true"),
        Setting::LegacyAdmin => {
            let base = user("a", Setting::AuthPassword, "p");
            let mut changed = base.clone();
            changed.push((setting, "true".to_owned()));
            return (base, changed);
        }
        Setting::FsRoot => file("root"),
        Setting::ListenAddr => ":1".into(),
        Setting::KernelTls => "auto".into(),
        Setting::IoDriver => "epoll".into(),
        Setting::StorageBackend => "tiered".into(),
        Setting::DefaultRegistry => "quay.io".into(),
        Setting::BaseUrl => "https://cache.example".into(),
        Setting::LogLevel => "debug".into(),
        Setting::LogFormat => "json".into(),
        Setting::LogFile => file("cache.log"),
        Setting::AdminAddr | Setting::HealthAddr | Setting::MetricsAddr => "127.0.0.1:7".into(),
        Setting::AdminTokensFile => file("tokens"),
        Setting::PreloadImages | Setting::ImageFile => file("images"),
        Setting::LoadPlatforms => "all".into(),
        Setting::PullTimeout | Setting::PrefetchTimeout => "7s".into(),
        Setting::Prefetch => "config".into(),
        Setting::BackgroundBandwidth => "7m".into(),
        Setting::MemoryBudget | Setting::MemoryCache => "128MiB".into(),
        Setting::CacheMaxSize | Setting::CacheMinFree | Setting::CacheMaxObjectSize => "80%".into(),
        Setting::ScrubInterval => "7d".into(),
        Setting::ScrubRate => "7m".into(),
        Setting::VerifyOnOpen => "first".into(),
        Setting::TagTtl | Setting::StaleWhileRevalidate => "7s".into(),
        Setting::DrainTimeout | Setting::DrainDelay => "7s".into(),
        Setting::Cores | Setting::HelperThreads => "7".into(),
        Setting::MaxConnections | Setting::MaxConnectionsPerClient => "77".into(),
        _ if setting.is_switch() && matches!(setting.default_text(), "true" | "on") => "false".into(),
        _ if setting.is_switch() => "true".into(),
        _ => panic!("{}: no changed value; add a value here", setting.env()),
    };
    (Vec::new(), vec![(setting, text)])
}

#[test]
fn configuration_page_states_the_reload_class_of_each_setting() {
    let home = TempDir::new();
    let pki = root().join("tests/fixtures/config/pki");
    for (from, to) in [
        ("client.crt", "tls1.crt"),
        ("client.key", "tls1.key"),
        ("client.crt", "tls2.crt"),
        ("client.key", "tls2.key"),
        ("ca.crt", "ca.crt"),
    ] {
        fs::copy(pki.join(from), home.path.join(to)).unwrap();
    }
    fs::write(home.path.join("password"), "q\n").unwrap();
    let user = "alice:$2y$04$abcdefghijklmnopqrstuuZVtbkHNIzXDySbF5.qVDcG5jZkm0QVG\n";
    fs::write(home.path.join("users"), user).unwrap();
    let environment = Environment {
        env: &|_| None,
        ..Environment::of_process()
    }
    .looking_only();
    let resolved = |given: Given| {
        let mut flags = Layer::default();
        for (setting, text) in given {
            flags.insert_flag(setting, text);
        }
        resolve(flags, environment).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
    };
    let rows = rows(&page(CONFIGURATION), "Environment");
    for (setting, row) in Setting::ALL.into_iter().zip(rows) {
        // The flags and the environment of a process never change.
        let class = if setting == Setting::ConfigFile {
            "restart"
        } else {
            let (old, new) = change(setting, &home.path);
            let names = resolved(old).needs_restart(&resolved(new));
            if names.is_empty() { "reload" } else { "restart" }
        };
        assert_eq!(row[4], class, "{CONFIGURATION}: {}", setting.env());
    }
}

/// Returns the exit codes in a source of the command line: `const EXIT_…: u8 = …;`.
fn exit_codes(code: &str) -> BTreeSet<String> {
    code.split("const EXIT_")
        .skip(1)
        .filter_map(|rest| rest.split_once('=')?.1.split_once(';'))
        .map(|(number, _)| number.trim().to_owned())
        .collect()
}

#[test]
fn exit_code_page_names_every_code() {
    assert_eq!(
        exit_codes("const EXIT_A: u8 = 7;\nconst EXIT_B: u8 = 8;\n"),
        BTreeSet::from(["7".into(), "8".into()])
    );
    let source = Source::new("src/cli/mod.rs", &page("src/cli/mod.rs"));
    let mut code = exit_codes(&source.code());
    assert!(!code.is_empty());
    code.extend(["0", "1", "SIGABRT"].map(str::to_owned));
    let named: BTreeSet<String> = rows(&page("docs/reference/exit-codes.md"), "Code")
        .into_iter()
        .map(|mut row| row.swap_remove(0))
        .collect();
    assert_eq!(named, code, "left: docs/reference/exit-codes.md, right: the code");
}

/// Returns the header names that a source adds to responses: `.with("Name"`, `.add("Name"`, and
/// `Name: ` at the start of a line of a prepared head.
fn response_headers(code: &str) -> BTreeSet<String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let calls = [".with(", ".add("]
        .into_iter()
        .flat_map(|call| code.split(call).skip(1));
    let called = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
    let prepared = code
        .split("\\r\\n")
        .flat_map(|rest| rest.split("b\""))
        .filter_map(|rest| rest.trim_start_matches(['\\', '\n', ' ']).split_once(": "));
    called
        .chain(prepared)
        .map(|(name, _)| name)
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn response_header_page_names_every_header() {
    let code = "f.add(\n    \"A-B\",\n    1);\nf.with(\"C\", 2);\nb\"HTTP/1.1 200\\r\\n\\\n    D-E: 1\\r\\n\"; b\"F: x\"";
    let names: Vec<String> = response_headers(code).into_iter().collect();
    assert_eq!(names, ["A-B", "C", "D-E", "F"]);

    let mut sent = BTreeSet::new();
    for dir in ["src/registry", "src/server"] {
        for source in read(dir, &[".rs"]).iter().filter(|source| !source.is_test()) {
            sent.extend(response_headers(&source.code()));
        }
    }
    let named: BTreeSet<String> = rows(&page("docs/reference/response-headers.md"), "Header")
        .into_iter()
        .filter(|row| row.len() == 3)
        .map(|mut row| row.swap_remove(0))
        .collect();
    assert_eq!(
        named, sent,
        "left: docs/reference/response-headers.md, right: the code"
    );
}

/// Returns the constants of a source, each with its expression.
fn constants(text: &str) -> BTreeMap<&str, &str> {
    text.split("pub const ")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once(':')?;
            let (_, value) = rest.split_once('=')?;
            Some((name, value.split_once(';')?.0.trim()))
        })
        .collect()
}

/// Evaluates a sum of products, with durations in milliseconds. Panics at any other expression.
fn evaluated(expression: &str, all: &BTreeMap<&str, &str>) -> u64 {
    let expression = expression.replace(" as u64", "").replace(" as usize", "");
    if let Some((left, right)) = expression.split_once(" + ") {
        return evaluated(left, all) + evaluated(right, all);
    }
    if let Some((left, right)) = expression.rsplit_once(" - ") {
        return evaluated(left, all) - evaluated(right, all);
    }
    let factor = |text: &str| {
        let argument = |call: &str| text.strip_prefix(call)?.strip_suffix(')');
        if let Some(seconds) = argument("Duration::from_secs(") {
            evaluated(seconds, all) * 1_000
        } else if let Some(millis) = argument("Duration::from_millis(") {
            evaluated(millis, all)
        } else if let Some(other) = all.get(text) {
            evaluated(other, all)
        } else {
            let digits = text.replace('_', "");
            digits
                .parse()
                .unwrap_or_else(|_| panic!("cannot evaluate {text}"))
        }
    };
    expression.split(" * ").map(|text| factor(text.trim())).product()
}

/// Returns the spellings of a value on a page.
fn spellings(value: u64, is_duration: bool) -> Vec<String> {
    if is_duration {
        return match value % 1_000 {
            0 => vec![format!("{} s", value / 1_000)],
            _ => vec![format!("{value} ms")],
        };
    }
    let digits = value.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let sizes = units
        .iter()
        .filter(|(_, size)| value.is_multiple_of(*size))
        .map(|(unit, size)| format!("{} {unit}", value / size));
    std::iter::once(grouped).chain(sizes).collect()
}

/// Whether a cell of a page begins with a spelling of the value.
fn states(cell: &str, spellings: &[String]) -> bool {
    let ends = |rest: &str| {
        rest.is_empty()
            || rest.starts_with([',', ';'])
            || rest.starts_with(" per ")
            || rest.starts_with(" and ")
    };
    spellings
        .iter()
        .any(|spelling| cell.strip_prefix(spelling.as_str()).is_some_and(ends))
}

#[test]
fn limits_page_states_the_values_of_the_code() {
    let text = "pub const A: u64 = 4 * 1_024;\npub const B: Duration = Duration::from_secs(90);\npub const C: u64 = 2 * A as u64 + 64;\n";
    let all = constants(text);
    assert_eq!(evaluated("C", &all), 8_256);
    assert_eq!(spellings(evaluated("A", &all), false), ["4,096", "4 KiB"]);
    assert_eq!(spellings(evaluated("B", &all), true), ["90 s"]);
    assert!(states("4 KiB per second", &["4 KiB".into()]));
    assert!(!states("4 KiB", &["4".into()]));

    let texts = [page("src/limits.rs"), page("src/server/h1/parse.rs")];
    let all: BTreeMap<&str, &str> = texts.iter().flat_map(|text| constants(text)).collect();
    let rows = rows(&page("docs/reference/limits.md"), "Limit");
    assert!(rows.len() > 40, "{}", rows.len());
    for row in rows.iter().filter(|row| row.len() == 4 && !row[3].is_empty()) {
        let name = row[3].as_str();
        let expression = all
            .get(name)
            .unwrap_or_else(|| panic!("docs/reference/limits.md: no constant {name}"));
        let is_duration = expression.contains("Duration::");
        let expected = spellings(evaluated(name, &all), is_duration);
        assert!(
            states(&row[1], &expected),
            "docs/reference/limits.md: {name} is {:?}, expected one of {expected:?}",
            row[1]
        );
    }
}

// ---- links -----------------------------------------------------------------------------------------------------------

/// Returns Markdown without its code blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the anchors of the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            let kept = kept
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Returns the targets of the links of a page.
fn links(text: &str) -> Vec<String> {
    prose(text)
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

fn links_lead_somewhere(source: &Source) -> Vec<String> {
    let here = root().join(&source.path);
    links(&source.text)
        .into_iter()
        .filter(|link| {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => here.clone(),
                path => here.parent().unwrap().join(path),
            };
            let has_anchor = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                anchor.is_empty() || anchors(&text).contains(anchor)
            };
            !target.exists() || !has_anchor()
        })
        .map(|link| format!("the link {link} has no target"))
        .collect()
}

#[test]
fn links_in_the_documents_have_existing_targets() {
    let text = "# A `b` c!\n[x](#a-b-c) [y](https://y) [z](none.md)\n```\n[w](w.md)\n```\n";
    assert_eq!(
        links_lead_somewhere(&Source::new("README.md", "[a](#nothing)")).len(),
        1
    );
    assert_eq!(links(text), ["#a-b-c", "none.md"]);
    assert!(anchors(text).contains("a-b-c"));
    hold(&documents(), links_lead_somewhere);
}

/// Returns every user-visible Markdown page.
fn documents() -> Vec<Source> {
    let mut pages = read("docs", &[".md"]);
    for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
        pages.push(Source::new(name, &page(name)));
    }
    pages
}
