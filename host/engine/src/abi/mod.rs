//! Versions of the provider ABI. Each has an adapter that only converts records and delegates: limits and checks exist
//! once, in [`crate::module`], for all versions.
//!
//! The records here are unchecked results of a module: JSON is still text, and a setting's name can occur twice.

mod v0;

use keyward_core::provider::{Container, Diagnosis, Failure, FieldRule, Reference, Violation};
use wasmtime::Store;
use wasmtime::component::{Component, Instance};

use crate::error::EngineError;
use crate::meter::Meter;

/// One call in progress: a store with its limits, and the instance in it.
pub(crate) struct Call {
    pub(crate) store: Store<Meter>,
    pub(crate) instance: Instance,
}

/// Name and value, as returned.
pub(crate) type Setting = (String, String);

/// What `describe` returned.
pub(crate) struct RawDescriptor {
    pub(crate) provider_type: String,
    pub(crate) config_field: String,
    pub(crate) image_field: Option<String>,
    pub(crate) config_schema: String,
    pub(crate) rules: Vec<FieldRule>,
    pub(crate) facts: Vec<Setting>,
}

/// What `normalize` returned.
pub(crate) struct RawNormalized {
    pub(crate) config: String,
    pub(crate) warnings: Vec<Violation>,
}

/// What `kek-identity` returned.
pub(crate) struct RawKek {
    pub(crate) key: Vec<Setting>,
    pub(crate) version: Vec<Setting>,
}

/// What `render` returned.
pub(crate) enum RawPlugin {
    /// A container without its settings, and the settings.
    Managed(Container, Vec<Setting>),
    External(String),
}

/// The ABI as the host uses it. An operation of a later version is added here with a default for older modules.
pub(crate) trait Abi: Send + Sync {
    /// The version of the ABI, for people.
    fn version(&self) -> &'static str;
    /// Checks the type of every function; the error names the export.
    fn check(&self, call: &mut Call) -> Result<(), EngineError>;
    fn describe(&self, call: &mut Call) -> wasmtime::Result<RawDescriptor>;
    fn normalize(
        &self,
        call: &mut Call,
        config: &str,
    ) -> wasmtime::Result<Result<RawNormalized, Vec<Violation>>>;
    fn upgrade(&self, call: &mut Call, stored: &str) -> wasmtime::Result<Result<String, Vec<Violation>>>;
    fn kek_identity(&self, call: &mut Call, config: &str) -> wasmtime::Result<RawKek>;
    fn references(&self, call: &mut Call, config: &str) -> wasmtime::Result<Vec<Reference>>;
    fn render(&self, call: &mut Call, config: &str) -> wasmtime::Result<Result<RawPlugin, Vec<Violation>>>;
    fn diagnose(
        &self,
        call: &mut Call,
        config: &str,
        failure: &Failure,
    ) -> wasmtime::Result<Option<Diagnosis>>;
    fn requirements(&self, call: &mut Call, config: &str) -> wasmtime::Result<Vec<String>>;
}

/// Finds the adapter for a component by its exports; there is one version so far.
pub(crate) fn bind(component: &Component) -> Result<Box<dyn Abi>, EngineError> {
    Ok(Box::new(v0::Adapter::bind(component)?))
}

/// Whether a component is allowed to import an instance of this name: the type-only interface of an ABI version.
pub(crate) fn is_type_interface(name: &str) -> bool {
    name == v0::TYPES
}
