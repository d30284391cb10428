//! What a plugin's failure means, in words: the provider's diagnosis where it has one, else what was seen.

use crate::provider::{Diagnosis, EvaluationRequest, Failure};
use crate::snapshot::Snapshot;

/// `DEADLINE_EXCEEDED`.
const NO_ANSWER: u32 = 4;

/// The longest text of a provider or a plugin that a status carries, in bytes: a module may return far more, and there
/// is one for each plugin and node.
const LONGEST: usize = 2048;
/// The longest name of a phase, in bytes: agents know six short ones.
const PHASE: usize = 32;
/// Where the log is.
const LOG: &str = "; keyward status shows its log";
/// In place of the rest.
const MORE: &str = "…";

/// What an admin reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    /// What is wrong, in a few words: stays the same for as long as the cause does. No words of a plugin: a request id or a
    /// port in them is another at each probe and node.
    pub(super) cause: String,
    /// What was seen, with all its words.
    pub(super) what: String,
    /// What to do.
    pub(super) remedy: String,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.remedy.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{} {}", with_stop(&self.what), self.remedy)
        }
    }
}

/// With a full stop.
pub(super) fn with_stop(text: &str) -> String {
    format!("{}.", text.trim_end().trim_end_matches('.'))
}

/// The provider's diagnosis of a failure of the plugin of this configuration.
pub(super) fn of<'s>(
    snapshot: &'s Snapshot,
    request: Option<EvaluationRequest>,
    failure: &Failure,
) -> Option<&'s Diagnosis> {
    match snapshot.diagnoses.get(&(request?, failure.clone())) {
        Some(Ok(diagnosis)) => diagnosis.as_ref(),
        _ => None,
    }
}

/// The phase, and what was seen in it: messages of probes name it themselves. A log is long and changes all the time, so
/// that only its place is named; one that answers says itself what is wrong.
pub(super) fn seen(failure: &Failure) -> String {
    let silent =
        failure.exit_code.is_some() || failure.phase == "start" || failure.grpc_code == Some(NO_ANSWER);
    let log = if silent && !failure.log_tail.is_empty() { LOG } else { "" };
    if failure.message.starts_with(&format!("{}:", failure.phase)) {
        format!("{}{log}", failure.message)
    } else {
        format!("{}: {}{log}", failure.phase, failure.message)
    }
}

/// A failure that the provider knows.
pub(super) fn diagnosed(diagnosis: &Diagnosis, failure: &Failure) -> Told {
    let cause = format!("{}: {}", diagnosis.cause, diagnosis.summary);
    Told {
        what: cut(format!("{cause} ({})", seen(failure))),
        cause: cut(cause),
        remedy: cut(diagnosis.remedy.clone()),
    }
}

/// What a status can carry of this text, cut between characters.
pub(super) fn cut(text: String) -> String {
    cut_to(text, LONGEST)
}

/// The same to so many bytes.
pub(super) fn cut_to(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest.saturating_sub(MORE.len())));
        text.push_str(MORE);
    }
    text
}

/// A failure of a plugin in use: which of the ways to fail it is shows, whoever made the plugin.
pub(super) fn told(snapshot: &Snapshot, request: Option<EvaluationRequest>, failure: &Failure) -> Told {
    match of(snapshot, request, failure) {
        Some(diagnosis) => diagnosed(diagnosis, failure),
        None => Told { cause: kind(failure), what: cut(seen(failure)), remedy: remedy(failure).to_owned() },
    }
}

/// The way to fail, where the provider knows no cause: by phase, exit code and gRPC code, without the plugin's words.
pub(super) fn kind(failure: &Failure) -> String {
    let phase = cut_to(failure.phase.clone(), PHASE);
    match (failure.exit_code, failure.grpc_code) {
        (Some(code), _) => format!("{phase}: it ended with exit code {code}"),
        (None, Some(code)) => format!("{phase}: it failed with gRPC code {code}"),
        (None, None) => format!("{phase}: it failed"),
    }
}

/// What can be said of any plugin.
fn remedy(failure: &Failure) -> &'static str {
    match (failure.phase.as_str(), failure.exit_code, failure.grpc_code) {
        ("image", ..) => "See whether the node can pull the image",
        ("start", Some(_), _) => {
            "It ends by itself and is started again: keyward status shows its log, which says why"
        }
        ("start", None, _) => {
            "Nothing listens on its socket: see whether its static pod runs on the node (crictl ps); keyward status shows its log"
        }
        (_, _, Some(NO_ANSWER)) => {
            "It accepts and does not answer: see whether the KMS can be reached from the node; where it can, the process hangs, and its pod has to be restarted"
        }
        _ => "See its log (keyward status), and the KMS's audit log",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn failure(phase: &str, exit_code: Option<i32>, grpc_code: Option<u32>, message: &str) -> Failure {
        Failure { phase: phase.into(), exit_code, grpc_code, message: message.into(), log_tail: vec![] }
    }

    #[rstest]
    #[case::crashes(failure("start", Some(3), None, "the plugin ended with exit code 3"), "ends by itself")]
    #[case::gone(failure("start", None, None, "no KMS plugin answers"), "Nothing listens")]
    #[case::hangs(failure("status", None, Some(4), "status: no answer"), "does not answer")]
    #[case::unhealthy(
        failure("status", None, None, "status: the KMS plugin is unhealthy: sealed"),
        "See its log"
    )]
    fn the_ways_to_fail_are_told_apart(#[case] failure: Failure, #[case] remedy: &str) {
        assert!(super::remedy(&failure).contains(remedy), "{failure:?}");
    }

    #[rstest]
    #[case(failure("start", Some(3), None, "ended"), "start: it ended with exit code 3")]
    #[case(
        failure("status", None, Some(14), "status: Unavailable: port 40112"),
        "status: it failed with gRPC code 14"
    )]
    #[case(failure("status", None, None, "status: unhealthy: request 7f3a"), "status: it failed")]
    fn a_failure_without_a_diagnosis_is_known_by_its_phase_and_code(
        #[case] failure: Failure,
        #[case] expected: &str,
    ) {
        assert_eq!(kind(&failure), expected);
    }

    #[test]
    fn what_a_provider_says_is_cut_between_characters() {
        let diagnosis = Diagnosis {
            cause: "sealed".into(),
            summary: "é".repeat(1 << 19),
            remedy: format!("a{}", "é".repeat(1 << 19)),
            retryable: false,
        };
        let told = diagnosed(&diagnosis, &failure("status", None, None, "status: sealed"));
        for text in [&told.what, &told.remedy] {
            assert!(text.len() <= LONGEST && text.len() > LONGEST - 4 && text.ends_with(MORE), "{text}");
        }
        assert_eq!(cut("é".repeat(LONGEST / 2)).len(), LONGEST, "what fits stays");
    }

    #[test]
    fn the_phase_is_named_once_and_a_log_by_its_place() {
        let hangs = failure("status", None, Some(4), "status: no answer");
        assert_eq!(seen(&hangs), "status: no answer");
        let mut crashed = failure("start", Some(3), None, "ended with 3");
        crashed.log_tail.push("no such flag".into());
        assert_eq!(seen(&crashed), "start: ended with 3; keyward status shows its log");
    }
}
