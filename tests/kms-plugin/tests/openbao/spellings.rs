//! Compares OpenBao with the Vault module's fixtures: which spellings of a namespace and a key mean the same
//! key.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bao::Bao;

#[derive(Deserialize)]
struct Fixtures {
    configs: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Option<Value>,
    kek: Option<Value>,
    violations: Option<Vec<Value>>,
}

/// Namespace and key path of a configuration.
fn spelling(config: &Value, configs: &BTreeMap<String, Value>) -> (String, String) {
    let (base, change) = match config {
        Value::String(name) => (Some(&configs[name]), None),
        config => match config.get("base").and_then(Value::as_str) {
            Some(name) => (Some(&configs[name]), config.get("change")),
            None => (None, Some(config)),
        },
    };
    let inherited =
        base.filter(|base| *base != config).map(|base| spelling(base, configs)).unwrap_or_default();
    let of = |field: &str, before: String| match change.and_then(|change| change.get(field)) {
        Some(Value::String(text)) => text.clone(),
        Some(_) => String::new(),
        None => before,
    };
    (of("vaultNamespace", inherited.0), of("vaultKeyPath", inherited.1))
}

#[tokio::test]
async fn spellings_of_the_same_key_in_openbao_are_one_kek_or_refused() {
    let bao = Bao::start().await;
    bao.post("", "sys/namespaces/admin", json!({})).await;
    bao.post("admin", "sys/namespaces/team", json!({})).await;
    let mut keks = BTreeMap::new();
    for namespace in ["admin", "admin/team"] {
        bao.mount_transit(namespace).await;
        bao.post(namespace, "transit/keys/kek", json!({})).await;
        // A ciphertext distinguishes keys, and is not a secret.
        let sealed = bao.post(namespace, "transit/encrypt/kek", json!({"plaintext": "a2V5"})).await;
        let text = sealed.pointer("/data/ciphertext").and_then(Value::as_str).unwrap().to_owned();
        keks.insert(format!("{namespace}/transit/keys/kek"), text);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../providers/vault/fixtures/one-kek.yaml");
    let fixtures: Fixtures = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (mut same, mut refused) = (0, 0);
    for case in &fixtures.cases {
        let Some(config) = &case.config else { continue };
        let (namespace, path) = spelling(config, &fixtures.configs);
        let decrypt = path.replacen("/keys/", "/decrypt/", 1);
        for (kek, ciphertext) in &keks {
            if !bao.allows(&namespace, &decrypt, json!({"ciphertext": ciphertext})).await {
                continue;
            }
            same += 1;
            match (&case.violations, &case.kek) {
                (Some(_), None) => refused += 1,
                (None, Some(named)) => {
                    assert_eq!(
                        named.pointer("/key/vaultKeyPath").and_then(Value::as_str),
                        Some(kek.as_str()),
                        "{}",
                        case.name
                    );
                }
                _ => panic!("{}: for OpenBao this is {kek}: refuse it, or name that KEK", case.name),
            }
        }
    }
    assert!(same > 12 && refused > 8, "{same} spellings were the same to OpenBao, {refused} of them refused");
}
