//! The text of `--help`: one screen, generated from the table of settings.

use std::fmt::Write;

use crate::config::{Group, Setting};

const HEAD: &str = "\
A pull-only, pull-through cache for OCI registries.

Usage: oci-pull-through [COMMAND] [--FLAG VALUE]...
Commands:
  serve         run the cache (the default)
  config        check, print or describe the configuration (check | print | schema)
  list          list the stored images [--pattern, --header, --short-digest] [--bucket]
  load          fetch images into the store: [REF]... [--image-file=FILE] [--platform LIST] [--referrers]
  export        write images into a tar file: [REF]... [--pattern] [--pinned] [--used-since] [--all] -o FILE
  import        add the images of an archive or a directory: FILE|DIR|- [--public] [--dry-run] [--registry NAME]
  purge         remove an image: purge REF [--dry-run] [--yes] [--bucket]
  prune         remove images: --pattern, --date, --older-than, --unused-for, --keep-newest, --all [--dry-run]
  pin, unpin    protect images from removal: pin [REF, pattern or range] [--platform LIST] [--fetch], unpin REF
  explain       explain how the next pull of an image is answered: explain REF [--user]
  report        print the references that clients requested in vain: report missing [--clear]
  offline-ready check that images are whole in the store: [FILE|REF]... [--platform LIST]
  stats         print the state of the store
  top           show the work of the running cache: requests, hits, fills, upstreams [--interval] [--once]
  verify        hash the stored content, remove damage: [REF] [--pattern] [--rate] [--dry-run]
  jobs          list the jobs of the running cache, or cancel one: jobs cancel ID
  healthcheck   check the cache on this machine: exit 0 if alive, otherwise 1
  version       print the version (also --version)
Commands that print content have --output table|wide|json|name, and --json.
Long commands have --progress auto|json|none, and --quiet.

";

const FOOT: &str = "\
Order of precedence: flag, environment, file (flag name with _ for -), default.
";

/// Returns the whole help text.
pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    for (group, title) in [
        (Group::Serving, "Serving"),
        (Group::Storage, "Storage"),
        (Group::Content, "Content"),
        (Group::Operation, "Operation"),
    ] {
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "{:<30} {:<26} {:<15}",
            format!("{title}:"),
            "environment",
            "default"
        );
        for setting in Setting::ALL
            .into_iter()
            .filter(|setting| setting.group() == group)
        {
            let flag = format!("--{}", setting.flag());
            let (env, default, summary) = (setting.env(), setting.default_text(), setting.summary());
            let _ = writeln!(text, "  {flag:<28} {env:<26} {default:<15} {summary}");
        }
    }
    text + FOOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_screen_and_names_every_setting() {
        let text = text();
        assert!(text.lines().count() <= 95, "{} lines", text.lines().count());
        for line in text.lines() {
            assert!(line.len() <= 115, "{} columns: {line}", line.len());
        }
        for setting in Setting::ALL {
            let line = text
                .lines()
                .find(|line| line.contains(&format!("--{} ", setting.flag())))
                .unwrap();
            assert!(
                line.contains(setting.env()) && line.contains(setting.default_text()),
                "{line}"
            );
        }
    }
}
