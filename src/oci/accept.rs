//! The manifest types in a request by tag.
//!
//! Registries match types exactly, and may return different manifests for one tag. The native form
//! of an upstream is requested with all types. For a client that does not accept the native form,
//! the cache requests another form. That form is stored under the set of accepted types.

use std::fmt;

use super::media_type::{MANIFEST_TYPES, SCHEMA1_TYPES};

/// The requested types.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Accept {
    /// The native form of the upstream.
    Native,
    /// A subset of the known types.
    Class(AcceptClass),
    /// Unknown types as the client sent them, sorted. A response to them is not stored for other
    /// requests.
    Other(Vec<String>),
}

/// A set of known types, independent of order and weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AcceptClass(u8);

/// The known types, and their short names in file names.
const KNOWN: [(&str, &str); 6] = [
    (MANIFEST_TYPES[0], "oi"),
    (MANIFEST_TYPES[1], "om"),
    (MANIFEST_TYPES[2], "dl"),
    (MANIFEST_TYPES[3], "dm"),
    (SCHEMA1_TYPES[0], "s1"),
    (SCHEMA1_TYPES[1], "sj"),
];

impl Accept {
    /// Returns the types of the `Accept` values of a client. Each value is a comma-separated list.
    pub fn of_client<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = 0;
        let mut others = Vec::new();
        for item in accept.into_iter().flat_map(|value| value.split(',')) {
            let item = item.trim();
            let bare = item.split(';').next().unwrap_or_default().trim();
            match KNOWN
                .iter()
                .position(|(known, _)| known.eq_ignore_ascii_case(bare))
            {
                Some(bit) => set |= 1 << bit,
                None if bare.is_empty() => {}
                None => others.push(item.to_owned()),
            }
        }
        if others.is_empty() {
            return Accept::Class(AcceptClass(set));
        }
        others.extend(AcceptClass(set).types().map(str::to_owned));
        others.sort_unstable();
        others.dedup();
        Accept::Other(others)
    }

    /// Returns the `Accept` values to send, each with one media type.
    pub fn values(&self) -> Vec<String> {
        match self {
            // Some registries check only for these values before they return their native type.
            Accept::Native => MANIFEST_TYPES
                .iter()
                .chain(&["*/*"])
                .map(|&known| known.to_owned())
                .collect(),
            Accept::Class(class) => class.types().map(str::to_owned).collect(),
            Accept::Other(values) => values.clone(),
        }
    }

    /// Returns the name under which responses are stored beside the native form. Returns `None` if
    /// they are not stored.
    pub fn class_name(&self) -> Option<String> {
        match self {
            Accept::Native => Some(Self::NATIVE.to_owned()),
            Accept::Class(class) => Some(class.to_string()),
            Accept::Other(_) => None,
        }
    }

    pub const NATIVE: &str = "native";
}

impl AcceptClass {
    fn types(self) -> impl Iterator<Item = &'static str> {
        KNOWN
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, (known, _))| *known)
    }
}

/// Writes the short names, joined by `+`.
impl fmt::Display for AcceptClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, (_, name)) in KNOWN.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                f.write_str(if first { "" } else { "+" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_class_ignores_order_and_weights() {
        let [oi, om, _, dm] = MANIFEST_TYPES;
        let class = |values: &[&str]| Accept::of_client(values.iter().copied());
        let both = class(&[oi, om]);
        assert_eq!(both, class(&[&format!("{om};q=0.5 , {oi}; q=1")]));
        assert_eq!(both.class_name().as_deref(), Some("oi+om"));
        assert_eq!(both.values(), [oi, om]);
        assert_ne!(both, class(&[om, dm]));
        assert_eq!(class(&[SCHEMA1_TYPES[0]]).class_name().as_deref(), Some("s1"));
    }

    #[test]
    fn accept_with_an_unknown_type_has_no_shared_class() {
        let odd = Accept::of_client(["application/x.odd+json", MANIFEST_TYPES[1]]);
        assert_eq!(odd.class_name(), None);
        assert_eq!(odd.values(), [MANIFEST_TYPES[1], "application/x.odd+json"]);
    }
}
