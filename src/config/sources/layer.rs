//! The settings of a single source.

use std::collections::BTreeMap;

use super::super::options::Setting;
use super::diagnostics::Place;

/// A value as written, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub text: String,
    pub place: Place,
}

/// The settings of a single source: flags, environment, or file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<Setting, Given>);

impl Layer {
    /// Inserts a value from the command line.
    pub fn insert_flag(&mut self, setting: Setting, text: String) {
        let place = Place::Flag(setting.flag());
        self.insert(setting, Given { text, place });
    }

    /// Returns the value of `setting` as written.
    pub fn text(&self, setting: Setting) -> Option<&str> {
        self.find(setting).map(|given| given.text.as_str())
    }

    pub(crate) fn insert(&mut self, setting: Setting, given: Given) {
        self.0.insert(setting, given);
    }

    pub(crate) fn find(&self, setting: Setting) -> Option<&Given> {
        self.0.get(&setting)
    }
}
