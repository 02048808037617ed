//! The commands of ociregistry under `/cmd/`, for the scripts of its operators. The data port answers
//! them if `LEGACY_ADMIN` is set and the client has logged in.

mod command;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::Semaphore;

use self::command::{Command, CommandError, Selection};
use super::access::{Actor, Role};
use super::change::Change;
use super::process;
use crate::http::RequestId;
use crate::limits::{ADMIN_REQUEST_TIMEOUT, CONNECTION_SWEEP_INTERVAL, LEGACY_COMMANDS_MAX};
use crate::local_time::local_date_time;
use crate::manage::{ListedManifest, PruneRule, list_manifests, plan_prune};
use crate::runtime::clock::unix_seconds;
use crate::runtime::helper::{Helper, blocking};
use crate::store::Stores;

/// The text of an empty list, also of blobs, as in ociregistry.
const EMPTY: &str = "no manifests found\n";

/// Digits of a digest in the name of an image.
const SHORT_DIGEST: usize = 10;

/// Answers the commands. Cheap to clone.
#[derive(Clone)]
pub struct LegacyAdmin(Arc<Shared>);

struct Shared {
    /// `None` for a bucket alone.
    stores: Option<Stores>,
    helper: Helper,
    slots: Arc<Semaphore>,
}

/// A request below `/cmd/` of a client that has logged in.
#[derive(Clone, Copy, Debug)]
pub struct LegacyRequest<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// The name of the client.
    pub user: &'a str,
    pub peer: Option<IpAddr>,
    pub id: RequestId,
}

/// The text for a client, with its kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LegacyAnswer {
    Done(String),
    Unknown(String),
    Invalid(String),
    /// The command has this method only.
    Method(&'static str, String),
    /// The cache has no store on this machine.
    NoStore(String),
    /// Too many commands run, or the scan of the store has not ended.
    Busy(String),
    Failed(String),
}

impl LegacyAdmin {
    pub fn new(stores: Option<Stores>, helper: Helper) -> Self {
        LegacyAdmin(Arc::new(Shared {
            stores,
            helper,
            slots: Arc::new(Semaphore::new(LEGACY_COMMANDS_MAX)),
        }))
    }

    /// Answers a request within [`ADMIN_REQUEST_TIMEOUT`]. Called on a core; the work runs on a
    /// blocking thread of the pool, and continues after the timeout.
    pub async fn answer(&self, request: LegacyRequest<'_>) -> LegacyAnswer {
        let command = match Command::parse(request.method, request.path, request.query) {
            Ok(command) => command,
            Err(error) => return LegacyAnswer::of_error(&error),
        };
        let Ok(slot) = self.0.slots.clone().try_acquire_owned() else {
            return LegacyAnswer::Busy("too many commands run; repeat the command later\n".to_owned());
        };
        let actor = Actor {
            name: format!("user:{}", request.user),
            role: Role::Admin,
            remote: request
                .peer
                .map_or_else(|| "unknown".to_owned(), |peer| peer.to_string()),
            request: request.id,
        };
        let stores = self.0.stores.clone();
        let removes = matches!(command, Command::Prune { dry_run: false, .. });
        let work = async move {
            let run = blocking(move || {
                let answer = run(stores, command, actor);
                drop(slot);
                answer
            });
            let answer = match tokio::time::timeout(ADMIN_REQUEST_TIMEOUT, run).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => LegacyAnswer::Failed(
                    "the command panicked, which is a bug; the log has the message\n".to_owned(),
                ),
                Err(_) => LegacyAnswer::Failed("the command continues; the log has its end\n".to_owned()),
            };
            if removes {
                // The next request for the content must not find it in the memory of a core.
                tokio::time::sleep(2 * CONNECTION_SWEEP_INTERVAL).await;
            }
            answer
        };
        let answer = self.0.helper.ask(work).await;
        answer.unwrap_or_else(|_| LegacyAnswer::Failed("the cache ends\n".to_owned()))
    }
}

impl LegacyAnswer {
    fn of_error(error: &CommandError) -> Self {
        let text = format!("{error}\n");
        match error {
            CommandError::Unknown => LegacyAnswer::Unknown(text),
            CommandError::Method(allowed) => LegacyAnswer::Method(allowed, text),
            CommandError::List | CommandError::Prune(_) => LegacyAnswer::Invalid(text),
        }
    }
}

fn run(stores: Option<Stores>, command: Command, actor: Actor) -> LegacyAnswer {
    let change = |action, selector| Change {
        actor: actor.clone(),
        action,
        selector,
    };
    if let Command::Stop = command {
        return match process::send_signal(&change("stop", String::new()), Signal::TERM) {
            Ok(()) => LegacyAnswer::Done(String::new()),
            Err(error) => LegacyAnswer::Failed(format!("{error}\n")),
        };
    }
    let Some(stores) = stores else {
        return LegacyAnswer::NoStore(
            "the cache has no store on this machine; set STORAGE_BACKEND to fs or tiered\n".to_owned(),
        );
    };
    match command {
        Command::Prune {
            rule,
            dry_run,
            selector,
        } => prune(&stores, &rule, dry_run, &change("prune", selector)),
        Command::List {
            selection,
            with_blobs,
            count,
        } => match stores.reader() {
            Ok(reader) => {
                let images = list_manifests(&reader, |image| selection.selects(image), count);
                LegacyAnswer::Done(image_lines(&images, with_blobs))
            }
            Err(error) => LegacyAnswer::Failed(format!("cannot read the store: {error}; check the disk\n")),
        },
        Command::ListBlobs { part, count } => {
            let blobs = stores.blob_references(|digest| digest.to_string().contains(&part), count);
            let lines = blobs
                .iter()
                .map(|(digest, count)| (hex(&digest.to_string()).to_owned(), *count));
            LegacyAnswer::Done(blob_lines(lines))
        }
        Command::Stop => unreachable!("a stop needs no store"),
    }
}

impl Selection {
    fn selects(&self, image: &ListedManifest) -> bool {
        match self {
            Selection::Pattern(filter) => filter.matches(&image.reference),
            Selection::BlobDigest(part) => image.blobs.iter().any(|blob| blob.to_string().contains(part)),
        }
    }
}

/// Plans a removal, and applies it unless `dry_run`. The text has the log lines of ociregistry.
fn prune(stores: &Stores, rule: &PruneRule, dry_run: bool, change: &Change) -> LegacyAnswer {
    let plan = match plan_prune(stores, rule) {
        Ok(plan) => plan,
        Err(error) => return LegacyAnswer::Busy(format!("{error}\n")),
    };
    let images = plan.images();
    let mut lines = LogLines::default();
    lines.add(&format!(
        "begin prune - count of manifests to prune: {}",
        images.len()
    ));
    for image in &*images {
        lines.add(&match dry_run {
            true => format!("doPrune - dry run specified, skipping prune of manifest {image:?}"),
            false => format!("pruning manifest {image:?}"),
        });
    }
    if !dry_run {
        let removed = change.apply(stores, plan);
        if removed.kept == 0 {
            for image in &*images {
                lines.add(&format!("removed manifest: {image}"));
            }
        }
        lines.add(&format!(
            "end prune - removed {} objects, {} bytes; kept {} changed objects",
            removed.objects, removed.bytes, removed.kept
        ));
    }
    LegacyAnswer::Done(lines.0)
}

/// Lines of a log in the form of ociregistry.
#[derive(Default)]
struct LogLines(String);

impl LogLines {
    fn add(&mut self, message: &str) {
        let time = local_date_time(unix_seconds());
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.0, "time={time:?} level=info msg={message:?}");
    }
}

/// Returns a line for each image, and a line for each blob of an image if `with_blobs`.
fn image_lines(images: &[ListedManifest], with_blobs: bool) -> String {
    if images.is_empty() {
        return EMPTY.to_owned();
    }
    let mut text = "URL DIGEST CREATED PULLED\n".to_owned();
    for image in images {
        let digest = image.digest.to_string();
        let digest = hex(&digest);
        let url = match image.reference.strip_suffix(digest) {
            Some(name) => format!("{name}{}", &digest[..SHORT_DIGEST]),
            None => image.reference.clone(),
        };
        let created = image.created.map(local_date_time).unwrap_or_default();
        // Writing to a `String` cannot fail. The two spaces are as in ociregistry.
        let _ = writeln!(text, "{url} {digest}  {created} {}", local_date_time(image.used));
        for blob in image.blobs.iter().filter(|_| with_blobs) {
            let _ = writeln!(text, "- {blob}");
        }
    }
    text
}

fn blob_lines(blobs: impl Iterator<Item = (String, u64)>) -> String {
    let mut text = String::new();
    for (hex, count) in blobs {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{hex} {count}");
    }
    match text.is_empty() {
        true => EMPTY.to_owned(),
        false => format!("URL REFCNT\n{text}"),
    }
}

/// Returns the digits of a digest.
fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, digit: &str) -> ListedManifest {
        ListedManifest {
            reference: reference.to_owned(),
            digest: format!("sha256:{}", digit.repeat(64)).parse().expect("a digest"),
            created: Some(1_709_210_096),
            used: 1_709_213_696,
            blobs: vec![format!("sha256:{}", "b".repeat(64)).parse().expect("a digest")],
        }
    }

    #[test]
    fn list_has_the_columns_of_ociregistry() {
        let untagged = format!("r.example/a@sha256:{}", "d".repeat(64));
        let images = [image("r.example/a:v1", "a"), image(&untagged, "d")];
        let (created, used) = (local_date_time(1_709_210_096), local_date_time(1_709_213_696));
        let (a, b, d) = ("a".repeat(64), "b".repeat(64), "d".repeat(64));
        let expected = format!(
            "URL DIGEST CREATED PULLED\n\
             r.example/a:v1 {a}  {created} {used}\n\
             r.example/a@sha256:dddddddddd {d}  {created} {used}\n"
        );
        assert_eq!(image_lines(&images, false), expected);
        let expected =
            format!("URL DIGEST CREATED PULLED\nr.example/a:v1 {a}  {created} {used}\n- sha256:{b}\n");
        assert_eq!(image_lines(&images[..1], true), expected);
        assert_eq!(image_lines(&[], true), EMPTY);
    }

    #[test]
    fn blobs_have_their_references() {
        let blobs = [("ab".to_owned(), 2), ("cd".to_owned(), 0)];
        assert_eq!(blob_lines(blobs.into_iter()), "URL REFCNT\nab 2\ncd 0\n");
        assert_eq!(blob_lines(std::iter::empty()), EMPTY);
    }

    #[test]
    fn log_line_has_a_quoted_message() {
        let mut lines = LogLines::default();
        lines.add("pruning manifest \"a\"");
        let (_, line) = lines.0.split_once(' ').expect("a time");
        assert_eq!(line, "level=info msg=\"pruning manifest \\\"a\\\"\"\n");
    }
}
