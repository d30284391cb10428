//! OBJECTS.md, "Digest": HMAC-SHA-256, keyed by a random salt, over one key's entries in a candidate or a revision.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::SecretBytes;
use crate::ids::{PluginDigest, hex};

/// Sorted, lengths prefixed. The caller leaves out the salt itself and the module digest, which are not part of what
/// runs.
pub fn digest(salt: &SecretBytes, entries: &BTreeMap<String, SecretBytes>) -> PluginDigest {
    // HMAC takes keys of any length; there is no error to be had.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt.expose()) else {
        return PluginDigest(String::new());
    };
    for (name, value) in entries {
        for part in [name.as_bytes(), value.expose()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
    }
    PluginDigest(hex(&mac.finalize().into_bytes()))
}
