//! The progress of long commands: bars on a terminal, and lines or JSON elsewhere.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::started;
use crate::harness::*;

/// A load that waits for `gate` in the middle of a layer.
struct Loading {
    cache: Server,
    _upstream: Registry,
    gate: Gate,
    name: String,
}

fn loading() -> Loading {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let seed = fresh_seed();
    let layer = Content::from(PseudoRandom::new(seed, 3_000_000));
    let digest = layer.digest();
    Image::push(&upstream, "app/0", "v1", image::Flavor::Oci, &[layer]);
    let gate = Gate::new();
    upstream.on(On::path(&digest).get(), Reply::new().hold_at(2_000_000, &gate));
    let name = format!("{}/app/0:v1", upstream.name());
    Loading {
        cache,
        _upstream: upstream,
        gate,
        name,
    }
}

impl Loading {
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Server::command(self.cache.home(), self.cache.root());
        command
            .args(["load", "--platform", "linux/amd64", &self.name])
            .args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Opens the gate. Returns the exit code of the command.
    fn finish(&self, mut child: Child) -> i32 {
        self.gate.open();
        let status = child.wait().expect("the command ends");
        status.code().expect("an exit code")
    }
}

#[test]
fn json_lines_have_the_arrived_bytes_of_each_image() {
    let loading = loading();
    let command = loading
        .command(&["--progress", "json"])
        .stderr(Stdio::piped())
        .spawn();
    let mut child = command.expect("the binary starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    for line in lines {
        let line = line.expect("the command writes text");
        let progress: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let image = &progress["images"][0];
        if image["bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000) {
            assert_eq!(image["image"], json!(loading.name), "{line}");
            assert!(
                progress["bytes"].as_u64() < progress["bytesTotal"].as_u64(),
                "{line}"
            );
            break;
        }
    }
    assert_eq!(loading.finish(child), 0);
}

#[test]
fn no_progress_is_printed_with_the_flags_for_silence() {
    for flags in [&["--quiet"][..], &["--progress=none"]] {
        let loading = loading();
        let command = loading.command(flags).stderr(Stdio::piped()).spawn();
        let mut child = command.expect("the binary starts");
        loading.gate.wait_arrived(1);
        let mut stderr = child.stderr.take().expect("piped");
        assert_eq!(loading.finish(child), 0);
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("the command writes text");
        assert_eq!(text, "", "{flags:?}");
    }
}

#[test]
fn terminal_shows_a_bar_for_the_image_and_a_bar_for_the_load() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: the command script is not installed, so there is no terminal");
        return;
    }
    let loading = loading();
    let plain = loading.command(&[]);
    let words = std::iter::once(plain.get_program()).chain(plain.get_args());
    let words: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().expect("words are text")))
        .collect();
    let mut on_terminal = Command::new("script");
    on_terminal
        .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
        .env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            on_terminal.env(name, value);
        }
    }
    if let Some(dir) = plain.get_current_dir() {
        on_terminal.current_dir(dir);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    on_terminal
        .env("PATH", path)
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh");
    let command = on_terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = command.expect("script starts");
    let mut output = child.stdout.take().expect("piped");
    let mut shown = Vec::new();
    let mut part = [0; 4096];
    // The rate of the image and the count of objects are on the screen before the gate opens.
    let is_shown = |shown: &[u8]| {
        let text = String::from_utf8_lossy(shown).into_owned();
        text.contains("2.00 MB/3.00 MB") && text.contains(&loading.name) && text.contains("objects")
    };
    while !is_shown(&shown) {
        let read = output.read(&mut part).expect("script writes");
        assert!(read > 0, "{}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&part[..read]);
    }
    loading.gate.open();
    output.read_to_end(&mut shown).expect("script writes");
    let status = child.wait().expect("script ends");
    let text = String::from_utf8_lossy(&shown);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("1 held, 0 failed"), "{text}");
}
