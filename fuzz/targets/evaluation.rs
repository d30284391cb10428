//! The output of provider modules, as it is stored and passed on. None of it is trusted.
//!
//! The engine's checks of a module's JSON are compiled in from where they are; the rest of that crate needs wasmtime.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic

use std::collections::BTreeMap;

use keyward_core::SecretBytes;
use keyward_core::effect::{Side, compare};
use keyward_core::formats::revision::{AcceptedPlugin, PluginRecord};
use keyward_core::ids::{KeyId, PluginDigest};
use keyward_core::node::pod::{self, Place};
use keyward_core::provider::{Descriptor, Evaluation, KeyRef, Part, Plugin};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[allow(dead_code)]
#[path = "../../host/engine/src/json.rs"]
mod json;
#[allow(dead_code)]
#[path = "../../host/engine/src/schema.rs"]
mod schema;

/// The value of a credential.
const MARKER: &str = "hunter2hunter2";

/// A value that was read is written, and then read the same.
fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) -> Option<T> {
    let read: T = serde_json::from_value(value.clone()).ok()?;
    let again = serde_json::to_vec(&read).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was written can be read"), read);
    Some(read)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(value) = json::parse(text, 64) else { return };
    if let Ok(schema) = schema::Schema::read(&value) {
        for leaf in schema.leaves() {
            assert!(schema.has(leaf), "{leaf}");
            assert!(schema.leaf_type(leaf).is_some(), "{leaf}");
        }
    }
    if let Some(accepted) = read::<AcceptedPlugin>(&value) {
        plugin(accepted);
    }
    if let Some(evaluation) = read::<Evaluation>(&value) {
        plugin(AcceptedPlugin {
            image: evaluation.image,
            template: evaluation.rendered,
            settings: Default::default(),
            module_digest: Some(evaluation.module),
        });
    }
    // `[descriptor, written, evaluation, written, evaluation]`: what `plan` compares.
    if let Some([descriptor, old, before, new, after]) = value.as_array().map(Vec::as_slice)
        && let (Some(descriptor), Some(before), Some(after)) =
            (read::<Descriptor>(descriptor), read::<Evaluation>(before), read::<Evaluation>(after))
    {
        let (old, new) =
            (Side { written: old, evaluation: &before }, Side { written: new, evaluation: &after });
        let verdict = compare(&descriptor, old, new);
        assert!(verdict.fields.iter().all(|field| field.effect <= verdict.effect), "{verdict:?}");
        // The change in the other direction has the same effect.
        assert_eq!(compare(&descriptor, new, old).effect, verdict.effect);
    }
});

/// The pod of an arbitrary rendering has no more rights than any other, and contains no secret.
fn plugin(accepted: AcceptedPlugin) {
    let mut referenced = BTreeMap::new();
    if let Plugin::Managed(container) = &accepted.template {
        let parts = container.args.iter().flatten();
        let parts = parts.chain(container.env.iter().flat_map(|variable| &variable.value));
        for part in parts.chain(container.files.iter().flat_map(|file| &file.content)) {
            if let Part::Path(key) | Part::Value(key) = part {
                referenced.insert(KeyRef::clone(key), SecretBytes::new(MARKER.as_bytes().to_vec()));
            }
        }
    }
    let salt = Some(SecretBytes::new(vec![1; 32]));
    let record = PluginRecord { kms: Value::Null, referenced, accepted: Some(accepted), salt };
    let id = KeyId(7);
    let digest = record.digest(id).unwrap_or_else(|| PluginDigest(String::new()));
    let ports = pod::ports(&record).iter().map(|name| (name.clone(), 2000)).collect();
    let place =
        Place { node: "node-1", files: "/files", ports: &ports, uid: 1000, gid: 1000, trial: Some(1) };
    let rendered = match pod::render(id, &digest, &record, &place) {
        Ok(rendered) => rendered,
        Err(error) => {
            assert!(!error.to_string().contains(MARKER));
            return;
        }
    };
    for name in rendered.files.keys() {
        assert!(!name.contains('/') && !name.starts_with("..") && !name.is_empty(), "{name:?}");
    }
    let spec = rendered.pod.spec.expect("a pod has a spec");
    assert!(spec.init_containers.is_none() && spec.containers.len() == 1);
    let container = &spec.containers[0];
    let locked = container.security_context.as_ref().expect("it is locked down");
    assert_eq!((locked.privileged, locked.allow_privilege_escalation), (Some(false), Some(false)));
    assert_eq!(locked.read_only_root_filesystem, Some(true));
    let mounts: Vec<&str> = container.volume_mounts.iter().flatten().map(|m| m.mount_path.as_str()).collect();
    let paths =
        spec.volumes.iter().flatten().map(|v| v.host_path.as_ref().expect("only these").path.as_str());
    assert_eq!(paths.collect::<Vec<_>>(), mounts);
    assert!(mounts.len() <= 2 && mounts.iter().skip(1).all(|path| *path == "/files"), "{mounts:?}");
    // What a module may put into arguments is the engine's to check; the environment contains no secret.
    let from_secrets = container
        .env
        .iter()
        .flatten()
        .filter(|variable| variable.value.as_ref().is_some_and(|value| value.contains(MARKER)));
    for variable in from_secrets {
        let shown = record.accepted.iter().any(|accepted| match &accepted.template {
            Plugin::Managed(c) => c.env.iter().any(|e| e.name == variable.name && is_public(&e.value)),
            Plugin::External(_) => false,
        });
        assert!(shown, "{}", variable.name);
    }
}

/// Text, or values of ConfigMaps.
fn is_public(parts: &[Part]) -> bool {
    use keyward_core::provider::ReferenceKind;
    parts.iter().all(|part| !matches!(part, Part::Value(key) if key.kind == ReferenceKind::Secret))
}
