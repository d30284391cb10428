//! The data of a KMS key as they should be now: configuration, copies of referenced values, rendering
//! (objects: candidate).

use serde_json::Value;

use super::content;
use crate::SecretBytes;
use crate::formats::ReferencedData;
use crate::formats::encryption_config::KmsConfiguration;
use crate::formats::key_secret::KmsKey;
use crate::formats::revision::{AcceptedPlugin, PluginRecord};
use crate::ids::KeyId;
use crate::names;
use crate::platform::ObjectRef;
use crate::provider::{Evaluation, Origin, Plugin, ProviderError, Reference, ReferenceKind, Violation};
use crate::snapshot::Snapshot;

/// A record without its salt, and the evaluation that it comes from.
pub(super) struct Wanted<'a> {
    pub(super) record: PluginRecord,
    pub(super) evaluation: &'a Evaluation,
}

/// Why there is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The configuration, or a referenced object, is wrong. The message names the object and the data key.
    Wrong(String),
    /// It is not known, and a trial under way continues (invariant: unknown-is-not-absent).
    Unknown(String),
}

impl Trouble {
    pub(super) fn message(&self) -> &str {
        let (Self::Wrong(why) | Self::Unknown(why)) = self;
        why
    }

    pub(super) fn within(self, what: &str) -> Self {
        match self {
            Self::Wrong(why) => Self::Wrong(format!("{what}: {why}")),
            Self::Unknown(why) => Self::Unknown(format!("{what}: {why}")),
        }
    }
}

impl From<&ProviderError> for Trouble {
    fn from(error: &ProviderError) -> Self {
        match error {
            // A call that failed may succeed the next time.
            ProviderError::Failed { .. } | ProviderError::Degraded { .. } => Self::Unknown(error.to_string()),
            ProviderError::NotLoaded { .. } | ProviderError::Invalid { .. } => Self::Wrong(error.to_string()),
        }
    }
}

/// The record of this `kms` object now.
pub(super) fn wanted<'a>(snapshot: &'a Snapshot, origin: Origin, kms: &Value) -> Result<Wanted<'a>, Trouble> {
    let evaluation = snapshot.evaluation(origin, kms).map_err(|error| Trouble::from(&error))?;
    let accepted = AcceptedPlugin {
        image: evaluation.image.clone(),
        template: evaluation.rendered.clone(),
        settings: snapshot.wanted.settings.clone(),
        module_digest: Some(evaluation.module.clone()),
    };
    let record = PluginRecord {
        kms: kms.clone(),
        referenced: referenced(snapshot, evaluation)?,
        accepted: Some(accepted),
        salt: None,
    };
    Ok(Wanted { record, evaluation })
}

/// Copies of referenced values (openshift: copy-referenced-data). Only the data keys that are referred to are
/// copied; each must be present and not empty.
fn referenced(snapshot: &Snapshot, evaluation: &Evaluation) -> Result<ReferencedData, Trouble> {
    let mut data = ReferencedData::new();
    let mut wrong: Vec<String> = Vec::new();
    for reference in &evaluation.references {
        match value(snapshot, evaluation, reference) {
            Ok(Some(value)) => {
                data.insert(reference.source.clone(), value.clone());
            }
            Ok(None) => {}
            Err(Trouble::Wrong(why)) => wrong.push(format!("{why}; {} references it", reference.field)),
            Err(unknown) => return Err(unknown),
        }
    }
    // Two data keys of one missing object are one mistake.
    wrong.dedup();
    if wrong.is_empty() { Ok(data) } else { Err(Trouble::Wrong(wrong.join("; "))) }
}

/// Everything that is wrong with the referenced objects of the desired configuration, each with its field
/// below `spec`.
pub fn violations(snapshot: &Snapshot) -> Vec<Violation> {
    let kms = snapshot.wanted.kms.as_ref();
    let Some(Ok(evaluation)) = kms.map(|kms| snapshot.evaluation(Origin::Desired, kms)) else {
        return Vec::new();
    };
    let below = kms.and_then(|kms| config_field(kms)).unwrap_or_default();
    let found = evaluation.references.iter().filter_map(|reference| {
        let why = value(snapshot, evaluation, reference).err()?;
        let field = format!("spec.encryption.kms.{below}.{}", reference.field);
        Some(Violation { field, message: why.message().to_owned() })
    });
    let mut found: Vec<Violation> = found.collect();
    found.dedup();
    found
}

/// The field beside `type` that contains the configuration.
fn config_field(kms: &Value) -> Option<&str> {
    kms.as_object()?.keys().map(String::as_str).find(|name| *name != "type")
}

/// The value of one reference; `None` if it is optional and absent.
fn value<'s>(
    snapshot: &'s Snapshot,
    evaluation: &Evaluation,
    reference: &Reference,
) -> Result<Option<&'s SecretBytes>, Trouble> {
    let namespace = &snapshot.referenced_namespace;
    let source = &reference.source;
    let object = ObjectRef { kind: source.kind, name: source.name.clone() };
    let found = match snapshot.objects.get(&object) {
        Some(Ok(found)) => found.as_ref(),
        Some(Err(why)) => {
            return Err(Trouble::Unknown(format!("failed to get {object} in {namespace}: {why}")));
        }
        None => {
            let why = format!("failed to get {object} in {namespace}: the operator has not read it yet");
            return Err(Trouble::Unknown(why));
        }
    };
    let named = || format!("{object} in {namespace}");
    let Some(data) = found else {
        let missing = format!("failed to get {}: not found", named());
        return if reference.required { Err(Trouble::Wrong(missing)) } else { Ok(None) };
    };
    let key = &source.key;
    match data.get(key) {
        Some(value) if !value.is_empty() => match content::mistake(&evaluation.facts, key, value.expose()) {
            Some(why) => Err(Trouble::Wrong(format!("{}: key {key:?} {why}", named()))),
            None => Ok(Some(value)),
        },
        _ if !reference.required => Ok(None),
        Some(_) => Err(Trouble::Wrong(format!("{} has an empty key {key:?}", named()))),
        None => Err(Trouble::Wrong(format!("{} is missing required key {key:?}", named()))),
    }
}

/// The provider of a key; its name is the bare key number.
pub(super) fn provider(snapshot: &Snapshot, id: KeyId, plugin: &Plugin) -> KmsConfiguration {
    KmsConfiguration {
        api_version: "v2".to_owned(),
        name: id.to_string(),
        cachesize: None,
        endpoint: match plugin {
            Plugin::Managed(_) if snapshot.openshift().is_some() => names::openshift_endpoint(id),
            Plugin::Managed(_) => names::endpoint(id),
            Plugin::External(endpoint) => endpoint.clone(),
        },
        timeout: timeout(snapshot, id),
    }
}

/// The timeout, `spec.plugins.timeout`, in place (decision 0009). A timeout that cannot be parsed is a
/// mistake of the spec and changes nothing, since it would be written as it is.
fn timeout(snapshot: &Snapshot, id: KeyId) -> String {
    let stored = snapshot.key(id).and_then(|key| key.kms.as_ref()).map(|kms| &kms.provider.timeout);
    match stored {
        Some(stored) if !has_timeout(snapshot) => stored.clone(),
        _ => snapshot.wanted.kms_timeout.clone(),
    }
}

fn has_timeout(snapshot: &Snapshot) -> bool {
    crate::duration::go(&snapshot.wanted.kms_timeout).is_ok_and(|timeout| !timeout.is_zero())
}

/// How a stored key differs from what it should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Paths of the normalized configuration, and `spec.plugins.…`.
    pub(super) fields: Vec<String>,
    /// Referenced objects, as `secret name`.
    pub(super) objects: Vec<String>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.objects.is_empty()
    }
}

/// Compares normal form, referenced values and accepted rendering. Another spelling of the same configuration
/// changes nothing.
pub(super) fn difference(snapshot: &Snapshot, stored: &KmsKey, now: &Wanted<'_>) -> Difference {
    let mut fields = Vec::new();
    match snapshot.evaluation(Origin::Stored, &stored.plugin.kms) {
        Ok(evaluation) => {
            leaves("", &evaluation.normalized, &now.evaluation.normalized, &mut fields);
        }
        // The module in force cannot read the stored configuration, so only the texts can be compared.
        Err(_) => leaves("", &stored.plugin.kms, &now.record.kms, &mut fields),
    }
    let mut objects: Vec<String> = [ReferenceKind::Secret, ReferenceKind::ConfigMap]
        .into_iter()
        .flat_map(|kind| {
            let of = |data: &ReferencedData| -> Vec<(crate::provider::KeyRef, crate::SecretBytes)> {
                data.iter().filter(|(r, _)| r.kind == kind).map(|(r, v)| (r.clone(), v.clone())).collect()
            };
            let (old, new) = (of(&stored.plugin.referenced), of(&now.record.referenced));
            let changed =
                |these: &[(crate::provider::KeyRef, crate::SecretBytes)],
                 those: &[(crate::provider::KeyRef, crate::SecretBytes)]| {
                    these
                        .iter()
                        .filter(|entry| !those.contains(entry))
                        .map(|(r, _)| format!("{} {}", r.kind, r.name))
                        .collect::<Vec<_>>()
                };
            [changed(&old, &new), changed(&new, &old)].concat()
        })
        .collect();
    objects.sort();
    objects.dedup();
    let accepted = now.record.accepted.as_ref();
    let old = stored.plugin.accepted.as_ref();
    // OpenShift's controllers store no rendering. That their keys lack one is no difference.
    let theirs = old.is_none() && snapshot.openshift().is_some();
    let settings = !theirs && old.map(|a| &a.settings) != accepted.map(|a| &a.settings);
    let timeout =
        snapshot.wanted.mistakes.is_empty() && stored.provider.timeout != snapshot.wanted.kms_timeout;
    if has_timeout(snapshot) && (settings || timeout) {
        fields.push("spec.plugins".to_owned());
    }
    let rendering = |a: Option<&AcceptedPlugin>| a.map(|a| (a.image.clone(), a.template.clone()));
    if !theirs && fields.is_empty() && objects.is_empty() && rendering(old) != rendering(accepted) {
        // A new version of the module renders the same configuration in another way.
        fields.push("(rendering)".to_owned());
    }
    Difference { fields, objects }
}

/// The paths of the leaves that differ.
fn leaves(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let child = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of =
                    |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or(Value::Null);
                leaves(&child, &of(a), &of(b), changed);
            }
        }
        _ if old != new => changed.push(path.to_owned()),
        _ => {}
    }
}
