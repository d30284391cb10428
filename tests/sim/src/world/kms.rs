//! External KMSs, the answers of their plugins, and the provider module's evaluation of a configuration.

use std::collections::BTreeMap;

use keyward_core::api::KeyCheck;
use keyward_core::formats::revision::PluginRecord;
use keyward_core::ids::RemoteKeyId;
use keyward_core::provider::{
    Container, Evaluation, EvaluationRequest, Exposure, Kek as Identity, KeyRef, ModuleDigest, Part, Plugin,
    ProviderError, Reference, ReferenceKind, Violation,
};
use serde_json::{Value, json};

/// Names of KEKs; the last one does not exist.
pub const KEKS: [&str; 4] = ["a", "b", "c", "nowhere"];

/// The place of a KEK in [`KEKS`].
pub type Kek = u8;

/// The real state of one KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kms {
    /// Answers.
    pub up: bool,
    /// Grants the right to encrypt.
    pub encrypts: bool,
    /// How often it was recreated under its name.
    pub made: u8,
    /// How often it was rotated.
    pub version: u8,
}

impl Kms {
    /// Those of [`KEKS`].
    pub fn all() -> [Self; KEKS.len()] {
        let one = Self { up: true, encrypts: true, made: 0, version: 0 };
        [one, one, one, Self { up: false, ..one }]
    }
}

/// The `kms` object of a configuration: `key` names the KEK, `image` changes in place.
pub fn configuration(kek: Kek, image: u8) -> Value {
    json!({"type": "Test", "test": {"key": KEKS[usize::from(kek)], "image": format!("i{image}")}})
}

/// The KEK that a plugin of this configuration really reaches, even if a module is wrong.
pub fn truth(record: &PluginRecord) -> Kek {
    let name = record.kms.get("test").and_then(|test| test.get("key")).and_then(Value::as_str);
    let known = KEKS.iter().position(|kek| Some(*kek) == name);
    known.and_then(|index| u8::try_from(index).ok()).unwrap_or(3)
}

/// The credential that a plugin of this configuration was given.
pub fn credential(record: &PluginRecord) -> u8 {
    record.referenced.values().next().and_then(|value| value.expose().first().copied()).unwrap_or(0)
}

/// Its reference.
pub fn reference() -> KeyRef {
    KeyRef { kind: ReferenceKind::Secret, name: "credentials".into(), key: "token".into() }
}

/// The module's evaluation. A wrong module calls all KEKs the same.
pub fn evaluate(request: &EvaluationRequest, lies: bool) -> Result<Evaluation, ProviderError> {
    let kms: Value = serde_json::from_str(&request.kms).unwrap_or_default();
    let config = kms.get("test").cloned().unwrap_or_default();
    let Some(key) = config.get("key").and_then(Value::as_str) else {
        let violations = vec![Violation { field: "test.key".into(), message: "Required value".into() }];
        return Err(ProviderError::Invalid { violations });
    };
    let identity = if lies { "the same" } else { key };
    Ok(Evaluation {
        provider_type: "Test".into(),
        warnings: Vec::new(),
        kek: Identity { key: BTreeMap::from([("key".into(), identity.into())]), version: BTreeMap::new() },
        references: vec![Reference {
            source: reference(),
            exposure: Exposure::File,
            required: true,
            field: "credentials".into(),
        }],
        rendered: Plugin::Managed(Container {
            command: Vec::new(),
            args: vec![vec![Part::Text("--token=".into()), Part::Path(reference())]],
            env: Vec::new(),
            files: Vec::new(),
            ports: Vec::new(),
            health: None,
            cpu_request_millis: 10,
            memory_request_mib: 64,
            settings: BTreeMap::new(),
        }),
        image: config.get("image").and_then(Value::as_str).map(ToOwned::to_owned),
        normalized: config,
        requirements: Vec::new(),
        facts: BTreeMap::new(),
        field_order: Vec::new(),
        module: ModuleDigest("sha256:test".into()),
    })
}

/// What a plugin calls its KEK.
pub fn remote_key_id(kek: Kek, kms: Kms) -> RemoteKeyId {
    RemoteKeyId(format!("{}/{}/{}", KEKS[usize::from(kek)], kms.made, kms.version))
}

/// A ciphertext that only this KEK decrypts; `n` distinguishes it from every other.
pub fn key_check(kek: Kek, kms: Kms, n: u64) -> KeyCheck {
    KeyCheck {
        ciphertext: format!("{}/{}#{n}", KEKS[usize::from(kek)], kms.made),
        remote_key_id: remote_key_id(kek, kms),
        annotations: BTreeMap::new(),
        plaintext_sha256: "00".into(),
    }
}

/// Whether this KEK decrypts that key check.
pub fn decrypts(kek: Kek, kms: Kms, key_check: &KeyCheck) -> bool {
    let own = format!("{}/{}", KEKS[usize::from(kek)], kms.made);
    key_check.ciphertext.split('#').next() == Some(own.as_str())
}
