//! Standard output that somebody may stop reading.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes all of it. That the reader went away (`| head`) is no error: it has what it wanted.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

/// The same as one JSON document, ended by a newline.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// The same as YAML.
pub(crate) fn print_yaml(value: &impl serde::Serialize) -> Result<()> {
    // By way of JSON values, so that both have the same names and the same order.
    print(&serde_saphyr::to_string(&serde_json::to_value(value)?)?)
}
