//! Modules that run well and lie.

use keyward_test_hostile::Does;

use super::*;

/// The message of the contract that this module breaks when it evaluates.
fn broken(function: &str, answer: Value) -> String {
    let engine = engine(&Forge::sound("Acme", "acme").answering(function, answer));
    let (_, category, message) = failure(&engine, &acme("a"));
    assert_eq!(category, "contract", "{message}");
    message
}

/// Why a module with this changed in its descriptor is refused.
fn described(pointer: &str, value: Value) -> String {
    let forge = Forge::sound("Acme", "acme").changing("describe", pointer, value);
    let error = refusal(&built(&forge), options());
    assert_eq!(error.category(), "contract", "{error}");
    error.to_string()
}

#[test]
fn a_descriptor_is_checked_at_load() {
    assert!(described("/provider-type", json!("no type")).contains("provider-type"));
    assert!(described("/config-field", json!("type")).contains("config-field"));
    assert!(described("/image-field", json!("nowhere")).contains("not in the schema"));
    assert!(described("/config-schema", json!("rubbish")).contains("not JSON"));
    assert!(described("/config-schema", json!("[]")).contains("not an object"));
    assert!(described("/config-schema", json!({"$repeat": ["[", 5000]})).contains("nested deeper"));
    assert!(described("/rules", json!([])).contains("has no rule"));
    assert!(described("/rules/0/field", json!("other")).contains("no leaf"));
    let twice = json!([{"name": "docs", "value": "a"}, {"name": "docs", "value": "b"}]);
    assert!(described("/facts", twice).contains("stands twice"));
}

#[test]
fn what_normalize_returns_is_a_bounded_object() {
    assert!(broken("normalize", json!({"ok": {"config": "{", "warnings": []}})).contains("not JSON"));
    assert!(broken("normalize", json!({"ok": {"config": "[]", "warnings": []}})).contains("no object"));
    let deep = json!({"ok": {"config": {"$repeat": ["[", 100_000]}, "warnings": []}});
    assert!(broken("normalize", deep).contains("nested deeper"));
    assert!(broken("normalize", json!({"err": []})).contains("without saying why"));
}

#[test]
fn a_normal_form_is_its_own_normal_form() {
    let (a, b) = (acme("a")["acme"].clone(), acme("b")["acme"].clone());
    let normal = |config: &Value| json!({"ok": {"config": config.to_string(), "warnings": []}});
    let flips = Does::Cases(vec![(a.clone(), normal(&b))], normal(&a));
    let engine_of = |does| engine(&Forge::sound("Acme", "acme").with("normalize", does));
    let (function, category, message) = failure(&engine_of(flips), &acme("a"));
    assert_eq!((function.as_str(), category.as_str()), ("normalize", "contract"));
    assert!(message.contains("another configuration"), "{message}");

    let refuses_its_own =
        Does::Cases(vec![(a, normal(&b))], json!({"err": [{"field": "", "message": "what is this"}]}));
    let (_, _, message) = failure(&engine_of(refuses_its_own), &acme("a"));
    assert!(message.contains("what is this"), "{message}");
}

#[test]
fn identities_and_references_are_checked() {
    let twice = json!({"key": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}], "version": []});
    assert!(broken("kek-identity", twice).contains("\"a\" twice"));
    let reference = |name: &str, key: &str, field: &str| {
        json!([{"source": {"kind": "secret", "name": name, "key": key},
            "exposure": "file", "required": true, "field": field}])
    };
    assert!(broken("references", reference("a_b", "k", "key")).contains("no object"));
    assert!(broken("references", reference("a", "../k", "key")).contains("no key"));
    assert!(broken("references", reference("a", "k", "other")).contains("no field"));
}

#[test]
fn a_rendered_plugin_is_checked() {
    let changed = |pointer: &str, value: Value| {
        let forge = Forge::sound("Acme", "acme").changing("render", &format!("/ok/managed{pointer}"), value);
        let (function, category, message) = failure(&engine(&forge), &acme("a"));
        assert_eq!((function.as_str(), category.as_str()), ("render", "contract"), "{message}");
        message
    };
    assert!(changed("/args/0/1", json!({"host": "root-password"})).contains("no host fills in"));
    let token = json!({"kind": "secret", "name": "creds", "key": "token"});
    assert!(changed("/args/0/1", json!({"value": token})).contains("`references` does not name"));
    assert!(changed("/files", json!([{"name": "../../etc/passwd", "content": []}])).contains("no file"));
    let twice = json!([{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]);
    assert!(changed("/settings", twice).contains("twice"));
    assert!(changed("/memory-request-mib", json!(4_000_000_000_u32)).contains("memory-request-mib"));
    assert!(broken("render", json!({"ok": {"external": "tcp://elsewhere"}})).contains("no unix"));
    let no_image = Forge::sound("Acme", "acme").changing("describe", "/image-field", Value::Null);
    assert!(failure(&engine(&no_image), &acme("a")).2.contains("names no image-field"));
}

#[test]
fn a_secret_value_in_the_environment_is_refused_with_the_reason() {
    let token = json!({"kind": "secret", "name": "creds", "key": "token"});
    let forge = Forge::sound("Acme", "acme")
        .answering(
            "references",
            json!([{"source": token, "exposure": "secret-value", "required": true, "field": "token"}]),
        )
        .changing("render", "/ok/managed/env", json!([{"name": "TOKEN", "value": [{"value": token}]}]));
    let error = evaluate(&engine(&forge), &acme("a")).unwrap_err();
    let ProviderError::Invalid { violations } = &error else { panic!("{error:?}") };
    assert_eq!(violations[0].field, "acme.token");
    assert!(violations[0].message.contains("key token of secret creds"), "{error}");
}
