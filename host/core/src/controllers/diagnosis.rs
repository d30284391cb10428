//! Explains a plugin's failure: by the provider module's diagnosis if there is one, else by what was
//! observed.

use crate::provider::{Diagnosis, EvaluationRequest, Failure};
use crate::snapshot::Snapshot;

/// `DEADLINE_EXCEEDED`.
const NO_ANSWER: u32 = 4;

/// The longest text of a provider module or a plugin in a status, in bytes. A module may return far more, and
/// there is one text for each plugin and node.
const LONGEST: usize = 2048;
/// The longest name of a phase, in bytes. Agents use six short names.
const PHASE: usize = 32;
/// Where the log is.
const LOG: &str = "; its log is in keyward status";
/// Replaces the text that is cut.
const MORE: &str = "…";

/// What an admin reads about a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    /// What is wrong, in a few words. It stays the same while the cause does. So it has no words of the
    /// plugin: a request id or a port in them differs at each probe and node.
    pub(super) cause: String,
    /// What was observed, in full.
    pub(super) what: String,
    /// What to do.
    pub(super) remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.remedy.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{} {}", with_stop(&self.what), self.remedy)
        }
    }
}

/// The text with one period at its end.
pub(super) fn with_stop(text: &str) -> String {
    format!("{}.", text.trim_end().trim_end_matches('.'))
}

/// The provider module's diagnosis of a failure of the plugin that runs with this configuration.
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

/// The phase, and what was observed in it; messages of probes begin with the phase themselves. A log is long
/// and changes all the time, so only its place is named. A plugin that answers says itself what is wrong, so
/// its log is not mentioned.
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

/// A failure for which the provider module has a diagnosis.
pub(super) fn diagnosed(diagnosis: &Diagnosis, failure: &Failure) -> Finding {
    let cause = format!("{}: {}", diagnosis.cause, diagnosis.summary);
    Finding {
        what: cut(format!("{cause} ({})", seen(failure))),
        cause: cut(cause),
        remedy: cut(diagnosis.remedy.clone()),
    }
}

/// The part of this text that fits into a status, cut between characters.
pub(super) fn cut(text: String) -> String {
    cut_to(text, LONGEST)
}

/// The same, for this many bytes.
pub(super) fn cut_to(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest.saturating_sub(MORE.len())));
        text.push_str(MORE);
    }
    text
}

/// Explains a failure of a plugin in use. Without a diagnosis the phase and the codes show the kind of
/// failure, for a plugin of any vendor.
pub(super) fn explain(snapshot: &Snapshot, request: Option<EvaluationRequest>, failure: &Failure) -> Finding {
    match of(snapshot, request, failure) {
        Some(diagnosis) => diagnosed(diagnosis, failure),
        None => {
            Finding { cause: kind(failure), what: cut(seen(failure)), remedy: remedy(failure).to_owned() }
        }
    }
}

/// The kind of failure, if there is no diagnosis: phase, exit code and gRPC code, without the words of the
/// plugin.
pub(super) fn kind(failure: &Failure) -> String {
    let phase = cut_to(failure.phase.clone(), PHASE);
    match (failure.exit_code, failure.grpc_code) {
        (Some(code), _) => format!("{phase}: it ended with exit code {code}"),
        (None, Some(code)) => format!("{phase}: it failed with gRPC code {code}"),
        (None, None) => format!("{phase}: it failed"),
    }
}

/// What to do, for any plugin.
fn remedy(failure: &Failure) -> &'static str {
    match (failure.phase.as_str(), failure.exit_code, failure.grpc_code) {
        ("image", ..) => "Check whether the node can pull the image",
        ("start", Some(_), _) => "The plugin exits and is restarted; its log in keyward status shows why",
        ("start", None, _) => {
            "Nothing listens on its socket; check whether its static Pod runs on the node (crictl ps), and read its log in keyward status"
        }
        (_, _, Some(NO_ANSWER)) => {
            "The plugin accepts connections but does not answer; check whether the node can reach the KMS. If it can, the plugin hangs: restart its Pod"
        }
        _ => "Read its log (keyward status) and the KMS's audit log",
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
    #[case::crashes(
        failure("start", Some(3), None, "the plugin ended with exit code 3"),
        "exits and is restarted"
    )]
    #[case::gone(failure("start", None, None, "no KMS plugin answers"), "Nothing listens")]
    #[case::hangs(failure("status", None, Some(4), "status: no answer"), "does not answer")]
    #[case::unhealthy(
        failure("status", None, None, "status: the KMS plugin is unhealthy: sealed"),
        "Read its log"
    )]
    fn each_kind_of_failure_has_its_own_remedy(#[case] failure: Failure, #[case] remedy: &str) {
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
    fn texts_of_a_provider_module_are_cut_between_characters() {
        let diagnosis = Diagnosis {
            cause: "sealed".into(),
            summary: "é".repeat(1 << 19),
            remedy: format!("a{}", "é".repeat(1 << 19)),
            retryable: false,
        };
        let finding = diagnosed(&diagnosis, &failure("status", None, None, "status: sealed"));
        for text in [&finding.what, &finding.remedy] {
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
        assert_eq!(seen(&crashed), "start: ended with 3; its log is in keyward status");
    }
}
