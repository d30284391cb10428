//! Certificates and credentials that configurations refer to are warned of before they expire (`KMSCredentialsExpiring`).
//!
//! What expires when comes with the snapshot: certificates are parsed where they are read, and of a credential only
//! whoever issued it knows, who says so by an annotation. Nothing waits for this: what is expired may still be one of
//! several, and whether a plugin works is what its probes tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Turn;
use crate::api::ConditionStatus;
use crate::names;
use crate::outcome::Expires;
use crate::platform::{Expiry, ExpirySource, ObjectRef};
use crate::provider::ReferenceKind;
use crate::snapshot::{ServerView, Snapshot};

const CONDITION: &str = "KMSCredentialsExpiring";
/// So long before it happens it is told.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Looked at anew at least so often: what is told changes with the day.
const AGAIN: Duration = Duration::from_hours(1);

/// The condition and its Events. Returns the first expiry of each data key, for metrics.
pub(super) fn decide(snapshot: &Snapshot, turn: &mut Turn) -> Vec<Expires> {
    let referred = referred(snapshot);
    let mut warnings: Vec<Warning> = Vec::new();
    let mut first: BTreeMap<(&ObjectRef, Option<&str>), Timestamp> = BTreeMap::new();
    for (object, keys) in &referred {
        let found = snapshot.expiries.get(object).map(Vec::as_slice).unwrap_or_default();
        // What no configuration refers to is nobody's to warn of.
        let counts = |expiry: &&Expiry| expiry.source.key().is_none_or(|key| keys.contains(key));
        for expiry in found.iter().filter(counts) {
            if let Ok(at) = expiry.at {
                let known = first.entry((object, expiry.source.key())).or_insert(at);
                *known = at.min(*known);
            }
            warnings.extend(warning(snapshot.now, object, expiry, found));
        }
    }
    let agents: Vec<(&str, Timestamp)> = agents(snapshot).collect();
    warnings.extend(agents.iter().filter_map(|(node, at)| agent_warning(snapshot.now, node, *at)));
    warnings.sort();
    for Warning { reason, message, .. } in &warnings {
        turn.explain(message.clone());
        turn.notice(true, reason, message.clone());
    }
    let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    let reasons: BTreeSet<&str> = warnings.iter().map(|warning| warning.reason).collect();
    // The worst of them is the reason: they are sorted by name, and so by how bad they are.
    match reasons.first() {
        Some(reason) => turn.condition(CONDITION, ConditionStatus::True, reason, &messages.join("; ")),
        // Of what cannot be read it is not known whether it expires: what was said stands.
        None if referred.keys().any(|object| matches!(snapshot.objects.get(object), Some(Err(_)))) => {}
        None => turn.condition(CONDITION, ConditionStatus::False, "AsExpected", ""),
    }
    if !first.is_empty() || !agents.is_empty() {
        turn.again_after(AGAIN);
    }
    let expires = |kind: String, name: &str, key: Option<&str>, at: Timestamp| Expires {
        kind,
        name: name.to_owned(),
        key: key.map(ToOwned::to_owned),
        at,
        seconds_left: at.as_second().saturating_sub(snapshot.now.as_second()),
    };
    let referred =
        first.into_iter().map(|((object, key), at)| expires(object.kind.to_string(), &object.name, key, at));
    referred.chain(agents.iter().map(|(node, at)| expires("node".to_owned(), node, None, *at))).collect()
}

/// When the certificates end by which the nodes' agents report. One that has ended is told by what its agent said last.
fn agents(snapshot: &Snapshot) -> impl Iterator<Item = (&str, Timestamp)> {
    // Of a node that is gone nothing is to be renewed.
    let has_node = |server: &&ServerView| server.is_node || server.lacks_label;
    snapshot.servers.values().filter(has_node).filter_map(|server| {
        let at = server.status()?.credential_expires.as_deref()?;
        // Whoever says something else is no agent of ours.
        Some((server.name.as_str(), at.parse().ok()?))
    })
}

fn agent_warning(now: Timestamp, node: &str, at: Timestamp) -> Option<Warning> {
    let what = format!("the client certificate of the agent on node {node}");
    let tell = |rank, reason, message| Some(Warning { rank, at: Some(at), reason, message });
    if at <= now {
        let message =
            format!("{what} expired at {at}; renew the agent's kubeconfig there: nothing is heard of it");
        tell(Rank::Over, "CredentialExpired", message)
    } else if at.duration_since(now) <= AHEAD {
        let message = format!("{what} expires at {at}; renew the agent's kubeconfig there before");
        tell(Rank::Next, "CredentialExpiring", message)
    } else {
        None
    }
}

/// The data keys that configurations refer to: the one that is wanted, and those of keys that are kept.
fn referred(snapshot: &Snapshot) -> BTreeMap<ObjectRef, BTreeSet<&str>> {
    let mut referred: BTreeMap<ObjectRef, BTreeSet<&str>> = BTreeMap::new();
    let evaluations = snapshot.evaluations.values().filter_map(|evaluation| evaluation.as_ref().ok());
    for reference in evaluations.flat_map(|evaluation| &evaluation.references) {
        let source = &reference.source;
        let object = ObjectRef { kind: source.kind, name: source.name.clone() };
        referred.entry(object).or_default().insert(&source.key);
    }
    referred
}

/// What is said of one expiry; sorted as it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Warning {
    rank: Rank,
    at: Option<Timestamp>,
    reason: &'static str,
    message: String,
}

/// What can still be prevented comes first, and what has long been so does not hide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It expires.
    Next,
    /// It has, and nothing valid is beside it.
    Over,
    /// It has, beside what is valid.
    Replaced,
    /// Nobody knows.
    Unreadable,
}

/// What is to be said of one expiry, if anything. Certificates that are over beside valid ones are told together, by the
/// first of them: bundles of CAs collect them.
fn warning(now: Timestamp, object: &ObjectRef, expiry: &Expiry, all: &[Expiry]) -> Option<Warning> {
    let what = match &expiry.source {
        ExpirySource::Certificate { key, subject } => {
            format!("certificate {subject:?} in {object}, key {key},")
        }
        ExpirySource::Annotation => match object.kind {
            ReferenceKind::Secret => format!("the credential in {object}"),
            ReferenceKind::ConfigMap => format!("{object}"),
        },
    };
    let at = match &expiry.at {
        Ok(at) => *at,
        Err(why) => {
            let message = format!("when {what} expires cannot be read: {why}");
            return Some(Warning { rank: Rank::Unreadable, at: None, reason: "ExpiryUnreadable", message });
        }
    };
    let by = match expiry.source {
        ExpirySource::Annotation => format!(" (annotation {})", names::ANNOTATION_EXPIRES),
        ExpirySource::Certificate { .. } => String::new(),
    };
    if at <= now {
        let tell = |rank, message| Some(Warning { rank, at: Some(at), reason: "CredentialExpired", message });
        let alone = format!("{what} expired at {at}{by}");
        let Some(key) = expiry.source.key() else { return tell(Rank::Over, alone) };
        let (mut over, mut valid) = (Vec::new(), 0_usize);
        for other in all.iter().filter(|other| other.source.key() == Some(key)) {
            match other.at {
                Ok(at) if at <= now => over.push((other, at)),
                Ok(_) => valid += 1,
                Err(_) => {}
            }
        }
        return match over.as_slice() {
            _ if valid == 0 => tell(Rank::Over, alone),
            [(first, _), _, ..] if !std::ptr::eq(*first, expiry) => None,
            [_, _, ..] => {
                let last = over.iter().map(|(_, at)| *at).max().unwrap_or(at);
                let message = format!(
                    "{} certificates in {object}, key {key}, expired, the last of them at {last}; {valid} beside them still valid, so that they can be taken out",
                    over.len()
                );
                tell(Rank::Replaced, message)
            }
            _ => {
                let message = format!("{alone}; {valid} beside it still valid, so that it can be taken out");
                tell(Rank::Replaced, message)
            }
        };
    }
    (at.duration_since(now) <= AHEAD).then(|| {
        let message = format!("{what} expires at {at}{by}; replace it before");
        Warning { rank: Rank::Next, at: Some(at), reason: "CredentialExpiring", message }
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn certificate(subject: &str, at: &str) -> Expiry {
        let source = ExpirySource::Certificate { key: "ca".into(), subject: subject.into() };
        Expiry { source, at: Ok(at.parse().unwrap()) }
    }

    fn annotation(at: Result<&str, &str>) -> Expiry {
        let at = at.map(|at| at.parse().unwrap()).map_err(ToOwned::to_owned);
        Expiry { source: ExpirySource::Annotation, at }
    }

    fn said(kind: ReferenceKind, all: &[Expiry]) -> Option<(&'static str, String)> {
        let object = ObjectRef { kind, name: "login".into() };
        let said = warning(NOW.parse().unwrap(), &object, &all[0], all);
        said.map(|warning| (warning.reason, warning.message))
    }

    #[rstest]
    #[case::far_away(vec![certificate("CN=a", "2026-07-01T00:00:01Z")], None)]
    #[case::thirty_days(vec![certificate("CN=a", "2026-07-01T00:00:00Z")], Some((
        "CredentialExpiring",
        "certificate \"CN=a\" in configmap login, key ca, expires at 2026-07-01T00:00:00Z; replace it before",
    )))]
    #[case::now(vec![certificate("CN=a", NOW)], Some((
        "CredentialExpired",
        "certificate \"CN=a\" in configmap login, key ca, expired at 2026-06-01T00:00:00Z",
    )))]
    #[case::one_of_several(vec![
        certificate("CN=a", "2026-01-01T00:00:00Z"),
        certificate("CN=b", "2027-01-01T00:00:00Z"),
        annotation(Ok("2028-01-01T00:00:00Z")),
    ], Some((
        "CredentialExpired",
        "certificate \"CN=a\" in configmap login, key ca, expired at 2026-01-01T00:00:00Z; 1 beside it still valid, so that it can be taken out",
    )))]
    fn certificates(#[case] all: Vec<Expiry>, #[case] expected: Option<(&str, &str)>) {
        let said = said(ReferenceKind::ConfigMap, &all);
        assert_eq!(said.as_ref().map(|(reason, message)| (*reason, message.as_str())), expected);
    }

    #[rstest]
    #[case::soon(
        Ok("2026-06-02T00:00:00Z"),
        "CredentialExpiring",
        "the credential in secret login expires at 2026-06-02T00:00:00Z (annotation encryption.keyward.dev/expires); replace it before"
    )]
    #[case::passed(
        Ok("2026-05-31T23:59:59Z"),
        "CredentialExpired",
        "the credential in secret login expired at 2026-05-31T23:59:59Z (annotation encryption.keyward.dev/expires)"
    )]
    #[case::unreadable(
        Err("not a time"),
        "ExpiryUnreadable",
        "when the credential in secret login expires cannot be read: not a time"
    )]
    fn credentials(#[case] at: Result<&str, &str>, #[case] reason: &'static str, #[case] message: &str) {
        assert_eq!(said(ReferenceKind::Secret, &[annotation(at)]), Some((reason, message.to_owned())));
    }

    #[test]
    fn what_expires_next_is_told_first_and_what_is_over_in_one_line() {
        let object = ObjectRef { kind: ReferenceKind::ConfigMap, name: "login".into() };
        let all = [
            certificate("CN=a", "2025-01-01T00:00:00Z"),
            certificate("CN=b", "2026-01-01T00:00:00Z"),
            certificate("CN=c", "2026-06-20T00:00:00Z"),
            certificate("CN=d", "2026-06-10T00:00:00Z"),
            annotation(Ok("2024-01-01T00:00:00Z")),
        ];
        let now = NOW.parse().unwrap();
        let mut warnings: Vec<Warning> =
            all.iter().filter_map(|expiry| warning(now, &object, expiry, &all)).collect();
        warnings.sort();
        let told: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "certificate \"CN=d\" in configmap login, key ca, expires at 2026-06-10T00:00:00Z; replace it before",
                "certificate \"CN=c\" in configmap login, key ca, expires at 2026-06-20T00:00:00Z; replace it before",
                "configmap login expired at 2024-01-01T00:00:00Z (annotation encryption.keyward.dev/expires)",
                "2 certificates in configmap login, key ca, expired, the last of them at 2026-01-01T00:00:00Z; 2 beside them still valid, so that they can be taken out",
            ]
        );
    }

    #[test]
    fn reasons_sort_by_how_bad_they_are() {
        let mut reasons = ["ExpiryUnreadable", "CredentialExpiring", "CredentialExpired"];
        reasons.sort_unstable();
        assert_eq!(reasons, ["CredentialExpired", "CredentialExpiring", "ExpiryUnreadable"]);
    }
}
