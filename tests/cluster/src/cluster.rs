//! A cluster: etcd, and the nodes whose API servers share it.

mod apply;
mod builder;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyward_test_tools::Tools;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub use builder::Builder;

use crate::apiserver::{self, Settings};
use crate::etcd::Etcd;
use crate::guarded::Guarded;
use crate::kubeconfig::{self, User};
use crate::node::{Backoff, Launcher, Node};
use crate::pki::{Authority, SigningKey};
use crate::ports;
use crate::process::Process;
use crate::state::StateDir;
use crate::supervisor::{self, Image};
use crate::wait::{Seen, wait_until};

/// A cold API server is ready in three seconds; a busy machine has two cores for several of them.
const READY: Duration = Duration::from_mins(2);
/// Its label `hash` is the hash of the file's bytes (kubernetes: loaded-configuration-metric).
const CONFIG_METRIC: &str = "apiserver_encryption_config_controller_last_config_info{";
/// How long a program beside the nodes may take to stop.
const GRACE: Duration = Duration::from_secs(5);

/// A running cluster. When this is dropped, all of its processes stop and its folder is removed.
pub struct Cluster {
    tools: Tools,
    launcher: Launcher,
    settings: Settings,
    backoff: Backoff,
    images: Vec<Image>,
    authority: Authority,
    tokens: SigningKey,
    kubeconfigs: AtomicUsize,
    // Dropped in this order: the nodes before etcd, the folder last.
    nodes: Vec<Node>,
    etcd: Etcd,
    state: StateDir,
}

impl Cluster {
    /// By default one node, kube-apiserver's default request timeout, a poll of the encryption configuration
    /// each second.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A node by its index, from 0.
    ///
    /// # Errors
    /// There is no node with this index.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes
            .get(index)
            .with_context(|| format!("the cluster has {} nodes and no index {index}", self.nodes.len()))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The etcd of the cluster, to read the stored values.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The folder of everything: nodes, logs, kubeconfigs.
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// The certificate authority of API servers and users, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Writes a new kubeconfig of a user for one node's API server; only its owner can read the file.
    pub fn kubeconfig(&self, node: usize, user: &User) -> Result<PathBuf> {
        let node = self.node(node)?;
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}.yaml", user.name().replace([':', '/'], "-"), node.name());
        let path = self.state.path().join("kubeconfigs").join(name);
        kubeconfig::write(&path, &node.api_url(), &self.authority, user)?;
        Ok(path)
    }

    /// Replaces the kubeconfig of a node's agent; its certificate expires after `valid`.
    pub fn renew_agent(&self, node: usize, valid: Duration) -> Result<()> {
        let node = self.node(node)?;
        let path = node.path(crate::node::AGENT_KUBECONFIG);
        let user = User::Agent(node.name().to_owned());
        kubeconfig::write_for(&path, &node.api_url(), &self.authority, &user, valid)
    }

    /// An admin's client for one node's API server. It does not retry: a test sees each failure.
    pub async fn client(&self, node: usize) -> Result<Client> {
        self.client_as(node, &User::Admin).await
    }

    /// A user's client for one node's API server.
    pub async fn client_as(&self, node: usize, user: &User) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(node, user)?)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// Waits until a node's API server reports that it is ready.
    pub async fn wait_ready(&self, index: usize) -> Result<()> {
        let client = self.client(index).await?;
        let node = self.node(index)?;
        let what = format!("the API server of {}", node.name());
        let ready = wait_until(&what, READY, async || {
            ensure!(node.is_running(), "the node does not run");
            let request = http::Request::get("/readyz?verbose").body(Vec::new())?;
            let answer = client.request_text(request).await.with_context(|| failing_container(node))?;
            Ok(Seen::when(answer.contains("readyz check passed"), answer))
        });
        ready.await.with_context(|| format!("the node's folder is {}", node.path("/").display()))
    }

    /// The hash (`sha256:…`) of the encryption configuration that a node's API server has loaded, from its
    /// own metric.
    pub async fn loaded_hash(&self, node: usize) -> Result<Option<String>> {
        Self::loaded_by(&self.client(node).await?).await
    }

    /// The same for the API server of this client.
    pub async fn loaded_by(client: &Client) -> Result<Option<String>> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let metrics = client.request_text(request).await.context("the API server's metrics")?;
        let info = metrics.lines().find(|line| line.starts_with(CONFIG_METRIC));
        Ok(info.and_then(|line| Some(line.split_once(",hash=\"")?.1.split_once('"')?.0.to_owned())))
    }

    /// Adds a node with the next number, and waits until its API server is ready.
    pub async fn add_node(&mut self) -> Result<&Node> {
        let index = self.nodes.len();
        let mut node = self.lay_out(index)?;
        node.start()?;
        self.nodes.push(node);
        self.wait_ready(index).await?;
        self.node(index)
    }

    /// Adds a node with the next number that runs and has no EncryptionConfiguration. Its API server does not
    /// start before [`Node::release_apiserver`].
    pub fn add_bare_node(&mut self) -> Result<&Node> {
        let index = self.nodes.len();
        let mut node = self.lay_out(index)?;
        node.hold_apiserver()?;
        let config = node.path(apiserver::ENCRYPTION_CONFIG);
        std::fs::remove_file(&config).with_context(|| format!("removing {}", config.display()))?;
        node.start()?;
        self.nodes.push(node);
        self.node(index)
    }

    /// Shuts a node down. Its folder stays.
    pub fn stop_node(&mut self, index: usize) -> Result<()> {
        self.node_mut(index)?.stop();
        Ok(())
    }

    /// Simulates a power failure: everything on the node gets SIGKILL at once. Its folder stays.
    pub fn crash_node(&mut self, index: usize) -> Result<()> {
        self.node_mut(index)?.crash();
        Ok(())
    }

    /// Boots a stopped node. Returns before anything on it is ready ([`Self::wait_ready`]).
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        self.node_mut(index)?.start()
    }

    fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes.get_mut(index).with_context(|| format!("the cluster has no node {index}"))
    }

    /// Adds images to the image map of all nodes, for each container's next start; newer entries go before
    /// older ones.
    pub fn map_images(&mut self, images: impl IntoIterator<Item = Image>) -> Result<()> {
        self.images.extend(images);
        for node in &self.nodes {
            supervisor::write_images(&node.config().images_file(), &self.images)?;
        }
        Ok(())
    }

    /// Runs a program beside the nodes, with its output in a file of the cluster's folder. It inherits this
    /// process's environment and gets these variables in addition.
    pub fn run_process(
        &self,
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Process> {
        let (path, output) = self.state.output(&format!("{name}.log"))?;
        let mut command = self.launcher.guard(GRACE, program, &[]);
        command.args(arguments).envs(environment.iter().copied());
        let (guarded, _) = Guarded::start(command, Some(output.try_clone()?), output)?;
        Ok(Process::new(name, guarded, path))
    }

    /// The tools that this cluster uses.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Creates a node's folder with everything that its API server, supervisor and agent read.
    fn lay_out(&self, index: usize) -> Result<Node> {
        let name = format!("node-{}", index + 1);
        let node = Node::new(&name, ports::free()?, self.backoff, self.launcher.clone(), &self.state)?;
        apiserver::write_files(&node.path("/"), &name, &self.authority, &self.tokens)?;
        supervisor::write_images(&node.config().images_file(), &self.images)?;
        let url = node.api_url();
        kubeconfig::write(&node.config().kubeconfig(), &url, &self.authority, &User::Kubelet(name.clone()))?;
        kubeconfig::write(
            &node.path(crate::node::AGENT_KUBECONFIG),
            &url,
            &self.authority,
            &User::Agent(name),
        )?;
        let manifest = apiserver::manifest(&self.settings, node.api_port(), self.etcd.url());
        node.write_manifest(apiserver::NAME, &manifest)?;
        Ok(node)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once; dropping each node then waits for it.
        for node in &mut self.nodes {
            node.hang_up();
        }
    }
}

/// Why the API server may not respond: the state of its container.
fn failing_container(node: &Node) -> String {
    match node.pod(apiserver::NAME) {
        Ok(Some(pod)) => format!("{:?}", pod.containers.first().map(|container| &container.state)),
        Ok(None) => "its pod is not started".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
