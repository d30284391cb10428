//! Which KEK a configuration names: one key of one Transit engine in one namespace of one Vault.
//!
//! Image, TLS, auth namespace and credentials say how the key is reached, not which one it is (CONTRACT 3.1,
//! "Provider instance comparison"). Both spellings of a key give the same identity, under today's names.

use keyward_guest::Kek;

use crate::config::Config;

pub(crate) fn identity(config: &Config) -> Kek {
    Kek::new()
        .key("vaultAddress", &config.vault_address)
        // The root namespace has no name: absent.
        .key("vaultNamespace", config.vault_namespace.as_deref().unwrap_or_default())
        .key("vaultKeyPath", config.transit_key().path())
}
