//! On the nodes themselves.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::EncryptionNode;
use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, KeysConfiguration, NamedKey, ProviderConfiguration,
};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_test_cluster::{Binary, ENCRYPTION_CONFIG, Image, Node, Seen, wait_until};
use keyward_test_e2e::{IMAGE, empty, files_of, fill, manifest_of, pod_in, vault_spec};
use kube::api::Api;
use serde_json::Value;
use tokio::time::Instant;

use super::{AGENT_ARGS, FULL_PROBE, Faulty, KEY_B, PROBE, PROBE_INTERVAL, replace};
use crate::{PATIENCE, three};

#[tokio::test(flavor = "multi_thread")]
async fn what_befalls_a_node_is_told_and_ends_no_read() -> Result<()> {
    let mut faulty = Faulty::start(three()).await?;
    plugins(&faulty).await?;
    images(&mut faulty).await?;
    edited(&faulty).await?;
    edited_plugin(&faulty).await?;
    unreachable(&mut faulty).await?;
    disk_full(&faulty).await?;
    without_operator(&mut faulty).await?;
    faulty.finish().await
}

async fn plugins(faulty: &Faulty) -> Result<()> {
    // SIGKILL leaves the socket behind; what is started next serves there all the same.
    let before = faulty.plugin(1, 2)?;
    let began = Instant::now();
    faulty.signal(1, 2, "-KILL").await?;
    wait_until("another process of the plugin", PATIENCE, async || {
        Ok(Seen::when(faulty.plugin(1, 2)? != before, "the killed one"))
    })
    .await?;
    println!("plugin killed: another runs after {:.1} s", began.elapsed().as_secs_f64());
    faulty.healed("plugin killed").await?;

    faulty.signal(1, 2, "-STOP").await?;
    faulty.detected("plugin hanging", PROBE, &["plugin of key 2", "node-2"]).await?;
    faulty.signal(1, 2, "-CONT").await?;
    faulty.healed("plugin hanging").await?;

    // Its port is somebody else's when it is started again: it ends at once, over and over.
    let port = port(faulty, 2, 2)?;
    let pid = faulty.plugin(2, 2)?;
    faulty.signal(2, 2, "-KILL").await?;
    let holder = wait_until("the port to be free for a moment", PATIENCE, async || {
        Ok(match TcpListener::bind(("0.0.0.0", port)) {
            Ok(holder) => Seen::Yes(holder),
            Err(error) => {
                if let Ok(now) = faulty.plugin(2, 2)
                    && now != pid
                {
                    faulty.signal(2, 2, "-KILL").await?;
                }
                Seen::NotYet(error.to_string())
            }
        })
    })
    .await?;
    let said = ["plugin of key 2", "node-3", "exit"];
    faulty.detected("port taken", PROBE, &said).await?;
    drop(holder);
    faulty.healed("port taken").await
}

/// The health port of a key's plugin on a node, from its pod.
fn port(faulty: &Faulty, node: usize, key: u64) -> Result<u16> {
    let pod = pod_in(&manifest_of(faulty.cluster.keyward.cluster.node(node)?, key)?)?;
    let port = pod.pointer("/spec/containers/0/ports/0/hostPort").and_then(Value::as_u64);
    u16::try_from(port.with_context(|| format!("no port: {pod}"))?).context("a port")
}

/// The manifest of a plugin, and files of it, edited by hand: as they were soon, and told.
async fn edited_plugin(faulty: &Faulty) -> Result<()> {
    let node = faulty.cluster.keyward.cluster.node(1)?;
    let manifest = manifest_of(node, 2)?;
    let good = std::fs::read(&manifest)?;
    let text = String::from_utf8(good.clone())?;
    let other = text.replace("-vault-address", "-a-flag-of-somebody");
    ensure!(other != text, "there is nothing to edit: {text}");
    let began = Instant::now();
    replace(&manifest, other.as_bytes())?;
    as_it_was(&manifest, &good).await?;
    println!("manifest edited by hand: ours again after {:.1} s", began.elapsed().as_secs_f64());
    repaired(faulty, 1).await?;
    faulty.healed("manifest edited by hand").await?;

    // As long as it was; and one that everybody may read.
    let files = files_of(node, 2)?;
    let [first, second, ..] = files.as_slice() else { anyhow::bail!("{files:?}") };
    let good = std::fs::read(first)?;
    std::fs::write(first, vec![b'x'; good.len()])?;
    as_it_was(first, &good).await?;
    repaired(faulty, 2).await?;
    std::fs::set_permissions(second, Permissions::from_mode(0o644))?;
    wait_until("a file that its plugin alone may read", PATIENCE, async || {
        let mode = std::fs::metadata(second)?.permissions().mode() & 0o7777;
        Ok(Seen::when(mode == 0o600, format!("{mode:o}")))
    })
    .await?;
    repaired(faulty, 3).await?;
    faulty.healed("files of a plugin edited by hand").await
}

async fn as_it_was(path: &Path, good: &[u8]) -> Result<()> {
    wait_until(&format!("{} as it was", path.display()), PATIENCE, async || {
        Ok(Seen::when(std::fs::read(path)? == good, "another"))
    })
    .await
}

/// Waits until the second node tells so many repairs of key 2's plugin.
async fn repaired(faulty: &Faulty, times: u32) -> Result<()> {
    let nodes = Api::<EncryptionNode>::all(faulty.cluster.keyward.client.clone());
    wait_until(&format!("{times} repairs to be told"), PATIENCE, async || {
        let status = nodes.get("node-2").await?.status.unwrap_or_default();
        let told = status.plugins.iter().any(|plugin| plugin.key_id == KeyId(2) && plugin.repairs == times);
        Ok(Seen::when(told, format!("{status:?}")))
    })
    .await
}

/// An image that is older than the configuration, and does not know one of its flags.
async fn images(faulty: &mut Faulty) -> Result<()> {
    let keyward = &mut faulty.cluster.keyward;
    let plugin = keyward.cluster.tools().binary(Binary::KmsPlugin)?;
    keyward.cluster.map_images([Image::exact(IMAGE(9), plugin).args(["-a-flag-of-another-release"])])?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(9))).await?;
    let said = ["preflight of key 2", "node-1", "does not know one of its arguments"];
    faulty.detected("image without a flag", FULL_PROBE, &said).await?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&KEY_B.spec(keyward)).await?;
    faulty.healed("image without a flag").await
}

/// As those that were there from the beginning.
fn agent_args() -> Vec<&'static str> {
    [&["--probe-interval", PROBE_INTERVAL], AGENT_ARGS.as_slice()].concat()
}

/// The configuration file of one node, edited by hand.
async fn edited(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let node = keyward.cluster.node(1)?;
    let path = node.path(ENCRYPTION_CONFIG);
    let good = std::fs::read(&path)?;
    let back = async |what: &str| {
        wait_until(&format!("{what}: the file to be Keyward's again"), PATIENCE, async || {
            let config = EncryptionConfiguration::decode(&std::fs::read(&path)?)?;
            let ours = config.resources.iter().all(|entry| entry.providers[0].kms.is_some());
            Ok(Seen::when(ours, keyward.status().await?.summary()))
        })
        .await
    };

    // Seen before the API server looks, or soon after: plain text would be written first.
    let mut config = EncryptionConfiguration::decode(&good)?;
    for entry in &mut config.resources {
        entry.providers.reverse();
    }
    let edited = serde_json::to_vec(&config)?;
    let began = Instant::now();
    replace(&path, &edited)?;
    back("a file edited by hand").await?;
    println!("file edited by hand: ours again after {:.1} s", began.elapsed().as_secs_f64());
    faulty.healed("file edited by hand").await?;

    // While no agent looks: it is loaded, and what is written meanwhile is plain.
    let before = newest(faulty).await?;
    stop_agent(node).await?;
    replace(&path, &edited)?;
    loaded(faulty, &edited).await?;
    node.start_agent(&agent_args())?;
    back("a loaded file edited by hand").await?;
    faulty.cluster.replaced(before, 2, PATIENCE).await?;
    faulty.healed("loaded file edited by hand").await?;

    // With a key of somebody's own it is left alone: what is under that key would be lost with it.
    let key = NamedKey {
        name: "mine".to_owned(),
        secret: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
    };
    let own =
        ProviderConfiguration { aescbc: Some(KeysConfiguration { keys: vec![key] }), ..Default::default() };
    let good = std::fs::read(&path)?;
    let mut config = EncryptionConfiguration::decode(&good)?;
    for entry in &mut config.resources {
        entry.providers.insert(0, own.clone());
    }
    let foreign = serde_json::to_vec(&config)?;
    stop_agent(node).await?;
    replace(&path, &foreign)?;
    loaded(faulty, &foreign).await?;
    node.start_agent(&agent_args())?;
    let said = ["node-2", "ForeignConfiguration"];
    faulty.detected("hand-written configuration", FULL_PROBE, &said).await?;
    ensure!(std::fs::read(&path)? == foreign, "it was replaced");
    replace(&path, &good)?;
    faulty.healed("hand-written configuration").await
}

async fn stop_agent(node: &Node) -> Result<()> {
    node.stop_agent()?;
    wait_until("the agent's end", PATIENCE, async || {
        let agent = node.pod("keyward-agent")?;
        Ok(Seen::when(agent.is_none(), format!("{agent:?}")))
    })
    .await
}

/// Waits until the second node's API server has loaded these bytes.
async fn loaded(faulty: &Faulty, bytes: &[u8]) -> Result<()> {
    let hash = ConfigHash::of(bytes).0;
    wait_until("the edited file to be loaded", PATIENCE, async || {
        let loaded = faulty.cluster.keyward.cluster.loaded_hash(1).await?;
        Ok(Seen::when(loaded.as_ref() == Some(&hash), format!("{loaded:?}")))
    })
    .await
}

async fn unreachable(faulty: &mut Faulty) -> Result<()> {
    let before = newest(faulty).await?;
    let away = faulty.cluster.away();
    away.leave("node-3");
    faulty.cluster.keyward.cluster.stop_node(2)?;
    faulty.cluster.keyward.apply(&vault_spec(&faulty.cluster.keyward, "b", &IMAGE(2))).await?;
    let status = faulty.cluster.keyward.status().await?;
    println!("node unreachable: {}", status.summary());
    faulty
        .cluster
        .keyward
        .wait("the status to name node-3", PATIENCE, |status| status.summary().contains("node-3"))
        .await?;
    ensure!(newest(faulty).await? == before, "a revision was made that nobody on node-3 has tried");
    faulty.cluster.keyward.cluster.start_node(2)?;
    faulty.cluster.keyward.cluster.wait_ready(2).await?;
    away.back("node-3");
    faulty.cluster.replaced(before, 2, PATIENCE).await?;
    faulty.healed("node unreachable").await
}

/// The agent's own folder, or the one of the plugins' files, has no byte left.
async fn disk_full(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let node = keyward.cluster.node(1)?;
    for (folder, image) in [("/var/lib/keyward", 3), ("/etc/kubernetes/keyward", 4)] {
        let before = newest(faulty).await?;
        fill(node, folder).await?;
        keyward.apply(&vault_spec(keyward, "b", &IMAGE(image))).await?;
        let status = keyward
            .wait("the status to say so", PATIENCE, |status| status.summary().contains("No space left"))
            .await?;
        println!("{folder} full: {}", status.summary());
        empty(node, folder).await?;
        faulty.cluster.replaced(before, 2, PATIENCE).await?;
        faulty.healed(&format!("{folder} full")).await?;
    }
    Ok(())
}

async fn without_operator(faulty: &mut Faulty) -> Result<()> {
    let down = std::env::var("KEYWARD_TEST_DOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    drop(faulty.cluster.keyward.operator.take());
    let began = Instant::now();
    // A plugin that dies meanwhile comes back without it.
    let before = faulty.plugin(0, 2)?;
    faulty.signal(0, 2, "-KILL").await?;
    let until = began + std::time::Duration::from_secs(down);
    tokio::time::sleep_until(until).await;
    ensure!(faulty.plugin(0, 2)? != before, "the plugin did not come back");
    faulty.cluster.keyward.start_operator()?;
    faulty.healed(&format!("operator down for {down} s")).await
}

async fn newest(faulty: &Faulty) -> Result<Revision> {
    faulty.cluster.keyward.status().await?.newest_revision().context("no revision")
}
