//! The file of the pins.
//!
//! A version without ranges and platforms reads `pins` only. Such a version holds all platforms of these
//! pins, and drops the other members when it changes the pins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Pin, Pins};
use crate::oci::Platforms;

#[derive(Serialize, Deserialize)]
struct PinFile {
    /// Names and patterns with `*`.
    pins: Vec<String>,
    /// Repositories with ranges of versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<String>,
    /// The platforms of pins that do not hold all platforms.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    platforms: BTreeMap<String, Vec<String>>,
}

impl Pins {
    /// Reads the file of the pins. `None` if the text is no such file.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let file: PinFile = serde_json::from_slice(json).ok()?;
        let read = |text: &String| {
            let pin = Pin::parse(text).ok()?;
            let Some(words) = file.platforms.get(text) else {
                return Some(pin);
            };
            let platforms = Platforms::of_words(words.iter().map(String::as_str)).ok()?;
            Some(pin.for_platforms(platforms))
        };
        let mut pins: Vec<Pin> = file
            .pins
            .iter()
            .chain(&file.ranges)
            .map(read)
            .collect::<Option<_>>()?;
        pins.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Some(Pins(pins))
    }

    pub fn to_json(&self) -> Vec<u8> {
        let is_range = |pin: &&Pin| pin.pattern().is_range();
        let (ranges, pins): (Vec<&Pin>, Vec<&Pin>) = self.0.iter().partition(is_range);
        let texts = |pins: Vec<&Pin>| pins.into_iter().map(|pin| pin.as_str().to_owned()).collect();
        let file = PinFile {
            pins: texts(pins),
            ranges: texts(ranges),
            platforms: self.platforms(),
        };
        serde_json::to_vec_pretty(&file).expect("pins are strings")
    }

    /// Returns the platforms of the pins that do not hold all platforms, by pattern.
    pub fn platforms(&self) -> BTreeMap<String, Vec<String>> {
        let limited = self.0.iter().filter(|pin| pin.is_limited());
        limited
            .map(|pin| (pin.as_str().to_owned(), pin.platforms.words()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_back_as_they_were_written() {
        let mut pins = Pins::default();
        for text in [
            "quay.io/team/*:v*",
            "alpine:3.20",
            "redis:^7.2",
            "quay.io/a",
            "b:>=1,<2",
        ] {
            assert_eq!(pins.add(Pin::parse(text).unwrap()), Ok(true));
        }
        let limited = Pin::parse("redis:^7.2").unwrap();
        let limited = limited.for_platforms("linux/amd64,linux/arm64".parse().unwrap());
        assert_eq!(pins.add(limited), Ok(true));
        let json = pins.to_json();
        let read = Pins::parse(&json).unwrap();
        assert_eq!(read.0, pins.0, "{}", String::from_utf8_lossy(&json));
    }

    #[test]
    fn file_of_an_older_version_is_read_and_plain_pins_are_written_as_there() {
        let json = br#"{"pins": ["docker.io/library/alpine:3.20", "quay.io/a"]}"#;
        let pins = Pins::parse(json).unwrap();
        assert_eq!(pins.texts(), ["docker.io/library/alpine:3.20", "quay.io/a"]);
        let written: serde_json::Value = serde_json::from_slice(&pins.to_json()).unwrap();
        assert_eq!(
            written,
            serde_json::from_slice::<serde_json::Value>(json).unwrap()
        );
        for bad in [
            &b"{}"[..],
            br#"{"pins": ["UPPER"]}"#,
            br#"{"pins": [], "ranges": ["a:^x"]}"#,
            br#"{"pins": ["quay.io/a"], "platforms": {"quay.io/a": ["x"]}}"#,
        ] {
            assert!(Pins::parse(bad).is_none());
        }
    }
}
