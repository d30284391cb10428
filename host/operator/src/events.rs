//! Events on `ClusterEncryption/cluster`, `events.k8s.io/v1`.
//!
//! Written here rather than by kube's recorder: that one folds events of one reason into a series and keeps the first
//! one's note, so key 3 would be announced as key 2. What is said again and again is kept back instead: a notice is
//! written when it begins to hold, and again only after it ceased to, or after an hour, when the API server has
//! forgotten it. An Event that cannot be written is logged; nothing depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube_core::Resource as _;

use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use keyward_core::outcome::{Action, Notice};

use crate::cluster::{Cluster, FIELD_MANAGER, cut};
use crate::error::Error;

/// The API's limit of a note, in bytes.
const LONGEST_NOTE: usize = 1024;
/// How long an API server keeps an Event.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// Events about an object without a namespace go there.
const NAMESPACE: &str = "default";

/// One Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// CamelCase, bounded.
    pub(crate) reason: String,
    /// What was done or found, in a word: the Event's `action`.
    pub(crate) action: &'static str,
    /// For people.
    pub(crate) note: String,
    pub(crate) warning: bool,
}

/// Remembers which notices hold, by reason and subject.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    said: BTreeMap<(String, String), Instant>,
}

impl Notices {
    /// Those that are new.
    pub(crate) fn new_ones(&mut self, notices: &[Notice], now: Instant) -> Vec<Announcement> {
        let key = |notice: &Notice| (notice.reason.clone(), notice.subject.clone());
        let holding: BTreeSet<(String, String)> = notices.iter().map(key).collect();
        self.said.retain(|notice, said| holding.contains(notice) && now.duration_since(*said) < FORGOTTEN);
        let mut new = Vec::new();
        for notice in notices {
            if self.said.insert(key(notice), now).is_none() {
                new.push(Announcement {
                    reason: notice.reason.clone(),
                    action: "Decide",
                    note: notice.message.clone(),
                    warning: notice.warning,
                });
            }
        }
        new
    }
}

/// What an action that was carried out is announced as; reasons are CONTRACT 3's where it has one.
pub(crate) fn of_action(action: &Action) -> Option<Announcement> {
    let (reason, note) = match action {
        Action::CreateKey { key } => {
            ("EncryptionKeyCreated", format!("{} key {} was made: {}", key.mode, key.id, key.internal_reason))
        }
        Action::UpdateKey { key, fields } => {
            ("EncryptionKeyUpdated", format!("key {} was updated in place: {}", key.id, fields.join(", ")))
        }
        Action::SyncData { key, objects } => {
            ("EncryptionKeyDataSynced", format!("key {} follows {}", key.id, objects.join(", ")))
        }
        Action::RecordPublication { key, revision } => (
            "EncryptionKeyPromoted",
            format!("key {} becomes the write key with revision {revision}", key.id),
        ),
        Action::ApplyConfig { revision, content } => {
            let lists: Vec<String> = content
                .config
                .lists()
                .into_iter()
                .map(|(resource, providers)| format!("{resource}={}", providers.join(",")))
                .collect();
            ("EncryptionRevisionCreated", format!("revision {revision}: {}", lists.join("; ")))
        }
        Action::ReencryptOwn { leaving, .. } => {
            let keys: Vec<String> = leaving.iter().map(ToString::to_string).collect();
            let keys = keys.join(", ");
            (
                "KeywardObjectsReencrypted",
                format!("Keyward's own objects are stored without key {keys}, which is about to leave"),
            )
        }
        Action::SetTarget { node, what, .. } => ("EncryptionTargetSet", format!("node {node}: {what}")),
        Action::RequirePreflight { candidate, .. } => (
            "EncryptionPreflightRequired",
            format!("key {} is tried first ({})", candidate.key_id, candidate.purpose),
        ),
        Action::StartMigration { resource, spec, .. } => {
            let key_id = spec.key_id;
            let remote =
                spec.remote_key_id.as_ref().map(|id| format!(", remote key id {id}")).unwrap_or_default();
            ("EncryptionMigrationStarted", format!("{resource} is rewritten under key {key_id}{remote}"))
        }
        Action::RecordMigrated { resource, key } => {
            ("EncryptionMigrationFinished", format!("all {resource} are under key {}", key.id))
        }
        Action::DeleteRevision { revision, .. } => {
            ("EncryptionRevisionDeleted", format!("revision {revision} is not needed any more"))
        }
        Action::AbandonKey { key, reason } => (
            "EncryptionKeyAbandoned",
            format!("key {} is superseded before it wrote anything: {reason}", key.id),
        ),
        Action::ForgetMigrated { resource, key } => (
            "EncryptionClaimWithdrawn",
            format!("{resource} is about to be written in another way; key {} does not claim it", key.id),
        ),
        Action::RecordRotation { key, remote_key_id } => (
            "EncryptionRotationFollowed",
            format!("everything of key {} is stored under {remote_key_id}", key.id),
        ),
        Action::RetireKey { key_id, .. } => {
            ("EncryptionKeyRetired", format!("key {key_id} has left every configuration"))
        }
        Action::DeleteKey { key_id, .. } => ("EncryptionKeysPruned", format!("key {key_id} is unused")),
        Action::RequireConfigHash { candidate, config_hash } => (
            "EncryptionPreflightRequired",
            format!("key {} is tried first ({}), hash {config_hash}", candidate.key_id, candidate.purpose),
        ),
        // OpenShift's names for what the change means come with its own writer.
        Action::RecordHighWater { .. }
        | Action::ClearPreflight { .. }
        | Action::ApplyManagedConfig { .. } => return None,
    };
    Some(Announcement { reason: reason.to_owned(), action: action.kind(), note, warning: false })
}

/// What an action that failed is announced as. A lost precondition is not worth an Event.
pub(crate) fn of_failure(action: Option<&Action>, error: &Error) -> Option<Announcement> {
    if error.is_conflict() || matches!(error, Error::NotWriter) {
        return None;
    }
    let reason = match action {
        // CONTRACT 3.1, step 8.
        Some(Action::CreateKey { .. }) => "EncryptionKeyCreateFailed",
        _ => "EncryptionActionFailed",
    };
    Some(Announcement {
        reason: reason.to_owned(),
        action: action.map_or("Decide", Action::kind),
        note: error.to_string(),
        warning: true,
    })
}

/// Writes them.
pub(crate) async fn publish(
    cluster: &Cluster,
    instance: &str,
    about: &ClusterEncryption,
    announcements: &[Announcement],
) {
    for announcement in announcements {
        let event = event(announcement, instance, about, Timestamp::now());
        if let Err(error) = cluster.create(Some(NAMESPACE), &event).await {
            tracing::warn!(reason = announcement.reason, "an Event could not be written: {error}");
        }
    }
}

/// A note that the API takes. What is too long loses its middle: the first words say what happened, the last what to do.
fn fit(note: &str) -> String {
    const GAP: &str = " … ";
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    let half = (LONGEST_NOTE - GAP.len()) / 2;
    let end = note.ceil_char_boundary(note.len() - half);
    format!("{}{GAP}{}", cut(note, half), note.get(end..).unwrap_or_default())
}

fn event(said: &Announcement, instance: &str, about: &ClusterEncryption, now: Timestamp) -> Event {
    let note = fit(&said.note);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", names::CLUSTER, now.as_nanosecond())),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(format!("{}/{FIELD_MANAGER}", names::GROUP)),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        action: Some(said.action.to_owned()),
        reason: Some(cut(&said.reason, 128).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(ClusterEncryption::api_version(&()).into_owned()),
            kind: Some(ClusterEncryption::kind(&()).into_owned()),
            name: about.metadata.name.clone(),
            uid: about.metadata.uid.clone(),
            ..Default::default()
        }),
        note: Some(note),
        type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(message: &str) -> Notice {
        Notice::new(true, "KEKMismatch", message)
    }

    #[test]
    fn notice_is_said_when_it_begins_and_when_it_comes_back() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        let mut said = |held: &[Notice], at: Instant| notices.new_ones(held, at).len();
        assert_eq!(said(&[notice("a")], now), 1);
        assert_eq!(said(&[notice("a")], now), 0);
        assert_eq!(said(&[notice("b")], now), 1, "another message is news");
        assert_eq!(said(&[notice("a")], now), 1, "it had ceased to hold");
        assert_eq!(said(&[notice("a")], now + FORGOTTEN), 1, "the API server has forgotten it");
    }

    #[test]
    fn notice_about_the_same_in_other_words_is_no_news() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        let mut said =
            |message: &str, subject: &str| notices.new_ones(&[notice(message).about(subject)], now).len();
        assert_eq!(said("request 7f3a failed", "key 1 status"), 1);
        assert_eq!(said("request 81bc failed", "key 1 status"), 0);
        assert_eq!(said("request 81bc failed", "key 1 start"), 1);
    }

    #[test]
    fn a_note_that_is_too_long_keeps_its_first_and_its_last_words() {
        for filler in ["x", "é", "€"] {
            let note = format!("Writes fail. {} Next: unseal it.", filler.repeat(2000));
            let fitted = fit(&note);
            assert!(fitted.len() <= LONGEST_NOTE && fitted.len() > LONGEST_NOTE - 8, "{}", fitted.len());
            assert!(fitted.starts_with("Writes fail. ") && fitted.ends_with(" Next: unseal it."), "{fitted}");
        }
        assert_eq!(fit("short"), "short");
    }

    #[test]
    fn event_fits_the_api() {
        let said =
            Announcement {
                reason: "R".repeat(200), action: "Decide", note: "é".repeat(2000), warning: true
            };
        let about =
            ClusterEncryption::new(names::CLUSTER, keyward_core::api::ClusterEncryptionSpec::default());
        let event = event(&said, "host", &about, Timestamp::UNIX_EPOCH);
        assert!(event.note.unwrap().len() <= LONGEST_NOTE);
        assert_eq!(event.reason.unwrap().len(), 128);
        assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("ClusterEncryption"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
