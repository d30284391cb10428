//! Wrong names of KMS keys in the spec, and lost keys in the KMS.

use anyhow::{Context as _, Result, ensure};
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_test_cluster::{PodState, Policy, Seen, wait_until};
use keyward_test_e2e::{Encryption, IMAGE, InUse, Install, Keyward, vault_spec};

use crate::PATIENCE;

const KEYS: [&str; 3] = ["transit/keys/a", "transit/keys/b", "transit/keys/nosuchkey"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_kek_changes_nothing_and_the_right_one_is_enough() -> Result<()> {
    let cluster = InUse::start_with_history(Install::default(), 200, 40).await?;
    let keyward = &cluster.keyward;
    keyward.bao.set_policy("", "keyward", &KEYS, Policy::FULL).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // A name that no key has, then a valid one.
    let before = Deployed::of(keyward, 1).await?;
    let parts = ["preflight of key 2", "transit/keys/nosuchkey does not exist", "vaultKeyPath"];
    keyward
        .apply_and_wait_degraded(&Encryption::Transit("nosuchkey").spec(keyward), &parts, PATIENCE)
        .await?;
    before.must_be_unchanged(keyward).await?;
    let missing = keyward.secrets().get_opt(&names::key_secret(names::KUBE_APISERVER, KeyId(2))).await?;
    ensure!(missing.is_none(), "a key was created for it");
    let to = Encryption::Transit("b");
    cluster.change(to, 2, PATIENCE).await?;

    // The KMS key is deleted, and another one is created under its name: the configuration is the same, the
    // KEK is not. Reads continue, because the API server caches unwrapped data keys.
    let backup = keyward.bao.backup_key("", "transit", "b").await?;
    keyward.bao.delete_key("", "transit", "b").await?;
    keyward.bao.create_key("", "transit", "b").await?;
    let before = Deployed::of(keyward, 2).await?;
    let parts = ["KEKMismatch", "preflight of key 2 (in-place)"];
    keyward.apply_and_wait_degraded(&vault_spec(keyward, "b", &IMAGE(2)), &parts, PATIENCE).await?;
    before.must_be_unchanged(keyward).await?;

    // The right KMS key is restored: the same key gets another plugin. (The spec has another image so that it
    // is tried at once, and not a minute after the last trial.)
    keyward.bao.delete_key("", "transit", "b").await?;
    keyward.bao.restore_key("", "transit", "b", &backup).await?;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(3))).await?;
    wait_until("the plugin with the new image to be the only one of key 2", PATIENCE, async || {
        let pods = plugins(keyward, 2)?;
        let replaced = pods.len() == 1 && pods[0].uid != before.plugin.uid && pods[0].is_running();
        Ok(Seen::when(replaced, keyward.status().await?.summary()))
    })
    .await?;
    cluster.settled(to, 2, PATIENCE).await?;

    // The provider of a key that nothing needs leaves at once when the loss of the key is accepted.
    let status = keyward.command(&["forget-key", "1"]).await?;
    ensure!(
        !status.status.success() && status.stdout.contains("recorded as stored under a newer key"),
        "{status:?}"
    );
    let never = keyward.command(&["forget-key", "9", "--accept-loss"]).await?;
    ensure!(never.stderr.contains("key 9 does not exist; the highest key number is 2"), "{never:?}");
    let forgotten =
        tokio::time::timeout(PATIENCE, keyward.command(&["forget-key", "1", "--accept-loss", "--wait"]));
    let forgotten = forgotten.await??;
    ensure!(forgotten.status.success() && forgotten.stdout.contains("key 1 is forgotten"), "{forgotten:?}");
    keyward
        .wait("key 1 to leave", PATIENCE, |status| {
            status.is_idle() && status.newest_lists().flatten().all(|one| one != "kms:1")
        })
        .await?;
    wait_until("the end of key 1's plugin", PATIENCE, async || {
        let pods = plugins(keyward, 1)?;
        Ok(Seen::when(pods.is_empty(), format!("{pods:?}")))
    })
    .await?;
    cluster.settled(to, 2, PATIENCE).await?;

    // A requested re-encryption under the same KEK: another key, with everything stored under it.
    let again = tokio::time::timeout(PATIENCE, keyward.command(&["reencrypt", "--wait"])).await??;
    ensure!(again.status.success() && again.stdout.contains("done"), "{again:?}");
    cluster.settled(to, 3, PATIENCE).await?;
    cluster.finish().await.map(drop)
}

/// The pods of this key's plugins.
fn plugins(keyward: &Keyward, key: u64) -> Result<Vec<PodState>> {
    let prefix = format!("keyward-kms-{key}-");
    Ok(keyward.plugins()?.into_iter().filter(|pod| pod.name.starts_with(&prefix)).collect())
}

/// The state that a refused change must not alter.
struct Deployed {
    key: u64,
    config: Vec<u8>,
    secret: Option<std::collections::BTreeMap<String, k8s_openapi::ByteString>>,
    plugin: PodState,
}

impl Deployed {
    async fn of(keyward: &Keyward, key: u64) -> Result<Self> {
        let name = names::key_secret(names::KUBE_APISERVER, KeyId(key));
        let plugin = plugins(keyward, key)?.pop();
        Ok(Self {
            key,
            config: std::fs::read(keyward.cluster.node(0)?.path(keyward_test_cluster::ENCRYPTION_CONFIG))?,
            secret: keyward.secrets().get(&name).await?.data,
            plugin: plugin.with_context(|| format!("no plugin of key {key}"))?,
        })
    }

    async fn must_be_unchanged(&self, keyward: &Keyward) -> Result<()> {
        let now = Self::of(keyward, self.key).await?;
        ensure!(now.config == self.config, "the node's configuration changed");
        ensure!(now.secret == self.secret, "the key secret changed");
        // The pod's state shows that its container was not restarted. The pod of a candidate may run too.
        let pods = plugins(keyward, self.key)?;
        ensure!(pods.contains(&self.plugin), "{:?} is not among {pods:?}", self.plugin);
        Ok(())
    }
}
