//! Configurations in Keyward's form, and in other forms with the same meaning.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::random::Random;

const RESOURCES: [&str; 5] =
    ["secrets", "configmaps", "deployments.apps", "routes.route.openshift.io", "widgets.example.com"];

/// One key; it is the same in every list.
struct Key {
    id: u64,
    kind: &'static str,
    secret: String,
    endpoint: String,
    timeout: &'static str,
}

impl Key {
    fn any(random: &mut Random, id: u64) -> Self {
        let kind = random.pick(&["aescbc", "aesgcm", "secretbox", "kms", "identity"]);
        let length = if kind == "secretbox" { 32 } else { [16, 24, 32][random.below(3)] };
        let bytes: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        Self {
            id,
            kind,
            secret: BASE64_STANDARD.encode(bytes),
            endpoint: format!("unix:///var/run/kmsplugin/kms-{id}/kms.sock"),
            timeout: random.pick(&["10s", "3s", "1m30s", "2.5s", "500ms"]),
        }
    }

    fn provider(&self, resource: &str) -> Value {
        match self.kind {
            "kms" => {
                let bare = ["secrets", "configmaps", "routes.route.openshift.io"].contains(&resource);
                let name = if bare { resource.split('.').next().unwrap() } else { resource };
                json!({"kms": {
                    "apiVersion": "v2", "name": format!("{}_{name}", self.id),
                    "endpoint": self.endpoint, "timeout": self.timeout,
                }})
            }
            "identity" => local("aesgcm", self.id, &BASE64_STANDARD.encode([0; 16])),
            kind => local(kind, self.id, &self.secret),
        }
    }
}

fn local(kind: &str, id: u64, secret: &str) -> Value {
    json!({kind: {"keys": [{"name": id.to_string(), "secret": secret}]}})
}

/// A configuration that Keyward's decoder must understand.
pub(crate) fn configuration(random: &mut Random) -> Value {
    let first = 1 + random.next() % 3;
    let mut keys: Vec<Key> = (0..=random.below(4))
        .map(|index| Key::any(random, first + 3 * u64::try_from(index).unwrap()))
        .collect();
    keys.reverse();
    let mut entries = Vec::new();
    for resource in RESOURCES {
        if random.percent(45) {
            entries.push(json!({"resources": [resource], "providers": providers(random, &keys, resource)}));
        }
    }
    if entries.is_empty() {
        entries.push(json!({"resources": ["secrets"], "providers": providers(random, &keys, "secrets")}));
    }
    for _ in 0..random.below(3) {
        match random.below(3) {
            0 => split(random, &mut entries),
            1 => merge_keys(random, &mut entries),
            _ => merge_resources(&mut entries),
        }
    }
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": entries})
}

fn providers(random: &mut Random, keys: &[Key], resource: &str) -> Vec<Value> {
    let identity = || json!({"identity": {}});
    let (mut list, mut numbers) = (Vec::new(), Vec::new());
    for key in keys {
        if random.percent(75) {
            if key.kind == "identity" { &mut numbers } else { &mut list }.push(key.provider(resource));
        }
    }
    let at = if random.percent(40) { 0 } else { list.len() };
    if at == 0 || random.percent(80) {
        list.insert(at, identity());
    }
    list.append(&mut numbers);
    list
}

/// Splits an entry in two; a reader appends their lists.
fn split(random: &mut Random, entries: &mut Vec<Value>) {
    let index = random.below(entries.len());
    let providers = entries[index]["providers"].as_array().unwrap().clone();
    if providers.len() < 2 {
        return;
    }
    let (head, tail) = providers.split_at(1 + random.below(providers.len() - 1));
    let second = json!({"resources": entries[index]["resources"], "providers": tail});
    entries[index]["providers"] = head.into();
    let at = index + 1 + random.below(entries.len() - index);
    entries.insert(at, second);
}

/// Merges neighbors of one kind into one provider with several keys.
fn merge_keys(random: &mut Random, entries: &mut [Value]) {
    let index = random.below(entries.len());
    let providers = entries[index]["providers"].as_array_mut().unwrap();
    for kind in ["aescbc", "aesgcm", "secretbox"] {
        let is = |provider: &Value| provider.get(kind).is_some();
        if let Some(at) = (1..providers.len()).find(|at| is(&providers[at - 1]) && is(&providers[*at])) {
            let second = providers.remove(at);
            let keys = second[kind]["keys"].as_array().unwrap().clone();
            providers[at - 1][kind]["keys"].as_array_mut().unwrap().extend(keys);
        }
    }
}

/// Merges entries with equal providers; entries with KMS providers stay separate, because their names differ.
fn merge_resources(entries: &mut Vec<Value>) {
    let same = |a: &Value, b: &Value| a["providers"] == b["providers"] && a["resources"] != b["resources"];
    if let Some(at) = (1..entries.len()).find(|at| same(&entries[at - 1], &entries[*at])) {
        let second = entries.remove(at);
        let names = second["resources"].as_array().unwrap().clone();
        entries[at - 1]["resources"].as_array_mut().unwrap().extend(names);
    } else if let Some(only) = entries.iter_mut().find(|entry| !entry.to_string().contains("\"kms\"")) {
        let other = json!("gadgets.example.com");
        let names = only["resources"].as_array_mut().unwrap();
        if !names.contains(&other) {
            names.push(other);
        }
    }
}
