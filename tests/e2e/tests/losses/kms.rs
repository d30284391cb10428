//! Mistakes about the KMS's keys, and at the KMS itself.

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

    // A name that no key has, then the right one.
    let before = Deployed::of(keyward, 1).await?;
    let said = ["preflight of key 2", "transit/keys/nosuchkey does not exist", "vaultKeyPath"];
    keyward.trouble(&Encryption::Transit("nosuchkey").spec(keyward), &said, PATIENCE).await?;
    before.must_stand(keyward).await?;
    let missing = keyward.secrets().get_opt(&names::key_secret(names::KUBE_APISERVER, KeyId(2))).await?;
    ensure!(missing.is_none(), "a key was made of it");
    let to = Encryption::Transit("b");
    cluster.change(to, 2, PATIENCE).await?;

    // Deleted, and another key made under its name: the configuration is the same, the KEK is not. Reads go on, since
    // the API server keeps the data keys that were unwrapped.
    let backup = keyward.bao.backup_key("", "transit", "b").await?;
    keyward.bao.delete_key("", "transit", "b").await?;
    keyward.bao.create_key("", "transit", "b").await?;
    let before = Deployed::of(keyward, 2).await?;
    let said = ["KEKMismatch", "preflight of key 2 (in-place)"];
    keyward.trouble(&vault_spec(keyward, "b", &IMAGE(2)), &said, PATIENCE).await?;
    before.must_stand(keyward).await?;

    // The right key is back: the same key with another plugin. (Another image only so that it is tried at once, and not
    // a minute after the last trial.)
    keyward.bao.delete_key("", "transit", "b").await?;
    keyward.bao.restore_key("", "transit", "b", &backup).await?;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(3))).await?;
    wait_until("the plugin of the other image to be key 2's only one", PATIENCE, async || {
        let pods = plugins(keyward, 2)?;
        let replaced = pods.len() == 1 && pods[0].uid != before.plugin.uid && pods[0].is_running();
        Ok(Seen::when(replaced, keyward.status().await?.summary()))
    })
    .await?;
    cluster.settled(to, 2, PATIENCE).await?;

    // The provider of a key that nothing needs any more goes at once when its loss is accepted.
    let told = keyward.command(&["forget-key", "1"]).await?;
    ensure!(!told.status.success() && told.said.contains("recorded as stored under a later key"), "{told:?}");
    let never = keyward.command(&["forget-key", "9", "--accept-loss"]).await?;
    ensure!(never.complained.contains("key 9 was never made; the highest is 2"), "{never:?}");
    let given_up =
        tokio::time::timeout(PATIENCE, keyward.command(&["forget-key", "1", "--accept-loss", "--wait"]));
    let given_up = given_up.await??;
    ensure!(given_up.status.success() && given_up.said.contains("key 1 is forgotten"), "{given_up:?}");
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

    // The same KEK, asked for once more: another key, and everything under it.
    let again = tokio::time::timeout(PATIENCE, keyward.command(&["reencrypt", "--wait"])).await??;
    ensure!(again.status.success() && again.said.contains("done"), "{again:?}");
    cluster.settled(to, 3, PATIENCE).await?;
    cluster.finish().await.map(drop)
}

/// The pods of this key's plugins.
fn plugins(keyward: &Keyward, key: u64) -> Result<Vec<PodState>> {
    let prefix = format!("keyward-kms-{key}-");
    Ok(keyward.plugins()?.into_iter().filter(|pod| pod.name.starts_with(&prefix)).collect())
}

/// What a refused change must leave alone.
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

    async fn must_stand(&self, keyward: &Keyward) -> Result<()> {
        let now = Self::of(keyward, self.key).await?;
        ensure!(now.config == self.config, "the node's configuration changed");
        ensure!(now.secret == self.secret, "the key secret changed");
        // The container's state too: it has not been restarted. A candidate may run beside it.
        let pods = plugins(keyward, self.key)?;
        ensure!(pods.contains(&self.plugin), "{:?} is not among {pods:?}", self.plugin);
        Ok(())
    }
}
