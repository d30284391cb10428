//! Everything that can go wrong with a module, found by type and never by text.

use std::path::PathBuf;
use std::time::Duration;

use keyward_core::provider::ProviderError;
use wasmtime::Trap;

use crate::text::printable;

/// Why a module is not loaded, or why a call of one did not end well.
///
/// [`EngineError::category`] is the bounded label for metrics and condition reasons.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The folder of modules that was asked for cannot be read.
    #[error("cannot read the provider modules in {}: {source}; check --providers", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No folder of modules exists.
    #[error("found no folder of provider modules (looked at {}); name one with --providers or KEYWARD_PROVIDERS",
        looked_at.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoDirectory {
        /// Where modules were looked for.
        looked_at: Vec<PathBuf>,
    },
    /// Modules cannot come from there.
    #[error("cannot take provider modules from {source_name:?}: images are not supported yet; name a folder")]
    UnsupportedSource {
        /// What was asked for.
        source_name: String,
    },
    /// A module's file cannot be read.
    #[error("cannot read the file: {0}")]
    Read(std::io::Error),
    /// What is there is no file: a folder, a FIFO that nobody may ever write to, a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file is larger than a component may be.
    #[error("the file is larger than the {limit} bytes that a provider module may have")]
    ComponentTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The file does not begin as WebAssembly does.
    #[error("it is not WebAssembly; build it with `keyward provider build` or `cargo xtask providers`")]
    NotWasm,
    /// A core module: it has no types, so nothing can be called.
    #[error("it is a core module, not a component; `keyward provider build` makes the component")]
    NotComponent,
    /// A component that cannot be compiled: truncated, invalid, or using what the host does not enable.
    #[error("it is not a valid component: {message}")]
    Malformed {
        /// What the compiler said.
        message: String,
    },
    /// Compiling takes too long.
    #[error("it did not compile within {limit:?}")]
    CompileTime {
        /// The limit.
        limit: Duration,
    },
    /// It wants something of the host. A module is given nothing, so there is nothing that it could leak or depend on.
    #[error(
        "it imports {import}; a provider module imports no function, so build it without WASI or any host API"
    )]
    Import {
        /// The import's name.
        import: String,
    },
    /// It is of no ABI version that this host knows.
    #[error("it exports no {expected}{}", found.as_ref().map(|f| format!(" (but {f})")).unwrap_or_default())]
    AbiVersion {
        /// The newest interface that would do.
        expected: String,
        /// What it exports instead, where that is another version.
        found: Option<String>,
    },
    /// A function of the ABI is missing or has another type.
    #[error("its export {export} does not match the ABI: {message}")]
    Export {
        /// The export's name.
        export: String,
        /// In what.
        message: String,
    },
    /// It is made of more parts than the host has room for.
    #[error("it needs {needed} {what}, more than the {limit} that a provider module may have")]
    Resources {
        /// `memories`, `tables`, `functions`, `bytes in one function`, …: one for each of the limits.
        what: &'static str,
        /// How many it needs.
        needed: usize,
        /// How many there are.
        limit: usize,
    },
    /// Two files hold a module of one provider type, or of one config field: which is meant cannot be told.
    #[error("more than one module is for {what}: {}; keep one", files.join(", "))]
    Duplicate {
        /// `type X`, or `config field x`.
        what: String,
        /// The files.
        files: Vec<String>,
    },
    /// A new version that would change what is in use.
    #[error("the new version is not taken: {message}")]
    Regression {
        /// What would change.
        message: String,
    },
    /// The file is gone while configurations of its type are in use.
    #[error("its file is gone, but configurations in use need it")]
    FileGone,

    /// More goes in than a call takes.
    #[error("the configuration has {size} bytes, more than the {limit} that a provider module is given")]
    InputTooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The call used up its fuel.
    #[error("it used up its {limit} units of fuel; it loops, or works far more than a provider should")]
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
    /// The call asked for more memory than it may have.
    #[error("it asked for more than {limit} bytes of memory")]
    Memory {
        /// The limit in bytes.
        limit: usize,
    },
    /// The call asked for more table elements than it may have.
    #[error("it asked for more than {limit} table elements")]
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
    /// What it returned cannot be copied: larger than the limit, or against the rules of the component model
    /// (pointers outside of its memory, an unknown case of a variant).
    #[error("what it returned cannot be read (the limit is {limit} bytes): {message}")]
    Output {
        /// The limit in bytes.
        limit: usize,
        /// What was found.
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
        /// What, and what it should be.
        message: String,
    },

    /// WebAssembly cannot be run on this machine or with these limits.
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

    /// Whether the same call can end otherwise: only the wall clock and the machine are not part of the input.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Instantiate { .. } | Self::Runtime { .. })
    }

    /// As a failed call of `function`.
    pub(crate) fn in_call(&self, provider_type: &str, function: &str) -> ProviderError {
        ProviderError::Failed {
            provider_type: provider_type.to_owned(),
            function: function.to_owned(),
            category: self.category().to_owned(),
            message: printable(self.to_string()),
        }
    }
}
