//! Connects the functions of the ABI with the author's trait.
//!
//! This file contains all that is the same in every module: it parses JSON, collects all violations and
//! writes the normal form.

use std::marker::PhantomData;

use serde_json::Value;

use crate::bindings::exports::keyward::provider::{diagnostics, plugins, policy};
use crate::bindings::keyward::provider::types::{
    Descriptor, Diagnosis, Failure, Kek, Normalized, Plugin, Reference, Setting, Violation,
};
use crate::config;
use crate::provider::{Content, Provider};
use crate::report::{Path, Report};

/// The module of a [`Provider`]. [`export!`](crate::export) makes a component of it; native unit tests call
/// its functions.
#[derive(Debug)]
pub struct Module<P>(PhantomData<P>);

impl<P: Provider> Module<P> {
    /// The descriptor of the module.
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

    /// The normal form of a configuration as an admin wrote it, or all its violations.
    pub fn normalize(config: &str) -> Result<Normalized, Vec<Violation>> {
        let value = parse(config)?;
        let mut report = Report::new();
        let read = config::read::<P::Config>(&value, &mut report);
        if !report.violations.is_empty() {
            return Err(report.violations);
        }
        let normal_form = P::normalize(read, &mut report.at(&Path::Root));
        if !report.violations.is_empty() {
            return Err(report.violations);
        }
        Ok(Normalized { config: config::write(&normal_form).to_string(), warnings: report.warnings })
    }

    /// Converts a configuration that an earlier version stored into one that `normalize` accepts.
    pub fn upgrade(stored: &str) -> Result<String, Vec<Violation>> {
        P::upgrade(parse(stored)?).map(|value| value.to_string())
    }

    /// Reads a configuration that `normalize` returned. Any other input breaks the contract of the ABI, and
    /// the call traps: an identity or a plugin from an incomplete configuration would be worse.
    fn read_normal_form(config: &str) -> P::Config {
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
        P::identity(&Self::read_normal_form(&config))
    }

    fn references(config: String) -> Vec<Reference> {
        P::references(&Self::read_normal_form(&config))
    }
}

impl<P: Provider> plugins::Guest for Module<P> {
    fn render(config: String, options: Vec<Setting>) -> Result<Plugin, Vec<Violation>> {
        P::render(&Self::read_normal_form(&config), &options)
    }
}

impl<P: Provider> diagnostics::Guest for Module<P> {
    fn diagnose(config: String, failure: Failure) -> Option<Diagnosis> {
        P::diagnose(&Self::read_normal_form(&config), &failure)
    }

    fn requirements(config: String) -> Vec<String> {
        P::requirements(&Self::read_normal_form(&config))
    }
}

/// Exports a [`crate::Provider`] as a module: the last line of the author's `lib.rs`. It does
/// nothing on targets other than wasm32, so that the tests of the crate run natively.
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
