//! Installs and runs Keyward: CRDs, namespace, credentials, operator, agents.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use keyward_test_cluster::{
    AGENT_IMAGE, AppRole, Bao, Binary, Cluster, Image, PodState, Process, Seen, wait_until,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::status::Status;

/// The repository of the plugin's images.
const PLUGIN_REPOSITORY: &str = "registry.example.com/vault/vault-kube-kms";
/// An image whose digest consists of its number.
pub const IMAGE: fn(u8) -> String =
    |n| format!("{PLUGIN_REPOSITORY}@sha256:{}", format!("{n:02x}").repeat(32));
/// An argument of API servers: etcd keeps its history for ten seconds at most, instead of ten minutes. A KMS
/// provider that nothing else needs stays until the history is compacted (decision 0007).
pub const SHORT_HISTORY: &str = "--etcd-compaction-interval=5s";
/// The roles of operator and agents, in deploy/.
pub const RIGHTS: [&str; 2] = ["rbac/operator.yaml", "rbac/node-agent.yaml"];
/// The Secret with the AppRole's credentials.
pub const CREDENTIALS: &str = "vault-approle";
/// The ConfigMap with the KMS's CA.
const CA_BUNDLE: &str = "vault-ca-bundle";

/// The settings of the cluster and of Keyward on it.
#[derive(Debug, Clone)]
pub struct Install {
    /// The number of nodes, each with an API server.
    pub nodes: usize,
    /// Their `--request-timeout`.
    pub request_timeout: Duration,
    /// How often they poll their configuration.
    pub file_poll: Duration,
    /// How often the agents probe healthy plugins.
    pub probe_interval: Duration,
    /// The folder of everything, instead of a temporary one.
    pub keep: Option<PathBuf>,
    /// Transit keys to create in `transit`; the AppRole is allowed to use them all.
    pub keys: Vec<String>,
    /// Further arguments of the operator.
    pub operator_args: Vec<String>,
    /// The operator's `KEYWARD_LOG`, if it is not the default.
    pub operator_log: Option<String>,
    /// Further arguments of the API servers.
    pub apiserver_args: Vec<String>,
    /// Further arguments of the agents.
    pub agent_args: Vec<String>,
    /// The binary of the agents.
    pub agent: Binary,
    /// The first and the longest wait before a container that exited is restarted.
    pub restart_backoff: (Duration, Duration),
    /// Whether OpenBao stores its data on disk, so that it can be stopped and started again.
    pub durable_kms: bool,
    /// How long an API server waits for a plugin: `spec.plugins.timeout`. An API server that cannot load a
    /// configuration tries for twice as long as all of its providers together may take.
    pub kms_timeout: Option<Duration>,
}

impl Default for Install {
    fn default() -> Self {
        Self {
            nodes: 1,
            request_timeout: Duration::from_secs(5),
            file_poll: Duration::from_secs(1),
            probe_interval: Duration::from_secs(2),
            keep: None,
            keys: vec!["a".to_owned(), "b".to_owned()],
            operator_args: Vec::new(),
            operator_log: None,
            apiserver_args: Vec::new(),
            agent_args: Vec::new(),
            agent: Binary::Keyward,
            restart_backoff: (Duration::from_millis(250), Duration::from_secs(4)),
            durable_kms: false,
            kms_timeout: None,
        }
    }
}

/// Keyward and everything that it needs, running.
pub struct Keyward {
    /// The cluster.
    pub cluster: Cluster,
    /// The KMS.
    pub bao: Bao,
    /// The credentials of the plugins.
    pub role: AppRole,
    /// The operator; absent while a test has stopped it.
    pub operator: Option<Process>,
    /// An admin's client for the first API server.
    pub client: Client,
    install: Install,
    /// The `keyward` binary.
    program: PathBuf,
    starts: u32,
}

impl Keyward {
    /// Starts everything and returns when the operator has processed the spec and has nothing to do.
    pub async fn start(install: Install) -> Result<Self> {
        let tools = keyward_test_cluster::Tools::here();
        let for_build = tools.clone();
        let agent = install.agent;
        let (keyward, plugin, agent) = tokio::task::spawn_blocking(move || -> Result<_> {
            for_build.providers()?;
            let [keyward, plugin, agent] =
                [Binary::Keyward, Binary::KmsPlugin, agent].map(|binary| for_build.binary(binary));
            Ok((keyward?, plugin?, agent?))
        })
        .await??;
        let images = [Image::repository(AGENT_IMAGE, agent), Image::repository(PLUGIN_REPOSITORY, plugin)];
        let mut builder = Cluster::builder()
            .nodes(install.nodes)
            .request_timeout(install.request_timeout)
            .file_poll(install.file_poll)
            .restart_backoff(install.restart_backoff.0, install.restart_backoff.1)
            .apiserver_args(install.apiserver_args.clone())
            .images(images);
        if let Some(folder) = &install.keep {
            builder = builder.keep(folder);
        }
        let kms = async {
            if install.durable_kms { Bao::start_durable(&tools).await } else { Bao::start(&tools).await }
        };
        let (cluster, bao) = tokio::try_join!(builder.start(), kms)?;
        let client = cluster.client(0).await?;
        bao.mount_transit("", "transit").await?;
        for key in &install.keys {
            bao.create_key("", "transit", key).await?;
        }
        let paths: Vec<String> = install.keys.iter().map(|key| format!("transit/keys/{key}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let role = bao.policy_and_approle("", "keyward", &paths).await?;
        let mut this =
            Self { cluster, bao, role, operator: None, client, install, program: keyward, starts: 0 };
        this.crds().await?;
        this.objects().await?;
        this.start_operator()?;
        this.start_agents()?;
        this.wait("the first status of Keyward", Duration::from_mins(1), |status| {
            status.condition("Encrypted").is_some_and(|condition| condition.reason == "EncryptionDisabled")
        })
        .await?;
        Ok(this)
    }

    /// Applies the output of `keyward crds`, as an admin does.
    async fn crds(&self) -> Result<()> {
        let modules = self.cluster.tools().modules();
        let output = tokio::process::Command::new(&self.program)
            .arg("crds")
            .arg("--providers")
            .arg(modules)
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "keyward crds: {}", String::from_utf8_lossy(&output.stderr));
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let text = String::from_utf8(output.stdout)?;
        let mut names = Vec::new();
        for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
            let crd: CustomResourceDefinition = serde_json::from_str(document)?;
            let params = PatchParams::apply("admin").force();
            api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.with_context(|| crd.name_any())?;
            names.push(crd.name_any());
        }
        wait_until("the CRDs to be established", Duration::from_secs(30), async || {
            for name in &names {
                let crd = api.get(name).await?;
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                if !conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                    return Ok(Seen::NotYet(format!("{name} is not established")));
                }
            }
            Ok(Seen::Yes(()))
        })
        .await
    }

    /// Creates namespace, credentials, CA bundle, roles, and a `ClusterEncryption` of mode `identity`.
    async fn objects(&self) -> Result<()> {
        let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        let namespace = Namespace { metadata: named(names::NAMESPACE), ..Default::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        self.set_credentials(&self.role).await?;
        self.set_ca_bundle(self.bao.ca_pem()).await?;
        self.bind().await?;
        self.apply(&json!({"type": "identity"})).await
    }

    /// Gives operator and agents exactly the permissions of deploy/rbac, and the operator its
    /// ServiceAccount's token, as a kubelet does.
    async fn bind(&self) -> Result<()> {
        for file in RIGHTS {
            self.cluster.apply(&shipped(&self.cluster, file)?).await?;
        }
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), names::NAMESPACE);
        let request = TokenRequest::default();
        let response =
            accounts.create_token_request("keyward-operator", &PostParams::default(), &request).await?;
        let token = response.status.context("no token")?.token;
        write_private(&self.token_file(), token.as_bytes())?;
        write_private(&self.ca_file(), self.cluster.ca_pem().as_bytes())
    }

    fn token_file(&self) -> PathBuf {
        self.cluster.folder().join("operator-token")
    }

    fn ca_file(&self) -> PathBuf {
        self.cluster.folder().join("ca.crt")
    }

    /// Writes the AppRole's credentials, as an admin who rotates them does.
    pub async fn set_credentials(&self, role: &AppRole) -> Result<()> {
        let data = json!({"role-id": role.role_id, "secret-id": role.secret_id.reveal()});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS}, "stringData": data,
        });
        self.secrets()
            .patch(CREDENTIALS, &PatchParams::apply("admin").force(), &Patch::Apply(&secret))
            .await?;
        Ok(())
    }

    /// Writes the CA bundle that plugins trust, as PEM.
    pub async fn set_ca_bundle(&self, pem: &str) -> Result<()> {
        let bundle = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CA_BUNDLE}, "data": {"ca-bundle.crt": pem},
        });
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), names::NAMESPACE);
        api.patch(CA_BUNDLE, &PatchParams::apply("admin").force(), &Patch::Apply(&bundle)).await?;
        Ok(())
    }

    /// The Secrets of Keyward's namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), names::NAMESPACE)
    }

    /// Starts an agent on each node.
    pub fn start_agents(&self) -> Result<()> {
        let interval = format!("{}s", self.install.probe_interval.as_secs());
        let mut args = vec!["--probe-interval", interval.as_str()];
        args.extend(self.install.agent_args.iter().map(String::as_str));
        self.cluster.nodes().iter().try_for_each(|node| node.start_agent(&args))
    }

    /// Stops each node's agent, and waits until it has stopped: no node moves any more.
    pub async fn stop_agents(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            node.stop_agent()?;
            wait_until("the agent's end", Duration::from_secs(30), async || {
                let agent = node.pod("keyward-agent")?;
                Ok(Seen::when(agent.is_none(), format!("{agent:?}")))
            })
            .await?;
        }
        Ok(())
    }

    /// Kills the operator, as in a crash, and starts another one at once.
    pub async fn crash_operator(&mut self) -> Result<()> {
        if let Some(operator) = self.operator.take() {
            tokio::task::spawn_blocking(move || operator.kill9()).await?;
        }
        self.start_operator()
    }

    /// Deletes a Secret of Keyward's namespace, after removing its finalizers.
    pub async fn lose(&self, name: &str) -> Result<()> {
        let bare = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        self.secrets().patch(name, &PatchParams::default(), &bare).await?;
        self.secrets().delete(name, &DeleteParams::default()).await?;
        wait_until(&format!("the end of Secret {name}"), Duration::from_secs(10), async || {
            // The operator may have added the finalizer again between the two requests.
            match self.secrets().patch(name, &PatchParams::default(), &bare).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Yes(())),
                other => Ok(Seen::NotYet(format!("{:?}", other.map(|secret| secret.metadata)))),
            }
        })
        .await
    }

    /// Starts the operator with the arguments of its Deployment, as its ServiceAccount.
    pub fn start_operator(&mut self) -> Result<()> {
        let shown = |path: PathBuf| path.to_string_lossy().into_owned();
        let cache = shown(self.cluster.folder().join("module-cache"));
        // Files that are at fixed paths in the image or that the kubelet mounts.
        let places = [
            ("--token-file", shown(self.token_file())),
            ("--ca-file", shown(self.ca_file())),
            ("--providers", shown(self.cluster.tools().modules())),
            ("--module-cache", cache),
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--log-format", "text".to_owned()),
        ];
        let mut arguments = deployed_arguments(&self.cluster, &places)?;
        arguments.extend(self.install.operator_args.iter().cloned());
        self.starts += 1;
        let name = format!("operator-{}", self.starts);
        let port = self.cluster.node(0)?.api_port().to_string();
        let mut environment =
            vec![("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", &port)];
        environment.extend(self.install.operator_log.iter().map(|log| ("KEYWARD_LOG", log.as_str())));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.operator = Some(self.cluster.run_process(&name, &self.program, &arguments, &environment)?);
        Ok(())
    }

    /// Applies `spec.encryption`, with the settings that make waiting short.
    pub async fn apply(&self, encryption: &Value) -> Result<()> {
        let object: ClusterEncryption = serde_json::from_value(self.object(encryption))?;
        let api = Api::<ClusterEncryption>::all(self.client.clone());
        // Not server-side apply: a field that the object does not have must be removed, with any field
        // manager.
        match api.get_opt(names::CLUSTER).await? {
            None => {
                api.create(&PostParams::default(), &object).await?;
            }
            Some(_) => {
                wait_until("the spec to be written", Duration::from_secs(10), async || {
                    let mut current = api.get(names::CLUSTER).await?;
                    current.spec.clone_from(&object.spec);
                    match api.replace(names::CLUSTER, &PostParams::default(), &current).await {
                        Ok(_) => Ok(Seen::Yes(Ok(()))),
                        Err(kube::Error::Api(status)) if status.code == 409 => {
                            Ok(Seen::NotYet("a conflict".to_owned()))
                        }
                        Err(error) => Ok(Seen::Yes(Err(error))),
                    }
                })
                .await??;
            }
        }
        Ok(())
    }

    /// The object that [`apply`](Self::apply) writes.
    pub fn object(&self, encryption: &Value) -> Value {
        let timeout = self.install.kms_timeout.map(|timeout| format!("{}s", timeout.as_secs()));
        json!({
            "apiVersion": "encryption.keyward.dev/v1alpha1",
            "kind": "ClusterEncryption",
            "metadata": {"name": names::CLUSTER},
            "spec": {
                "encryption": encryption,
                "apiServer": {"requestTimeout": format!("{}s", self.install.request_timeout.as_secs())},
                "plugins": timeout.map_or_else(|| json!({}), |timeout| json!({"timeout": timeout})),
            },
        })
    }

    /// Waits until the status is about the current spec and meets this condition.
    pub async fn wait(
        &self,
        what: &str,
        deadline: Duration,
        shows: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        wait_until(what, deadline, async || {
            let status = self.status().await?;
            Ok(if status.is_current() && shows(&status) {
                Seen::Yes(status)
            } else {
                Seen::NotYet(status.summary())
            })
        })
        .await
        .with_context(|| self.operator_log_tail())
    }

    /// Waits until key `id` is the write key, everything is stored under it, and nothing is in progress.
    pub async fn wait_settled(&self, id: u64, deadline: Duration) -> Result<Status> {
        self.wait(&format!("everything to be stored under key {id}"), deadline, |status| {
            status.key(id).is_some_and(|key| key.role == "write" && key.migrated.len() == 2)
                && status.is_idle()
        })
        .await
    }

    /// Applies a spec and waits until a Degraded condition contains all of these parts.
    pub async fn apply_and_wait_degraded(
        &self,
        encryption: &Value,
        parts: &[&str],
        deadline: Duration,
    ) -> Result<Status> {
        self.apply(encryption).await?;
        let what = format!("a Degraded condition with {parts:?}");
        self.wait(&what, deadline, |status| {
            status.problems().iter().any(|problem| parts.iter().all(|part| problem.contains(part)))
        })
        .await
    }

    /// The pods of plugins on the first node.
    pub fn plugins(&self) -> Result<Vec<PodState>> {
        self.plugins_on(0)
    }

    /// The pods of plugins on a node.
    pub fn plugins_on(&self, node: usize) -> Result<Vec<PodState>> {
        let mut pods = self.cluster.node(node)?.pods()?;
        pods.retain(|pod| pod.name.starts_with("keyward-kms-"));
        Ok(pods)
    }

    /// `ClusterEncryption/cluster`, also if its status is about an earlier spec.
    pub async fn status(&self) -> Result<Status> {
        Ok(Status(Api::<ClusterEncryption>::all(self.client.clone()).get(names::CLUSTER).await?))
    }

    /// The log of the running operator.
    pub fn operator_log(&self) -> Result<String> {
        self.operator.as_ref().context("no operator runs")?.output()
    }

    /// The end of the operator's log, for the error of a failed test.
    pub fn operator_log_tail(&self) -> String {
        let log = self.operator_log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        let mut text = String::from("the end of the operator's log:");
        for line in lines.iter().rev() {
            text.push_str("\n  ");
            text.push_str(line);
        }
        text
    }
}

/// The arguments of the shipped Deployment, with other values for these flags.
fn deployed_arguments(cluster: &Cluster, places: &[(&str, String)]) -> Result<Vec<String>> {
    let documents = shipped_documents(cluster, "operator.yaml")?;
    let shipped =
        documents.iter().find_map(|document| document.pointer("/spec/template/spec/containers/0/args"));
    let shipped: Vec<String> =
        serde_json::from_value(shipped.context("no arguments in operator.yaml")?.clone())?;
    let changed = |argument: String| {
        let name = argument.split('=').next().unwrap_or_default();
        let place = places.iter().find(|(flag, _)| *flag == name);
        place.map_or_else(|| argument.clone(), |(flag, value)| format!("{flag}={value}"))
    };
    let arguments: Vec<String> = shipped.into_iter().map(changed).collect();
    for (flag, _) in places {
        let found = arguments.iter().any(|argument| argument.starts_with(&format!("{flag}=")));
        anyhow::ensure!(found, "the Deployment has no argument {flag}");
    }
    Ok(arguments)
}

/// A file of deploy/.
pub fn shipped(cluster: &Cluster, name: &str) -> Result<String> {
    let file = cluster.tools().root().join("deploy").join(name);
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

/// The documents of a file of deploy/.
pub fn shipped_documents(cluster: &Cluster, name: &str) -> Result<Vec<Value>> {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&shipped(cluster, name)?)?;
    // A document that contains only comments is null.
    documents.retain(|document| !document.is_null());
    Ok(documents)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .with_context(|| path.display().to_string())
}

/// `spec.encryption` for a Transit key of this OpenBao.
pub fn vault_spec(keyward: &Keyward, key: &str, image: &str) -> Value {
    json!({
        "type": "KMS",
        "kms": {
            "type": "Vault",
            "vault": {
                "kmsPluginImage": image,
                "vaultAddress": keyward.bao.address(),
                "tls": {"caBundle": {"name": CA_BUNDLE}},
                "authentication": {"type": "AppRole", "appRole": {"secret": {"name": CREDENTIALS}}},
                "vaultKeyPath": format!("transit/keys/{key}"),
            },
        },
    })
}
