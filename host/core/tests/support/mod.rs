//! A model of the objects around the decisions: actions are applied with their preconditions, nodes follow at
//! once. For tests of the decisions themselves; code that talks to Kubernetes is tested against a real API
//! server.

#![allow(dead_code, unreachable_pub)] // not every test uses all of it

mod actions;
mod follow;
mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::SecretBytes;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionSpec, ForgetPhase, ForgetRequest, ForgetStatus};
use keyward_core::formats::revision::{RevisionContent, SecretData};
use keyward_core::ids::{GroupResource, KeyId, PluginDigest, Revision};
use keyward_core::names;
use keyward_core::outcome::{Action, FORGET_FACTS, Outcome, REPORT_FACTS};
use keyward_core::platform::{Age, Expiry, FreshBytes, Given, ObjectRef, Objects, Results, kubernetes};
use keyward_core::provider::{Diagnosis, Failure, ReferenceKind};
use keyward_core::snapshot::Snapshot;
use provider::{diagnose, evaluate, external};
use serde_json::{Value, json};

pub struct World {
    pub objects: Objects,
    /// Referenced objects.
    pub referenced: BTreeMap<ObjectRef, BTreeMap<String, SecretBytes>>,
    /// The result of the preflight on every node; `None`: it passes.
    pub preflight_failure: Option<Failure>,
    /// The preflight of a candidate with this KEK fails.
    pub failing_kek: Option<String>,
    /// … in this phase on this node; empty: `encrypt` on each.
    pub failing_at: BTreeMap<String, &'static str>,
    /// These KEKs were deleted and recreated under their names: they decrypt no earlier ciphertext.
    pub recreated_keks: BTreeSet<String>,
    /// Keys whose plugins fail on every node.
    pub broken: BTreeSet<KeyId>,
    /// Referenced objects that cannot be read.
    pub unreadable: BTreeSet<ObjectRef>,
    /// The API server refuses to create key secrets.
    pub refuses_keys: bool,
    /// etcd has compacted everything before now.
    pub compacted: bool,
    /// Why the compaction cannot be determined.
    pub history_error: Option<String>,
    /// A module of the type `External` is loaded beside `Test`.
    pub external: bool,
    /// Credentials that an admin replaced on nodes: the key, and the digest of the replaced data.
    pub recovered: BTreeMap<String, (KeyId, PluginDigest)>,
    /// Nodes with an edited file that their agents do not replace and their API servers do not load.
    pub edited: BTreeSet<String>,
    /// What their agents recorded about the edit.
    drifted: BTreeMap<String, Revision>,
    /// Nodes whose agents do not report any more.
    pub silent: BTreeSet<String>,
    /// High-water marks that agents report above their own.
    pub marks: BTreeMap<String, KeyId>,
    /// The provider module's diagnosis of every failure.
    pub diagnosis: Option<Diagnosis>,
    /// Expiry times in the referenced objects.
    pub expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
    /// The migration of this resource does not end.
    pub stuck: Option<String>,
    pub ages: BTreeMap<String, Age>,
    pub log: Vec<Value>,
    pub last: Outcome,
    version: u64,
    salt: u32,
}

impl World {
    pub fn new(nodes: &[&str]) -> Self {
        let mut spec = ClusterEncryptionSpec::default();
        spec.encryption.type_ = Some("identity".into());
        let mut objects = Objects {
            cluster_encryption: Some(ClusterEncryption::new("cluster", spec)),
            ..Default::default()
        };
        objects.nodes = nodes
            .iter()
            .map(|name| Node {
                metadata: ObjectMeta {
                    name: Some((*name).to_owned()),
                    labels: Some(BTreeMap::from([(names::CONTROL_PLANE.to_owned(), String::new())])),
                    ..Default::default()
                },
                ..Default::default()
            })
            .collect();
        Self {
            objects,
            referenced: BTreeMap::from([(
                ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() },
                BTreeMap::from([("token".into(), SecretBytes::new(b"hunter2".to_vec()))]),
            )]),
            preflight_failure: None,
            failing_kek: None,
            failing_at: BTreeMap::new(),
            recreated_keks: BTreeSet::new(),
            broken: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            refuses_keys: false,
            compacted: false,
            history_error: None,
            external: false,
            recovered: BTreeMap::new(),
            edited: BTreeSet::new(),
            drifted: BTreeMap::new(),
            silent: BTreeSet::new(),
            marks: BTreeMap::new(),
            diagnosis: None,
            expiries: BTreeMap::new(),
            stuck: None,
            ages: BTreeMap::new(),
            log: Vec::new(),
            last: Outcome::default(),
            version: 0,
            salt: 0,
        }
    }

    pub fn spec(&mut self) -> &mut ClusterEncryptionSpec {
        &mut self.objects.cluster_encryption.as_mut().unwrap().spec
    }

    pub fn want_kms(&mut self, key: &str, image: &str) {
        self.spec().encryption.type_ = Some("KMS".into());
        self.spec().encryption.kms = Some(json!({"type": "Test", "test": {"key": key, "image": image}}));
    }

    /// Requests that keys are forgotten, in place of earlier requests. `at` distinguishes requests.
    pub fn forget(&mut self, ids: &[u64], at: &str) {
        let request = |id: &u64| ForgetRequest {
            key_id: KeyId(*id),
            requested_at: at.to_owned(),
            objects: None,
            accept_keyward_loss: true,
        };
        self.spec().forget = ids.iter().map(request).collect();
    }

    /// Requests that keys are forgotten. Their plugins fail, and the request is already accepted.
    pub fn forget_accepted(&mut self, ids: &[u64]) {
        self.broken.extend(ids.iter().map(|id| KeyId(*id)));
        self.nodes_follow();
        self.forget(ids, "now");
        let accepted = |id: &u64| ForgetStatus {
            key_id: KeyId(*id),
            requested_at: "now".to_owned(),
            phase: ForgetPhase::Accepted,
            message: String::new(),
        };
        let status = self.objects.cluster_encryption.as_mut().unwrap().status.get_or_insert_default();
        status.forget = ids.iter().map(accepted).collect();
        for id in ids {
            let seen = Age { value: "fails".into(), elapsed: Duration::from_hours(1) };
            self.ages.insert(format!("{FORGET_FACTS}{id}/now"), seen);
        }
    }

    /// Requests encryption of Secrets only, with the decryption of ConfigMaps confirmed; or encryption of
    /// both.
    pub fn only_secrets(&mut self, only: bool) {
        self.spec().resources = only.then(|| vec!["secrets".into()]);
        self.spec().decrypt = if only { vec!["configmaps".into()] } else { Vec::new() };
    }

    /// Changes the Secret that keys refer to.
    pub fn renew_credentials(&mut self) {
        let credentials = ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() };
        let token = SecretBytes::new(b"correct horse".to_vec());
        self.referenced.get_mut(&credentials).unwrap().insert("token".into(), token);
    }

    pub fn want(&mut self, mode: &str) {
        self.spec().encryption.type_ = Some(mode.into());
        self.spec().encryption.kms = None;
    }

    /// The snapshot that the next reconcile pass decides from.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut results = Results::default();
        loop {
            let needed = kubernetes::needed(&self.objects, &results);
            if needed.is_empty() {
                break;
            }
            for request in needed.evaluations {
                let evaluation = if self.external { external(&request) } else { None };
                let evaluation = evaluation.unwrap_or_else(|| evaluate(&request));
                results.evaluations.insert(request, evaluation);
            }
            for object in needed.objects {
                let found = if self.unreadable.contains(&object) {
                    Err("timed out".to_owned())
                } else {
                    Ok(self.referenced.get(&object).cloned())
                };
                results.objects.insert(object, found);
            }
            for request in needed.history {
                let seen = self.history_error.clone().map_or(Ok(self.compacted), Err);
                results.history.insert(request, seen);
            }
            for diagnosis in needed.diagnoses {
                let said = self.diagnosis.clone().or_else(|| diagnose(&diagnosis));
                results.diagnoses.insert(diagnosis, Ok(said));
            }
        }
        results.expiries.clone_from(&self.expiries);
        self.salt += 1;
        let given = Given {
            now: "2026-05-08T12:34:56Z".parse().unwrap(),
            ages: self.ages.clone(),
            fresh: FreshBytes {
                key: SecretBytes::new(self.salt.to_be_bytes().repeat(8)),
                salt: SecretBytes::new(self.salt.to_be_bytes().repeat(8)),
            },
        };
        kubernetes::snapshot(&self.objects, &results, given).unwrap()
    }

    /// One reconcile pass; its actions are applied in order.
    pub fn reconcile(&mut self) -> Outcome {
        let snapshot = self.snapshot();
        let outcome = keyward_core::reconcile(&snapshot);
        // Agents renew their reports, except on silent nodes.
        let renewed = |fact: &str| {
            let node = fact.strip_prefix(REPORT_FACTS).and_then(|rest| rest.split('/').next());
            node.is_some_and(|node| !self.silent.contains(node))
        };
        self.ages = outcome
            .facts
            .iter()
            .filter(|(fact, _)| !renewed(fact))
            .map(|(fact, value)| {
                let elapsed = self
                    .ages
                    .get(fact)
                    .filter(|age| age.value == *value)
                    .map_or(Duration::ZERO, |age| age.elapsed + Duration::from_secs(30));
                (fact.clone(), Age { value: value.clone(), elapsed })
            })
            .collect();
        let status = self.objects.cluster_encryption.as_mut().unwrap().status.get_or_insert_default();
        status.converged_revision = outcome.view.converged_revision;
        status.revisions.clone_from(&outcome.view.revisions);
        status.keys.clone_from(&outcome.view.keys);
        status.forget.clone_from(&outcome.view.forget);
        for action in outcome.actions.clone() {
            if self.refuses_keys && matches!(action, Action::CreateKey { .. }) {
                break; // as the writer stops at the first action that fails
            }
            self.apply(action);
        }
        self.last = outcome.clone();
        outcome
    }

    /// Reconciles and lets the nodes follow until nothing changes any more.
    pub fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..300 {
            let outcome = self.reconcile();
            let moved = self.follow();
            let still = outcome.actions.is_empty() && !moved;
            idle = if still { idle + 1 } else { 0 };
            // Waits end within minutes, at 30 s a pass; a wait that lasts longer is for something outside.
            if still && (outcome.requeue_after.is_none() || idle > 12) {
                return;
            }
        }
        panic!("it does not settle: {:?}\n{:#?}", self.last.waiting, self.log);
    }

    /// The revision in force.
    pub fn config(&self) -> BTreeMap<String, String> {
        let revision = self.revisions().pop().map(|(_, content)| content);
        revision
            .map(|content| content.config.lists().into_iter().map(|(r, l)| (r, l.join(","))).collect())
            .unwrap_or_default()
    }

    /// KMS key 1 is in force on nodes a and b.
    pub fn enabled() -> Self {
        let mut world = Self::new(&["a", "b"]);
        world.settle();
        world.want_kms("one", "image:1");
        world.settle();
        world
    }

    /// Reconcile passes, each followed by nodes and migrations, for worlds that do not settle.
    pub fn run(&mut self, passes: usize) {
        for _ in 0..passes {
            self.reconcile();
            self.follow();
        }
    }

    pub fn condition(&self, type_: &str) -> String {
        let found = self.last.conditions.iter().find(|condition| condition.type_ == type_);
        found.map(|c| format!("{:?} {} {}", c.status, c.reason, c.message)).unwrap_or_default()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.log.iter().map(|action| action["kind"].as_str().unwrap().to_owned()).collect()
    }

    pub fn revisions(&self) -> Vec<(u64, RevisionContent)> {
        let mut found: Vec<_> = self
            .objects
            .secrets
            .iter()
            .filter_map(|secret| {
                let n = names::parse_revision_secret(secret.metadata.name.as_deref()?)?;
                Some((n.0, RevisionContent::decode("", &data(secret)).ok()??))
            })
            .collect();
        found.sort_by_key(|(n, _)| *n);
        found
    }
}

fn secret_of(name: &str, data: SecretData) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(data.into_iter().map(|(k, v)| (k, ByteString(v.expose().to_vec()))).collect()),
        ..Default::default()
    }
}

fn data(secret: &Secret) -> SecretData {
    kubernetes::data(secret)
}

/// For tests that look at one resource.
pub fn resource(name: &str) -> GroupResource {
    GroupResource::parse(name)
}
