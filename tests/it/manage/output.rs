//! The formats of the output: `--output` and `--json` of all commands.

use serde_json::Value;

use super::{fails, name, run, two_images};
use crate::harness::*;

#[track_caller]
fn text(cache: &Server, arguments: &[&str]) -> String {
    let output = run(cache, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("the output is text")
}

#[test]
fn every_command_has_the_same_formats() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    cache.wait_stderr("store scanned");
    two_images(&cache, &upstream);
    let (v1, v2) = (name(&upstream, ":v1"), name(&upstream, ":v2"));
    text(&cache, &["pin", &v2]);
    text(&cache, &["verify", "--rate", "0", "--quiet"]);
    for command in [
        &["list"][..],
        &["purge", &v1, "--dry-run"],
        &["prune", "--all", "--dry-run"],
        &["pin"],
        &["explain", &v1],
        &["stats"],
        &["verify", "--rate", "0", "--quiet"],
        &["jobs"],
    ] {
        let json = text(&cache, &[command, &["--output", "json"]].concat());
        let value: Value =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{command:?}: {error}: {json}"));
        assert!(value.is_object() || value.is_array(), "{command:?}: {json}");
        let short: Value =
            serde_json::from_str(&text(&cache, &[command, &["--json"]].concat())).expect("JSON");
        assert_eq!(short.is_object(), value.is_object(), "{command:?}");
        let table = text(&cache, &[command, &["--output", "table"]].concat());
        let wide = text(&cache, &[command, &["--output=wide"]].concat());
        assert!(
            !table.is_empty() && wide.len() >= table.len(),
            "{command:?}: {table}{wide}"
        );
        assert!(
            serde_json::from_str::<Value>(&table).is_err(),
            "{command:?}: {table}"
        );
        fails(
            &cache,
            2,
            "cannot be used with",
            &[command, &["--json", "--output", "table"]].concat(),
        );
        fails(
            &cache,
            2,
            "possible values: table, wide, json, name",
            &[command, &["--output", "xml"]].concat(),
        );
    }
    for (command, names) in [
        (&["list"][..], format!("{v1}\n{v2}\n")),
        (&["purge", &v1, "--dry-run"], format!("{v1}\n")),
        (&["prune", "--all", "--dry-run"], format!("{v1}\n")),
        (&["pin"], format!("{v2}\n")),
        (&["pin", &v2], format!("{v2}\n")),
        (&["verify", "--rate", "0", "--quiet"], String::new()),
    ] {
        let printed = text(&cache, &[command, &["--output", "name"]].concat());
        assert_eq!(printed, names, "{command:?}");
    }
    let jobs = text(&cache, &["jobs", "--output", "name"]);
    assert!(jobs.lines().all(|line| line.parse::<u64>().is_ok()), "{jobs}");
    for command in [&["stats"][..], &["explain", &v1]] {
        fails(
            &cache,
            2,
            "table, wide or json",
            &[command, &["--output", "name"]].concat(),
        );
    }
    let pinned: Value = serde_json::from_str(&text(&cache, &["pin", &v2, "--json"])).expect("JSON");
    assert_eq!(pinned, serde_json::json!({"pin": v2, "changed": false}));
}
