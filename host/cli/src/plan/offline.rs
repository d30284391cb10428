//! `plan --current --desired`: two objects, no cluster. The verdict is `keyward_core::effect`'s, the same that the
//! operator acts on.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use keyward_core::api::{EncryptionSpec, ForgetRequest};
use keyward_core::controllers::{by_another_message, confirm};
use keyward_core::effect::{Change, FieldChange, InForce, Side, between, compare};
use keyward_core::ids::{GroupResource, KeyId, Mode};
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
    /// Keys that are given up, with what is stored under them.
    #[serde(rename = "forgetKeyIDs")]
    pub(crate) forgets: Vec<KeyId>,
    /// What the admin should know.
    pub(crate) warnings: Vec<Violation>,
    /// What is wrong with the desired object.
    pub(crate) violations: Vec<Violation>,
    /// With `-f`: why it is not known what is deployed. The effect is then that on the stored object alone.
    pub(crate) unknown: Vec<Unknown>,
    /// What becomes of a pause, for people.
    #[serde(skip)]
    pub(crate) pause: Option<PauseChange>,
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

/// Something that cannot be read, or is not understood.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unknown {
    /// For example `secrets in keyward-system`.
    pub(crate) what: String,
    /// The API server's words, or what is not understood.
    pub(crate) why: String,
}

/// What becomes of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseChange {
    /// Keyward is paused from then on.
    Begins,
    /// It was, and is.
    Stays,
    /// It was paused before.
    Ends,
}

/// Whose the current object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    /// A file, which must be right.
    File,
    /// The cluster's. What is planned may be its correction.
    Stored,
}

impl Plan {
    /// Writes the answer to standard output.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => print_json(self),
            Output::Yaml => print_yaml(self),
            Output::Table => print(&self.table()),
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        table::render(self)
    }

    /// CLI.md: 0 nothing would change, 2 something would, 1 violations, or the effect is not known.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.effect {
            _ if !self.violations.is_empty() || !self.unknown.is_empty() => ExitCode::from(1),
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
        self.forgets = change.forgotten.iter().copied().collect();
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
        for request in wanted.requests.iter().filter(|request| change.forgotten.contains(&request.key_id)) {
            self.warnings.push(Violation { field: FORGOTTEN.to_owned(), message: forgotten(request) });
        }
        if let Some(message) = confirm::message(&wanted.unconfirmed) {
            self.warnings.push(Violation { field: UNCONFIRMED.to_owned(), message });
        }
    }
}

/// Fields of the warnings that [`Plan::set`] gives.
const DECRYPTED: &str = "spec.encryption";
const UNCONFIRMED: &str = "spec.resources";
const FORGOTTEN: &str = "spec.forget";
const AGAIN: [&str; 3] = [DECRYPTED, UNCONFIRMED, FORGOTTEN];

/// What a request to forget a key means.
fn forgotten(request: &ForgetRequest) -> String {
    let id = request.key_id;
    let own =
        if request.accept_keyward_loss { "; Keyward's own Secrets may become unreadable too" } else { "" };
    format!(
        "gives up key {id}: what is stored under it becomes unreadable{own}; the operator carries the request out only while the key fails; keyward forget-key {id} lists what would be lost"
    )
}

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
    let plan = verdict(&old, &new, engine.as_ref(), Current::File)?;
    plan.print(output)?;
    Ok(plan.exit_code())
}

/// The verdict on going from one spec to the other, where what the first asks for is settled. Both are read as the operator
/// reads them, defaults and all.
pub(crate) fn verdict(
    old: &Wish,
    new: &Wish,
    evaluator: &dyn Evaluator,
    current_is: Current,
) -> Result<Plan> {
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
    let evaluated = match (&current.kms, &after) {
        (Some(kms), Some(_)) => Some(stored_evaluation(kms, &old.spec.encryption, evaluator)),
        _ => None,
    };
    let (before, not_evaluated) = match (evaluated.transpose(), current_is) {
        (Ok(evaluation), _) => (evaluation, None),
        (Err(error), Current::File) => return Err(error.context("the current object")),
        (Err(error), Current::Stored) => (None, Some(error)),
    };
    if let Some(after) = &after {
        plan.provider = Some(after.provider_type.clone());
        plan.requirements.clone_from(&after.requirements);
        plan.warnings.clone_from(&after.warnings);
    }
    if let Some(error) = not_evaluated {
        let message = format!("no fields are compared: the stored object cannot be evaluated: {error:#}");
        plan.warnings.push(Violation { field: "spec.encryption.kms".to_owned(), message });
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
    requests(&mut plan, &current, &desired, &change);
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

/// What the provider says of the configuration that the current object has.
fn stored_evaluation(
    kms: &Value,
    encryption: &EncryptionSpec,
    evaluator: &dyn Evaluator,
) -> Result<Evaluation> {
    let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Stored, kms));
    anyhow::ensure!(!lacks_kms(encryption, &answer), "spec.encryption.kms: {KMS_REQUIRED}");
    Ok(answer?)
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
        changed(plan, field, (from, to), effect, reason);
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

/// `spec.paused` and `spec.forget`: what is asked of the operator, beside what is encrypted how.
fn requests(plan: &mut Plan, old: &Wanted, new: &Wanted, whole: &Change) {
    let pause = match (old.paused.is_some(), new.paused.is_some()) {
        (false, false) => None,
        (false, true) => Some(PauseChange::Begins),
        (true, true) => Some(PauseChange::Stays),
        (true, false) => Some(PauseChange::Ends),
    };
    plan.pause = pause;
    let (effect, reason) = match pause {
        Some(PauseChange::Begins) => (Effect::Pause, "pauses: nothing is written but the status"),
        Some(PauseChange::Ends) => (Effect::Resume, "resumes: the writes that were withheld follow"),
        Some(PauseChange::Stays) | None => (Effect::None, "who pauses Keyward, and why; it stays paused"),
    };
    changed(plan, "paused", (json!(old.paused), json!(new.paused)), effect, reason);

    let requests = |wanted: &Wanted| match wanted.requests.as_slice() {
        [] => Value::Null,
        requests => json!(requests),
    };
    let (effect, reason) = if whole.forgotten.is_empty() {
        (Effect::None, "no key is given up by this; a key that has left does not come back".to_owned())
    } else {
        let keys: Vec<String> = whole.forgotten.iter().map(ToString::to_string).collect();
        let (word, them) = if keys.len() == 1 { ("key", "it") } else { ("keys", "them") };
        (Effect::Forget, format!("gives up {word} {} and what is stored under {them}", keys.join(", ")))
    };
    changed(plan, "forget", (requests(old), requests(new)), effect, &reason);
}

/// A row, where the two values differ.
fn changed(plan: &mut Plan, field: &str, (from, to): (Value, Value), effect: Effect, reason: &str) {
    if from != to {
        let some = |value: Value| (!value.is_null()).then_some(value);
        plan.fields.push(FieldChange {
            field: field.to_owned(),
            from: some(from),
            to: some(to),
            effect,
            reason: reason.to_owned(),
        });
    }
}

/// Absent and empty are one.
fn token_or_null(token: &str) -> Value {
    if token.is_empty() { Value::Null } else { Value::String(token.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyward_core::api::ClusterEncryptionSpec;
    use keyward_core::provider::{Diagnosis, Failure, Kek, ModuleDigest, Plugin};

    use super::*;

    /// Takes a `kms` object with `ok: true`, and no other.
    struct Strict;

    impl Evaluator for Strict {
        fn descriptors(&self) -> Vec<Descriptor> {
            vec![Descriptor {
                provider_type: "Test".to_owned(),
                config_field: "test".to_owned(),
                image_field: None,
                config_schema: json!({}),
                rules: Vec::new(),
                facts: BTreeMap::new(),
                module: ModuleDigest("sha256:0".to_owned()),
            }]
        }

        fn evaluate(&self, request: &EvaluationRequest) -> Result<Evaluation, ProviderError> {
            let kms: Value = serde_json::from_str(&request.kms).unwrap();
            if kms["test"]["ok"] != json!(true) {
                let violation = Violation { field: "test.ok".into(), message: "must be true".into() };
                return Err(ProviderError::Invalid { violations: vec![violation] });
            }
            Ok(Evaluation {
                provider_type: "Test".to_owned(),
                normalized: kms["test"].clone(),
                warnings: Vec::new(),
                kek: Kek { key: BTreeMap::new(), version: BTreeMap::new() },
                references: Vec::new(),
                rendered: Plugin::External("unix:///var/run/kmsplugin/x".to_owned()),
                image: None,
                requirements: Vec::new(),
                facts: BTreeMap::new(),
                field_order: Vec::new(),
                module: ModuleDigest("sha256:0".to_owned()),
            })
        }

        fn degraded(&self) -> Vec<ProviderError> {
            Vec::new()
        }

        fn diagnose(&self, _: &EvaluationRequest, _: &Failure) -> Result<Option<Diagnosis>, ProviderError> {
            Ok(None)
        }
    }

    fn wish(spec: Value) -> Wish {
        Wish::of(serde_json::from_value(spec).unwrap())
    }

    fn kms(ok: bool) -> Wish {
        wish(json!({"encryption": {"type": "KMS", "kms": {"type": "Test", "test": {"ok": ok}}}}))
    }

    #[test]
    fn the_correction_of_a_stored_spec_that_cannot_be_evaluated_is_planned() {
        let error = verdict(&kms(false), &kms(true), &Strict, Current::File).unwrap_err();
        assert!(format!("{error:#}").starts_with("the current object: "), "{error:#}");
        let plan = verdict(&kms(false), &kms(true), &Strict, Current::Stored).unwrap();
        assert!(plan.violations.is_empty() && plan.fields.is_empty(), "{plan:?}");
        let warning = &plan.warnings[0];
        assert!(warning.message.starts_with("no fields are compared"), "{warning:?}");
        // The desired object must be right all the same.
        let plan = verdict(&kms(true), &kms(false), &Strict, Current::Stored).unwrap();
        assert_eq!(plan.violations.len(), 1, "{plan:?}");
    }

    /// No field of the spec changes in silence.
    #[test]
    fn each_field_of_the_spec_that_changes_has_a_row() {
        let current = json!({"encryption": {"type": "aescbc"}});
        // A field that is added to the spec does not compile until it is here, and below.
        let ClusterEncryptionSpec {
            encryption: _,
            resources: _,
            decrypt: _,
            plugins: _,
            api_server: _,
            reencrypt: _,
            paused: _,
            forget: _,
        } = ClusterEncryptionSpec::default();
        for (field, value, row) in [
            ("encryption", json!({"type": "aesgcm"}), "type"),
            ("resources", json!(["configmaps", "secrets", "widgets.example.com"]), "resources"),
            ("decrypt", json!(["widgets.example.com"]), "decrypt"),
            ("plugins", json!({"timeout": "3s"}), "plugins.timeout"),
            ("plugins", json!({"proxy": {"https": "http://p:1"}}), "plugins.proxy"),
            (
                "plugins",
                json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["h"]}]}),
                "plugins.hostAliases",
            ),
            ("plugins", json!({"resources": {"requests": {"cpu": "10m"}}}), "plugins.resources"),
            ("apiServer", json!({"requestTimeout": "90s"}), "apiServer.requestTimeout"),
            ("reencrypt", json!("1"), "reencrypt"),
            ("paused", json!({"reason": "r", "by": "b"}), "paused"),
            ("forget", json!([{"keyID": 3, "requestedAt": "now"}]), "forget"),
        ] {
            let mut desired = current.clone();
            desired[field] = value;
            let (current, desired) = (wish(current.clone()), wish(desired));
            let plan = verdict(&current, &desired, &Strict, Current::File).unwrap();
            let rows: Vec<&str> = plan.fields.iter().map(|change| change.field.as_str()).collect();
            assert_eq!(rows, [row], "{plan:?}");
            let back = verdict(&desired, &current, &Strict, Current::File).unwrap();
            assert!(back.fields.iter().any(|change| change.field == row), "{back:?}");
        }
    }
}
