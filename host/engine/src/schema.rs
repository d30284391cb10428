//! The fields of a configuration's schema, which is all that the host reads of it.
//!
//! `normalize` decides whether a configuration is valid; CEL rules and patterns are for the API server.

use keyward_core::field::{FieldPath, Step};
use serde_json::{Map, Value};

/// The fields that a schema has.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Fields with nothing below them, each with its type.
    leaves: Vec<(FieldPath, String)>,
    /// Objects, maps and lists with fields below them.
    inner: Vec<FieldPath>,
}

impl Schema {
    /// Reads a Kubernetes structural schema.
    pub(crate) fn read(schema: &Value) -> Result<Self, String> {
        let mut read = Self::default();
        let root = schema.as_object().ok_or("the schema is not an object")?;
        if root.get("type").and_then(Value::as_str) != Some("object") {
            return Err("the schema's own type is not \"object\"".to_owned());
        }
        if is_open(root) {
            return Err("the schema allows unknown fields at its top level".to_owned());
        }
        read.walk(&FieldPath::default(), root)?;
        read.inner.retain(|path| !path.is_root());
        Ok(read)
    }

    /// Every field that needs a rule, in the schema's order.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &FieldPath> {
        self.leaves.iter().map(|(path, _)| path)
    }

    /// The type of a leaf (`string`, `integer`, …).
    pub(crate) fn leaf_type(&self, path: &FieldPath) -> Option<&str> {
        self.leaves.iter().find(|(leaf, _)| leaf == path).map(|(_, kind)| kind.as_str())
    }

    /// Whether this is a field, leaf or not. A concrete path is a field if its pattern is one.
    pub(crate) fn has(&self, path: &FieldPath) -> bool {
        let matches = |field: &FieldPath| field == path || field.covers(path);
        self.leaves().any(matches) || self.inner.iter().any(matches)
    }

    fn walk(&mut self, path: &FieldPath, node: &Map<String, Value>) -> Result<(), String> {
        let at = || if path.is_root() { "the schema".to_owned() } else { format!("the schema of {path}") };
        for forbidden in ["$ref", "default"] {
            if node.contains_key(forbidden) {
                return Err(format!("{} has {forbidden:?}, which a provider's schema must not have", at()));
            }
        }
        let kind = match node.get("type").and_then(Value::as_str) {
            Some(kind @ ("object" | "array" | "string" | "integer" | "number" | "boolean")) => kind,
            Some(other) => return Err(format!("{} has the unknown type {other:?}", at())),
            None if node.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) => "int-or-string",
            None if is_open(node) => "any",
            None => return Err(format!("{} has no type", at())),
        };
        let below = |key: &str| match node.get(key) {
            None => Ok(None),
            Some(Value::Object(node)) => Ok(Some(node)),
            Some(_) => Err(format!("{key:?} in {} is not an object", at())),
        };
        if is_open(node) {
            self.leaves.push((path.clone(), kind.to_owned()));
            return Ok(());
        }
        match (kind, below("properties")?, below("additionalProperties")?, below("items")?) {
            ("object", Some(_), Some(_), _) => {
                return Err(format!("{} has both properties and additionalProperties", at()));
            }
            ("object", Some(fields), None, _) => {
                self.inner.push(path.clone());
                for (name, node) in fields {
                    let field = FieldPath::parse(name).map_err(|error| format!("{}: {error}", at()))?;
                    let ([Step::Key(_)], Some(node)) = (field.steps(), node.as_object()) else {
                        return Err(format!(
                            "{} has a property {name:?} whose name or schema is not valid",
                            at()
                        ));
                    };
                    self.walk(&path.then(Step::Key(name.clone())), node)?;
                }
            }
            ("object", None, Some(values), _) => {
                self.inner.push(path.clone());
                self.walk(&path.then(Step::AnyKey), values)?;
            }
            ("array", _, _, Some(items)) => {
                self.inner.push(path.clone());
                self.walk(&path.then(Step::AnyItem), items)?;
            }
            ("array", ..) => return Err(format!("{} is a list without \"items\"", at())),
            ("object", None, None, _) if path.is_root() => {}
            _ => self.leaves.push((path.clone(), kind.to_owned())),
        }
        Ok(())
    }
}

fn is_open(node: &Map<String, Value>) -> bool {
    node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_is_found_in_order() {
        let schema = Schema::read(&json!({"type": "object", "properties": {
            "image": {"type": "string"},
            "tls": {"type": "object", "properties": {"serverName": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "hosts": {"type": "array", "items": {"type": "string"}},
            "peers": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}))
        .unwrap();
        let leaves: Vec<String> = schema.leaves().map(ToString::to_string).collect();
        assert_eq!(
            leaves,
            ["image", "tls.serverName", "tls.port", "labels.*", "hosts[]", "peers[].name", "extra"]
        );
        let has = |text| schema.has(&FieldPath::parse(text).unwrap());
        assert!(has("tls") && has("peers[0].name") && has("hosts[1]") && has("labels.a"));
        assert!(!has("tls.other") && !has("x"));
        assert_eq!(schema.leaf_type(&FieldPath::parse("image").unwrap()), Some("string"));
    }

    #[test]
    fn schema_without_fields_is_valid() {
        assert_eq!(Schema::read(&json!({"type": "object"})).unwrap().leaves().count(), 0);
    }

    #[test]
    fn error_names_what_is_not_structural() {
        for (schema, word) in [
            (json!([]), "not an object"),
            (json!({"type": "string"}), "own type"),
            (json!({"type": "object", "properties": {"a": {}}}), "no type"),
            (json!({"type": "object", "properties": {"a": {"type": "text"}}}), "unknown type"),
            (json!({"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}), "default"),
            (json!({"type": "object", "properties": {"a": {"$ref": "#"}}}), "$ref"),
            (json!({"type": "object", "properties": {"a": {"type": "array"}}}), "items"),
            (json!({"type": "object", "properties": {"a.b": {"type": "string"}}}), "a.b"),
            (json!({"type": "object", "properties": []}), "not an object"),
            (json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), "unknown fields"),
        ] {
            let error = Schema::read(&schema).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
