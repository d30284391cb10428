//! Builds a KEK identity in code, for modules that the default (`config::identity`) does not fit.

use crate::bindings::keyward::provider::types::{Kek, Setting};

impl Kek {
    /// An empty identity.
    pub fn new() -> Self {
        Self { key: Vec::new(), version: Vec::new() }
    }

    /// Adds a part of the key: two configurations name the same KEK if and only if all parts are equal. An
    /// empty value counts as absent.
    #[must_use]
    pub fn key(mut self, name: &str, value: impl Into<String>) -> Self {
        add(&mut self.key, name, value.into());
        self
    }

    /// Adds a part of the version: if only these parts differ, it is another version of the same KEK.
    #[must_use]
    pub fn version(mut self, name: &str, value: impl Into<String>) -> Self {
        add(&mut self.version, name, value.into());
        self
    }
}

impl Default for Kek {
    fn default() -> Self {
        Self::new()
    }
}

fn add(part: &mut Vec<Setting>, name: &str, value: String) {
    if !value.is_empty() {
        part.push(Setting { name: name.to_owned(), value });
    }
}
