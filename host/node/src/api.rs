//! Calls to the API server, each with a time limit. A failed write is not retried here: the next reconcile
//! pass decides again.
//!
//! Secrets are read as text and decoded here, because kube's typed calls log a response that they cannot
//! parse.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use keyward_core::SecretBytes;
use keyward_core::api::{ClusterEncryption, EncryptionNode, EncryptionNodeSpec, EncryptionNodeStatus};
use keyward_core::formats::revision::SecretData;
use keyward_core::names;
use keyward_core::node::pod::NAMESPACE as KUBE_SYSTEM;
use kube::api::{GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config, ResourceExt as _};
use kube_core::Request;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::AgentError;
use crate::metrics::{self, Reading};
use crate::settings::Settings;

/// The field manager of an agent's status.
const FIELD_MANAGER: &str = "keyward-node-agent";
/// The field manager of the command that registers a joining node.
const JOIN_MANAGER: &str = "keyward-join";
/// The field manager of the command that recreates the Secret of a revision.
const REPUBLISH_MANAGER: &str = "keyward-republish";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const IDENTITY_LEASES: &str = "apiserver.kubernetes.io/identity=kube-apiserver";

/// The agent's clients: one for objects, by the kubeconfig, and one for the metrics of the local API server,
/// with the same credential.
#[derive(Clone)]
pub struct Connection {
    objects: Client,
    local: Client,
    metrics_path: Arc<str>,
    timeout: Duration,
    kubeconfig: PathBuf,
    /// The kubeconfig and the files that it names, and when each was modified.
    files: Vec<(PathBuf, Option<SystemTime>)>,
    expires: Option<Timestamp>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("kubeconfig", &self.kubeconfig).finish_non_exhaustive()
    }
}

impl Connection {
    /// Reads the kubeconfig and creates the clients. It makes no call.
    pub async fn new(settings: &Settings) -> Result<Self, AgentError> {
        let path = &settings.kubeconfig;
        let mut files = vec![(path.clone(), modified(path))];
        let mut config = config(path).await?;
        let login = &config.auth_info;
        let named = login.client_certificate.iter().chain(&login.client_key).chain(&login.token_file);
        files.extend(named.map(|file| (PathBuf::from(file), modified(Path::new(file)))));
        let expires = certificate(login).and_then(|pem| ends(&pem));
        // kube's retries can take minutes. The agent's next pass repeats the call instead.
        config.default_retry = false;
        config.connect_timeout = Some(settings.call_timeout);
        let mut local = config.clone();
        local.tls_server_name = Some(settings.server_name.clone());
        let mut metrics_path = "/metrics".to_owned();
        if let Some(url) = &settings.metrics_url {
            let invalid = || AgentError::MetricsUrl { url: url.clone() };
            let given: http::Uri = url.parse().map_err(|_| invalid())?;
            let (Some(scheme), Some(authority)) = (given.scheme_str(), given.authority()) else {
                return Err(invalid());
            };
            if given.path().len() > 1 {
                given.path().clone_into(&mut metrics_path);
            }
            local.cluster_url = format!("{scheme}://{authority}").parse().map_err(|_| invalid())?;
        }
        let client = |config| {
            let call = "setting up the client".to_owned();
            Client::try_from(config).map_err(|source| AgentError::Call { call, source: Box::new(source) })
        };
        Ok(Self {
            objects: client(config)?,
            local: client(local)?,
            metrics_path: metrics_path.into(),
            timeout: settings.call_timeout,
            kubeconfig: path.clone(),
            files,
            expires,
        })
    }

    /// Whether the kubeconfig or a file that it names has changed since. Another program renews its
    /// credential.
    pub(crate) fn is_outdated(&self) -> bool {
        self.files.iter().any(|(path, before)| {
            let now = modified(path);
            now.is_some() && now != *before
        })
    }

    /// When the client certificate expires. `None` if the credential is not a certificate.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    pub(crate) fn nodes<K>(&self) -> Api<K>
    where
        K: kube::Resource,
        K::DynamicType: Default,
    {
        Api::all(self.objects.clone())
    }

    async fn call<T>(
        &self,
        call: impl Into<String>,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, AgentError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) => Err(AgentError::Call { call: call.into(), source: Box::new(source) }),
            Err(_) => Err(AgentError::Timeout { call: call.into(), after: self.timeout }),
        }
    }

    /// The node's object. `None` if there is none.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<EncryptionNode>, AgentError> {
        let api: Api<EncryptionNode> = self.nodes();
        // A 404 for the whole resource does not prove that this object is absent.
        let is_this = |status: &kube::core::Status| {
            status.is_not_found() && status.details.as_ref().is_some_and(|details| details.name == name)
        };
        let found = async {
            match api.get(name).await {
                Err(kube::Error::Api(status)) if is_this(&status) => Ok(None),
                other => other.map(Some),
            }
        };
        self.call(format!("get EncryptionNode {name}"), found).await
    }

    /// Creates the node's object with an empty spec. Succeeds also if the object exists already.
    pub(crate) async fn register(&self, name: &str) -> Result<(), AgentError> {
        let node = EncryptionNode::new(name, EncryptionNodeSpec::default());
        let api: Api<EncryptionNode> = self.nodes();
        let params = PostParams { field_manager: Some(JOIN_MANAGER.to_owned()), ..Default::default() };
        match self.call(format!("create EncryptionNode {name}"), api.create(&params, &node)).await {
            Err(error) if error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// The ClusterEncryption. `None` if there is none.
    pub(crate) async fn cluster(&self) -> Result<Option<ClusterEncryption>, AgentError> {
        let api: Api<ClusterEncryption> = self.nodes();
        self.call(format!("get ClusterEncryption {}", names::CLUSTER), api.get_opt(names::CLUSTER)).await
    }

    /// The names of the revisions' Secrets.
    pub(crate) async fn revision_names(&self) -> Result<Vec<String>, AgentError> {
        let api: Api<Secret> = Api::namespaced(self.objects.clone(), names::NAMESPACE);
        let found = self.call("list Secrets", api.list_metadata(&ListParams::default())).await?;
        let all = found.items.iter().map(kube::ResourceExt::name_any);
        Ok(all.filter(|name| names::parse_revision_secret(name).is_some()).collect())
    }

    /// The data of a Secret in Keyward's namespace.
    pub(crate) async fn secret(&self, name: &str) -> Result<SecretData, AgentError> {
        let call = format!("get Secret {name}");
        let unexpected = |why: &str| AgentError::Unexpected { call: call.clone(), why: why.to_owned() };
        let path = <Secret as kube::Resource>::url_path(&(), Some(names::NAMESPACE));
        let request = Request::new(path)
            .get(name, &GetParams::default())
            .map_err(|_| unexpected("the name is not valid in a request"))?;
        let text = self.call(call.clone(), self.objects.request_text(request)).await?;
        // The parser's error may quote the Secret.
        let secret: Secret =
            serde_json::from_str(&text).map_err(|_| unexpected("the response is not a Secret"))?;
        Ok(secret.data.into_iter().flatten().map(|(key, value)| (key, SecretBytes::new(value.0))).collect())
    }

    /// Whether a Secret in Keyward's namespace exists and can be read. Only its metadata is returned.
    pub(crate) async fn has_secret(&self, name: &str) -> Result<bool, AgentError> {
        let api: Api<Secret> = Api::namespaced(self.objects.clone(), names::NAMESPACE);
        match self.call(format!("get Secret {name}"), api.get_metadata(name)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates a Secret. Fails with a conflict if its name exists. Only metadata is returned. `dry_run`: the
    /// API server checks the request and stores nothing.
    pub(crate) async fn create_secret(&self, secret: &Secret, dry_run: bool) -> Result<(), AgentError> {
        let call = format!("create Secret {}", secret.name_any());
        let unexpected = |why: &str| AgentError::Unexpected { call: call.clone(), why: why.to_owned() };
        let body = serde_json::to_vec(secret).map_err(|_| unexpected("it cannot be serialized"))?;
        let params = PostParams { field_manager: Some(REPUBLISH_MANAGER.to_owned()), dry_run };
        let path = <Secret as kube::Resource>::url_path(&(), Some(names::NAMESPACE));
        let mut request =
            Request::new(path).create(&params, body).map_err(|_| unexpected("the request is not valid"))?;
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA));
        self.call(call.clone(), self.objects.request_text(request)).await.map(drop)
    }

    /// All nodes' objects.
    pub(crate) async fn all_nodes(&self) -> Result<Vec<EncryptionNode>, AgentError> {
        let api: Api<EncryptionNode> = self.nodes();
        let found = self.call("list EncryptionNodes", api.list(&ListParams::default())).await?;
        Ok(found.items)
    }

    /// Two metrics of the local API server.
    pub(crate) async fn metrics(&self) -> Result<Reading, AgentError> {
        let call = || format!("get {}", self.metrics_path);
        let request = http::Request::get(self.metrics_path.as_ref())
            .body(Vec::new())
            .map_err(|_| AgentError::MetricsUrl { url: self.metrics_path.to_string() })?;
        let reading = async {
            let text = self.local.request_stream(request).await?;
            futures::pin_mut!(text);
            metrics::read(text).await.map_err(kube::Error::ReadEvents)
        };
        self.call(call(), reading).await
    }

    /// The name of the identity Lease whose hash the metrics show.
    pub(crate) async fn lease_of(&self, id_hash: &str) -> Result<Option<String>, AgentError> {
        let api: Api<Lease> = Api::namespaced(self.objects.clone(), KUBE_SYSTEM);
        let params = ListParams::default().labels(IDENTITY_LEASES);
        let leases = self.call("list identity Leases", api.list_metadata(&params)).await?;
        Ok(leases.items.into_iter().map(|lease| lease.name_any()).find(|name| {
            let digest = Sha256::digest(name.as_bytes());
            id_hash == format!("sha256:{}", keyward_core::ids::hex(&digest))
        }))
    }

    /// The mirror Pod of a static pod, which has the kubelet's status of its containers.
    pub(crate) async fn mirror_pod(&self, pod: &str, node: &str) -> Result<Option<Pod>, AgentError> {
        let name = format!("{pod}-{node}");
        let api: Api<Pod> = Api::namespaced(self.objects.clone(), KUBE_SYSTEM);
        self.call(format!("get Pod {name}"), api.get_opt(&name)).await
    }

    /// Writes the whole status of the node's object.
    pub(crate) async fn report(&self, name: &str, status: &EncryptionNodeStatus) -> Result<(), AgentError> {
        let object = json!({
            "apiVersion": <EncryptionNode as kube::Resource>::api_version(&()),
            "kind": <EncryptionNode as kube::Resource>::kind(&()),
            "metadata": {"name": name},
            "status": status,
        });
        let api: Api<EncryptionNode> = self.nodes();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&object);
        let call = format!("apply the status of EncryptionNode {name}");
        self.call(call, api.patch_status(name, &params, &patch)).await.map(drop)
    }
}

/// Reads a kubeconfig. One without a credential is refused, for example a file that was cut off: kube would
/// continue without authentication.
async fn config(path: &Path) -> Result<Config, AgentError> {
    let unusable = |why: String| AgentError::Kubeconfig { path: path.to_owned(), why };
    let wrong = |error: KubeconfigError| {
        // The error of the YAML parser quotes the surrounding lines, which may contain a key.
        let KubeconfigError::Parse(error) = error else { return unusable(error.to_string()) };
        let at = error.location().map(|at| format!(", at line {} column {}", at.line(), at.column()));
        unusable(format!("it is not a kubeconfig{}", at.unwrap_or_default()))
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)?;
    let login = &config.auth_info;
    let by_certificate = login.client_certificate.is_some() || login.client_certificate_data.is_some();
    let by_token = login.token.is_some() || login.token_file.is_some();
    if by_certificate || by_token || login.exec.is_some() || login.auth_provider.is_some() {
        Ok(config)
    } else {
        Err(unusable("the user of its current context has no certificate and no token".to_owned()))
    }
}

/// The client certificate of a kubeconfig's user, in PEM.
fn certificate(login: &AuthInfo) -> Option<Vec<u8>> {
    match (&login.client_certificate_data, &login.client_certificate) {
        (Some(data), _) => STANDARD.decode(data).ok(),
        (None, Some(file)) => std::fs::read(file).ok(),
        (None, None) => None,
    }
}

/// When the first certificate expires. The certificates after it are its issuers'.
fn ends(pem: &[u8]) -> Option<Timestamp> {
    let (_, first) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = first.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users:
- name: u
  user:
    token: s3cr3t
";

    async fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        config(&path).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_kubeconfig_is_read() {
        let config = read(KUBECONFIG).await.unwrap();
        assert!(config.auth_info.token.is_some());
    }

    #[rstest]
    #[case::cut_off_above_the_user(KUBECONFIG.split("users:").next().unwrap(), "has no certificate")]
    #[case::cut_off_above_the_credential(KUBECONFIG.split("    token").next().unwrap(), "has no certificate")]
    #[case::another_user(&KUBECONFIG.replace("name: u", "name: v"), "has no certificate")]
    #[case::no_yaml(&KUBECONFIG.replace("token: s3cr3t", "token: s3cr3t\ns3cr3t\n  s3cr3t: ["), "at line")]
    #[case::of_other_types(&KUBECONFIG.replace("token: s3cr3t", "token: [s3cr3t]"), "it is not a kubeconfig")]
    #[tokio::test]
    async fn the_error_of_an_unusable_kubeconfig_does_not_quote_it(
        #[case] text: &str,
        #[case] expected: &str,
    ) {
        let error = read(text).await.unwrap_err();
        assert!(error.contains(expected) && !error.contains("s3cr3t"), "{error}");
    }

    #[test]
    fn the_expiry_of_the_first_certificate_counts() {
        let certificate = |until: i32| {
            let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
            params.not_after = rcgen::date_time_ymd(until, 1, 31);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let chain = certificate(2031) + &certificate(2040);
        assert_eq!(ends(chain.as_bytes()).map(|at| at.to_string()).as_deref(), Some("2031-01-31T00:00:00Z"));
        assert_eq!(ends(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
        assert_eq!(ends(b""), None);
    }
}
