//! The provider module for a KMS v2 plugin that somebody else runs: Keyward only connects to its socket.
//!
//! | file | answers |
//! |---|---|
//! | `config` | which fields there are, and the effect of changing them |
//! | `diagnose` | what the plugin's failures mean |
//!
//! The module does not know the KMS of the plugin. So the endpoint identifies the KEK, and a change of the
//! KEK at the same endpoint shows in the plugin's key id. `fixtures/` specifies the behavior of the module.

pub mod config;
mod diagnose;

use keyward_guest::prelude::*;

use crate::config::Config;

/// The default endpoint: OpenShift's Technology Preview allows only this one. The endpoint identifies the
/// KEK, so the default never changes.
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
            // Not every plugin's Status asks the KMS; only Encrypt and Decrypt are reliable.
            status: Status::Constant,
            // The admin who runs the plugin also renews its credentials.
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
            "the same KEK on every node; the plugin's key_id must change when the KEK changes".to_owned(),
            "one KEK for each endpoint: for another KMS, run its plugin at another endpoint beside this one until \
             everything is migrated"
                .to_owned(),
        ]
    }
}

keyward_guest::export!(External);
