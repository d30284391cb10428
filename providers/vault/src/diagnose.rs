//! What a failure of the plugin means: the first of `symptoms` that fits.
//!
//! Texts identify a symptom: responses of Vault, errors of the TLS libraries of Go and rustls, log lines of
//! the plugin. They are searched in the message and in the last log lines; case is ignored. Lines about the
//! plugin's own socket contain nothing about Vault and are skipped. No text of the failure goes into the
//! diagnosis, so no secret gets into a status; summary and remedy contain only values of the configuration.

use keyward_guest::prelude::*;

use crate::config::Config;
use crate::symptoms::{ELSEWHERE, SYMPTOMS, Symptom, UNKNOWN_FLAG};

pub(crate) fn diagnose(config: &Config, failure: &Failure) -> Option<Diagnosis> {
    let symptom = symptom(failure, &config.vault_address)?;
    Some(Diagnosis {
        cause: symptom.cause.to_owned(),
        summary: fill(symptom.summary, config),
        remedy: fill(symptom.remedy, config),
        retryable: symptom.retryable,
    })
}

/// The message counts before the log, and later log lines count before earlier ones, which can be about a
/// failure that is over. If no single line fits, the whole log is tried: an error can have several lines.
fn symptom(failure: &Failure, address: &str) -> Option<&'static Symptom> {
    let fitting = |text: &str| SYMPTOMS.iter().find(|symptom| symptom.fits(&failure.phase, text));
    let mut logged: Vec<String> = failure.log_tail.iter().map(|line| about_vault(line, address)).collect();
    let refuses = |line: &String| UNKNOWN_FLAG.iter().any(|text| line.contains(text));
    if let Some(refused) = logged.iter().position(refuses) {
        // The plugin's usage follows; it contains texts of many symptoms.
        logged.truncate(refused.saturating_add(1));
    }
    fitting(&about_vault(&failure.message, address))
        .or_else(|| logged.iter().rev().find_map(|line| fitting(line)))
        .or_else(|| fitting(&logged.concat()))
}

/// The lines of a text that are about Vault, in lower case. A line that names another server of Vault's API
/// than this address gets the mark `ELSEWHERE`.
fn about_vault(text: &str, address: &str) -> String {
    let mut kept = String::new();
    let is_elsewhere = |line: &str| {
        let urls = line.split("https://").skip(1).filter_map(|rest| rest.split_once("/v1/"));
        let mut servers = urls.map(|(server, _)| server).filter(|server| !server.contains([' ', '"', '/']));
        servers.any(|server| address.strip_prefix("https://").is_some_and(|own| own != server))
    };
    for line in text.lines().map(str::to_ascii_lowercase) {
        if !line.contains("unix:") && !line.contains(".sock") {
            kept.push_str(&line);
            kept.push_str(if is_elsewhere(&line) { ELSEWHERE } else { "" });
            kept.push('\n');
        }
    }
    kept
}

/// Replaces each `{name}` with a value of the configuration.
fn fill(template: &str, config: &Config) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(&value_of(name, config));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn value_of(name: &str, config: &Config) -> String {
    let key = config.transit_key();
    let ids = config.app_role_ids();
    let namespace = |namespace: Option<&String>| {
        namespace
            .map_or_else(|| "the root namespace".to_owned(), |namespace| format!("namespace {namespace}"))
    };
    match name {
        "address" => config.vault_address.clone(),
        "namespace" => namespace(config.vault_namespace.as_ref()),
        "auth-namespace" => {
            namespace(config.vault_auth_namespace.as_ref().or(config.vault_namespace.as_ref()))
        }
        "key" => key.path(),
        "mount" => key.mount.to_owned(),
        "name" => key.name.to_owned(),
        "key-field" => key.field.to_owned(),
        "secret" => ids.secret.to_owned(),
        "secret-field" => ids.field.to_owned(),
        "role-id" => ids.role_id.to_owned(),
        "secret-id" => ids.secret_id.to_owned(),
        "image" => "kmsPluginImage".to_owned(),
        unknown => format!("{{{unknown}}}"),
    }
}

#[cfg(test)]
mod tests {
    use keyward_guest::config::read;
    use keyward_guest::{Failure, Report};
    use serde_json::json;

    use super::{diagnose, fill};
    use crate::config::Config;
    use crate::symptoms::SYMPTOMS;

    fn config() -> Config {
        let written = json!({
            "kmsPluginImage": format!("registry.example.com/vault-kube-kms@sha256:{}", "0".repeat(64)),
            "vaultAddress": "https://vault.example.com:8200",
            "vaultNamespace": "admin",
            "authentication": {"type": "AppRole", "appRole": {"secret": {"name": "vault-approle"}}},
            "vaultKeyPath": "transit/keys/kek",
        });
        let mut report = Report::new();
        let config = read(&written, &mut report);
        assert!(report.violations.is_empty(), "{report:?}");
        config
    }

    #[test]
    fn every_template_is_filled_in() {
        let config = config();
        for symptom in SYMPTOMS {
            for text in [symptom.summary, symptom.remedy] {
                let filled = fill(text, &config);
                assert!(!filled.contains(['{', '}']), "{}: {filled}", symptom.cause);
            }
        }
    }

    /// A text that is not in lower case is never found. An earlier symptom with weaker conditions hides a
    /// later one.
    #[test]
    fn every_symptom_can_be_recognized() {
        let config = config();
        for symptom in SYMPTOMS {
            let words: Vec<&str> = symptom.seen.iter().filter_map(|group| group.first().copied()).collect();
            let failure = Failure {
                phase: symptom.phases.first().copied().unwrap_or("status").to_owned(),
                grpc_code: None,
                exit_code: None,
                message: words.join(" ").to_uppercase(),
                log_tail: Vec::new(),
            };
            let cause = diagnose(&config, &failure).map(|diagnosis| diagnosis.cause);
            assert_eq!(cause.as_deref(), Some(symptom.cause), "{words:?}");
        }
    }

    #[test]
    fn the_usage_after_an_unknown_flag_is_ignored() {
        let lines = [
            "flag provided but not defined: -new",
            "Usage of plugin:",
            "  -timeout duration",
            "  \tconnection refused",
        ];
        let failure = Failure {
            phase: "start".to_owned(),
            grpc_code: None,
            exit_code: Some(2),
            message: "the plugin ended with exit code 2".to_owned(),
            log_tail: lines.map(str::to_owned).to_vec(),
        };
        let cause = diagnose(&config(), &failure).map(|diagnosis| diagnosis.cause);
        assert_eq!(cause.as_deref(), Some("unknown-flag"));
    }

    #[test]
    fn lines_about_the_plugins_own_socket_are_ignored() {
        let failure = |message: &str, log: &[&str]| Failure {
            phase: "start".to_owned(),
            grpc_code: None,
            exit_code: None,
            message: message.to_owned(),
            log_tail: log.iter().map(|line| (*line).to_owned()).collect(),
        };
        let socket = "dial unix /var/run/kmsplugin/kms-1/kms.sock: connect: connection refused";
        assert_eq!(diagnose(&config(), &failure(socket, &[])), None);
        let cause = diagnose(&config(), &failure(socket, &["* Vault is sealed"])).map(|d| d.cause);
        assert_eq!(cause.as_deref(), Some("sealed"));
    }

    #[test]
    fn a_diagnosis_contains_no_text_of_the_failure() {
        let failure = Failure {
            phase: "login".to_owned(),
            grpc_code: Some(16),
            exit_code: None,
            message: "invalid role or secret ID: s.hunter2".to_owned(),
            log_tail: vec!["secret_id=hunter2".to_owned()],
        };
        let diagnosis = diagnose(&config(), &failure).map(|d| format!("{d:?}"));
        assert!(diagnosis.is_some_and(|text| !text.contains("hunter2")));
    }
}
