//! One plugin's answer as CONTRACT 3.10 wants it. Pure, and always valid: `remoteKeyID` of 1 to 1,024 characters even
//! where a plugin says nothing, a `detail` of as many wherever it is not healthy.

use std::time::Duration;

use keyward_core::node::Scrubber;
use keyward_kms::{KmsError, ProbeReport};
use serde_json::{Value, json};

const LONGEST: usize = 1024;
/// Before a plugin said anything.
const UNKNOWN: &str = "unknown";

/// What is told of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    status: &'static str,
    remote_key_id: String,
    detail: Option<String>,
    /// What it calls its KEK, where it has just said so.
    pub(super) learnt: Option<String>,
}

/// `None`: it did not answer within `limit`. `known` is what it called its KEK before.
pub(super) fn of(report: Option<&ProbeReport>, known: Option<&str>, limit: Duration) -> Entry {
    let said = report.and_then(|report| report.status.as_ref()).map(|status| status.remote_key_id.as_str());
    let said = said.filter(|id| !id.is_empty());
    let entry = |status, detail: Option<String>| Entry {
        status,
        remote_key_id: cut(said.or(known).unwrap_or(UNKNOWN)),
        detail: detail
            .map(|detail| if detail.trim().is_empty() { UNKNOWN.to_owned() } else { clean(&detail) }),
        learnt: said.map(cut),
    };
    match report.map(|report| &report.result) {
        Some(Ok(())) => entry("Healthy", None),
        Some(Err(KmsError::Unhealthy { healthz })) => entry("Unhealthy", Some(healthz.clone())),
        Some(Err(error)) => entry("Error", Some(error.to_string())),
        None => entry("Error", Some(format!("status: no answer from the KMS plugin within {limit:?}"))),
    }
}

/// What the plugin was given is not known here: what looks like a credential goes, and it goes before the cut.
fn clean(text: &str) -> String {
    cut(&Scrubber::default().clean(text))
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Entry {
    /// With whom it is about, and the present time.
    pub(super) fn to_json(&self, node_name: &str, key_id: &str) -> Value {
        let at = keyward_core::formats::key_secret::rfc3339(&jiff::Timestamp::now());
        let mut entry = json!({
            "nodeName": node_name, "keyID": key_id, "status": self.status,
            "remoteKeyID": self.remote_key_id, "lastCheckedTime": at,
        });
        if let (Some(detail), Some(entry)) = (&self.detail, entry.as_object_mut()) {
            entry.insert("detail".to_owned(), Value::String(detail.clone()));
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use keyward_kms::{Latencies, Phase, StatusAnswer};

    use super::*;

    fn report(healthz: &str, id: &str, result: Result<(), KmsError>) -> ProbeReport {
        let status = StatusAnswer { version: "v2".into(), healthz: healthz.into(), remote_key_id: id.into() };
        ProbeReport { status: Some(status), latencies: Latencies::default(), result, key_check: None }
    }

    fn told(report: Option<&ProbeReport>, known: Option<&str>) -> (&'static str, String, Option<String>) {
        let entry = of(report, known, Duration::from_secs(5));
        assert!((1..=LONGEST).contains(&entry.remote_key_id.chars().count()), "{entry:?}");
        assert!(entry.detail.iter().all(|d| (1..=LONGEST).contains(&d.chars().count())), "{entry:?}");
        assert_eq!(entry.status == "Healthy", entry.detail.is_none());
        (entry.status, entry.remote_key_id, entry.detail)
    }

    #[test]
    fn every_answer_is_valid_and_keeps_what_was_known() {
        let owned = |status, id: &str, detail: &str| (status, id.to_owned(), Some(detail.to_owned()));
        let healthy = report("ok", "kek-2", Ok(()));
        assert_eq!(told(Some(&healthy), Some("kek-1")), ("Healthy", "kek-2".to_owned(), None));

        let unhealthy = |id| report("sealed", id, Err(KmsError::Unhealthy { healthz: "sealed".into() }));
        assert_eq!(told(Some(&unhealthy("")), None), owned("Unhealthy", "unknown", "sealed"));
        assert_eq!(told(Some(&unhealthy("kek-2")), Some("kek-1")), owned("Unhealthy", "kek-2", "sealed"));

        let gone = KmsError::Timeout { phase: Phase::Status, after: Duration::from_secs(5) };
        let gone = ProbeReport { status: None, ..report("", "", Err(gone)) };
        let within = "status: no answer from the KMS plugin within 5s";
        assert_eq!(told(Some(&gone), Some("kek-1")), owned("Error", "kek-1", within));
        assert_eq!(told(None, None), owned("Error", "unknown", within));
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_empty_is_filled() {
        let long = "é".repeat(2000);
        let unhealthy = report("x", &long, Err(KmsError::Unhealthy { healthz: long.clone() }));
        let (_, id, detail) = told(Some(&unhealthy), None);
        assert_eq!((id.chars().count(), detail.unwrap().chars().count()), (LONGEST, LONGEST));
        let empty = report("x", "", Err(KmsError::Unhealthy { healthz: " ".into() }));
        assert_eq!(told(Some(&empty), None).2.as_deref(), Some("unknown"));
    }

    #[test]
    fn what_looks_like_a_credential_is_not_told() {
        let healthz = format!("{} X-Acme-Token: hvs.CAESIJx9Q7mKq3YcW0RkTf2LhVn8", "-".repeat(LONGEST - 30));
        let report = report("x", "kek-1", Err(KmsError::Unhealthy { healthz }));
        assert!(told(Some(&report), None).2.unwrap().ends_with("- X-Acme-Token: ***"));
    }

    #[test]
    fn json_has_the_names_of_the_contract() {
        let entry = of(None, Some("kek"), Duration::from_secs(1)).to_json("cp-1", "3");
        let mut fields: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["detail", "keyID", "lastCheckedTime", "nodeName", "remoteKeyID", "status"]);
        let at = entry["lastCheckedTime"].as_str().unwrap();
        assert!(at.ends_with('Z') && at.len() == 20, "whole seconds: {at}");
    }
}
