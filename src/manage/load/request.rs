//! A load as an operator writes it, on the command line or as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{LoadSettings, parse_pull_timeout};
use crate::limits::{LOAD_CONCURRENCY_DEFAULT, LOAD_CONCURRENCY_MAX, LOAD_IMAGES_MAX, LOAD_TAG_SEARCHES_MAX};
use crate::oci::{ImageName, Origin, Platforms};
use crate::store::Pin;

/// The images to load, and the manner.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadRequest {
    /// The images: `[registry/]repository[:tag][@digest]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Repositories with a range of versions or a pattern of tags. The registry lists the tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags_of: Vec<String>,
    /// `os/architecture[/variant]`, `host` or `all`. Empty means `LOAD_PLATFORMS` of the cache.
    pub platforms: Vec<String>,
    /// Images at once. `None` means [`LOAD_CONCURRENCY_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// The time for one image, such as `10m`. `None` means `PULL_TIMEOUT` of the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_timeout: Option<String>,
    /// Whether the load also fetches the referrers and the signatures of each manifest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub referrers: bool,
}

/// A parsed [`LoadRequest`].
#[derive(Clone, Debug)]
pub struct LoadRule {
    pub images: Vec<WantedImage>,
    pub tags: Vec<WantedTags>,
    /// Images at once, at least 1.
    pub concurrency: usize,
    /// The time for one image.
    pub pull_timeout: Duration,
    /// Whether the load also fetches the referrers and the signatures of each manifest.
    pub referrers: bool,
}

/// An image to load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedImage {
    /// With a tag or a digest.
    pub name: ImageName,
    pub platforms: Platforms,
}

/// The tags of a repository to load: the tags that the registry lists and the pin holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedTags {
    pub pin: Pin,
    pub origin: Origin,
    pub platforms: Platforms,
}

impl WantedTags {
    fn parse(text: &str, platforms: &Platforms) -> Result<Self, String> {
        let pin = Pin::parse(text).map_err(|error| error.to_string())?;
        let origin = pin.repository_of_tags().ok_or_else(|| {
            format!(
                "{text:?} is no repository with a range or a pattern of tags; use a name such as redis:^7.2"
            )
        })?;
        Ok(WantedTags {
            pin,
            origin,
            platforms: platforms.clone(),
        })
    }
}

impl LoadRequest {
    /// Parses the request. `settings` has the values of absent members.
    ///
    /// # Errors
    ///
    /// A member is invalid. The message has the remedy.
    pub fn rule(&self, settings: &LoadSettings) -> Result<LoadRule, String> {
        if self.images.is_empty() && self.tags_of.is_empty() {
            return Err("no images are named; list names of images such as alpine:3.20".to_owned());
        }
        if self.images.len() > LOAD_IMAGES_MAX {
            return Err(format!(
                "there are more than {LOAD_IMAGES_MAX} images; split the list"
            ));
        }
        if self.tags_of.len() > LOAD_TAG_SEARCHES_MAX {
            return Err(format!(
                "there are more than {LOAD_TAG_SEARCHES_MAX} ranges and patterns; split the request"
            ));
        }
        let platforms = match self.platforms[..] {
            [] => settings.platforms.clone(),
            _ => Platforms::of_words(self.platforms.iter().map(String::as_str))
                .map_err(|error| error.to_string())?,
        };
        let concurrency = self.concurrency.unwrap_or(LOAD_CONCURRENCY_DEFAULT);
        if !(1..=LOAD_CONCURRENCY_MAX).contains(&concurrency) {
            return Err(format!(
                "the concurrency must be a number from 1 to {LOAD_CONCURRENCY_MAX}"
            ));
        }
        let pull_timeout = match &self.pull_timeout {
            None => settings.pull_timeout,
            Some(text) => parse_pull_timeout(text)
                .ok_or_else(|| format!("the pull timeout {text:?} is invalid; use a time such as 10m"))?,
        };
        let tags = self
            .tags_of
            .iter()
            .map(|text| WantedTags::parse(text, &platforms));
        let images = self.images.iter().map(|text| {
            let name: ImageName = text.parse().map_err(|error| format!("{error}"))?;
            Ok(WantedImage {
                name: name.or_latest(),
                platforms: platforms.clone(),
            })
        });
        Ok(LoadRule {
            images: images.collect::<Result<_, String>>()?,
            tags: tags.collect::<Result<_, String>>()?,
            concurrency,
            pull_timeout,
            referrers: self.referrers,
        })
    }

    /// Returns a text of the images, for the log.
    pub fn selector(&self) -> String {
        match (&self.images[..], &self.tags_of[..]) {
            ([image], []) => image.clone(),
            (_, [tags]) => tags.clone(),
            (images, _) => format!("{} images", images.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<LoadRule, String> {
        let request: LoadRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
        request.rule(&LoadSettings {
            platforms: Platforms::All,
            pull_timeout: Duration::from_secs(60),
        })
    }

    #[test]
    fn absent_members_have_the_values_of_the_cache() {
        let parsed = rule(r#"{"images": ["alpine"]}"#).unwrap();
        assert_eq!(
            parsed.images[0].name.to_string(),
            "docker.io/library/alpine:latest"
        );
        assert_eq!(parsed.images[0].platforms, Platforms::All);
        assert_eq!(parsed.concurrency, LOAD_CONCURRENCY_DEFAULT);
        assert_eq!(parsed.pull_timeout, Duration::from_secs(60));
        let parsed = rule(
            r#"{"images": ["a:1"], "platforms": ["linux/arm64"], "concurrency": 1, "pullTimeout": "5s"}"#,
        )
        .unwrap();
        assert_eq!(parsed.images[0].platforms.to_string(), "linux/arm64");
        assert_eq!(
            (parsed.concurrency, parsed.pull_timeout),
            (1, Duration::from_secs(5))
        );
    }

    #[test]
    fn ranges_and_patterns_of_tags_name_their_repository() {
        for (text, repository) in [
            ("redis:^7.2", "docker.io/library/redis"),
            ("r.example/a/b:v1.*", "r.example/a/b"),
            ("r.example:5000/a:**", "r.example:5000/a"),
        ] {
            let parsed = rule(&format!(r#"{{"tagsOf": ["{text}"]}}"#)).unwrap();
            assert_eq!(parsed.images, []);
            let origin = &parsed.tags[0].origin;
            assert_eq!(format!("{}/{}", origin.namespace, origin.repository), repository);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let searches = ["\"a:^1\""; LOAD_TAG_SEARCHES_MAX + 1].join(",");
        let many = vec!["\"a:1\""; LOAD_IMAGES_MAX + 1].join(",");
        for (json, part) in [
            (r#"{}"#, "no images"),
            (r#"{"images": ["UPPER"]}"#, "[registry/]repository"),
            (r#"{"images": ["a"], "platforms": ["amd64"]}"#, "linux/amd64"),
            (r#"{"images": ["a"], "concurrency": 0}"#, "from 1 to"),
            (r#"{"images": ["a"], "pullTimeout": "soon"}"#, "10m"),
            (r#"{"images": ["a"], "pullTimeout": "0s"}"#, "10m"),
            (r#"{"image": ["a"]}"#, "unknown field"),
            (r#"{"tagsOf": ["redis:7"]}"#, "no repository with a range"),
            (r#"{"tagsOf": ["redis"]}"#, "no repository with a range"),
            (r#"{"tagsOf": ["r.example/*:v1"]}"#, "no repository with a range"),
            (r#"{"tagsOf": ["redis:^x"]}"#, "range of versions"),
            (&format!(r#"{{"tagsOf": [{searches}]}}"#), "split the request"),
            (&format!(r#"{{"images": [{many}]}}"#), "split the list"),
        ] {
            let error = rule(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
