//! The provider module for HashiCorp Vault: keys of the Transit engine, through HashiCorp's KMS plugin
//! (vault-kube-kms) with an AppRole.
//!
//! | file | answers |
//! |---|---|
//! | `config` | what may be configured, and what changing it does |
//! | `address` | what is wrong with an address, and when two are one |
//! | `spelling` | the earlier spelling of four fields |
//! | `identity` | when two configurations name the same KEK |
//! | `render` | how the plugin is started, and what it needs |
//! | `diagnose`, `symptoms` | what its failures mean, and how they are recognised |
//!
//! Nothing here reaches out: a module imports no function. What it should do is said by `fixtures/`.

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
            // The key id holds the Transit key's version.
            remote_key_id: RemoteKeyId::TracksRotation,
            status: Status::ProbesBackend,
            // The secret id's file is read once, at the start.
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
        spelling::settle(config, findings)
    }

    /// Both spellings are read as they are. What Go programs stored may hold empty texts and objects where
    /// nothing was meant.
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

/// The value without members that are empty, or become so.
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
