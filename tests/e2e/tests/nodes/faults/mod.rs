//! Faults of a plugin, its KMS or a node, one after another: each is found in time, reported in the status
//! with a remedy, and cleared once it is repaired. No read fails meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::EncryptionNode;
use keyward_test_cluster::{ENCRYPTION_CONFIG, Policy, Seen, State, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install, Keyward};
use kube::api::Api;
use tokio::time::Instant;

mod kms;
mod machine;
mod mortal;
mod rollout;

use crate::PATIENCE;

/// The time between two probes of a plugin; every second one is a full probe, with more than Status.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: &str = "5s";
const FULL_PROBE: Duration = Duration::from_secs(10);
/// The timeout of a call to a plugin that hangs.
const CALL: Duration = Duration::from_secs(2);
/// The delay on two busy cores with three API servers.
const SLACK: Duration = Duration::from_secs(5);

/// An API server that cannot load a configuration then reports it after half a minute, not after two.
const SHORT_TIMEOUT: Option<Duration> = Some(Duration::from_secs(3));

const AGENT_ARGS: [&str; 4] = ["--full-probe-every", "2", "--plugin-timeout", "2s"];

const A: &str = "transit/keys/a";
const B: &str = "transit/keys/b";
const KEY_B: Encryption = Encryption::Transit("b");

/// Keys 1 (a, for reading) and 2 (b, the writer) in use on three nodes.
struct Faulty {
    cluster: InUse,
}

impl Faulty {
    async fn start(install: Install) -> Result<Self> {
        let install =
            Install { probe_interval: PROBE, agent_args: AGENT_ARGS.map(str::to_owned).to_vec(), ..install };
        // With a long history, key 1 stays in the configuration.
        let cluster = InUse::start_with_history(install, 100, 20).await?;
        cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;
        cluster.change(KEY_B, 2, PATIENCE).await?;
        Ok(Self { cluster })
    }

    /// Waits until a Degraded condition contains all of these parts. Fails if that takes more than two
    /// intervals.
    async fn detected(&self, what: &str, interval: Duration, parts: &[&str]) -> Result<()> {
        let began = Instant::now();
        let matches = |problem: &String| parts.iter().all(|part| problem.contains(part));
        let status = self
            .cluster
            .keyward
            .wait(&format!("{what}: a Degraded condition with {parts:?}"), PATIENCE, |status| {
                status.problems().iter().any(matches)
            })
            .await?;
        let took = began.elapsed();
        let problem = status.problems().into_iter().find(matches).context("the problem")?;
        println!("{what}: found after {:.1} s: {problem}", took.as_secs_f64());
        let limit = interval * 2 + CALL + SLACK;
        ensure!(took <= limit, "{what}: found after {took:?}; two intervals are {:?}", interval * 2);
        Ok(())
    }

    /// Waits until no problem is left, and checks that everything is stored under key 2 and unchanged.
    async fn healed(&self, what: &str) -> Result<()> {
        let began = Instant::now();
        self.cluster
            .keyward
            .wait(&format!("{what}: the end of the problem"), PATIENCE, |status| {
                status.problems().is_empty() && status.has_converged()
            })
            .await?;
        self.cluster.settled(KEY_B, 2, PATIENCE).await.with_context(|| what.to_owned())?;
        println!("{what}: cleared {:.1} s after the repair", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// The process id, inside the node, of a key's plugin.
    fn plugin(&self, node: usize, key: u64) -> Result<u32> {
        plugin(&self.cluster.keyward, node, key)
    }

    async fn signal(&self, node: usize, key: u64, signal: &str) -> Result<()> {
        kill(&self.cluster.keyward, node, self.plugin(node, key)?, signal).await
    }

    async fn set_policies(&self, a: Policy, b: Policy) -> Result<()> {
        self.cluster.keyward.bao.set_policies("", "keyward", &[(A, a), (B, b)]).await
    }

    async fn finish(self) -> Result<()> {
        let (read, written) = self.cluster.finish().await?;
        println!("no failures: {read:?}, {written:?}");
        Ok(())
    }
}

/// The process id, inside the node, of a key's plugin.
fn plugin(keyward: &Keyward, node: usize, key: u64) -> Result<u32> {
    let prefix = format!("keyward-kms-{key}-");
    let pods = keyward.plugins_on(node)?;
    let pod = pods.iter().find(|pod| pod.name.starts_with(&prefix)).context("no plugin")?;
    match pod.containers.first().map(|container| &container.state) {
        Some(State::Running { pid, .. }) => Ok(*pid),
        other => anyhow::bail!("{}: {other:?}", pod.name),
    }
}

async fn kill(keyward: &Keyward, node: usize, pid: u32, signal: &str) -> Result<()> {
    let done = keyward.cluster.node(node)?.exec(&["kill", signal, &pid.to_string()]).await?;
    ensure!(done.status.success(), "kill {signal}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A plugin that was stopped with SIGSTOP.
struct Hung<'a> {
    keyward: &'a Keyward,
    node: usize,
    pid: u32,
}

impl Hung<'_> {
    /// Lets it continue.
    async fn resume(self) -> Result<()> {
        kill(self.keyward, self.node, self.pid, "-CONT").await
    }
}

/// Makes a key's plugin on a node hang as soon as the configuration there names it. The agent has found it
/// healthy, and the API server is about to load the configuration, which fails without an answer of the
/// plugin.
async fn hang_when_named(keyward: &Keyward, node: usize, key: u64) -> Result<Hung<'_>> {
    let config = keyward.cluster.node(node)?.path(ENCRYPTION_CONFIG);
    let named = format!("/kms-{key}/kms.sock");
    let mut next = tokio::time::interval(Duration::from_millis(5));
    let named = async {
        while !std::fs::read_to_string(&config).is_ok_and(|text| text.contains(&named)) {
            next.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, named)
        .await
        .with_context(|| format!("no configuration with key {key}"))?;
    let pid = plugin(keyward, node, key)?;
    kill(keyward, node, pid, "-STOP").await?;
    Ok(Hung { keyward, node, pid })
}

/// Requests this encryption as this key. Waits until the second node's API server has refused the first
/// revision with the key, and the agent has restored the previous file. The API server refuses the revision
/// while the plugin hangs.
async fn refused_by_the_second(keyward: &Keyward, to: Encryption, key: u64) -> Result<Hung<'_>> {
    let spec = to.spec(keyward);
    let (applied, hung) = tokio::join!(keyward.apply(&spec), hang_when_named(keyward, 1, key));
    applied?;
    let hung = hung?;
    let nodes = Api::<EncryptionNode>::all(keyward.client.clone());
    wait_until("the revision to be refused", PATIENCE, async || {
        let error = nodes.get("node-2").await?.status.unwrap_or_default().error;
        let refused =
            error.as_ref().is_some_and(|error| error.reason == "ConfigurationRefused" && error.put_back);
        Ok(Seen::when(refused, format!("{error:?}")))
    })
    .await?;
    Ok(hung)
}

/// Replaces a file by a rename, as editors do.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, bytes)?;
    Ok(std::fs::rename(&aside, path)?)
}
