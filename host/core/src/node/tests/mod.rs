//! Tables of single decisions, and a model of a node that is killed between any two steps.

mod candidates;
mod drift;
mod late;
mod machine;
mod model;
mod recovered;
mod rules;
mod trials;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::SecretBytes;
use crate::api::{
    EncryptionNodeSpec, KeyCheck, KeyCheckEntry, PluginSettings, PreflightPurpose, PreflightRequest,
};
use crate::formats::encryption_config::{
    EncryptionConfiguration, Identity, KmsConfiguration, ProviderConfiguration, REVISION_ZERO,
    ResourceConfiguration,
};
use crate::formats::revision::{AcceptedPlugin, PluginRecord, RevisionContent};
use crate::ids::{KeyId, PluginDigest, RemoteKeyId, Revision};
use crate::names;
use crate::provider::{Container, Part, Plugin};

fn container() -> Container {
    Container {
        command: Vec::new(),
        args: vec![vec![Part::Text("-listen=".into()), Part::Host("socket-uri".into())]],
        env: Vec::new(),
        files: Vec::new(),
        ports: Vec::new(),
        health: None,
        cpu_request_millis: 10,
        memory_request_mib: 32,
        settings: BTreeMap::new(),
    }
}

/// A plugin's data; `image` distinguishes plugins.
fn record(image: &str) -> PluginRecord {
    PluginRecord {
        kms: json!({"type": "Acme", "acme": {"image": image}}),
        referenced: BTreeMap::new(),
        accepted: Some(AcceptedPlugin {
            image: Some(format!("example.com/acme@{image}")),
            template: Plugin::Managed(container()),
            settings: PluginSettings::default(),
            module_digest: None,
        }),
        salt: Some(SecretBytes::new(b"salt".to_vec())),
    }
}

fn external(endpoint: &str) -> PluginRecord {
    let mut record = record("external");
    if let Some(accepted) = &mut record.accepted {
        accepted.image = None;
        accepted.template = Plugin::External(endpoint.to_owned());
    }
    record
}

fn digest(key: u64, image: &str) -> PluginDigest {
    record(image).digest(KeyId(key)).unwrap()
}

fn instance(key: u64, image: &str) -> Instance {
    Instance::new(KeyId(key), &digest(key, image))
}

/// Secrets under these keys, of which the first is the write key, then identity.
fn revision(plugins: &[(u64, &str)]) -> Arc<RevisionContent> {
    let records = plugins.iter().map(|(key, image)| (KeyId(*key), record(image)));
    content(plugins.iter().map(|(key, _)| *key), records.collect())
}

fn content(keys: impl Iterator<Item = u64>, records: BTreeMap<KeyId, PluginRecord>) -> Arc<RevisionContent> {
    let provider = |key: u64| {
        let endpoint = match records.get(&KeyId(key)).and_then(|record| record.accepted.as_ref()) {
            Some(AcceptedPlugin { template: Plugin::External(endpoint), .. }) => endpoint.clone(),
            _ => names::endpoint(KeyId(key)),
        };
        let kms = KmsConfiguration {
            api_version: "v2".into(),
            name: format!("{key}_secrets"),
            cachesize: None,
            endpoint,
            timeout: "10s".into(),
        };
        ProviderConfiguration { kms: Some(kms), ..Default::default() }
    };
    let identity = ProviderConfiguration { identity: Some(Identity {}), ..Default::default() };
    let config = EncryptionConfiguration::new(vec![ResourceConfiguration {
        resources: Some(vec!["secrets".into()]),
        providers: keys.map(provider).chain([identity]).collect(),
    }]);
    Arc::new(RevisionContent::new(config, records))
}

/// The key check of a KEK: only a plugin that reaches this KEK decrypts it.
fn key_check(kek: &str) -> KeyCheck {
    KeyCheck {
        ciphertext: kek.to_owned(),
        remote_key_id: RemoteKeyId(kek.to_owned()),
        annotations: BTreeMap::new(),
        plaintext_sha256: "00".into(),
    }
}

fn key_check_entry(key: u64, kek: &str) -> KeyCheckEntry {
    KeyCheckEntry { key_id: KeyId(key), key_check: key_check(kek) }
}

fn request(key: u64, image: &str, key_check: Option<KeyCheck>) -> PreflightRequest {
    PreflightRequest {
        key_id: KeyId(key),
        hash: digest(key, image),
        purpose: PreflightPurpose::NewKey,
        key_check,
    }
}

fn target(n: u64, content: &RevisionContent, key_checks: &[KeyCheckEntry]) -> EncryptionNodeSpec {
    EncryptionNodeSpec {
        revision: Revision(n),
        config_hash: Some(content.hash()),
        preflight: None,
        key_checks: key_checks.to_vec(),
    }
}

/// The API server does not answer.
fn silent() -> Result<Reading, Unread> {
    Err(Unread { why: "connection refused".into(), answers: false })
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
