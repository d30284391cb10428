//! `keyward node-agent prepare --join`: prepares a joining control-plane node before its API server first
//! starts (objects: joining).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use keyward_core::ids::Revision;
use keyward_node::{Connection, Settings};

use super::place::Place;

/// `kubeconfig` has an admin's credential for another API server. `timeout` is the time that the operator has
/// to set the node's revision.
pub(super) async fn run(place: Place, kubeconfig: PathBuf, timeout: Duration) -> Result<ExitCode> {
    let place = place.find()?;
    let connection = Connection::new(&Settings::new(&place.node, kubeconfig)).await?;
    let report = |what: &str| crate::output::print(&format!("{what}\n")).unwrap_or_default();
    let joined = keyward_node::join(&place, &connection, timeout, report).await?;
    let done: String = joined.done.iter().map(|step| format!("done: {step}\n")).collect();
    let next = if joined.revision == Revision(0) {
        "the cluster has no revision yet: the API server starts without encryption, as the others do\n"
            .to_owned()
    } else {
        format!(
            "revision {} is installed; the API server of {} may start. It becomes ready when the node's agent has verified that its plugins decrypt the key checks\n",
            joined.revision, place.node
        )
    };
    crate::output::print(&format!("{done}{next}"))?;
    Ok(ExitCode::SUCCESS)
}
