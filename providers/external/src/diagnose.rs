//! What a failure of the plugin means. The module knows no KMS, so it diagnoses only connections and
//! statuses.
//!
//! It recognizes the texts of Keyward's own probe and of the operating system. It does not interpret the
//! plugin's own messages about its KMS; the host shows them unchanged. No text of the failure goes into a
//! diagnosis.

use keyward_guest::prelude::*;

use crate::config::Config;

/// A known failure.
struct Symptom {
    /// The bounded label.
    cause: &'static str,
    /// The phases in which it can occur.
    phases: &'static [&'static str],
    /// The failure has one of these gRPC codes; empty for any.
    codes: &'static [u32],
    /// The message contains one of these texts, in lower case; empty for any.
    seen: &'static [&'static str],
    /// One line; `{endpoint}` is replaced.
    summary: &'static str,
    /// What to do.
    remedy: &'static str,
    /// Whether a retry without any change can succeed.
    retryable: bool,
}

const CALLS: &[&str] = &["status", "encrypt", "decrypt", "key-check"];
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The first symptom that fits is the diagnosis.
const SYMPTOMS: &[Symptom] = &[
    Symptom {
        cause: "socket-missing",
        phases: &["start"],
        codes: &[],
        seen: &["no such file", "not a directory"],
        summary: "there is no socket at {endpoint}",
        remedy: "start the KMS plugin on this node at {endpoint}, or set external.endpoint to the address of \
                 the plugin",
        retryable: true,
    },
    Symptom {
        cause: "socket-refused",
        phases: &["start"],
        codes: &[],
        seen: &["connection refused", "not a socket", "protocol wrong type"],
        summary: "there is a file at {endpoint}, but no KMS plugin listens on it",
        remedy: "restart the KMS plugin on this node; when it starts, it must remove the socket of its \
                 previous run",
        retryable: true,
    },
    Symptom {
        cause: "socket-denied",
        phases: &["start"],
        codes: &[],
        seen: &["permission denied", "operation not permitted"],
        summary: "access to the socket at {endpoint} is denied",
        remedy: "allow the users of the API server and of Keyward's node agent to write to the socket and to \
                 enter its folders (check owner and mode, and SELinux or AppArmor if it is active)",
        retryable: true,
    },
    Symptom {
        cause: "not-kms-v2",
        phases: CALLS,
        codes: &[UNIMPLEMENTED],
        seen: &[],
        summary: "the program that listens at {endpoint} is not a KMS v2 plugin",
        remedy: "run a plugin that serves the KMS v2 API (v2.KeyManagementService) at {endpoint}; KMS v1 is \
                 not supported",
        retryable: false,
    },
    Symptom {
        cause: "version-refused",
        phases: &["status"],
        codes: &[],
        seen: &["an api server would refuse this plugin"],
        summary: "the plugin at {endpoint} reports a version of the KMS API that no API server accepts",
        remedy: "run a plugin whose Status reports version v2",
        retryable: false,
    },
    Symptom {
        cause: "other-kek",
        phases: &["key-check"],
        codes: &[],
        seen: &["does not reach the kek", "other bytes"],
        summary: "the plugin at {endpoint} does not reach the KEK of this key",
        remedy: "configure the plugin with the KEK of this key again; to use another KEK, run a second \
                 plugin at another endpoint and set external.endpoint to it, so that a new key is made",
        retryable: false,
    },
    Symptom {
        cause: "unhealthy",
        phases: &["status"],
        codes: &[],
        seen: &["is unhealthy"],
        summary: "the plugin at {endpoint} reports that it is unhealthy",
        remedy: "check the plugin's log and its KMS; Keyward does not run this plugin",
        retryable: true,
    },
    Symptom {
        cause: "kms-denied",
        phases: CALLS,
        codes: &[PERMISSION_DENIED, UNAUTHENTICATED],
        seen: &[],
        summary: "the plugin at {endpoint} is not allowed to use its KEK",
        remedy: "in the KMS, grant the plugin's identity the right to encrypt and to decrypt with the KEK",
        retryable: true,
    },
    Symptom {
        cause: "no-answer",
        phases: CALLS,
        codes: &[DEADLINE_EXCEEDED, UNAVAILABLE],
        seen: &[],
        summary: "the plugin at {endpoint} or its KMS does not answer in time",
        remedy: "check that this node can connect to the KMS, and check the plugin's log",
        retryable: true,
    },
];

pub(crate) fn diagnose(config: &Config, failure: &Failure) -> Option<Diagnosis> {
    let message = failure.message.to_ascii_lowercase();
    let symptom = SYMPTOMS.iter().find(|symptom| {
        symptom.phases.contains(&failure.phase.as_str())
            && (symptom.codes.is_empty()
                || failure.grpc_code.is_some_and(|code| symptom.codes.contains(&code)))
            && (symptom.seen.is_empty() || symptom.seen.iter().any(|text| message.contains(text)))
    })?;
    let fill = |text: &str| text.replace("{endpoint}", config.endpoint());
    Some(Diagnosis {
        cause: symptom.cause.to_owned(),
        summary: fill(symptom.summary),
        remedy: fill(symptom.remedy),
        retryable: symptom.retryable,
    })
}

#[cfg(test)]
mod tests {
    use super::{Config, SYMPTOMS, diagnose};
    use keyward_guest::Failure;

    fn failure(phase: &str, grpc_code: Option<u32>, message: &str) -> Failure {
        let (phase, message) = (phase.to_owned(), message.to_owned());
        Failure { phase, grpc_code, exit_code: None, message, log_tail: Vec::new() }
    }

    /// A text that is not in lower case is never found. An earlier symptom with weaker conditions hides a
    /// later one.
    #[test]
    fn every_symptom_can_be_recognized() {
        for symptom in SYMPTOMS {
            for phase in symptom.phases {
                let message = symptom.seen.first().copied().unwrap_or_default().to_uppercase();
                let found = diagnose(
                    &Config { endpoint: None },
                    &failure(phase, symptom.codes.first().copied(), &message),
                );
                let found = found.map(|found| (found.cause, found.summary + &found.remedy));
                assert_eq!(found.as_ref().map(|found| found.0.as_str()), Some(symptom.cause), "{phase}");
                assert!(found.is_some_and(|found| !found.1.contains(['{', '}'])), "{}", symptom.cause);
            }
        }
    }

    #[test]
    fn a_diagnosis_contains_no_text_of_the_failure() {
        let failure = failure("encrypt", Some(7), "permission denied for token s.hunter2");
        let diagnosis = diagnose(&Config { endpoint: None }, &failure).map(|found| format!("{found:?}"));
        assert!(diagnosis.is_some_and(|text| !text.contains("hunter2")));
    }
}
