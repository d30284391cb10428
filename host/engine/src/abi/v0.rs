//! Adapter for `keyward:provider@0.1.0` (wit/v0), the draft.

use keyward_core::provider as core;
use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, Lift, Lower, TypedFunc};

use super::{Abi, Call, RawDescriptor, RawKek, RawNormalized, RawPlugin, Setting};
use crate::error::EngineError;
use crate::text::error_text;

/// The records of `types`. The functions are not generated but looked up below, one for each call: generated bindings
/// check the types of all functions at each instantiation.
#[allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/v0",
        inline: "package keyward:host; world records { import keyward:provider/types@0.1.0; }",
        world: "keyward:host/records",
    });
}

use bindings::keyward::provider::types;

/// The interface that a component imports. It has types only.
pub(super) const TYPES: &str = "keyward:provider/types@0.1.0";
const POLICY: &str = "keyward:provider/policy@0.1.0";
const PLUGINS: &str = "keyward:provider/plugins@0.1.0";
const DIAGNOSTICS: &str = "keyward:provider/diagnostics@0.1.0";

type Violations = Vec<types::Violation>;

/// The exports of one component: the index of each function.
pub(super) struct Adapter {
    describe: ComponentExportIndex,
    normalize: ComponentExportIndex,
    upgrade: ComponentExportIndex,
    kek_identity: ComponentExportIndex,
    references: ComponentExportIndex,
    render: ComponentExportIndex,
    diagnose: ComponentExportIndex,
    requirements: ComponentExportIndex,
}

impl Adapter {
    pub(super) fn bind(component: &Component) -> Result<Self, EngineError> {
        let interface = |name: &'static str| {
            component.get_export_index(None, name).ok_or_else(|| EngineError::AbiVersion {
                expected: name.to_owned(),
                found: other_version(component, name),
            })
        };
        let function = |interface: &ComponentExportIndex, name: &str| {
            component.get_export_index(Some(interface), name).ok_or_else(|| EngineError::Export {
                export: name.to_owned(),
                message: "it is missing".to_owned(),
            })
        };
        let (policy, plugins, diagnostics) =
            (interface(POLICY)?, interface(PLUGINS)?, interface(DIAGNOSTICS)?);
        Ok(Self {
            describe: function(&policy, "describe")?,
            normalize: function(&policy, "normalize")?,
            upgrade: function(&policy, "upgrade")?,
            kek_identity: function(&policy, "kek-identity")?,
            references: function(&policy, "references")?,
            render: function(&plugins, "render")?,
            diagnose: function(&diagnostics, "diagnose")?,
            requirements: function(&diagnostics, "requirements")?,
        })
    }
}

/// An export with this name in another version.
fn other_version(component: &Component, name: &str) -> Option<String> {
    let (interface, _) = name.split_once('@')?;
    let engine = component.engine();
    component
        .component_type()
        .exports(engine)
        .map(|(export, _)| export.to_owned())
        .find(|export| export.split_once('@').is_some_and(|(other, _)| other == interface))
}

fn function<P, R>(call: &mut Call, index: &ComponentExportIndex) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    call.instance.get_typed_func(&mut call.store, index)
}

/// Calls a function with a configuration as its only parameter.
fn with_config<R: 'static>(call: &mut Call, index: &ComponentExportIndex, config: &str) -> wasmtime::Result<R>
where
    (R,): ComponentNamedList + Lift,
{
    let (result,) = function::<(&str,), (R,)>(call, index)?.call(&mut call.store, (config,))?;
    Ok(result)
}

impl Abi for Adapter {
    fn version(&self) -> &'static str {
        "0.1.0"
    }

    fn check(&self, call: &mut Call) -> Result<(), EngineError> {
        let mut results = [
            ("describe", function::<(), (types::Descriptor,)>(call, &self.describe).err()),
            (
                "normalize",
                function::<(&str,), (Result<types::Normalized, Violations>,)>(call, &self.normalize).err(),
            ),
            ("upgrade", function::<(&str,), (Result<String, Violations>,)>(call, &self.upgrade).err()),
            ("kek-identity", function::<(&str,), (types::Kek,)>(call, &self.kek_identity).err()),
            ("references", function::<(&str,), (Vec<types::Reference>,)>(call, &self.references).err()),
            (
                "render",
                function::<(&str, &[types::Setting]), (Result<types::Plugin, Violations>,)>(
                    call,
                    &self.render,
                )
                .err(),
            ),
            (
                "diagnose",
                function::<(&str, &types::Failure), (Option<types::Diagnosis>,)>(call, &self.diagnose).err(),
            ),
            ("requirements", function::<(&str,), (Vec<String>,)>(call, &self.requirements).err()),
        ];
        match results.iter_mut().find_map(|(name, error)| error.take().map(|error| (*name, error))) {
            None => Ok(()),
            Some((name, error)) => {
                Err(EngineError::Export { export: name.to_owned(), message: error_text(&error) })
            }
        }
    }

    fn describe(&self, call: &mut Call) -> wasmtime::Result<RawDescriptor> {
        let (answer,) =
            function::<(), (types::Descriptor,)>(call, &self.describe)?.call(&mut call.store, ())?;
        Ok(RawDescriptor {
            provider_type: answer.provider_type,
            config_field: answer.config_field,
            image_field: answer.image_field,
            config_schema: answer.config_schema,
            rules: answer.rules.into_iter().map(rule).collect(),
            facts: settings(answer.facts),
        })
    }

    fn normalize(
        &self,
        call: &mut Call,
        config: &str,
    ) -> wasmtime::Result<Result<RawNormalized, Vec<core::Violation>>> {
        let answer: Result<types::Normalized, Violations> = with_config(call, &self.normalize, config)?;
        Ok(answer
            .map(|n| RawNormalized { config: n.config, warnings: violations(n.warnings) })
            .map_err(violations))
    }

    fn upgrade(
        &self,
        call: &mut Call,
        stored: &str,
    ) -> wasmtime::Result<Result<String, Vec<core::Violation>>> {
        let answer: Result<String, Violations> = with_config(call, &self.upgrade, stored)?;
        Ok(answer.map_err(violations))
    }

    fn kek_identity(&self, call: &mut Call, config: &str) -> wasmtime::Result<RawKek> {
        let answer: types::Kek = with_config(call, &self.kek_identity, config)?;
        Ok(RawKek { key: settings(answer.key), version: settings(answer.version) })
    }

    fn references(&self, call: &mut Call, config: &str) -> wasmtime::Result<Vec<core::Reference>> {
        let answer: Vec<types::Reference> = with_config(call, &self.references, config)?;
        Ok(answer.into_iter().map(reference).collect())
    }

    fn render(
        &self,
        call: &mut Call,
        config: &str,
    ) -> wasmtime::Result<Result<RawPlugin, Vec<core::Violation>>> {
        type Answer = Result<types::Plugin, Violations>;
        let (answer,) = function::<(&str, &[types::Setting]), (Answer,)>(call, &self.render)?
            .call(&mut call.store, (config, &[]))?;
        Ok(match answer {
            Ok(types::Plugin::Managed(c)) => Ok(managed(c)),
            Ok(types::Plugin::External(endpoint)) => Ok(RawPlugin::External(endpoint)),
            Err(found) => Err(violations(found)),
        })
    }

    fn diagnose(
        &self,
        call: &mut Call,
        config: &str,
        failure: &core::Failure,
    ) -> wasmtime::Result<Option<core::Diagnosis>> {
        let failure = types::Failure {
            phase: failure.phase.clone(),
            grpc_code: failure.grpc_code,
            exit_code: failure.exit_code,
            message: failure.message.clone(),
            log_tail: failure.log_tail.clone(),
        };
        let (answer,) =
            function::<(&str, &types::Failure), (Option<types::Diagnosis>,)>(call, &self.diagnose)?
                .call(&mut call.store, (config, &failure))?;
        Ok(answer.map(|d| core::Diagnosis {
            cause: d.cause,
            summary: d.summary,
            remedy: d.remedy,
            retryable: d.retryable,
        }))
    }

    fn requirements(&self, call: &mut Call, config: &str) -> wasmtime::Result<Vec<String>> {
        with_config(call, &self.requirements, config)
    }
}

fn settings(list: Vec<types::Setting>) -> Vec<Setting> {
    list.into_iter().map(|s| (s.name, s.value)).collect()
}

fn violations(list: Violations) -> Vec<core::Violation> {
    list.into_iter().map(|v| core::Violation { field: v.field, message: v.message }).collect()
}

fn rule(rule: types::FieldRule) -> core::FieldRule {
    let effect = match rule.effect {
        types::Effect::NewKey => core::Effect::NewKey,
        types::Effect::ReEncrypt => core::Effect::ReEncrypt,
        types::Effect::InPlace => core::Effect::InPlace,
    };
    core::FieldRule { field: rule.field, effect, reason: rule.reason }
}

fn key_ref(key: types::KeyRef) -> core::KeyRef {
    let kind = match key.kind {
        types::ReferenceKind::Secret => core::ReferenceKind::Secret,
        types::ReferenceKind::ConfigMap => core::ReferenceKind::ConfigMap,
    };
    core::KeyRef { kind, name: key.name, key: key.key }
}

fn reference(reference: types::Reference) -> core::Reference {
    let exposure = match reference.exposure {
        types::Exposure::File => core::Exposure::File,
        types::Exposure::SecretValue => core::Exposure::SecretValue,
        types::Exposure::PublicValue => core::Exposure::PublicValue,
    };
    core::Reference {
        source: key_ref(reference.source),
        exposure,
        required: reference.required,
        field: reference.field,
    }
}

fn parts(list: Vec<types::Part>) -> Vec<core::Part> {
    list.into_iter()
        .map(|part| match part {
            types::Part::Text(text) => core::Part::Text(text),
            types::Part::Host(name) => core::Part::Host(name),
            types::Part::Path(key) => core::Part::Path(key_ref(key)),
            types::Part::Value(key) => core::Part::Value(key_ref(key)),
            types::Part::Rendered(file) => core::Part::Rendered(file),
        })
        .collect()
}

fn managed(c: types::Container) -> RawPlugin {
    let container = core::Container {
        command: c.command,
        args: c.args.into_iter().map(parts).collect(),
        env: c.env.into_iter().map(|e| core::EnvVar { name: e.name, value: parts(e.value) }).collect(),
        files: c
            .files
            .into_iter()
            .map(|f| core::RenderedFile { name: f.name, content: parts(f.content) })
            .collect(),
        ports: c.ports,
        health: c.health.map(|h| core::HttpProbe { port: h.port, path: h.path }),
        cpu_request_millis: c.cpu_request_millis,
        memory_request_mib: c.memory_request_mib,
        settings: std::collections::BTreeMap::new(),
    };
    RawPlugin::Managed(container, settings(c.settings))
}
