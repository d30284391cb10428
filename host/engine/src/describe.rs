//! Checks the result of `describe`, once, when a module is loaded.
//!
//! Whether the rules agree with `kek-identity` cannot be checked here, since that needs configurations to compare. The
//! fixtures of a module check it (provider-abi: fixtures).

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::field::{FieldPath, Step};
use keyward_core::provider::{Descriptor, FieldRule, ModuleDigest};

use crate::abi::{RawDescriptor, Setting};
use crate::error::EngineError;
use crate::json;
use crate::schema::Schema;
use crate::text::{hidden_in, is_hidden, printable};

/// Facts with a fixed set of values. Other names are kept with any value.
const FACTS: [(&str, &[&str]); 3] = [
    ("remote-key-id", &["tracks-rotation", "static"]),
    ("status", &["probes-backend", "constant"]),
    ("credentials", &["hot", "restart"]),
];

/// The descriptor and its parsed schema, or an error.
pub(crate) fn check(
    raw: RawDescriptor,
    module: ModuleDigest,
    json_depth: usize,
) -> Result<(Descriptor, Schema), EngineError> {
    inner(raw, module, json_depth)
        .map_err(|message| EngineError::Contract { message: format!("in describe: {message}") })
}

fn inner(
    raw: RawDescriptor,
    module: ModuleDigest,
    json_depth: usize,
) -> Result<(Descriptor, Schema), String> {
    if !is_name(&raw.provider_type) {
        return Err(format!(
            "provider-type {:?} must consist of letters, digits and dashes, and begin with a letter",
            raw.provider_type
        ));
    }
    config_field(&raw.config_field)?;
    let value =
        json::parse(&raw.config_schema, json_depth).map_err(|found| format!("config-schema is {found}"))?;
    if let Some(text) = hidden_in(&value) {
        return Err(format!("config-schema contains {text:?}, with non-printable characters"));
    }
    let schema = Schema::read(&value)?;
    if let Some(field) = &raw.image_field {
        image(field, &schema)?;
    }
    let rules = rules(raw.rules, &schema)?;
    let facts = unique(raw.facts).map_err(|found| format!("in the facts: {found}"))?;
    for (name, values) in FACTS {
        if let Some(value) = facts.get(name).filter(|value| !values.contains(&value.as_str())) {
            return Err(format!("the fact {name} is {value:?}; it must be {}", values.join(" or ")));
        }
    }
    let descriptor = Descriptor {
        provider_type: raw.provider_type,
        config_field: raw.config_field,
        image_field: raw.image_field,
        config_schema: value,
        rules,
        facts,
        module,
    };
    Ok((descriptor, schema))
}

fn image(field: &str, schema: &Schema) -> Result<(), String> {
    let path = FieldPath::parse(field).map_err(|error| format!("image-field: {error}"))?;
    if path.steps().iter().any(|step| !matches!(step, Step::Key(_))) {
        return Err(format!("image-field {field:?} does not name one field"));
    }
    match schema.leaf_type(&path) {
        Some("string") => Ok(()),
        Some(other) => Err(format!("image-field {field:?} is of type {other}, not string")),
        None => Err(format!("image-field {field:?} is not in the schema")),
    }
}

/// Checks that there is exactly one rule for each leaf, each with a reason.
fn rules(rules: Vec<FieldRule>, schema: &Schema) -> Result<Vec<FieldRule>, String> {
    let mut open: BTreeSet<String> = schema.leaves().map(ToString::to_string).collect();
    let mut checked = Vec::with_capacity(rules.len());
    let mut seen = BTreeSet::new();
    for rule in rules {
        if !seen.insert(rule.field.clone()) {
            return Err(format!("the field {:?} has two rules", rule.field));
        }
        if !open.remove(&rule.field) {
            return Err(format!("a rule is for {:?}, which is not a leaf field of the schema", rule.field));
        }
        if rule.reason.trim().is_empty() {
            return Err(format!("the rule for {:?} gives no reason", rule.field));
        }
        checked.push(FieldRule { reason: printable(rule.reason), ..rule });
    }
    match open.first() {
        Some(field) => Err(format!("the field {field:?} has no rule")),
        None => Ok(checked),
    }
}

/// Words that CEL does not accept as the name of a field in `has(self.NAME)`.
const CEL_RESERVED: &str = "as break const continue else false for function if import in let loop namespace null \
                            package return true var void while";

/// Checks the name of the field beside `type`. `keyward crds` writes a CEL rule with it.
fn config_field(name: &str) -> Result<(), String> {
    let spelled = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    if !spelled || name == "type" {
        return Err(format!(
            "config-field {name:?} must consist of letters and digits, begin with a lower-case letter, and not be `type`"
        ));
    }
    if CEL_RESERVED.split(' ').any(|word| word == name) {
        return Err(format!(
            "config-field {name:?} is a reserved word of CEL, the language of the CRD's rules"
        ));
    }
    Ok(())
}

/// Whether this is a valid provider type: at most 63 letters, digits and dashes that begin with a letter.
fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Settings by name. They are shown to people and compared, so each has a unique name, and name and value are one
/// printable line.
pub(crate) fn unique(settings: Vec<Setting>) -> Result<BTreeMap<String, String>, String> {
    let mut map = BTreeMap::new();
    for (name, value) in settings {
        if name.is_empty() {
            return Err("a name is empty".to_owned());
        }
        if [&name, &value].into_iter().any(|text| text.contains(is_hidden)) {
            return Err(format!("{name:?} or its value {value:?} has non-printable characters"));
        }
        if map.contains_key(&name) {
            return Err(format!("{name:?} is given twice"));
        }
        map.insert(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use keyward_core::provider::Effect;
    use serde_json::json;

    use super::*;

    fn raw() -> RawDescriptor {
        let rule = |field: &str| FieldRule {
            field: field.to_owned(),
            effect: Effect::NewKey,
            reason: "names another KEK".to_owned(),
        };
        RawDescriptor {
            provider_type: "Acme".to_owned(),
            config_field: "acme".to_owned(),
            image_field: Some("image".to_owned()),
            config_schema: json!({"type": "object", "properties": {
                "image": {"type": "string"}, "port": {"type": "integer"}}})
            .to_string(),
            rules: vec![rule("image"), rule("port")],
            facts: vec![("status".to_owned(), "constant".to_owned()), ("new".to_owned(), "x".to_owned())],
        }
    }

    fn refused(change: impl FnOnce(&mut RawDescriptor)) -> String {
        let mut raw = raw();
        change(&mut raw);
        check(raw, ModuleDigest(String::new()), 64).unwrap_err().to_string()
    }

    #[test]
    fn valid_descriptor_passes_and_unknown_facts_are_kept() {
        let (descriptor, _) = check(raw(), ModuleDigest(String::new()), 64).unwrap();
        assert_eq!(descriptor.facts["new"], "x");
    }

    #[test]
    fn each_fault_is_named() {
        assert!(refused(|d| d.provider_type.clear()).contains("provider-type"));
        assert!(refused(|d| d.config_field = "type".to_owned()).contains("config-field"));
        for name in ["a.b", "my-kms", "Acme", "a_b", "", "1a", "ä", &"a".repeat(64)] {
            assert!(
                refused(|d| d.config_field = name.to_owned()).contains("must consist of letters and digits"),
                "{name}"
            );
        }
        for name in CEL_RESERVED.split(' ') {
            assert!(refused(|d| d.config_field = name.to_owned()).contains("reserved word"), "{name}");
        }
        assert!(refused(|d| d.image_field = Some("port".to_owned())).contains("integer"));
        assert!(refused(|d| d.image_field = Some("none".to_owned())).contains("not in the schema"));
        assert!(refused(|d| d.config_schema = "{".to_owned()).contains("not JSON"));
        assert!(refused(|d| d.rules.truncate(1)).contains("\"port\" has no rule"));
        assert!(refused(|d| d.rules.push(d.rules[0].clone())).contains("two rules"));
        assert!(refused(|d| d.rules[0].field = "other".to_owned()).contains("not a leaf field"));
        assert!(refused(|d| d.rules[0].reason = " ".to_owned()).contains("no reason"));
        assert!(refused(|d| d.facts.push(d.facts[0].clone())).contains("twice"));
        assert!(refused(|d| d.facts[1].0.clear()).contains("a name is empty"));
        for hidden in ["\u{1b}[2J", "a\nfact  b", "\u{202e}", "\u{9b}"] {
            assert!(refused(|d| d.facts[1].0 = hidden.to_owned()).contains("non-printable"), "{hidden:?}");
            assert!(refused(|d| d.facts[1].1 = hidden.to_owned()).contains("non-printable"), "{hidden:?}");
        }
        assert!(
            refused(|d| d.config_schema = d.config_schema.replace("port", "p\u{202e}"))
                .contains("non-printable")
        );
        assert!(refused(|d| d.facts[0].1 = "perhaps".to_owned()).contains("probes-backend or constant"));
    }
}
