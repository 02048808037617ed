//! The commands of ociregistry, parsed from method, path and query.

use crate::config::{ImageFilter, parse_go_duration};
use crate::limits::{LEGACY_COUNT_DEFAULT, LEGACY_COUNT_MAX};
use crate::manage::PruneRule;
use crate::oci::{pairs, percent_decoded};
use crate::runtime::clock::unix_seconds;
use crate::store::RemovalLimits;

/// A request below `/cmd/`.
#[derive(Debug)]
pub enum Command {
    Prune {
        rule: PruneRule,
        dry_run: bool,
        /// The query, for the log.
        selector: String,
    },
    List {
        selection: Selection,
        /// Whether the list has the blobs of each image.
        with_blobs: bool,
        count: usize,
    },
    ListBlobs {
        /// A part of the digest, empty for all blobs.
        part: String,
        count: usize,
    },
    Stop,
}

/// The images of a list.
#[derive(Debug)]
pub enum Selection {
    Pattern(ImageFilter),
    /// Images that name a blob with this part in its digest.
    BlobDigest(String),
}

/// The reason why a request is no command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    #[error("no such command; the commands are prune, image/list, manifest/list, blob/list and stop")]
    Unknown,
    #[error("the command has another method; allowed: {0}")]
    Method(&'static str),
    /// The text of ociregistry, which scripts compare.
    #[error("invalid parameters")]
    List,
    /// Begins with the text of ociregistry.
    #[error("unable to parse prune params: {0}")]
    Prune(String),
}

impl Command {
    /// Parses a request. `path` begins with `/cmd/`.
    ///
    /// # Errors
    ///
    /// The path is no command, the method is not its method, or a parameter is invalid.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, CommandError> {
        let is = |wanted: &'static str| match method == wanted {
            true => Ok(Query(query.unwrap_or_default())),
            false => Err(CommandError::Method(wanted)),
        };
        match path.strip_prefix("/cmd/") {
            Some("prune") => prune(&is("DELETE")?).map_err(CommandError::Prune),
            Some("image/list") => list(&is("GET")?, true).ok_or(CommandError::List),
            Some("manifest/list") => list(&is("GET")?, false).ok_or(CommandError::List),
            Some("blob/list") => blobs(&is("GET")?).ok_or(CommandError::List),
            Some("stop") => is("GET").map(|_| Command::Stop),
            _ => Err(CommandError::Unknown),
        }
    }
}

/// The parameters of a request.
struct Query<'a>(&'a str);

impl Query<'_> {
    /// Returns the value of a parameter. An invalid escape is an error, and the last value counts.
    fn value(&self, name: &str) -> Result<Option<String>, String> {
        let found = pairs(self.0).filter(|(key, _)| key == name).last();
        let decoded = found.map(|(_, value)| {
            percent_decoded(value).ok_or_else(|| format!("the value of {name} is not printable ASCII"))
        });
        decoded.transpose()
    }

    /// Returns an error for a parameter that is not among `names`: a misspelled condition would select
    /// more images.
    fn check(&self, names: &[&str]) -> Result<(), String> {
        match pairs(self.0).find(|(key, _)| !key.is_empty() && !names.contains(&&**key)) {
            None => Ok(()),
            Some((key, _)) => Err(format!(
                "there is no parameter {key:?}; expected {}",
                names.join(", ")
            )),
        }
    }

    /// Returns the largest number of results. -1 means no limit.
    fn count(&self) -> Result<Option<usize>, String> {
        let invalid =
            |text: &str| format!("count {text:?} is no number; expected -1 for no limit, or a number from 0");
        match self.value("count")?.as_deref() {
            None => Ok(Some(LEGACY_COUNT_DEFAULT)),
            Some("-1") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| invalid(text)),
        }
    }

    fn list_count(&self) -> Option<usize> {
        let count = self.count().ok()?;
        Some(count.unwrap_or(LEGACY_COUNT_MAX).min(LEGACY_COUNT_MAX))
    }
}

fn list(query: &Query<'_>, with_blobs: bool) -> Option<Command> {
    let known: &[&str] = match with_blobs {
        true => &["pattern", "digest", "count"],
        false => &["pattern", "count"],
    };
    query.check(known).ok()?;
    let pattern = query.value("pattern").ok()?;
    let digest = query.value("digest").ok()?;
    let selection = match (pattern, digest) {
        (None, Some(part)) => Selection::BlobDigest(part),
        (pattern, _) => Selection::Pattern(ImageFilter::parse(&pattern.unwrap_or_default()).ok()?),
    };
    Some(Command::List {
        selection,
        with_blobs,
        count: query.list_count()?,
    })
}

fn blobs(query: &Query<'_>) -> Option<Command> {
    query.check(&["substr", "count"]).ok()?;
    Some(Command::ListBlobs {
        part: query.value("substr").ok()?.unwrap_or_default(),
        count: query.list_count()?,
    })
}

fn prune(query: &Query<'_>) -> Result<Command, String> {
    query.check(&["type", "dur", "expr", "count", "dryRun"])?;
    let kind = query.value("type")?.unwrap_or_default().to_ascii_lowercase();
    let duration = || {
        let text = query.value("dur")?.unwrap_or_default();
        parse_go_duration(text.strip_prefix('-').unwrap_or(&text))
            .ok_or_else(|| format!("dur {text:?} is no duration; expected a value such as 12h or 30d"))
    };
    let mut rule = PruneRule::default();
    match &*kind {
        "accessed" => rule.unused_for = Some(duration()?),
        "created" => rule.stored_before = Some(unix_seconds().saturating_sub(duration()?.as_secs())),
        "pattern" => {
            rule.filter = ImageFilter::parse(&query.value("expr")?.unwrap_or_default())?;
            if rule.filter.is_empty() {
                return Err("expr is missing; give regular expressions, or . for every image".to_owned());
            }
        }
        _ => {
            return Err(format!(
                "type {kind:?} is unknown; expected accessed, created or pattern"
            ));
        }
    }
    rule.limits = RemovalLimits {
        images_max: query.count()?,
        spares_recent: false,
    };
    let dry_run = match query.value("dryRun")?.as_deref() {
        // The spellings of Go.
        None | Some("1" | "t" | "T" | "TRUE" | "true" | "True") => true,
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => false,
        Some(text) => return Err(format!("dryRun {text:?} is no switch; expected true or false")),
    };
    Ok(Command::Prune {
        rule,
        dry_run,
        selector: query.0.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        match target.split_once('?') {
            Some((path, query)) => Command::parse(method, path, Some(query)),
            None => Command::parse(method, target, None),
        }
    }

    fn pruned(query: &str) -> (PruneRule, bool) {
        match parse(&format!("DELETE /cmd/prune?{query}")) {
            Ok(Command::Prune { rule, dry_run, .. }) => (rule, dry_run),
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn prune_removes_nothing_without_the_word_false() {
        for (query, expected) in [
            ("", true),
            ("&dryRun=true", true),
            ("&dryRun=1", true),
            ("&dryRun=false", false),
            ("&dryRun=F", false),
        ] {
            assert_eq!(
                pruned(&format!("type=pattern&expr=a{query}")).1,
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn prune_has_a_condition_and_a_count() {
        let day = Duration::from_secs(86_400);
        assert_eq!(pruned("type=accessed&dur=30d").0.unused_for, Some(30 * day));
        assert_eq!(pruned("type=ACCESSED&dur=-1h30m").0.unused_for, Some(day / 16));
        let (rule, _) = pruned("type=created&dur=10d&count=-1");
        assert!(
            rule.stored_before
                .is_some_and(|before| before < unix_seconds() - 9 * 86_400)
        );
        assert_eq!(rule.limits.images_max, None);
        let (rule, _) = pruned("type=pattern&expr=cilium%3Av1,coredns");
        assert!(rule.filter.matches("quay.io/cilium:v1") && rule.filter.matches("coredns"));
        assert_eq!(rule.limits.images_max, Some(50));
        assert_eq!(pruned("type=pattern&expr=.&count=7").0.limits.images_max, Some(7));
    }

    #[test]
    fn invalid_prune_is_an_error_with_the_remedy() {
        for (query, part) in [
            ("", "accessed, created or pattern"),
            ("type=old&dur=1d", "accessed, created or pattern"),
            ("type=accessed", "30d"),
            ("type=created&dur=1", "30d"),
            ("type=pattern", "expr is missing"),
            ("type=pattern&expr=(", "regular expression"),
            ("type=pattern&expr=%ff", "printable"),
            ("type=pattern&expr=a&count=-2", "-1 for no limit"),
            ("type=pattern&expr=a&dryRun=no", "true or false"),
            ("type=pattern&expr=a&dryrun=false", "no parameter \"dryrun\""),
        ] {
            let error = parse(&format!("DELETE /cmd/prune?{query}"))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("unable to parse prune params: "),
                "{query}: {error}"
            );
            assert!(error.contains(part), "{query}: {error}");
        }
    }

    #[test]
    fn lists_have_a_count_and_ociregistry_s_error() {
        for (target, expected) in [
            ("image/list", 50),
            ("manifest/list?count=3", 3),
            ("blob/list?substr=ab&count=-1", LEGACY_COUNT_MAX),
            ("image/list?digest=ab&count=0", 0),
        ] {
            let count = match parse(&format!("GET /cmd/{target}")) {
                Ok(Command::List { count, .. } | Command::ListBlobs { count, .. }) => count,
                other => panic!("{target}: {other:?}"),
            };
            assert_eq!(count, expected, "{target}");
        }
        for target in [
            "image/list?pattern=(",
            "manifest/list?pattern=[",
            "manifest/list?digest=ab",
            "blob/list?count=x",
            "blob/list?count=-7",
        ] {
            let error = parse(&format!("GET /cmd/{target}")).unwrap_err();
            assert_eq!(error.to_string(), "invalid parameters", "{target}");
        }
    }

    #[test]
    fn command_has_one_method() {
        for (line, expected) in [
            (
                "GET /cmd/prune?type=pattern&expr=a",
                CommandError::Method("DELETE"),
            ),
            ("HEAD /cmd/stop", CommandError::Method("GET")),
            ("POST /cmd/stop", CommandError::Method("GET")),
            ("DELETE /cmd/image/list", CommandError::Method("GET")),
            ("GET /cmd/", CommandError::Unknown),
            ("GET /cmd/stop/", CommandError::Unknown),
        ] {
            assert_eq!(parse(line).unwrap_err(), expected, "{line}");
        }
        assert!(matches!(parse("GET /cmd/stop"), Ok(Command::Stop)));
    }
}
