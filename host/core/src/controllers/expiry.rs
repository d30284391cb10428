//! Warns of certificates and credentials before they expire: the condition `KMSCredentialsExpiring`
//! (decision 0067).
//!
//! The times come with the snapshot. Certificates are parsed where they are read. The expiry of a credential
//! is known only to its issuer, who sets an annotation. Nothing waits for an expiry: an expired certificate
//! may be one of several, and probes show whether a plugin works.

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
/// How long before its expiry something is reported.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The warnings are computed again at least this often, since they change with the day.
const AGAIN: Duration = Duration::from_hours(1);

/// The condition and its Events. Returns the first expiry of each data key, for metrics.
pub(super) fn decide(snapshot: &Snapshot, turn: &mut Turn) -> Vec<Expires> {
    let referred = referred(snapshot);
    let mut warnings: Vec<Warning> = Vec::new();
    let mut first: BTreeMap<(&ObjectRef, Option<&str>), Timestamp> = BTreeMap::new();
    for (object, keys) in &referred {
        let found = snapshot.expiries.get(object).map(Vec::as_slice).unwrap_or_default();
        // Data keys that no configuration refers to cause no warning.
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
    // The reasons are sorted by name, which sorts them by severity. The worst one is the condition's.
    match reasons.first() {
        Some(reason) => turn.condition(CONDITION, ConditionStatus::True, reason, &messages.join("; ")),
        // If an object cannot be read, its expiry is unknown, and the condition stays as it is.
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

/// When the client certificates of the agents expire. An agent whose certificate has expired cannot report,
/// so its last report counts.
fn agents(snapshot: &Snapshot) -> impl Iterator<Item = (&str, Timestamp)> {
    // On a node that is gone there is nothing to renew.
    let has_node = |server: &&ServerView| server.is_node || server.lacks_label;
    snapshot.servers.values().filter(has_node).filter_map(|server| {
        let at = server.status()?.credential_expires.as_deref()?;
        // A value that is not a time does not come from a node agent.
        Some((server.name.as_str(), at.parse().ok()?))
    })
}

fn agent_warning(now: Timestamp, node: &str, at: Timestamp) -> Option<Warning> {
    let what = format!("the client certificate of the agent on node {node}");
    let warn = |rank, reason, message| Some(Warning { rank, at: Some(at), reason, message });
    if at <= now {
        let message = format!(
            "{what} expired at {at}, so the agent cannot report; renew the agent's kubeconfig on that node"
        );
        warn(Rank::Over, "CredentialExpired", message)
    } else if at.duration_since(now) <= AHEAD {
        let message =
            format!("{what} expires at {at}; renew the agent's kubeconfig on that node before that time");
        warn(Rank::Next, "CredentialExpiring", message)
    } else {
        None
    }
}

/// The data keys that configurations refer to: the desired one, and those of stored keys.
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

/// The warning about one expiry. Warnings sort in the order of their report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Warning {
    rank: Rank,
    at: Option<Timestamp>,
    reason: &'static str,
    message: String,
}

/// An expiry that can still be prevented comes first, so that an old one does not hide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It will expire.
    Next,
    /// It has expired, and nothing valid is beside it.
    Over,
    /// It has expired, and something valid is beside it.
    Replaced,
    /// The time is not known.
    Unreadable,
}

/// The warning about one expiry, if there is one. Expired certificates beside valid ones are reported
/// together, with the first of them, since CA bundles accumulate them.
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
            let message = format!("the expiry time of {what} cannot be read: {why}");
            return Some(Warning { rank: Rank::Unreadable, at: None, reason: "ExpiryUnreadable", message });
        }
    };
    let by = match expiry.source {
        ExpirySource::Annotation => format!(" (annotation {})", names::ANNOTATION_EXPIRES),
        ExpirySource::Certificate { .. } => String::new(),
    };
    if at <= now {
        let warn = |rank, message| Some(Warning { rank, at: Some(at), reason: "CredentialExpired", message });
        let alone = format!("{what} expired at {at}{by}");
        let Some(key) = expiry.source.key() else { return warn(Rank::Over, alone) };
        let (mut over, mut valid) = (Vec::new(), 0_usize);
        for other in all.iter().filter(|other| other.source.key() == Some(key)) {
            match other.at {
                Ok(at) if at <= now => over.push((other, at)),
                Ok(_) => valid += 1,
                Err(_) => {}
            }
        }
        return match over.as_slice() {
            _ if valid == 0 => warn(Rank::Over, alone),
            [(first, _), _, ..] if !std::ptr::eq(*first, expiry) => None,
            [_, _, ..] => {
                let last = over.iter().map(|(_, at)| *at).max().unwrap_or(at);
                let message = format!(
                    "{} certificates in {object}, key {key}, have expired, the last one at {last}; {valid} valid beside them, so remove the expired ones",
                    over.len()
                );
                warn(Rank::Replaced, message)
            }
            _ => {
                let message = format!("{alone}; {valid} valid beside it, so remove the expired one");
                warn(Rank::Replaced, message)
            }
        };
    }
    (at.duration_since(now) <= AHEAD).then(|| {
        let message = format!("{what} expires at {at}{by}; replace it before that time");
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

    fn warned(kind: ReferenceKind, all: &[Expiry]) -> Option<(&'static str, String)> {
        let object = ObjectRef { kind, name: "login".into() };
        let warned = warning(NOW.parse().unwrap(), &object, &all[0], all);
        warned.map(|warning| (warning.reason, warning.message))
    }

    #[rstest]
    #[case::far_away(vec![certificate("CN=a", "2026-07-01T00:00:01Z")], None)]
    #[case::thirty_days(vec![certificate("CN=a", "2026-07-01T00:00:00Z")], Some((
        "CredentialExpiring",
        "certificate \"CN=a\" in configmap login, key ca, expires at 2026-07-01T00:00:00Z; replace it before that time",
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
        "certificate \"CN=a\" in configmap login, key ca, expired at 2026-01-01T00:00:00Z; 1 valid beside it, so remove the expired one",
    )))]
    fn certificate_is_reported_from_thirty_days_before_its_end(
        #[case] all: Vec<Expiry>,
        #[case] expected: Option<(&str, &str)>,
    ) {
        let warned = warned(ReferenceKind::ConfigMap, &all);
        assert_eq!(warned.as_ref().map(|(reason, message)| (*reason, message.as_str())), expected);
    }

    #[rstest]
    #[case::soon(
        Ok("2026-06-02T00:00:00Z"),
        "CredentialExpiring",
        "the credential in secret login expires at 2026-06-02T00:00:00Z (annotation encryption.keyward.dev/expires); replace it before that time"
    )]
    #[case::passed(
        Ok("2026-05-31T23:59:59Z"),
        "CredentialExpired",
        "the credential in secret login expired at 2026-05-31T23:59:59Z (annotation encryption.keyward.dev/expires)"
    )]
    #[case::unreadable(
        Err("not a time"),
        "ExpiryUnreadable",
        "the expiry time of the credential in secret login cannot be read: not a time"
    )]
    fn annotated_credential_is_reported_with_its_annotation(
        #[case] at: Result<&str, &str>,
        #[case] reason: &'static str,
        #[case] message: &str,
    ) {
        assert_eq!(warned(ReferenceKind::Secret, &[annotation(at)]), Some((reason, message.to_owned())));
    }

    #[test]
    fn the_next_expiry_comes_first_and_expired_certificates_share_one_line() {
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
        let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "certificate \"CN=d\" in configmap login, key ca, expires at 2026-06-10T00:00:00Z; replace it before that time",
                "certificate \"CN=c\" in configmap login, key ca, expires at 2026-06-20T00:00:00Z; replace it before that time",
                "configmap login expired at 2024-01-01T00:00:00Z (annotation encryption.keyward.dev/expires)",
                "2 certificates in configmap login, key ca, have expired, the last one at 2026-01-01T00:00:00Z; 2 valid beside them, so remove the expired ones",
            ]
        );
    }

    #[test]
    fn reasons_sort_by_severity() {
        let mut reasons = ["ExpiryUnreadable", "CredentialExpiring", "CredentialExpired"];
        reasons.sort_unstable();
        assert_eq!(reasons, ["CredentialExpired", "CredentialExpiring", "ExpiryUnreadable"]);
    }
}
