//! The failure of a plugin as a provider module gets it, in the form of the module's fixtures, which is the
//! same for every run.

use k8s_openapi::api::core::v1::Pod;
use keyward_core::node::Scrubber;
use keyward_core::{
    SecretBytes,
    formats::revision::PluginRecord,
    node::pod::CONTAINER,
    provider::{Failure, KeyRef, ReferenceKind},
};
use keyward_kms::ProbeSpec;
use serde_json::{Value, json};

use crate::{
    bao::Credentials,
    plugin::{Plan, Plugin, STATUS},
};

/// The fixtures' Vault.
const ADDRESS: &str = "https://vault.example.com:8200";
const HOST: &str = "192.0.2.7:8200";

/// The failure of a plugin that runs and fails this probe.
pub(crate) async fn running(plugin: &Plugin, spec: &ProbeSpec<'_>, with: &Credentials) -> Failure {
    let error = plugin.failure(spec).await;
    let state = json!({"running": {}});
    keyward_node::failure(&error, &pod(&state), &log(plugin), &scrubber(with))
}

/// The failure of a plugin that exits: it does not answer, and the kubelet knows its exit code.
pub(crate) async fn ended(plan: Plan, with: &Credentials) -> Failure {
    let mut plugin = plan.start();
    let code = plugin.ended().await.code().expect("it exits with a code");
    let error = plugin.failure(&STATUS).await;
    let state = json!({"terminated": {"exitCode": code}});
    keyward_node::failure(&error, &pod(&state), &log(&plugin), &scrubber(with))
}

fn pod(state: &Value) -> Pod {
    let status = json!({
        "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    });
    serde_json::from_value(json!({"status": {"containerStatuses": [status]}})).unwrap()
}

/// The log in the kubelet's format.
fn log(plugin: &Plugin) -> String {
    plugin.log().lines().map(|line| format!("2026-01-01T00:00:00Z stderr F {line}\n")).collect()
}

/// A scrubber like the agent's: it has the values of the plugin's Secrets.
fn scrubber(with: &Credentials) -> Scrubber {
    let source =
        KeyRef { kind: ReferenceKind::Secret, name: "vault-approle".into(), key: "secret-id".into() };
    Scrubber::new([&PluginRecord {
        kms: json!({}),
        referenced: [(source, SecretBytes::new(with.secret_id.clone().into_bytes()))].into(),
        accepted: None,
        salt: None,
    }])
}

/// The failure in the form of the fixtures: with their address, without times and names of this machine. Of
/// the log, only the last warning or error.
pub(crate) fn in_fixtures_form(failure: &Failure, address: &str) -> Failure {
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let replaced = |text: &str| {
        let text = text.replace(address, ADDRESS).replace(host, HOST);
        let text = between(&text, "current time ", " is after", "2026-01-01T00:00:00Z");
        between(&text, "certificate is valid for ", ", not ", "localhost")
    };
    let last = failure.log_tail.iter().rev().find_map(|line| relevant(line));
    let log_tail = last.iter().map(|line| replaced(line)).collect();
    Failure { message: replaced(&failure.message), log_tail, ..failure.clone() }
}

/// The same failure with another text in place of this one.
pub(crate) fn with(failure: &Failure, text: &str, other: &str) -> Failure {
    let replaced = |line: &String| line.replace(text, other);
    let log_tail = failure.log_tail.iter().map(replaced).collect();
    Failure { message: replaced(&failure.message), log_tail, ..failure.clone() }
}

/// A log line without the parts that differ from run to run; `None` for a line without a warning or error.
fn relevant(line: &str) -> Option<String> {
    // The line ends with the target's name; a line that is too long is cut there.
    let whole = line.rsplit_once(",\"target\":").map(|(fields, _)| format!("{fields}}}"));
    let Ok(Value::Object(mut fields)) = serde_json::from_str(whole.as_deref().unwrap_or(line)) else {
        // Skip the lines of the usage text after a wrong command line.
        return (!line.starts_with(['U', ' '])).then(|| line.to_owned());
    };
    if fields.get("level").and_then(Value::as_str) == Some("INFO") {
        return None;
    }
    for name in ["timestamp", "uid", "took"] {
        fields.shift_remove(name);
    }
    Some(Value::Object(fields).to_string())
}

/// Replaces the text between `before` and `after` by `new`.
fn between(text: &str, before: &str, after: &str, new: &str) -> String {
    let found = text.split_once(before).and_then(|(head, rest)| Some((head, rest.split_once(after)?.1)));
    match found {
        Some((head, tail)) => format!("{head}{before}{new}{after}{tail}"),
        None => text.to_owned(),
    }
}
