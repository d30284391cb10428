//! Fuzz targets begin with valid objects: the generators' values, written into the folder that
//! `KEYWARD_FUZZ_SEEDS` names (`cargo xtask fuzz` does), a folder a target.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keyward_core::formats::encryption_config::{EncryptionConfiguration, REVISION_ZERO};
use keyward_core::formats::envelope;
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::RevisionContent;
use keyward_core::provider::{
    Descriptor, Effect, Evaluation, Exposure, FieldRule, Kek, ModuleDigest, Reference, Violation,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::any;
use crate::entries::{self, SEPARATOR};

/// How many of each kind.
const EACH: usize = 30;

struct Seeds {
    runner: TestRunner,
    folder: Option<PathBuf>,
    written: usize,
}

impl Seeds {
    fn any<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    fn put(&mut self, target: &str, bytes: &[u8]) {
        self.written += 1;
        if let Some(folder) = &self.folder {
            let folder = folder.join(target);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed-{}", self.written)), bytes).unwrap();
        }
    }
}

#[test]
fn valid_objects_are_where_fuzzing_begins() {
    let folder = std::env::var_os("KEYWARD_FUZZ_SEEDS").map(PathBuf::from);
    let mut seeds = Seeds { runner: TestRunner::deterministic(), folder, written: 0 };
    for _ in 0..EACH {
        key_secret(&mut seeds);
        revision(&mut seeds);
        configuration(&mut seeds);
        evaluation(&mut seeds);
        digest(&mut seeds);
        names(&mut seeds);
    }
    assert!(seeds.written > 6 * EACH, "{}", seeds.written);
}

fn key_secret(seeds: &mut Seeds) {
    let mut key = seeds.any(any::key_secret());
    (key.uid, key.resource_version) = Default::default();
    let secret = key.encode("keyward-system", "kube-apiserver").unwrap();
    let bytes = entries::write_secret(&secret);
    // A value that contains a separator is cut there.
    let values = secret.data.iter().flatten().map(|(_, value)| value.0.as_slice());
    let annotations = secret.metadata.annotations.iter().flatten().map(|(_, text)| text.as_bytes());
    if values.chain(annotations).all(|value| !value.contains(&SEPARATOR)) {
        assert_eq!(KeySecret::decode(&entries::read_secret(&bytes)).unwrap(), key);
    }
    seeds.put("key_secret", &bytes);
}

fn revision(seeds: &mut Seeds) {
    let content = seeds.any(any::deployed());
    let data = content.encode();
    let bytes = entries::write(data.iter().map(|(name, value)| (name.as_str(), value.expose())));
    if data.values().all(|value| !value.expose().contains(&SEPARATOR)) {
        let read: BTreeMap<String, _> =
            entries::read(&bytes).into_iter().map(|(n, v)| (n, v.as_slice().into())).collect();
        assert_eq!(RevisionContent::decode("s", &read).unwrap(), Some(content));
    }
    seeds.put("revision", &bytes);
}

fn configuration(seeds: &mut Seeds) {
    const TARGET: &str = "encryption_configuration";
    let config = seeds.any(any::configuration());
    seeds.put(TARGET, &config.encode());
    let options = serde_saphyr::ser_options! { quote_all: true, prefer_block_scalars: false };
    let yaml = serde_saphyr::to_string_with_options(&config, options).unwrap();
    assert_eq!(EncryptionConfiguration::decode(yaml.as_bytes()).unwrap(), config);
    seeds.put(TARGET, yaml.as_bytes());
    let kms = seeds.any(any::<u64>().prop_flat_map(|id| any::kms_configuration(id.to_string())));
    seeds.put(TARGET, &envelope::encode_kms(&kms));
    let kms = seeds.any(any::kms_object());
    seeds.put(TARGET, &envelope::encode_plugin(&kms));
    seeds.put(TARGET, REVISION_ZERO.as_bytes());
}

fn evaluation(seeds: &mut Seeds) {
    const TARGET: &str = "evaluation";
    let accepted = seeds.any(any::accepted());
    seeds.put(TARGET, &serde_json::to_vec(&accepted).unwrap());
    let schema = json!({"type": "object", "properties": {
        "image": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "hosts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }});
    let rule =
        |(field, effect): (&str, Effect)| FieldRule { field: field.into(), effect, reason: "so".into() };
    let rules =
        [("image", Effect::InPlace), ("labels.*", Effect::ReEncrypt), ("hosts[].name", Effect::NewKey)];
    let descriptor = Descriptor {
        provider_type: "Acme".into(),
        config_field: "acme".into(),
        image_field: Some("image".into()),
        config_schema: schema.clone(),
        rules: rules.map(rule).into(),
        facts: [("status".to_owned(), "constant".to_owned())].into(),
        module: ModuleDigest("sha256:0".into()),
    };
    let mut evaluated = || {
        let written =
            json!({"image": "i", "labels": {"a": seeds.any("[a-z]{1,3}")}, "hosts": [{"name": "h"}]});
        let source = seeds.any(any::key_ref());
        let reference = Reference { source, exposure: Exposure::File, required: true, field: "image".into() };
        let evaluation = Evaluation {
            provider_type: "Acme".into(),
            normalized: written.clone(),
            warnings: vec![Violation { field: "image".into(), message: "old".into() }],
            kek: Kek {
                key: [("k".to_owned(), "v".to_owned())].into(),
                version: [("v".to_owned(), "1".to_owned())].into(),
            },
            references: vec![reference],
            rendered: seeds.any(any::plugin()),
            image: Some("i".into()),
            requirements: vec!["encrypt".into()],
            facts: BTreeMap::new(),
            field_order: vec![],
            module: ModuleDigest("sha256:0".into()),
        };
        (written, serde_json::to_value(evaluation).unwrap())
    };
    let ((old, before), (new, after)) = (evaluated(), evaluated());
    let compared = json!([descriptor, old, before, new, after]);
    assert!(serde_json::from_value::<Descriptor>(compared[0].clone()).is_ok());
    for value in [schema, before, compared, Value::Null] {
        seeds.put(TARGET, value.to_string().as_bytes());
    }
}

fn digest(seeds: &mut Seeds) {
    let halves = [seeds.any(any::plugins()), seeds.any(any::plugins())].map(|plugins| {
        let data = keyward_core::formats::revision::encode_plugins(&plugins);
        entries::write(data.iter().map(|(name, value)| (name.as_str(), value.expose())))
    });
    seeds.put("digest", &halves.join(&0x1d));
}

fn names(seeds: &mut Seeds) {
    let id = seeds.any(any::<u64>());
    for text in [
        seeds.any("[0-9]{1,3}(\\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h)([0-9]{1,2}(ms|s|m))?"),
        format!("encryption-key-kube-apiserver-{id}"),
        format!("encryption-config-{id}"),
        id.to_string(),
        seeds.any(any::resource()).to_string(),
        seeds.any("[a-z]{1,5}(\\[[0-9]?\\])?(\\.(\\*|[a-z]{1,5}(\\[[0-9]?\\])?)){0,3}"),
        seeds.any(any::mode()).to_string(),
    ] {
        seeds.put("names", text.as_bytes());
    }
}
