//! `plan --current --desired`: compares two objects without a cluster. `keyward_core::effect` gives the
//! verdict, the same that the operator acts on (invariant: plan-is-decision).

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
use crate::input::{self, ObjectSpec};
use crate::live::Live;
use crate::output::{print, print_json, print_yaml};
use crate::providers::Providers;

/// The result of `plan --current --desired` and `plan -f`, in the form of `-o json` (docs/reference/cli.md).
#[derive(Debug, Default, Serialize)]
pub(crate) struct Plan {
    /// The total effect.
    pub(crate) effect: Option<Effect>,
    /// The effect of each changed field.
    pub(crate) fields: Vec<FieldChange>,
    /// Resources whose objects are rewritten under the write key.
    pub(crate) reencrypts: Vec<String>,
    /// Resources whose objects are rewritten in plain text.
    pub(crate) decrypts: Vec<String>,
    /// Resources that leave `spec.resources`, and stay encrypted until their decryption is confirmed.
    pub(crate) unconfirmed: Vec<String>,
    /// Keys that are forgotten, with everything that is stored under them.
    #[serde(rename = "forgetKeyIDs")]
    pub(crate) forgets: Vec<KeyId>,
    /// What the admin should know.
    pub(crate) warnings: Vec<Violation>,
    /// What is wrong with the desired object.
    pub(crate) violations: Vec<Violation>,
    /// With `-f`: why it is not known what is deployed. The effect is then based on the stored object alone.
    pub(crate) unknown: Vec<Unknown>,
    /// The change of a pause, for people.
    #[serde(skip)]
    pub(crate) pause: Option<PauseChange>,
    /// The provider's type, for people.
    #[serde(skip)]
    pub(crate) provider: Option<String>,
    /// What the KMS must permit, for people.
    #[serde(skip)]
    pub(crate) requirements: Vec<String>,
    /// Whether a key that encrypts is created, for people.
    #[serde(skip)]
    pub(crate) makes_key: bool,
    /// With `-f`: what the live cluster adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) live: Option<Live>,
}

/// Something that cannot be read or decoded.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unknown {
    /// For example `secrets in keyward-system`.
    pub(crate) what: String,
    /// The message of the API server or of the decoder.
    pub(crate) why: String,
}

/// The change of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseChange {
    /// The change pauses Keyward.
    Begins,
    /// Keyward is paused before and after the change.
    Stays,
    /// The change resumes Keyward.
    Ends,
}

/// The source of the current object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    /// A file, which must be valid.
    File,
    /// The cluster. The stored object may be invalid, and the plan may be its correction.
    Stored,
}

impl Plan {
    /// Writes the plan to standard output.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => print_json(self),
            Output::Yaml => print_yaml(self),
            Output::Table => print(&self.table()),
        }
    }

    /// Text for people.
    pub(crate) fn table(&self) -> String {
        table::render(self)
    }

    /// 0: nothing would change, 2: something would change, 1: violations, or the effect is not known
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.effect {
            _ if !self.violations.is_empty() || !self.unknown.is_empty() => ExitCode::from(1),
            None | Some(Effect::None) => ExitCode::SUCCESS,
            Some(_) => ExitCode::from(2),
        }
    }

    /// Sets the effect of the change on stored objects, with the warnings about it.
    pub(crate) fn set(&mut self, change: &Change, wanted: &Wanted) {
        let names = |resources: &mut dyn Iterator<Item = &GroupResource>| -> Vec<String> {
            resources.map(ToString::to_string).collect()
        };
        self.effect = Some(change.effect);
        for field in self.fields.iter_mut().filter(|field| field.effect > change.effect) {
            (field.effect, field.reason) = (change.effect, "already deployed".to_owned());
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
                    "all objects of {} will be stored in plain text in etcd",
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

/// The fields of the warnings that [`Plan::set`] adds.
const DECRYPTED: &str = "spec.encryption";
const UNCONFIRMED: &str = "spec.resources";
const FORGOTTEN: &str = "spec.forget";
const AGAIN: [&str; 3] = [DECRYPTED, UNCONFIRMED, FORGOTTEN];

/// The warning about a request to forget a key.
fn forgotten(request: &ForgetRequest) -> String {
    let id = request.key_id;
    let own =
        if request.accept_keyward_loss { "; Keyward's own Secrets may become unreadable too" } else { "" };
    format!(
        "forgets key {id}: what is stored under it becomes unreadable{own}; the operator carries the request out only while the key fails; to list what would be lost, run keyward forget-key {id}"
    )
}

pub(super) fn run(current: &str, desired: &str, output: Output, providers: &Providers) -> Result<ExitCode> {
    let (old, new) = (input::read_spec(current)?, input::read_spec(desired)?);
    let engine = providers.load()?;
    anyhow::ensure!(
        old.kind == new.kind,
        "the kind of the current object is {}, that of the desired object {}; compare two objects of one kind",
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

/// The verdict on a change from one spec to the other, if everything that the first one requests is deployed.
/// Both are read as the operator reads them, with defaults.
pub(crate) fn verdict(
    old: &ObjectSpec,
    new: &ObjectSpec,
    evaluator: &dyn Evaluator,
    current_is: Current,
) -> Result<Plan> {
    let (mut current, mut desired) = (old.wanted(), new.wanted());
    // What the first object requests counts as deployed: an older version of Keyward may have accepted it
    // (decision 0063).
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
            "it is empty, which OpenShift reads as identity: everything that is encrypted is decrypted"
                .to_owned();
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

/// Splits a mistake or a notice of the spec into its field and its message.
pub(crate) fn violation(text: &str) -> Violation {
    let (field, message) = text.split_once(": ").unwrap_or(("spec", text));
    Violation { field: field.to_owned(), message: message.to_owned() }
}

/// Mistakes of the spec outside the provider's configuration.
fn violations(new: &ObjectSpec, desired: &Wanted) -> Vec<Violation> {
    let mut found = new.unknown.clone();
    // A misspelled field is often the reason why another field is missing.
    if found.is_empty() {
        found.extend(desired.mistakes.iter().map(|mistake| violation(mistake)));
        // On OpenShift an unknown mode is not among the mistakes of the spec.
        if let (Err(mode), true) = (&desired.mode, found.is_empty()) {
            let field = "spec.encryption.type".to_owned();
            found.push(Violation { field, message: Mode::unknown(mode) });
        }
    }
    found
}

/// The provider module's evaluation of the desired configuration, or the violations in it.
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

/// The provider module's evaluation of the current configuration.
fn stored_evaluation(
    kms: &Value,
    encryption: &EncryptionSpec,
    evaluator: &dyn Evaluator,
) -> Result<Evaluation> {
    let answer = evaluator.evaluate(&EvaluationRequest::new(Origin::Stored, kms));
    anyhow::ensure!(!lacks_kms(encryption, &answer), "spec.encryption.kms: {KMS_REQUIRED}");
    Ok(answer?)
}

/// Adds the effect of each changed field, by the rules of the desired provider module.
fn kms_fields(
    plan: &mut Plan,
    (old, before): (&Value, &Evaluation),
    (new, after): (&Value, &Evaluation),
    evaluator: &dyn Evaluator,
) -> Result<()> {
    let found: Option<Descriptor> =
        evaluator.descriptors().into_iter().find(|d| d.provider_type == after.provider_type);
    let descriptor = found.context(
        "internal error: the provider module was unloaded during the call; please report this bug",
    )?;
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
        _ => (Effect::NewKey, "everything is encrypted in another mode"),
    };
    plan.fields.push(FieldChange {
        field: "type".to_owned(),
        from: Some(json!(before)),
        to: Some(json!(after)),
        effect,
        reason: reason.to_owned(),
    });
}

/// `spec.plugins` and the other fields that no provider module evaluates.
fn settings(plan: &mut Plan, old: &Wanted, new: &Wanted, whole: &Change) {
    let mut change = |field: &str, from: Value, to: Value, effect: Effect, reason: &str| {
        changed(plan, field, (from, to), effect, reason);
    };
    let json = |item: Value| if item == json!([]) || item == json!({}) { Value::Null } else { item };
    // Without a current plugin, the settings take effect later.
    let (a, b) = (&old.settings, &new.settings);
    let (effect, why) = if old.kms.is_some() {
        (Effect::InPlace, "how Keyward runs the plugin")
    } else {
        (Effect::None, "how Keyward runs a plugin")
    };
    let timeout = "how long the API server waits for the plugin";
    change("plugins.timeout", json!(old.kms_timeout), json!(new.kms_timeout), effect, timeout);
    change("plugins.proxy", json(json!(a.proxy)), json(json!(b.proxy)), effect, why);
    change("plugins.hostAliases", json(json!(a.host_aliases)), json(json!(b.host_aliases)), effect, why);
    change("plugins.resources", json(json!(a.resources)), json(json!(b.resources)), effect, why);

    let names =
        |resources: &[GroupResource]| -> Vec<String> { resources.iter().map(ToString::to_string).collect() };
    let encrypts = new.mode != Ok(Mode::Identity);
    let requested: Vec<GroupResource> =
        new.resources.iter().filter(|resource| !new.unconfirmed.contains(resource)).cloned().collect();
    let added = requested.iter().any(|resource| !old.resources.contains(resource));
    let leaves = whole.decrypted.iter().any(|resource| !requested.contains(resource));
    let (effect, reason) = match (encrypts, added) {
        (true, _) if leaves => {
            (Effect::Decrypt, "resources that leave the list are decrypted, as spec.decrypt confirms")
        }
        (true, true) => (Effect::ReEncrypt, "added resources are encrypted; the key stays"),
        (true, false) => (
            Effect::None,
            "resources that leave the list stay encrypted until spec.decrypt confirms their decryption",
        ),
        (false, _) => (Effect::None, "nothing is encrypted"),
    };
    change("resources", json!(names(&old.resources)), json!(names(&requested)), effect, reason);
    let (effect, reason) = if encrypts && leaves {
        (Effect::Decrypt, "confirms that resources outside spec.resources are decrypted")
    } else {
        (Effect::None, "no encrypted resource leaves spec.resources")
    };
    change("decrypt", json(json!(names(&old.decrypt))), json(json!(names(&new.decrypt))), effect, reason);

    let token = |wanted: &Wanted| token_or_null(&wanted.external_reason);
    let (effect, reason) = match (encrypts, new.external_reason.is_empty()) {
        (true, false) => (Effect::NewKey, "everything is re-encrypted once, under a new key secret"),
        _ => (Effect::None, "no token: nothing is re-encrypted"),
    };
    change("reencrypt", token(old), token(new), effect, reason);
    let timeout = |wanted: &Wanted| json!(format!("{}s", wanted.request_timeout.as_secs()));
    let reason = "how long a migration waits for writes in flight";
    change("apiServer.requestTimeout", timeout(old), timeout(new), Effect::None, reason);
}

/// `spec.paused` and `spec.forget`: requests to the operator, not settings of the encryption.
fn requests(plan: &mut Plan, old: &Wanted, new: &Wanted, whole: &Change) {
    let pause = match (old.paused.is_some(), new.paused.is_some()) {
        (false, false) => None,
        (false, true) => Some(PauseChange::Begins),
        (true, true) => Some(PauseChange::Stays),
        (true, false) => Some(PauseChange::Ends),
    };
    plan.pause = pause;
    let (effect, reason) = match pause {
        Some(PauseChange::Begins) => (Effect::Pause, "pauses: only the status is written"),
        Some(PauseChange::Ends) => (Effect::Resume, "resumes: the withheld writes follow"),
        Some(PauseChange::Stays) | None => (Effect::None, "who pauses Keyward, and why; it stays paused"),
    };
    changed(plan, "paused", (json!(old.paused), json!(new.paused)), effect, reason);

    let requests = |wanted: &Wanted| match wanted.requests.as_slice() {
        [] => Value::Null,
        requests => json!(requests),
    };
    let (effect, reason) = if whole.forgotten.is_empty() {
        (Effect::None, "this forgets no key; a key that has left does not come back".to_owned())
    } else {
        let keys: Vec<String> = whole.forgotten.iter().map(ToString::to_string).collect();
        let (word, them) = if keys.len() == 1 { ("key", "it") } else { ("keys", "them") };
        (Effect::Forget, format!("forgets {word} {} and what is stored under {them}", keys.join(", ")))
    };
    changed(plan, "forget", (requests(old), requests(new)), effect, &reason);
}

/// Adds a row if the two values differ.
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

/// An empty token is the same as an absent one.
fn token_or_null(token: &str) -> Value {
    if token.is_empty() { Value::Null } else { Value::String(token.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyward_core::api::ClusterEncryptionSpec;
    use keyward_core::provider::{Diagnosis, Failure, Kek, ModuleDigest, Plugin};

    use super::*;

    /// Accepts only a `kms` object with `ok: true`.
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

    fn object(spec: Value) -> ObjectSpec {
        ObjectSpec::of(serde_json::from_value(spec).unwrap())
    }

    fn kms(ok: bool) -> ObjectSpec {
        object(json!({"encryption": {"type": "KMS", "kms": {"type": "Test", "test": {"ok": ok}}}}))
    }

    #[test]
    fn correction_of_a_stored_spec_that_cannot_be_evaluated_is_planned() {
        let error = verdict(&kms(false), &kms(true), &Strict, Current::File).unwrap_err();
        assert!(format!("{error:#}").starts_with("the current object: "), "{error:#}");
        let plan = verdict(&kms(false), &kms(true), &Strict, Current::Stored).unwrap();
        assert!(plan.violations.is_empty() && plan.fields.is_empty(), "{plan:?}");
        let warning = &plan.warnings[0];
        assert!(warning.message.starts_with("no fields are compared"), "{warning:?}");
        // The desired object must still be valid.
        let plan = verdict(&kms(true), &kms(false), &Strict, Current::Stored).unwrap();
        assert_eq!(plan.violations.len(), 1, "{plan:?}");
    }

    #[test]
    fn each_changed_field_of_the_spec_has_a_row() {
        let current = json!({"encryption": {"type": "aescbc"}});
        // A new field of the spec fails to compile until it is here; add it to the table below too.
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
            let (current, desired) = (object(current.clone()), object(desired));
            let plan = verdict(&current, &desired, &Strict, Current::File).unwrap();
            let rows: Vec<&str> = plan.fields.iter().map(|change| change.field.as_str()).collect();
            assert_eq!(rows, [row], "{plan:?}");
            let back = verdict(&desired, &current, &Strict, Current::File).unwrap();
            assert!(back.fields.iter().any(|change| change.field == row), "{back:?}");
        }
    }
}
