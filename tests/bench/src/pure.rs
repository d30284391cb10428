//! Benchmarks without a cluster: calls of provider modules, module loads, decisions.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::api::{
    ClusterEncryption, ClusterEncryptionSpec, EncryptionMigration, EncryptionMigrationSpec,
    EncryptionMigrationStatus, EncryptionNode, EncryptionNodeSpec, EncryptionNodeStatus, EncryptionSpec,
    HealthStatus, MigrationPhase, NodePlugin, PluginHealth,
};
use keyward_core::formats::encryption_config::KmsConfiguration;
use keyward_core::formats::key_secret::{KeySecret, KmsKey, NULL_KEY};
use keyward_core::formats::revision::{AcceptedPlugin, PluginRecord, RevisionContent};
use keyward_core::ids::{GroupResource, KeyId, Mode, RemoteKeyId, Revision};
use keyward_core::machine::{self, Key, ResourceKeys, State};
use keyward_core::platform::{FreshBytes, Given, Objects, Results, kubernetes};
use keyward_core::provider::{Container, Evaluation, EvaluationRequest, Kek, ModuleDigest, Plugin};
use keyward_core::{SecretBytes, names};
use keyward_engine::{Engine, Options, measure};
use keyward_test_cluster::Tools;
use serde_json::json;

use crate::table::Table;

const ROUNDS: usize = 2000;

/// Goals: under 25 µs for a call with a fresh instance, under 2 ms for a cached load.
pub(crate) fn provider(tools: &Tools, table: &mut Table) -> Result<()> {
    let modules = tools.providers()?;
    let file = modules.join("vault.wasm");
    let engine = Engine::open(&modules, Options::default())?;
    let kms = json!({"type": "Vault", "vault": {
        "kmsPluginImage": format!("registry.example.com/vault/kms@sha256:{}", "ab".repeat(32)),
        "vaultAddress": "https://vault.example.com:8200",
        "tls": {"caBundle": {"name": "vault-ca"}},
        "authentication": {"type": "AppRole", "appRole": {"secret": {"name": "vault-approle"}}},
        "vaultKeyPath": "transit/keys/k",
    }});
    for cost in measure::calls(&engine, &kms, ROUNDS)? {
        let what = format!("provider call, fresh instance: {} ({} fuel)", cost.function, cost.fuel);
        table.add(what, cost.median.as_secs_f64() * 1e6, "µs", Some(25.0));
    }
    let cache = tools.target().join("bench").join("module-cache");
    // Without its folder there is no cache, and the figure would include the compilation.
    std::fs::create_dir_all(tools.target().join("bench"))?;
    let options = Options { cache: Some(cache), ..Options::default() };
    let (_, cached) = measure::loads(&file, options, 50)?;
    table.add("load of a compiled module from the cache", cached.as_secs_f64() * 1e3, "ms", Some(2.0));
    let (compiled, _) = measure::loads(&file, Options::default(), 3)?;
    table.add("load of a module that is compiled first", compiled.as_secs_f64() * 1e3, "ms", None);
    Ok(())
}

/// Goal: under 100 µs for a snapshot with 10 keys.
pub(crate) fn core(table: &mut Table) -> Result<()> {
    let (objects, results) = ten_keys()?;
    let given =
        || Given { now: jiff::Timestamp::UNIX_EPOCH, ages: BTreeMap::new(), fresh: FreshBytes::default() };
    let snapshot = kubernetes::snapshot(&objects, &results, given()).context("no snapshot")?;
    let outcome = keyward_core::reconcile(&snapshot);
    anyhow::ensure!(
        outcome.converged && outcome.actions.is_empty(),
        "the cluster is not at rest: {outcome:?}"
    );
    table.add(
        "core: reconcile, 10 keys, 3 nodes",
        micros(|| drop(keyward_core::reconcile(&snapshot))),
        "µs",
        Some(100.0),
    );
    let with_snapshot = micros(|| drop(kubernetes::snapshot(&objects, &results, given())));
    table.add("core: objects to snapshot, 10 keys, 3 nodes", with_snapshot, "µs", None);
    Ok(())
}

/// The median time of many rounds, in microseconds.
fn micros(mut what: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            what();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times.get(ROUNDS / 2).copied().unwrap_or_default()
}

/// A cluster at rest with three nodes and ten KMS keys. All keys are in the lists of two resources, because
/// etcd has not been compacted.
fn ten_keys() -> Result<(Objects, Results)> {
    let resources = ["configmaps", "secrets"].map(GroupResource::parse);
    let mut results = Results::default();
    let keys: Vec<KeySecret> = (1..=10).rev().map(|id| key(id, &resources, &mut results)).collect();
    let backed: Vec<Key> = keys.iter().map(Key::of).collect();
    let mut state = State::default();
    for resource in &resources {
        let read = backed.iter().map(|key| key.id).collect();
        state.resources.insert(resource.clone(), ResourceKeys { write: Some(KeyId(10)), read });
    }
    state.keys = backed.iter().map(|key| (key.id, key.clone())).collect();
    let content: RevisionContent = machine::encode(&state, None);
    let mut objects = Objects::default();
    for resource in &resources {
        let mut migration = EncryptionMigration::new(
            &names::migration(resource),
            EncryptionMigrationSpec {
                operand: names::KUBE_APISERVER.to_owned(),
                resource: resource.to_string(),
                key_id: KeyId(10),
                since: Revision(1),
                ..Default::default()
            },
        );
        migration.metadata.generation = Some(1);
        migration.status = Some(EncryptionMigrationStatus {
            observed_generation: 1,
            phase: MigrationPhase::Succeeded,
            end_version: Some("100".to_owned()),
            ..Default::default()
        });
        objects.migrations.push(migration);
    }
    for mut secret in keys
        .iter()
        .map(|key| key.encode(names::NAMESPACE, names::KUBE_APISERVER))
        .collect::<Result<Vec<_>, _>>()?
    {
        secret.metadata.resource_version = Some("1".to_owned());
        objects.secrets.push(secret);
    }
    let data = content.encode().into_iter().map(|(k, v)| (k, ByteString(v.expose().to_vec()))).collect();
    let metadata = ObjectMeta { name: Some(names::revision_secret(Revision(1))), ..Default::default() };
    objects.secrets.push(Secret { metadata, data: Some(data), ..Default::default() });
    let newest = keys.first().and_then(|key| key.kms.as_ref()).context("ten keys")?;
    let mut cluster = ClusterEncryption::new(
        names::CLUSTER,
        ClusterEncryptionSpec {
            encryption: EncryptionSpec {
                type_: Some("KMS".to_owned()),
                kms: Some(newest.plugin.kms.clone()),
            },
            ..Default::default()
        },
    );
    let status = cluster.status.get_or_insert_default();
    (status.highest_key_id, status.highest_revision) = (KeyId(10), Revision(1));
    objects.cluster_encryption = Some(cluster);
    evaluate(&newest.plugin.kms, keyward_core::provider::Origin::Desired, &mut results);
    for name in ["node-1", "node-2", "node-3"] {
        objects.nodes.push(Node {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Default::default()
        });
        let spec = EncryptionNodeSpec {
            revision: Revision(1),
            config_hash: Some(content.hash()),
            ..Default::default()
        };
        let mut node = EncryptionNode::new(name, spec);
        let digests = content.digests();
        node.status = Some(EncryptionNodeStatus {
            revision: Revision(1),
            loaded_hash: Some(content.hash()),
            plugins: digests
                .into_iter()
                .map(|(key_id, digest)| NodePlugin {
                    key_id,
                    digest,
                    ready: true,
                    health: PluginHealth {
                        status: HealthStatus::Healthy,
                        remote_key_id: RemoteKeyId("kek".to_owned()),
                        last_checked_time: String::new(),
                        detail: None,
                        failure: None,
                    },
                    repairs: 0,
                })
                .collect(),
            ..Default::default()
        });
        objects.encryption_nodes.push(node);
    }
    Ok((objects, results))
}

fn key(id: u64, resources: &[GroupResource], results: &mut Results) -> KeySecret {
    let kms = json!({"type": "Test", "test": {"key": id}});
    let evaluation = evaluate(&kms, keyward_core::provider::Origin::Stored, results);
    let plugin = PluginRecord {
        kms,
        referenced: BTreeMap::new(),
        accepted: Some(AcceptedPlugin {
            image: None,
            template: evaluation.rendered,
            settings: Default::default(),
            module_digest: None,
        }),
        salt: Some(SecretBytes::new(vec![1; 32])),
    };
    let provider = KmsConfiguration {
        api_version: "v2".to_owned(),
        name: id.to_string(),
        cachesize: None,
        endpoint: names::endpoint(KeyId(id)),
        timeout: "10s".to_owned(),
    };
    let kms = KmsKey { provider, plugin, key_check: None };
    let material = SecretBytes::new(NULL_KEY.to_vec());
    let mut key = KeySecret::new(KeyId(id), Mode::Kms, material, Some(kms), "bench".to_owned());
    key.migrated = resources.to_vec();
    key.write_published = Some(Revision(1));
    key.migrated_at = Some(jiff::Timestamp::UNIX_EPOCH);
    key
}

fn evaluate(
    kms: &serde_json::Value,
    origin: keyward_core::provider::Origin,
    results: &mut Results,
) -> Evaluation {
    let evaluation = Evaluation {
        provider_type: "Test".to_owned(),
        normalized: kms.clone(),
        warnings: Vec::new(),
        kek: Kek { key: BTreeMap::from([("key".to_owned(), kms.to_string())]), version: BTreeMap::new() },
        references: Vec::new(),
        rendered: Plugin::Managed(Container {
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            ports: Vec::new(),
            health: None,
            cpu_request_millis: 10,
            memory_request_mib: 64,
            settings: BTreeMap::new(),
        }),
        image: None,
        requirements: Vec::new(),
        facts: BTreeMap::new(),
        field_order: vec![],
        module: ModuleDigest("sha256:bench".to_owned()),
    };
    results.evaluations.insert(EvaluationRequest::new(origin, kms), Ok(evaluation.clone()));
    evaluation
}
