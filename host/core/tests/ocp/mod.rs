//! Dumps of an OpenShift cluster, built from the notation of docs/reference/openshift.md
//! (openshift: provider-list-notation), and read as `plan --objects` reads them.

#![allow(dead_code, unreachable_pub)] // not every test uses all of it

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::outcome::Outcome;
use keyward_core::platform::dump::Dump;
use keyward_core::platform::openshift::{self, Component};
use keyward_core::platform::{FreshBytes, Given, Results};
use keyward_core::provider::{
    Container, Evaluation, EvaluationRequest, Exposure, Kek, KeyRef, ModuleDigest, Plugin, Reference,
    ReferenceKind,
};
use serde_json::{Value, json};

const NOW: &str = "2026-05-08T12:34:56Z";
const PREFIX: &str = "encryption.apiserver.operator.openshift.io";

/// One API server pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub phase: &'static str,
    pub ready: bool,
    pub revision: String,
}

impl Pod {
    /// A ready pod on the node of this name.
    pub fn good(name: &str, revision: &str) -> Self {
        Self { name: name.into(), phase: "Running", ready: true, revision: revision.into() }
    }

    pub fn not_ready(mut self) -> Self {
        self.ready = false;
        self
    }

    pub fn phase(mut self, phase: &'static str) -> Self {
        self.phase = phase;
        self
    }

    pub fn object(&self, namespace: &str) -> Value {
        let mut labels = json!({"apiserver": "true"});
        if !self.revision.is_empty() {
            labels["revision"] = json!(self.revision);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": self.name, "containers": []},
            "status": {
                "phase": self.phase,
                "conditions": [{"type": "Ready", "status": if self.ready { "True" } else { "False" }}],
            },
        })
    }

    pub fn typed(&self, namespace: &str) -> k8s_openapi::api::core::v1::Pod {
        serde_json::from_value(self.object(namespace)).unwrap()
    }
}

/// One component's objects.
pub struct Cluster {
    component: &'static Component,
    pub mode: String,
    /// The list of all resources in revision 3; `None`: the Secret exists, without a configuration.
    pub deployed: Option<String>,
    /// The bytes of revision 3, instead of `deployed`.
    pub deployed_bytes: Option<String>,
    /// The Secret of revision 3 is gone.
    pub deployed_is_gone: bool,
    /// The list in the desired configuration.
    pub managed: Option<String>,
    /// The bytes of the desired configuration, instead of `managed`.
    pub managed_bytes: Option<String>,
    pub keys: Vec<String>,
    pub pods: Vec<Pod>,
    pub operator_spec: Value,
    /// The encryption status.
    pub status: Value,
    pub more: Vec<Value>,
}

impl Cluster {
    pub fn new(mode: &str) -> Self {
        Self::of("openshift-kube-apiserver", mode)
    }

    /// Two nodes, both at revision 3.
    pub fn of(component: &str, mode: &str) -> Self {
        Self {
            component: Component::named(component).unwrap(),
            mode: mode.into(),
            deployed: None,
            deployed_bytes: None,
            deployed_is_gone: false,
            managed: None,
            managed_bytes: None,
            keys: vec![],
            pods: vec![Pod::good("a", "3"), Pod::good("b", "3")],
            operator_spec: json!({}),
            status: json!({}),
            more: vec![],
        }
    }

    /// `aescbc:6,kms:5,identity,aesgcm:4` for each resource, rolled out and as desired.
    pub fn deployed(mut self, list: &str) -> Self {
        self.deployed = Some(list.into());
        self.managed = Some(list.into());
        self
    }

    /// `aescbc:6! kms:5 4`; `!`: migrated for every resource; without a mode: aescbc.
    pub fn keys(mut self, list: &str) -> Self {
        self.keys = list.split_whitespace().map(ToOwned::to_owned).collect();
        self
    }

    /// The key secret for one word of this notation.
    pub fn key_secret(&self, text: &str) -> Value {
        let (text, migrated) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
        let (mode, id) = text.split_once(':').unwrap_or(("aescbc", text));
        let mut annotations = json!({
            format!("{PREFIX}/mode"): if mode == "kms" { "KMS" } else { mode },
            format!("{PREFIX}/internal-reason"): "test",
            format!("{PREFIX}/external-reason"): "",
        });
        if migrated {
            let resources: Vec<Value> = self
                .component
                .resources
                .iter()
                .map(|name| {
                    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
                    json!({"Group": group, "Resource": resource})
                })
                .collect();
            annotations[format!("{PREFIX}/migrated-resources")] =
                json!(json!({"resources": resources}).to_string());
            annotations[format!("{PREFIX}/migrated-timestamp")] = json!(NOW);
        }
        let mut data = json!({format!("{PREFIX}-key"): STANDARD.encode(material(mode, id))});
        if mode == "kms" {
            let kms = json!({"apiVersion": "v2", "name": id, "endpoint": endpoint(id), "timeout": "10s"});
            let envelope = json!({
                "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
                "resources": [{"resources": null, "providers": [{"kms": kms}]}],
            });
            let mut put =
                |key: &str, value: String| data[format!("{PREFIX}-{key}")] = json!(STANDARD.encode(value));
            put("kms-encryption-config", envelope.to_string());
            put("kms-plugin-config", plugin_config().to_string());
            put("kms-plugin-secret-credentials_token", "hunter2".into());
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": format!("encryption-key-{}-{id}", self.component.name),
                "namespace": "openshift-config-managed",
                "uid": format!("uid-{id}"), "resourceVersion": "1",
                "creationTimestamp": "2026-05-08T10:00:00Z",
                "labels": {format!("{PREFIX}/component"): self.component.name},
                "annotations": annotations,
            },
            "data": data,
        })
    }

    fn config(&self, list: &str) -> String {
        let lists: Vec<(&str, &str)> = self.component.resources.iter().map(|name| (*name, list)).collect();
        configuration(&lists).to_string()
    }

    fn config_secret(namespace: &str, name: &str, bytes: Option<&str>, list: &str) -> Value {
        let mut data = json!({});
        if let Some(bytes) = bytes {
            data["encryption-config"] = json!(STANDARD.encode(bytes));
        }
        for id in list.split(',').filter_map(|each| each.strip_prefix("kms:")) {
            data[format!("kms-plugin-config-{id}")] = json!(STANDARD.encode(plugin_config().to_string()));
            data[format!("kms-plugin-secret-credentials_token-{id}")] = json!(STANDARD.encode("hunter2"));
        }
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": "7"},
            "data": data,
        })
    }

    /// All of it as one List.
    pub fn objects(&self) -> Value {
        let component = self.component.name;
        let encryption = if self.mode == "KMS" {
            json!({"type": "KMS", "kms": {"type": "Test", "test": {"image": "example.com/kms:1", "key": "one"}}})
        } else {
            json!({"type": self.mode})
        };
        let nodes: Vec<Value> =
            ["a", "b"].into_iter().map(|node| json!({"nodeName": node, "currentRevision": 3})).collect();
        let mut status = json!({"nodeStatuses": nodes});
        if self.component.operator == "Authentication" {
            status["oauthAPIServer"] = json!({"encryptionStatus": self.status});
        } else {
            status["encryptionStatus"] = self.status.clone();
        }
        let mut items = vec![
            json!({
                "apiVersion": "config.openshift.io/v1", "kind": "APIServer",
                "metadata": {"name": "cluster", "generation": 4}, "spec": {"encryption": encryption},
            }),
            json!({
                "apiVersion": "operator.openshift.io/v1", "kind": self.component.operator,
                "metadata": {"name": "cluster"}, "spec": self.operator_spec, "status": status,
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "apiserver", "namespace": component},
                "spec": {
                    "selector": {},
                    "template": {"spec": {"containers": [], "nodeSelector": {"node-role.kubernetes.io/master": ""}}},
                },
            }),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "credentials", "namespace": "openshift-config"},
                "data": {"token": STANDARD.encode("hunter2")},
            }),
        ];
        for (name, label) in [("a", "master"), ("b", "master"), ("c", "worker")] {
            items.push(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {format!("node-role.kubernetes.io/{label}"): ""}},
            }));
        }
        items.extend(self.pods.iter().map(|pod| pod.object(component)));
        items.extend(self.keys.iter().map(|key| self.key_secret(key)));
        let list = self.deployed.clone().unwrap_or_default();
        let bytes = self.deployed_bytes.clone().or_else(|| self.deployed.as_ref().map(|l| self.config(l)));
        if !self.deployed_is_gone {
            items.push(Self::config_secret(component, "encryption-config-3", bytes.as_deref(), &list));
        }
        if let Some(list) = &self.managed {
            let name = format!("encryption-config-{component}");
            let bytes = self.managed_bytes.clone().unwrap_or_else(|| self.config(list));
            items.push(Self::config_secret("openshift-config-managed", &name, Some(&bytes), list));
        }
        items.extend(self.more.iter().cloned());
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    /// The decision from this dump.
    pub fn decide(&self) -> Outcome {
        let mut dump = Dump::default();
        dump.read("dump.json", &self.objects().to_string()).unwrap();
        let objects = dump.openshift();
        let mut results = Results::default();
        loop {
            let needed = openshift::needed(&objects, self.component, &results);
            if needed.is_empty() {
                break;
            }
            for request in needed.evaluations {
                let said = evaluate(&request);
                results.evaluations.insert(request, Ok(said));
            }
            for object in needed.objects {
                let found = dump.referenced("openshift-config", &object);
                results.objects.insert(object, found);
            }
            for diagnosis in needed.diagnoses {
                results.diagnoses.insert(diagnosis, Ok(None));
            }
        }
        let bytes = || SecretBytes::new(vec![0x6b; 32]);
        let given = Given {
            now: NOW.parse().unwrap(),
            ages: Default::default(),
            fresh: FreshBytes { key: bytes(), salt: bytes() },
        };
        let snapshot = openshift::snapshot(&objects, self.component, &results, given).unwrap();
        keyward_core::reconcile(&snapshot)
    }
}

/// An EncryptionConfiguration from that notation.
pub fn configuration(lists: &[(&str, &str)]) -> Value {
    let entries: Vec<Value> = lists
        .iter()
        .map(|(name, list)| {
            let mut plain = false;
            let providers: Vec<Value> = list
                .split(',')
                .map(|each| match each.split_once(':') {
                    None => {
                        plain = true;
                        json!({"identity": {}})
                    }
                    Some(("kms", id)) => {
                        let resource = name.split('.').next().unwrap();
                        json!({"kms": {
                            "apiVersion": "v2", "name": format!("{id}_{resource}"), "endpoint": endpoint(id),
                            "timeout": "10s",
                        }})
                    }
                    Some((mode, id)) => {
                        // Behind identity, an aesgcm key is the number of an identity key
                        // (openshift: identity-keys).
                        let of = if mode == "aesgcm" && plain { "identity" } else { mode };
                        json!({mode: {"keys": [{"name": id, "secret": STANDARD.encode(material(of, id))}]}})
                    }
                })
                .collect();
            json!({"resources": [name], "providers": providers})
        })
        .collect();
    json!({
        "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": entries,
    })
}

/// A StorageVersionMigration.
pub fn migration(resource: &str, key: &str, created: &str, conditions: Value) -> Value {
    json!({
        "apiVersion": "migration.k8s.io/v1alpha1", "kind": "StorageVersionMigration",
        "metadata": {
            "name": format!("encryption-migration-core-{resource}"), "resourceVersion": "9",
            "creationTimestamp": created, "annotations": {format!("{PREFIX}/write-key"): key},
        },
        "spec": {"resource": {"resource": resource, "version": "v1"}},
        "status": {"conditions": conditions},
    })
}

/// The null key where a key encrypts nothing itself.
fn material(mode: &str, id: &str) -> Vec<u8> {
    match mode {
        "kms" | "identity" => vec![0; 16],
        _ => vec![id.parse().unwrap(); 32],
    }
}

fn endpoint(id: &str) -> String {
    format!("unix:///var/run/kmsplugin/kms-{id}.sock")
}

fn plugin_config() -> Value {
    json!({
        "kind": "APIServer", "apiVersion": "config.openshift.io/v1", "metadata": {},
        "spec": {"encryption": {"kms": {"type": "Test", "test": {"image": "example.com/kms:1", "key": "one"}}}},
    })
}

/// A provider with two fields: `key` names the KEK, `image` changes in place. It refers to Secret
/// `credentials`, key `token`.
fn evaluate(request: &EvaluationRequest) -> Evaluation {
    let kms: Value = serde_json::from_str(&request.kms).unwrap();
    let config = &kms["test"];
    Evaluation {
        provider_type: "Test".into(),
        normalized: config.clone(),
        warnings: vec![],
        kek: Kek {
            key: [("key".to_owned(), config["key"].as_str().unwrap().to_owned())].into(),
            version: Default::default(),
        },
        references: vec![Reference {
            source: KeyRef { kind: ReferenceKind::Secret, name: "credentials".into(), key: "token".into() },
            exposure: Exposure::File,
            required: true,
            field: "credentials".into(),
        }],
        rendered: Plugin::Managed(Container {
            command: vec![],
            args: vec![],
            env: vec![],
            files: vec![],
            ports: vec![],
            health: None,
            cpu_request_millis: 10,
            memory_request_mib: 64,
            settings: Default::default(),
        }),
        image: config["image"].as_str().map(ToOwned::to_owned),
        requirements: vec![],
        facts: Default::default(),
        field_order: vec!["image".into(), "key".into()],
        module: ModuleDigest("sha256:test".into()),
    }
}
