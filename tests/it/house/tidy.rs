//! House rules about the sources, as tests. Each rule is a function from a text to what is wrong with it, and
//! each is tried on a text that breaks it before it is trusted with the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Server;
use crate::harness::server::TempDir;

/// Who may import whom below `src/`; `docs/ARCHITECTURE.md` draws and explains it. `limits`, `fail_point` and `log` are for all, `app` is in
/// nobody's list but the command line's, and what is not listed may import nothing of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["app", "config", "upstream"]),
    (
        "app",
        &[
            "auth", "cache", "config", "registry", "runtime", "server", "sys", "systemd", "upstream",
        ],
    ),
    ("systemd", &["sys"]),
    ("server", &["http", "runtime", "sys"]),
    (
        "registry",
        &[
            "auth", "cache", "config", "http", "oci", "runtime", "server", "store", "upstream",
        ],
    ),
    ("auth", &["config", "http", "oci", "runtime"]),
    (
        "cache",
        &["config", "http", "oci", "runtime", "store", "sys", "upstream"],
    ),
    ("store", &["config", "oci"]),
    ("upstream", &["config", "oci"]),
    ("config", &["oci"]),
];

/// What every folder may import: it knows nothing of ours itself.
const FOR_ALL: &[&str] = &["anchor", "fail_point", "limits", "log", "lru"];

/// Where Tokio may be named: code that runs on the helper pool, or that a core shares with it.
const TOKIO: &[&str] = &[
    "src/cache/body_channel.rs",
    "src/cache/bucket.rs",
    "src/cache/fill/disk_writer.rs",
    "src/cache/fill/mod.rs",
    "src/cache/fill/source.rs",
    "src/cache/fill/watch.rs",
    "src/cache/fill/writer.rs",
    "src/cache/listing/mod.rs",
    "src/cache/manifest/fetch.rs",
    "src/cache/manifest/mod.rs",
    "src/cache/mod.rs",
    "src/cache/passthrough.rs",
    "src/cache/slots.rs",
    "src/cache/upload_queue.rs",
    "src/runtime/helper.rs",
    "src/runtime/single_flight.rs",
    "src/server/h2/io.rs",
    "src/store/s3/find.rs",
    "src/store/s3/mod.rs",
    "src/store/s3/object.rs",
    "src/store/s3/open.rs",
    "src/store/s3/pool.rs",
    "src/store/s3/read.rs",
    "src/store/s3/upload.rs",
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

/// Where a clock may be read other than through `runtime::clock`: deadlines away from the cores, and the moment at
/// which a scan began, which is compared with times of files.
const CLOCKS: &[&str] = &[
    "src/app/stop.rs",
    "src/cache/fill/watch.rs",
    "src/cache/fill/writer.rs",
    "src/cli/healthcheck.rs",
    "src/fail_point.rs",
    "src/log/queue.rs",
    "src/server/listen.rs",
    "src/store/fs/scan.rs",
    "src/store/s3/find.rs",
    "src/store/s3/object.rs",
    "src/store/s3/records.rs",
    "src/store/s3/upload.rs",
    "src/upstream/auth/credential_source.rs",
    "src/upstream/auth/token.rs",
    "src/upstream/authenticate.rs",
    "src/upstream/challenger.rs",
    "src/upstream/heads.rs",
    "src/upstream/lookups.rs",
    "src/upstream/mod.rs",
    "src/upstream/response.rs",
];

/// Files that may be longer than [`LINES_MAX`]: tables of cases are most of each.
const LONG: &[&str] = &["src/server/h1/parse.rs", "src/upstream/tests.rs"];

const LINES_MAX: usize = 700;

/// One source file, path relative to the root of the repository.
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

    /// The code without comments and without the tests at its end. A `//` in a string literal ends a line too,
    /// which hides the rest of that line from the rules and costs nothing.
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

    /// `cache` of `src/cache/fill/mod.rs`, `app` of `src/app/mod.rs`.
    fn folder(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split(['/', '.']).next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` that ends in one of `endings`.
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

/// Fails with all that `rule` says about `sources`.
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

/// The words of a text: runs of letters, digits and `_`.
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
            wrong.push(format!("line {}: no SAFETY comment right above", at + 1));
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

/// The folders of ours a text names by `crate::`, groups in braces included.
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
        .map(|to| format!("`{folder}` may not know `{to}`; see ARROWS and docs/ARCHITECTURE.md"))
        .collect()
}

#[test]
fn imports_between_folders_follow_the_arrows() {
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
fn every_arrow_is_needed_and_drawn() {
    let sources = read("src", &[".rs"]);
    let drawing = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
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
                "`{from}` does not use `{to}`: remove the arrow"
            );
        }
        if *from == "app" {
            continue;
        }
        let line = drawing
            .lines()
            .find(|line| words(line).next() == Some(from) && line.contains("->"))
            .unwrap_or_else(|| panic!("docs/ARCHITECTURE.md does not draw `{from}`"));
        let drawn: BTreeSet<&str> = words(line.split_once("->").unwrap().1).collect();
        assert_eq!(
            drawn,
            to.iter().copied().collect(),
            "docs/ARCHITECTURE.md: {line}"
        );
    }
}

// ---- leftovers -------------------------------------------------------------------------------------------------------

fn leftovers(source: &Source) -> Vec<String> {
    // Put together here, so that this file does not break its own rule.
    let words_of_haste = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|parts| parts.concat());
    let macros = [["todo", "!("], ["unimplemented", "!("], ["dbg", "!("]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        if words(line).any(|word| words_of_haste.iter().any(|haste| haste == word))
            || macros.iter().any(|name| line.contains(name.as_str()))
        {
            wrong.push(format!("line {}: left over: {}", at + 1, line.trim()));
        }
    }
    wrong
}

#[test]
fn nothing_is_left_for_later() {
    let haste = ["// TO", "DO: later\n"].concat();
    assert_eq!(leftovers(&Source::new("a.rs", &haste)).len(), 1);
    let unfinished = ["fn f() { unimplemented", "!() }\n"].concat();
    assert_eq!(leftovers(&Source::new("a.rs", &unfinished)).len(), 1);
    assert!(leftovers(&Source::new("a.rs", "let toddler = \"methods\";\n")).is_empty());
    for dir in ["src", "tests", "benches", "scripts", "docs"] {
        hold(&read(dir, &[".rs", ".sh", ".py", ".md"]), leftovers);
    }
}

/// Words that tell of how the project is made instead of what it is.
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
                "line {}: {word:?} is of the workshop, not of the product",
                at + 1
            ));
        }
    }
    wrong
}

#[test]
fn no_text_tells_of_the_workshop() {
    let told = ["// See issue", " #7 in /wo", "rk/notes.\n"].concat();
    assert_eq!(workshop_words(&Source::new("a.rs", &told)).len(), 1);
    assert!(workshop_words(&Source::new("a.rs", "// A TLS session; work/day\n")).is_empty());
    for dir in ["src", "tests", "benches", "scripts", "docs", "fuzz/fuzz_targets"] {
        hold(&read(dir, &[".rs", ".sh", ".py", ".md", ".toml"]), workshop_words);
    }
    for name in ["README.md", "Cargo.toml", ".clippy.toml", ".deny.toml"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        hold(&[Source::new(name, &text)], workshop_words);
    }
}

// ---- shape -----------------------------------------------------------------------------------------------------------

fn begins_with_its_head(source: &Source) -> Vec<String> {
    let sound = source.text.starts_with("//! ");
    if sound {
        Vec::new()
    } else {
        vec!["a file begins with `//!` and what it is".into()]
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
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
            "{lines} lines; more than {LINES_MAX} are two nouns in one file"
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

// ---- what only some files may name ---------------------------------------------------------------------------------

fn names_tokio(source: &Source) -> bool {
    words(&source.code()).any(|word| word == "tokio")
}

fn reads_a_clock(source: &Source) -> bool {
    let code = source.code();
    ["SystemTime::now", "Instant::now"]
        .iter()
        .any(|name| code.contains(name))
}

/// Compares the files that do something with the list of those that may.
fn only(list: &[&str], does: impl Fn(&Source) -> bool) {
    let found: Vec<String> = read("src", &[".rs"])
        .into_iter()
        .filter(|source| !source.is_test() && does(source))
        .map(|source| source.path)
        .collect();
    assert_eq!(found, list, "left: files that do, right: files that may");
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

// ---- settings --------------------------------------------------------------------------------------------------------

/// `(environment, default)` of each row of the README's table, in order.
fn settings_of_readme(text: &str) -> Vec<(String, String)> {
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| environment | default |"));
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let mut cells = row
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().trim_matches('`').to_owned());
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
        })
        .collect()
}

/// `(flag, environment, default)` of each line of `--help` that shows a setting.
fn settings_of_help(text: &str) -> Vec<(String, String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("  --"))
        .map(|line| {
            let mut columns = line.split_whitespace().map(str::to_owned);
            let mut next = || columns.next().unwrap_or_default();
            (next(), next(), next())
        })
        .collect()
}

#[test]
fn readme_help_and_code_name_the_same_settings() {
    let table =
        "x\n| environment | default | |\n|---|---|---|\n| `A_B` | `1` | b |\n| `C` | none | d |\n\ny\n";
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(settings_of_readme(table), [pair("A_B", "1"), pair("C", "none")]);

    let code: Vec<(String, String)> = oci_pull_through::config::Setting::ALL
        .iter()
        .map(|setting| pair(setting.env(), setting.default_text()))
        .collect();
    let readme = settings_of_readme(&fs::read_to_string(root().join("README.md")).unwrap());
    assert_eq!(readme, code, "README.md, Configuration");

    let home = TempDir::new();
    let output = Server::command(&home.path, &home.path.join("store"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success());
    let help = settings_of_help(&String::from_utf8(output.stdout).unwrap());
    let told: Vec<(String, String)> = help.iter().map(|(_, env, default)| pair(env, default)).collect();
    assert_eq!(told, code, "--help");
    for (flag, env, _) in help {
        assert_eq!(
            flag.to_uppercase().replace('-', "_"),
            env,
            "a flag is its variable in other clothes"
        );
    }
}
