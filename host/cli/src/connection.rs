//! How a command reaches the cluster: everyone's flags.

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

/// Which cluster.
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
    /// The client.
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        let config =
            keyward_operator::cluster::config(self.kubeconfig.as_deref(), self.context.as_deref()).await?;
        kube::Client::try_from(config).context("connecting")
    }
}
