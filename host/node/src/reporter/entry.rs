//! The health report of one plugin (openshift: health-report). It is always valid
//! (openshift: reports-are-always-valid): `remoteKeyID` has 1 to 1,024 characters also if the plugin does not
//! answer, and so has `detail` unless the plugin is healthy. No I/O.

use std::time::Duration;

use keyward_core::node::Scrubber;
use keyward_kms::{KmsError, ProbeReport};
use serde_json::{Value, json};

const LONGEST: usize = 1024;
/// Used before a plugin has answered.
const UNKNOWN: &str = "unknown";

/// The report of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    status: &'static str,
    remote_key_id: String,
    detail: Option<String>,
    /// The remote key id, if this probe returned it.
    pub(super) answered: Option<String>,
}

/// The report after a probe, which is `None` if the plugin did not answer within `limit`. `known` is the last
/// remote key id.
pub(super) fn of(report: Option<&ProbeReport>, known: Option<&str>, limit: Duration) -> Entry {
    let id = report.and_then(|report| report.status.as_ref()).map(|status| status.remote_key_id.as_str());
    let id = id.filter(|id| !id.is_empty());
    let entry = |status, detail: Option<String>| Entry {
        status,
        remote_key_id: cut(id.or(known).unwrap_or(UNKNOWN)),
        detail: detail
            .map(|detail| if detail.trim().is_empty() { UNKNOWN.to_owned() } else { clean(&detail) }),
        answered: id.map(cut),
    };
    match report.map(|report| &report.result) {
        Some(Ok(())) => entry("Healthy", None),
        Some(Err(KmsError::Unhealthy { healthz })) => entry("Unhealthy", Some(healthz.clone())),
        Some(Err(error)) => entry("Error", Some(error.to_string())),
        None => entry("Error", Some(format!("status: no answer from the KMS plugin within {limit:?}"))),
    }
}

/// The plugin's credentials are not known here, so everything that looks like a credential is redacted,
/// before the text is cut.
fn clean(text: &str) -> String {
    cut(&Scrubber::default().clean(text))
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Entry {
    /// The report as an item of `healthReports`, with the current time.
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

    fn fields(report: Option<&ProbeReport>, known: Option<&str>) -> (&'static str, String, Option<String>) {
        let entry = of(report, known, Duration::from_secs(5));
        assert!((1..=LONGEST).contains(&entry.remote_key_id.chars().count()), "{entry:?}");
        assert!(entry.detail.iter().all(|d| (1..=LONGEST).contains(&d.chars().count())), "{entry:?}");
        assert_eq!(entry.status == "Healthy", entry.detail.is_none());
        (entry.status, entry.remote_key_id, entry.detail)
    }

    #[test]
    fn every_report_is_valid_and_keeps_the_last_known_id() {
        let owned = |status, id: &str, detail: &str| (status, id.to_owned(), Some(detail.to_owned()));
        let healthy = report("ok", "kek-2", Ok(()));
        assert_eq!(fields(Some(&healthy), Some("kek-1")), ("Healthy", "kek-2".to_owned(), None));

        let unhealthy = |id| report("sealed", id, Err(KmsError::Unhealthy { healthz: "sealed".into() }));
        assert_eq!(fields(Some(&unhealthy("")), None), owned("Unhealthy", "unknown", "sealed"));
        assert_eq!(fields(Some(&unhealthy("kek-2")), Some("kek-1")), owned("Unhealthy", "kek-2", "sealed"));

        let gone = KmsError::Timeout { phase: Phase::Status, after: Duration::from_secs(5) };
        let gone = ProbeReport { status: None, ..report("", "", Err(gone)) };
        let within = "status: no answer from the KMS plugin within 5s";
        assert_eq!(fields(Some(&gone), Some("kek-1")), owned("Error", "kek-1", within));
        assert_eq!(fields(None, None), owned("Error", "unknown", within));
    }

    #[test]
    fn long_texts_are_cut_and_empty_ones_are_filled() {
        let long = "é".repeat(2000);
        let unhealthy = report("x", &long, Err(KmsError::Unhealthy { healthz: long.clone() }));
        let (_, id, detail) = fields(Some(&unhealthy), None);
        assert_eq!((id.chars().count(), detail.unwrap().chars().count()), (LONGEST, LONGEST));
        let empty = report("x", "", Err(KmsError::Unhealthy { healthz: " ".into() }));
        assert_eq!(fields(Some(&empty), None).2.as_deref(), Some("unknown"));
    }

    #[test]
    fn texts_that_look_like_credentials_are_redacted() {
        let healthz = format!("{} X-Acme-Token: hvs.CAESIJx9Q7mKq3YcW0RkTf2LhVn8", "-".repeat(LONGEST - 30));
        let report = report("x", "kek-1", Err(KmsError::Unhealthy { healthz }));
        assert!(fields(Some(&report), None).2.unwrap().ends_with("- X-Acme-Token: ***"));
    }

    #[test]
    fn json_has_the_field_names_of_the_crd() {
        let entry = of(None, Some("kek"), Duration::from_secs(1)).to_json("cp-1", "3");
        let mut fields: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["detail", "keyID", "lastCheckedTime", "nodeName", "remoteKeyID", "status"]);
        let at = entry["lastCheckedTime"].as_str().unwrap();
        assert!(at.ends_with('Z') && at.len() == 20, "whole seconds: {at}");
    }
}
