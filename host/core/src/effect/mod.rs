//! What a change of configuration does to what is stored: the verdict that `keyward plan` shows, that the
//! operator acts on, and that a provider author's fixtures expect. One function computes it, so that the
//! three cannot disagree (invariant: plan-is-decision).

mod spec;

pub use spec::{Change, InForce, between};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::field::{FieldPath, Step};
use crate::ids::Mode;
use crate::provider::{Descriptor, Effect, Evaluation, Violation};

/// The reason shown for a field whose rule has a greater effect than the change.
pub const SAME_KEK: &str = "same KEK";

/// The reason for a new key: another mode.
pub const MODE_CHANGED: &str = "encryption-mode-changed";
/// The reason for a new key: another KEK.
pub const PROVIDER_CHANGED: &str = "kms-provider-changed";
/// The reason for a new key: another token requests that everything is re-encrypted (decision 0008).
pub const EXTERNAL_REASON_CHANGED: &str = "external-reason-changed";

/// Whether a spec needs another key than the newest, and why. `kek` is the [`total`] between two KMS
/// configurations. The tokens are the one that the key was made for and the requested one; an empty one
/// requests nothing.
pub fn new_key(
    (from, to): (Mode, Mode),
    kek: Option<Effect>,
    (made_for, asked): (&str, &str),
) -> Option<&'static str> {
    if from != to {
        Some(MODE_CHANGED)
    } else if kek == Some(Effect::NewKey) {
        Some(PROVIDER_CHANGED)
    } else if to != Mode::Identity && !asked.is_empty() && made_for != asked {
        Some(EXTERNAL_REASON_CHANGED)
    } else {
        None
    }
}

/// One side of a comparison: a configuration as it was written, and its evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The value of the config field, as written.
    pub written: &'a Value,
    /// Its evaluation by the module in force, also if another module was in force when it was stored.
    pub evaluation: &'a Evaluation,
}

/// One field that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path below the configuration; `type` if the provider type itself changed.
    pub field: String,
    /// The value before; absent if it was not written.
    pub from: Option<Value>,
    /// The value after; absent if it is not written any more.
    pub to: Option<Value>,
    /// The effect of its rule, lowered to the total.
    pub effect: Effect,
    /// The rule's reason, or [`SAME_KEK`] if the effect was lowered.
    pub reason: String,
}

/// What a change does, as a whole and field by field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The total. Only the KEK identity and the normal form decide it.
    pub effect: Effect,
    /// The fields that changed, in the order of the provider module's rules.
    pub fields: Vec<FieldChange>,
    /// Warnings for the admin about the new configuration.
    pub warnings: Vec<Violation>,
}

/// The total effect of a change from one evaluated configuration to another (decision 0022).
///
/// | provider type, KEK's key | KEK's version | normal form | effect |
/// |---|---|---|---|
/// | differ | | | new key |
/// | equal | differs | | re-encrypt |
/// | equal | equal | differs | in place |
/// | equal | equal | equal | none |
///
/// Equality of canonical values is an equivalence, so the answer does not depend on the path from one
/// configuration to another.
pub fn total(old: &Evaluation, new: &Evaluation) -> Effect {
    if old.provider_type != new.provider_type || old.kek.key != new.kek.key {
        Effect::NewKey
    } else if old.kek.version != new.kek.version {
        Effect::ReEncrypt
    } else if old.normalized != new.normalized {
        Effect::InPlace
    } else {
        Effect::None
    }
}

/// The verdict on a change from `old` to `new`; `descriptor` is the new side's.
///
/// A field shows its rule's effect, lowered to the total if the total is less. A total above every field's
/// rule means that the module's rules do not agree with its KEK identity: the total stays, and a warning
/// reports it.
pub fn compare(descriptor: &Descriptor, old: Side<'_>, new: Side<'_>) -> Verdict {
    let effect = total(old.evaluation, new.evaluation);
    let mut warnings = new.evaluation.warnings.clone();
    if old.evaluation.provider_type != new.evaluation.provider_type {
        let change = FieldChange {
            field: "type".to_owned(),
            from: Some(Value::String(old.evaluation.provider_type.clone())),
            to: Some(Value::String(new.evaluation.provider_type.clone())),
            effect: Effect::NewKey,
            reason: "the KEK is in another kind of KMS".to_owned(),
        };
        return Verdict { effect, fields: vec![change], warnings };
    }
    let fields = changes(descriptor, old.written, new.written, effect);
    if effect > fields.iter().map(|f| f.effect).max().unwrap_or(Effect::None) {
        warnings.push(Violation {
            field: String::new(),
            message: format!("the provider module reports the effect {effect}, but no rule of a changed field has that effect"),
        });
    }
    Verdict { effect, fields, warnings }
}

fn changes(descriptor: &Descriptor, old: &Value, new: &Value, total: Effect) -> Vec<FieldChange> {
    let rules = Rules::new(descriptor);
    let mut before = rules.leaves(old);
    let mut changed: Vec<(Leaf<'_>, Option<&Value>, Option<&Value>)> = Vec::new();
    for leaf in rules.leaves(new) {
        let from = before.iter().position(|l| l.path == leaf.path).map(|at| before.remove(at).value);
        if from != Some(leaf.value) {
            let to = leaf.value;
            changed.push((leaf, from, Some(to)));
        }
    }
    changed.extend(before.into_iter().map(|leaf| {
        let from = leaf.value;
        (leaf, Some(from), None)
    }));
    changed.sort_by(|(a, ..), (b, ..)| {
        (a.rule.unwrap_or(usize::MAX), &a.path).cmp(&(b.rule.unwrap_or(usize::MAX), &b.path))
    });
    changed
        .into_iter()
        .map(|(leaf, from, to)| {
            let (effect, reason) = match leaf.rule.and_then(|i| descriptor.rules.get(i)) {
                Some(rule) if rule.effect <= total => (rule.effect, rule.reason.as_str()),
                Some(_) => (total, SAME_KEK),
                None => (total, "the provider module has no rule for this field"),
            };
            FieldChange {
                field: leaf.path.to_string(),
                from: from.cloned(),
                to: to.cloned(),
                effect,
                reason: reason.to_owned(),
            }
        })
        .collect()
}

/// A value that one rule is about.
struct Leaf<'v> {
    path: FieldPath,
    rule: Option<usize>,
    value: &'v Value,
}

/// The descriptor's rules as patterns.
struct Rules(Vec<Option<FieldPath>>);

impl Rules {
    fn new(descriptor: &Descriptor) -> Self {
        Self(descriptor.rules.iter().map(|r| FieldPath::parse(&r.field).ok()).collect())
    }

    fn of(&self, path: &FieldPath) -> Option<usize> {
        self.0.iter().position(|pattern| pattern.as_ref().is_some_and(|p| p.covers(path)))
    }

    /// Every written leaf. `null` and an empty object or list count as not written, as for the API server.
    fn leaves<'v>(&self, value: &'v Value) -> Vec<Leaf<'v>> {
        let mut found = Vec::new();
        self.walk(&FieldPath::default(), value, &mut found);
        found
    }

    fn walk<'v>(&self, path: &FieldPath, value: &'v Value, found: &mut Vec<Leaf<'v>>) {
        let rule = self.of(path);
        match value {
            Value::Null => {}
            Value::Object(fields) if rule.is_none() => {
                for (name, value) in fields {
                    self.walk(&path.then(Step::Key(name.clone())), value, found);
                }
            }
            // A list of plain values is one leaf: otherwise an item that is inserted at the front would
            // change every place.
            Value::Array(items) if rule.is_none() => {
                let each = path.then(Step::AnyItem);
                match self.of(&each) {
                    Some(_) if items.is_empty() => {}
                    Some(rule) => found.push(Leaf { path: each, rule: Some(rule), value }),
                    None => {
                        for (i, value) in items.iter().enumerate() {
                            self.walk(&path.then(Step::Item(i)), value, found);
                        }
                    }
                }
            }
            _ => found.push(Leaf { path: path.clone(), rule, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::provider::{FieldRule, Kek, ModuleDigest, Plugin};

    fn descriptor() -> Descriptor {
        let rule = |field: &str, effect, reason: &str| FieldRule {
            field: field.to_owned(),
            effect,
            reason: reason.to_owned(),
        };
        Descriptor {
            provider_type: "Acme".to_owned(),
            config_field: "acme".to_owned(),
            image_field: Some("image".to_owned()),
            config_schema: json!({}),
            rules: vec![
                rule("image", Effect::InPlace, "the plugin's program"),
                rule("key", Effect::NewKey, "names another KEK"),
                rule("keyVersion", Effect::ReEncrypt, "names another version"),
                rule("tls.serverName", Effect::InPlace, "connection only"),
                rule("labels.*", Effect::InPlace, "shown only"),
                rule("hosts[]", Effect::InPlace, "connection only"),
                rule("peers[].name", Effect::InPlace, "connection only"),
            ],
            facts: BTreeMap::new(),
            module: ModuleDigest("sha256:0".to_owned()),
        }
    }

    /// A provider type whose key is not case-sensitive, and whose identity is key and version.
    fn evaluate(written: &Value) -> Evaluation {
        let mut normalized = written.clone();
        let key = written["key"].as_str().unwrap_or_default().to_lowercase();
        normalized["key"] = json!(key);
        let version = written["keyVersion"].as_str().unwrap_or_default().to_owned();
        Evaluation {
            provider_type: "Acme".to_owned(),
            normalized,
            warnings: Vec::new(),
            kek: Kek {
                key: [("key".to_owned(), key)].into(),
                version: [("version".to_owned(), version)].into(),
            },
            references: Vec::new(),
            rendered: Plugin::External("unix:///x".to_owned()),
            image: None,
            requirements: Vec::new(),
            facts: BTreeMap::new(),
            field_order: vec![],
            module: ModuleDigest("sha256:0".to_owned()),
        }
    }

    fn verdict(old: &Value, new: &Value) -> Verdict {
        let (a, b) = (evaluate(old), evaluate(new));
        compare(&descriptor(), Side { written: old, evaluation: &a }, Side { written: new, evaluation: &b })
    }

    fn shown(verdict: &Verdict) -> Vec<String> {
        let text = |v: &Option<Value>| v.as_ref().map_or("-".to_owned(), ToString::to_string);
        verdict
            .fields
            .iter()
            .map(|f| format!("{} {} {} {} ({})", f.field, text(&f.from), text(&f.to), f.effect, f.reason))
            .collect()
    }

    #[rstest]
    #[case::nothing(json!({"key": "a"}), json!({"key": "a"}), Effect::None, &[])]
    #[case::not_written_is_null_is_empty(json!({"key": "a"}), json!({"key": "a", "tls": {"serverName": null}, "hosts": [], "labels": {}}),
        Effect::InPlace, &[])]
    #[case::image(json!({"key": "a", "image": "i1"}), json!({"key": "a", "image": "i2"}), Effect::InPlace,
        &[r#"image "i1" "i2" in-place (the plugin's program)"#])]
    #[case::another_key(json!({"key": "a"}), json!({"key": "b", "tls": {"serverName": "x"}}), Effect::NewKey,
        &[r#"key "a" "b" new-key (names another KEK)"#, r#"tls.serverName - "x" in-place (connection only)"#])]
    #[case::the_same_key_written_otherwise(json!({"key": "a"}), json!({"key": "A"}), Effect::None,
        &[r#"key "a" "A" none (same KEK)"#])]
    #[case::lowered_to_the_total(json!({"key": "a", "image": "i1"}), json!({"key": "A", "image": "i2"}), Effect::InPlace,
        &[r#"image "i1" "i2" in-place (the plugin's program)"#, r#"key "a" "A" in-place (same KEK)"#])]
    #[case::another_version(json!({"key": "a", "keyVersion": "1"}), json!({"key": "a", "keyVersion": "2"}), Effect::ReEncrypt,
        &[r#"keyVersion "1" "2" re-encrypt (names another version)"#])]
    #[case::maps_lists_and_lists_of_objects(
        json!({"key": "a", "labels": {"team": "x"}, "hosts": ["a", "b"], "peers": [{"name": "p"}]}),
        json!({"key": "a", "labels": {"team": "y"}, "hosts": ["b"], "peers": [{"name": "q"}]}), Effect::InPlace,
        &[r#"labels.team "x" "y" in-place (shown only)"#, r#"hosts[] ["a","b"] ["b"] in-place (connection only)"#,
          r#"peers[0].name "p" "q" in-place (connection only)"#])]
    #[case::taken_away(json!({"key": "a", "tls": {"serverName": "x"}}), json!({"key": "a"}), Effect::InPlace,
        &[r#"tls.serverName "x" - in-place (connection only)"#])]
    fn each_changed_field_shows_its_effect_and_reason(
        #[case] old: Value,
        #[case] new: Value,
        #[case] effect: Effect,
        #[case] fields: &[&str],
    ) {
        let verdict = verdict(&old, &new);
        assert_eq!(verdict.effect, effect);
        assert_eq!(shown(&verdict), fields);
    }

    #[test]
    fn rules_that_disagree_with_the_kek_identity_cause_a_warning() {
        let (old, new) = (json!({"key": "a"}), json!({"key": "b"}));
        let mut descriptor = descriptor();
        descriptor.rules[1].effect = Effect::InPlace;
        let (a, b) = (evaluate(&old), evaluate(&new));
        let verdict = compare(
            &descriptor,
            Side { written: &old, evaluation: &a },
            Side { written: &new, evaluation: &b },
        );
        assert_eq!(verdict.effect, Effect::NewKey);
        assert_eq!(verdict.fields[0].effect, Effect::InPlace);
        assert_eq!(verdict.warnings.len(), 1);
    }

    #[test]
    fn another_provider_type_is_another_kek_even_with_equal_parts() {
        let config = json!({"key": "a"});
        let (old, mut new) = (evaluate(&config), evaluate(&config));
        new.provider_type = "Other".to_owned();
        let verdict = compare(
            &descriptor(),
            Side { written: &config, evaluation: &old },
            Side { written: &config, evaluation: &new },
        );
        assert_eq!(verdict.effect, Effect::NewKey);
        assert_eq!(verdict.fields[0].field, "type");
    }
}
