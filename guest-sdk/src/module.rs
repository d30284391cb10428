//! A provider as a module: the ABI's functions on one side, the author's trait on the other.
//!
//! Everything that all providers have in common happens here, once: JSON is parsed, all violations are
//! collected, the canonical form is written.

use std::marker::PhantomData;

use serde_json::Value;

use crate::bindings::exports::keyward::provider::{diagnostics, plugins, policy};
use crate::bindings::keyward::provider::types::{
    Descriptor, Diagnosis, Failure, Kek, Normalized, Plugin, Reference, Setting, Violation,
};
use crate::config;
use crate::provider::{Content, Provider};
use crate::report::{Path, Report};

/// The module of a provider. [`export!`](crate::export) makes the component of it; natively its functions
/// serve unit tests.
#[derive(Debug)]
pub struct Module<P>(PhantomData<P>);

impl<P: Provider> Module<P> {
    /// What the provider says of itself.
    pub fn describe() -> Descriptor {
        Descriptor {
            provider_type: P::TYPE.to_owned(),
            config_field: P::FIELD.to_owned(),
            image_field: P::IMAGE_FIELD.map(str::to_owned),
            config_schema: config::schema::<P::Config>().to_string(),
            rules: config::rules::<P::Config>(),
            facts: Self::facts(),
        }
    }

    fn facts() -> Vec<Setting> {
        let contents = Content::FACTS.iter().filter_map(|(name, content)| {
            let keys = P::contents().iter().filter(|(_, of)| of == content).map(|(key, _)| *key);
            let value = keys.collect::<Vec<_>>().join(" ");
            (!value.is_empty()).then(|| Setting { name: (*name).to_owned(), value })
        });
        P::facts().settings().into_iter().chain(contents).collect()
    }

    /// The canonical form of what an admin wrote, or all that is wrong with it.
    pub fn normalize(config: &str) -> Result<Normalized, Vec<Violation>> {
        let value = parse(config)?;
        let mut report = Report::new();
        let read = config::read::<P::Config>(&value, &mut report);
        if !report.violations.is_empty() {
            return Err(report.violations);
        }
        let canonical = P::normalize(read, &mut report.at(&Path::Root));
        if !report.violations.is_empty() {
            return Err(report.violations);
        }
        Ok(Normalized { config: config::write(&canonical).to_string(), warnings: report.warnings })
    }

    /// What `normalize` accepts, out of what an earlier version stored.
    pub fn upgrade(stored: &str) -> Result<String, Vec<Violation>> {
        P::upgrade(parse(stored)?).map(|value| value.to_string())
    }

    /// Reads what `normalize` returned. Anything else breaks the ABI's contract, and the call ends in a trap:
    /// an identity or a plugin made of half a configuration would be worse.
    fn settled(config: &str) -> P::Config {
        let mut report = Report::default();
        let read = parse(config).map(|value| config::read(&value, &mut report));
        match read {
            Ok(read) if report.violations.is_empty() => read,
            _ => std::process::abort(),
        }
    }
}

fn parse(json: &str) -> Result<Value, Vec<Violation>> {
    serde_json::from_str(json)
        .map_err(|error| vec![Violation { field: String::new(), message: format!("is not JSON: {error}") }])
}

impl<P: Provider> policy::Guest for Module<P> {
    fn describe() -> Descriptor {
        Self::describe()
    }

    fn normalize(config: String) -> Result<Normalized, Vec<Violation>> {
        Self::normalize(&config)
    }

    fn upgrade(stored: String) -> Result<String, Vec<Violation>> {
        Self::upgrade(&stored)
    }

    fn kek_identity(config: String) -> Kek {
        P::identity(&Self::settled(&config))
    }

    fn references(config: String) -> Vec<Reference> {
        P::references(&Self::settled(&config))
    }
}

impl<P: Provider> plugins::Guest for Module<P> {
    fn render(config: String, options: Vec<Setting>) -> Result<Plugin, Vec<Violation>> {
        P::render(&Self::settled(&config), &options)
    }
}

impl<P: Provider> diagnostics::Guest for Module<P> {
    fn diagnose(config: String, failure: Failure) -> Option<Diagnosis> {
        P::diagnose(&Self::settled(&config), &failure)
    }

    fn requirements(config: String) -> Vec<String> {
        P::requirements(&Self::settled(&config))
    }
}

/// Makes the module out of a provider: the one line that a provider's `lib.rs` ends with. On other targets
/// than wasm32 it does nothing, so that the crate's tests run natively.
#[macro_export]
macro_rules! export {
    ($provider:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, missing_docs, clippy::all, clippy::pedantic)]
        mod keyward_component {
            use super::*;
            type Component = $crate::Module<$provider>;
            $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        }
    };
}
