//! Where provider modules come from, for every command that needs them.

use std::path::PathBuf;
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

impl Providers {
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
