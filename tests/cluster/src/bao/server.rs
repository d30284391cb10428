//! The server's process, configuration and folder.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::Storage;
use crate::guarded::Guarded;
use crate::node::Launcher;
use crate::pki::Authority;
use crate::state::StateDir;
use crate::{files, ports};

const GRACE: Duration = Duration::from_secs(1);
/// The names of the certificate. Tests of `tls.serverName` use the last one.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "vault.example.com"];

pub(super) struct Server {
    binary: PathBuf,
    launcher: Launcher,
    storage: Storage,
    port: u16,
    log: PathBuf,
    // Declared, and so dropped, before the folder that it writes to.
    process: Option<Guarded>,
    state: StateDir,
}

impl Server {
    pub(super) fn start(
        binary: &Path,
        launcher: &Launcher,
        authority: &Authority,
        storage: Storage,
    ) -> Result<Self> {
        let state = StateDir::new(None)?;
        let folder = state.path();
        let (port, cluster) = (ports::free()?, ports::free()?);
        write_identity(folder, authority)?;
        let data = folder.join("data");
        std::fs::create_dir(&data).context("creating the server's data folder")?;
        let listener = json!({
            "address": format!("127.0.0.1:{port}"),
            "cluster_address": format!("127.0.0.1:{cluster}"),
            "tls_cert_file": folder.join("tls.crt"),
            "tls_key_file": folder.join("tls.key"),
        });
        let config = json!({
            "listener": [{"tcp": listener}],
            "storage": match storage {
                Storage::Memory => json!({"inmem": {}}),
                Storage::Disk => json!({"raft": {"path": data, "node_id": "one", "performance_multiplier": 1}}),
            },
            "api_addr": format!("https://127.0.0.1:{port}"),
            "cluster_addr": format!("https://127.0.0.1:{cluster}"),
            // Vault requires it if memory cannot be locked; OpenBao ignores it.
            "disable_mlock": true,
            "log_level": "warn",
        });
        files::replace(&folder.join("config.json"), &serde_json::to_vec_pretty(&config)?, 0o600)?;
        let mut server = Self {
            binary: binary.to_owned(),
            launcher: launcher.clone(),
            storage,
            port,
            log: folder.join("server.log"),
            process: None,
            state,
        };
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> Result<()> {
        let (_, output) = self.state.output("server.log")?;
        let mut command = self.launcher.guard(GRACE, &self.binary, &[]);
        command.arg("server").arg("-config").arg(self.state.path().join("config.json"));
        let (process, _) = Guarded::start(command, Some(output.try_clone()?), output)?;
        self.process = Some(process);
        Ok(())
    }

    /// Replaces the server's certificate by one of this authority: the server reads the files again at
    /// SIGHUP.
    pub(super) fn serve_by(&self, authority: &Authority) -> Result<()> {
        write_identity(self.state.path(), authority)?;
        let pid = self.process.as_ref().and_then(Guarded::program).and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).context("OpenBao does not run")?;
        kill_process(pid, Signal::HUP).context("sending SIGHUP to OpenBao")
    }

    pub(super) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.process.as_ref().and_then(Guarded::ended)
    }

    /// The last line of its log.
    pub(super) fn last_log_line(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    pub(super) fn stop(&mut self) {
        self.process = None;
    }

    pub(super) fn start_again(&mut self) -> Result<()> {
        ensure!(
            self.storage == Storage::Disk,
            "this OpenBao keeps its data in memory; use Bao::start_durable"
        );
        ensure!(self.process.is_none(), "OpenBao runs already");
        self.run()
    }
}

fn write_identity(folder: &Path, authority: &Authority) -> Result<()> {
    let identity = authority.server(&NAMES)?;
    files::replace(&folder.join("tls.crt"), identity.certificate.as_bytes(), 0o644)?;
    files::replace(&folder.join("tls.key"), identity.key.reveal().as_bytes(), 0o600)
}
