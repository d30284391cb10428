//! An OpenBao in memory for each test.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use keyward_test_tools::Tools;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

const ROOT_TOKEN: &str = "root";
/// The deadline of all waits; only a failing test waits that long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until the condition is true.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < end, "waited {DEADLINE:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A port on which no process listens now.
pub(crate) fn free_port(ip: Ipv4Addr) -> u16 {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

/// A running server; killed when dropped.
pub(crate) struct Bao {
    pub(crate) address: String,
    /// The file with its CA's certificate.
    pub(crate) ca: PathBuf,
    http: Client,
    _process: Child,
    _folder: TempDir,
}

impl Bao {
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST))).await
    }

    pub(crate) async fn start_at(listen: SocketAddrV4) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = [
            "-dev".to_owned(),
            "-dev-tls".to_owned(),
            "-dev-no-store-token".to_owned(),
            format!("-dev-root-token-id={ROOT_TOKEN}"),
            format!("-dev-listen-address={listen}"),
            format!("-dev-tls-cert-dir={}", folder.path().display()),
        ];
        let bao = Self::run(listen, folder, &arguments);
        bao.answers("sys/health", |status| status.is_success()).await;
        bao
    }

    /// A server that is not initialized, with this certificate, which may be for another server.
    pub(crate) async fn uninitialised(certificate: &str, key: &str) -> Self {
        let bao = Self::listening(certificate, key, &json!({}));
        bao.answers("sys/health", |status| status.as_u16() == 501).await;
        bao
    }

    /// A server that is not initialized, with further settings of its listener. It may refuse this client.
    pub(crate) fn listening(certificate: &str, key: &str, settings: &Value) -> Self {
        let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST));
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("vault-ca.pem"), certificate).unwrap();
        fs::write(file("key.pem"), key).unwrap();
        let mut listener = json!({
            "address": listen.to_string(),
            "tls_cert_file": file("vault-ca.pem"),
            "tls_key_file": file("key.pem"),
        });
        listener.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let config =
            json!({"listener": [{"tcp": listener}], "storage": {"inmem": {}}, "disable_mlock": true});
        let config = configured(&folder, &config);
        Self::run(listen, folder, &[config])
    }

    /// A server with this configuration; the test does all further setup itself.
    pub(crate) fn with_config(listen: SocketAddrV4, folder: &TempDir, config: &Value) -> Raw {
        let process = spawn(folder, &[configured(folder, config)]);
        Raw { address: format!("https://{listen}"), http: client(), _process: process }
    }

    fn run(listen: SocketAddrV4, folder: TempDir, arguments: &[String]) -> Self {
        let process = spawn(&folder, arguments);
        Self {
            address: format!("https://{listen}"),
            ca: folder.path().join("vault-ca.pem"),
            http: client(),
            _process: process,
            _folder: folder,
        }
    }

    async fn answers(&self, path: &str, expected: impl Fn(StatusCode) -> bool) {
        let url = format!("{}/v1/{path}", self.address);
        eventually("OpenBao to start", async || {
            self.http.get(&url).send().await.is_ok_and(|answer| expected(answer.status()))
        })
        .await;
    }

    /// Starts a server with a Transit key `k` and an AppRole that is allowed to use it, all in the root
    /// namespace.
    pub(crate) async fn with_key() -> (Self, Credentials) {
        let bao = Self::start().await;
        bao.mount_transit("").await;
        bao.post("", "transit/keys/k", json!({})).await;
        let credentials = bao.credentials("", &policy("transit", "k"), json!({})).await;
        (bao, credentials)
    }

    pub(crate) async fn mount_transit(&self, namespace: &str) {
        self.post(namespace, "sys/mounts/transit", json!({ "type": "transit" })).await;
    }

    /// Creates an AppRole at `auth/approle`, with this policy and these further settings.
    pub(crate) async fn credentials(&self, namespace: &str, policy: &str, role: Value) -> Credentials {
        self.post(namespace, "sys/auth/approle", json!({ "type": "approle" })).await;
        self.set_policy(namespace, policy).await;
        let mut settings = json!({ "token_policies": "plugin" });
        settings.as_object_mut().unwrap().extend(role.as_object().unwrap().clone());
        self.post(namespace, "auth/approle/role/plugin", settings).await;
        let role_id = self.get(namespace, "auth/approle/role/plugin/role-id").await;
        let secret_id = self.post(namespace, "auth/approle/role/plugin/secret-id", json!({})).await;
        let text = |value: &Value, at: &str| value.pointer(at).and_then(Value::as_str).unwrap().to_owned();
        Credentials {
            role_id: text(&role_id, "/data/role_id"),
            secret_id: text(&secret_id, "/data/secret_id"),
        }
    }

    pub(crate) async fn set_policy(&self, namespace: &str, policy: &str) {
        self.post(namespace, "sys/policies/acl/plugin", json!({ "policy": policy })).await;
    }

    pub(crate) async fn get(&self, namespace: &str, path: &str) -> Value {
        self.request(Method::GET, namespace, path, None).await
    }

    pub(crate) async fn post(&self, namespace: &str, path: &str, body: Value) -> Value {
        self.request(Method::POST, namespace, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, namespace: &str, path: &str) {
        self.request(Method::DELETE, namespace, path, None).await;
    }

    /// Whether a request succeeds; false also for a request that is not valid HTTP.
    pub(crate) async fn allows(&self, namespace: &str, path: &str, body: Value) -> bool {
        let request = self.http.post(format!("{}/v1/{path}", self.address)).json(&body);
        let request = request.header("X-Vault-Token", ROOT_TOKEN).header("X-Vault-Namespace", namespace);
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    async fn request(&self, method: Method, namespace: &str, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.address));
        request = request.header("X-Vault-Token", ROOT_TOKEN).header("X-Vault-Namespace", namespace);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// A server without any setup; killed when dropped.
pub(crate) struct Raw {
    pub(crate) address: String,
    http: Client,
    _process: Child,
}

impl Raw {
    /// Waits until its health endpoint returns this status.
    pub(crate) async fn until(&self, health: u16) {
        let url = format!("{}/v1/sys/health", self.address);
        eventually("OpenBao", async || {
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status().as_u16() == health)
        })
        .await;
    }

    /// A request that needs no token.
    pub(crate) async fn put(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/v1/{path}", self.address);
        let answer = self.http.put(url).json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// The argument for this configuration.
fn configured(folder: &TempDir, config: &Value) -> String {
    let file = folder.path().join("config.json");
    fs::write(&file, config.to_string()).unwrap();
    format!("-config={}", file.display())
}

fn spawn(folder: &TempDir, arguments: &[String]) -> Child {
    let binary = Tools::here().bao().expect("`cargo xtask test kms` installs OpenBao");
    Command::new(binary)
        .arg("server")
        .args(arguments)
        .env_clear()
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A client for setup, without verification of certificates: the tests check that the plugin verifies them.
fn client() -> Client {
    Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap()
}

/// The credentials of an AppRole login.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) role_id: String,
    pub(crate) secret_id: String,
}

/// The policy that the plugin's documentation requires.
pub(crate) fn policy(mount: &str, key: &str) -> String {
    format!(
        r#"path "{mount}/encrypt/{key}" {{ capabilities = ["update"] }}
           path "{mount}/decrypt/{key}" {{ capabilities = ["update"] }}
           path "{mount}/keys/{key}" {{ capabilities = ["read"] }}"#
    )
}
