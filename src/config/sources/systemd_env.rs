//! The variables of systemd: sockets (`sd_listen_fds(3)`), the notify socket (`sd_notify(3)`), and the watchdog timeout
//! (`sd_watchdog_enabled(3)`). Operators do not set these variables by hand.

use std::time::Duration;

use super::super::model::{SocketName, SystemdEnvironment};
use super::diagnostics::{Diagnostic, Place};
use super::environment::Environment;
use crate::limits::INHERITED_SOCKETS_MAX;

/// Reads the variables of systemd. Variables with the identifier of another process are ignored.
pub(in crate::config) fn systemd_of_environment(
    environment: Environment<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> SystemdEnvironment {
    let env = |name: &str| (environment.env)(name).filter(|value| !value.is_empty());
    let is_ours = |name| env(name).is_some_and(|pid| pid == std::process::id().to_string());
    let mut systemd = SystemdEnvironment {
        notify: env("NOTIFY_SOCKET"),
        ..SystemdEnvironment::default()
    };
    if is_ours("LISTEN_PID") {
        let count = env("LISTEN_FDS").unwrap_or_default();
        match count.parse::<usize>() {
            Ok(count) if count <= INHERITED_SOCKETS_MAX => {
                let names = env("LISTEN_FDNAMES").unwrap_or_default();
                let names = names.split(':').map(Some).chain(std::iter::repeat(None));
                systemd.sockets = names.take(count).map(socket_name).collect();
            }
            _ => diagnostics.push(Diagnostic {
                what: Place::Environment("LISTEN_FDS").with_value(&count),
                why: format!("expected a number from 0 to {INHERITED_SOCKETS_MAX}"),
            }),
        }
    }
    // Without an identifier, the variable is for every process.
    if env("WATCHDOG_PID").is_none() || is_ours("WATCHDOG_PID") {
        let micros = env("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        systemd.watchdog = micros.filter(|&micros| micros > 0).map(Duration::from_micros);
    }
    systemd
}

fn socket_name(name: Option<&str>) -> SocketName {
    match name {
        Some("http") => SocketName::Http,
        Some("https") => SocketName::Https,
        _ => SocketName::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::environment::variables;

    fn read(env: &[(&str, &str)]) -> (SystemdEnvironment, usize) {
        let find = variables(env);
        let environment = Environment {
            env: &find,
            ..Environment::of_process()
        };
        let mut diagnostics = Vec::new();
        let systemd = systemd_of_environment(environment, &mut diagnostics);
        (systemd, diagnostics.len())
    }

    #[test]
    fn systemd_sockets_are_named_by_listen_fdnames() {
        let pid = std::process::id().to_string();
        let (systemd, diagnostics) = read(&[
            ("LISTEN_PID", &pid),
            ("LISTEN_FDS", "4"),
            ("LISTEN_FDNAMES", "https:cache.socket:http"),
        ]);
        let names = [
            SocketName::Https,
            SocketName::Other,
            SocketName::Http,
            SocketName::Other,
        ];
        assert_eq!((systemd.sockets.as_slice(), diagnostics), (&names[..], 0));
    }

    #[test]
    fn systemd_variables_for_another_process_are_ignored() {
        let (systemd, diagnostics) = read(&[
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "many"),
            ("WATCHDOG_PID", "1"),
            ("WATCHDOG_USEC", "30000000"),
        ]);
        assert_eq!((systemd, diagnostics), (SystemdEnvironment::default(), 0));
    }

    #[test]
    fn the_watchdog_is_for_the_named_process_or_any() {
        let pid = std::process::id().to_string();
        for env in [
            &[("WATCHDOG_USEC", "30000000")][..],
            &[("WATCHDOG_PID", &pid), ("WATCHDOG_USEC", "30000000")],
        ] {
            assert_eq!(read(env).0.watchdog, Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn an_invalid_number_of_sockets_is_an_error() {
        let pid = std::process::id().to_string();
        for count in ["-1", "x", "65"] {
            assert_eq!(
                read(&[("LISTEN_PID", &pid), ("LISTEN_FDS", count)]).1,
                1,
                "{count}"
            );
        }
    }
}
