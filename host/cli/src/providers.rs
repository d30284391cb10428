//! Where provider modules come from, for every command that needs them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use keyward_engine::sources::{Search, locate};
use keyward_engine::{Engine, Options};

/// Which modules, and where their compiled form is kept.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Providers {
    /// Folder of provider modules [default: providers beside the program, then /usr/share/keyward/providers]
    #[arg(long, env = "KEYWARD_PROVIDERS", value_name = "DIR")]
    providers: Option<String>,
    /// Folder for compiled modules, which nobody else may write to [default: none, modules are compiled at each start]
    #[arg(long, env = "KEYWARD_MODULE_CACHE", value_name = "DIR")]
    module_cache: Option<PathBuf>,
}

/// The hidden command that [`Providers::compile_apart`] runs.
pub(crate) const COMPILE: &str = "compile";

impl Providers {
    /// Has what the cache lacks compiled by a process of its own. A compiler takes several times the memory that all else
    /// does, and leaves pages of code behind that nobody needs again; both go with that process. It has the same limits,
    /// so it ends. Should it fail, modules are compiled here, and what is wrong with one is told here in any case.
    pub(crate) fn compile_apart(&self) {
        let Some(cache) = &self.module_cache else { return };
        let run = || -> std::io::Result<std::process::ExitStatus> {
            let mut compile = Command::new(std::env::current_exe()?);
            compile.args(["provider", COMPILE, "--module-cache"]).arg(cache);
            if let Some(providers) = &self.providers {
                compile.args(["--providers", providers]);
            }
            compile.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        match run() {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::debug!(%status, "modules were not compiled apart"),
            Err(error) => tracing::debug!(%error, "modules were not compiled apart"),
        }
    }

    /// Loads them. Modules that are refused are told in the log and degrade themselves alone.
    pub(crate) fn load(&self) -> Result<Arc<Engine>> {
        let executable = std::env::current_exe().ok();
        let search =
            Search { flag: self.providers.as_deref(), environment: None, executable: executable.as_deref() };
        let folder = locate(search).context("provider modules")?;
        let options = Options { cache: self.module_cache.clone(), ..Options::default() };
        let engine = Engine::open(&folder, options).with_context(|| format!("{}", folder.display()))?;
        Ok(Arc::new(engine))
    }
}
