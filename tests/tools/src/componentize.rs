//! Makes components of core modules, so that no tool has to be installed for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wit_component::ComponentEncoder;

use crate::stamp::Stamp;

/// Writes the component of the core module at `core` to `out`, unless `out` is current.
pub(crate) fn componentize(core: &Path, out: &Path, stamp: PathBuf) -> Result<()> {
    let stamp = Stamp::of(stamp, &[core], &[])?;
    if stamp.is_current() && out.is_file() {
        return Ok(());
    }
    let module = fs::read(core).with_context(|| format!("reading {}", core.display()))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .with_context(|| format!("{} is not a module built with wit-bindgen", core.display()))?;
    // A reader sees either the old module or the new one, never a part of it.
    let fresh = out.with_extension("wasm.new");
    fs::write(&fresh, component).with_context(|| format!("writing {}", fresh.display()))?;
    fs::rename(&fresh, out).with_context(|| format!("moving {} into place", out.display()))?;
    stamp.keep()
}
