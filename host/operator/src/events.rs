//! Events on `ClusterEncryption/cluster`, `events.k8s.io/v1`.
//!
//! kube's recorder is not used: it folds Events of one reason into a series and keeps the note of the first one, so
//! key 3 would be announced as key 2. Instead, repetitions are suppressed (objects: events): a notice is written when
//! it begins to hold, and again only after it ceased, or after an hour, when the API server has deleted the Event
//! (kubernetes: events-are-kept-for-an-hour). An Event that cannot be written is logged; nothing depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube_core::Resource as _;

use keyward_core::api::ClusterEncryption;
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_core::outcome::{Action, Notice};

use crate::cluster::{Cluster, FIELD_MANAGER, cut};
use crate::error::Error;

/// The API's limit of a note, in bytes.
const LONGEST_NOTE: usize = 1024;
/// How long an API server keeps an Event.
const EVENT_TTL: Duration = Duration::from_hours(1);
/// The namespace of Events about objects without a namespace.
const NAMESPACE: &str = "default";

/// One Event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// CamelCase, bounded.
    pub(crate) reason: String,
    /// The Event's `action`, in one word.
    pub(crate) action: &'static str,
    /// For people.
    pub(crate) note: String,
    pub(crate) warning: bool,
}

/// Remembers which notices hold, by reason and subject.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    announced: BTreeMap<(String, String), Instant>,
}

impl Notices {
    /// The notices that are new, as Events.
    pub(crate) fn new_ones(&mut self, notices: &[Notice], now: Instant) -> Vec<Announcement> {
        let key = |notice: &Notice| (notice.reason.clone(), notice.subject.clone());
        let holding: BTreeSet<(String, String)> = notices.iter().map(key).collect();
        self.announced.retain(|notice, at| holding.contains(notice) && now.duration_since(*at) < EVENT_TTL);
        let mut new = Vec::new();
        for notice in notices {
            if self.announced.insert(key(notice), now).is_none() {
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

/// The Event of an action that was carried out. Where OpenShift's controllers have a reason for it, the reason is
/// theirs (openshift: create-key-secret, openshift: state-events, openshift: keep-ten-unused-keys).
pub(crate) fn of_action(action: &Action) -> Option<Announcement> {
    let (reason, note) = match action {
        Action::CreateKey { key } => {
            ("EncryptionKeyCreated", format!("created {} key {}: {}", key.mode, key.id, key.internal_reason))
        }
        Action::UpdateKey { key, fields } => {
            ("EncryptionKeyUpdated", format!("key {} was updated in place: {}", key.id, fields.join(", ")))
        }
        Action::SyncData { key, objects } => (
            "EncryptionKeyDataSynced",
            format!("key {} was updated with new data from {}", key.id, objects.join(", ")),
        ),
        Action::RecordPublication { key, revision, again } => {
            let again = match again.len() {
                0 => String::new(),
                _ => format!("; resources that are re-encrypted under it again: {}", again.len()),
            };
            (
                "EncryptionKeyPromoted",
                format!("key {} becomes the write key with revision {revision}{again}", key.id),
            )
        }
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
                format!("re-encrypted Keyward's own objects; keys that leave the configuration: {keys}"),
            )
        }
        Action::SetTarget { node, what, .. } => ("EncryptionTargetSet", format!("node {node}: {what}")),
        Action::RequirePreflight { candidate, .. } => (
            "EncryptionPreflightRequired",
            format!("preflight of key {} started ({})", candidate.key_id, candidate.purpose),
        ),
        Action::StartMigration { resource, spec, .. } => {
            let key_id = spec.key_id;
            let remote =
                spec.remote_key_id.as_ref().map(|id| format!(", remote key id {id}")).unwrap_or_default();
            let note = if key_id == KeyId(0) {
                format!("decryption of {resource} started")
            } else {
                format!("re-encryption of {resource} under key {key_id}{remote} started")
            };
            ("EncryptionMigrationStarted", note)
        }
        Action::RecordMigrated { resource, key } => {
            ("EncryptionMigrationFinished", format!("all {resource} are stored under key {}", key.id))
        }
        Action::DeleteRevision { revision, .. } => {
            ("EncryptionRevisionDeleted", format!("deleted revision {revision}, which is no longer needed"))
        }
        Action::AbandonKey { key, reason } => (
            "EncryptionKeyAbandoned",
            format!("key {} is abandoned before it became the write key: {reason}", key.id),
        ),
        Action::ForgetMigrated { resource, key } => (
            "EncryptionMigrationReset",
            format!(
                "removed the record that {resource} is migrated to key {}: it is about to be written in plain text",
                key.id
            ),
        ),
        Action::RecordRotation { key, remote_key_id } => (
            "EncryptionRotationFollowed",
            format!("all objects of key {} are stored under remote key id {remote_key_id}", key.id),
        ),
        Action::RetireKey { key_id, .. } => {
            ("EncryptionKeyRetired", format!("key {key_id} is retired: no configuration contains it"))
        }
        Action::DeleteKey { key_id, .. } => {
            ("EncryptionKeysPruned", format!("deleted the unused key {key_id}"))
        }
        Action::RequireConfigHash { candidate, config_hash } => (
            "EncryptionPreflightRequired",
            format!(
                "preflight of key {} started ({}), hash {config_hash}",
                candidate.key_id, candidate.purpose
            ),
        ),
        // OpenShift's Events for these belong to a writer for OpenShift (openshift: state-events).
        Action::RecordHighWater { .. }
        | Action::ClearPreflight { .. }
        | Action::ApplyManagedConfig { .. } => return None,
    };
    Some(Announcement { reason: reason.to_owned(), action: action.kind(), note, warning: false })
}

/// The Event of an action that failed. A write conflict is not worth an Event.
pub(crate) fn of_failure(action: Option<&Action>, error: &Error) -> Option<Announcement> {
    if error.is_conflict() || matches!(error, Error::NotWriter) {
        return None;
    }
    let reason = match action {
        // The reason of OpenShift's controllers (openshift: create-key-secret).
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

/// Writes the Events.
pub(crate) async fn publish(
    cluster: &Cluster,
    instance: &str,
    about: &ClusterEncryption,
    announcements: &[Announcement],
) {
    for announcement in announcements {
        let event = event(announcement, instance, about, Timestamp::now());
        if let Err(error) = cluster.create(Some(NAMESPACE), &event).await {
            tracing::warn!(reason = announcement.reason, "cannot write an Event: {error}");
        }
    }
}

/// A note that the API accepts. A longer note loses its middle: it begins with what happened and ends with what to do.
fn fit(note: &str) -> String {
    const GAP: &str = " … ";
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    let half = (LONGEST_NOTE - GAP.len()) / 2;
    let end = note.ceil_char_boundary(note.len() - half);
    format!("{}{GAP}{}", cut(note, half), note.get(end..).unwrap_or_default())
}

fn event(announcement: &Announcement, instance: &str, about: &ClusterEncryption, now: Timestamp) -> Event {
    let note = fit(&announcement.note);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", names::CLUSTER, now.as_nanosecond())),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(format!("{}/{FIELD_MANAGER}", names::GROUP)),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        action: Some(announcement.action.to_owned()),
        reason: Some(cut(&announcement.reason, 128).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(ClusterEncryption::api_version(&()).into_owned()),
            kind: Some(ClusterEncryption::kind(&()).into_owned()),
            name: about.metadata.name.clone(),
            uid: about.metadata.uid.clone(),
            ..Default::default()
        }),
        note: Some(note),
        type_: Some(if announcement.warning { "Warning" } else { "Normal" }.to_owned()),
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
    fn notice_is_announced_when_it_begins_and_when_it_returns() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        let mut new = |holding: &[Notice], at: Instant| notices.new_ones(holding, at).len();
        assert_eq!(new(&[notice("a")], now), 1);
        assert_eq!(new(&[notice("a")], now), 0);
        assert_eq!(new(&[notice("b")], now), 1, "another message is another notice");
        assert_eq!(new(&[notice("a")], now), 1, "it had ceased");
        assert_eq!(new(&[notice("a")], now + EVENT_TTL), 1, "the API server has deleted the Event");
    }

    #[test]
    fn notice_about_the_same_subject_with_another_message_is_not_new() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        let mut new =
            |message: &str, subject: &str| notices.new_ones(&[notice(message).about(subject)], now).len();
        assert_eq!(new("request 7f3a failed", "key 1 status"), 1);
        assert_eq!(new("request 81bc failed", "key 1 status"), 0);
        assert_eq!(new("request 81bc failed", "key 1 start"), 1);
    }

    #[test]
    fn note_that_is_too_long_keeps_its_beginning_and_its_end() {
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
        let announcement =
            Announcement {
                reason: "R".repeat(200), action: "Decide", note: "é".repeat(2000), warning: true
            };
        let about =
            ClusterEncryption::new(names::CLUSTER, keyward_core::api::ClusterEncryptionSpec::default());
        let event = event(&announcement, "host", &about, Timestamp::UNIX_EPOCH);
        assert!(event.note.unwrap().len() <= LONGEST_NOTE);
        assert_eq!(event.reason.unwrap().len(), 128);
        assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("ClusterEncryption"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
