//! `plan --current --desired`: two objects, no cluster. The verdict is `keyward_core::effect`'s, the same that the
//! operator acts on.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use keyward_core::api::EncryptionSpec;
use keyward_core::controllers::{by_another_message, confirm};
use keyward_core::effect::{Change, FieldChange, InForce, Side, between, compare};
use keyward_core::ids::{GroupResource, Mode};
use keyward_core::platform::{KMS_REQUIRED, kubernetes, lacks_kms, unmounted_socket};
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
    /// Resources whose objects are rewritten under the write key.
    pub(crate) reencrypts: Vec<String>,
    /// Resources whose objects are rewritten in plain text.
    pub(crate) decrypts: Vec<String>,
    /// Resources that leave the list, and stay encrypted until their decryption is confirmed.
    pub(crate) unconfirmed: Vec<String>,
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
    /// Whether a key is made that encrypts, for people.
    #[serde(skip)]
    pub(crate) makes_key: bool,
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

    /// What the change does to what is stored, with the warnings about it.
    pub(crate) fn set(&mut self, change: &Change, wanted: &Wanted) {
        let names = |resources: &mut dyn Iterator<Item = &GroupResource>| -> Vec<String> {
            resources.map(ToString::to_string).collect()
        };
        self.effect = Some(change.effect);
        for field in self.fields.iter_mut().filter(|field| field.effect > change.effect) {
            (field.effect, field.reason) = (change.effect, "what is deployed has it already".to_owned());
        }
        self.makes_key = change.new_key.is_some() && wanted.mode != Ok(Mode::Identity);
        self.reencrypts = names(&mut change.reencrypted.iter());
        self.decrypts = names(&mut change.decrypted.iter());
        self.unconfirmed = names(&mut wanted.unconfirmed.iter());
        self.warnings.retain(|warning| !AGAIN.contains(&warning.field.as_str()));
        self.warnings.extend(wanted.notices.iter().map(|notice| violation(notice)));
        if !self.decrypts.is_empty() {
            self.warnings.push(Violation {
                field: DECRYPTED.to_owned(),
                message: format!(
                    "everything in {} is stored in plain text in etcd",
                    self.decrypts.join(", ")
                ),
            });
        }
        if let Some(message) = confirm::message(&wanted.unconfirmed) {
            self.warnings.push(Violation { field: UNCONFIRMED.to_owned(), message });
        }
    }
}

/// Fields of the warnings that [`Plan::set`] gives.
const DECRYPTED: &str = "spec.encryption";
const UNCONFIRMED: &str = "spec.resources";
const AGAIN: [&str; 2] = [DECRYPTED, UNCONFIRMED];

pub(super) fn run(current: &str, desired: &str, output: Output, providers: &Providers) -> Result<ExitCode> {
    let (old, new) = (input::read_wish(current)?, input::read_wish(desired)?);
    let engine = providers.load()?;
    anyhow::ensure!(
        old.kind == new.kind,
        "the current object is a {}, the desired one a {}; compare two of a kind",
        old.kind,
        new.kind
    );
    anyhow::ensure!(
        old.unknown.is_empty(),
        "the current object: {}",
        old.unknown.iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; ")
    );
    let plan = verdict(&old, &new, engine.as_ref())?;
    plan.print(output)?;
    Ok(plan.exit_code())
}

/// The verdict on going from one spec to the other, where what the first asks for is settled. Both are read as the operator
/// reads them, defaults and all.
pub(crate) fn verdict(old: &Wish, new: &Wish, evaluator: &dyn Evaluator) -> Result<Plan> {
    let (mut current, mut desired) = (old.wanted(), new.wanted());
    // What the first object asks for is settled, as an older version of Keyward may have taken it.
    let settled = match current.mode {
        Ok(Mode::Identity) | Err(_) => std::collections::BTreeSet::new(),
        Ok(_) => current.resources.iter().chain(&current.refused).cloned().collect(),
    };
    kubernetes::accept_deployed(&mut current, &settled);
    kubernetes::accept_deployed(&mut desired, &settled);
    let mut plan = Plan { violations: violations(new, &desired), ..Plan::default() };
    if !plan.violations.is_empty() {
        return Ok(plan);
    }
    let after = match &desired.kms {
        None => None,
        Some(kms) => match evaluated(kms, &new.spec.encryption, evaluator)? {
            Ok(evaluation) => Some(evaluation),
            Err(violations) => return Ok(Plan { violations, ..plan }),
        },
    };
    // Without a KMS before or after there is nothing to compare.
    let before = match (&current.kms, &after) {
        (Some(kms), Some(_)) => {
            let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Stored, kms));
            anyhow::ensure!(
                !lacks_kms(&old.spec.encryption, &answer),
                "the current object: spec.encryption.kms: {KMS_REQUIRED}"
            );
            Some(answer.context("the current object")?)
        }
        _ => None,
    };
    if let Some(after) = &after {
        plan.provider = Some(after.provider_type.clone());
        plan.requirements.clone_from(&after.requirements);
        plan.warnings.clone_from(&after.warnings);
    }
    if let (Some(before), Some(after), Some(old_kms), Some(new_kms)) =
        (&before, &after, &current.kms, &desired.kms)
    {
        kms_fields(&mut plan, (old_kms, before), (new_kms, after), evaluator)?;
    }
    let in_force = InForce::settled(&current, before.as_ref());
    kubernetes::keep_encrypted(&mut desired, in_force.encrypted.iter().cloned());
    let change = between(&in_force, &desired, after.as_ref()).context("the desired object has no mode")?;
    mode_change(&mut plan, in_force.mode, &desired);
    settings(&mut plan, &current, &desired, &change);
    let socket = after.as_ref().filter(|_| new.is_ours()).and_then(unmounted_socket);
    if let Some(message) = socket {
        plan.warnings.push(Violation { field: "spec.encryption.kms".to_owned(), message });
    }
    if desired.mode == Ok(Mode::Identity)
        && new.spec.encryption.type_.as_deref().unwrap_or_default().is_empty()
    {
        let message =
            "it is empty, which OpenShift takes as identity: what is encrypted is decrypted".to_owned();
        plan.warnings.push(Violation { field: "spec.encryption.type".to_owned(), message });
    }
    plan.set(&change, &desired);
    if !new.is_ours() && !change.reencrypted.is_empty() {
        let resources: Vec<&GroupResource> = change.reencrypted.iter().collect();
        let message = by_another_message(&resources, "the new key");
        plan.warnings.push(Violation { field: "spec.encryption".to_owned(), message });
    }
    Ok(plan)
}

/// A mistake, or a notice, of the spec: its field, and what is said of it.
pub(crate) fn violation(text: &str) -> Violation {
    let (field, message) = text.split_once(": ").unwrap_or(("spec", text));
    Violation { field: field.to_owned(), message: message.to_owned() }
}

/// What is wrong with the spec beside its provider's configuration.
fn violations(new: &Wish, desired: &Wanted) -> Vec<Violation> {
    let mut found = new.unknown.clone();
    // A field that is misspelled is the reason why another is missing.
    if found.is_empty() {
        found.extend(desired.mistakes.iter().map(|mistake| violation(mistake)));
        // On OpenShift a mode that does not exist is no mistake of the whole spec.
        if let (Err(mode), true) = (&desired.mode, found.is_empty()) {
            let field = "spec.encryption.type".to_owned();
            found.push(Violation { field, message: Mode::unknown(mode) });
        }
    }
    found
}

/// What the provider says of the desired configuration, or what is wrong with that.
fn evaluated(
    kms: &Value,
    encryption: &EncryptionSpec,
    evaluator: &dyn Evaluator,
) -> Result<Result<Evaluation, Vec<Violation>>> {
    let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Desired, kms));
    if lacks_kms(encryption, &answer) {
        let field = "spec.encryption.kms".to_owned();
        return Ok(Err(vec![Violation { field, message: KMS_REQUIRED.to_owned() }]));
    }
    match answer {
        Ok(evaluation) => Ok(Ok(evaluation)),
        Err(ProviderError::Invalid { violations }) => {
            let below = |v: Violation| Violation {
                field: format!("spec.encryption.kms.{}", v.field),
                message: v.message,
            };
            Ok(Err(violations.into_iter().map(below).collect()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Field by field, by the rules of the desired provider.
fn kms_fields(
    plan: &mut Plan,
    (old, before): (&Value, &Evaluation),
    (new, after): (&Value, &Evaluation),
    evaluator: &dyn Evaluator,
) -> Result<()> {
    let found: Option<Descriptor> =
        evaluator.descriptors().into_iter().find(|d| d.provider_type == after.provider_type);
    let descriptor = found.context("the provider was unloaded while it was asked")?;
    let verdict = compare(
        &descriptor,
        Side { written: &written(old, &descriptor, before), evaluation: before },
        Side { written: &written(new, &descriptor, after), evaluation: after },
    );
    plan.fields = verdict.fields;
    plan.warnings = verdict.warnings;
    Ok(())
}

/// The configuration as written: the value of the field beside `type`.
fn written(kms: &Value, descriptor: &Descriptor, evaluation: &Evaluation) -> Value {
    if evaluation.provider_type == descriptor.provider_type {
        kms.get(&descriptor.config_field).cloned().unwrap_or_else(|| json!({}))
    } else {
        kms.clone()
    }
}

fn mode_change(plan: &mut Plan, before: Mode, desired: &Wanted) {
    let Ok(after) = desired.mode.clone() else { return };
    if before == after {
        return;
    }
    let (effect, reason) = match after {
        Mode::Identity => (Effect::Decrypt, "everything is decrypted"),
        _ => (Effect::NewKey, "everything is encrypted in another way"),
    };
    plan.fields.push(FieldChange {
        field: "type".to_owned(),
        from: Some(json!(before)),
        to: Some(json!(after)),
        effect,
        reason: reason.to_owned(),
    });
}

/// `spec.plugins` and the rest of the spec: no provider's business.
fn settings(plan: &mut Plan, old: &Wanted, new: &Wanted, whole: &Change) {
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
        }
    };
    let json = |item: Value| if item == json!([]) || item == json!({}) { Value::Null } else { item };
    // Without a plugin before, its settings are for later.
    let (a, b) = (&old.settings, &new.settings);
    let (effect, why) = if old.kms.is_some() {
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
        |resources: &[GroupResource]| -> Vec<String> { resources.iter().map(ToString::to_string).collect() };
    let encrypts = new.mode != Ok(Mode::Identity);
    let asked: Vec<GroupResource> =
        new.resources.iter().filter(|resource| !new.unconfirmed.contains(resource)).cloned().collect();
    let added = asked.iter().any(|resource| !old.resources.contains(resource));
    let leaves = whole.decrypted.iter().any(|resource| !asked.contains(resource));
    let (effect, reason) = match (encrypts, added) {
        (true, _) if leaves => {
            (Effect::Decrypt, "what leaves the list is decrypted, as spec.decrypt confirms")
        }
        (true, true) => (Effect::ReEncrypt, "what is added is encrypted; the key stays"),
        (true, false) => {
            (Effect::None, "what leaves the list stays encrypted until spec.decrypt confirms it")
        }
        (false, _) => (Effect::None, "nothing is encrypted"),
    };
    change("resources", json!(names(&old.resources)), json!(names(&asked)), effect, reason);
    let (effect, reason) = if encrypts && leaves {
        (Effect::Decrypt, "confirms that what is not in spec.resources is decrypted")
    } else {
        (Effect::None, "nothing that is encrypted leaves spec.resources")
    };
    change("decrypt", json(json!(names(&old.decrypt))), json(json!(names(&new.decrypt))), effect, reason);

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
