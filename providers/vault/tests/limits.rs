//! The length limits of all fields (openshift: vault-configuration) at their exact values. Fixtures for them
//! would have thousands of characters.

use keyward_guest::Module;
use keyward_provider_vault::Vault;
use serde_json::{Value, json};

fn violations(field: &str, value: &str) -> Vec<String> {
    let mut config = json!({
        "kmsPluginImage": format!("registry.example.com/vault-kube-kms@sha256:{}", "0".repeat(64)),
        "vaultAddress": "https://vault.example.com:8200",
        "authentication": {"type": "AppRole", "appRole": {"secret": {"name": "vault-approle"}}},
        "vaultKeyPath": "transit/keys/kek",
    });
    let today = match field {
        "vaultKMSPluginImage" => "kmsPluginImage",
        "approleSecretRef.name" => "authentication",
        "transitMount" | "transitKey" => "vaultKeyPath",
        _ => "",
    };
    if let Value::Object(members) = &mut config {
        members.remove(today);
        if field == "transitMount" {
            members.insert("transitKey".to_owned(), json!("kek"));
        }
    }
    let mut place = &mut config;
    for name in field.split('.') {
        place = &mut place[name];
    }
    *place = json!(value);
    match Module::<Vault>::normalize(&config.to_string()) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect(),
    }
}

/// A value of exactly this length that satisfies every other rule of the field.
fn of_length(field: &str, length: usize) -> String {
    let digest = format!("@sha256:{}", "0".repeat(64));
    let fill = |before: &str, after: &str| {
        format!("{before}{}{after}", "a".repeat(length - before.len() - after.len()))
    };
    match field {
        "kmsPluginImage" | "vaultKMSPluginImage" => fill("r.io/", &digest),
        "vaultAddress" => fill("https://", ""),
        "vaultKeyPath" => fill("t/keys/", ""),
        _ => fill("", ""),
    }
}

#[test]
fn every_field_has_its_length_limits() {
    for (field, min, max) in [
        ("kmsPluginImage", 78, 447),
        ("vaultKMSPluginImage", 78, 447),
        ("vaultAddress", 9, 512),
        ("vaultNamespace", 1, 4096),
        ("vaultAuthNamespace", 1, 4096),
        ("tls.caBundle.name", 1, 253),
        ("tls.serverName", 1, 253),
        ("authentication.appRole.secret.name", 1, 253),
        ("approleSecretRef.name", 1, 253),
        ("vaultKeyPath", 8, 1542),
        ("transitMount", 1, 1024),
        ("transitKey", 1, 512),
    ] {
        for length in [min, max] {
            let found = violations(field, &of_length(field, length));
            assert_eq!(found, Vec::<String>::new(), "{field} of {length} characters");
        }
        let found = violations(field, &of_length(field, max + 1));
        assert_eq!(found, [format!("{field}: must be at most {max} characters long")]);
    }
}

#[test]
fn lengths_are_counted_in_characters_not_bytes() {
    assert_eq!(violations("vaultNamespace", &"\u{e4}".repeat(4096)), Vec::<String>::new());
    assert_eq!(violations("vaultNamespace", &"\u{e4}".repeat(4097)).len(), 1);
}

/// The limits of the earlier spelling add up to the limit of today's path.
#[test]
fn the_longest_key_in_the_earlier_spelling_is_a_valid_key_path() {
    let config = json!({
        "kmsPluginImage": format!("registry.example.com/vault-kube-kms@sha256:{}", "0".repeat(64)),
        "vaultAddress": "https://vault.example.com",
        "authentication": {"type": "AppRole", "appRole": {"secret": {"name": "vault-approle"}}},
        "transitMount": "m".repeat(1024),
        "transitKey": "k".repeat(512),
    });
    let mut today = config.clone();
    if let Value::Object(members) = &mut today {
        members.remove("transitMount");
        members.remove("transitKey");
    }
    today["vaultKeyPath"] = json!(format!("{}/keys/{}", "m".repeat(1024), "k".repeat(512)));
    assert!(Module::<Vault>::normalize(&config.to_string()).is_ok());
    assert!(Module::<Vault>::normalize(&today.to_string()).is_ok());
}
