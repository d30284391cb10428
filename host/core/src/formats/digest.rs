//! The digest of a plugin: HMAC-SHA-256, keyed by a random salt, over the data of one key in a candidate or a revision
//! (objects: digest).

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::SecretBytes;
use crate::ids::{PluginDigest, hex};

/// The digest of entries, which are sorted and prefixed with their lengths. The caller omits the salt and the module
/// digest, because they do not change the plugin.
pub fn digest(salt: &SecretBytes, entries: &BTreeMap<String, SecretBytes>) -> PluginDigest {
    // HMAC accepts keys of any length: this never fails.
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
