//! A whole life of a cluster with the shipped roles: no request is refused, and every grant is needed
//! (decision 0076).
//!
//! The API server's audit log is the evidence ([`keyward_test_e2e::Audit`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::{
    ClusterEncryption, EncryptionMigration, EncryptionMigrationSpec, EncryptionNode, MigrationPhase,
};
use keyward_core::names;
use keyward_core::platform::VERBS;
use keyward_test_cluster::{Binary, Image, Seen, Tools, wait_until};
use keyward_test_e2e::{
    Audit, IMAGE, Install, Keyward, Load, On, RIGHTS, Request, SHORT_HISTORY, give, person, shipped,
    shipped_documents, vault_spec,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);
/// The image in deploy/node-agent.yaml.
const SHIPPED_IMAGE: &str = "example.com/keyward/keyward:0.1.0";
/// An image that no node can run.
const NO_IMAGE: &str = "registry.example.com/nobody/plugin@sha256:4444444444444444444444444444444444444444444444444444444444444444";
/// A resource for which no shipped role grants the operator anything.
const ADDED: &str = "csistoragecapacities.storage.k8s.io";
/// The roles of people, by file name.
const PEOPLE: [&str; 7] = ["status", "plan", "reencrypt", "forget-key", "pause", "export", "join"];
/// The roles that other tests use: `kubeadm` and `health_reporter`.
const ELSEWHERE: [&str; 2] = ["prepare", "health-reporter"];

#[test]
fn every_shipped_role_is_tested() -> Result<()> {
    let mut shipped = BTreeSet::new();
    for entry in std::fs::read_dir(Tools::here().root().join("deploy/rbac"))? {
        shipped.insert(format!("rbac/{}", entry?.file_name().to_string_lossy()));
    }
    let people = PEOPLE.iter().chain(&ELSEWHERE).map(|name| format!("rbac/{name}.yaml"));
    let known: BTreeSet<String> = RIGHTS.map(str::to_owned).into_iter().chain(people).collect();
    ensure!(shipped == known, "shipped: {shipped:?}, tested: {known:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_refused_and_every_grant_is_needed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let audit = Audit::below(folder.path())?;
    let apiserver_args = audit.arguments().into_iter().chain([SHORT_HISTORY.to_owned()]).collect();
    let operator_args = vec!["--lease-duration=3s".to_owned()];
    let mut keyward = Keyward::start(Install { apiserver_args, operator_args, ..Install::default() }).await?;
    let mut roles = Vec::new();
    for file in RIGHTS {
        roles.extend(shipped_documents(&keyward.cluster, file)?);
    }
    for name in PEOPLE {
        roles.extend(give(&keyward.cluster, name).await?);
    }
    // Nothing runs these objects here; the test is that the API server accepts every field.
    for file in ["namespace.yaml", "operator.yaml", "node-agent.yaml"] {
        keyward.cluster.apply(&shipped(&keyward.cluster, file)?).await.context(file)?;
    }
    run_shipped_agent(&mut keyward).await?;

    live(&mut keyward, &audit).await?;

    let grants = audit.must_fit(&roles, is_refusal_expected)?;
    ensure!(grants > 50, "only {grants} grants were found");
    Ok(())
}

/// Runs the agent of deploy/node-agent.yaml, with only the two capabilities that the manifest adds.
async fn run_shipped_agent(keyward: &mut Keyward) -> Result<()> {
    keyward.stop_agents().await?;
    let text = shipped(&keyward.cluster, "node-agent.yaml")?;
    let pod: Value = serde_saphyr::from_str(&text)?;
    let container = &pod["spec"]["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array().context("capabilities")?;
    let kept: Vec<String> =
        added.iter().map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase())).collect();
    let program = keyward.cluster.tools().binary(Binary::Keyward)?;
    let arguments = [
        "--no-new-privs".to_owned(),
        format!("--bounding-set=-all{}", kept.concat()),
        program.to_string_lossy().into_owned(),
    ];
    keyward.cluster.map_images([Image::exact(SHIPPED_IMAGE, "/usr/bin/setpriv").args(arguments)])?;
    let node = keyward.cluster.node(0)?;
    let here = text.replace("https://127.0.0.1:6443", &node.api_url()).replace(
        "        - --log-format=json\n",
        "        - --log-format=json\n        - --probe-interval=2s\n",
    );
    node.write_manifest_text("keyward-agent", &here)
}

/// Everything that people and programs do in the life of a cluster.
async fn live(keyward: &mut Keyward, audit: &Audit) -> Result<()> {
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.cluster.add_bare_node()?;
    join(keyward, "the cluster has no revision yet").await?;
    // A plugin that cannot start: the agent reads the kubelet's status.
    keyward
        .apply_and_wait_degraded(
            &vault_spec(keyward, "a", NO_IMAGE),
            &["preflight of key 1", "node-1"],
            PATIENCE,
        )
        .await?;
    keyward.apply(&vault_spec(keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    join(keyward, "is installed").await?;
    keyward.cluster.stop_node(1)?;
    export(keyward).await?;

    // A resource of an API group: the operator checks whether kube-apiserver itself serves it, and whether it
    // is allowed to re-encrypt it.
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let resources = json!({"spec": {"resources": ["secrets", "configmaps", ADDED, "nosuch.storage.k8s.io"]}});
    clusters.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(&resources)).await?;
    keyward
        .wait("the missing role to be named", PATIENCE, |status| {
            let problems = status.problems().concat();
            let parts = [ADDED, "kubectl create clusterrole keyward-operator-", "nosuch.storage.k8s.io"];
            parts.iter().all(|text| problems.contains(text))
        })
        .await?;
    keyward.apply(&vault_spec(keyward, "a", &IMAGE(1))).await?;

    // Another valid credential.
    let renewed = keyward.bao.new_secret_id("", "keyward").await?;
    let before = keyward.secrets().get("encryption-key-kube-apiserver-1").await?.data;
    keyward.role.secret_id = renewed;
    keyward.set_credentials(&keyward.role).await?;
    wait_until("the key secret to get the credential", PATIENCE, async || {
        let now = keyward.secrets().get("encryption-key-kube-apiserver-1").await?.data;
        Ok(Seen::when(now != before, keyward.status().await?.summary()))
    })
    .await?;
    keyward.wait_settled(1, PATIENCE).await?;

    deleted_definition(keyward).await?;
    plan(keyward).await?;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(1))).await?;
    tokio::try_join!(label_migrations(keyward, audit), keyward.wait_settled(2, PATIENCE))?;
    wait_until("key 1 to be retired", PATIENCE, async || {
        let left = keyward.secrets().get_opt("encryption-key-kube-apiserver-1").await?;
        Ok(Seen::when(left.is_none(), keyward.status().await?.summary()))
    })
    .await?;

    // Another operator leads when the Lease has expired.
    keyward.crash_operator().await?;
    let user = person("reencrypt");
    let again = keyward.command_as(&user, &["reencrypt", "--wait"]);
    let again = tokio::time::timeout(PATIENCE, again).await??;
    ensure!(again.status.success(), "{again:?}");
    keyward.wait_settled(3, PATIENCE).await?;
    let command = ["forget-key", "1", "--accept-loss", "--wait"];
    let user = person("forget-key");
    let forgotten = keyward.command_as(&user, &command);
    let forgotten = tokio::time::timeout(PATIENCE, forgotten).await??;
    ensure!(forgotten.status.success(), "{forgotten:?}");

    for command in [&["pause", "--reason", "a test", "--by", "ada"][..], &["resume"]] {
        let done = keyward.command_as(&person("pause"), command).await?;
        ensure!(done.status.success(), "{done:?}");
    }

    keyward.apply(&json!({"type": "identity"})).await?;
    keyward.wait_settled(4, PATIENCE).await?;
    let status = keyward.command_as(&person("status"), &["status"]).await?;
    ensure!(status.status.success() && status.stdout.contains("DecryptionCompleted"), "{status:?}");
    ensure!(status.stdout.starts_with("ready: "), "an operator runs, and its Lease shows it: {status:?}");
    drop(load);
    Ok(())
}

/// Decrypts a custom resource whose CustomResourceDefinition is deleted: the operator and `plan` read
/// definitions.
async fn deleted_definition(keyward: &Keyward) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(keyward.client.clone());
    let spec = EncryptionMigrationSpec {
        operand: names::KUBE_APISERVER.to_owned(),
        resource: "widgets.example.com".to_owned(),
        ..Default::default()
    };
    let name = "encryption-migration-example.com-widgets";
    migrations.create(&PostParams::default(), &EncryptionMigration::new(name, spec)).await?;
    wait_until("the decryption without objects to end", PATIENCE, async || {
        let status = migrations.get(name).await?.status.unwrap_or_default();
        Ok(Seen::when(status.phase == MigrationPhase::Succeeded, format!("{status:?}")))
    })
    .await
}

/// Prepares the second node to join, and removes it again before its API server has started.
async fn join(keyward: &Keyward, says: &str) -> Result<()> {
    let answer = keyward.join(1).await?;
    ensure!(answer.status.success() && answer.stdout.contains(says), "{answer:?}");
    let nodes = Api::<EncryptionNode>::all(keyward.client.clone());
    nodes.delete(keyward.cluster.node(1)?.name(), &DeleteParams::default()).await?;
    Ok(())
}

async fn export(keyward: &Keyward) -> Result<()> {
    let out = keyward.cluster.folder().join("bundle.age");
    let to = age::x25519::Identity::generate().to_public().to_string();
    let command = ["export", "--out", &out.to_string_lossy(), "--recipient", &to];
    let answer = keyward.command_as(&person("export"), &command).await?;
    ensure!(answer.status.success(), "{answer:?}");
    Ok(())
}

/// Labels the migrations while they run, until the engine has read one again because its resourceVersion had
/// changed.
async fn label_migrations(keyward: &Keyward, audit: &Audit) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(keyward.client.clone());
    let mut count = 0_u32;
    wait_until("a migration to be read again", PATIENCE, async || {
        for migration in migrations.list(&ListParams::default()).await?.items {
            count += 1;
            let label = json!({"metadata": {"labels": {"disturbed": count.to_string()}}});
            let name = migration.metadata.name.unwrap_or_default();
            migrations.patch(&name, &PatchParams::default(), &Patch::Merge(&label)).await?;
        }
        let read_again = audit.requests()?.granted.iter().any(|request| {
            let on = &request.on;
            request.verb == "get"
                && matches!(on, On::Object { resource, .. } if resource == "encryptionmigrations")
        });
        Ok(Seen::when(read_again, format!("{count} labels")))
    })
    .await
}

/// `keyward plan -f` by a user with its role: it shows everything but the number of objects.
async fn plan(keyward: &Keyward) -> Result<()> {
    let mut object = keyward.object(&vault_spec(keyward, "b", &IMAGE(1)));
    object["spec"]["resources"] = json!(["secrets", "configmaps", ADDED]);
    let file = keyward.cluster.folder().join("planned.json");
    std::fs::write(&file, object.to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-o", "json", "-f", &file, "--providers", &modules.to_string_lossy()];
    let answer = keyward.command_as(&person("plan"), &arguments).await?;
    ensure!(answer.status.code() == Some(1), "the operator lacks a role: {answer:?}");
    let refused: Value = serde_json::from_str(&answer.stdout).context("the plan")?;
    let violations = refused["violations"].as_array().context("violations")?;
    ensure!(violations.len() == 1 && violations[0]["field"] == "spec.resources", "{refused}");
    let role = format!("keyward-operator-{ADDED}");
    let command =
        format!("kubectl create clusterrole {role} --verb={} --resource={ADDED} && ", VERBS.join(","));
    ensure!(violations[0]["message"].as_str().is_some_and(|message| message.contains(&command)), "{refused}");
    for object in role_of_the_operator(&role) {
        keyward.cluster.apply(&object.to_string()).await?;
    }
    // The authorizer uses a new role a moment later.
    let answer = wait_until("the role to be in force", PATIENCE, async || {
        let answer = keyward.command_as(&person("plan"), &arguments).await?;
        let refused = answer.status.code() == Some(1);
        Ok(if refused { Seen::NotYet(format!("{answer:?}")) } else { Seen::Yes(answer) })
    })
    .await?;
    ensure!(answer.status.code() == Some(2), "{answer:?}");
    let plan: Value = serde_json::from_str(&answer.stdout).context("the plan")?;
    ensure!(plan["effect"] == "new-key" && plan["live"]["keyID"] == 2, "{plan}");
    ensure!(plan["live"]["objects"]["secrets"].is_null(), "{plan}");
    Ok(())
}

/// The objects that the command in the violation creates.
fn role_of_the_operator(name: &str) -> [Value; 2] {
    let (resource, group) = ADDED.split_once('.').unwrap();
    let account =
        json!({"kind": "ServiceAccount", "name": "keyward-operator", "namespace": "keyward-system"});
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [group], "resources": [resource], "verbs": VERBS}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [account],
        }),
    ]
}

/// `plan` counts objects if it is allowed to list them. Its role does not allow that, because a list of
/// Secrets contains their values.
fn is_refusal_expected(request: &Request) -> bool {
    let On::Object { resource, namespace, .. } = &request.on else { return false };
    request.user == "plan" && request.verb == "list" && namespace.is_empty() && resource != "nodes"
}
