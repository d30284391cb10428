//! The only place where bytes are used as machine code.
//!
//! `Component::deserialize` maps its input as executable code; wrong bytes are arbitrary code. It is sound here because
//! only [`super::Cache`] creates a [`Trusted`], and it returns a file's bytes only if all of this holds:
//!
//! 1. The folder was opened without following a link, belongs to the user that this process runs as, and gives other
//!    users no permission: they cannot put a file there. It is used by its descriptor, so it cannot be replaced.
//! 2. The file was opened in that folder without following a link, is a regular file of the same user, and gives other
//!    users no permission.
//! 3. Only [`super::Cache`] writes files there, from `Component::serialize` of the component whose digest is in the file's
//!    name, with the engine whose compatibility hash is in the name, too. Complete files are renamed into place.
//! 4. The bytes match the SHA-256 before them. This protects against torn writes and bad disks; 1 and 2 protect against
//!    attackers.
//! 5. The bytes were read into memory first, so a later change of the file has no effect.
//!
//! An attacker who can break 1 or 2 runs as this user or as root, and needs no cache to run code.

#![expect(unsafe_code, reason = "see above")]

use wasmtime::Engine;
use wasmtime::component::Component;

use super::Trusted;

/// The component that was serialized into these bytes.
pub(super) fn deserialize(engine: &Engine, bytes: &Trusted) -> wasmtime::Result<Component> {
    // SAFETY: `bytes` is what `Component::serialize` returned for an engine of the same compatibility hash; see the
    // module's argument. wasmtime checks its own version and the engine's settings again.
    unsafe { Component::deserialize(engine, bytes.code()) }
}
