//! OpenBao (or the Vault that `BAO_BIN` names) with TLS, initialised and unsealed over HTTP. A test can seal
//! it, stop it and remove permissions.

mod admin;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use keyward_test_tools::Tools;
use reqwest::Method;
use serde_json::{Value, json};

pub use admin::{AppRole, Policy};

use crate::hidden::Hidden;
use crate::http;
use crate::node::Launcher;
use crate::pki::Authority;
use crate::wait::{Seen, wait_until};

const START: Duration = Duration::from_secs(30);
const TRIES: usize = 3;

/// Where a server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In memory, lost when the process exits; ready in half a second.
    Memory,
    /// Raft on disk, which survives a restart; ready in two to three seconds.
    Disk,
}

/// A running server. When this is dropped, the server stops and its folder is removed.
pub struct Bao {
    server: server::Server,
    http: reqwest::Client,
    authority: Arc<Authority>,
    root: Hidden,
    unseal: Hidden,
}

impl Bao {
    /// Starts a server that keeps everything in memory.
    pub async fn start(tools: &Tools) -> Result<Self> {
        Self::start_with(tools, Storage::Memory).await
    }

    /// Starts a server that can be stopped and started again ([`Self::stop`]).
    pub async fn start_durable(tools: &Tools) -> Result<Self> {
        Self::start_with(tools, Storage::Disk).await
    }

    async fn start_with(tools: &Tools, storage: Storage) -> Result<Self> {
        let tools = tools.clone();
        let (launcher, binary) =
            tokio::task::spawn_blocking(move || anyhow::Ok((Launcher::find(&tools)?, tools.bao()?)))
                .await
                .context("preparing OpenBao")??;
        let authority = Authority::new("keyward-test-kms")?;
        let http = http::client(Some(authority.pem()))?;
        let authority = Arc::new(authority);
        let mut tried = Vec::new();
        for _ in 0..TRIES {
            let server = server::Server::start(&binary, &launcher, &authority, storage)?;
            let mut bao = Self {
                server,
                http: http.clone(),
                authority: authority.clone(),
                root: Hidden::new(""),
                unseal: Hidden::new(""),
            };
            match bao.initialise().await {
                Ok(()) => return Ok(bao),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        bail!("OpenBao does not start: {}", tried.join("; then: "))
    }

    async fn initialise(&mut self) -> Result<()> {
        self.answering().await?;
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let answer = self.request(Method::PUT, "sys/init", Some(&shares)).await?;
        let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(Hidden::new);
        self.root = text("/root_token").context("no root token in the response to sys/init")?;
        self.unseal = text("/keys_base64/0").context("no key in the response to sys/init")?;
        self.unseal().await
    }

    async fn answering(&self) -> Result<()> {
        wait_until("OpenBao's response", START, async || {
            if let Some(status) = self.server.ended() {
                return Ok(Seen::Yes(Err(status)));
            }
            self.request(Method::GET, "sys/seal-status", None).await?;
            Ok(Seen::Yes(Ok(())))
        })
        .await?
        .map_err(|status| anyhow::anyhow!("it exited with {status}: {}", self.server.last_log_line()))
    }

    /// `https://127.0.0.1:PORT`. The certificate is also valid for `localhost` and `vault.example.com`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The certificate authority of its certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Replaces the server's certificate by one of this authority, and returns when the server uses it. A
    /// client that trusts only the previous authority fails at its next connection at the latest.
    pub async fn serve_by(&mut self, authority: Authority) -> Result<()> {
        self.server.serve_by(&authority)?;
        self.http = http::client(Some(authority.pem()))?;
        self.authority = Arc::new(authority);
        wait_until("OpenBao's new certificate", START, async || {
            self.request(Method::GET, "sys/seal-status", None).await?;
            Ok(Seen::Yes(()))
        })
        .await
    }

    /// The token that is allowed to do everything.
    pub fn root_token(&self) -> &Hidden {
        &self.root
    }

    /// The file with the server's own log.
    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// Any request to the API with the root token; `path` follows `/v1/` and begins with the namespace, if
    /// any.
    ///
    /// # Errors
    /// Anything but success, with the server's text; an error never contains the request's body.
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method.clone(), format!("{}/v1/{path}", self.address()));
        if !self.root.reveal().is_empty() {
            request = request.header("X-Vault-Token", self.root.reveal());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let what = || format!("{method} {path}");
        let answer = request.send().await.with_context(what)?;
        let status = answer.status();
        let text = answer.text().await.with_context(what)?;
        if !status.is_success() {
            bail!("{method} {path}: {status} {}", text.trim());
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path}: the response is not JSON"))
    }

    /// Seals it: every further use is refused with 503.
    pub async fn seal(&self) -> Result<()> {
        self.request(Method::PUT, "sys/seal", None).await.map(drop)
    }

    /// Unseals it, and waits until it serves.
    pub async fn unseal(&self) -> Result<()> {
        let key = json!({"key": self.unseal.reveal()});
        self.request(Method::PUT, "sys/unseal", Some(&key)).await?;
        wait_until("OpenBao's readiness", START, async || {
            self.request(Method::GET, "sys/health", None).await?;
            Ok(Seen::Yes(()))
        })
        .await
    }

    /// Stops the process: connections are refused. Only a durable server can be started again.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again at the same address, unsealed, with its stored data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.answering().await?;
        self.unseal().await
    }
}
