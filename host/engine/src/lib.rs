//! Loads provider modules, runs them within limits, and evaluates configurations with them.
//!
//! A module is a WebAssembly component that imports no function (decision 0021). The engine receives a folder of
//! modules, and configurations. It never receives a Kubernetes client, the name of a KMS product or a secret byte:
//! configurations contain references and no values. A module's results are checked as untrusted input
//! (invariant: modules-are-untrusted).
//!
//! - [`Engine`] is the [`keyward_core::provider::Evaluator`]; `in_force` decides which modules are in use.
//! - `parts` counts the parts of a component before it is compiled.
//! - `module` loads and calls a module, with every limit; `abi` has one thin adapter for each version of the ABI.
//! - `describe` and `check` check the results of a module; `evaluate` composes an evaluation.
//! - `compiled` caches compiled modules, and has the only `unsafe`.

#![deny(unsafe_code)]

mod abi;
mod check;
mod compiled;
mod describe;
mod engine;
mod error;
mod evaluate;
mod in_force;
mod json;
mod limits;
pub mod measure;
mod memo;
mod meter;
mod module;
mod parts;
mod runtime;
mod schema;
pub mod sources;
mod text;

pub use engine::{Engine, ModuleInfo, Options};
pub use error::EngineError;
pub use limits::{Limits, Parts};
