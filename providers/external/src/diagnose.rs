//! What a failure of the plugin means: who cannot reach whom, since more is not known of it.
//!
//! The words are those of Keyward's own probe and of the operating system; what the plugin itself says of its KMS is
//! shown as it stands and not interpreted. No text of the failure goes into the answer.

use keyward_guest::prelude::*;

use crate::config::Config;

/// One thing that goes wrong.
struct Symptom {
    /// The bounded label.
    cause: &'static str,
    /// In which phases it is looked for.
    phases: &'static [&'static str],
    /// One of these gRPC codes; empty for any.
    codes: &'static [u32],
    /// One of these texts, in lower case; empty for any.
    seen: &'static [&'static str],
    /// One line; `{endpoint}` is filled in.
    summary: &'static str,
    /// What to do.
    remedy: &'static str,
    /// Whether trying again may help without anybody doing anything.
    retryable: bool,
}

const CALLS: &[&str] = &["status", "encrypt", "decrypt", "key-check"];
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The first that fits counts.
const SYMPTOMS: &[Symptom] = &[
    Symptom {
        cause: "socket-missing",
        phases: &["start"],
        codes: &[],
        seen: &["no such file", "not a directory"],
        summary: "there is no socket at {endpoint}",
        remedy: "start the KMS plugin on this node, listening at {endpoint}, or set external.endpoint to where it listens",
        retryable: true,
    },
    Symptom {
        cause: "socket-refused",
        phases: &["start"],
        codes: &[],
        seen: &["connection refused", "not a socket", "protocol wrong type"],
        summary: "there is a file at {endpoint}, but no KMS plugin listens on it",
        remedy: "start the KMS plugin on this node again; a plugin that ended leaves its socket behind, and must remove \
                 it when it starts",
        retryable: true,
    },
    Symptom {
        cause: "socket-denied",
        phases: &["start"],
        codes: &[],
        seen: &["permission denied", "operation not permitted"],
        summary: "the socket at {endpoint} may not be opened",
        remedy: "let the user of the API server and of Keyward's node agent write to the socket and pass through its \
                 folders (owner and mode; SELinux or AppArmor where they are in force)",
        retryable: true,
    },
    Symptom {
        cause: "not-kms-v2",
        phases: CALLS,
        codes: &[UNIMPLEMENTED],
        seen: &[],
        summary: "what listens at {endpoint} is no KMS v2 plugin",
        remedy: "run a plugin that serves the KMS v2 API (v2.KeyManagementService) at {endpoint}; KMS v1 is not supported",
        retryable: false,
    },
    Symptom {
        cause: "version-refused",
        phases: &["status"],
        codes: &[],
        seen: &["an api server would refuse this plugin"],
        summary: "the plugin at {endpoint} speaks a version of the KMS API that no API server accepts",
        remedy: "run a plugin whose Status names the version v2",
        retryable: false,
    },
    Symptom {
        cause: "other-kek",
        phases: &["key-check"],
        codes: &[],
        seen: &["does not reach the kek", "other bytes"],
        summary: "the plugin at {endpoint} reaches another KEK than the one that this key was made with",
        remedy: "give the plugin the KEK back that it had; for another KEK, run a second plugin at another endpoint and \
                 set external.endpoint to it, so that a new key is made",
        retryable: false,
    },
    Symptom {
        cause: "unhealthy",
        phases: &["status"],
        codes: &[],
        seen: &["is unhealthy"],
        summary: "the plugin at {endpoint} says that it is not healthy",
        remedy: "look at the plugin's own log and at its KMS; Keyward does not run it",
        retryable: true,
    },
    Symptom {
        cause: "kms-denied",
        phases: CALLS,
        codes: &[PERMISSION_DENIED, UNAUTHENTICATED],
        seen: &[],
        summary: "the plugin at {endpoint} is not permitted to use its KEK",
        remedy: "give the plugin's own identity the right to encrypt and to decrypt with the KEK, in the KMS",
        retryable: true,
    },
    Symptom {
        cause: "no-answer",
        phases: CALLS,
        codes: &[DEADLINE_EXCEEDED, UNAVAILABLE],
        seen: &[],
        summary: "the plugin at {endpoint} does not answer in time, or its KMS does not",
        remedy: "check that the KMS can be reached from this node, and look at the plugin's own log",
        retryable: true,
    },
];

pub(crate) fn diagnose(config: &Config, failure: &Failure) -> Option<Diagnosis> {
    let said = failure.message.to_ascii_lowercase();
    let symptom = SYMPTOMS.iter().find(|symptom| {
        symptom.phases.contains(&failure.phase.as_str())
            && (symptom.codes.is_empty()
                || failure.grpc_code.is_some_and(|code| symptom.codes.contains(&code)))
            && (symptom.seen.is_empty() || symptom.seen.iter().any(|text| said.contains(text)))
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

    /// A text in another case than lower would never be seen; an earlier symptom that needs less would hide a later.
    #[test]
    fn every_symptom_can_be_recognised() {
        for symptom in SYMPTOMS {
            for phase in symptom.phases {
                let said = symptom.seen.first().copied().unwrap_or_default().to_uppercase();
                let found = diagnose(
                    &Config { endpoint: None },
                    &failure(phase, symptom.codes.first().copied(), &said),
                );
                let found = found.map(|found| (found.cause, found.summary + &found.remedy));
                assert_eq!(found.as_ref().map(|found| found.0.as_str()), Some(symptom.cause), "{phase}");
                assert!(found.is_some_and(|found| !found.1.contains(['{', '}'])), "{}", symptom.cause);
            }
        }
    }

    #[test]
    fn nothing_of_the_failure_is_repeated() {
        let failure = failure("encrypt", Some(7), "permission denied for token s.hunter2");
        let told = diagnose(&Config { endpoint: None }, &failure).map(|found| format!("{found:?}"));
        assert!(told.is_some_and(|told| !told.contains("hunter2")));
    }
}
