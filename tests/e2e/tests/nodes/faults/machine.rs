//! Faults of the nodes themselves.

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
async fn a_fault_of_a_node_is_reported_and_no_read_fails() -> Result<()> {
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
    // After SIGKILL the socket's file still exists; the next process serves at the same path.
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

    // Another process has its port when it restarts: it exits at once, repeatedly.
    let port = port(faulty, 2, 2)?;
    let pid = faulty.plugin(2, 2)?;
    faulty.signal(2, 2, "-KILL").await?;
    let listener = wait_until("the port to be free for a moment", PATIENCE, async || {
        Ok(match TcpListener::bind(("0.0.0.0", port)) {
            Ok(listener) => Seen::Yes(listener),
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
    let parts = ["plugin of key 2", "node-3", "exit"];
    faulty.detected("port taken", PROBE, &parts).await?;
    drop(listener);
    faulty.healed("port taken").await
}

/// The health port of a key's plugin on a node, from its pod.
fn port(faulty: &Faulty, node: usize, key: u64) -> Result<u16> {
    let pod = pod_in(&manifest_of(faulty.cluster.keyward.cluster.node(node)?, key)?)?;
    let port = pod.pointer("/spec/containers/0/ports/0/hostPort").and_then(Value::as_u64);
    u16::try_from(port.with_context(|| format!("no port: {pod}"))?).context("a port")
}

/// An admin edits a plugin's manifest and files: the agent restores them soon, and reports the repairs.
async fn edited_plugin(faulty: &Faulty) -> Result<()> {
    let node = faulty.cluster.keyward.cluster.node(1)?;
    let manifest = manifest_of(node, 2)?;
    let good = std::fs::read(&manifest)?;
    let text = String::from_utf8(good.clone())?;
    let other = text.replace("-vault-address", "-a-flag-of-somebody");
    ensure!(other != text, "there is nothing to edit: {text}");
    let began = Instant::now();
    replace(&manifest, other.as_bytes())?;
    restored(&manifest, &good).await?;
    println!("edited manifest: restored after {:.1} s", began.elapsed().as_secs_f64());
    repaired(faulty, 1).await?;
    faulty.healed("edited manifest").await?;

    // A file of the same length with other content, and a file that every user can read.
    let files = files_of(node, 2)?;
    let [first, second, ..] = files.as_slice() else { anyhow::bail!("{files:?}") };
    let good = std::fs::read(first)?;
    std::fs::write(first, vec![b'x'; good.len()])?;
    restored(first, &good).await?;
    repaired(faulty, 2).await?;
    std::fs::set_permissions(second, Permissions::from_mode(0o644))?;
    wait_until("a file that only its plugin can read", PATIENCE, async || {
        let mode = std::fs::metadata(second)?.permissions().mode() & 0o7777;
        Ok(Seen::when(mode == 0o600, format!("{mode:o}")))
    })
    .await?;
    repaired(faulty, 3).await?;
    faulty.healed("edited files of a plugin").await
}

async fn restored(path: &Path, good: &[u8]) -> Result<()> {
    wait_until(&format!("{} to be restored", path.display()), PATIENCE, async || {
        Ok(Seen::when(std::fs::read(path)? == good, "other content"))
    })
    .await
}

/// Waits until the second node reports this number of repairs of key 2's plugin.
async fn repaired(faulty: &Faulty, times: u32) -> Result<()> {
    let nodes = Api::<EncryptionNode>::all(faulty.cluster.keyward.client.clone());
    wait_until(&format!("{times} reported repairs"), PATIENCE, async || {
        let status = nodes.get("node-2").await?.status.unwrap_or_default();
        let reported =
            status.plugins.iter().any(|plugin| plugin.key_id == KeyId(2) && plugin.repairs == times);
        Ok(Seen::when(reported, format!("{status:?}")))
    })
    .await
}

/// An image that is older than the configuration and does not know one of its flags.
async fn images(faulty: &mut Faulty) -> Result<()> {
    let keyward = &mut faulty.cluster.keyward;
    let plugin = keyward.cluster.tools().binary(Binary::KmsPlugin)?;
    keyward.cluster.map_images([Image::exact(IMAGE(9), plugin).args(["-a-flag-of-another-release"])])?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&vault_spec(keyward, "b", &IMAGE(9))).await?;
    let parts = ["preflight of key 2", "node-1", "does not know one of its arguments"];
    faulty.detected("image without a flag", FULL_PROBE, &parts).await?;
    let keyward = &faulty.cluster.keyward;
    keyward.apply(&KEY_B.spec(keyward)).await?;
    faulty.healed("image without a flag").await
}

/// The same arguments as in the installation.
fn agent_args() -> Vec<&'static str> {
    [&["--probe-interval", PROBE_INTERVAL], AGENT_ARGS.as_slice()].concat()
}

/// An admin edits the configuration file of one node.
async fn edited(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let node = keyward.cluster.node(1)?;
    let path = node.path(ENCRYPTION_CONFIG);
    let good = std::fs::read(&path)?;
    let replaced = async |what: &str| {
        wait_until(&format!("{what}: the file to be Keyward's again"), PATIENCE, async || {
            let config = EncryptionConfiguration::decode(&std::fs::read(&path)?)?;
            let ours = config.resources.iter().all(|entry| entry.providers[0].kms.is_some());
            Ok(Seen::when(ours, keyward.status().await?.summary()))
        })
        .await
    };

    // The agent replaces it before the API server polls, or soon after: with the edit, new values are plain
    // text.
    let mut config = EncryptionConfiguration::decode(&good)?;
    for entry in &mut config.resources {
        entry.providers.reverse();
    }
    let edited = serde_json::to_vec(&config)?;
    let began = Instant::now();
    replace(&path, &edited)?;
    replaced("an edited file").await?;
    println!("edited file: replaced after {:.1} s", began.elapsed().as_secs_f64());
    faulty.healed("edited file").await?;

    // While no agent runs: the API server loads the edit, and writes plain text meanwhile.
    let before = newest(faulty).await?;
    stop_agent(node).await?;
    replace(&path, &edited)?;
    loaded(faulty, &edited).await?;
    node.start_agent(&agent_args())?;
    replaced("an edited file that is loaded").await?;
    faulty.cluster.replaced(before, 2, PATIENCE).await?;
    faulty.healed("edited file that is loaded").await?;

    // An edit with a key of its own is not replaced: values under that key would be lost.
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
    let parts = ["node-2", "ForeignConfiguration"];
    faulty.detected("foreign configuration", FULL_PROBE, &parts).await?;
    ensure!(std::fs::read(&path)? == foreign, "it was replaced");
    replace(&path, &good)?;
    faulty.healed("foreign configuration").await
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
    ensure!(newest(faulty).await? == before, "a revision was made without a preflight on node-3");
    faulty.cluster.keyward.cluster.start_node(2)?;
    faulty.cluster.keyward.cluster.wait_ready(2).await?;
    away.back("node-3");
    faulty.cluster.replaced(before, 2, PATIENCE).await?;
    faulty.healed("node unreachable").await
}

/// The agent's own folder, or the folder of the plugins' files, is full.
async fn disk_full(faulty: &Faulty) -> Result<()> {
    let keyward = &faulty.cluster.keyward;
    let node = keyward.cluster.node(1)?;
    for (folder, image) in [("/var/lib/keyward", 3), ("/etc/kubernetes/keyward", 4)] {
        let before = newest(faulty).await?;
        fill(node, folder).await?;
        keyward.apply(&vault_spec(keyward, "b", &IMAGE(image))).await?;
        let status = keyward
            .wait("the status to report it", PATIENCE, |status| status.summary().contains("No space left"))
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
    // A plugin that exits meanwhile restarts without the operator.
    let before = faulty.plugin(0, 2)?;
    faulty.signal(0, 2, "-KILL").await?;
    let until = began + std::time::Duration::from_secs(down);
    tokio::time::sleep_until(until).await;
    ensure!(faulty.plugin(0, 2)? != before, "the plugin did not restart");
    faulty.cluster.keyward.start_operator()?;
    faulty.healed(&format!("operator down for {down} s")).await
}

async fn newest(faulty: &Faulty) -> Result<Revision> {
    faulty.cluster.keyward.status().await?.newest_revision().context("no revision")
}
