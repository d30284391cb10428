//! What a plugin's failure means, in words: the provider's diagnosis where it has one, else what was seen.

use crate::provider::{Diagnosis, EvaluationRequest, Failure};
use crate::snapshot::Snapshot;

/// `DEADLINE_EXCEEDED`.
const NO_ANSWER: u32 = 4;

/// The longest text of a provider or a plugin that a status carries, in bytes: a module may return far more, and there
/// is one for each plugin and node.
const LONGEST: usize = 2048;
/// In place of the rest.
const MORE: &str = "…";

/// What an admin reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) remedy: String,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stop = if self.what.ends_with('.') { "" } else { "." };
        if self.remedy.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}{stop} {}", self.what, self.remedy)
        }
    }
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

/// The phase, and what was seen in it: messages of probes tell it themselves.
pub(super) fn seen(failure: &Failure) -> String {
    let words = last_words(failure);
    if failure.message.starts_with(&format!("{}:", failure.phase)) {
        format!("{}{words}", failure.message)
    } else {
        format!("{}: {}{words}", failure.phase, failure.message)
    }
}

/// What the plugin logged, where it does not answer: one that answers says itself what is wrong. Of many lines the
/// first, which says why a program was called wrongly, and the last.
fn last_words(failure: &Failure) -> String {
    let silent =
        failure.exit_code.is_some() || failure.phase == "start" || failure.grpc_code == Some(NO_ANSWER);
    let lines: Vec<&str> = match failure.log_tail.as_slice() {
        [first, middle @ .., before, last] if middle.len() > 1 => vec![first, "…", before, last],
        all => all.iter().map(String::as_str).collect(),
    };
    if silent && !lines.is_empty() {
        format!("; its last words: {}", lines.join(" | "))
    } else {
        String::new()
    }
}

/// A failure that the provider knows.
pub(super) fn diagnosed(diagnosis: &Diagnosis, failure: &Failure) -> Told {
    Told {
        what: cut(format!("{}: {} ({})", diagnosis.cause, diagnosis.summary, seen(failure))),
        remedy: cut(diagnosis.remedy.clone()),
    }
}

/// What a status can carry of this text, cut between characters.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - MORE.len()));
        text.push_str(MORE);
    }
    text
}

/// A failure of a plugin in use: which of the ways to fail it is shows, whoever made the plugin.
pub(super) fn told(snapshot: &Snapshot, request: Option<EvaluationRequest>, failure: &Failure) -> Told {
    match of(snapshot, request, failure) {
        Some(diagnosis) => diagnosed(diagnosis, failure),
        None => Told { what: seen(failure), remedy: remedy(failure).to_owned() },
    }
}

/// What can be said of any plugin.
fn remedy(failure: &Failure) -> &'static str {
    match (failure.phase.as_str(), failure.exit_code, failure.grpc_code) {
        ("image", ..) => "See whether the node can pull the image",
        ("start", Some(_), _) => "It ends by itself and is started again: its log on the node says why",
        ("start", None, _) => "Nobody listens on its socket: see whether its static pod runs on the node",
        (_, _, Some(NO_ANSWER)) => {
            "It accepts and does not answer: see whether the KMS can be reached from the node; where it can, the process hangs, and its pod has to be restarted"
        }
        _ => "See its log on the node, and the KMS's audit log",
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
    #[case::gone(failure("start", None, None, "no KMS plugin answers"), "Nobody listens")]
    #[case::hangs(failure("status", None, Some(4), "status: no answer"), "does not answer")]
    #[case::unhealthy(
        failure("status", None, None, "status: the KMS plugin is unhealthy: sealed"),
        "log on the node"
    )]
    fn the_ways_to_fail_are_told_apart(#[case] failure: Failure, #[case] remedy: &str) {
        assert!(super::remedy(&failure).contains(remedy), "{failure:?}");
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
    fn the_phase_is_told_once_and_the_last_words_where_they_say_more() {
        let hangs = failure("status", None, Some(4), "status: no answer");
        assert_eq!(seen(&hangs), "status: no answer");
        let mut crashed = failure("start", Some(3), None, "ended with 3");
        crashed.log_tail.push("no such flag".into());
        assert_eq!(seen(&crashed), "start: ended with 3; its last words: no such flag");
    }
}
