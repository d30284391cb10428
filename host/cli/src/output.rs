//! Standard output, whose reader may close it early.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes the text. A reader that closed the pipe early (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

/// Writes the value as one JSON document with a newline at the end.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes the value as YAML.
pub(crate) fn print_yaml(value: &impl serde::Serialize) -> Result<()> {
    // Through JSON values, so that both formats have the same names in the same order.
    print(&serde_saphyr::to_string(&serde_json::to_value(value)?)?)
}
