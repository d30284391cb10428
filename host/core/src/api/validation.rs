//! Validation rules of the CRD's schema, in addition to types: the API server refuses everything that the operator
//! would refuse, with the same reason.

use schemars::Schema;
use serde_json::{Value, json};

use crate::ids::Mode;
use crate::platform::refused::{NO_NAME, REFUSED, Refused, WILDCARDS};

/// Most resources in one list. Without a bound the API server does not accept the rules.
const MOST_RESOURCES: usize = 64;
/// The resources of a spec that lists none.
const DEFAULTS: &str = "['configmaps', 'secrets']";

/// `spec`.
pub(super) fn spec(schema: &mut Schema) {
    // Absent is not `identity`: the field has no default, so that the error names the missing field.
    if let Some(encryption) = schema.pointer_mut("/properties/encryption").and_then(Value::as_object_mut) {
        encryption.remove("default");
    }
    schema.insert("required".to_owned(), json!(["encryption"]));
    list(schema, "/properties/resources", &refused());
    list(schema, "/properties/decrypt", &[]);
    let rule = json!([{
        "rule": format!("!has(self.decrypt) || self.decrypt.all(resource, !(resource in {}))", resources("self")),
        "message": "a resource must not be both in spec.resources (default: configmaps and secrets) and in spec.decrypt",
        "fieldPath": ".decrypt",
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
}

/// The whole object. A resource with objects that are stored under a key must not leave the list without a request to
/// decrypt it: the operator would keep it encrypted, and this rule reports that at once.
pub fn object() -> Value {
    let is_plain = "has(self.spec.encryption) && has(self.spec.encryption.type) && self.spec.encryption.type == 'identity'";
    let known = "has(self.status) && has(self.status.encryptedResources)";
    let (new, old) = (resources("self.spec"), resources("oldSelf.spec"));
    let stays = format!("resource in {new} || has(self.spec.decrypt) && resource in self.spec.decrypt");
    json!([
        {
            "rule": "self.metadata.name == 'cluster'",
            "message": "the name must be 'cluster': there is only one ClusterEncryption",
        },
        {
            "rule": format!(
                "{is_plain} || !({known}) || {old}.all(resource, {stays} || !(resource in self.status.encryptedResources))"
            ),
            "message": "a resource that is encrypted, or whose configuration still has a KMS provider (status.encryptedResources), leaves spec.resources; to confirm that it is decrypted, add it to spec.decrypt",
            "fieldPath": ".spec",
        },
    ])
}

/// The resources that a spec lists, as a CEL expression.
fn resources(of: &str) -> String {
    format!("(has({of}.resources) && size({of}.resources) > 0 ? {of}.resources : {DEFAULTS})")
}

/// Names of resources in the status, bounded for the rule above.
pub(super) fn status_names(schema: &mut Schema) {
    schema.insert("maxItems".to_owned(), json!(1024));
    schema.insert("items".to_owned(), json!({"type": "string", "maxLength": 253}));
}

/// `spec.encryption`.
pub(super) fn encryption(schema: &mut Schema) {
    schema.insert("required".to_owned(), json!(["type"]));
    let rule = json!([{
        "rule": "has(self.kms) ? (has(self.type) && self.type == 'KMS') : true",
        "message": crate::platform::KMS_REQUIRED,
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
}

/// `spec.encryption.type`.
pub(super) fn mode(_: &mut schemars::SchemaGenerator) -> Schema {
    let modes: Vec<&str> = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
    schemars::json_schema!({"type": "string", "enum": modes})
}

/// A Go duration above zero.
pub(super) fn duration(_: &mut schemars::SchemaGenerator) -> Schema {
    let unit = "(ns|us|µs|μs|ms|s|m|h)";
    schemars::json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [{
            "rule": format!(
                "self.matches('^[+]?(([0-9]+([.][0-9]*)?|[.][0-9]+){unit})+$') && duration(self) > duration('0s')"
            ),
            "message": "must be a duration above zero, such as 10s or 1m30s",
        }],
    })
}

/// `spec.plugins.resources`.
pub(super) fn plugin_resources(schema: &mut Schema) {
    for list in ["requests", "limits"] {
        let list = schema.pointer_mut(&format!("/properties/{list}")).and_then(Value::as_object_mut);
        if let Some(list) = list {
            let quantity = json!({
                "type": "string",
                "maxLength": 32,
                "x-kubernetes-validations": [{
                    "rule": "isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
                    "message": "must be a quantity, such as 10m or 64Mi, and not below zero",
                }],
            });
            list.insert("maxProperties".to_owned(), json!(16));
            list.insert("additionalProperties".to_owned(), quantity);
        }
    }
    let (requests, limits) = ("self.requests[name]", "self.limits[name]");
    let compared = format!(
        "isQuantity({requests}) && isQuantity({limits}) && quantity({requests}).isGreaterThan(quantity({limits}))"
    );
    let rule = json!([{
        "rule": format!(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits && {compared}))"
        ),
        "message": "a request must not be above its limit",
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
}

/// A list of resources, with rules of the whole list.
fn list(schema: &mut Schema, pointer: &str, rules: &[Value]) {
    if let Some(list) = schema.pointer_mut(pointer).and_then(Value::as_object_mut) {
        list.insert("x-kubernetes-list-type".to_owned(), json!("set"));
        list.insert("maxItems".to_owned(), json!(MOST_RESOURCES));
        let item = json!({"type": "string", "maxLength": 253, "x-kubernetes-validations": named()});
        list.insert("items".to_owned(), item);
        if !rules.is_empty() {
            list.insert("x-kubernetes-validations".to_owned(), json!(rules));
        }
    }
}

/// Rules for the name of a resource. One mistake has one message: a wildcard breaks only the first rule.
fn named() -> Vec<Value> {
    vec![
        json!({"rule": "!self.contains('*')", "message": WILDCARDS}),
        json!({"rule": "self.contains('*') || self.matches('^[a-z0-9-]+([.][a-z0-9-]+)*$')", "message": NO_NAME}),
    ]
}

/// Rules for resources that cannot be encrypted, from the table that the operator uses. A resource that is in the list
/// already may stay: an older version accepted it, and the list must not become immutable for that reason. Each entry
/// has two rules, because the API server cannot estimate the cost of a look into an optional `oldSelf`: the first is
/// for a new list, the second for a changed one.
fn refused() -> Vec<Value> {
    let rules = |refused: &Refused| {
        let Refused { group, resources, why } = refused;
        let (named, is_refused) = if resources.is_empty() {
            (format!("*.{group}"), format!("resource.matches('^[^.]+[.]{}$')", group.replace('.', "[.]")))
        } else {
            let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
            let names: Vec<String> = resources.iter().map(|name| format!("{name}{suffix}")).collect();
            (names.join(", "), format!("resource in ['{}']", names.join("', '")))
        };
        let message = format!("{named}: {why}");
        [
            json!({
                "rule": format!("oldSelf.hasValue() || self.all(resource, !({is_refused}))"),
                "message": message,
                "optionalOldSelf": true,
            }),
            json!({
                "rule": format!("self.all(resource, !({is_refused}) || resource in oldSelf)"),
                "message": message,
            }),
        ]
    };
    REFUSED.iter().flat_map(rules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first rule of a pair checks a new list, the second a changed one.
    #[test]
    fn refused_resource_can_stay_in_the_list_but_cannot_be_added() {
        let rules = refused();
        assert_eq!(rules.len(), 2 * REFUSED.len());
        for pair in rules.chunks(2) {
            let rule = |at: usize| pair[at]["rule"].as_str().unwrap_or_default();
            let checks = rule(0).strip_prefix("oldSelf.hasValue() || self.all(resource, ");
            let checks = checks.and_then(|rule| rule.strip_suffix(')')).unwrap_or_else(|| panic!("{pair:?}"));
            assert_eq!(rule(1), format!("self.all(resource, {checks} || resource in oldSelf)"));
            assert_eq!(
                (&pair[0]["optionalOldSelf"], &pair[1]["optionalOldSelf"]),
                (&json!(true), &Value::Null)
            );
            assert_eq!(pair[0]["message"], pair[1]["message"]);
        }
    }
}
