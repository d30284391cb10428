//! The plugin as a process, and calls to it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use keyward_kms::{KeyCheck, KmsError, ProbeReport, ProbeSpec, StatusAnswer, probe, wait_ready};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::bao::{Bao, Credentials, DEADLINE, eventually};

pub(crate) const STATUS: ProbeSpec<'static> = ProbeSpec {
    call_timeout: Duration::from_secs(10),
    status_timeout: None,
    round_trip: false,
    key_check: None,
    make_key_check: false,
};
/// How long a plugin retries a login that cannot succeed: long enough for a response on a busy machine.
pub(crate) const PATIENCE: &str = "4s";
pub(crate) const ROUND_TRIP: ProbeSpec<'static> = ProbeSpec { round_trip: true, ..STATUS };

/// A command line of the plugin, with its files.
pub(crate) struct Plan {
    folder: TempDir,
    args: Vec<String>,
    proxy: Option<String>,
}

impl Plan {
    /// The arguments to use `transit/keys/k`, without ports.
    pub(crate) fn new(bao: &Bao, credentials: &Credentials) -> Self {
        let plan = Self::bare(credentials)
            .with("vault-address", &bao.address)
            .with("tls-ca-file", &bao.ca.display().to_string());
        plan.with("vault-key-path", "transit/keys/k")
    }

    /// The arguments without an address, a key and a CA.
    pub(crate) fn bare(credentials: &Credentials) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret_id = folder.path().join("secret-id");
        fs::write(&secret_id, &credentials.secret_id).unwrap();
        let socket = folder.path().join("kms.sock");
        Self { folder, args: Vec::new(), proxy: None }
            .with("listen-address", &format!("unix://{}", socket.display()))
            .with("approle-role-id", &credentials.role_id)
            .with("approle-secret-id-path", &secret_id.display().to_string())
            .with("health-port", "0")
            .with("metrics-port", "0")
    }

    /// Adds a flag. If it is set already, the last value counts.
    pub(crate) fn with(mut self, flag: &str, value: &str) -> Self {
        self.args.push(format!("-{flag}={value}"));
        self
    }

    /// Sets a proxy for https.
    pub(crate) fn through(mut self, proxy: &str) -> Self {
        self.proxy = Some(proxy.to_owned());
        self
    }

    pub(crate) fn without(mut self, flag: &str) -> Self {
        self.args.retain(|arg| !arg.starts_with(&format!("-{flag}=")));
        self
    }

    pub(crate) fn start(self) -> Plugin {
        let log = self.folder.path().join("log");
        let process = Command::new(env!("CARGO_BIN_EXE_keyward-test-kms-plugin"))
            .args(&self.args)
            .env_clear()
            .envs(self.proxy.map(|proxy| ("HTTPS_PROXY", proxy)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Plugin { socket: self.folder.path().join("kms.sock"), log, process, _folder: self.folder }
    }

    /// Starts it and waits until it answers; it need not be healthy.
    pub(crate) async fn start_answering(self) -> Plugin {
        let plugin = self.start();
        eventually("a Status answer", async || plugin.probe(&STATUS).await.status.is_some()).await;
        plugin
    }
}

/// A running plugin; killed when dropped.
pub(crate) struct Plugin {
    pub(crate) socket: PathBuf,
    log: PathBuf,
    process: Child,
    _folder: TempDir,
}

impl Plugin {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) async fn probe(&self, spec: &ProbeSpec<'_>) -> ProbeReport {
        probe(&self.socket, spec).await
    }

    /// Waits until it passes a round trip.
    pub(crate) async fn ready(&self) -> StatusAnswer {
        let report = wait_ready(&self.socket, &ROUND_TRIP, DEADLINE).await;
        assert_eq!(report.result, Ok(()), "{}", self.log());
        report.status.unwrap()
    }

    pub(crate) async fn key_check(&self) -> KeyCheck {
        let report = self.probe(&ProbeSpec { make_key_check: true, ..STATUS }).await;
        assert_eq!(report.result, Ok(()), "{}", self.log());
        report.key_check.unwrap()
    }

    pub(crate) async fn decrypts(&self, key_check: &KeyCheck) -> Result<(), KmsError> {
        self.probe(&ProbeSpec { key_check: Some(key_check), ..STATUS }).await.result
    }

    pub(crate) async fn failure(&self, spec: &ProbeSpec<'_>) -> KmsError {
        self.probe(spec).await.result.unwrap_err()
    }

    pub(crate) fn terminate(&self) {
        let id = i32::try_from(self.process.id().unwrap()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(DEADLINE, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("still running after {DEADLINE:?}:\n{}", self.log())).unwrap()
    }
}
