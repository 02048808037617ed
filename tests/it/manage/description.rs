//! The description of the admin API, compared with a running cache.

use std::process::{Command, Stdio};

use super::admin::start;
use crate::harness::server::TempDir;
use crate::harness::*;

#[test]
#[ignore = "needs schemathesis: scripts/api.sh"]
fn generated_requests_are_answered_as_described() {
    let (Ok(program), Ok(examples)) = (std::env::var("SCHEMATHESIS"), std::env::var("EXAMPLES")) else {
        panic!("run this test with scripts/api.sh");
    };
    let upstream = Registry::new();
    let cache = start(&upstream);
    cache.pull_tags(&upstream, &["v1", "v2"]);
    // The program writes reports to its working directory.
    let dir = TempDir::new();
    let url = format!("http://{}/openapi.json", cache.addr());
    // A stopped cache answers nothing, each reload reads all files, and events have no end.
    let excluded = ["stop", "reload", "readEvents"].map(|id| format!("--exclude-operation-id={id}"));
    let status = Command::new(program)
        .args(["run", &url, "--no-color", "--continue-on-failure"])
        .args(["--header", "Authorization: Bearer admin"])
        .args(["--max-examples", &examples])
        // The schema cannot describe regular expressions and all names.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(excluded)
        .current_dir(&dir.path)
        .stdin(Stdio::null())
        .status()
        .expect("schemathesis starts");
    assert!(status.success(), "{status:?}");
    assert!(!cache.server.stderr().contains("panicked"));
}
