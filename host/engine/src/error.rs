//! Errors of a module, classified by type and never by text.

use std::path::PathBuf;
use std::time::Duration;

use keyward_core::provider::ProviderError;
use wasmtime::Trap;

use crate::text::printable;

/// Why a module is not loaded, or why a call failed.
///
/// [`EngineError::category`] is the bounded label for metrics and condition reasons.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The requested folder of modules cannot be read.
    #[error("cannot read the provider modules in {}: {source}; check --providers", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// No folder of modules exists.
    #[error("no folder of provider modules was found (searched: {}); name one with --providers or KEYWARD_PROVIDERS",
        searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoDirectory {
        /// The folders that were searched.
        searched: Vec<PathBuf>,
    },
    /// Modules cannot be loaded from this source.
    #[error(
        "provider modules cannot be loaded from {source_name:?}: images are not supported yet; use a folder"
    )]
    UnsupportedSource {
        /// The requested source.
        source_name: String,
    },
    /// A module's file cannot be read.
    #[error("cannot read the file: {0}")]
    Read(std::io::Error),
    /// The path is not a file but a folder, a FIFO to which perhaps nobody ever writes, or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file is larger than a component may be.
    #[error("the file is larger than the {limit} bytes that a provider module may have")]
    ComponentTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The file does not begin as WebAssembly does.
    #[error("it is not WebAssembly; build the provider module as guest-sdk/README.md describes")]
    NotWasm,
    /// A core module: it has no interface types, so no function can be called.
    #[error("it is a core module, not a component; make a component of it as guest-sdk/README.md describes")]
    NotComponent,
    /// A component that cannot be compiled: truncated, invalid, or using what the host does not enable.
    #[error("it is not a valid component: {message}")]
    Malformed {
        /// The compiler's error.
        message: String,
    },
    /// Compiling takes too long.
    #[error("it did not compile within {limit:?}")]
    CompileTime {
        /// The limit.
        limit: Duration,
    },
    /// It imports something of the host. A module gets nothing, so it can leak nothing and depends on nothing.
    #[error(
        "it imports {import}; a provider module imports no function, so build it without WASI or any host API"
    )]
    Import {
        /// The import's name.
        import: String,
    },
    /// Its ABI version is not known to this host.
    #[error("it exports no {expected}{}", found.as_ref().map(|f| format!(" (but {f})")).unwrap_or_default())]
    AbiVersion {
        /// The newest interface that is accepted.
        expected: String,
        /// Another version of the interface that it exports instead.
        found: Option<String>,
    },
    /// A function of the ABI is missing or has another type.
    #[error("its export {export} does not match the ABI: {message}")]
    Export {
        /// The export's name.
        export: String,
        /// The difference.
        message: String,
    },
    /// It has more parts than the host has room for.
    #[error("it needs {needed} {what}, more than the {limit} that a provider module may have")]
    Resources {
        /// `memories`, `tables`, `functions`, `bytes in one function`, …: one for each of the limits.
        what: &'static str,
        /// How many it needs.
        needed: usize,
        /// The limit.
        limit: usize,
    },
    /// Several files have a module for one provider type or one config field: it is not known which one is intended.
    #[error("several modules are for {what}: {}; keep one", files.join(", "))]
    Duplicate {
        /// `type X`, or `config field x`.
        what: String,
        /// The files.
        files: Vec<String>,
    },
    /// A new version that would change configurations in use.
    #[error("the new version is not used: {message}")]
    Regression {
        /// The change.
        message: String,
    },
    /// The file is gone while configurations of its type are in use.
    #[error("its file is gone, but configurations in use need this module")]
    FileGone,

    /// The input is larger than a call accepts.
    #[error("the configuration has {size} bytes, more than the {limit} that a provider module accepts")]
    InputTooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The call used all of its fuel.
    #[error(
        "it used all of its {limit} units of fuel: it loops, or does much more work than a provider should"
    )]
    Fuel {
        /// The limit.
        limit: u64,
    },
    /// The call ran past the deadline.
    #[error("it ran longer than {limit:?}")]
    Deadline {
        /// The limit.
        limit: Duration,
    },
    /// The call requested more memory than the limit.
    #[error("it requested more than {limit} bytes of memory")]
    Memory {
        /// The limit in bytes.
        limit: usize,
    },
    /// The call requested more table elements than the limit.
    #[error("it requested more than {limit} table elements")]
    Tables {
        /// The limit.
        limit: usize,
    },
    /// The call recursed too deeply.
    #[error("it recursed deeper than its {limit} bytes of stack")]
    Stack {
        /// The limit in bytes.
        limit: usize,
    },
    /// The call trapped: a panic of a Rust module is [`Trap::UnreachableCodeReached`].
    #[error("it crashed: {0}")]
    Trap(Trap),
    /// It returned text that is not UTF-8.
    #[error("it returned text that is not UTF-8: {0}")]
    NotUtf8(std::str::Utf8Error),
    /// The result cannot be copied: it is larger than the limit, or breaks the rules of the component model (pointers
    /// outside of its memory, an unknown case of a variant).
    #[error("its result cannot be read (the limit is {limit} bytes): {message}")]
    Output {
        /// The limit in bytes.
        limit: usize,
        /// The error.
        message: String,
    },
    /// It cannot be instantiated.
    #[error("it cannot be instantiated: {message}")]
    Instantiate {
        /// Why.
        message: String,
    },
    /// It returned something that the ABI does not allow.
    #[error("it breaks the provider contract: {message}")]
    Contract {
        /// The violation, and what is allowed.
        message: String,
    },

    /// WebAssembly cannot run on this machine or with these limits.
    #[error("cannot set up the WebAssembly runtime: {message}")]
    Runtime {
        /// Why.
        message: String,
    },
    /// The folder of compiled modules cannot be trusted or used.
    #[error("the folder of compiled modules {} is not used: {message}", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl EngineError {
    /// A bounded label.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Directory { .. } | Self::NoDirectory { .. } | Self::UnsupportedSource { .. } => "source",
            Self::Read(_) | Self::NotAFile | Self::FileGone => "file",
            Self::ComponentTooLarge { .. } | Self::CompileTime { .. } | Self::Resources { .. } => "size",
            Self::NotWasm | Self::NotComponent | Self::Malformed { .. } => "format",
            Self::Import { .. } => "import",
            Self::AbiVersion { .. } | Self::Export { .. } => "abi",
            Self::Duplicate { .. } => "duplicate",
            Self::Regression { .. } => "regression",
            Self::InputTooLarge { .. } => "input",
            Self::Fuel { .. } => "fuel",
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } | Self::Tables { .. } => "memory",
            Self::Stack { .. } | Self::Trap(_) => "trap",
            Self::NotUtf8(_) | Self::Output { .. } => "output",
            Self::Instantiate { .. } => "instantiate",
            Self::Contract { .. } => "contract",
            Self::Runtime { .. } => "runtime",
            Self::Cache { .. } => "cache",
        }
    }

    /// Whether the same call can have another result: only the wall clock and the machine are not part of the input.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Instantiate { .. } | Self::Runtime { .. })
    }

    /// This error as a failed call of `function`.
    pub(crate) fn in_call(&self, provider_type: &str, function: &str) -> ProviderError {
        ProviderError::Failed {
            provider_type: provider_type.to_owned(),
            function: function.to_owned(),
            category: self.category().to_owned(),
            message: printable(self.to_string()),
        }
    }
}
