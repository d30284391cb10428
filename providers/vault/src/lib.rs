//! The provider module for HashiCorp Vault: keys of the Transit engine, through HashiCorp's KMS plugin
//! (vault-kube-kms) with an AppRole.
//!
//! | file | answers |
//! |---|---|
//! | `config` | which fields there are, and the effect of changing them |
//! | `address` | which addresses are valid, and when two addresses are the same |
//! | `spelling` | the earlier spelling of image, credentials and key |
//! | `identity` | when two configurations name the same KEK |
//! | `render` | how the plugin is started, and what it needs |
//! | `diagnose`, `symptoms` | what its failures mean, and which texts identify them |
//!
//! A module imports no function, so nothing here connects to Vault. `fixtures/` specifies the behavior of the
//! module.

mod address;
pub mod config;
mod diagnose;
mod identity;
mod render;
mod spelling;
mod symptoms;

use keyward_guest::json::Value;
use keyward_guest::prelude::*;

use crate::config::Config;

/// HashiCorp Vault.
#[derive(Debug)]
pub struct Vault;

impl Provider for Vault {
    type Config = Config;
    const TYPE: &'static str = "Vault";
    const FIELD: &'static str = "vault";
    const IMAGE_FIELD: Option<&'static str> = Some("kmsPluginImage");

    fn facts() -> Facts {
        Facts {
            // The key id contains the version of the Transit key.
            remote_key_id: RemoteKeyId::TracksRotation,
            status: Status::ProbesBackend,
            // The plugin reads the file of the secret id once, when it starts.
            credentials: Credentials::Restart,
            docs: "https://developer.hashicorp.com/vault/docs/deploy/kubernetes/kms",
        }
    }

    fn contents() -> &'static [(&'static str, Content)] {
        &[
            ("role-id", Content::OneLine),
            ("secret-id", Content::OneLine),
            ("roleID", Content::OneLine),
            ("secretID", Content::OneLine),
            ("ca-bundle.crt", Content::Certificates),
        ]
    }

    fn normalize(mut config: Config, findings: &mut Findings<'_>) -> Config {
        config.vault_address = address::canonical(&config.vault_address);
        spelling::normalize(config, findings)
    }

    /// Both spellings are read unchanged. A configuration that a Go program stored can contain empty texts
    /// and objects for absent fields, which are removed.
    fn upgrade(stored: Value) -> Result<Value, Vec<Violation>> {
        Ok(without_empty(stored).unwrap_or_else(|| Value::Object(keyward_guest::json::Map::new())))
    }

    fn identity(config: &Config) -> Kek {
        identity::identity(config)
    }

    fn references(config: &Config) -> Vec<Reference> {
        render::references(config)
    }

    fn render(config: &Config, _: &[Setting]) -> Result<Plugin, Vec<Violation>> {
        Ok(render::render(config))
    }

    fn diagnose(config: &Config, failure: &Failure) -> Option<Diagnosis> {
        diagnose::diagnose(config, failure)
    }

    fn requirements(config: &Config) -> Vec<String> {
        render::requirements(config)
    }
}

/// The value without members that are empty or become empty.
fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Object(members) => {
            let kept: keyward_guest::json::Map<String, Value> = members
                .into_iter()
                .filter_map(|(name, member)| Some((name, without_empty(member)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => Some(other),
    }
}

keyward_guest::export!(Vault);
