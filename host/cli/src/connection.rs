//! How a command reaches the cluster: everyone's flags.

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use kube::config::{KubeConfigOptions, Kubeconfig};

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
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig =
                    Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if self.context.is_some() => kube::Config::from_kubeconfig(&options).await?,
            None => kube::Config::infer().await?,
        };
        kube::Client::try_from(config).context("connecting")
    }
}
