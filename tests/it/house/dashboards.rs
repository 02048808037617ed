//! The dashboards and the rules for Prometheus in `deploy/`, compared with the documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const PREFIX: &str = "oci_pull_through_";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the names of all samples that `docs/reference/metrics.md` describes.
fn documented() -> BTreeSet<String> {
    let page = text("docs/reference/metrics.md");
    let mut samples = BTreeSet::new();
    for row in page
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 6)
    {
        let columns: Vec<&str> = row
            .split('|')
            .map(|column| column.trim().trim_matches('`'))
            .collect();
        let (family, endings): (_, &[&str]) = match columns[2] {
            "counter" => (columns[1], &["_total"]),
            "histogram" => (columns[1], &["_bucket", "_sum", "_count"]),
            _ => (columns[1], &[""]),
        };
        samples.extend(endings.iter().map(|ending| format!("{family}{ending}")));
    }
    assert!(samples.len() > 40, "{samples:?}");
    samples
}

/// Returns the names of samples in an expression, without the prefix.
fn samples_in(expression: &str) -> Vec<&str> {
    let names = expression.split(PREFIX).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    names.collect()
}

fn assert_documented(place: &str, expressions: &str) {
    let known = documented();
    for name in samples_in(expressions) {
        assert!(
            known.contains(name),
            "{place}: {name} is not on the page of the metrics"
        );
    }
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let files = fs::read_dir(root().join("deploy/grafana")).expect("the dashboards");
    let dashboards: Vec<_> = files
        .map(|file| {
            let path = file.expect("an entry").path();
            let json = fs::read_to_string(&path).expect("a file of text");
            let json = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            (path, json)
        })
        .collect();
    assert!(dashboards.len() >= 4, "only {} dashboards", dashboards.len());
    dashboards
}

fn items<'a>(value: &'a Value, place: &str) -> &'a [Value] {
    value.as_array().unwrap_or_else(|| panic!("{place}: no list"))
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

#[test]
fn dashboards_have_unique_ids_and_variables_for_source_job_and_registry() {
    let mut ids = BTreeSet::new();
    for (path, dashboard) in dashboards() {
        let id = dashboard["uid"].as_str().unwrap_or_default();
        assert!(
            !id.is_empty() && ids.insert(id.to_owned()),
            "{path:?}: uid {id:?}"
        );
        let list = items(&dashboard["templating"]["list"], "variables");
        let names: Vec<&str> = list
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        assert_eq!(names, ["datasource", "job", "registry"], "{path:?}");
        assert_eq!(list[0]["type"], "datasource", "{path:?}");
    }
}

#[test]
fn panels_of_dashboards_have_titles_descriptions_units_and_a_chosen_source() {
    for (path, dashboard) in dashboards() {
        let mut titles = BTreeSet::new();
        for panel in items(&dashboard["panels"], "panels") {
            let place = format!("{path:?}, panel {}", panel["title"]);
            assert!(
                is_text(&panel["title"]) && is_text(&panel["description"]),
                "{place}"
            );
            assert!(
                titles.insert(panel["title"].to_string()),
                "{place}: a second panel"
            );
            assert!(
                is_text(&panel["fieldConfig"]["defaults"]["unit"]),
                "{place}: no unit"
            );
            let targets = items(&panel["targets"], &place);
            assert!(!targets.is_empty(), "{place}: no query");
            for source in targets.iter().chain([panel]) {
                assert_eq!(source["datasource"]["uid"], "${datasource}", "{place}");
            }
        }
    }
}

#[test]
fn queries_of_dashboards_name_documented_metrics_and_select_the_job() {
    for (path, dashboard) in dashboards() {
        for panel in items(&dashboard["panels"], "panels") {
            for target in items(&panel["targets"], "targets") {
                let expression = target["expr"].as_str().expect("an expression");
                let place = format!("{path:?}, panel {}", panel["title"]);
                assert_documented(&place, expression);
                let selected = expression.matches(r#"{job=~"$job""#).count();
                assert_eq!(selected, samples_in(expression).len(), "{place}: {expression}");
            }
        }
    }
}

#[test]
fn rules_name_documented_metrics() {
    for path in [
        "deploy/prometheus/alerts.yaml",
        "deploy/prometheus/recording-rules.yaml",
    ] {
        assert_documented(path, &text(path));
    }
}

#[test]
fn every_alert_has_a_duration_a_severity_a_runbook_and_a_test() {
    let rules = text("deploy/prometheus/alerts.yaml");
    let tests = text("deploy/prometheus/tests/alerts.yaml");
    let runbooks = text("docs/how-to/alerts.md");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        for part in ["\n        for: ", "labels: {severity: ", "\n          summary: "] {
            assert!(alert.contains(part), "{name}: no {part:?}");
        }
        let anchor = format!("runbook_url: docs/how-to/alerts.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&anchor), "{name}: expected {anchor}");
        assert!(
            runbooks.contains(&format!("\n## {name}\n")),
            "docs/how-to/alerts.md has no {name}"
        );
        let fires = format!("      - alertname: {name}\n");
        let silent = format!("      - {{alertname: {name}, ");
        assert!(
            tests.contains(&fires) && tests.contains(&silent),
            "{name} has no test"
        );
    }
}
