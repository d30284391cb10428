//! A test node: a folder on the host, namespaces in which the folder is mounted at a node's paths, and a
//! supervisor inside that runs the static pods of the node's manifests.

mod agent;
mod launcher;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

pub use agent::AGENT_IMAGE;
pub(crate) use agent::KUBECONFIG as AGENT_KUBECONFIG;
pub(crate) use launcher::Launcher;

use crate::guarded::Guarded;
use crate::state::StateDir;
use crate::supervisor::{self, NodeConfig, PodState};
use crate::wait::{Seen, wait_until};
use crate::{apiserver, files};

/// Node paths with separate content on each node. A reboot empties `/var/run`.
const OWN: [&str; 3] = ["/etc/kubernetes", "/var/run/kmsplugin", "/var/lib/keyward"];
const VOLATILE: &str = "/var/run/kmsplugin";
const LOGS: &str = "/var/log/pods";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// How long a static pod may take to stop.
const STOP: Duration = Duration::from_mins(1);

/// A node. It runs until it is stopped or dropped.
pub struct Node {
    config: NodeConfig,
    launcher: Launcher,
    api_port: u16,
    guarded: Option<Guarded>,
    log: PathBuf,
}

/// How containers of a node are restarted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Node {
    /// Creates a node's folder. The node does not run yet.
    pub(crate) fn new(
        name: &str,
        api_port: u16,
        backoff: Backoff,
        launcher: Launcher,
        state: &StateDir,
    ) -> Result<Self> {
        let folder = state.path().join("nodes").join(name);
        let mut mounts: Vec<PathBuf> = OWN.iter().map(PathBuf::from).collect();
        mounts.extend(supervisor::own_paths().map(Path::to_owned));
        let config = NodeConfig {
            name: name.to_owned(),
            folder: folder.clone(),
            mounts,
            rootless: launcher.is_rootless(),
            restart_wait: backoff.first,
            restart_wait_max: backoff.longest,
            grace: Duration::from_secs(2),
        };
        for path in &config.mounts {
            let path = config.on_host(path);
            std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        std::fs::create_dir_all(config.on_host(Path::new(MANIFESTS)))
            .context("creating the manifests' folder")?;
        let json = serde_json::to_vec_pretty(&config).context("a node's configuration as JSON")?;
        files::replace(&folder.join("node.json"), &json, 0o644)?;
        Ok(Self { log: folder.join("supervisor.log"), config, launcher, api_port, guarded: None })
    }

    /// Its name, which is also its hostname.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The URL of its API server.
    pub fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// The port of its API server.
    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    /// The path on the host of a path on the node: below the node's folder.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.config.on_host(path.as_ref())
    }

    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.guarded.as_ref().is_some_and(|guarded| guarded.ended().is_none())
    }

    /// The log of the supervisor itself.
    pub fn supervisor_log(&self) -> &Path {
        &self.log
    }

    /// Boots it: namespaces, mounts, and the pods of its manifests. `/var/run` is empty, as after a reboot.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "node {} runs already", self.name());
        let volatile = self.path(VOLATILE);
        std::fs::remove_dir_all(&volatile)
            .and_then(|()| std::fs::create_dir(&volatile))
            .context("emptying /var/run")?;
        let log =
            std::fs::File::options().create(true).append(true).open(&self.log).context("the node's log")?;
        let command = self.launcher.node(&self.config.folder.join("node.json"));
        let (mut guarded, stdout) = Guarded::start(command, None, log)?;
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).context("waiting for the node's namespaces")?;
        }
        if line.trim() != supervisor::READY {
            guarded.stop();
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("node {} did not start: {}", self.name(), log.lines().last().unwrap_or_default());
        }
        self.guarded = Some(guarded);
        Ok(())
    }

    /// Asks it to shut down, without waiting.
    pub(crate) fn hang_up(&mut self) {
        if let Some(guarded) = &mut self.guarded {
            guarded.hang_up();
        }
    }

    /// Shuts it down: pods get SIGTERM, and SIGKILL after the grace period.
    pub(crate) fn stop(&mut self) {
        self.guarded = None;
    }

    /// Simulates a power failure.
    pub(crate) fn crash(&mut self) {
        if let Some(mut guarded) = self.guarded.take() {
            guarded.kill();
        }
    }

    /// Writes `NAME.yaml` into the manifests' folder, by rename; only its owner can read it.
    pub fn write_manifest(&self, name: &str, pod: &impl Serialize) -> Result<()> {
        let text = serde_saphyr::to_string(pod).context("a manifest as YAML")?;
        self.write_manifest_text(name, &text)
    }

    /// Like [`Self::write_manifest`], with this text unchanged.
    pub fn write_manifest_text(&self, name: &str, text: &str) -> Result<()> {
        files::replace(&self.manifest_path(name), text.as_bytes(), 0o600)
    }

    /// Removes `NAME.yaml`; its pod then stops.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        let path = self.manifest_path(name);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.path(MANIFESTS).join(format!("{name}.yaml"))
    }

    /// The pods that its supervisor runs, read without an API server.
    pub fn pods(&self) -> Result<Vec<PodState>> {
        supervisor::read_state(&self.config.state_file())
    }

    /// The pod with this name in its manifest.
    pub fn pod(&self, name: &str) -> Result<Option<PodState>> {
        let name = format!("{name}-{}", self.name());
        Ok(self.pods()?.into_iter().find(|pod| pod.name == name))
    }

    /// The logs of all instances of a container in the newest pod of that name.
    pub fn logs(&self, pod: &str, container: &str) -> Result<String> {
        let name = format!("_{pod}-{}_", self.name());
        let folder = self.path(LOGS);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(&name) {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        let (_, newest) =
            found.into_iter().max().with_context(|| format!("pod {pod} never ran on {}", self.name()))?;
        supervisor::read_logs(&newest, container)
    }

    /// Runs a command inside the node's namespaces and waits until it exits.
    pub async fn exec(&self, command: &[&str]) -> Result<Output> {
        let guarded = self.guarded.as_ref().with_context(|| format!("node {} does not run", self.name()))?;
        let mut nsenter = tokio::process::Command::from(self.launcher.enter(guarded.unshare()));
        nsenter.args(command).kill_on_drop(true);
        nsenter.output().await.with_context(|| format!("running {command:?} on {}", self.name()))
    }

    /// Stops the API server and starts it again, as an admin does: by moving its manifest out and back.
    /// Returns when the old process has exited, before the new one is ready.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.hold_apiserver()?;
        wait_until("the API server's end", STOP, async || {
            let pod = self.pod(apiserver::NAME)?;
            Ok(Seen::when(pod.is_none(), format!("{pod:?}")))
        })
        .await?;
        self.release_apiserver()
    }

    /// Moves the API server's manifest out: the API server stops, or does not start with the node.
    pub fn hold_apiserver(&self) -> Result<()> {
        std::fs::rename(self.manifest_path(apiserver::NAME), self.manifest_aside())
            .context("moving the API server's manifest out")
    }

    /// Moves the manifest back.
    pub fn release_apiserver(&self) -> Result<()> {
        std::fs::rename(self.manifest_aside(), self.manifest_path(apiserver::NAME))
            .context("moving the API server's manifest back")
    }

    fn manifest_aside(&self) -> PathBuf {
        self.path("/etc/kubernetes").join(format!("{}.aside", apiserver::NAME))
    }
}
