//! The one place where bytes are taken for machine code.
//!
//! `Component::deserialize` maps what it is given as executable code; wrong bytes are arbitrary code. It is sound here
//! because a [`Trusted`] can only be made by [`super::Cache`], which hands out a file's bytes only when all of this
//! holds:
//!
//! 1. The folder was opened without following a link, belongs to the user that this process runs as, and gives nobody
//!    else any permission: nobody else can put a file there. It is used by its descriptor, so it cannot be exchanged.
//! 2. The file was opened in that folder without following a link, is a regular file of the same user, and gives nobody
//!    else any permission.
//! 3. Files there are written by [`super::Cache`] alone, from `Component::serialize` of the component whose digest is
//!    the file's name, under the engine whose compatibility hash is in the name, too. They are renamed into place whole.
//! 4. The bytes match the SHA-256 that stands before them. That is against torn writes and bad disks; against malice
//!    there are 1 and 2.
//! 5. The bytes were read into memory first, so a change of the file afterwards changes nothing.
//!
//! Whoever can break 1 or 2 runs as this user or as root, and needs no cache to run code.

#![expect(unsafe_code, reason = "see above")]

use wasmtime::Engine;
use wasmtime::component::Component;

use super::Trusted;

/// The component that was serialized into these bytes.
pub(super) fn deserialize(engine: &Engine, bytes: &Trusted) -> wasmtime::Result<Component> {
    // SAFETY: `bytes` is what `Component::serialize` returned for an engine of the same compatibility hash; see the
    // module's argument. wasmtime checks its own version and the engine's settings once more.
    unsafe { Component::deserialize(engine, bytes.code()) }
}
