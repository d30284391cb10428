//! Violations and warnings about a configuration, with their paths.

use std::fmt;

use crate::bindings::keyward::provider::types::Violation;

/// A path in a configuration: `tls.serverName`, `hosts[2]`, `labels.team`; empty for the whole configuration.
#[derive(Clone, Copy, Debug)]
pub enum Path<'p> {
    /// The configuration itself.
    Root,
    /// A field of an object, or an entry of a map.
    Field(&'p Path<'p>, &'p str),
    /// An entry of a list.
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// All violations and warnings about a configuration. Reading never stops at the first violation: an admin
/// sees all of them at once.
#[derive(Debug, Default)]
pub struct Report {
    /// The reasons why the configuration is refused.
    pub violations: Vec<Violation>,
    /// What the admin should know although the configuration is accepted.
    pub warnings: Vec<Violation>,
    /// Whether values are checked. A configuration that `normalize` returned is only read.
    pub(crate) checking: bool,
}

impl Report {
    /// An empty report for a configuration that an admin wrote.
    pub fn new() -> Self {
        Self { checking: true, ..Self::default() }
    }

    /// Findings at the path `at` go into this report.
    pub fn at<'r>(&'r mut self, at: &'r Path<'r>) -> Findings<'r> {
        Findings { report: self, at }
    }
}

/// Receives the findings of a check at one path of a configuration.
#[derive(Debug)]
pub struct Findings<'r> {
    report: &'r mut Report,
    at: &'r Path<'r>,
}

impl Findings<'_> {
    /// Refuses this value. `message` describes the mistake to the admin, and never repeats a value that can
    /// be secret.
    pub fn violation(&mut self, message: impl Into<String>) {
        self.report.violations.push(Violation { field: self.at.to_string(), message: message.into() });
    }

    /// Refuses the field `field`, a path below this value.
    pub fn violation_at(&mut self, field: &str, message: impl Into<String>) {
        self.report.violations.push(Violation { field: self.below(field), message: message.into() });
    }

    /// Accepts this value, with a warning for the admin.
    pub fn warning(&mut self, message: impl Into<String>) {
        self.report.warnings.push(Violation { field: self.at.to_string(), message: message.into() });
    }

    /// As [`warning`](Self::warning), about the field `field` below this value.
    pub fn warning_at(&mut self, field: &str, message: impl Into<String>) {
        self.report.warnings.push(Violation { field: self.below(field), message: message.into() });
    }

    /// Whether the field `field` below this value, or a part of it, was already refused. To report it as
    /// missing too would only confuse.
    pub fn refused(&self, field: &str) -> bool {
        if self.report.violations.is_empty() {
            return false;
        }
        let path = self.below(field);
        self.report.violations.iter().any(|violation| {
            violation
                .field
                .strip_prefix(&path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    fn below(&self, field: &str) -> String {
        Path::Field(self.at, field).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Path, Report};

    #[test]
    fn paths_are_written_as_an_admin_writes_them() {
        let tls = Path::Field(&Path::Root, "tls");
        let hosts = Path::Field(&tls, "hosts");
        assert_eq!(Path::Root.to_string(), "");
        assert_eq!(Path::Index(&hosts, 2).to_string(), "tls.hosts[2]");
        assert_eq!(Path::Field(&Path::Index(&hosts, 0), "name").to_string(), "tls.hosts[0].name");
    }

    #[test]
    fn findings_have_the_path_of_their_field() {
        let mut report = Report::new();
        let tls = Path::Field(&Path::Root, "tls");
        report.at(&tls).violation_at("serverName", "no");
        report.at(&Path::Root).warning_at("tls", "old");
        assert_eq!(report.violations[0].field, "tls.serverName");
        assert_eq!(report.warnings[0].field, "tls");
    }
}
