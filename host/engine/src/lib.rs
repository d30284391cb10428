//! Loads provider modules, runs them in limits, and evaluates configurations with them.
//!
//! A module is a WebAssembly component that imports no function. What may come in: a folder of them, and configurations.
//! What never does: a Kubernetes client, the name of a KMS product, a secret byte (modules see configurations, which hold
//! references and no values). What a module returns is checked as if an enemy had written it.
//!
//! - [`Engine`] is the [`keyward_core::provider::Evaluator`]; `in_force` decides which modules serve.
//! - `parts` counts what a component is made of before it is compiled.
//! - `module` loads and calls one, with every limit; `abi` has one thin adapter for each version of the ABI.
//! - `describe` and `check` are what is not believed; `evaluate` puts an evaluation together.
//! - `compiled` keeps compiled modules, and holds the one `unsafe`.

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
