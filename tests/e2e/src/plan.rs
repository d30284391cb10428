//! What `keyward plan -f` says of a change, as an admin runs it.

use anyhow::{Result, ensure};
use keyward_test_cluster::{Binary, User};
use serde_json::Value;

use crate::{Keyward, Transcript};

/// Exit code: something would change.
const CHANGES: i32 = 2;

/// Runs it on what [`Keyward::apply`] would write, and tells what it printed.
///
/// # Errors
/// It says anything else than that something would change.
pub async fn plan(keyward: &Keyward, encryption: &Value, transcript: &Transcript) -> Result<()> {
    let file = keyward.cluster.folder().join("new.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&keyward.object(encryption))?)?;
    let tools = keyward.cluster.tools().clone();
    let program = tokio::task::spawn_blocking(move || tools.binary(Binary::Keyward)).await??;
    let output = tokio::process::Command::new(program)
        .args(["plan", "-f"])
        .arg(&file)
        .arg("--kubeconfig")
        .arg(keyward.cluster.kubeconfig(0, &User::Admin)?)
        .arg("--providers")
        .arg(keyward.cluster.tools().modules())
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    // In one piece: others talk at the same time.
    transcript.say(format_args!("$ keyward plan -f new.yaml\n{said}"));
    if !complained.is_empty() {
        transcript.complain(complained);
    }
    ensure!(
        output.status.code() == Some(CHANGES),
        "the plan should say that something changes: {}",
        output.status
    );
    Ok(())
}
