//! `plan --current --desired`: two objects, no cluster. The verdict is `keyward_core::effect`'s, the same that the
//! operator acts on.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use keyward_core::api::ClusterEncryptionSpec;
use keyward_core::effect::{FieldChange, Side, compare};
use keyward_core::ids::Mode;
use keyward_core::platform::{KMS_REQUIRED, kubernetes, lacks_kms};
use keyward_core::provider::{
    Descriptor, Effect, Evaluation, EvaluationRequest, Evaluator, Origin, ProviderError, Violation,
};
use keyward_core::snapshot::Wanted;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Output, table};
use crate::input::{self, Wish};
use crate::live::Live;
use crate::output::{print, print_json, print_yaml};
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
    /// With `-f`: what the live cluster adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) live: Option<Live>,
}

impl Plan {
    /// Writes the answer to standard output.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => print_json(self),
            Output::Yaml => print_yaml(self),
            Output::Table => print(&table::render(self)),
        }
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

/// The verdict on going from one spec to the other. Both are read as the operator reads them, defaults and all.
pub(crate) fn verdict(
    old: &ClusterEncryptionSpec,
    new: &ClusterEncryptionSpec,
    evaluator: &dyn Evaluator,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let (current, desired) = (kubernetes::wanted(old), kubernetes::wanted(new));
    let (before, after) = (mode(&current), mode(&desired));
    if desired.mode.is_err() {
        plan.violations.push(Violation {
            field: "spec.encryption.type".to_owned(),
            message: format!("unknown encryption mode configured: {after}"),
        });
    }
    plan.violations.extend(desired.mistakes.iter().map(|mistake| {
        let (field, message) = mistake.split_once(": ").unwrap_or(("spec", mistake));
        Violation { field: field.to_owned(), message: message.to_owned() }
    }));
    if !plan.violations.is_empty() {
        return Ok(plan);
    }
    let Some(wanted) = &desired.kms else {
        if before == after {
            plan.effect = Some(Effect::None);
        } else {
            mode_change(&mut plan, before, after);
        }
        settings(&mut plan, &current, &desired);
        return Ok(plan);
    };
    let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Desired, wanted));
    if lacks_kms(&new.encryption, &answer) {
        let field = "spec.encryption.kms".to_owned();
        plan.violations.push(Violation { field, message: KMS_REQUIRED.to_owned() });
        return Ok(plan);
    }
    let after_side = match answer {
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
    match &current.kms {
        None => {
            mode_change(&mut plan, before, after);
            plan.warnings.clone_from(&after_side.warnings);
        }
        Some(kms) => {
            let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Stored, kms));
            anyhow::ensure!(
                !lacks_kms(&old.encryption, &answer),
                "the current object: spec.encryption.kms: {KMS_REQUIRED}"
            );
            let before_side = answer.context("the current object")?;
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
    settings(&mut plan, &current, &desired);
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

fn mode(wanted: &Wanted) -> &str {
    wanted.mode.as_ref().map_or_else(String::as_str, |mode| mode.as_str())
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

/// `spec.plugins` and the rest of the spec: no provider's business.
fn settings(plan: &mut Plan, old: &Wanted, new: &Wanted) {
    let mut change = |field: &str, from: Value, to: Value, effect: Effect, reason: &str| {
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
    let json = |item: Value| if item == json!([]) || item == json!({}) { Value::Null } else { item };
    // Without a plugin before and after, its settings are for later.
    let (a, b) = (&old.settings, &new.settings);
    let (effect, why) = if old.kms.is_some() && new.kms.is_some() {
        (Effect::InPlace, "how the plugin is run")
    } else {
        (Effect::None, "how a plugin is run")
    };
    let timeout = "how long the API server waits for the plugin";
    change("plugins.timeout", json!(old.kms_timeout), json!(new.kms_timeout), effect, timeout);
    change("plugins.proxy", json(json!(a.proxy)), json(json!(b.proxy)), effect, why);
    change("plugins.hostAliases", json(json!(a.host_aliases)), json(json!(b.host_aliases)), effect, why);
    change("plugins.resources", json(json!(a.resources)), json(json!(b.resources)), effect, why);

    let names =
        |wanted: &Wanted| -> Vec<String> { wanted.resources.iter().map(ToString::to_string).collect() };
    let (had, has) = (names(old), names(new));
    let encrypts = new.mode != Ok(Mode::Identity);
    let added = has.iter().any(|name| !had.contains(name));
    let (effect, reason) = match (encrypts, added) {
        (true, true) => (Effect::ReEncrypt, "what is added is encrypted; the key stays"),
        (true, false) => (Effect::None, "what leaves the list stays encrypted as it is"),
        (false, _) => (Effect::None, "nothing is encrypted"),
    };
    change("resources", json!(had), json!(has), effect, reason);

    let token = |wanted: &Wanted| token_or_null(&wanted.external_reason);
    let (effect, reason) = match (encrypts, new.external_reason.is_empty()) {
        (true, false) => (Effect::NewKey, "everything is re-encrypted once, under a new key secret"),
        _ => (Effect::None, "no token, nothing to re-encrypt"),
    };
    change("reencrypt", token(old), token(new), effect, reason);
    let timeout = |wanted: &Wanted| json!(format!("{}s", wanted.request_timeout.as_secs()));
    let reason = "how long a migration waits for writes under way";
    change("apiServer.requestTimeout", timeout(old), timeout(new), Effect::None, reason);
}

/// Absent and empty are one.
fn token_or_null(token: &str) -> Value {
    if token.is_empty() { Value::Null } else { Value::String(token.to_owned()) }
}
