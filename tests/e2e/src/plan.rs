//! `keyward`, as an admin runs it; what `keyward plan -f` says of a change.

use std::process::{ExitStatus, Output};

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::{Binary, User};
use serde_json::Value;

use crate::{Keyward, Transcript, person};

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub said: String,
    /// Standard error.
    pub complained: String,
}

impl Keyward {
    /// Runs `keyward` as the cluster's admin does.
    pub async fn command(&self, arguments: &[&str]) -> Result<Answer> {
        self.command_as(&User::Admin, arguments).await
    }

    /// Runs `keyward` as somebody else does.
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

    /// Runs `keyward` on a node, as somebody does who is logged in there.
    pub async fn command_on(&self, node: usize, arguments: &[&str]) -> Result<Answer> {
        let tools = self.cluster.tools().clone();
        let program = tokio::task::spawn_blocking(move || tools.binary(Binary::Keyward)).await??;
        let program = program.to_string_lossy().into_owned();
        let command: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Ok(Answer::of(&self.cluster.node(node)?.exec(&command).await?))
    }

    /// Prepares a node to join, with the credential of [`person`] `join` for the first node's API server.
    pub async fn join(&self, node: usize) -> Result<Answer> {
        self.join_as(node, self.cluster.node(node)?.name()).await
    }

    /// As [`Self::join`], under whatever name.
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
        Self { status: output.status, said: text(&output.stdout), complained: text(&output.stderr) }
    }
}

/// Exit code: something would change.
const CHANGES: i32 = 2;

/// Runs it on what [`Keyward::apply`] would write, and tells what it printed.
///
/// # Errors
/// It says anything else than that something would change.
pub async fn plan(keyward: &Keyward, encryption: &Value, transcript: &Transcript) -> Result<()> {
    let file = keyward.cluster.folder().join("new.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&keyward.object(encryption))?)?;
    let file = file.to_str().context("the cluster's folder has a strange name")?;
    let modules = keyward.cluster.tools().modules();
    let modules = modules.to_str().context("the target folder has a strange name")?;
    let Answer { status, said, complained } =
        keyward.command(&["plan", "-f", file, "--providers", modules]).await?;
    // In one piece: others talk at the same time.
    transcript.say(format_args!("$ keyward plan -f new.yaml\n{said}"));
    if !complained.is_empty() {
        transcript.complain(complained);
    }
    ensure!(status.code() == Some(CHANGES), "the plan should say that something changes: {status}");
    Ok(())
}
