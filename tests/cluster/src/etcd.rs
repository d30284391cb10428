//! etcd, and the values that are stored in it.

mod reader;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use keyward_test_tools::Program;

pub use reader::{Stored, StoredValues, storage_prefix};

use crate::guarded::Guarded;
use crate::http;
use crate::node::Launcher;
use crate::ports;
use crate::state::StateDir;
use crate::wait::{Seen, wait_until};

/// Short, because no test needs a clean stop of etcd.
const GRACE: Duration = Duration::from_millis(500);
const START: Duration = Duration::from_secs(30);
/// Another process may take the port between the choice and the start.
const TRIES: usize = 3;

/// A running etcd with one member, plain HTTP on loopback.
pub struct Etcd {
    url: String,
    reader: reader::Reader,
    _process: Guarded,
}

impl Etcd {
    pub(crate) async fn start(program: &Program, launcher: &Launcher, state: &StateDir) -> Result<Self> {
        let mut tried = Vec::new();
        for _ in 0..TRIES {
            match Self::try_start(program, launcher, state).await {
                Ok(etcd) => return Ok(etcd),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        bail!("etcd does not start: {}", tried.join("; then: "))
    }

    async fn try_start(program: &Program, launcher: &Launcher, state: &StateDir) -> Result<Self> {
        let (client, peer) = (ports::free()?, ports::free()?);
        let url = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let (log, output) = state.output("etcd.log")?;
        let mut command = launcher.guard(GRACE, &program.path, &program.args);
        command
            .arg("--data-dir")
            .arg(state.path().join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // A test's data need not survive a power cut.
            .args(["--unsafe-no-fsync", "--log-level", "warn"]);
        let (process, _) = Guarded::start(command, Some(output.try_clone()?), output)?;
        let health = http::client(None)?;
        wait_until("etcd's health", START, async || {
            if let Some(status) = process.ended() {
                // More waiting does not help; the next try has other ports.
                return Ok(Seen::Yes(Err(status)));
            }
            let answer = health.get(format!("{url}/health")).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            let healthy = status.is_success() && text.contains("\"true\"");
            Ok(if healthy { Seen::Yes(Ok(())) } else { Seen::NotYet(text) })
        })
        .await?
        .map_err(|status| anyhow::anyhow!("it exited with {status}"))
        .with_context(|| format!("its log is {}", log.display()))?;
        Ok(Self { reader: reader::Reader::new(url.clone(), health), url, _process: process })
    }

    /// The URL for clients: plain HTTP, no credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every key below a prefix with its value, all at one revision.
    pub async fn values(&self, prefix: &str) -> Result<StoredValues> {
        self.reader.values(prefix).await
    }

    /// One key's value.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.reader.value(key).await
    }

    /// How many objects of a resource (`secrets`, `configmaps`) are stored with each encryption prefix.
    pub async fn count_by_prefix(&self, resource: &str) -> Result<std::collections::BTreeMap<String, usize>> {
        Ok(self.values(&format!("/registry/{resource}/")).await?.by_prefix())
    }

    /// Deletes one key in etcd itself, past the API server.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.reader.delete(key).await
    }

    /// Compacts the whole history, so that continue tokens and old watches expire.
    pub async fn compact(&self) -> Result<()> {
        self.reader.compact().await
    }
}
