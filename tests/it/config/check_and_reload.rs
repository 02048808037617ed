//! Configuration commands (check, print, schema) and configuration reload.

use std::path::Path;
use std::process::Stdio;

use crate::harness::client::Flow;
use crate::harness::server::{TempDir, write_private};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Runs `oci-pull-through -c FILE ARGS…` with this file. Returns exit code, stdout and stderr.
fn run(yaml: &str, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let home = TempDir::new();
    let file = home.path.join("f.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = Server::command(&home.path, &home.path.join("store"));
    for name in [
        "CONFIG_FILE",
        "LISTEN_ADDR",
        "FS_ROOT",
        "STORAGE_BACKEND",
        "IO_DRIVER",
    ] {
        command.env_remove(name);
    }
    let output = command
        .args(["-c", file.to_str().unwrap()])
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        !home.path.join(".cache").exists(),
        "a command that only reads creates no directory"
    );
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config"))
}

/// Returns every configuration of the fixtures, with paths that refer to existing files.
fn examples(home: &Path) -> Vec<(String, String)> {
    for (from, to) in [
        ("ca.crt", "ca.crt"),
        ("client.crt", "client.cert"),
        ("client.key", "client.key"),
    ] {
        let text = std::fs::read_to_string(fixtures().join("pki").join(from)).unwrap();
        write_private(&home.join(to), &text);
    }
    write_private(&home.join("config.json"), "{}");
    write_private(&home.join("registry"), "secret\n");
    let home = format!("{}/", home.display());
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = ["/my/", "/remote/", "/run/secrets/"]
                .iter()
                .fold(text, |text, dir| text.replace(dir, &home));
            examples.push((path.file_name().unwrap().to_str().unwrap().to_owned(), text));
        }
    }
    examples.sort();
    examples
}

#[test]
fn check_accepts_the_examples_of_other_systems_and_refuses_what_would_be_unsafe() {
    let home = TempDir::new();
    let env = [("THEPASS_ENV_VAR", "thepass"), ("FRONT_PASSWORD", "front")];
    let examples = examples(&home.path);
    assert_eq!(examples.len(), 7);
    for (name, text) in &examples {
        let (code, stdout, stderr) = run(text, &["config", "check"], &env);
        if ["ociregistry-sketch.yaml", "ociregistry-tls.yaml"].contains(&name.as_str()) {
            assert_eq!(code, Some(2), "{name}: {stdout}");
            assert!(stderr.contains("f.yaml:"), "{name}: {stderr}");
        } else {
            assert_eq!(code, Some(0), "{name}: {stderr}");
            assert!(
                stdout.starts_with("the configuration is valid: ") && stdout.lines().count() == 1,
                "{stdout}"
            );
        }
    }
    let (_, _, stderr) = run(&examples[1].1, &["config", "check"], &env);
    assert!(
        stderr.contains("warning: ") && stderr.contains("whitelist_mode"),
        "{stderr}"
    );
}

#[test]
fn check_reports_everything_at_once_and_no_secret() {
    let yaml = "tag_ttl: soon\nregistriez: []\nregistries:\n- name: a\n  auth: {username: u, password_file: /nonexistent/pw}\n- name: b\n  upstream_proxy: http://u:canary@h:x\n- name: c\n  auth: [canary]\n";
    let (code, stdout, stderr) = run(yaml, &["config", "check"], &[("CORES", "many")]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    for part in [
        "6 errors",
        "f.yaml:1: tag_ttl: ",
        "f.yaml:2: \"registriez\": unknown key; did you mean registries?",
        "f.yaml:5: registries[0].auth.password_file: \"/nonexistent/pw\": cannot be read",
        "f.yaml:7: registries[1].upstream_proxy: ",
        "f.yaml:9: registries[2].auth: ",
        "CORES=",
    ] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    assert!(!stderr.contains("canary"), "{stderr}");
    let (code, _, said) = run(yaml, &[], &[("CORES", "many")]);
    assert_eq!(
        code,
        Some(2),
        "the server exits with the same code as config check"
    );
    assert_eq!(said.lines().count(), stderr.lines().count(), "{said}");
}

#[test]
fn print_shows_each_value_with_its_origin_and_no_secret() {
    let yaml = "tag_ttl: 5m\nauth: {username: u, password: canary-1}\nregistries:\n- name: r.example\n  auth: {username: v, password_env: SECRET}\n";
    let env = [
        ("SECRET", "canary-2"),
        ("CORES", "2"),
        ("HTTPS_PROXY", "http://x:canary-3@127.0.0.1:1"),
    ];
    let (code, stdout, stderr) = run(yaml, &["config", "print", "--log-level", "warn"], &env);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stdout.contains("canary"), "{stdout}");
    let line = |start: &str| {
        let found = stdout.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no line starts with {start} in\n{stdout}"))
    };
    for (start, origin) in [
        ("tag_ttl: 5m", "f.yaml:1"),
        ("cores: 2", "# environment CORES"),
        ("log_level: warn", "# flag --log-level"),
        ("helper_threads: 2", "# default"),
        ("- name: r.example", "f.yaml:4"),
        ("access: shared", "# default"),
    ] {
        assert!(line(start).ends_with(origin), "{}", line(start));
    }
    // The printed configuration is valid input.
    let (code, again, stderr) = run(&stdout, &["config", "print"], &env[2..]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(again.contains("tag_ttl: 5m"), "{again}");
}

#[test]
fn schema_is_a_json_schema() {
    let (code, stdout, _) = run("", &["config", "schema"], &[]);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn unsupported_key_and_shared_credentials_are_logged_at_start() {
    let cache = Server::bare()
        .config("list_config: x\nregistries:\n- name: r.example\n  auth: {user: u, password: canary}\n")
        .start();
    cache.wait_stderr("list_config\" reason=\"is not in this version");
    cache.wait_stderr("registry credentials used for all clients\" registry=r.example");
    assert!(!cache.stderr().contains("canary"), "{}", cache.stderr());
}

fn sighup(cache: &Server) {
    let pid = rustix::process::Pid::from_raw(cache.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

/// Replaces the file atomically, sends SIGHUP, and waits for `said` in the log.
fn reload(cache: &Server, yaml: &str, said: &str) {
    let before = cache.stderr().matches(said).count();
    let file = cache.home().join("config.yaml");
    std::fs::write(file.with_extension("new"), yaml).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
    sighup(cache);
    eventually(&format!("the log says: {said}"), || {
        cache.stderr().matches(said).count() > before
    });
}

fn named(registry: &Registry) -> String {
    format!(
        "registries:\n- {{name: r.example, url: 'http://{}'}}\n",
        registry.addr()
    )
}

#[test]
fn sighup_changes_the_registry_and_leaves_a_running_pull_alone() {
    let (old, new) = (Registry::new(), Registry::new());
    let cache = Server::bare().cores(2).config(named(&old)).start();
    let slow = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let slow_digest = old.blob(slow.clone());
    let only_new = new.blob("content of the new registry");
    let gate = Gate::new();
    old.on(On::path(&slow_digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut busy = cache.client().open();
    busy.request("GET", &format!("/v2/r.example/a/blobs/{slow_digest}"), &[])
        .unwrap();
    let head = busy.read_head().unwrap();
    gate.wait_arrived(1);
    let path = format!("/v2/r.example/a/blobs/{only_new}");
    assert_eq!(cache.client().get(&path).status, 404);

    reload(&cache, &named(&new), "configuration reloaded");
    cache.client().get(&path).expect(b"content of the new registry");
    gate.open();
    let whole = busy.read_body(head, "GET", &mut |at, piece| {
        slow.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(whole.unwrap().received, slow.size);
}

#[test]
fn reload_of_an_invalid_file_keeps_the_configuration_and_logs_the_error() {
    let registry = Registry::new();
    let cache = Server::bare().config(named(&registry)).start();
    let digests: Vec<String> = (0..3)
        .map(|n| registry.blob(format!("blob {n}").as_str()))
        .collect();
    let get = |n: usize| {
        let path = format!("/v2/r.example/a/blobs/{}", digests[n]);
        cache.client().get(&path).expect(format!("blob {n}").as_bytes());
    };
    get(0);
    reload(
        &cache,
        "registries:\n- name: other.example\n  auth: {username: u, password: [canary]}\n  urll: x\n",
        "configuration not reloaded",
    );
    let log = cache.stderr();
    assert!(
        log.contains("config.yaml:3: registries[0].auth.password\" error=")
            && log.contains("did you mean url?"),
        "{log}"
    );
    assert!(!log.contains("canary"), "{log}");
    get(1);
    std::fs::remove_file(cache.home().join("config.yaml")).unwrap();
    sighup(&cache);
    cache.wait_stderr("cannot be read");
    get(2);
    reload(&cache, "air_gapped: true\n", "configuration reloaded");
    assert!(!cache.stderr().contains("needs a restart"), "{}", cache.stderr());
}

#[test]
fn a_reload_reads_secrets_and_certificates_again() {
    let registry = Registry::new();
    let home = TempDir::new();
    examples(&home.path);
    let (secret, ca) = (home.path.join("registry"), home.path.join("ca.crt"));
    let yaml = format!(
        "{}  auth: {{username: u, password_file: {}}}\n  access: verify\n  tls: {{ca: {}}}\n",
        named(&registry)
            .replace(['{', '}'], "")
            .replace(", url", "\n  url"),
        secret.display(),
        ca.display()
    );
    let cache = Server::bare().config(&yaml).start();
    let refused = "configuration not reloaded";
    std::fs::write(&secret, "").unwrap();
    reload(&cache, &yaml, refused);
    cache.wait_stderr("the file is empty");
    std::fs::write(&secret, "another\n").unwrap();
    reload(&cache, &yaml, "configuration reloaded");
    std::fs::write(&ca, "not a certificate").unwrap();
    reload(&cache, &yaml, refused);
    cache.wait_stderr("holds no certificate");
    assert!(!cache.stderr().contains("another"), "{}", cache.stderr());
}

#[test]
fn a_reload_logs_changed_keys_that_need_a_restart() {
    let cache = Server::bare().config("tag_ttl: 5m\n").start();
    reload(
        &cache,
        "tag_ttl: 6m\nauth: {username: u, password: canary}\nregistry_header: true\n",
        "configuration reloaded",
    );
    let log = cache.stderr();
    for key in ["tag_ttl", "registry_header"] {
        assert!(
            log.contains(&format!("setting needs a restart\" setting={key}\n")),
            "the log does not name {key}: {log}"
        );
    }
    assert!(
        !log.contains("setting=listen_addr") && !log.contains("canary"),
        "{log}"
    );
    // Client authentication is reloaded.
    assert_eq!(cache.client().get("/v2/").status, 401);
}

#[test]
fn a_storm_of_sighups_drops_no_connection() {
    let registry = Registry::new();
    let cache = Server::bare().config(named(&registry)).start();
    let mut kept = cache.client().open();
    for n in 0..50 {
        sighup(&cache);
        let text = format!("blob {n}");
        let digest = registry.blob(text.as_str());
        kept.request("GET", &format!("/v2/r.example/a/blobs/{digest}"), &[])
            .unwrap();
        kept.read("GET").unwrap().expect(text.as_bytes());
    }
    // A reload does not count as the second signal, which would stop the server immediately.
    let mut cache = cache;
    cache.sigterm();
    sighup(&cache);
    let status = cache.wait_exit(PATIENCE).expect("the server exits");
    assert_eq!(status.code(), Some(0));
}

/// Every YAML block in the documents is a configuration without errors and warnings. A block of
/// another kind has a second word after `yaml`.
#[test]
fn yaml_blocks_of_the_documents_are_good_configurations() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let home = TempDir::new();
    examples(&home.path);
    let pki = |name: &str| std::fs::read_to_string(fixtures().join("pki").join(name)).unwrap();
    write_private(&home.path.join("tls.crt"), &pki("client.crt"));
    write_private(&home.path.join("tls.key"), &pki("client.key"));
    let user = "alice:$2y$04$abcdefghijklmnopqrstuuZVtbkHNIzXDySbF5.qVDcG5jZkm0QVG\n";
    write_private(&home.path.join("users"), user);
    let mut blocks = 0;
    for folder in ["", "how-to", "reference", "explanation"] {
        for entry in std::fs::read_dir(docs.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let page = std::fs::read_to_string(&path).unwrap();
            for rest in page.split("```yaml\n").skip(1) {
                let block = rest.split("```").next().unwrap();
                let text = block.replace("/etc/oci-pull-through/", &format!("{}/", home.path.display()));
                let (code, _, stderr) = run(&text, &["config", "check"], &[("REGISTRY_PASSWORD", "x")]);
                assert_eq!(
                    (code, stderr.as_str()),
                    (Some(0), ""),
                    "{}: {block}",
                    path.display()
                );
                blocks += 1;
            }
        }
    }
    assert!(blocks >= 12, "{blocks}");
}

#[test]
fn sighup_changes_the_credentials_that_the_next_pull_uses() {
    let registry = Registry::new();
    registry.require_tokens(Auth::basic());
    registry.user("robot", "first");
    registry.allow("robot", "a");
    let blobs: Vec<String> = ["one", "two", "three"]
        .into_iter()
        .map(|text| registry.blob_in("a", text))
        .collect();
    let yaml = |password: &str| {
        format!(
            "registries:\n- name: r.example\n  url: http://{}\n  auth: {{username: robot, password: {password}}}\n",
            registry.addr()
        )
    };
    let cache = Server::bare().config(yaml("first")).start();
    let get = |n: usize| cache.client().get(&format!("/v2/r.example/a/blobs/{}", blobs[n]));
    get(0).expect(b"one");
    registry.user("robot", "second");
    assert_ne!(get(1).status, 200, "credentials of the old configuration");
    reload(&cache, &yaml("second"), "configuration reloaded");
    get(1).expect(b"two");
    reload(&cache, "registries: [", "configuration not reloaded");
    get(2).expect(b"three");
    assert!(!cache.stderr().contains("second"), "{}", cache.stderr());
}
