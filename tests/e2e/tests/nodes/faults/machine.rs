//! On the nodes themselves.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, KeysConfiguration, NamedKey, ProviderConfiguration,
};
use keyward_core::ids::{ConfigHash, Revision};
use keyward_test_cluster::{Binary, ENCRYPTION_CONFIG, Image, Node, Seen, wait_until};
use keyward_test_e2e::{IMAGE, vault_spec};
use serde_json::Value;
use tokio::time::Instant;

use super::{AGENT_ARGS, FULL_PROBE, Faulty, KEY_B, PROBE};
use crate::{PATIENCE, three};

#[tokio::test(flavor = "multi_thread")]
async fn what_befalls_a_node_is_told_and_ends_no_read() -> Result<()> {
    let mut faulty = Faulty::start(three()).await?;
    plugins(&faulty).await?;
    images(&mut faulty).await?;
    edited(&faulty).await?;
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
    faulty.detected("plugin hanging", PROBE, &["plugin of key 2", "node node-2"]).await?;
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
    let said = ["plugin of key 2", "node node-3", "exit"];
    faulty.detected("port taken", PROBE, &said).await?;
    drop(holder);
    faulty.healed("port taken").await
}

/// The health port of a key's plugin on a node, from its pod.
fn port(faulty: &Faulty, node: usize, key: u64) -> Result<u16> {
    let folder = faulty.cluster.keyward.cluster.node(node)?.path("/etc/kubernetes/manifests");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&format!("keyward-kms-{key}-")))
        {
            continue;
        }
        let pod: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path)?)?;
        let port = pod.pointer("/spec/containers/0/ports/0/hostPort").and_then(Value::as_u64);
        return u16::try_from(port.with_context(|| format!("no port: {pod}"))?).context("a port");
    }
    anyhow::bail!("no manifest of key {key}")
}

/// An image that is older than the configuration, and does not know one of its flags.
async fn images(faulty: &mut Faulty) -> Result<()> {
    let keyward = &mut faulty.cluster.keyward;
    let plugin = keyward.cluster.tools().binary(Binary::KmsPlugin)?;
    keyward.cluster.map_images([Image::exact(IMAGE(9), plugin).args(["-a-flag-of-another-release"])])?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(9))).await?;
    let said = ["preflight of key 2", "node node-1", "does not know one of its arguments"];
    faulty.detected("image without a flag", FULL_PROBE, &said).await?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&KEY_B.spec(keyward)).await?;
    faulty.healed("image without a flag").await
}

/// The configuration file of one node, edited by hand.
async fn edited(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let node = keyward.cluster.node(1)?;
    let path = node.path(ENCRYPTION_CONFIG);
    let good = std::fs::read(&path)?;
    let back = async |what: &str| {
        wait_until(&format!("{what}: the file to be Keyward's again"), PATIENCE, async || {
            let config: EncryptionConfiguration = serde_json::from_slice(&std::fs::read(&path)?)?;
            let ours = config.resources.iter().all(|entry| entry.providers[0].kms.is_some());
            Ok(Seen::when(ours, keyward.status().await?.summary()))
        })
        .await
    };

    // Seen before the API server looks, or soon after: plain text would be written first.
    let mut config: EncryptionConfiguration = serde_json::from_slice(&good)?;
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
    node.start_agent(&AGENT_ARGS)?;
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
    let mut config: EncryptionConfiguration = serde_json::from_slice(&good)?;
    for entry in &mut config.resources {
        entry.providers.insert(0, own.clone());
    }
    let foreign = serde_json::to_vec(&config)?;
    stop_agent(node).await?;
    replace(&path, &foreign)?;
    loaded(faulty, &foreign).await?;
    node.start_agent(&AGENT_ARGS)?;
    let said = ["node node-2", "ForeignConfiguration"];
    faulty.detected("hand-written configuration", FULL_PROBE, &said).await?;
    ensure!(std::fs::read(&path)? == foreign, "it was replaced");
    replace(&path, &good)?;
    faulty.healed("hand-written configuration").await
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, bytes)?;
    Ok(std::fs::rename(&aside, path)?)
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

/// The agent's own folder has no byte left.
async fn disk_full(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let before = newest(faulty).await?;
    let node = keyward.cluster.node(1)?;
    let script = "set -e; cd /; cp -a /var/lib/keyward /var/lib/keyward-test-copy; \
        mount -t tmpfs -o size=1m,mode=0700 none /var/lib/keyward; cp -a /var/lib/keyward-test-copy/. /var/lib/keyward/; \
        dd if=/dev/zero of=/var/lib/keyward/filler bs=4k 2>/dev/null || true; df /var/lib/keyward | tail -1";
    let done = node.exec(&["sh", "-c", script]).await?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(3))).await?;
    let status = keyward
        .wait("the status to say so", PATIENCE, |status| status.summary().contains("No space left"))
        .await?;
    println!("disk full: {}", status.summary());
    let done = node.exec(&["rm", "/var/lib/keyward/filler"]).await?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    faulty.cluster.replaced(before, 2, PATIENCE).await?;
    faulty.healed("disk full").await
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
