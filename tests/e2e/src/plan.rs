//! The `keyward` commands, as an admin runs them, and `keyward plan -f`.

use std::process::{ExitStatus, Output};

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::{Binary, User};
use serde_json::Value;

use crate::{Keyward, Transcript, person};

/// The result of a command.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Keyward {
    /// Runs `keyward` as the cluster's admin.
    pub async fn command(&self, arguments: &[&str]) -> Result<Answer> {
        self.command_as(&User::Admin, arguments).await
    }

    /// Runs `keyward` as another user.
    pub async fn command_as(&self, user: &User, arguments: &[&str]) -> Result<Answer> {
        let tools = self.cluster.tools().clone();
        let program = tokio::task::spawn_blocking(move || tools.binary(Binary::Keyward)).await??;
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig(0, user)?)
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Answer::of(&output))
    }

    /// Runs `keyward` on a node, as an admin who is logged in there.
    pub async fn command_on(&self, node: usize, arguments: &[&str]) -> Result<Answer> {
        let tools = self.cluster.tools().clone();
        let program = tokio::task::spawn_blocking(move || tools.binary(Binary::Keyward)).await??;
        let program = program.to_string_lossy().into_owned();
        let command: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Ok(Answer::of(&self.cluster.node(node)?.exec(&command).await?))
    }

    /// Prepares a node to join, with the credential of the [`person`] `join` for the first node's API server.
    pub async fn join(&self, node: usize) -> Result<Answer> {
        self.join_as(node, self.cluster.node(node)?.name()).await
    }

    /// Like [`Self::join`], with this name.
    pub async fn join_as(&self, node: usize, name: &str) -> Result<Answer> {
        let kubeconfig = self.cluster.kubeconfig(0, &person("join"))?;
        let kubeconfig = kubeconfig.to_string_lossy();
        let command =
            ["node-agent", "prepare", "--join", "--timeout=4m", "--node", name, "--kubeconfig", &kubeconfig];
        self.command_on(node, &command).await
    }
}

impl Answer {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Self { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// The exit code of `plan` if something would change.
const CHANGES: i32 = 2;

/// Runs `keyward plan` on the object that [`Keyward::apply`] would write, and prints its output.
///
/// # Errors
/// Its exit code is not the one for a change.
pub async fn plan(keyward: &Keyward, encryption: &Value, transcript: &Transcript) -> Result<()> {
    let file = keyward.cluster.folder().join("new.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&keyward.object(encryption))?)?;
    let file = file.to_str().context("the cluster's folder has a strange name")?;
    let modules = keyward.cluster.tools().modules();
    let modules = modules.to_str().context("the target folder has a strange name")?;
    let Answer { status, stdout, stderr } =
        keyward.command(&["plan", "-f", file, "--providers", modules]).await?;
    // In one call, because others print at the same time.
    transcript.say(format_args!("$ keyward plan -f new.yaml\n{stdout}"));
    if !stderr.is_empty() {
        transcript.say_error(stderr);
    }
    ensure!(status.code() == Some(CHANGES), "the plan must exit with {CHANGES}: {status}");
    Ok(())
}
