//! What a supervisor passes in the environment: sockets (`sd_listen_fds(3)`), where to report (`sd_notify(3)`), and how often
//! it wants a sign of life (`sd_watchdog_enabled(3)`). No settings: nobody writes them by hand.

use std::time::Duration;

use super::Surroundings;
use super::mistake::{Mistake, Place};
use crate::limits::INHERITED_SOCKETS_MAX;

/// What started us, as far as it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// The sockets that it passes, in the order of their descriptors, of which the first is 3.
    pub sockets: Vec<SocketName>,
    /// The socket it listens on for news of us; a path, or a name that begins with `@`.
    pub notify: Option<String>,
    /// How long it waits for a sign of life before it restarts us.
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

impl Supervisor {
    /// Reads the environment. What is meant for another process, as the number beside it says, is not for us.
    pub(super) fn of_environment(surroundings: Surroundings<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let env = |name: &str| (surroundings.env)(name).filter(|value| !value.is_empty());
        let is_ours = |name| env(name).is_some_and(|pid| pid == std::process::id().to_string());
        let mut supervisor = Supervisor {
            notify: env("NOTIFY_SOCKET"),
            ..Supervisor::default()
        };
        if is_ours("LISTEN_PID") {
            let count = env("LISTEN_FDS").unwrap_or_default();
            match count.parse::<usize>() {
                Ok(count) if count <= INHERITED_SOCKETS_MAX => {
                    let names = env("LISTEN_FDNAMES").unwrap_or_default();
                    let names = names.split(':').map(Some).chain(std::iter::repeat(None));
                    supervisor.sockets = names.take(count).map(SocketName::of).collect();
                }
                _ => mistakes.push(Mistake {
                    what: Place::Environment("LISTEN_FDS").with_value(&count),
                    why: format!("accepted is a number up to {INHERITED_SOCKETS_MAX}"),
                }),
            }
        }
        // Without a number it is for whoever reads it.
        if env("WATCHDOG_PID").is_none() || is_ours("WATCHDOG_PID") {
            let micros = env("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
            supervisor.watchdog = micros.filter(|&micros| micros > 0).map(Duration::from_micros);
        }
        supervisor
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

    fn read(env: &[(&str, &str)]) -> (Supervisor, usize) {
        let find = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let surroundings = Surroundings {
            env: &find,
            ..Surroundings::of_process()
        };
        let mut mistakes = Vec::new();
        let supervisor = Supervisor::of_environment(surroundings, &mut mistakes);
        (supervisor, mistakes.len())
    }

    #[test]
    fn sockets_have_the_names_they_were_given() {
        let pid = std::process::id().to_string();
        let (supervisor, mistakes) = read(&[
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
        assert_eq!((supervisor.sockets.as_slice(), mistakes), (&names[..], 0));
    }

    #[test]
    fn what_is_for_another_process_is_left_alone() {
        let (supervisor, mistakes) = read(&[
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "many"),
            ("WATCHDOG_PID", "1"),
            ("WATCHDOG_USEC", "30000000"),
        ]);
        assert_eq!((supervisor, mistakes), (Supervisor::default(), 0));
    }

    #[test]
    fn signs_of_life_are_for_who_is_named_or_nobody() {
        let pid = std::process::id().to_string();
        for env in [
            &[("WATCHDOG_USEC", "30000000")][..],
            &[("WATCHDOG_PID", &pid), ("WATCHDOG_USEC", "30000000")],
        ] {
            assert_eq!(read(env).0.watchdog, Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn a_number_of_sockets_that_is_none_is_a_mistake() {
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
