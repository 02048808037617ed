//! Kinds of values. A kind has the bounds for the schema and the expected form for messages. A [`Value`] adds the parser
//! to a typed value.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

use super::model::units::{
    BOOL_EXPECTED, BYTES_EXPECTED, DURATION_EXPECTED, parse_bool, parse_bytes, parse_duration,
    parse_pull_timeout,
};
use super::model::{
    Backend, BaseUrl, ClientCertificateMode, IoDriver, KernelTls, LIFECYCLE_DAYS_MAX, ListenAddr, Prefetch,
    SIZE_EXPECTED, SizeBound, VerifyOnOpen, parse_bucket, parse_days, parse_prefix,
};
use crate::log::{FormatChoice, LEVELS};
use crate::oci::{Namespace, Platforms};

/// Upper bound of `HELPER_THREADS`: the network limits upstream traffic long before 64 threads are busy.
pub const HELPER_THREADS_MAX: usize = 64;

/// Upper bound of `CORES`: the size of `cpu_set_t`. A larger number is a typing error.
pub const CORES_MAX: usize = 1024;

/// Upper bound of `MAX_CONNECTIONS`: the descriptors of a process on usual kernels (`fs.nr_open`).
pub const MAX_CONNECTIONS_MAX: usize = 1_048_576;

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    /// A number from 1 to the bound.
    Count(u64),
    /// A number from 1 to the bound, or `auto`.
    CountOrAuto(u64),
    /// A number from 0 to the bound.
    CountFrom0(u64),
    Port,
    Bytes,
    /// A size, or `auto`.
    BytesOrAuto,
    /// A size, a percentage, or `auto`.
    SizeOrAuto,
    Duration,
    /// A duration, or plain milliseconds.
    DurationOrMillis,
    /// Platforms, separated by commas, or `all` or `host`.
    Platforms,
    /// A word of the list.
    Word(&'static [&'static str]),
    /// A word of the list, or a duration.
    WordOrDuration(&'static [&'static str]),
    /// Listen addresses, separated by commas, or a list in the file.
    Addresses,
    /// A listen address without TLS, or `off`.
    AddressOrOff,
    /// An `http` or `https` URL.
    Url,
    /// Scheme, host and port of the cache, or `none`.
    BaseUrl,
    /// The URL of a proxy, or a word of the list.
    ProxyUrl(&'static [&'static str]),
    /// The name of a registry.
    Registry,
    /// The name of a registry, or `none`.
    RegistryOrNone,
    Bucket,
    /// The prefix of keys in a bucket.
    Prefix,
    Path,
    Text,
    /// A text that no output shows.
    Secret,
}

impl Kind {
    /// Returns the expected form, for messages.
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Switch => BOOL_EXPECTED.to_owned(),
            Kind::Count(most) => format!("a number from 1 to {most}"),
            Kind::CountOrAuto(most) => format!("auto or a number from 1 to {most}"),
            Kind::CountFrom0(most) => format!("a number from 0 to {most}"),
            Kind::Port => format!("a number from 0 to {}", u16::MAX),
            Kind::Bytes => BYTES_EXPECTED.to_owned(),
            Kind::BytesOrAuto => format!("auto or {BYTES_EXPECTED}"),
            Kind::SizeOrAuto => format!("auto or {SIZE_EXPECTED}"),
            Kind::Duration => DURATION_EXPECTED.to_owned(),
            Kind::DurationOrMillis => {
                "a duration such as 500ms, 60s, 10m or 2h, more than 0, or plain milliseconds".to_owned()
            }
            Kind::Platforms => "host, all, or platforms such as linux/amd64,linux/arm64/v8".to_owned(),
            Kind::Word(words) => one_of(words),
            Kind::WordOrDuration(words) => format!("{}, or {DURATION_EXPECTED}", words.join(", ")),
            Kind::Addresses => ListenAddr::EXPECTED.to_owned(),
            Kind::AddressOrOff => "off, or an address such as `127.0.0.1:9090` or `:9090`".to_owned(),
            Kind::Url => "http://host[:port][/path], or the same with https".to_owned(),
            Kind::BaseUrl => BaseUrl::EXPECTED.to_owned(),
            Kind::ProxyUrl(_) => format!("{PROXY_URL_EXPECTED}, none or environment"),
            Kind::Registry => "a registry, `host` or `host:port`".to_owned(),
            Kind::RegistryOrNone => "a registry, `host` or `host:port`, or none".to_owned(),
            Kind::Bucket => {
                "a bucket's name: 3 to 63 letters, digits, dots, dashes and underscores".to_owned()
            }
            Kind::Prefix => {
                "a path such as caches/eu, at most 256 printable ASCII characters without empty parts, `.` and `..`"
                    .to_owned()
            }
            Kind::Path => "a path".to_owned(),
            Kind::Text | Kind::Secret => "a text".to_owned(),
        }
    }
}

/// The form of a proxy's URL, for messages.
pub(super) const PROXY_URL_EXPECTED: &str = "[http, https, socks5 or socks5h]://[user:password@]host[:port]";

/// Returns `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A kind with the parser of its typed value.
pub(super) struct Value<T> {
    pub kind: Kind,
    pub parse: fn(&str) -> Option<T>,
}

impl<T> Value<T> {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// Returns the expected form.
    pub(super) fn read(&self, text: &str) -> Result<T, String> {
        (self.parse)(text).ok_or_else(|| self.kind.expected())
    }
}

pub(super) const SWITCH: Value<bool> = Value {
    kind: Kind::Switch,
    parse: parse_bool,
};
pub(super) const BYTES: Value<u64> = Value {
    kind: Kind::Bytes,
    parse: parse_bytes,
};
pub(super) const BYTES_OR_AUTO: Value<Option<u64>> = Value {
    kind: Kind::BytesOrAuto,
    parse: |text| or_auto(text, parse_bytes),
};
pub(super) const SIZE_OR_AUTO: Value<Option<SizeBound>> = Value {
    kind: Kind::SizeOrAuto,
    parse: |text| or_auto(text, SizeBound::parse),
};
pub(super) const DURATION: Value<Duration> = Value {
    kind: Kind::Duration,
    parse: parse_duration,
};
/// A number without a unit means milliseconds, as in ociregistry.
pub(super) const DURATION_OR_MILLIS: Value<Duration> = Value {
    kind: Kind::DurationOrMillis,
    parse: parse_pull_timeout,
};
pub(super) const PLATFORMS: Value<Platforms> = Value {
    kind: Kind::Platforms,
    parse: |text| text.parse().ok(),
};
pub(super) const PATH: Value<String> = Value {
    kind: Kind::Path,
    parse: |text| Some(text.to_owned()),
};
/// The default is no path. A file named `none` needs a path such as `./none`.
pub(super) const PATH_OR_NONE: Value<Option<PathBuf>> = Value {
    kind: Kind::Path,
    parse: |text| match text {
        "" | "none" => Some(None),
        _ => Some(Some(PathBuf::from(text))),
    },
};
pub(super) const TEXT: Value<String> = Value {
    kind: Kind::Text,
    parse: |text| Some(text.to_owned()),
};
/// A text that no output shows.
pub(super) const SECRET: Value<String> = Value {
    kind: Kind::Secret,
    parse: |text| Some(text.to_owned()),
};
/// Listen addresses without a scheme are parsed as plain http.
pub(super) const ADDRESSES: Value<Vec<ListenAddr>> = Value {
    kind: Kind::Addresses,
    parse: |text| parse_addresses(text, false),
};

/// `off` is no address. The API has no TLS.
pub(super) const ADMIN_ADDRESS: Value<Option<ListenAddr>> = Value {
    kind: Kind::AddressOrOff,
    parse: |text| match text {
        "off" | "none" | "false" => Some(None),
        _ => ListenAddr::parse(text, false).filter(|addr| !addr.tls).map(Some),
    },
};

/// A number alone is a port on every address, and 0 is no listener.
pub(super) const ADDRESS_OR_PORT: Value<Option<ListenAddr>> = Value {
    kind: Kind::AddressOrOff,
    parse: |text| match text.parse::<u16>() {
        Ok(0) => Some(None),
        Ok(_) => (ADMIN_ADDRESS.parse)(&format!(":{text}")),
        Err(_) => (ADMIN_ADDRESS.parse)(text),
    },
};

pub(super) const CORES: Value<Option<NonZeroUsize>> = Value {
    kind: Kind::CountOrAuto(CORES_MAX as u64),
    parse: |text| or_auto(text, |text| parse_count(text, CORES_MAX)),
};
pub(super) const HELPER_THREADS: Value<NonZeroUsize> = Value {
    kind: Kind::Count(HELPER_THREADS_MAX as u64),
    parse: |text| parse_count(text, HELPER_THREADS_MAX),
};
pub(super) const CONNECTIONS_OR_AUTO: Value<Option<NonZeroUsize>> = Value {
    kind: Kind::CountOrAuto(MAX_CONNECTIONS_MAX as u64),
    parse: |text| or_auto(text, |text| parse_count(text, MAX_CONNECTIONS_MAX)),
};
pub(super) const CONNECTIONS_FROM_0: Value<usize> = Value {
    kind: Kind::CountFrom0(MAX_CONNECTIONS_MAX as u64),
    parse: |text| text.parse().ok().filter(|&count| count <= MAX_CONNECTIONS_MAX),
};
pub(super) const LIFECYCLE_DAYS: Value<u32> = Value {
    kind: Kind::CountFrom0(LIFECYCLE_DAYS_MAX as u64),
    parse: parse_days,
};
pub(super) const BUCKET: Value<String> = Value {
    kind: Kind::Bucket,
    parse: parse_bucket,
};
pub(super) const PREFIX: Value<String> = Value {
    kind: Kind::Prefix,
    parse: parse_prefix,
};
/// The empty text is the default in files of ociregistry. There, the empty text means that names need a registry.
pub(super) const REGISTRY_OR_NONE: Value<Option<Namespace>> = Value {
    kind: Kind::RegistryOrNone,
    parse: |text| match text {
        "" | "none" => Some(None),
        _ => text.parse().ok().map(Some),
    },
};

pub(super) const BASE_URL: Value<Option<BaseUrl>> = Value {
    kind: Kind::BaseUrl,
    parse: |text| match text {
        "" | "none" => Some(None),
        _ => BaseUrl::parse(text).map(Some),
    },
};

pub(super) const IO_DRIVER: Value<IoDriver> = Value {
    kind: Kind::Word(&words(&IoDriver::WORDS)),
    parse: |text| find(&IoDriver::WORDS, text),
};
pub(super) const KERNEL_TLS: Value<KernelTls> = Value {
    kind: Kind::Word(&words(&KernelTls::WORDS)),
    parse: |text| find(&KernelTls::WORDS, text),
};
pub(super) const STORAGE_BACKEND: Value<Backend> = Value {
    kind: Kind::Word(&words(&Backend::WORDS)),
    parse: |text| find(&Backend::WORDS, text),
};
pub(super) const PREFETCH: Value<Prefetch> = Value {
    kind: Kind::Word(&words(&Prefetch::WORDS)),
    parse: |text| find(&Prefetch::WORDS, text),
};
pub(super) const VERIFY_ON_OPEN: Value<VerifyOnOpen> = Value {
    kind: Kind::Word(&words(&VerifyOnOpen::WORDS)),
    parse: |text| find(&VerifyOnOpen::WORDS, text),
};
/// Upper case is valid too.
pub(super) const LOG_LEVEL: Value<Level> = Value {
    kind: Kind::Word(&words(&LEVELS)),
    parse: |text| find(&LEVELS, &text.to_ascii_lowercase()),
};
pub(super) const LOG_FORMAT: Value<FormatChoice> = Value {
    kind: Kind::Word(&words(&FormatChoice::WORDS)),
    parse: |text| find(&FormatChoice::WORDS, text),
};
/// Upper case is valid too.
pub(super) const TLS_CLIENT_AUTH: Value<ClientCertificateMode> = Value {
    kind: Kind::Word(&words(&ClientCertificateMode::WORDS)),
    parse: |text| find(&ClientCertificateMode::WORDS, &text.to_ascii_lowercase()),
};

/// Parses listen addresses, separated by commas. An address without a scheme uses TLS if `tls` is set.
pub(super) fn parse_addresses(text: &str, tls: bool) -> Option<Vec<ListenAddr>> {
    text.split(',')
        .map(|address| ListenAddr::parse(address.trim(), tls))
        .collect()
}

fn parse_count(text: &str, max: usize) -> Option<NonZeroUsize> {
    let count = text.parse::<NonZeroUsize>().ok();
    count.filter(|count| count.get() <= max)
}

/// Returns `None` for `auto`.
fn or_auto<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        "auto" => Some(None),
        _ => parse(text).map(Some),
    }
}

/// Returns the value of a word.
fn find<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    let row = table.iter().find(|(known, _)| *known == word);
    row.map(|(_, value)| *value)
}

/// Returns the words of a table.
const fn words<T: Copy, const N: usize>(table: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut at = 0;
    while at < N {
        words[at] = table[at].0;
        at += 1;
    }
    words
}
