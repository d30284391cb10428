//! Flags that select the provider modules, for every command that needs them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use keyward_engine::sources::{Search, locate};
use keyward_engine::{Engine, Options};

/// The folder of modules, and the cache of their compiled form.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Providers {
    /// Folder of provider modules [default: providers beside the program, then /usr/share/keyward/providers]
    #[arg(long, env = "KEYWARD_PROVIDERS", value_name = "DIR")]
    providers: Option<String>,
    /// Folder for compiled modules; no other user may write to it [default: none, modules are compiled at
    /// each start]
    #[arg(long, env = "KEYWARD_MODULE_CACHE", value_name = "DIR")]
    module_cache: Option<PathBuf>,
}

/// The hidden command that [`Providers::compile_separately`] runs.
pub(crate) const COMPILE: &str = "compile";

impl Providers {
    /// Compiles modules that the cache lacks in a separate process (decision 0027). The compiler takes
    /// several times the memory of everything else, and its pages of code stay in memory; both go when that
    /// process ends. The process has the same limits, so it ends. If it fails, this process compiles the
    /// modules. This process reports any error of a module.
    pub(crate) fn compile_separately(&self) {
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
            Ok(status) => tracing::debug!(%status, "modules were not compiled in a separate process"),
            Err(error) => tracing::debug!(%error, "modules were not compiled in a separate process"),
        }
    }

    /// Loads the modules. A refused module is logged, and the others work without it.
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
