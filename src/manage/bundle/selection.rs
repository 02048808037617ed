//! The selection of the images of a bundle.

use std::collections::{BTreeMap, HashSet};

use crate::calendar::unix_seconds_of;
use crate::config::{ImageFilter, parse_duration};
use crate::limits::LOAD_IMAGES_MAX;
use crate::local_time::unix_seconds_of_local;
use crate::oci::{ImageName, Origin, Platforms, Reference};
use crate::store::Minute;

/// The images of an export. Conditions select stored images, and names select images beside them.
#[derive(Clone, Debug, Default)]
pub struct ExportSelection {
    /// With a tag or a digest, by their text.
    pub(super) names: BTreeMap<String, ImageName>,
    /// The repositories of `names`.
    origins: HashSet<Origin>,
    /// The conditions, all of which must hold. `None` selects only names.
    pub(super) conditions: Option<Conditions>,
    /// The platforms of each index. `None` for the stored platforms.
    pub platforms: Option<Platforms>,
    pub with_referrers: bool,
    pub skip_incomplete: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    pub filter: ImageFilter,
    pub is_pinned: bool,
    /// The earliest last use, in seconds since 1970.
    pub used_since: Option<u64>,
}

impl ExportSelection {
    /// Parses the conditions. Without a condition and without a name, `all` selects every image.
    ///
    /// # Errors
    ///
    /// A condition is invalid, or nothing is selected. The message has the remedy.
    pub fn new(
        names: Vec<ImageName>,
        pattern: &str,
        is_pinned: bool,
        used_since: Option<&str>,
        all: bool,
    ) -> Result<Self, String> {
        let conditions = Conditions {
            filter: ImageFilter::parse(pattern)?,
            is_pinned,
            used_since: used_since.map(since).transpose()?,
        };
        let has_condition = !conditions.filter.is_empty() || is_pinned || conditions.used_since.is_some();
        if names.is_empty() && !has_condition && !all {
            return Err(
                "no image is selected; name images, or give --image-file, --pattern, --pinned, --used-since or --all"
                    .to_owned(),
            );
        }
        if names.len() > LOAD_IMAGES_MAX {
            return Err(format!(
                "there are more than {LOAD_IMAGES_MAX} images; split the list"
            ));
        }
        let origins = names.iter().map(|name| name.origin.clone()).collect();
        let names = names.into_iter().map(|name| {
            let name = name.or_latest();
            (name.to_string(), name)
        });
        Ok(ExportSelection {
            names: names.collect(),
            origins,
            conditions: (has_condition || all).then_some(conditions),
            platforms: None,
            with_referrers: true,
            skip_incomplete: false,
        })
    }

    /// Returns whether images of the repository `origin` may be selected.
    pub(super) fn wants_repository(&self, origin: &Origin) -> bool {
        self.conditions.is_some() || self.origins.contains(origin)
    }

    pub(super) fn names_image(&self, name: &ImageName) -> bool {
        self.names.contains_key(&name.to_string())
    }
}

impl Conditions {
    /// Returns whether an image is selected by its name and its last use, in seconds since 1970.
    pub fn select(&self, name: &ImageName, used: u64) -> bool {
        self.used_since.is_none_or(|since| used >= since) && self.filter.matches(&name.to_string())
    }
}

/// Parses an age, a date, or a time in the zone of this machine, into seconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    if let Some(age) = parse_duration(text) {
        return Ok(Minute::now().unix_seconds().saturating_sub(age.as_secs()));
    }
    let is_date = unix_seconds_of(&format!("{text}T00:00:00")).is_some();
    let time = match is_date {
        true => unix_seconds_of_local(&format!("{text}T00:00:00")),
        false => unix_seconds_of_local(text),
    };
    time.ok_or_else(|| {
        format!("the time {text:?} is invalid; expected an age such as 7d, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS")
    })
}

/// Returns the tag, or `None` for a digest.
pub(super) fn tag_of(name: &ImageName) -> Option<&str> {
    match &name.reference {
        Some(Reference::Tag(tag)) => Some(tag.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(
        names: &[&str],
        pattern: &str,
        since: Option<&str>,
        all: bool,
    ) -> Result<ExportSelection, String> {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        ExportSelection::new(names, pattern, false, since, all)
    }

    #[test]
    fn selection_without_a_choice_is_an_error_that_names_the_choices() {
        let error = selection(&[], "", None, false).unwrap_err();
        for choice in ["--image-file", "--pattern", "--pinned", "--used-since", "--all"] {
            assert!(error.contains(choice), "{error}");
        }
        assert!(selection(&[], "", None, true).is_ok());
    }

    #[test]
    fn names_select_only_themselves_and_have_the_tag_latest() {
        let by_name = selection(&["alpine", "r.example/a:1"], "", None, false).unwrap();
        assert!(by_name.conditions.is_none());
        let names: Vec<&str> = by_name.names.keys().map(String::as_str).collect();
        assert_eq!(names, ["docker.io/library/alpine:latest", "r.example/a:1"]);
        assert!(by_name.wants_repository(&by_name.names["r.example/a:1"].origin));
        let other: ImageName = "r.example/b:1".parse().unwrap();
        assert!(!by_name.wants_repository(&other.origin));
    }

    #[test]
    fn time_is_an_age_or_a_date() {
        let used_since =
            |text| selection(&[], "", Some(text), false).map(|made| made.conditions.unwrap().used_since);
        let now = Minute::now().unix_seconds();
        let day_ago = used_since("1d").unwrap().unwrap();
        assert!((now - 86_400).abs_diff(day_ago) <= 120, "{day_ago}");
        assert_eq!(used_since("2024-02-29T12:34:56Z"), Ok(Some(1_709_210_096)));
        assert!(used_since("2024-02-29").unwrap().is_some());
        for bad in ["yesterday", "2024-02-30", "7w", ""] {
            assert!(used_since(bad).unwrap_err().contains("7d"), "{bad}");
        }
    }

    #[test]
    fn conditions_must_all_hold() {
        let conditions = selection(&[], "app", Some("1970-01-02T00:00:00Z"), false);
        let conditions = conditions.unwrap().conditions.unwrap();
        let name = |text: &str| text.parse::<ImageName>().unwrap();
        assert!(conditions.select(&name("r.example/app:1"), 86_400));
        assert!(!conditions.select(&name("r.example/app:1"), 86_399));
        assert!(!conditions.select(&name("r.example/web:1"), 86_400));
    }
}
