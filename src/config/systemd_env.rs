//! The variables that systemd passes in the environment: sockets (`sd_listen_fds(3)`), the notify socket (`sd_notify(3)`), and
//! the watchdog timeout (`sd_watchdog_enabled(3)`). These variables are no settings: no operator writes them by hand.

use std::time::Duration;

use super::Environment;
use super::diagnostics::{Diagnostic, Place};
use crate::limits::INHERITED_SOCKETS_MAX;

/// The environment that systemd passes; each part may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemdEnvironment {
    /// The sockets that it passes, in the order of their descriptors, of which the first is 3.
    pub sockets: Vec<SocketName>,
    /// The notify socket of systemd: a path, or a name that begins with `@`.
    pub notify: Option<String>,
    /// The watchdog timeout, after which systemd restarts the process.
    pub watchdog: Option<Duration>,
}

/// What a passed socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// `http`: clients speak without TLS.
    Http,
    /// `https`: with TLS.
    Https,
    /// Any other name, or none: as an address without a scheme.
    Other,
}

impl SystemdEnvironment {
    /// Reads the environment. What is meant for another process, as the number beside it says, is not for us.
    pub(super) fn of_environment(environment: Environment<'_>, diagnostics: &mut Vec<Diagnostic>) -> Self {
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
                    systemd.sockets = names.take(count).map(SocketName::of).collect();
                }
                _ => diagnostics.push(Diagnostic {
                    what: Place::Environment("LISTEN_FDS").with_value(&count),
                    why: format!("accepted is a number up to {INHERITED_SOCKETS_MAX}"),
                }),
            }
        }
        // Without a number it is for whoever reads it.
        if env("WATCHDOG_PID").is_none() || is_ours("WATCHDOG_PID") {
            let micros = env("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
            systemd.watchdog = micros.filter(|&micros| micros > 0).map(Duration::from_micros);
        }
        systemd
    }
}

impl SocketName {
    fn of(name: Option<&str>) -> Self {
        match name {
            Some("http") => SocketName::Http,
            Some("https") => SocketName::Https,
            _ => SocketName::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> (SystemdEnvironment, usize) {
        let find = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let environment = Environment {
            env: &find,
            ..Environment::of_process()
        };
        let mut diagnostics = Vec::new();
        let systemd = SystemdEnvironment::of_environment(environment, &mut diagnostics);
        (systemd, diagnostics.len())
    }

    #[test]
    fn sockets_have_the_names_they_were_given() {
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
    fn what_is_for_another_process_is_left_alone() {
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
