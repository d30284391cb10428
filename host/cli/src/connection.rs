//! The connection to the cluster: flags that all commands share.

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

/// Flags that select the cluster.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Connection {
    /// Path of the kubeconfig [default: KUBECONFIG, ~/.kube/config, or the Pod's own credential]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

impl Connection {
    /// Creates the client.
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        let config =
            keyward_operator::cluster::config(self.kubeconfig.as_deref(), self.context.as_deref()).await?;
        kube::Client::try_from(config).context("connecting")
    }
}
