//! Lines of htpasswd files.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// Returns a line with a bcrypt hash, written by Apache's own tool. Without the tool, prints
/// `SKIPPED`, and the library of the server writes the hash.
pub fn line(user: &str, password: &str, cost: u32) -> String {
    let output = Command::new("htpasswd")
        .args(["-nbB", "-C", &cost.to_string(), user, password])
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned() + "\n"
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: hashes of Apache's tool: htpasswd is not installed");
            let hash = bcrypt::hash_with_result(password, cost).unwrap();
            format!("{user}:{}\n", hash.format_for_version(bcrypt::Version::TwoY))
        }
        Err(error) => panic!("htpasswd cannot be started: {error}"),
    }
}
