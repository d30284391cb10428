//! The engine: a folder of modules, and their evaluations.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use keyward_core::provider::{
    Descriptor, Diagnosis, Evaluation, EvaluationRequest, Evaluator, Failure, ModuleDigest, Origin,
    ProviderError, Violation,
};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::compiled::{self, Cache};
use crate::error::EngineError;
use crate::evaluate::{evaluate, union, upgraded};
use crate::in_force::{Found, InForce, Loaded};
use crate::json;
use crate::limits::Limits;
use crate::memo::Memo;
use crate::module::Module;
use crate::runtime::Runtime;

/// Evaluations cached, in each of two generations: the configurations of a cluster's keys, and a few for `plan`.
const CACHED: usize = 128;

/// Settings of an engine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Limits of modules and calls.
    pub limits: Limits,
    /// The folder of compiled modules; created (0700) if it does not exist. Without it modules are compiled at each
    /// start.
    pub cache: Option<PathBuf>,
}

/// A module in force, for people.
#[derive(Clone, Debug)]
pub struct ModuleInfo {
    /// The name of its file, without the folder.
    pub file: String,
    /// Size of that file in bytes.
    pub size: usize,
    /// Its ABI version.
    pub abi: &'static str,
    /// Its imports: type-only interfaces of the ABI, or none.
    pub imports: Vec<String>,
    /// The result of `describe`.
    pub descriptor: Descriptor,
}

/// Loads provider modules and evaluates configurations with them.
///
/// [`Engine::reload`] replaces all modules at once; a current evaluation ends with the module that it began with.
/// Calls block as long as the module runs, within [`Limits`]: run them on blocking threads.
pub struct Engine {
    runtime: Arc<Runtime>,
    cache: Option<Cache>,
    source: Source,
    in_force: ArcSwap<InForce>,
    evaluations: Memo<(ModuleDigest, EvaluationRequest), Result<Evaluation, ProviderError>>,
    diagnoses: Memo<(ModuleDigest, EvaluationRequest, Failure), Result<Option<Diagnosis>, ProviderError>>,
}

pub(crate) enum Source {
    /// Every `*.wasm` in it.
    Folder(PathBuf),
    File(PathBuf),
}

impl Engine {
    /// Loads the modules of a folder (every `*.wasm`). Fails only if the folder cannot be read or WebAssembly cannot
    /// run at all; a module that is refused affects only its own provider type.
    pub fn open(folder: &Path, options: Options) -> Result<Self, EngineError> {
        let engine = Self::empty(Source::Folder(folder.to_owned()), options)?;
        engine.reload(&[])?;
        Ok(engine)
    }

    /// Loads one module. An error if it is refused.
    pub fn open_file(file: &Path, options: Options) -> Result<Self, EngineError> {
        let engine = Self::empty(Source::File(file.to_owned()), options)?;
        let module = Ok(engine.load(&InForce::default(), file)?);
        let found = Found { file: file_name(file), module };
        engine.in_force.store(Arc::new(InForce::decide(vec![found], &InForce::default(), &[])));
        Ok(engine)
    }

    pub(crate) fn empty(source: Source, options: Options) -> Result<Self, EngineError> {
        let runtime = Arc::new(Runtime::new(options.limits)?);
        // Without the cache each start compiles, which only takes some milliseconds longer.
        let cache = options.cache.and_then(|path| {
            Cache::open(&path)
                .inspect_err(|error| tracing::warn!(%error, "modules are compiled at each start"))
                .ok()
        });
        Ok(Self {
            runtime,
            cache,
            source,
            in_force: ArcSwap::default(),
            evaluations: Memo::new(CACHED),
            diagnoses: Memo::new(CACHED),
        })
    }

    /// Reads the folder again and replaces changed modules. `in_use` are the evaluations that a running system
    /// depends on: a version that would change which of them name the same KEK, or that refuses one of them, is not
    /// used, and a module that they need stays in use after its file is deleted (decision 0026).
    /// [`Evaluator::degraded`] has the errors.
    pub fn reload(&self, in_use: &[EvaluationRequest]) -> Result<(), EngineError> {
        let before = self.in_force.load_full();
        let found = self
            .files()?
            .iter()
            .map(|path| Found { file: file_name(path), module: self.load(&before, path) })
            .collect();
        let now = InForce::decide(found, &before, in_use);
        for (kind, Loaded { file, module }) in &now.providers {
            tracing::info!(
                provider = kind,
                file,
                module = module.descriptor.module.0,
                "provider module loaded"
            );
        }
        for error in &now.degraded {
            tracing::warn!(%error, "provider module not loaded");
        }
        self.in_force.store(Arc::new(now));
        Ok(())
    }

    /// The modules in force.
    pub fn modules(&self) -> Vec<ModuleInfo> {
        let in_force = self.in_force.load();
        in_force
            .providers
            .values()
            .map(|Loaded { file, module }| ModuleInfo {
                file: file.clone(),
                size: module.size,
                abi: module.abi_version(),
                imports: module.imports.clone(),
                descriptor: module.descriptor.clone(),
            })
            .collect()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.runtime.limits
    }

    /// The result of `upgrade` for a stored configuration (a `kms` object): the current form of the config field.
    pub fn upgraded(&self, kms: &Value) -> Result<Value, ProviderError> {
        let (module, config) = self.select(&EvaluationRequest::new(Origin::Stored, kms))?;
        upgraded(&module, &config).map_err(|refusal| refusal.into_error(&module))
    }

    pub(crate) fn module(&self, provider_type: &str) -> Option<Arc<Module>> {
        self.in_force.load().providers.get(provider_type).map(|loaded| Arc::clone(&loaded.module))
    }

    /// The module and the configuration of a request.
    pub(crate) fn select(&self, request: &EvaluationRequest) -> Result<(Arc<Module>, Value), ProviderError> {
        let kms = json::parse(&request.kms, self.runtime.limits.json_depth).map_err(|found| {
            let message = format!("the kms configuration is {found}");
            ProviderError::Invalid { violations: vec![Violation { field: String::new(), message }] }
        })?;
        let in_force = self.in_force.load();
        match union(&kms, &in_force.fields()) {
            Ok((kind, config)) => match in_force.providers.get(kind) {
                Some(loaded) => Ok((Arc::clone(&loaded.module), config.clone())),
                None => Err(in_force.not_loaded(kind.to_owned(), Vec::new())),
            },
            Err(ProviderError::NotLoaded { provider_type, loaded, .. }) => {
                Err(in_force.not_loaded(provider_type, loaded))
            }
            Err(error) => Err(error),
        }
    }

    fn evaluation(
        &self,
        module: &Module,
        request: &EvaluationRequest,
        config: &Value,
    ) -> Result<Evaluation, ProviderError> {
        let key = (module.descriptor.module.clone(), request.clone());
        self.evaluations.get_or(&key, || match evaluate(module, request.origin, config) {
            Ok(evaluation) => (Ok(evaluation), true),
            Err(refusal) => {
                let lasting = !refusal.is_transient();
                (Err(refusal.into_error(module)), lasting)
            }
        })
    }

    pub(crate) fn load(&self, before: &InForce, path: &Path) -> Result<Arc<Module>, EngineError> {
        let bytes = read(path, self.runtime.limits.component_bytes)?;
        let digest = compiled::digest(&bytes);
        let same =
            |loaded: &&Loaded| loaded.module.descriptor.module.0.strip_prefix("sha256:") == Some(&digest);
        match before.providers.values().find(same) {
            Some(loaded) => Ok(Arc::clone(&loaded.module)),
            None => Ok(Arc::new(Module::load(&self.runtime, self.cache.as_ref(), &digest, &bytes)?)),
        }
    }

    /// The files to load, sorted, so that every process has the same order.
    fn files(&self) -> Result<Vec<PathBuf>, EngineError> {
        let path = match &self.source {
            Source::File(path) => return Ok(vec![path.clone()]),
            Source::Folder(path) => path,
        };
        let failed = |source| EngineError::Directory { path: path.clone(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension() == Some(OsStr::new("wasm")) {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Evaluator for Engine {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.in_force.load().providers.values().map(|loaded| loaded.module.descriptor.clone()).collect()
    }

    fn degraded(&self) -> Vec<ProviderError> {
        self.in_force.load().degraded.clone()
    }

    fn evaluate(&self, request: &EvaluationRequest) -> Result<Evaluation, ProviderError> {
        let (module, config) = self.select(request)?;
        self.evaluation(&module, request, &config)
    }

    fn diagnose(
        &self,
        request: &EvaluationRequest,
        failure: &Failure,
    ) -> Result<Option<Diagnosis>, ProviderError> {
        let (module, config) = self.select(request)?;
        let normalized = self.evaluation(&module, request, &config)?.normalized;
        let key = (module.descriptor.module.clone(), request.clone(), failure.clone());
        self.diagnoses.get_or(&key, || match module.diagnose(&normalized, failure) {
            Ok(diagnosis) => (Ok(diagnosis), true),
            Err(error) => {
                let lasting = !error.is_transient();
                (Err(error.in_call(module.provider_type(), "diagnose")), lasting)
            }
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A file's bytes, at most one more than the limit, so that a larger file is not read whole.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, EngineError> {
    let regular = |metadata: &Metadata| if metadata.is_file() { Ok(()) } else { Err(EngineError::NotAFile) };
    // Before it is opened, since opening a device can have effects; and after, since the path can be another file by
    // then.
    regular(&std::fs::metadata(path).map_err(EngineError::Read)?)?;
    // Without NONBLOCK, opening a FIFO waits for a writer; for a file the flag has no effect.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| EngineError::Read(error.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(EngineError::Read)?;
    regular(&metadata)?;
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let size = metadata.len().min(most);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    file.take(most).read_to_end(&mut bytes).map_err(EngineError::Read)?;
    Ok(bytes)
}
