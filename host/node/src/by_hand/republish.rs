//! Recreates the Secret of a revision from a node's disk.
//!
//! If a KEK is lost, the Secret of a revision and the key secret of a local key can become unreadable with
//! it. The disk of each node that has the revision stores the same bytes, including the local keys. The
//! command creates the Secret and changes nothing else: neither the disk, nor an existing object. It takes no
//! lock, so the agent can run.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyward_core::api::{ClusterEncryptionStatus, EncryptionNode};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, Revision};
use keyward_core::names;

use super::drive::blocking;
use crate::api::Connection;
use crate::disk::{StoredRevisions, stored_revisions};
use crate::error::AgentError;
use crate::paths::Paths;

/// At least this many numbers after the revision's are tried one by one, since the list of Secrets may be
/// unreadable.
const FOLLOWING: u64 = 8;
/// At most this many: a record may be damaged.
const MOST_FOLLOWING: u64 = 64;

/// The result for the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Republished {
    /// It was created.
    Created,
    /// The API server would create it.
    WouldCreate,
    /// It exists with the same data.
    Exists,
}

/// Creates the Secret of a stored revision: `asked`, or the one in force on this node. `say` gets the
/// findings, one line each. Returns the number of the revision.
///
/// # Guarantees
/// Create-only. Nothing is created for a number for which the cluster records another configuration, nor if a
/// newer revision can be read.
///
/// # Errors
/// The revision is not stored here or cannot be understood; the cluster contradicts it; its Secret exists
/// with other data, or exists and cannot be read; or the API server does not respond, or does not store it.
pub async fn republish(
    paths: &Paths,
    connection: &Connection,
    asked: Option<Revision>,
    dry_run: bool,
    say: impl Fn(&str),
) -> Result<(Revision, Republished), AgentError> {
    let refused = |why: String| AgentError::NotRepublished { why };
    let (folder, disk) = (paths.revisions(), paths.clone());
    let stored = blocking("reading the stored revisions", move || stored_revisions(&disk)).await?;
    if stored.revisions.is_empty() {
        return Err(refused(format!(
            "no revision is stored in {}; run this command on a control-plane node whose disk has it",
            folder.display()
        )));
    }
    let Choice { revision, content, reason } = choose(&stored, asked).map_err(refused)?;
    let (name, hash) = (names::revision_secret(revision), content.hash());
    say(&format!("revision {revision} ({hash}) {reason}"));
    for (resource, providers) in content.config.lists() {
        say(&format!("  {resource}: {}", providers.join(", ")));
    }

    let found = secret_state(connection, &name, &content).await?;
    match found {
        SecretState::Same => return Ok((revision, Republished::Exists)),
        SecretState::Other => return Err(refused(other(&name))),
        SecretState::Missing | SecretState::Unreadable(_) => {}
    }
    let recorded = recorded(connection, &say).await?;
    if let Some(why) = contradiction(revision, &hash, &recorded) {
        return Err(refused(why));
    }
    let is_known = [&stored.file, &stored.loaded].into_iter().flatten().any(|known| *known == hash);
    if !is_known && recorded.hashes(revision).is_empty() {
        say(&format!("note: only the stored file shows which configuration revision {revision} has"));
    }
    no_newer_is_readable(connection, revision, &recorded, &say).await?;

    if let (SecretState::Unreadable(why), true) = (&found, dry_run) {
        return Err(refused(unreadable("cannot be read", &name, why)));
    }
    let outcome = match connection.create_secret(&content.secret(revision), dry_run).await {
        Ok(()) if dry_run => Ok(Republished::WouldCreate),
        Ok(()) => Ok(Republished::Created),
        Err(error) if error.is_conflict() => match secret_state(connection, &name, &content).await? {
            SecretState::Same => Ok(Republished::Exists),
            SecretState::Other => Err(refused(other(&name))),
            SecretState::Unreadable(why) => {
                Err(refused(unreadable("exists and cannot be read", &name, &why)))
            }
            SecretState::Missing => Err(error),
        },
        Err(error) if error.is_unreadable() => {
            Err(refused(format!("{error}; first make sure that the API server can store Secrets")))
        }
        Err(error) => Err(error),
    }?;
    Ok((revision, outcome))
}

/// The state of a Secret in the API.
enum SecretState {
    Missing,
    Same,
    Other,
    /// The API server's error.
    Unreadable(String),
}

async fn secret_state(
    connection: &Connection,
    name: &str,
    content: &RevisionContent,
) -> Result<SecretState, AgentError> {
    match connection.secret(name).await {
        Ok(data) if data == content.encode() => Ok(SecretState::Same),
        Ok(_) => Ok(SecretState::Other),
        Err(error) if error.is_not_found() => Ok(SecretState::Missing),
        Err(error) if error.is_unreadable() => Ok(SecretState::Unreadable(error.to_string())),
        Err(error) => Err(error),
    }
}

fn other(name: &str) -> String {
    format!(
        "secret {name:?} in {} exists with other data than this node stores; it was not changed",
        names::NAMESPACE
    )
}

fn unreadable(finding: &str, name: &str, why: &str) -> String {
    format!(
        "secret {name:?} in {} {finding} ({why}); if its KEK is gone for good, delete its value from etcd ({}), then run this command again",
        names::NAMESPACE,
        etcd_delete(name)
    )
}

fn etcd_delete(name: &str) -> String {
    format!("etcdctl del /registry/secrets/{}/{name}", names::NAMESPACE)
}

/// A stored revision, and why it was chosen.
#[derive(Debug)]
struct Choice {
    revision: Revision,
    content: Arc<RevisionContent>,
    reason: &'static str,
}

/// The requested revision, else the one in force: the newest with the hash of the configuration file, else
/// with the last observed loaded hash, else the one that was in force before the file was edited.
fn choose(stored: &StoredRevisions, asked: Option<Revision>) -> Result<Choice, String> {
    let numbers = || {
        let all: Vec<String> = stored.revisions.keys().map(ToString::to_string).collect();
        all.join(", ")
    };
    let taken = |revision: Revision, reason: &'static str| match stored.revisions.get(&revision) {
        Some(Ok(content)) => Ok(Choice { revision, content: Arc::clone(content), reason }),
        Some(Err(why)) => Err(format!(
            "the stored revision {revision} cannot be understood ({why}); run this command on another node"
        )),
        None => {
            Err(format!("revision {revision} is not stored on this node; this node stores {}", numbers()))
        }
    };
    if let Some(revision) = asked {
        return taken(revision, "is stored on this node");
    }
    let newest_with = |hash: &ConfigHash| {
        let mut stored = stored.revisions.iter().rev();
        stored
            .find(|(_, content)| content.as_ref().is_ok_and(|content| content.hash() == *hash))
            .map(|(revision, _)| *revision)
    };
    let by_file =
        stored.file.as_ref().and_then(newest_with).map(|n| (n, "is in the configuration file of this node"));
    let by_record = || {
        let loaded = stored.loaded.as_ref().and_then(newest_with)?;
        Some((loaded, "is the last one that the API server of this node reported as loaded"))
    };
    let before = || Some((stored.drift?, "was in force before the configuration file was edited manually"));
    let Some((revision, reason)) = by_file.or_else(by_record).or_else(before) else {
        return Err(format!(
            "neither the configuration file of this node nor what its API server last loaded belongs to a stored revision; choose one with --revision: this node stores {}",
            numbers()
        ));
    };
    // It may be the one in force: two revisions can have the same configuration and differ in the plugins'
    // data.
    let newer = stored.revisions.iter().find(|(number, content)| **number > revision && content.is_err());
    if let Some((number, Err(why))) = newer {
        return Err(format!(
            "the stored revision {number} cannot be understood ({why}) and may be the one in force; run this command on another node, or choose a revision with --revision: this node stores {}",
            numbers()
        ));
    }
    taken(revision, reason)
}

/// The cluster's records of revisions. An object that cannot be read is empty here.
#[derive(Debug, Default)]
struct Recorded {
    status: ClusterEncryptionStatus,
    nodes: Vec<EncryptionNode>,
}

impl Recorded {
    /// Each recorded configuration of a revision, and the object with the record.
    fn hashes(&self, revision: Revision) -> Vec<(String, &ConfigHash)> {
        let all =
            self.status.revisions.iter().map(|one| {
                (format!("ClusterEncryption {:?}", names::CLUSTER), one.n, Some(&one.config_hash))
            });
        let nodes = self.nodes.iter().flat_map(|node| {
            let who = format!("EncryptionNode {:?}", node.metadata.name.as_deref().unwrap_or_default());
            let status = node.status.as_ref().map(|status| (status.revision, status.loaded_hash.as_ref()));
            let spec = (node.spec.revision, node.spec.config_hash.as_ref());
            std::iter::once(spec).chain(status).map(move |(n, hash)| (who.clone(), n, hash))
        });
        all.chain(nodes)
            .filter(|(_, n, _)| *n == revision)
            .filter_map(|(who, _, hash)| Some((who, hash?)))
            .collect()
    }

    /// All revisions that an object names.
    fn revisions(&self) -> BTreeSet<Revision> {
        let nodes = self.nodes.iter().flat_map(|node| {
            std::iter::once(node.spec.revision).chain(node.status.as_ref().map(|status| status.revision))
        });
        self.status.revisions.iter().map(|one| one.n).chain(nodes).collect()
    }
}

/// Reads the records. An object that cannot be read is reported, and the rest is compared: it may be under
/// the lost KEK too.
async fn recorded(connection: &Connection, say: &impl Fn(&str)) -> Result<Recorded, AgentError> {
    let status = match connection.cluster().await {
        Ok(found) => found.and_then(|cluster| cluster.status),
        Err(error) if error.is_answer() => {
            say(&format!("note: {error}; the revision is not compared with the status"));
            None
        }
        Err(error) => return Err(error),
    };
    let nodes = match connection.all_nodes().await {
        Ok(nodes) => nodes,
        Err(error) if error.is_answer() => {
            say(&format!("note: {error}; the revision is not compared with the nodes' reports"));
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    Ok(Recorded { status: status.unwrap_or_default(), nodes })
}

/// One number names one configuration (invariant: one-revision-one-configuration): a node that has another
/// configuration with this number would use this Secret.
fn contradiction(revision: Revision, hash: &ConfigHash, recorded: &Recorded) -> Option<String> {
    let (who, other) = recorded.hashes(revision).into_iter().find(|(_, other)| *other != hash)?;
    Some(format!(
        "{who} records the configuration {other} for revision {revision}, but this node stores {hash}; run this command on a node that stores the recorded one"
    ))
}

/// The numbers of newer revisions that may exist.
fn newer(revision: Revision, recorded: &Recorded, listed: &[String]) -> BTreeSet<Revision> {
    let highest = recorded.status.highest_revision.0.max(revision.0.saturating_add(FOLLOWING));
    let last = highest.min(revision.0.saturating_add(MOST_FOLLOWING));
    let following = (revision.0..=last).map(Revision);
    let listed = listed.iter().filter_map(|name| names::parse_revision_secret(name));
    let all = following.chain(listed).chain(recorded.revisions());
    all.filter(|number| *number > revision).collect()
}

/// The operator continues from the newest revision, so an older one is not needed if a newer one can be read.
async fn no_newer_is_readable(
    connection: &Connection,
    revision: Revision,
    recorded: &Recorded,
    say: &impl Fn(&str),
) -> Result<(), AgentError> {
    // One unreadable Secret fails the whole list (kubernetes: one-unreadable-object-fails-the-list).
    let listed = match connection.revision_names().await {
        Ok(names) => names,
        Err(error) if error.is_answer() => Vec::new(),
        Err(error) => return Err(error),
    };
    for number in newer(revision, recorded, &listed) {
        let name = names::revision_secret(number);
        match connection.has_secret(&name).await {
            Ok(true) => {
                let why = format!(
                    "secret {name:?} in {} exists, can be read and is newer than revision {revision}: the operator continues from it; if {:?} exists and cannot be read, delete its value from etcd ({})",
                    names::NAMESPACE,
                    names::revision_secret(revision),
                    etcd_delete(&names::revision_secret(revision))
                );
                return Err(AgentError::NotRepublished { why });
            }
            Ok(false) if recorded.revisions().contains(&number) => say(&format!(
                "note: revision {number} is recorded in the cluster, and its Secret is missing too; republish it from a node that stores it"
            )),
            Ok(false) => {}
            Err(error) if error.is_unreadable() => say(&format!(
                "note: secret {name:?} in {} is newer and cannot be read, so the operator waits; if its KEK is gone for good, delete its value from etcd ({})",
                names::NAMESPACE,
                etcd_delete(&name)
            )),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyward_core::api::{EncryptionNodeSpec, EncryptionNodeStatus, RevisionStatus};
    use keyward_core::formats::encryption_config::EncryptionConfiguration;
    use rstest::rstest;

    use super::*;

    /// A configuration whose write key has this name.
    fn content(digit: u8) -> Arc<RevisionContent> {
        let text = format!(
            r#"{{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{{"resources":["secrets"],"providers":[{{"aescbc":{{"keys":[{{"name":"{digit}","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}]}}}},{{"identity":{{}}}}]}}]}}"#
        );
        let config = EncryptionConfiguration::decode(text.as_bytes()).unwrap();
        Arc::new(RevisionContent::new(config, BTreeMap::new()))
    }

    fn hash(digit: u8) -> ConfigHash {
        content(digit).hash()
    }

    /// Revision 1 has configuration 1. Revisions 2 and 3 have configuration 2, as after an update of a
    /// credential.
    fn stored() -> StoredRevisions {
        let revisions =
            [(1, 1), (2, 2), (3, 2)].map(|(number, digit)| (Revision(number), Ok(content(digit))));
        StoredRevisions { revisions: revisions.into(), ..Default::default() }
    }

    fn choice(stored: &StoredRevisions, asked: Option<u64>) -> Result<u64, String> {
        choose(stored, asked.map(Revision)).map(|choice| choice.revision.0)
    }

    #[rstest]
    #[case::installed(Some(hash(1)), Some(hash(2)), None, 1)]
    #[case::the_newest_of_one_configuration(Some(hash(2)), Some(hash(1)), None, 3)]
    #[case::the_file_is_gone(None, Some(hash(1)), None, 1)]
    #[case::the_file_was_edited(Some(hash(7)), Some(hash(1)), None, 1)]
    #[case::the_edited_file_is_loaded(Some(hash(7)), Some(hash(7)), Some(2), 2)]
    fn the_revision_in_force_is_the_default(
        #[case] file: Option<ConfigHash>,
        #[case] loaded: Option<ConfigHash>,
        #[case] drift: Option<u64>,
        #[case] expected: u64,
    ) {
        let stored = StoredRevisions { file, loaded, drift: drift.map(Revision), ..stored() };
        assert_eq!(choice(&stored, None), Ok(expected));
    }

    #[test]
    fn another_stored_revision_can_be_chosen() {
        let stored = StoredRevisions { file: Some(hash(1)), ..stored() };
        assert_eq!(choice(&stored, Some(2)), Ok(2));
        let error = choice(&stored, Some(4)).unwrap_err();
        assert!(error.contains("revision 4 is not stored on this node; this node stores 1, 2, 3"), "{error}");
    }

    #[rstest]
    #[case::nothing_is_recorded(None, None)]
    #[case::of_no_stored_revision(Some(hash(7)), Some(hash(8)))]
    fn without_a_revision_in_force_one_must_be_chosen(
        #[case] file: Option<ConfigHash>,
        #[case] loaded: Option<ConfigHash>,
    ) {
        let stored = StoredRevisions { file, loaded, ..stored() };
        let error = choice(&stored, None).unwrap_err();
        assert!(error.contains("--revision: this node stores 1, 2, 3"), "{error}");
    }

    #[test]
    fn a_revision_that_cannot_be_understood_is_not_chosen() {
        let mut stored = StoredRevisions { file: Some(hash(2)), ..stored() };
        stored.revisions.insert(Revision(4), Err("line 1 column 2".to_owned()));
        let error = choice(&stored, Some(4)).unwrap_err();
        assert!(error.contains("cannot be understood (line 1 column 2)"), "{error}");
        let error = choice(&stored, None).unwrap_err();
        assert!(error.contains("may be the one in force"), "{error}");
        assert_eq!(choice(&stored, Some(3)), Ok(3));
        // An older one does not matter for the revision in force.
        stored.revisions.remove(&Revision(4));
        stored.revisions.insert(Revision(1), Err("line 1 column 2".to_owned()));
        assert_eq!(choice(&stored, None), Ok(3));
    }

    fn status(n: u64, digit: u8) -> Recorded {
        let one = RevisionStatus { n: Revision(n), config_hash: hash(digit), lists: BTreeMap::new() };
        let status = ClusterEncryptionStatus { revisions: vec![one], ..Default::default() };
        Recorded { status, nodes: Vec::new() }
    }

    fn node(given: (u64, u8), has: (u64, u8)) -> Recorded {
        let spec = EncryptionNodeSpec {
            revision: Revision(given.0),
            config_hash: Some(hash(given.1)),
            ..Default::default()
        };
        let mut node = EncryptionNode::new("cp-1", spec);
        node.status = Some(EncryptionNodeStatus {
            revision: Revision(has.0),
            loaded_hash: Some(hash(has.1)),
            ..Default::default()
        });
        Recorded { nodes: vec![node], ..Default::default() }
    }

    #[rstest]
    #[case::nothing_recorded(Recorded::default(), None)]
    #[case::recorded(status(2, 2), None)]
    #[case::recorded_with_another(status(2, 1), Some("ClusterEncryption \"cluster\""))]
    #[case::another_revision(status(1, 1), None)]
    #[case::nodes_agree(node((2, 2), (2, 2)), None)]
    #[case::node_was_given_another(node((2, 1), (1, 1)), Some("EncryptionNode \"cp-1\""))]
    #[case::node_has_another(node((3, 3), (2, 1)), Some("EncryptionNode \"cp-1\""))]
    fn a_number_that_is_recorded_with_another_configuration_is_refused(
        #[case] recorded: Recorded,
        #[case] expected: Option<&str>,
    ) {
        let refusal = contradiction(Revision(2), &hash(2), &recorded);
        match (&refusal, expected) {
            (Some(why), Some(expected)) => {
                assert!(
                    why.starts_with(expected) && why.contains(&hash(1).0) && why.contains(&hash(2).0),
                    "{why}"
                );
            }
            (None, None) => {}
            _ => panic!("{refusal:?}"),
        }
    }

    #[test]
    fn every_newer_number_that_an_object_names_is_checked() {
        let numbers = |recorded: &Recorded, listed: &[&str]| -> BTreeSet<u64> {
            let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
            newer(Revision(2), recorded, &listed).into_iter().map(|revision| revision.0).collect()
        };
        let following: BTreeSet<u64> = (3..=10).collect();
        assert_eq!(numbers(&Recorded::default(), &["encryption-config-1", "encryption-config-2"]), following);
        assert!(numbers(&Recorded::default(), &["encryption-config-90"]).contains(&90));
        assert!(numbers(&status(70, 1), &[]).contains(&70));
        let by_node = numbers(&node((71, 1), (72, 1)), &[]);
        assert!(by_node.contains(&71) && by_node.contains(&72));
        let mut marked = Recorded::default();
        marked.status.highest_revision = Revision(12);
        assert_eq!(numbers(&marked, &[]), (3..=12).collect());
        marked.status.highest_revision = Revision(u64::MAX);
        assert_eq!(numbers(&marked, &[]).len(), 64);
    }

    #[test]
    fn the_remedy_names_the_key_in_etcd() {
        let why = unreadable(
            "exists and cannot be read",
            "encryption-config-2",
            "get Secret encryption-config-2: no matching prefix found (500)",
        );
        assert!(
            why.contains("secret \"encryption-config-2\" in keyward-system exists and cannot be read"),
            "{why}"
        );
        assert!(why.contains("(etcdctl del /registry/secrets/keyward-system/encryption-config-2)"), "{why}");
    }
}
