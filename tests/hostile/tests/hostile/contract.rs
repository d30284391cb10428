//! Modules that run without errors and return wrong answers.

use keyward_test_hostile::Does;

use super::*;

/// The message of the contract error of an evaluation with this answer.
fn broken(function: &str, answer: Value) -> String {
    let engine = engine(&Forge::sound("Acme", "acme").answering(function, answer));
    let (_, category, message) = failure(&engine, &acme("a"));
    assert_eq!(category, "contract", "{message}");
    message
}

/// Why a module with this change in its descriptor is refused.
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
    for not_in_cel in ["my-kms", "in", "namespace", "Acme"] {
        assert!(described("/config-field", json!(not_in_cel)).contains("config-field"), "{not_in_cel}");
    }
    assert!(described("/image-field", json!("nowhere")).contains("not in the schema"));
    assert!(described("/config-schema", json!("rubbish")).contains("not JSON"));
    assert!(described("/config-schema", json!("[]")).contains("not an object"));
    assert!(described("/config-schema", json!({"$repeat": ["[", 5000]})).contains("nested deeper"));
    assert!(described("/rules", json!([])).contains("has no rule"));
    assert!(described("/rules/0/field", json!("other")).contains("not a leaf"));
    let twice = json!([{"name": "docs", "value": "a"}, {"name": "docs", "value": "b"}]);
    assert!(described("/facts", twice).contains("is given twice"));
}

#[test]
fn the_result_of_normalize_must_be_a_bounded_object() {
    assert!(broken("normalize", json!({"ok": {"config": "{", "warnings": []}})).contains("not JSON"));
    assert!(broken("normalize", json!({"ok": {"config": "[]", "warnings": []}})).contains("not an object"));
    let deep = json!({"ok": {"config": {"$repeat": ["[", 100_000]}, "warnings": []}});
    assert!(broken("normalize", deep).contains("nested deeper"));
    assert!(broken("normalize", json!({"err": []})).contains("without a reason"));
}

#[test]
fn a_normal_form_must_be_its_own_normal_form() {
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
    assert!(broken("kek-identity", twice).contains("\"a\" is given twice"));
    let reference = |name: &str, key: &str, field: &str| {
        json!([{"source": {"kind": "secret", "name": name, "key": key},
            "exposure": "file", "required": true, "field": field}])
    };
    evaluate(
        &engine(&Forge::sound("Acme", "acme").answering("references", reference("a", "k", "key"))),
        &acme("a"),
    )
    .unwrap();
    assert!(broken("references", reference("b", "k", "key")).contains("from the field \"key\""));
    assert!(broken("references", reference("a", "k", "token")).contains("from the field \"token\""));
    assert!(broken("references", reference("a_b", "k", "key")).contains("not a valid object name"));
    assert!(broken("references", reference("a", "../k", "key")).contains("not a valid data key"));
    assert!(broken("references", reference("a", "k", "other")).contains("not a field"));
}

#[test]
fn a_rendered_plugin_is_checked() {
    let changed = |pointer: &str, value: Value| {
        let forge = Forge::sound("Acme", "acme").changing("render", &format!("/ok/managed{pointer}"), value);
        let (function, category, message) = failure(&engine(&forge), &acme("a"));
        assert_eq!((function.as_str(), category.as_str()), ("render", "contract"), "{message}");
        message
    };
    assert!(changed("/args/0/1", json!({"host": "root-password"})).contains("the host does not provide"));
    let token = json!({"kind": "secret", "name": "creds", "key": "token"});
    assert!(changed("/args/0/1", json!({"value": token})).contains("not in `references`"));
    assert!(
        changed("/files", json!([{"name": "../../etc/passwd", "content": []}]))
            .contains("not a valid file name")
    );
    let twice = json!([{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]);
    assert!(changed("/settings", twice).contains("twice"));
    assert!(changed("/memory-request-mib", json!(4_000_000_000_u32)).contains("memory-request-mib"));
    assert!(broken("render", json!({"ok": {"external": "tcp://elsewhere"}})).contains("is not unix"));
    let no_image = Forge::sound("Acme", "acme").changing("describe", "/image-field", Value::Null);
    assert!(failure(&engine(&no_image), &acme("a")).2.contains("declares no image-field"));
}

/// A configuration that refers to a Secret.
fn naming(secret: &str) -> Value {
    json!({"type": "Acme", "acme": {"image": image(), "key": "a", "token": secret}})
}

#[test]
fn a_module_gets_no_secret_that_the_configuration_does_not_name() {
    // The module writes the name into the normal form itself.
    let mut normal = naming("victim")["acme"].clone();
    normal["key"] = json!("b");
    let victim = json!({"kind": "secret", "name": "victim", "key": "password"});
    let forge = Forge::sound("Acme", "acme")
        .answering("normalize", json!({"ok": {"config": normal.to_string(), "warnings": []}}))
        .answering(
            "references",
            json!([{"source": victim, "exposure": "public-value", "required": true, "field": "token"}]),
        )
        .changing("render", "/ok/managed/args/0/1", json!({"value": victim}));
    let engine = engine(&forge);
    for written in [acme("a"), naming("creds")] {
        let (function, category, message) = failure(&engine, &written);
        assert_eq!((function.as_str(), category.as_str()), ("references", "contract"));
        assert!(message.contains("from the field \"token\""), "{message}");
    }
    evaluate(&engine, &naming("victim")).unwrap();
}

#[test]
fn a_module_never_gets_keywards_own_secrets() {
    for own in [
        "encryption-key-kube-apiserver-1",
        "encryption-config-4",
        "encryption-preflight",
        "encryption-foreign-a",
    ] {
        let key = json!({"kind": "secret", "name": own, "key": "encryption-config"});
        let forge = Forge::sound("Acme", "acme")
            .answering(
                "references",
                json!([{"source": key, "exposure": "public-value", "required": true, "field": "token"}]),
            )
            .changing("render", "/ok/managed/args/0/1", json!({"value": key}));
        let error = evaluate(&engine(&forge), &naming(own)).unwrap_err();
        let ProviderError::Invalid { violations } = &error else { panic!("{error:?}") };
        assert_eq!(violations[0].field, "acme.token");
        assert!(violations[0].message.contains(own), "{error}");
    }
}

#[test]
fn texts_for_terminals_are_one_line_of_printable_characters() {
    for hidden in ["\u{1b}[2J", "a\nfact      status = constant", "\u{202e}", "\u{9b}1m"] {
        let fact = json!([{"name": "docs", "value": hidden}]);
        assert!(described("/facts", fact).contains("non-printable"), "{hidden:?}");
        let fact = json!([{"name": hidden, "value": "x"}]);
        assert!(described("/facts", fact).contains("non-printable"), "{hidden:?}");
        let kek = json!({"key": [{"name": "key", "value": hidden}], "version": []});
        assert!(broken("kek-identity", kek).contains("non-printable"), "{hidden:?}");
        let kek = json!({"key": [], "version": [{"name": hidden, "value": "x"}]});
        assert!(broken("kek-identity", kek).contains("non-printable"), "{hidden:?}");
    }
    // Names in errors are texts of the module, too.
    let nobody = json!({"kind": "secret", "name": "\u{1b}[2J\u{202e}", "key": "a\nb"});
    let forge =
        Forge::sound("Acme", "acme").changing("render", "/ok/managed/args/0/1", json!({"value": nobody}));
    let (_, _, message) = failure(&engine(&forge), &acme("a"));
    assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
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
    let error = evaluate(&engine(&forge), &naming("creds")).unwrap_err();
    let ProviderError::Invalid { violations } = &error else { panic!("{error:?}") };
    assert_eq!(violations[0].field, "acme.token");
    assert!(violations[0].message.contains("key token of secret creds"), "{error}");
}
