//! The command `top`: the work of the running cache.

mod counters;
mod lines;
mod screen;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Sender, after, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::output::{Output, OutputArgs};
use super::say_json;
use super::target::{Failure, ended, running_cache};
use crate::admin::{AdminClient, AdminError};
use crate::config::{Environment, Layer, parse_duration};
use crate::limits::{TOP_INTERVAL_MAX, TOP_INTERVAL_MIN};
use crate::runtime::clock::monotonic_millis;
use lines::{Size, lines};
use screen::Screen;
use view::{Snapshot, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct TopArgs {
    /// Time between two refreshes, and the time of the rates.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Print the figures of one interval, and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// An event of the command on a terminal.
enum Event {
    Read(Result<Box<Snapshot>, AdminError>),
    Resized,
    /// Ctrl-C or alike.
    Stopped,
}

/// Shows the work of the running cache until Ctrl-C. Without a terminal, prints the figures of one interval.
pub(super) fn run(args: TopArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(show(args, flags, environment))
}

fn show(args: TopArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let format = args.output.format_without_names()?;
    let Some(cache) = running_cache(flags, environment)? else {
        return Err(Failure::of(
            "no cache runs with this FS_ROOT, and only a running cache has requests and fills; start the cache",
        ));
    };
    match format {
        Output::Json => say_json(&view_of_interval(&cache, args.interval)?),
        _ if args.once || !io::stdout().is_terminal() => {
            let view = view_of_interval(&cache, args.interval)?;
            let text: String = lines(&view, None)
                .iter()
                .map(|line| format!("{line}\n"))
                .collect();
            // The write fails if the reader of a pipe has left, which is no error of the command.
            let _ = io::stdout().write_all(text.as_bytes());
        }
        _ => watch(cache, args.interval).map_err(Failure::of)?,
    }
    Ok(())
}

fn view_of_interval(cache: &AdminClient, interval: Duration) -> Result<View, Failure> {
    let before = read(cache).map_err(Failure::of)?;
    let _ = after(interval).recv();
    let after = read(cache).map_err(Failure::of)?;
    Ok(View::between(&before, &after))
}

fn read(cache: &AdminClient) -> Result<Snapshot, AdminError> {
    let view = cache.view()?;
    Ok(Snapshot::new(monotonic_millis(), view))
}

/// Shows a view per interval on the terminal until a signal. A cache without a response is read again.
///
/// # Errors
///
/// The terminal or the signals cannot be opened.
fn watch(cache: AdminClient, interval: Duration) -> io::Result<()> {
    let (sender, events) = bounded(1);
    start_signals(sender.clone())?;
    let screen = Screen::open()?;
    start_reader(cache, interval, sender)?;
    let mut before: Option<Box<Snapshot>> = None;
    let mut content = Content::Nothing;
    for event in events {
        match event {
            Event::Read(Ok(snapshot)) => {
                let view = View::between(before.as_deref().unwrap_or(&snapshot), &snapshot);
                content = Content::View(Box::new(view));
                before = Some(snapshot);
            }
            Event::Read(Err(error)) => {
                content = Content::Failed(format!("no response, next attempt in {interval:?}: {error}"));
                before = None;
            }
            Event::Resized => {}
            Event::Stopped => return Ok(()),
        }
        screen.show(&content.lines(screen.size()))?;
    }
    Ok(())
}

/// The content of the screen.
enum Content {
    Nothing,
    View(Box<View>),
    Failed(String),
}

impl Content {
    fn lines(&self, size: Size) -> Vec<String> {
        match self {
            Content::Nothing => Vec::new(),
            Content::View(view) => lines(view, Some(size)),
            Content::Failed(line) => vec![line.chars().take(size.columns).collect()],
        }
    }
}

/// Sends an event for each signal. The end of the process ends the thread.
fn start_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGWINCH])?;
    let thread = thread::Builder::new().name("top-signals".to_owned());
    let forward = move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGWINCH => Event::Resized,
                _ => Event::Stopped,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    thread.spawn(forward).map(drop)
}

/// Reads the state of the cache once per interval. The end of the process ends the thread.
fn start_reader(cache: AdminClient, interval: Duration, events: Sender<Event>) -> io::Result<()> {
    let thread = thread::Builder::new().name("top-reader".to_owned());
    let read_all = move || {
        while events.send(Event::Read(read(&cache).map(Box::new))).is_ok() {
            let _ = after(interval).recv();
        }
    };
    thread.spawn(read_all).map(drop)
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let bounds = TOP_INTERVAL_MIN..=TOP_INTERVAL_MAX;
    parse_duration(text)
        .filter(|interval| bounds.contains(interval))
        .ok_or_else(|| "expected a duration from 100ms to 1h, such as 2s".to_owned())
}
