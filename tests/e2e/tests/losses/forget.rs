//! Requests to forget a key, in an outage and after the loss of its KEK: the cluster stays usable
//! (invariant: forget-is-bound).

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keyward_core::api::{ForgetPhase, ForgetStatus};
use keyward_core::ids::{KeyId, Mode};
use keyward_core::names;
use keyward_test_cluster::{Seen, User, wait_until};
use keyward_test_e2e::{Encryption, IMAGE, Install, Keyward, Load, Status, evidence, vault_spec};
use kube::Resource;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::PATIENCE;

const AESCBC: Encryption = Encryption::Local(Mode::Aescbc);

fn request(status: &Status) -> Option<&ForgetStatus> {
    status.0.status.as_ref()?.forget.first()
}

/// Waits until the status shows that the plugin of key 1 fails.
async fn wait_failing(keyward: &Keyward) -> Result<()> {
    let what = "the plugin of key 1 to fail";
    let fails = |status: &Status| {
        let plugins = status.0.status.iter().flat_map(|status| &status.plugins);
        plugins.into_iter().any(|plugin| {
            plugin.key_id == KeyId(1) && ["Error", "Unhealthy"].contains(&plugin.status.as_str())
        })
    };
    keyward.wait(what, PATIENCE, fails).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_an_outage_is_void_once_the_kms_is_back() -> Result<()> {
    let mut keyward = Keyward::start(Install { durable_kms: true, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    let before = load.contents().await?;

    // While the key works, the command makes no request.
    let refused = keyward.command(&["forget-key", "1", "--accept-loss"]).await?;
    ensure!(!refused.status.success() && refused.stderr.contains("key 1 works"), "{refused:?}");

    // Nothing can be read, so the operator can decide nothing.
    keyward.bao.stop();
    keyward.cluster.node(0)?.restart_apiserver().await?;
    wait_failing(&keyward).await?;
    ensure!(load.contents().await.is_err(), "objects that cannot be decrypted were read");
    // The operator would keep the write key of Keyward's own objects, so the command makes no request either.
    let kept = keyward.command(&["forget-key", "1", "--accept-loss"]).await?;
    let parts = ["nothing was changed: key 1 is kept because it is the write key", "change spec.encryption"];
    ensure!(!kept.status.success() && parts.iter().all(|part| kept.stderr.contains(part)), "{kept:?}");
    ensure!(keyward.status().await?.0.spec.forget.is_empty(), "a request was made");
    let command = ["forget-key", "1", "--accept-loss", "--accept-keyward-loss"];
    let requested = keyward.command(&command).await?;
    println!("{}", requested.stdout);
    ensure!(
        requested.status.success() && requested.stdout.contains("requested: the operator forgets key 1"),
        "{requested:?}"
    );
    let pending = |status: &Status| request(status).is_some_and(|one| one.phase == ForgetPhase::Pending);
    keyward.wait("the request to wait", PATIENCE, pending).await?;

    keyward.bao.start_again().await?;
    keyward.cluster.wait_ready(0).await?;
    let void = |status: &Status| request(status).is_some_and(|one| one.phase == ForgetPhase::Void);
    let status = keyward.wait("the request to be void", PATIENCE, void).await?;
    println!("{:?}", request(&status));
    ensure!(
        request(&status).is_some_and(|one| one.message.contains("key 1 works")),
        "{:?}",
        request(&status)
    );
    let waited = keyward.command(&["forget-key", "1", "--accept-loss", "--wait"]).await?;
    ensure!(!waited.status.success() && waited.stderr.contains("key 1 works"), "{waited:?}");
    keyward.wait_settled(1, PATIENCE).await?;
    keyward.cluster.node(0)?.restart_apiserver().await?;
    keyward.cluster.wait_ready(0).await?;
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))
}

/// Rewrites every object of this kind outside Keyward's namespace, as an admin can while API servers still
/// read.
async fn rewrite<K>(keyward: &Keyward) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned,
    K: std::fmt::Debug,
{
    let all = Api::<K>::all(keyward.client.clone()).list(&ListParams::default()).await?;
    for object in all.items.iter().filter(|object| object.namespace().as_deref() != Some(names::NAMESPACE)) {
        let api = Api::<K>::namespaced(keyward.client.clone(), &object.namespace().unwrap_or_default());
        api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(json!({}))).await?;
    }
    Ok(())
}

/// Pauses in the middle of a change: key 2, an AES key, writes everywhere. Its own key secret and everything
/// else is still stored under key 1, whose KEK is in a KMS.
async fn pause_with_aes_key_under_kms_key(keyward: &Keyward) -> Result<()> {
    keyward.apply(&vault_spec(keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    keyward.apply(&AESCBC.spec(keyward)).await?;
    let writes = |status: &Status| status.newest_lists().all(|list| list[0] == "aescbc:2");
    keyward
        .wait("key 2 to write everywhere", PATIENCE, |status| writes(status) && status.has_converged())
        .await?;
    let paused = keyward.command(&["pause", "--reason", "a test", "--by", "ada"]).await?;
    ensure!(paused.status.success(), "{paused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_kek_is_lost_is_forgotten_and_the_aes_key_under_it_is_kept() -> Result<()> {
    let keyward = Keyward::start(Install::default()).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    let before = load.contents().await?;
    pause_with_aes_key_under_kms_key(&keyward).await?;
    // The API server can still read objects that it has read since it loaded the configuration. A LIST is
    // served from its cache and reads nothing.
    for own in keyward.secrets().list(&ListParams::default()).await?.items {
        keyward.secrets().get(&own.name_any()).await?;
    }
    keyward.bao.delete_key("", "transit", "a").await?;
    wait_failing(&keyward).await?;
    let key = format!("/registry/secrets/{}/encryption-key-kube-apiserver-2", names::NAMESPACE);
    let under_1 = async || {
        let value = keyward.cluster.etcd().value(&key).await?.unwrap_or_default();
        anyhow::Ok(value.starts_with(b"k8s:enc:kms:v2:1_secrets:"))
    };
    ensure!(under_1().await?, "the AES key is not stored under key 1");
    let resumed = keyward.command(&["resume"]).await?;
    ensure!(resumed.status.success(), "{resumed:?}");

    // API servers still read with cached data keys. The admin rewrites the objects that are not Keyward's.
    rewrite::<Secret>(&keyward).await?;
    rewrite::<ConfigMap>(&keyward).await?;
    let status = keyward.command(&["forget-key", "1"]).await?;
    println!("{}", status.stdout);
    ensure!(
        !status.status.success() && status.stdout.contains("secrets may still be stored under it"),
        "{status:?}"
    );
    let requested = keyward.command(&["forget-key", "1", "--accept-loss"]).await?;
    ensure!(
        requested.status.success() && requested.stdout.contains("requested: the operator forgets key 1"),
        "{requested:?}"
    );
    let is_over = |status: &Status| request(status).is_some_and(|one| one.phase == ForgetPhase::CarriedOut);
    if let Err(error) = keyward.wait("key 1 to be forgotten", PATIENCE, is_over).await {
        bail!("{:?}: {error:#}", request(&keyward.status().await?));
    }
    let waited = keyward.command(&["forget-key", "1", "--accept-loss", "--wait"]).await?;
    println!("{}", waited.stdout);
    ensure!(waited.status.success() && waited.stdout.contains("key 1 is forgotten"), "{waited:?}");
    ensure!(!under_1().await?, "key 1 left, and the AES key is stored under it");

    keyward
        .wait("key 1 to leave", PATIENCE, |status| {
            status.has_converged() && status.newest_lists().flatten().all(|one| one != "kms:1")
        })
        .await?;
    keyward.wait_settled(2, PATIENCE).await?;
    // Without its cache: the restarted API server reads everything, also Keyward's own objects.
    keyward.cluster.node(0)?.restart_apiserver().await?;
    keyward.cluster.wait_ready(0).await?;
    wait_until("Keyward's own objects", PATIENCE, async || {
        let own = keyward.secrets().list(&ListParams::default()).await;
        Ok(Seen::when(own.is_ok(), format!("{:?}", own.map(|list| list.items.len()))))
    })
    .await?;
    evidence(&keyward.cluster, &load, &before).await?.expect(|resource| AESCBC.prefix(2, resource))?;
    // Further changes work.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    keyward.wait_settled(3, PATIENCE).await.map(drop)
}

/// An API server can never read objects again that it has not read since it loaded the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_while_keywards_own_objects_are_unreadable_and_a_node_republishes_them() -> Result<()> {
    let keyward = Keyward::start(Install::default()).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    let before = load.contents().await?;
    pause_with_aes_key_under_kms_key(&keyward).await?;
    load.contents().await?;
    let credentials = keyward.secrets().get("vault-approle").await?;
    keyward.bao.delete_key("", "transit", "a").await?;
    wait_failing(&keyward).await?;
    let resumed = keyward.command(&["resume"]).await?;
    ensure!(resumed.status.success(), "{resumed:?}");
    rewrite::<Secret>(&keyward).await?;
    rewrite::<ConfigMap>(&keyward).await?;
    let requested = keyward.command(&["forget-key", "1", "--accept-loss"]).await?;
    ensure!(requested.status.success(), "{requested:?}");
    let named = |status: &Status| {
        let own = |problem: &String| problem.contains("keyward-system/encryption-config-");
        status.problems().iter().any(own)
    };
    let status = keyward.wait("the object to be named", PATIENCE, named).await?;
    println!("{:?}", status.problems());
    ensure!(status.newest_lists().all(|list| list.contains(&"kms:1".to_owned())), "{}", status.summary());

    // The unreadable objects are deleted from etcd, and a node republishes the revision with the AES key.
    let registry = format!("/registry/secrets/{}/", names::NAMESPACE);
    for stored in keyward.cluster.etcd().values(&registry).await?.values {
        if stored.value.starts_with(b"k8s:enc:kms:v2:1_") {
            println!("deleted: {}", stored.key);
            keyward.cluster.etcd().delete(&stored.key).await?;
        }
    }
    let kubeconfig = keyward.cluster.kubeconfig(0, &User::Admin)?;
    let republish = ["node-agent", "republish", "--kubeconfig", &kubeconfig.to_string_lossy()];
    let republished = keyward.command_on(0, &republish).await?;
    println!("{} {}", republished.stdout, republished.stderr);
    ensure!(republished.status.success(), "{republished:?}");
    let data = json!({"metadata": {"name": "vault-approle"}, "data": credentials.data});
    keyward.secrets().create(&PostParams::default(), &serde_json::from_value(data)?).await?;
    let gone =
        |status: &Status| status.has_converged() && status.newest_lists().flatten().all(|one| one != "kms:1");
    keyward.wait("key 1 to leave", PATIENCE, gone).await?;
    let status = keyward
        .wait("everything to be stored under a key with a key secret", PATIENCE, |status| {
            status.is_idle() && status.problems().is_empty()
        })
        .await?;
    println!("{}", status.summary());
    keyward.cluster.node(0)?.restart_apiserver().await?;
    keyward.cluster.wait_ready(0).await?;
    ensure!(load.contents().await? == before, "an object has changed");
    let own = keyward.secrets().list(&ListParams::default()).await?;
    println!("{:?}", own.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
    Ok(())
}
