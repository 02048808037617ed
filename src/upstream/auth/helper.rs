//! Credential helpers: `docker-credential-<name>` programs with the credentials of one registry.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::credential::Credential;
use crate::config::SecretText;

/// The deadline of a helper. Helpers of clouds send a request to a server.
const DEADLINE: Duration = Duration::from_secs(10);

/// The maximum size of an answer. Tokens of cloud registries have a few KiB.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The standard output of a helper without credentials for a server, as defined by the protocol.
const NOTHING: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Runs the helper `name` for the credentials of `server`. Returns `None` if there are none. The
/// program is found in `PATH` and inherits the environment of this process. No shell is used.
///
/// # Errors
///
/// Returns the reason, without any output of the helper.
///
/// # Cancellation
///
/// Kills the program and its child processes.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credential>, String> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(harmless) {
        return Err("invalid helper name; expected letters, digits, `-`, `_` and `.`".into());
    }
    let program = format!("docker-credential-{name}");
    match timeout(DEADLINE, run(&program, server)).await {
        Ok(Ok((answer, true))) => parse(&answer).map_err(|what| format!("{program} {what}")),
        Ok(Ok((answer, false))) if answer.starts_with(NOTHING.as_bytes()) => Ok(None),
        Ok(Ok((_, false))) => Err(format!("{program} failed")),
        Ok(Err(error)) => Err(format!("cannot run {program}: {error}")),
        Err(_elapsed) => Err(format!(
            "{program} did not answer within {} s",
            DEADLINE.as_secs()
        )),
    }
}

/// Runs `program get`. Returns its output, and whether it succeeded.
async fn run(program: &str, server: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut command = Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        // A process group with the children, so all of them can be killed.
        .process_group(0);
    // Starting a program may wait for the disk.
    let child = tokio::task::spawn_blocking(move || command.spawn())
        .await
        .map_err(io::Error::other)??;
    let mut group = Group(child);
    if let Some(mut stdin) = group.0.stdin.take() {
        // A helper may answer without reading its input.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = group.0.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
    }
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(io::Error::other("the output is larger than 64 KiB"));
    }
    let status = group.0.wait().await?;
    Ok((answer, status.success()))
}

/// A program and its child processes. Killed on drop, unless the program has ended.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The ID exists only until the process is reaped, so no other process can have it.
        if let Some(pid) = self
            .0
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

fn parse(answer: &[u8]) -> Result<Option<Credential>, &'static str> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| "wrote no valid credentials")?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credential::of_pair(
        answer.username,
        SecretText::new(answer.secret),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_pair_or_an_identity_token_or_nothing() {
        let pair = parse(br#"{"ServerURL":"https://r.lan","Username":"u","Secret":"p"}"#).unwrap();
        assert_eq!(
            pair,
            Some(Credential::of_pair("u".into(), SecretText::new("p".into())))
        );
        let token = parse(br#"{"Username":"<token>","Secret":"t"}"#).unwrap();
        assert_eq!(token, Some(Credential::Identity(SecretText::new("t".into()))));
        assert_eq!(
            parse(br#"{"ServerURL":"","Username":"","Secret":""}"#).unwrap(),
            None
        );
        for bad in ["", "{", "5", r#"{"Username":5}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn credential_helper_name_with_special_characters_is_rejected() {
        for bad in ["", "../evil", "a/b", "a b", "a;b", "$(x)", "a\0"] {
            assert!(get(bad, "r.lan").await.is_err(), "{bad}");
        }
        let error = get("that-does-not-exist", "r.lan").await.unwrap_err();
        assert!(
            error.starts_with("cannot run docker-credential-that-does-not-exist: "),
            "{error}"
        );
    }
}
