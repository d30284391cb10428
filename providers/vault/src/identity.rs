//! The KEK identity: one key of one Transit engine in one namespace of one Vault.
//!
//! Image, TLS, auth namespace and credentials determine how the key is reached, not which key it is. Vault
//! accepts a namespace both in the path and beside it. These two name the same key:
//!
//! - `vaultNamespace: a` with `vaultKeyPath: b/transit/keys/k`
//! - `vaultNamespace: a/b` with `vaultKeyPath: transit/keys/k`
//!
//! So the identity is the path from the root namespace, which is equal for all spellings.

use keyward_guest::Kek;

use crate::address;
use crate::config::Config;

pub(crate) fn identity(config: &Config) -> Kek {
    let key = config.transit_key().path();
    let path = match &config.vault_namespace {
        Some(namespace) => format!("{namespace}/{key}"),
        None => key,
    };
    Kek::new().key("vaultAddress", address::server_of(&config.vault_address)).key("vaultKeyPath", path)
}
