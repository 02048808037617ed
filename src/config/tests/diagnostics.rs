//! Diagnostics of a file.

use proptest::prelude::*;

use super::{CERT, EVERYTHING, GOOD, KEY, Machine, OTHER_KEY, with_files};
use crate::config::sources::keys::tests::TABLES;
use crate::config::sources::keys::{Loss, Shape};

#[test]
fn a_diagnostic_of_a_registry_has_its_line_its_key_and_no_secret() {
    for (entry, expected) in [
        (
            "insecur: true",
            "\"insecur\": unknown key; did you mean insecure?",
        ),
        (
            "zzzzzzz: true",
            "\"zzzzzzz\": unknown key; expected one of name, url, mirrors, ",
        ),
        (
            "auht: {password: canary}",
            "\"auht\": unknown key; did you mean auth?",
        ),
        ("auth: canary", "auth: expected one of username with password"),
        ("auth: [canary]", "auth: expected a map of username, "),
        ("auth: {username: u}", "auth: a username needs a password"),
        ("auth: {password: canary}", "auth: a password needs a username"),
        (
            "auth: {username: u, password: [canary]}",
            "auth.password: expected a single value",
        ),
        (
            "auth: {username: 'u:v', password: canary}",
            "auth.username: \"u:v\": a user name",
        ),
        (
            "auth: {username: u, pasword: canary}",
            "auth: \"pasword\": unknown key; did you mean password?",
        ),
        (
            "auth: {username: u, user: v, password: canary}",
            "auth.user: repeats r.auth.username",
        ),
        (
            "auth: {username: u, password: canary, password_env: V}",
            "auth.password_env: password is set in two ways",
        ),
        (
            "auth: {username: u, password_env: UNSET}",
            "auth.password_env: \"UNSET\": this variable is not set",
        ),
        (
            "auth: {username: u, password_file: /none}",
            "auth.password_file: \"/none\": cannot be read: ",
        ),
        (
            "auth: {username: u, password_file: /empty}",
            "auth.password_file: \"/empty\": the file is empty",
        ),
        (
            "auth: {registry_token: 'canary canary'}",
            "auth: the token has blanks",
        ),
        (
            "auth: {username: u, password: canary, helper: x}",
            "auth: expected one of ",
        ),
        (
            "auth: {helper: ../x}",
            "auth.helper: \"../x\": expected the part of the program's name",
        ),
        (
            "auth: {docker_config: /none}",
            "auth.docker_config: \"/none\": cannot be read: ",
        ),
        (
            "auth: {docker_config: /pw}",
            "auth.docker_config: \"/pw\": is not a JSON object",
        ),
        (
            "auth: {token: {provider: gcr}}",
            "auth.token.provider: \"gcr\": expected ecr",
        ),
        ("auth: {token: {}}", "auth.token: needs provider or static"),
        ("tls: true", "tls: expected a map of ca, "),
        (
            "tls: {ca: /pw}",
            "tls.ca: \"/pw\": holds no certificate in PEM form",
        ),
        ("tls: {ca: /key}", "tls.ca: \"/key\": holds no certificate"),
        ("tls: {ca: /none}", "tls.ca: \"/none\": cannot be read: "),
        ("tls: {cert: /cert}", "tls: cert and key belong together"),
        (
            "tls: {cert: /key, key: /key}",
            "tls.cert: \"/key\": holds no certificate",
        ),
        (
            "tls: {cert: /cert, key: /cert}",
            "tls.key: \"/cert\": holds no private key",
        ),
        (
            "tls: {cert: /cert, key: /other}",
            "tls.key: \"/other\": does not match the certificate",
        ),
        (
            "{tls: {insecure_skip_verify: true}, insecure_skip_verify: true}",
            "insecure_skip_verify: is already set in tls",
        ),
        ("{insecure: true, scheme: https}", "scheme: contradicts insecure"),
        ("scheme: ftp", "scheme: \"ftp\": expected https or http"),
        (
            "upstream_proxy: ftp://u:canary@h",
            "upstream_proxy: \"ftp://***@h\": expected [http, https",
        ),
        (
            "upstream_proxy: socks5://u:canary@h:port",
            "upstream_proxy: \"socks5://***@h:port\": ",
        ),
        (
            "url: http://u:canary@h",
            "url: \"http://***@h\": credentials do not belong",
        ),
        ("url: http://h/?canary", "url: \"http://h/\": expected http"),
        ("mirrors: [m.lan]", "mirrors[0]: \"m.lan\": expected http"),
        ("mirrors: [{pull: true}]", "mirrors[0]: a mirror needs a url"),
        (
            "mirrors: [{url: http://m, pull: no, resolve: no}]",
            "mirrors[0]: has no use",
        ),
        (
            "realm_hosts: [a, https://b]",
            "realm_hosts[1]: \"https://b\": expected `host`",
        ),
        (
            "allow_private: maybe",
            "allow_private: \"maybe\": expected true, ",
        ),
        (
            "access: public",
            "access: \"public\": expected verify, shared or passthrough",
        ),
        (
            "tag_rules: [{pattern: '/(/', ttl: 1}]",
            "tag_rules[0].pattern: \"/(/\": ",
        ),
        (
            "tag_rules: [{pattern: a}]",
            "tag_rules[0]: a rule needs either ttl or revalidate",
        ),
        (
            "tag_rules: [{pattern: a, ttl: 1, revalidate: never}]",
            "tag_rules[0]: a rule needs either",
        ),
        ("tag_rules: [{ttl: 1}]", "tag_rules[0]: a rule needs a pattern"),
        (
            "tag_rules: [{pattern: a, revalidate: often}]",
            "tag_rules[0].revalidate: \"often\": expected always",
        ),
        ("tag_rules: a", "tag_rules[0]: expected a map of pattern, "),
        ("platforms: [linux]", "platforms: \"linux\": expected os/arch"),
        (
            "max_concurrency: 0",
            "max_concurrency: \"0\": expected a number from 1 to 1024",
        ),
        ("max_concurrency: 1025", "max_concurrency: \"1025\": "),
    ] {
        let block = if entry.starts_with('{') {
            entry.to_owned()
        } else {
            format!("\n      {entry}")
        };
        let text = format!("registries:\n  b:\n  r: {block}\n");
        let line = if entry.starts_with('{') { 3 } else { 4 };
        let diagnostics = Machine::with_file(&text)
            .file("/pw", "canary")
            .file("/empty", "\n")
            .file("/cert", CERT)
            .file("/key", KEY)
            .file("/other", OTHER_KEY)
            .env("V", "canary")
            .diagnostics();
        assert_eq!(diagnostics.len(), 1, "{entry}: {diagnostics:#?}");
        let place = if expected.starts_with('"') {
            format!("f.yaml:{line}: registries.r: {expected}")
        } else {
            format!("f.yaml:{line}: registries.r.{expected}")
                .replace("repeats r.auth", "repeats registries.r.auth")
        };
        assert!(
            diagnostics[0].starts_with(&place),
            "\n   got {}\nwanted {place}",
            diagnostics[0]
        );
        assert!(!diagnostics[0].contains("canary"), "{}", diagnostics[0]);
    }
}

#[test]
fn a_diagnostic_of_the_whole_file_has_its_line_and_no_secret() {
    for (text, expected) in [
        (
            "auth: {username: u, password: ''}",
            "f.yaml:1: auth: a username needs a password",
        ),
        (
            "auth: {username: u, helper: x}",
            "f.yaml:1: auth: \"helper\": unknown key",
        ),
        (
            "insecure: true",
            "f.yaml:1: \"insecure\": unknown key here; set it in defaults",
        ),
        (
            "registreis: []",
            "f.yaml:1: \"registreis\": unknown key; did you mean registries?",
        ),
        (
            "tag_tll: 1",
            "f.yaml:1: \"tag_tll\": unknown key; did you mean tag_ttl?",
        ),
        (
            "port: 99999",
            "f.yaml:1: port: \"99999\": expected a number from 0 to 65535",
        ),
        ("host: localhost", "f.yaml:1: host: \"localhost\": needs port"),
        (
            "{port: 1, listen_addr: ':2'}",
            "f.yaml:1: port: repeats listen_addr",
        ),
        (
            "{fs_root: /a, imagePath: /b}",
            "f.yaml:1: imagePath: repeats fs_root",
        ),
        (
            "{airGapped: true, air_gapped: true}",
            "f.yaml:1: air_gapped: repeats",
        ),
        (
            "defaults: {url: http://a}",
            "f.yaml:1: defaults: \"url\": unknown key",
        ),
        (
            "defaults: {mirrors: []}",
            "f.yaml:1: defaults: \"mirrors\": unknown key",
        ),
        (
            "registries: [{name: '*.lan:5000'}]",
            "f.yaml:1: registries[0].name: \"*.lan:5000\": a suffix has no port",
        ),
        (
            "registries: [{name: '*'}]",
            "f.yaml:1: registries[0].name: \"*\": expected a registry",
        ),
        (
            "registries: [{name: a.*}]",
            "f.yaml:1: registries[0].name: \"a.*\": expected a registry",
        ),
        (
            "registries: {docker.io: , registry-1.docker.io: }",
            "f.yaml:1: registries.registry-1.docker.io: \"registry-1.docker.io\": this registry is named twice, in line 1 too",
        ),
        (
            "registries: {'*.Lan': , '*.lan': }",
            "f.yaml:1: registries.*.lan: \"*.lan\": this registry is named twice",
        ),
        ("a: [canary", "f.yaml:"),
    ] {
        let diagnostics = Machine::with_file(text).diagnostics();
        assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:#?}");
        assert!(
            diagnostics[0].starts_with(expected),
            "\n   got {}\nwanted {expected}",
            diagnostics[0]
        );
        assert!(!diagnostics[0].contains("canary"), "{}", diagnostics[0]);
    }
}

/// A key in a table that no code reads would be ignored without a message.
#[test]
fn no_key_of_the_tables_is_forgotten() {
    for (around, table) in TABLES {
        for (spec, spelling) in table
            .iter()
            .flat_map(|key| key.spellings().map(move |word| (key, word)))
        {
            // Neither a valid value, nor a known map.
            let text = around.replace("KEY", &format!("{{{spelling}: {{xyzzy: [1]}}}}"));
            let outcome = Machine::with_file(&text).resolve();
            match spec.shape {
                Shape::Absent(Loss::Nothing | Loss::Less) => {
                    let diagnostics = outcome
                        .err()
                        .map(|diagnostics| diagnostics.to_string())
                        .unwrap_or_default();
                    assert!(!diagnostics.contains(&spelling), "{text}: {diagnostics}");
                }
                _ => {
                    let diagnostics = outcome.expect_err(&text).to_string();
                    assert!(diagnostics.contains(&spelling), "{text}: {diagnostics}");
                }
            }
        }
    }
}

#[test]
fn a_text_that_is_not_yaml_is_not_repeated() {
    for password in [
        "*canary",
        "&canary",
        "!canary x",
        "!!canary x",
        "%canary",
        "@canary",
        "`canary",
        "'canary",
        "\"canary",
        "\"\\canary\"",
        "{canary",
        "[canary",
        "? canary",
        "|canary",
        ">canary",
        "a: canary",
        "\tcanary: a: b",
        "- canary",
        "canary\n canary: x",
        "!!int canary",
        "!!bool canary",
        "!!binary canary",
        ".inf",
        "\"\\xcanary\"",
        "<<: canary",
    ] {
        let text = format!("auth:\n  username: u\n  password: {password}\n");
        let outcome = Machine::with_file(&text).resolve();
        if let Err(diagnostics) = outcome {
            assert!(
                !diagnostics.to_string().contains("canary"),
                "{password:?}: {diagnostics}"
            );
        }
    }
}

#[test]
fn deep_nesting_and_alias_chains_are_rejected() {
    for text in [
        "[".repeat(100_000),
        "a: ".repeat(10_000),
        format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)),
        format!("registries: {}1{}", "{a: ".repeat(2_000), "}".repeat(2_000)),
        (0..64).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
            format!("{text}a{}: &a{} [*a{n}, *a{n}]\n", n + 1, n + 1)
        }),
    ] {
        assert!(Machine::with_file(&text).resolve().is_err());
    }
}

proptest! {
    /// A damaged file gives a configuration, or diagnostics with lines.
    #[test]
    fn damaged_file_is_read_or_rejected_with_lines(
        which in 0..=GOOD.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..20_usize, "[a-z:{}\\[\\]&*!|>'\"# \n-]{0,4}"), 1..4),
    ) {
        let text = GOOD.get(which).map_or(EVERYTHING, |(_, text, _)| text);
        let mut text: Vec<char> = text.chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(diagnostics) = with_files(&text).resolve() {
            prop_assert!(!diagnostics.0.is_empty());
            for diagnostic in diagnostics.0 {
                prop_assert!(diagnostic.what.starts_with("f.yaml:"), "{:?}", diagnostic);
            }
        }
    }
}
