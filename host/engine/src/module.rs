//! Loads one provider module, and calls its functions. Every limit and every check of the ABI is here, for all of its
//! versions.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keyward_core::provider::{
    Descriptor, Diagnosis, Failure, Kek, ModuleDigest, Plugin, Reference, Violation,
};
use serde_json::Value;
use wasmtime::Trap;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use crate::abi::{self, Abi, Call, RawPlugin};
use crate::compiled::Cache;
use crate::error::EngineError;
use crate::meter::{Exceeded, Meter};
use crate::runtime::Runtime;
use crate::schema::Schema;
use crate::text::{error_text, printable};
use crate::{check, describe, json, parts, text};

/// Functions that are compiled at a time, for any number of cores.
const COMPILERS: usize = 2;

/// A module that passed every check at load.
pub(crate) struct Module {
    pub(crate) descriptor: Descriptor,
    pub(crate) schema: Schema,
    /// Size of its file in bytes.
    pub(crate) size: usize,
    /// Its imports: type-only interfaces of the ABI, or none.
    pub(crate) imports: Vec<String>,
    runtime: Arc<Runtime>,
    pre: InstancePre<Meter>,
    abi: Box<dyn Abi>,
}

/// The result of a function that may refuse its input.
pub(crate) type Checked<T> = Result<T, Vec<Violation>>;

/// The normal form of a configuration.
#[derive(Debug, PartialEq)]
pub(crate) struct Normalized {
    pub(crate) config: Value,
    pub(crate) warnings: Vec<Violation>,
}

/// The functions of the ABI that take a configuration or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Describe,
    Normalize,
    Upgrade,
    KekIdentity,
    References,
    Render,
    Requirements,
}

impl Function {
    /// Functions with a configuration as their only parameter.
    pub(crate) const OF_CONFIGURATION: [Self; 6] = [
        Self::Normalize,
        Self::Upgrade,
        Self::KekIdentity,
        Self::References,
        Self::Render,
        Self::Requirements,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Normalize => "normalize",
            Self::Upgrade => "upgrade",
            Self::KekIdentity => "kek-identity",
            Self::References => "references",
            Self::Render => "render",
            Self::Requirements => "requirements",
        }
    }
}

/// The resources that one call used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) fuel: u64,
    pub(crate) memory_bytes: usize,
    pub(crate) time: Duration,
}

impl Module {
    /// Loads a component with this digest (hexadecimal): compiles it or takes it from the cache, checks its imports and
    /// exports, and calls `describe`.
    pub(crate) fn load(
        runtime: &Arc<Runtime>,
        cache: Option<&Cache>,
        digest: &str,
        bytes: &[u8],
    ) -> Result<Self, EngineError> {
        recognize(bytes, runtime.limits.component_bytes)?;
        let component = compile(runtime, cache, digest, bytes)?;
        let imports = imports(&component)?;
        resources(&component, runtime)?;
        let abi = abi::bind(&component)?;
        let pre = runtime
            .linker()
            .instantiate_pre(&component)
            .map_err(|error| EngineError::Instantiate { message: error_text(&error) })?;
        let raw = run(runtime, &pre, 0, |call| {
            abi.check(call)?;
            abi.describe(call).map_err(|error| classify(&error, runtime))
        })
        .0?;
        let module = ModuleDigest(format!("sha256:{digest}"));
        let (descriptor, schema) = describe::check(raw, module, runtime.limits.json_depth)?;
        Ok(Self { descriptor, schema, size: bytes.len(), imports, runtime: Arc::clone(runtime), pre, abi })
    }

    pub(crate) fn provider_type(&self) -> &str {
        &self.descriptor.provider_type
    }

    pub(crate) fn abi_version(&self) -> &'static str {
        self.abi.version()
    }

    /// The normal form of a configuration, or all violations in it.
    pub(crate) fn normalize(&self, config: &Value) -> Result<Checked<Normalized>, EngineError> {
        let result =
            self.with_config("normalize", config, |call, config| self.abi.normalize(call, config))?;
        match result {
            Err(found) => refusal(found),
            Ok(raw) => {
                let config = self.config("normalize", &raw.config)?;
                Ok(Ok(Normalized { config, warnings: text::violations(raw.warnings) }))
            }
        }
    }

    /// The current form of a configuration that an earlier version stored.
    pub(crate) fn upgrade(&self, stored: &Value) -> Result<Checked<Value>, EngineError> {
        match self.with_config("upgrade", stored, |call, stored| self.abi.upgrade(call, stored))? {
            Err(found) => refusal(found),
            Ok(config) => Ok(Ok(self.config("upgrade", &config)?)),
        }
    }

    /// Which KEK a normalized configuration names.
    pub(crate) fn kek_identity(&self, config: &Value) -> Result<Kek, EngineError> {
        check::kek(
            self.with_config("kek-identity", config, |call, config| self.abi.kek_identity(call, config))?,
        )
    }

    /// The references of a normalized configuration, to objects that the configuration as it was `written` names.
    pub(crate) fn references(
        &self,
        config: &Value,
        written: &Value,
    ) -> Result<Checked<Vec<Reference>>, EngineError> {
        let found =
            self.with_config("references", config, |call, config| self.abi.references(call, config))?;
        check::references(&found, &self.schema, config, written)?;
        let own = check::own_secrets(&found);
        Ok(if own.is_empty() { Ok(found) } else { Err(own) })
    }

    /// The plugin of a normalized configuration with these references.
    pub(crate) fn render(
        &self,
        config: &Value,
        references: &[Reference],
    ) -> Result<Checked<Plugin>, EngineError> {
        match self.with_config("render", config, |call, config| self.abi.render(call, config))? {
            Err(found) => refusal(found),
            Ok(RawPlugin::External(endpoint)) => {
                check::endpoint(&endpoint)?;
                Ok(Ok(Plugin::External(endpoint)))
            }
            Ok(RawPlugin::Managed(mut container, settings)) => {
                container.settings = describe::unique(settings).map_err(|found| EngineError::Contract {
                    message: format!("in the container's settings: {found}"),
                })?;
                check::container(&container, references)?;
                let readable = check::readable_secrets(&container, references);
                Ok(if readable.is_empty() { Ok(Plugin::Managed(container)) } else { Err(readable) })
            }
        }
    }

    /// The diagnosis of a failure.
    pub(crate) fn diagnose(
        &self,
        config: &Value,
        failure: &Failure,
    ) -> Result<Option<Diagnosis>, EngineError> {
        let size = failure.message.len() + failure.log_tail.iter().map(String::len).sum::<usize>();
        let result =
            self.call("diagnose", config, size, |call, config| self.abi.diagnose(call, config, failure)).0?;
        Ok(result.map(|d| Diagnosis {
            cause: printable(d.cause),
            summary: printable(d.summary),
            remedy: printable(d.remedy),
            retryable: d.retryable,
        }))
    }

    /// The permissions that the KMS must grant.
    pub(crate) fn requirements(&self, config: &Value) -> Result<Vec<String>, EngineError> {
        let found =
            self.with_config("requirements", config, |call, config| self.abi.requirements(call, config))?;
        Ok(found.into_iter().map(printable).collect())
    }

    /// Calls one function and drops its result, for measurements.
    pub(crate) fn use_of(&self, function: Function, config: &Value) -> Result<Usage, EngineError> {
        let (result, usage) = self.call(function.name(), config, 0, |call, config| match function {
            Function::Describe => self.abi.describe(call).map(drop),
            Function::Normalize => self.abi.normalize(call, config).map(drop),
            Function::Upgrade => self.abi.upgrade(call, config).map(drop),
            Function::KekIdentity => self.abi.kek_identity(call, config).map(drop),
            Function::References => self.abi.references(call, config).map(drop),
            Function::Render => self.abi.render(call, config).map(drop),
            Function::Requirements => self.abi.requirements(call, config).map(drop),
        });
        result.map(|()| usage)
    }

    fn with_config<T>(
        &self,
        name: &'static str,
        config: &Value,
        function: impl FnOnce(&mut Call, &str) -> wasmtime::Result<T>,
    ) -> Result<T, EngineError> {
        self.call(name, config, 0, function).0
    }

    /// One call of the function `name`; `more` is the size of the input beside the configuration.
    fn call<T>(
        &self,
        name: &'static str,
        config: &Value,
        more: usize,
        function: impl FnOnce(&mut Call, &str) -> wasmtime::Result<T>,
    ) -> (Result<T, EngineError>, Usage) {
        let _span = tracing::debug_span!("provider call", provider = self.provider_type(), name).entered();
        let config = config.to_string();
        run(&self.runtime, &self.pre, config.len().saturating_add(more), |call| {
            function(call, &config).map_err(|error| classify(&error, &self.runtime))
        })
    }

    /// A configuration that the module returned.
    fn config(&self, function: &str, text: &str) -> Result<Value, EngineError> {
        match json::parse(text, self.runtime.limits.json_depth) {
            Ok(value) if value.is_object() => Ok(value),
            Ok(_) => Err(EngineError::Contract {
                message: format!("{function} returned JSON that is not an object"),
            }),
            Err(found) => Err(EngineError::Contract { message: format!("{function} returned {found}") }),
        }
    }
}

/// One call, in a fresh instance with all limits: no state of a call can reach another.
fn run<T>(
    runtime: &Runtime,
    pre: &InstancePre<Meter>,
    input: usize,
    function: impl FnOnce(&mut Call) -> Result<T, EngineError>,
) -> (Result<T, EngineError>, Usage) {
    let limits = &runtime.limits;
    if input > limits.input_bytes {
        let error = EngineError::InputTooLarge { size: input, limit: limits.input_bytes };
        return (Err(error), Usage::default());
    }
    let _permit = runtime.permit();
    let start = Instant::now();
    let mut store = match runtime.store() {
        Ok(store) => store,
        Err(error) => return (Err(error), Usage::default()),
    };
    let instance = match pre.instantiate(&mut store) {
        Ok(instance) => instance,
        Err(error) => {
            let error = match classify(&error, runtime) {
                EngineError::Output { message, .. } => EngineError::Instantiate { message },
                known => known,
            };
            return (Err(error), Usage::default());
        }
    };
    let mut call = Call { store, instance };
    let result = function(&mut call);
    let usage = Usage {
        fuel: limits.fuel.saturating_sub(call.store.get_fuel().unwrap_or(0)),
        memory_bytes: call.store.data().memory_used(),
        time: start.elapsed(),
    };
    (result, usage)
}

/// Classifies the error that ended a call, by type.
fn classify(error: &wasmtime::Error, runtime: &Runtime) -> EngineError {
    let limits = &runtime.limits;
    if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        return match exceeded {
            Exceeded::Memory => EngineError::Memory { limit: limits.memory_bytes },
            Exceeded::Tables => EngineError::Tables { limit: limits.table_elements },
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => EngineError::Fuel { limit: limits.fuel },
        Some(Trap::Interrupt) => EngineError::Deadline { limit: limits.deadline },
        Some(Trap::StackOverflow) => EngineError::Stack { limit: limits.stack_bytes },
        Some(trap) => EngineError::Trap(*trap),
        None => match error.downcast_ref::<std::str::Utf8Error>() {
            Some(error) => EngineError::NotUtf8(*error),
            None => EngineError::Output { limit: limits.output_bytes, message: error_text(error) },
        },
    }
}

/// A refusal with at least one violation.
fn refusal<T>(found: Vec<Violation>) -> Result<Checked<T>, EngineError> {
    if found.is_empty() {
        return Err(EngineError::Contract {
            message: "it refuses the configuration without a reason".to_owned(),
        });
    }
    Ok(Err(text::violations(found)))
}

/// Recognizes a file by its first bytes: magic, then version 1 for a core module, or layer 1 for a component.
fn recognize(bytes: &[u8], limit: usize) -> Result<(), EngineError> {
    if bytes.len() > limit {
        return Err(EngineError::ComponentTooLarge { limit });
    }
    match bytes.strip_prefix(b"\0asm") {
        None => Err(EngineError::NotWasm),
        Some([1, 0, 0, 0, ..]) => Err(EngineError::NotComponent),
        Some(_) => Ok(()),
    }
}

/// Compiles within the time limit.
///
/// Compiling cannot be stopped: after the limit it continues in threads that nobody waits for, and its result is
/// dropped. Then it is bounded by the component's [`crate::limits::Parts`], which were checked before. There is one
/// such compilation for each module, since modules are only loaded at start and on request.
fn compile(
    runtime: &Arc<Runtime>,
    cache: Option<&Cache>,
    digest: &str,
    bytes: &[u8],
) -> Result<Component, EngineError> {
    if let Some(component) = cache.and_then(|cache| cache.get(&runtime.engine, digest)) {
        return Ok(component);
    }
    // A cached module is not counted again: counting takes longer than all other steps of a cached load.
    parts::check(bytes, &runtime.limits)?;
    let limit = runtime.limits.compile_time;
    let (sender, receiver) = mpsc::channel();
    let (engine, owned) = (runtime.engine.clone(), bytes.to_vec());
    let no_thread =
        |error: String| EngineError::Runtime { message: format!("no thread for compiling: {error}") };
    // Functions are compiled in parallel on the threads of the pool that this runs in. The default is one thread for
    // each core, and each can take the memory that one function needs.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(COMPILERS)
        .thread_name(|_| "provider-compile".to_owned())
        .build()
        .map_err(|error| no_thread(error.to_string()))?;
    std::thread::Builder::new()
        .name("provider-compile".to_owned())
        .spawn(move || {
            // After the time limit nobody receives it.
            let _ = sender.send(pool.install(|| Component::from_binary(&engine, &owned)));
        })
        .map_err(|error| no_thread(error.to_string()))?;
    let component = match receiver.recv_timeout(limit) {
        Ok(Ok(component)) => component,
        Ok(Err(error)) => return Err(EngineError::Malformed { message: error_text(&error) }),
        Err(mpsc::RecvTimeoutError::Timeout) => return Err(EngineError::CompileTime { limit }),
        // The thread ended without a result: the compiler panicked.
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            return Err(EngineError::Malformed { message: "the compiler panicked".to_owned() });
        }
    };
    if let Some(cache) = cache {
        cache.put(&runtime.engine, digest, &component);
    }
    Ok(component)
}

/// The component's imports, all of which must be type-only interfaces of the ABI.
fn imports(component: &Component) -> Result<Vec<String>, EngineError> {
    let engine = component.engine();
    let mut accepted = Vec::new();
    for (name, item) in component.component_type().imports(engine) {
        let refused = |import: String| Err(EngineError::Import { import });
        let ComponentItem::ComponentInstance(instance) = &item.ty else {
            return refused(name.to_owned());
        };
        let mut members = instance.exports(engine);
        if let Some((member, _)) = members.find(|(_, item)| !matches!(item.ty, ComponentItem::Type(_))) {
            return refused(format!("{name}#{member}"));
        }
        if !abi::is_type_interface(name) {
            return refused(name.to_owned());
        }
        accepted.push(name.to_owned());
    }
    Ok(accepted)
}

/// Checks that the pool has room for the component's memories and tables.
fn resources(component: &Component, runtime: &Runtime) -> Result<(), EngineError> {
    let limits = &runtime.limits;
    let Some(required) = component.resources_required() else {
        // Only if it instantiates an import, and it has no import that can be instantiated.
        return Err(EngineError::Malformed { message: "its contents cannot be determined".to_owned() });
    };
    let within = |what, needed: u32, limit: usize| match usize::try_from(needed) {
        Ok(needed) if needed <= limit => Ok(()),
        _ => Err(EngineError::Resources { what, needed: needed as usize, limit }),
    };
    within("memories", required.num_memories, limits.memories)?;
    within("tables", required.num_tables, limits.tables)
}
