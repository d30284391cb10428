//! The provider module for a KMS v2 plugin that somebody else runs: Keyward only talks to its socket.
//!
//! | file | answers |
//! |---|---|
//! | `config` | what may be configured, and what changing it does |
//! | `diagnose` | what the plugin's failures mean |
//!
//! Which KMS is behind the socket is not known here. So an endpoint stands for its KEK, and a KEK that changes behind
//! it shows by the plugin's key id. What the module should do is said by `fixtures/`.

pub mod config;
mod diagnose;

use keyward_guest::prelude::*;

use crate::config::Config;

/// Where the plugin listens when nothing else is said: OpenShift's Technology Preview has this endpoint and no other.
/// It decides which KEK is meant, so it never changes.
const DEFAULT_ENDPOINT: &str = "unix:///var/run/kmsplugin/kms.sock";

/// A plugin that somebody else runs.
#[derive(Debug)]
pub struct External;

impl Provider for External {
    type Config = Config;
    const TYPE: &'static str = "External";
    const FIELD: &'static str = "external";
    const IMAGE_FIELD: Option<&'static str> = None;

    fn facts() -> Facts {
        Facts {
            remote_key_id: RemoteKeyId::TracksRotation,
            // What a plugin's Status is worth is the plugin's business; only Encrypt and Decrypt are sure.
            status: Status::Constant,
            // Whoever runs the plugin looks after its credentials.
            credentials: Credentials::Hot,
            docs: "https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/",
        }
    }

    fn normalize(config: Config, _: &mut Findings<'_>) -> Config {
        Config { endpoint: Some(config.endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())) }
    }

    fn references(_: &Config) -> Vec<Reference> {
        Vec::new()
    }

    fn render(config: &Config, _: &[Setting]) -> Result<Plugin, Vec<Violation>> {
        Ok(external(config.endpoint()))
    }

    fn diagnose(config: &Config, failure: &Failure) -> Option<Diagnosis> {
        diagnose::diagnose(config, failure)
    }

    fn requirements(config: &Config) -> Vec<String> {
        let endpoint = config.endpoint();
        vec![
            format!("a KMS v2 plugin that listens at {endpoint} on every control-plane node before the API server starts"),
            "the same KEK behind it on every node; its key_id must change when the KEK does".to_owned(),
            "one KEK behind an endpoint: for another KMS, run its plugin at another endpoint beside this one until all \
             is migrated"
                .to_owned(),
        ]
    }
}

keyward_guest::export!(External);
