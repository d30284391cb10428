//! Which KEK a configuration names: one key of one Transit engine in one namespace of one Vault.
//!
//! Image, TLS, auth namespace and credentials say how the key is reached, not which one it is. Vault takes a namespace in
//! the path as well as beside it: `vaultNamespace: a` with `vaultKeyPath: b/transit/keys/k` is `vaultNamespace: a/b` with
//! `vaultKeyPath: transit/keys/k`. So the identity is one path from the root namespace, in whichever spelling it is written.

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
