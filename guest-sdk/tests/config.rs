//! `#[derive(ProviderConfig)]`: reading, normal form, schema, rules and KEK identity of every kind of field.

use std::collections::BTreeMap;

use keyward_guest::config::{self, identity, read, rules, schema, write};
use keyward_guest::json::{Value, json};
use keyward_guest::{Effect, Findings, ProviderConfig, Report};

/// All kinds of fields.
#[derive(ProviderConfig)]
#[keyward(check = not_both)]
struct Sample {
    /// Where the KMS answers.
    /// On two lines.
    #[keyward(
        new_key = "another KMS",
        min_length = 3,
        max_length(20, "too long"),
        matches("^https://", "must use https")
    )]
    address: String,
    /// Which version.
    #[keyward(re_encrypt = "another version", min = 1, max = 9)]
    key_version: Option<u16>,
    /// How to reach it.
    #[keyward(nested)]
    tls: Option<Tls>,
    /// What may be asked of it.
    #[keyward(in_place = "set of rights", name = "allowedOPS", max_items = 2, one_of("read", "write"))]
    allowed: Vec<String>,
    /// Words on it.
    #[keyward(
        new_key = "part of the context",
        matches("^[a-z]+$"),
        never("^bad$", "not that one"),
        max_items = 3
    )]
    labels: BTreeMap<String, String>,
    /// Where else.
    #[keyward(nested)]
    replicas: Vec<Tls>,
    /// How it is asked.
    #[keyward(in_place = "transport only", required = "say how")]
    mode: Mode,
    /// Whether at all.
    #[keyward(in_place = "a switch", cel("self == true || self == false", "is a switch"))]
    enabled: Option<bool>,
}

/// Transport security.
#[derive(ProviderConfig)]
#[keyward(min_properties = 1)]
struct Tls {
    /// Its name.
    #[keyward(in_place = "connection only", check = no_dots)]
    server_name: Option<String>,
    /// Its port.
    #[keyward(in_place = "connection only", min_length = 2)]
    ca: Option<String>,
}

/// Ways to ask.
#[derive(ProviderConfig, Clone, Copy, Debug, PartialEq)]
enum Mode {
    Direct,
    #[keyward(name = "via-proxy")]
    ViaProxy,
}

fn no_dots(value: &str, findings: &mut Findings<'_>) {
    if value.contains('.') {
        findings.violation("no dots");
    }
}

fn not_both(config: &Sample, findings: &mut Findings<'_>) {
    if config.tls.is_some() && config.enabled == Some(false) {
        findings.violation_at("tls", "useless when not enabled");
    }
}

fn violations(value: &Value) -> Vec<String> {
    let mut report = Report::new();
    let _: Sample = read(value, &mut report);
    report.violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect()
}

fn valid() -> Value {
    json!({"address": "https://kms", "mode": "Direct"})
}

fn with(changes: Value) -> Value {
    let mut value = valid();
    if let (Value::Object(all), Value::Object(changes)) = (&mut value, changes) {
        all.extend(changes);
    }
    value
}

#[test]
fn all_violations_are_reported_at_once_each_with_its_field() {
    assert_eq!(violations(&valid()), Vec::<String>::new());
    let everything = json!({
        "adress": "x",
        "keyVersion": 12,
        "tls": {"serverName": "a.b", "ca": "x", "sni": true},
        "allowedOPS": ["read", "delete", 3],
        "labels": {"a": "ok", "b": "NO", "c": "bad"},
        "replicas": [{"serverName": "fine"}, {}, "x"],
        "mode": "via-prox",
        "enabled": false,
    });
    let mut expected = vec![
        "adress: unknown field; did you mean address?",
        "address: Required value",
        "keyVersion: must be at most 9",
        "tls.sni: unknown field",
        "tls.serverName: no dots",
        "tls.ca: must be at least 2 characters long",
        "allowedOPS: must have at most 2 items",
        "allowedOPS[1]: must be one of: read, write",
        "allowedOPS[2]: must be a string, not a number",
        "labels.b: must match ^[a-z]+$",
        "labels.c: not that one",
        "replicas[1]: must not be empty",
        "replicas[2]: must be an object, not a string",
        "mode: must be one of: Direct, via-proxy; did you mean via-proxy?",
        "tls: useless when not enabled",
    ];
    let mut found = violations(&everything);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn all_rules_of_one_text_are_applied() {
    let found = violations(&with(json!({"address": "http://a.very.long.address.example"})));
    assert_eq!(found, ["address: too long", "address: must use https"]);
}

#[test]
fn wrong_types_values_out_of_range_and_absent_fields_are_violations() {
    for (change, expected) in [
        (json!({"address": null}), "address: Required value"),
        (json!({"address": 1}), "address: must be a string, not a number"),
        (json!({"mode": null}), "mode: say how"),
        (json!({"keyVersion": "1"}), "keyVersion: must be a whole number, not a string"),
        (json!({"keyVersion": 1.5}), "keyVersion: must be a whole number that fits in 64 bits"),
        (json!({"keyVersion": 0}), "keyVersion: must be at least 1"),
        (json!({"enabled": "yes"}), "enabled: must be a boolean, not a string"),
        (json!({"tls": []}), "tls: must be an object, not a list"),
        (json!({"allowedOPS": {}}), "allowedOPS: must be a list, not an object"),
        (json!({"labels": "a=b"}), "labels: must be an object, not a string"),
    ] {
        assert_eq!(violations(&with(change)), [expected]);
    }
    assert_eq!(violations(&json!("text")), [": must be an object, not a string"]);
}

#[test]
fn the_normal_form_omits_empty_values_and_reads_back_unchanged() {
    let written = with(json!({
        "labels": {}, "allowedOPS": [], "tls": null, "enabled": false, "replicas": [{"ca": "ca"}], "keyVersion": 2,
    }));
    let mut report = Report::new();
    let config: Sample = read(&written, &mut report);
    assert!(report.violations.is_empty(), "{report:?}");
    let normal_form = write(&config);
    let expected = json!({
        "address": "https://kms", "enabled": false, "keyVersion": 2, "mode": "Direct", "replicas": [{"ca": "ca"}],
    });
    assert_eq!(normal_form, expected);
    let again: Sample = read(&normal_form, &mut Report::new());
    assert_eq!(write(&again).to_string(), normal_form.to_string(), "byte for byte");
}

#[test]
fn every_leaf_has_a_rule() {
    let rules: Vec<String> =
        rules::<Sample>().iter().map(|r| format!("{} {} {}", r.field, effect(r.effect), r.reason)).collect();
    assert_eq!(
        rules,
        [
            "address new-key another KMS",
            "keyVersion re-encrypt another version",
            "tls.serverName in-place connection only",
            "tls.ca in-place connection only",
            "allowedOPS[] in-place set of rights",
            "labels.* new-key part of the context",
            "replicas[].serverName in-place connection only",
            "replicas[].ca in-place connection only",
            "mode in-place transport only",
            "enabled in-place a switch",
        ]
    );
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::NewKey => "new-key",
        Effect::ReEncrypt => "re-encrypt",
        Effect::InPlace => "in-place",
    }
}

#[test]
fn the_default_kek_identity_follows_the_effects() {
    let config: Sample = read(
        &with(json!({"keyVersion": 3, "labels": {"b": "y", "a": "x"}, "allowedOPS": ["read"]})),
        &mut Report::new(),
    );
    let kek = identity(&config);
    let pairs = |part: &[keyward_guest::Setting]| -> Vec<String> {
        part.iter().map(|s| format!("{}={}", s.name, s.value)).collect()
    };
    assert_eq!(pairs(&kek.key), ["address=https://kms", "labels.a=x", "labels.b=y"]);
    assert_eq!(pairs(&kek.version), ["keyVersion=3"]);
}

#[test]
fn the_schema_is_structural_and_has_no_defaults() {
    let schema = schema::<Sample>();
    assert_eq!(
        schema,
        json!({
            "type": "object",
            "description": "All kinds of fields.",
            "required": ["address", "mode"],
            "properties": {
                "address": {
                    "type": "string", "description": "Where the KMS answers. On two lines.", "minLength": 3, "maxLength": 20,
                    "x-kubernetes-validations": [{"rule": "self.matches('^https://')", "message": "must use https"}],
                },
                "keyVersion": {"type": "integer", "format": "int32", "description": "Which version.", "minimum": 1, "maximum": 9},
                "tls": tls("How to reach it."),
                "allowedOPS": {
                    "type": "array", "description": "What may be asked of it.", "maxItems": 2, "x-kubernetes-list-type": "atomic",
                    "items": {"type": "string", "enum": ["read", "write"]},
                },
                "labels": {
                    "type": "object", "description": "Words on it.", "maxProperties": 3,
                    "additionalProperties": {
                        "type": "string", "pattern": "^[a-z]+$",
                        "x-kubernetes-validations": [{"rule": "!self.matches('^bad$')", "message": "not that one"}],
                    },
                },
                "replicas": {
                    "type": "array", "description": "Where else.", "x-kubernetes-list-type": "atomic",
                    "items": tls("Transport security."),
                },
                "mode": {"type": "string", "description": "How it is asked.", "enum": ["Direct", "via-proxy"]},
                "enabled": {
                    "type": "boolean", "description": "Whether at all.",
                    "x-kubernetes-validations": [{"rule": "self == true || self == false", "message": "is a switch"}],
                },
            },
        })
    );
    assert!(!schema.to_string().contains("default"));
}

fn tls(description: &str) -> Value {
    json!({
        "type": "object", "description": description, "minProperties": 1,
        "properties": {
            "serverName": {"type": "string", "description": "Its name."},
            "ca": {"type": "string", "description": "Its port.", "minLength": 2},
        },
    })
}

/// Two fields that share rules.
#[derive(ProviderConfig)]
#[keyward(check = needs_one)]
struct Shared {
    /// One.
    #[keyward(in_place = "a")]
    one: Option<Word>,
    /// Others.
    #[keyward(new_key = "b")]
    others: Vec<Word>,
    /// How.
    #[keyward(in_place = "c", required = "say how")]
    mode: Option<Mode>,
}

#[derive(ProviderConfig, Debug)]
#[keyward(max_length = 5, never("[A-Z]", "no capitals"), check = no_dots, cel("self != 'x'", "not x"))]
struct Word(String);

fn needs_one(config: &Shared, findings: &mut Findings<'_>) {
    if config.one.is_none() && !findings.refused("one") {
        findings.violation_at("one", "Required value");
    }
}

#[test]
fn a_type_can_have_its_own_rules() {
    let found = |value: Value| -> Vec<String> {
        let mut report = Report::new();
        let _: Shared = read(&value, &mut report);
        report.violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect()
    };
    assert_eq!(
        found(json!({"one": "A.", "others": ["good", "too long"]})),
        ["one: no capitals", "one: no dots", "others[1]: must be at most 5 characters long", "mode: say how"]
    );
    assert_eq!(
        found(json!({"one": 1, "mode": "Other"})),
        ["one: must be a string, not a number", "mode: must be one of: Direct, via-proxy",]
    );
    assert_eq!(found(json!({"mode": "Direct"})), ["one: Required value"]);

    let config: Shared = read(&json!({"one": "a", "others": ["b"], "mode": "Direct"}), &mut Report::new());
    assert_eq!(write(&config), json!({"one": "a", "others": ["b"], "mode": "Direct"}));
    assert_eq!(
        identity(&config).key.first().map(|s| (s.name.as_str(), s.value.as_str())),
        Some(("others[0]", "b"))
    );
    let word = json!({
        "type": "string", "maxLength": 5,
        "x-kubernetes-validations": [
            {"rule": "!self.matches('[A-Z]')", "message": "no capitals"}, {"rule": "self != 'x'", "message": "not x"},
        ],
    });
    let schema = schema::<Shared>();
    assert_eq!(schema.pointer("/properties/others/items"), Some(&word));
    assert_eq!(schema.pointer("/required"), Some(&json!(["mode"])));
}

#[test]
fn a_pattern_with_quotes_and_backslashes_is_escaped_in_cel() {
    #[derive(ProviderConfig)]
    struct Quoted {
        #[keyward(in_place = "x", matches(r"^\.'$", "m"))]
        text: String,
    }
    let rule =
        config::schema::<Quoted>().pointer("/properties/text/x-kubernetes-validations/0/rule").cloned();
    assert_eq!(rule, Some(json!(r"self.matches('^\\.\'$')")));
    let mut report = Report::new();
    let _: Quoted = read(&json!({"text": ".'"}), &mut report);
    assert!(report.violations.is_empty());
}
