//! Kubernetes structural schemas: the OpenAPI v3 subset of CRDs, with CEL rules for messages.
//!
//! A pattern without a message becomes `pattern`. A pattern with a message, or one that must not match,
//! becomes a CEL rule: only CEL rules can have a message or a negation.

use serde_json::{Map, Value, json};

use super::spec::{Bound, Cel, FieldSpec, ObjectSpec, Pattern};

pub(crate) fn text(spec: &FieldSpec) -> Value {
    let mut schema = typed("string");
    bound(&mut schema, "minLength", spec.limits.min_length.as_ref());
    bound(&mut schema, "maxLength", spec.limits.max_length.as_ref());
    if !spec.limits.one_of.is_empty() {
        schema.insert("enum".to_owned(), json!(spec.limits.one_of));
    }
    let mut rules = Vec::new();
    for pattern in spec.patterns {
        if pattern.wanted && pattern.message.is_none() && !schema.contains_key("pattern") {
            schema.insert("pattern".to_owned(), json!(pattern.source));
        } else {
            rules.push(pattern_rule(pattern));
        }
    }
    add_rules(&mut schema, rules);
    Value::Object(schema)
}

pub(crate) fn integer(spec: &FieldSpec, format: &str, natural: (Option<i64>, Option<i64>)) -> Value {
    let mut schema = typed("integer");
    schema.insert("format".to_owned(), json!(format));
    let bound = |given: Option<&Bound>, natural: Option<i64>| given.map(|b| b.value).or(natural);
    if let Some(minimum) = bound(spec.limits.min.as_ref(), natural.0) {
        schema.insert("minimum".to_owned(), json!(minimum));
    }
    if let Some(maximum) = bound(spec.limits.max.as_ref(), natural.1) {
        schema.insert("maximum".to_owned(), json!(maximum));
    }
    Value::Object(schema)
}

pub(crate) fn list(spec: &FieldSpec, items: Value) -> Value {
    let mut schema = typed("array");
    schema.insert("items".to_owned(), items);
    schema.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
    bound(&mut schema, "minItems", spec.limits.min_items.as_ref());
    bound(&mut schema, "maxItems", spec.limits.max_items.as_ref());
    Value::Object(schema)
}

pub(crate) fn map(spec: &FieldSpec, values: Value) -> Value {
    let mut schema = typed("object");
    schema.insert("additionalProperties".to_owned(), values);
    bound(&mut schema, "minProperties", spec.limits.min_items.as_ref());
    bound(&mut schema, "maxProperties", spec.limits.max_items.as_ref());
    Value::Object(schema)
}

pub(crate) fn object(object: &ObjectSpec, _: &FieldSpec) -> Value {
    let mut schema = typed("object");
    describe(&mut schema, object.description);
    bound(&mut schema, "minProperties", object.min_properties.as_ref());
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in object.fields {
        let mut property = (field.schema)(field);
        if let Value::Object(property) = &mut property {
            describe(property, field.description);
            add_rules(property, field.cel.iter().map(cel_rule).collect());
        }
        properties.insert(field.name.to_owned(), property);
        if field.required.is_some() {
            required.push(field.name);
        }
    }
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    add_rules(&mut schema, object.cel.iter().map(cel_rule).collect());
    Value::Object(schema)
}

fn typed(kind: &str) -> Map<String, Value> {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!(kind));
    schema
}

fn describe(schema: &mut Map<String, Value>, description: &str) {
    if !description.is_empty() {
        schema.insert("description".to_owned(), json!(description));
    }
}

fn bound(schema: &mut Map<String, Value>, keyword: &str, bound: Option<&Bound>) {
    if let Some(bound) = bound {
        schema.insert(keyword.to_owned(), json!(bound.value));
    }
}

fn add_rules(schema: &mut Map<String, Value>, rules: Vec<Value>) {
    if rules.is_empty() {
        return;
    }
    let all = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.extend(rules);
    }
}

/// The schema with the CEL rules of its type.
pub(crate) fn with_cel(mut schema: Value, cel: &[Cel]) -> Value {
    if let Value::Object(schema) = &mut schema {
        add_rules(schema, cel.iter().map(cel_rule).collect());
    }
    schema
}

fn cel_rule(cel: &Cel) -> Value {
    json!({"rule": cel.rule, "message": cel.message})
}

fn pattern_rule(pattern: &Pattern) -> Value {
    // A backslash is an escape in a CEL text, so the backslashes of the pattern are doubled.
    let literal = pattern.source.replace('\\', r"\\").replace('\'', r"\'");
    let negation = if pattern.wanted { "" } else { "!" };
    json!({"rule": format!("{negation}self.matches('{literal}')"), "message": pattern.message()})
}
