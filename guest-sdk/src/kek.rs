//! The identity of a KEK, put together by hand where the default (`config::identity`) does not fit.

use crate::bindings::keyward::provider::types::{Kek, Setting};

impl Kek {
    /// An identity that nothing was added to yet.
    pub fn new() -> Self {
        Self { key: Vec::new(), version: Vec::new() }
    }

    /// Two configurations name the same KEK if and only if all of these are equal. An empty value is the same
    /// as none.
    #[must_use]
    pub fn key(mut self, name: &str, value: impl Into<String>) -> Self {
        add(&mut self.key, name, value.into());
        self
    }

    /// Where only these differ, it is another version of the same KEK.
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
