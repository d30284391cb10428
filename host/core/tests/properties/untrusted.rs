//! Objects are untrusted input: no parser panics on them, and no error contains a secret
//! (invariant: secret-bytes-stay-in-secrets).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use keyward_core::SecretBytes;
use keyward_core::duration;
use keyward_core::field::FieldPath;
use keyward_core::formats::FormatError;
use keyward_core::formats::encryption_config::EncryptionConfiguration;
use keyward_core::formats::envelope;
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::{AcceptedPlugin, RevisionContent, SecretData, decode_plugins};
use keyward_core::ids::{GroupResource, KeyId, Mode, PluginDigest};
use keyward_core::machine;
use keyward_core::node::{Instance, pod};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use crate::any::{self, after};

/// Calls everything that reads bytes or text, and passes accepted input on to the code that uses it.
fn parse_all(bytes: &[u8]) {
    if let Ok(config) = EncryptionConfiguration::decode(bytes) {
        let _ = (config.lists(), config.hash());
        let _ = format!("{config:?}");
        let content = RevisionContent::new(config, BTreeMap::new());
        let _ = (content.kms_keys(), content.key_ids(), content.resources());
        let _ = content.config.refusal();
        if let Ok(state) = machine::decode(&content, &[]) {
            let again = machine::encode(&state, Some(&content));
            assert_eq!(machine::decode(&again, &[]), Ok(state), "nothing is lost");
        }
    }
    let _ = envelope::decode_kms(bytes);
    let _ = envelope::decode_plugin(bytes);
    let _ = serde_json::from_slice::<keyward_core::provider::Descriptor>(bytes);
    let _ = serde_json::from_slice::<keyward_core::provider::Evaluation>(bytes);
    let _ = serde_json::from_slice::<keyward_core::provider::Diagnosis>(bytes);
    if let Ok(accepted) = serde_json::from_slice::<AcceptedPlugin>(bytes) {
        render(accepted);
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<KeyId>();
    let _ = KeyId::from_name(&text);
    let _ = Mode::parse(&text);
    let _ = GroupResource::parse(&text).to_string();
    let _ = keyward_core::names::parse_revision_secret(&text);
    let _ = duration::go(&text);
    let _ = FieldPath::parse(&text);
}

/// The pod of an arbitrary accepted plugin: made or refused.
fn render(accepted: AcceptedPlugin) {
    let record = keyward_core::formats::revision::PluginRecord {
        kms: Value::Null,
        referenced: BTreeMap::new(),
        accepted: Some(accepted),
        salt: None,
    };
    let instance = Instance::new(KeyId(1), &PluginDigest("0".repeat(64)));
    let _ = pod::check(&instance, &record);
}

fn revision_of(data: &SecretData) {
    let _ = decode_plugins("s", data);
    if let Ok(Some(content)) = RevisionContent::decode("s", data) {
        let _ = (content.digests(), content.hash());
        let again = RevisionContent::decode("s", &content.encode()).unwrap().unwrap();
        assert_eq!(again, content);
    }
}

/// One value of the data damaged.
fn damage<V>(data: &mut BTreeMap<String, V>, which: Index) -> Option<&mut V> {
    if data.is_empty() {
        return None;
    }
    let key = which.get(&data.keys().cloned().collect::<Vec<_>>()).clone();
    data.get_mut(&key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        parse_all(&bytes);
    }

    #[test]
    fn any_text(text in any::<String>()) {
        parse_all(text.as_bytes());
    }

    #[test]
    fn damaged_configurations(config in any::configuration(), mishaps in any::mishaps()) {
        parse_all(&after(&config.encode(), &mishaps));
        parse_all(&after(serde_saphyr::to_string(&config).unwrap().as_bytes(), &mishaps));
    }

    #[test]
    fn damaged_renderings(accepted in any::accepted(), mishaps in any::mishaps()) {
        render(accepted.clone());
        parse_all(&after(&serde_json::to_vec(&accepted).unwrap(), &mishaps));
    }

    #[test]
    fn damaged_key_secrets(
        key in any::key_secret(),
        mishaps in any::mishaps(),
        which in any::<Index>(),
        name in any::DATA_KEY,
        bytes in vec(any::<u8>(), 0..40),
    ) {
        let whole = key.encode("n", "c").unwrap();
        // A value, an annotation, the name, one key more; and the object as a whole.
        let mut secret = whole.clone();
        if let Some(value) = damage(secret.data.as_mut().unwrap(), which) {
            value.0 = after(&value.0, &mishaps);
        }
        let _ = KeySecret::decode(&secret);
        let mut secret = whole.clone();
        if let Some(value) = damage(secret.metadata.annotations.as_mut().unwrap(), which) {
            *value = String::from_utf8_lossy(&after(value.as_bytes(), &mishaps)).into_owned();
        }
        let _ = KeySecret::decode(&secret);
        let mut secret = whole.clone();
        secret.metadata.name = Some(name.clone());
        let _ = KeySecret::decode(&secret);
        let mut secret = whole.clone();
        let prefix = keyward_core::names::DATA_PREFIX;
        secret.data.as_mut().unwrap().insert(format!("{prefix}{name}"), ByteString(bytes));
        let _ = KeySecret::decode(&secret);
        if let Ok(secret) = serde_json::from_slice::<Secret>(&after(&serde_json::to_vec(&whole).unwrap(), &mishaps)) {
            let _ = KeySecret::decode(&secret);
        }
    }

    #[test]
    fn damaged_revisions(
        content in any::deployed(),
        mishaps in any::mishaps(),
        which in any::<Index>(),
        (name, bytes) in ("(encryption-config|kms-plugin-(config|secret|configmap)|keyward-(plugin|salt))-?[a-z0-9._-]{0,12}", vec(any::<u8>(), 0..40)),
    ) {
        let mut data = content.encode();
        if let Some(value) = damage(&mut data, which) {
            *value = SecretBytes::new(after(value.expose(), &mishaps));
        }
        revision_of(&data);
        data.insert(name, SecretBytes::new(bytes));
        revision_of(&data);
    }
}

/// In the place of key material and credentials.
const MARKER: &str = "hunter2hunter2hunter2hunter2hunt";

/// Whether an error quotes it: as it is, in base64, or in part.
fn contains_the_marker(error: &FormatError) -> bool {
    let shown = format!("{error} {error:?} {error:#?}");
    shown.contains("hunter2") || shown.contains(&STANDARD.encode(MARKER)[..8])
}

/// A key secret whose every secret byte is the marker's.
fn marked(mut key: KeySecret) -> KeySecret {
    let marker = || SecretBytes::new(MARKER.as_bytes().to_vec());
    if key.mode.is_local() {
        key.material = marker();
    }
    if let Some(kms) = key.kms.as_mut().map(std::sync::Arc::make_mut) {
        kms.plugin.salt = Some(marker());
        for value in kms.plugin.referenced.values_mut() {
            *value = marker();
        }
    }
    key
}

/// One copy of the value for each text in it, with that text replaced: a secret pasted in the wrong place.
fn pasted(value: &Value) -> Vec<Value> {
    fn count(value: &Value) -> usize {
        match value {
            Value::String(_) => 1,
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(fields) => fields.values().map(count).sum(),
            _ => 0,
        }
    }
    fn paste(value: &mut Value, at: &mut usize) {
        match value {
            Value::String(text) => {
                if *at == 0 {
                    MARKER.clone_into(text);
                }
                *at = at.wrapping_sub(1);
            }
            Value::Array(items) => items.iter_mut().for_each(|item| paste(item, at)),
            Value::Object(fields) => fields.values_mut().for_each(|field| paste(field, at)),
            _ => {}
        }
    }
    (0..count(value))
        .map(|mut at| {
            let mut value = value.clone();
            paste(&mut value, &mut at);
            value
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn errors_of_key_secrets_contain_no_secret(
        key in any::key_secret().prop_map(marked),
        mishaps in any::mishaps(),
        which in any::<Index>(),
        to in any::<Index>(),
    ) {
        let whole = key.encode("n", "c").unwrap();
        let mut secret = whole.clone();
        if let Some(value) = damage(secret.data.as_mut().unwrap(), which) {
            value.0 = after(&value.0, &mishaps);
        }
        if let Err(error) = KeySecret::decode(&secret) {
            prop_assert!(!contains_the_marker(&error), "{}", error);
        }
        // Bytes under another key's name.
        for pasted in [MARKER.to_owned(), format!("\"{MARKER}\""), format!("{{\"{MARKER}\": 1}}"), format!("[\"{MARKER}\"]")] {
            let mut secret = whole.clone();
            if let Some(value) = damage(secret.data.as_mut().unwrap(), to) {
                value.0 = pasted.into_bytes();
            }
            if let Err(error) = KeySecret::decode(&secret) {
                prop_assert!(!contains_the_marker(&error), "{}", error);
            }
        }
    }

    #[test]
    fn errors_of_revisions_contain_no_secret(
        key in any::key_secret().prop_map(marked),
        mishaps in any::mishaps(),
        which in any::<Index>(),
    ) {
        use keyward_core::machine::{Key, ResourceKeys, State};
        let state = State {
            keys: [(key.id, Key::of(&key))].into(),
            resources: [(GroupResource::parse("secrets"), ResourceKeys { write: Some(key.id), read: vec![key.id] })].into(),
        };
        let content = machine::encode(&state, None);
        let debug = format!("{content:?}");
        prop_assert!(!debug.contains("hunter2"), "{}", debug);
        let mut data = content.encode();
        if let Some(value) = damage(&mut data, which) {
            *value = SecretBytes::new(after(value.expose(), &mishaps));
        }
        if let Err(error) = RevisionContent::decode("s", &data) {
            prop_assert!(!contains_the_marker(&error), "{}", error);
        }
        // The configuration alone, and as YAML.
        for bytes in [content.bytes.expose().to_vec(), serde_saphyr::to_string(&content.config).unwrap().into_bytes()] {
            if let Err(error) = EncryptionConfiguration::decode(&after(&bytes, &mishaps)) {
                prop_assert!(!contains_the_marker(&error), "{}", error);
            }
        }
    }

    #[test]
    fn a_secret_pasted_in_the_wrong_place_is_not_in_an_error(config in any::configuration()) {
        let value = serde_json::to_value(&config).unwrap();
        for pasted in pasted(&value) {
            for text in [pasted.to_string(), serde_saphyr::to_string(&pasted).unwrap()] {
                if let Err(error) = EncryptionConfiguration::decode(text.as_bytes()) {
                    prop_assert!(!contains_the_marker(&error), "{}", error);
                }
            }
        }
    }
}

/// Nesting without end is refused before it ends the stack.
#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{\"a\":", "- ", "? ", "{a: ", "!!map {", "&a [", "{\"kind\":["] {
        let text = open.repeat(200_000);
        parse_all(text.as_bytes());
        let line = text.replace("- ", "-\n");
        parse_all(line.as_bytes());
    }
}

/// A few bytes of YAML that expand to very many.
#[test]
fn aliases_do_not_multiply() {
    let mut text = String::from(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\na0: &a0 [x, x]\n",
    );
    for n in 1..40 {
        use std::fmt::Write as _;
        writeln!(text, "a{n}: &a{n} [*a{}, *a{}]", n - 1, n - 1).unwrap();
    }
    text.push_str("resources: *a39\n");
    assert!(EncryptionConfiguration::decode(text.as_bytes()).is_err());
}
