//! `plan --current --desired`: two objects, no cluster. The verdict is `keyward_core::effect`'s, the same that the
//! operator acts on.

use std::process::ExitCode;

use anyhow::Result;
use keyward_core::api::ClusterEncryptionSpec;
use keyward_core::effect::{FieldChange, Side, compare};
use keyward_core::ids::Mode;
use keyward_core::provider::{
    Descriptor, Effect, Evaluation, EvaluationRequest, Evaluator, Origin, ProviderError, Violation,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Output, table};
use crate::input::{self, Wish};
use crate::providers::Providers;

/// CLI.md's answer of `plan --current --desired`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Plan {
    /// The total.
    pub(crate) effect: Option<Effect>,
    /// Field by field.
    pub(crate) fields: Vec<FieldChange>,
    /// What the admin should know.
    pub(crate) warnings: Vec<Violation>,
    /// What is wrong with the desired object.
    pub(crate) violations: Vec<Violation>,
    /// The provider's type, for people.
    #[serde(skip)]
    pub(crate) provider: Option<String>,
    /// What the KMS must permit, for people.
    #[serde(skip)]
    pub(crate) requirements: Vec<String>,
}

impl Plan {
    /// Writes the answer to standard output.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => println!("{}", serde_json::to_string_pretty(self)?),
            Output::Table => print!("{}", table::render(self)),
        }
        Ok(())
    }

    /// CLI.md: 0 nothing would change, 2 something would, 1 violations.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.effect {
            _ if !self.violations.is_empty() => ExitCode::from(1),
            None | Some(Effect::None) => ExitCode::SUCCESS,
            Some(_) => ExitCode::from(2),
        }
    }
}

pub(super) fn run(current: &str, desired: &str, output: Output, providers: &Providers) -> Result<ExitCode> {
    let (old, new) = (input::wish(current)?, input::wish(desired)?);
    let engine = providers.load()?;
    let plan = between(&old, &new, engine.as_ref())?;
    plan.print(output)?;
    Ok(plan.exit_code())
}

fn between(old: &Wish, new: &Wish, evaluator: &dyn Evaluator) -> Result<Plan> {
    anyhow::ensure!(
        old.kind == new.kind,
        "the current object is a {}, the desired one a {}; compare two of a kind",
        old.kind,
        new.kind
    );
    verdict(&old.spec, &new.spec, evaluator)
}

/// The verdict on going from one spec to the other.
pub(crate) fn verdict(
    old: &ClusterEncryptionSpec,
    new: &ClusterEncryptionSpec,
    evaluator: &dyn Evaluator,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let (before, after) = (mode(old), mode(new));
    let violation = |field: &str, message: String| Violation { field: field.to_owned(), message };
    if Mode::parse(after).is_none_or(|mode| mode == Mode::Secretbox) {
        plan.violations
            .push(violation("spec.encryption.type", format!("unknown encryption mode configured: {after}")));
        return Ok(plan);
    }
    if (after == Mode::Kms.as_str()) != new.encryption.kms.is_some() {
        plan.violations.push(violation(
            "spec.encryption.kms",
            "kms config is required when encryption type is KMS, and forbidden otherwise".to_owned(),
        ));
        return Ok(plan);
    }
    let Some(wanted) = &new.encryption.kms else {
        if before == after {
            plan.effect = Some(Effect::None);
        } else {
            mode_change(&mut plan, before, after);
        }
        settings(&mut plan, old, new);
        return Ok(plan);
    };
    let after_side = match evaluator.evaluate(&EvaluationRequest::new(Origin::Desired, wanted)) {
        Ok(evaluation) => evaluation,
        Err(ProviderError::Invalid { violations }) => {
            plan.violations = violations
                .into_iter()
                .map(|v| Violation { field: format!("spec.encryption.kms.{}", v.field), message: v.message })
                .collect();
            return Ok(plan);
        }
        Err(error) => return Err(error.into()),
    };
    plan.provider = Some(after_side.provider_type.clone());
    plan.requirements.clone_from(&after_side.requirements);
    match &old.encryption.kms {
        None => {
            mode_change(&mut plan, before, after);
            plan.warnings.clone_from(&after_side.warnings);
        }
        Some(kms) => {
            let before_side = evaluator.evaluate(&EvaluationRequest::new(Origin::Stored, kms))?;
            let found: Option<Descriptor> =
                evaluator.descriptors().into_iter().find(|d| d.provider_type == after_side.provider_type);
            let descriptor =
                found.ok_or_else(|| anyhow::anyhow!("the provider vanished while it was asked"))?;
            let verdict = compare(
                &descriptor,
                Side { written: &written(kms, &descriptor, &before_side), evaluation: &before_side },
                Side { written: &written(wanted, &descriptor, &after_side), evaluation: &after_side },
            );
            plan.effect = Some(verdict.effect);
            plan.fields = verdict.fields;
            plan.warnings = verdict.warnings;
        }
    }
    settings(&mut plan, old, new);
    Ok(plan)
}

/// The configuration as written: the value of the field beside `type`.
fn written(kms: &Value, descriptor: &Descriptor, evaluation: &Evaluation) -> Value {
    if evaluation.provider_type == descriptor.provider_type {
        kms.get(&descriptor.config_field).cloned().unwrap_or_else(|| json!({}))
    } else {
        kms.clone()
    }
}

fn mode(spec: &ClusterEncryptionSpec) -> &str {
    match spec.encryption.type_.as_deref() {
        None | Some("") => Mode::Identity.as_str(),
        Some(mode) => mode,
    }
}

fn mode_change(plan: &mut Plan, before: &str, after: &str) {
    plan.effect = Some(Effect::NewKey);
    plan.fields.push(FieldChange {
        field: "type".to_owned(),
        from: Some(Value::String(before.to_owned())),
        to: Some(Value::String(after.to_owned())),
        effect: Effect::NewKey,
        reason: match after {
            "identity" => "everything is decrypted".to_owned(),
            _ => "everything is encrypted in another way".to_owned(),
        },
    });
}

/// `spec.plugins` and the rest of the spec: in place, and no provider's business.
fn settings(plan: &mut Plan, old: &ClusterEncryptionSpec, new: &ClusterEncryptionSpec) {
    let mut change = |field: &str, from: Value, to: Value, reason: &str, effect: Effect| {
        if from != to {
            let some = |value: Value| (!value.is_null()).then_some(value);
            let change = FieldChange {
                field: field.to_owned(),
                from: some(from),
                to: some(to),
                effect,
                reason: reason.to_owned(),
            };
            plan.fields.push(change);
            plan.effect = plan.effect.max(Some(effect));
        }
    };
    let value = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
    let json = |item: Value| if item == json!([]) || item == json!({}) { Value::Null } else { item };
    let (a, b) = (&old.plugins, &new.plugins);
    let why = "how the plugin is run";
    change(
        "plugins.timeout",
        value(&a.timeout),
        value(&b.timeout),
        "how long the API server waits for the plugin",
        Effect::InPlace,
    );
    change("plugins.proxy", json(json!(a.proxy)), json(json!(b.proxy)), why, Effect::InPlace);
    change(
        "plugins.hostAliases",
        json(json!(a.host_aliases)),
        json(json!(b.host_aliases)),
        why,
        Effect::InPlace,
    );
    change("plugins.resources", json(json!(a.resources)), json(json!(b.resources)), why, Effect::InPlace);
    change(
        "resources",
        json!(old.resources),
        json!(new.resources),
        "what is encrypted; the key stays",
        Effect::ReEncrypt,
    );
    change(
        "reencrypt",
        value(&old.reencrypt),
        value(&new.reencrypt),
        "re-encrypts everything once",
        Effect::ReEncrypt,
    );
}
