//! The settings of a cluster, and its start.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use keyward_test_tools::{ControlPlane, Tools};

use super::Cluster;
use crate::apiserver::{self, Settings};
use crate::etcd::Etcd;
use crate::node::{Backoff, Launcher};
use crate::pki::{Authority, SigningKey};
use crate::state::StateDir;
use crate::supervisor::Image;

/// A cluster that is not started yet.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    settings: Settings,
    backoff: Backoff,
    images: Vec<Image>,
    keep: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 1,
            settings: Settings {
                request_timeout: Duration::from_mins(1),
                file_poll: Duration::from_secs(1),
                more_args: Vec::new(),
            },
            backoff: Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(4) },
            images: Vec::new(),
            keep: None,
        }
    }
}

impl Builder {
    /// The number of nodes, each with an API server: `node-1`, `node-2`, …
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The API servers' `--request-timeout`, whole seconds; a minute by default.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// How often the API servers poll their encryption configuration; each second by default. Only servers
    /// built from tests/control-plane use this value.
    #[must_use]
    pub fn file_poll(mut self, poll: Duration) -> Self {
        self.settings.file_poll = poll;
        self
    }

    /// Further arguments of each API server; if a flag is given twice, the later one counts.
    #[must_use]
    pub fn apiserver_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.settings.more_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The first and the longest wait before a container that exited is restarted.
    #[must_use]
    pub fn restart_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff { first, longest };
        self
    }

    /// Adds images to the image map: which binary runs for which image.
    #[must_use]
    pub fn images(mut self, images: impl IntoIterator<Item = Image>) -> Self {
        self.images.extend(images);
        self
    }

    /// Stores everything in this folder, which must be new or empty, instead of a temporary one.
    #[must_use]
    pub fn keep(mut self, folder: impl Into<PathBuf>) -> Self {
        self.keep = Some(folder.into());
        self
    }

    /// Builds missing programs, starts everything, and returns when every API server is ready.
    pub async fn start(self) -> Result<Cluster> {
        crate::use_one_tls_provider();
        let tools = Tools::here();
        let (tools, launcher, programs) = tokio::task::spawn_blocking(move || -> Result<_> {
            let launcher = Launcher::find(&tools)?;
            let programs = tools.control_plane()?;
            Ok((tools, launcher, programs))
        })
        .await
        .context("preparing the tools")??;
        self.start_with(tools, launcher, &programs).await
    }

    async fn start_with(self, tools: Tools, launcher: Launcher, programs: &ControlPlane) -> Result<Cluster> {
        let state = StateDir::new(self.keep.as_deref())?;
        let etcd = Etcd::start(&programs.etcd, &launcher, &state).await?;
        let server = &programs.kube_apiserver;
        let mut images = vec![Image::repository(apiserver::IMAGE, &server.path).args(server.args.clone())];
        images.extend(self.images);
        let mut cluster = Cluster {
            tools,
            launcher,
            settings: self.settings,
            backoff: self.backoff,
            images,
            authority: Authority::new("keyward-test")?,
            tokens: SigningKey::new()?,
            kubeconfigs: AtomicUsize::new(0),
            nodes: Vec::new(),
            etcd,
            state,
        };
        for index in 0..self.nodes {
            let mut node = cluster.lay_out(index)?;
            node.start()?;
            cluster.nodes.push(node);
        }
        try_join_all((0..self.nodes).map(|index| cluster.wait_ready(index))).await?;
        Ok(cluster)
    }
}
