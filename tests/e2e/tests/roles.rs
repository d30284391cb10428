//! A whole life under the shipped roles: nothing is refused, and nothing is granted in vain.
//!
//! The API server's audit log is the witness ([`keyward_test_e2e::Audit`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

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
/// A resource that no shipped role gives to the operator.
const ADDED: &str = "csistoragecapacities.storage.k8s.io";
/// Roles of people, each by its file's name.
const PEOPLE: [&str; 7] = ["status", "plan", "reencrypt", "forget-key", "pause", "export", "join"];
/// Those that are gone through elsewhere: `kubeadm` and `health_reporter`.
const ELSEWHERE: [&str; 2] = ["prepare", "health-reporter"];

#[test]
fn every_shipped_role_is_gone_through() -> Result<()> {
    let mut there = BTreeSet::new();
    for entry in std::fs::read_dir(Tools::here().root().join("deploy/rbac"))? {
        there.insert(format!("rbac/{}", entry?.file_name().to_string_lossy()));
    }
    let people = PEOPLE.iter().chain(&ELSEWHERE).map(|name| format!("rbac/{name}.yaml"));
    let known: BTreeSet<String> = RIGHTS.map(str::to_owned).into_iter().chain(people).collect();
    ensure!(there == known, "shipped are {there:?}, gone through {known:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_and_nothing_is_granted_in_vain() -> Result<()> {
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
    // Nothing runs them here; the API server knows every field.
    for file in ["namespace.yaml", "operator.yaml", "node-agent.yaml"] {
        keyward.cluster.apply(&shipped(&keyward.cluster, file)?).await.context(file)?;
    }
    run_shipped_agent(&mut keyward).await?;

    live(&mut keyward, &audit).await?;

    let grants = audit.must_fit(&roles, is_meant_to_be_refused)?;
    ensure!(grants > 50, "only {grants} grants were found");
    Ok(())
}

/// The agent as deploy/node-agent.yaml has it, with the two powers of root that it leaves and no other.
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

/// Everything that somebody does in the life of a cluster.
async fn live(keyward: &mut Keyward, audit: &Audit) -> Result<()> {
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.cluster.add_bare_node()?;
    join(keyward, "the cluster has no revision yet").await?;
    // What the kubelet says of a plugin that cannot start.
    keyward.trouble(&vault_spec(keyward, "a", NO_IMAGE), &["preflight of key 1", "node-1"], PATIENCE).await?;
    keyward.apply(&vault_spec(keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    join(keyward, "is installed").await?;
    keyward.cluster.stop_node(1)?;
    export(keyward).await?;

    // A resource of a group: whether kube-apiserver itself serves it, and whether the operator may re-encrypt it.
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let resources = json!({"spec": {"resources": ["secrets", "configmaps", ADDED, "nosuch.storage.k8s.io"]}});
    clusters.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(&resources)).await?;
    keyward
        .wait("the missing role to be named", PATIENCE, |status| {
            let troubles = status.troubles().concat();
            let said = [ADDED, "kubectl create clusterrole keyward-operator-", "nosuch.storage.k8s.io"];
            said.iter().all(|text| troubles.contains(text))
        })
        .await?;
    keyward.apply(&vault_spec(keyward, "a", &IMAGE(1))).await?;

    // Another credential, which the KMS takes as well.
    let renewed = keyward.bao.new_secret_id("", "keyward").await?;
    let before = keyward.secrets().get("encryption-key-kube-apiserver-1").await?.data;
    keyward.role.secret_id = renewed;
    keyward.set_credentials(&keyward.role).await?;
    wait_until("the key secret to follow", PATIENCE, async || {
        let now = keyward.secrets().get("encryption-key-kube-apiserver-1").await?.data;
        Ok(Seen::when(now != before, keyward.status().await?.summary()))
    })
    .await?;
    keyward.wait_settled(1, PATIENCE).await?;

    deleted_definition(keyward).await?;
    plan(keyward).await?;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(1))).await?;
    tokio::try_join!(disturbed(keyward, audit), keyward.wait_settled(2, PATIENCE))?;
    wait_until("key 1 to be retired", PATIENCE, async || {
        let left = keyward.secrets().get_opt("encryption-key-kube-apiserver-1").await?;
        Ok(Seen::when(left.is_none(), keyward.status().await?.summary()))
    })
    .await?;

    // Another operator takes the Lease over when it has run out.
    keyward.crash_operator().await?;
    let asker = person("reencrypt");
    let again = keyward.command_as(&asker, &["reencrypt", "--wait"]);
    let again = tokio::time::timeout(PATIENCE, again).await??;
    ensure!(again.status.success(), "{again:?}");
    keyward.wait_settled(3, PATIENCE).await?;
    let command = ["forget-key", "1", "--accept-loss", "--wait"];
    let forgetter = person("forget-key");
    let given_up = keyward.command_as(&forgetter, &command);
    let given_up = tokio::time::timeout(PATIENCE, given_up).await??;
    ensure!(given_up.status.success(), "{given_up:?}");

    for command in [&["pause", "--reason", "a test", "--by", "ada"][..], &["resume"]] {
        let done = keyward.command_as(&person("pause"), command).await?;
        ensure!(done.status.success(), "{done:?}");
    }

    keyward.apply(&json!({"type": "identity"})).await?;
    keyward.wait_settled(4, PATIENCE).await?;
    let told = keyward.command_as(&person("status"), &["status"]).await?;
    ensure!(told.status.success() && told.said.contains("DecryptionCompleted"), "{told:?}");
    ensure!(told.said.starts_with("ready: "), "an operator runs, and its Lease shows it: {told:?}");
    drop(load);
    Ok(())
}

/// The decryption of a custom resource whose CustomResourceDefinition was deleted: operator and `plan` look for that.
async fn deleted_definition(keyward: &Keyward) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(keyward.client.clone());
    let spec = EncryptionMigrationSpec {
        operand: names::KUBE_APISERVER.to_owned(),
        resource: "widgets.example.com".to_owned(),
        ..Default::default()
    };
    let name = "encryption-migration-example.com-widgets";
    migrations.create(&PostParams::default(), &EncryptionMigration::new(name, spec)).await?;
    wait_until("the decryption of nothing to end", PATIENCE, async || {
        let status = migrations.get(name).await?.status.unwrap_or_default();
        Ok(Seen::when(status.phase == MigrationPhase::Succeeded, format!("{status:?}")))
    })
    .await
}

/// The second node is prepared to join, and given up before its API server has started.
async fn join(keyward: &Keyward, says: &str) -> Result<()> {
    let answer = keyward.join(1).await?;
    ensure!(answer.status.success() && answer.said.contains(says), "{answer:?}");
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

/// Somebody labels the migrations while they run, until the engine had to read one again whose version had moved.
async fn disturbed(keyward: &Keyward, audit: &Audit) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(keyward.client.clone());
    let mut count = 0_u32;
    wait_until("a migration to be read again", PATIENCE, async || {
        for migration in migrations.list(&ListParams::default()).await?.items {
            count += 1;
            let label = json!({"metadata": {"labels": {"disturbed": count.to_string()}}});
            let name = migration.metadata.name.unwrap_or_default();
            migrations.patch(&name, &PatchParams::default(), &Patch::Merge(&label)).await?;
        }
        let read_again = audit.asked()?.granted.iter().any(|request| {
            let on = &request.on;
            request.verb == "get"
                && matches!(on, On::Object { resource, .. } if resource == "encryptionmigrations")
        });
        Ok(Seen::when(read_again, format!("{count} labels")))
    })
    .await
}

/// `keyward plan -f` by somebody with its role: all is told but how many objects there are.
async fn plan(keyward: &Keyward) -> Result<()> {
    let mut object = keyward.object(&vault_spec(keyward, "b", &IMAGE(1)));
    object["spec"]["resources"] = json!(["secrets", "configmaps", ADDED]);
    let file = keyward.cluster.folder().join("planned.json");
    std::fs::write(&file, object.to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-o", "json", "-f", &file, "--providers", &modules.to_string_lossy()];
    let told = keyward.command_as(&person("plan"), &arguments).await?;
    ensure!(told.status.code() == Some(1), "the operator lacks a role: {told:?}");
    let refused: Value = serde_json::from_str(&told.said).context("the plan")?;
    let violations = refused["violations"].as_array().context("violations")?;
    ensure!(violations.len() == 1 && violations[0]["field"] == "spec.resources", "{refused}");
    let role = format!("keyward-operator-{ADDED}");
    let command =
        format!("kubectl create clusterrole {role} --verb={} --resource={ADDED} && ", VERBS.join(","));
    ensure!(violations[0]["message"].as_str().is_some_and(|said| said.contains(&command)), "{refused}");
    for object in role_of_the_operator(&role) {
        keyward.cluster.apply(&object.to_string()).await?;
    }
    // The authorizer sees a new role a moment later.
    let told = wait_until("the role to count", PATIENCE, async || {
        let told = keyward.command_as(&person("plan"), &arguments).await?;
        Ok(if told.status.code() == Some(1) { Seen::NotYet(format!("{told:?}")) } else { Seen::Yes(told) })
    })
    .await?;
    ensure!(told.status.code() == Some(2), "{told:?}");
    let told: Value = serde_json::from_str(&told.said).context("the plan")?;
    ensure!(told["effect"] == "new-key" && told["live"]["keyID"] == 2, "{told}");
    ensure!(told["live"]["objects"]["secrets"].is_null(), "{told}");
    Ok(())
}

/// What the command in the violation makes.
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

/// To count is to list, and to list Secrets is to read them.
fn is_meant_to_be_refused(request: &Request) -> bool {
    let On::Object { resource, namespace, .. } = &request.on else { return false };
    request.user == "plan" && request.verb == "list" && namespace.is_empty() && resource != "nodes"
}
