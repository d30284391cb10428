//! `plan -f`: the change against the live cluster.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use kube::Api;

use crate::connection::Connection;
use crate::input;
use crate::plan::{Output, verdict};
use crate::providers::Providers;

/// Plans a file against the object in the cluster.
pub(crate) async fn plan(
    file: &str,
    output: Output,
    providers: &Providers,
    connection: &Connection,
) -> Result<ExitCode> {
    let wish = input::wish(file)?;
    anyhow::ensure!(
        wish.kind == "ClusterEncryption",
        "{file}: a {} cannot be compared with this cluster's ClusterEncryption",
        wish.kind
    );
    let client = connection.client().await?;
    let current = Api::<ClusterEncryption>::all(client)
        .get_opt(names::CLUSTER)
        .await
        .context("reading ClusterEncryption/cluster")?;
    let engine = providers.load()?;
    let plan =
        verdict(&current.map(|cluster| cluster.spec).unwrap_or_default(), &wish.spec, engine.as_ref())?;
    plan.print(output)?;
    Ok(plan.exit_code())
}
