//! The Secret of a revision, created again from a node's disk.
//!
//! A KEK may be lost with the Secret that holds a revision, and with the key secret of a local key. The disk of each node
//! that has the revision keeps the same bytes, the local keys among them. The command creates the Secret and changes nothing
//! else: neither the disk, nor an object that exists. It takes no lock, so that the agent may run.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyward_core::api::{ClusterEncryptionStatus, EncryptionNode};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, Revision};
use keyward_core::names;

use super::drive::blocking;
use crate::api::Connection;
use crate::disk::{KeptRevisions, kept_revisions};
use crate::error::AgentError;
use crate::paths::Paths;

/// Where the list of Secrets cannot be read, at least so many numbers after the revision's are tried one by one.
const FOLLOWING: u64 = 8;
/// And no more than so many: a record may be damaged.
const MOST_FOLLOWING: u64 = 64;

/// What became of the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Republished {
    /// It was created.
    Created,
    /// The API server would create it.
    WouldCreate,
    /// It exists with the same data.
    Exists,
}

/// Creates the Secret of a kept revision: `asked`, or the one in force on this node. `say` gets what was found out first,
/// a line each.
/// Answers which revision it is.
///
/// # Guarantees
/// Create-only. Nothing is created for a number for which the cluster records another configuration, nor beside a newer
/// revision that can be read.
///
/// # Errors
/// The revision is not kept here or is not understood; the cluster contradicts it; its Secret exists with other data, or
/// exists and cannot be read; or the API server does not answer, or does not store it.
pub async fn republish(
    paths: &Paths,
    connection: &Connection,
    asked: Option<Revision>,
    dry_run: bool,
    say: impl Fn(&str),
) -> Result<(Revision, Republished), AgentError> {
    let refused = |why: String| AgentError::NotRepublished { why };
    let (folder, disk) = (paths.revisions(), paths.clone());
    let kept = blocking("reading the kept revisions", move || kept_revisions(&disk)).await?;
    if kept.revisions.is_empty() {
        return Err(refused(format!(
            "no revision is kept in {}; run this command on a control-plane node whose disk has it",
            folder.display()
        )));
    }
    let Choice { revision, content, reason } = choose(&kept, asked).map_err(refused)?;
    let (name, hash) = (names::revision_secret(revision), content.hash());
    say(&format!("revision {revision} ({hash}) {reason}"));
    for (resource, providers) in content.config.lists() {
        say(&format!("  {resource}: {}", providers.join(", ")));
    }

    let found = stored(connection, &name, &content).await?;
    match found {
        Stored::Same => return Ok((revision, Republished::Exists)),
        Stored::Other => return Err(refused(other(&name))),
        Stored::Missing | Stored::Unreadable(_) => {}
    }
    let recorded = recorded(connection, &say).await?;
    if let Some(why) = contradiction(revision, &hash, &recorded) {
        return Err(refused(why));
    }
    let is_known = [&kept.file, &kept.loaded].into_iter().flatten().any(|known| *known == hash);
    if !is_known && recorded.hashes(revision).is_empty() {
        say(&format!("note: nothing but the kept file shows which configuration revision {revision} has"));
    }
    no_newer_is_readable(connection, revision, &recorded, &say).await?;

    if let (Stored::Unreadable(why), true) = (&found, dry_run) {
        return Err(refused(unreadable("cannot be read", &name, why)));
    }
    let outcome = match connection.create_secret(&content.secret(revision), dry_run).await {
        Ok(()) if dry_run => Ok(Republished::WouldCreate),
        Ok(()) => Ok(Republished::Created),
        Err(error) if error.is_conflict() => match stored(connection, &name, &content).await? {
            Stored::Same => Ok(Republished::Exists),
            Stored::Other => Err(refused(other(&name))),
            Stored::Unreadable(why) => Err(refused(unreadable("exists and cannot be read", &name, &why))),
            Stored::Missing => Err(error),
        },
        Err(error) if error.is_unreadable() => {
            Err(refused(format!("{error}; the API server has to be able to store Secrets first")))
        }
        Err(error) => Err(error),
    }?;
    Ok((revision, outcome))
}

/// A Secret as the API server answers for it.
enum Stored {
    Missing,
    Same,
    Other,
    /// In the API server's words.
    Unreadable(String),
}

async fn stored(
    connection: &Connection,
    name: &str,
    content: &RevisionContent,
) -> Result<Stored, AgentError> {
    match connection.secret(name).await {
        Ok(data) if data == content.encode() => Ok(Stored::Same),
        Ok(_) => Ok(Stored::Other),
        Err(error) if error.is_not_found() => Ok(Stored::Missing),
        Err(error) if error.is_unreadable() => Ok(Stored::Unreadable(error.to_string())),
        Err(error) => Err(error),
    }
}

fn other(name: &str) -> String {
    format!(
        "secret {name:?} in {} exists with other data than this node keeps, and is left as it is",
        names::NAMESPACE
    )
}

fn unreadable(finding: &str, name: &str, why: &str) -> String {
    format!(
        "secret {name:?} in {} {finding} ({why}); where its KEK is gone for good, delete its value from etcd ({}), then run this command again",
        names::NAMESPACE,
        etcd_delete(name)
    )
}

fn etcd_delete(name: &str) -> String {
    format!("etcdctl del /registry/secrets/{}/{name}", names::NAMESPACE)
}

/// A revision of this disk, and why it is this one.
#[derive(Debug)]
struct Choice {
    revision: Revision,
    content: Arc<RevisionContent>,
    reason: &'static str,
}

/// The revision that was asked for, else the one in force: the newest that has the hash of the configuration file, or
/// the hash that was last seen loaded, or that was in force before somebody edited the file.
fn choose(kept: &KeptRevisions, asked: Option<Revision>) -> Result<Choice, String> {
    let numbers = || {
        let all: Vec<String> = kept.revisions.keys().map(ToString::to_string).collect();
        all.join(", ")
    };
    let taken = |revision: Revision, reason: &'static str| match kept.revisions.get(&revision) {
        Some(Ok(content)) => Ok(Choice { revision, content: Arc::clone(content), reason }),
        Some(Err(why)) => Err(format!(
            "the kept revision {revision} cannot be understood ({why}); run this command on another node"
        )),
        None => Err(format!("revision {revision} is not kept on this node; it keeps {}", numbers())),
    };
    if let Some(revision) = asked {
        return taken(revision, "is kept on this node");
    }
    let newest_with = |hash: &ConfigHash| {
        let mut kept = kept.revisions.iter().rev();
        kept.find(|(_, content)| content.as_ref().is_ok_and(|content| content.hash() == *hash))
            .map(|(revision, _)| *revision)
    };
    let by_file =
        kept.file.as_ref().and_then(newest_with).map(|n| (n, "is in the configuration file of this node"));
    let by_record = || {
        let loaded = kept.loaded.as_ref().and_then(newest_with)?;
        Some((loaded, "is the last that the API server of this node was seen to have loaded"))
    };
    let before = || Some((kept.drift?, "was in force before the configuration file was edited by hand"));
    let Some((revision, reason)) = by_file.or_else(by_record).or_else(before) else {
        return Err(format!(
            "the configuration file of this node is of no revision that is kept here, and neither is what its API server was last seen to have loaded; name a revision by --revision: this node keeps {}",
            numbers()
        ));
    };
    // It may be the one in force: two revisions may have one configuration, and differ in the plugins' data.
    let newer = kept.revisions.iter().find(|(number, content)| **number > revision && content.is_err());
    if let Some((number, Err(why))) = newer {
        return Err(format!(
            "the kept revision {number} cannot be understood ({why}), and may be the one in force; run this command on another node, or name a revision by --revision: this node keeps {}",
            numbers()
        ));
    }
    taken(revision, reason)
}

/// What the cluster records of revisions. What cannot be read is empty.
#[derive(Debug, Default)]
struct Recorded {
    status: ClusterEncryptionStatus,
    nodes: Vec<EncryptionNode>,
}

impl Recorded {
    /// Each record of the configuration of a revision, and who has it.
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

    /// The revisions that were made, as far as anything names them.
    fn revisions(&self) -> BTreeSet<Revision> {
        let nodes = self.nodes.iter().flat_map(|node| {
            std::iter::once(node.spec.revision).chain(node.status.as_ref().map(|status| status.revision))
        });
        self.status.revisions.iter().map(|one| one.n).chain(nodes).collect()
    }
}

/// An object that cannot be read is named, and the rest is compared: the KEK that is lost may be the key of both.
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
            say(&format!("note: {error}; the revision is not compared with what nodes report"));
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    Ok(Recorded { status: status.unwrap_or_default(), nodes })
}

/// One number names one configuration: a node that has another by it would take this one for its own.
fn contradiction(revision: Revision, hash: &ConfigHash, recorded: &Recorded) -> Option<String> {
    let (who, other) = recorded.hashes(revision).into_iter().find(|(_, other)| *other != hash)?;
    Some(format!(
        "{who} records the configuration {other} for revision {revision}, and this node keeps {hash}; run this command on a node that keeps the recorded one"
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

/// The operator continues from the newest revision. So an older one is of no use where a newer one can be read.
async fn no_newer_is_readable(
    connection: &Connection,
    revision: Revision,
    recorded: &Recorded,
    say: &impl Fn(&str),
) -> Result<(), AgentError> {
    // One object that cannot be read fails the whole list.
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
                    "secret {name:?} in {} exists, can be read and is newer than revision {revision}, so that the operator continues from it; where {:?} exists and cannot be read, delete its value from etcd ({})",
                    names::NAMESPACE,
                    names::revision_secret(revision),
                    etcd_delete(&names::revision_secret(revision))
                );
                return Err(AgentError::NotRepublished { why });
            }
            Ok(false) if recorded.revisions().contains(&number) => say(&format!(
                "note: revision {number} is recorded in the cluster, and its Secret is missing too; republish it from a node that keeps it"
            )),
            Ok(false) => {}
            Err(error) if error.is_unreadable() => say(&format!(
                "note: secret {name:?} in {} is newer and cannot be read, so that the operator waits; where its KEK is gone for good, delete its value from etcd ({})",
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

    /// A configuration whose writer's key begins with this digit.
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

    /// Revision 1 has configuration 1, 2 and 3 have configuration 2, as after an update of a credential.
    fn kept() -> KeptRevisions {
        let revisions =
            [(1, 1), (2, 2), (3, 2)].map(|(number, digit)| (Revision(number), Ok(content(digit))));
        KeptRevisions { revisions: revisions.into(), ..Default::default() }
    }

    fn choice(kept: &KeptRevisions, asked: Option<u64>) -> Result<u64, String> {
        choose(kept, asked.map(Revision)).map(|choice| choice.revision.0)
    }

    #[rstest]
    #[case::installed(Some(hash(1)), Some(hash(2)), None, 1)]
    #[case::the_newest_of_one_configuration(Some(hash(2)), Some(hash(1)), None, 3)]
    #[case::the_file_is_gone(None, Some(hash(1)), None, 1)]
    #[case::the_file_was_edited(Some(hash(7)), Some(hash(1)), None, 1)]
    #[case::the_edited_file_is_loaded(Some(hash(7)), Some(hash(7)), Some(2), 2)]
    fn revision_in_force_is_the_default(
        #[case] file: Option<ConfigHash>,
        #[case] loaded: Option<ConfigHash>,
        #[case] drift: Option<u64>,
        #[case] expected: u64,
    ) {
        let kept = KeptRevisions { file, loaded, drift: drift.map(Revision), ..kept() };
        assert_eq!(choice(&kept, None), Ok(expected));
    }

    #[test]
    fn another_kept_revision_may_be_named() {
        let kept = KeptRevisions { file: Some(hash(1)), ..kept() };
        assert_eq!(choice(&kept, Some(2)), Ok(2));
        let error = choice(&kept, Some(4)).unwrap_err();
        assert!(error.contains("revision 4 is not kept on this node; it keeps 1, 2, 3"), "{error}");
    }

    #[rstest]
    #[case::nothing_is_recorded(None, None)]
    #[case::of_no_kept_revision(Some(hash(7)), Some(hash(8)))]
    fn without_a_revision_in_force_one_has_to_be_named(
        #[case] file: Option<ConfigHash>,
        #[case] loaded: Option<ConfigHash>,
    ) {
        let kept = KeptRevisions { file, loaded, ..kept() };
        let error = choice(&kept, None).unwrap_err();
        assert!(error.contains("--revision: this node keeps 1, 2, 3"), "{error}");
    }

    #[test]
    fn revision_that_is_not_understood_is_not_chosen() {
        let mut kept = KeptRevisions { file: Some(hash(2)), ..kept() };
        kept.revisions.insert(Revision(4), Err("line 1 column 2".to_owned()));
        let error = choice(&kept, Some(4)).unwrap_err();
        assert!(error.contains("cannot be understood (line 1 column 2)"), "{error}");
        let error = choice(&kept, None).unwrap_err();
        assert!(error.contains("may be the one in force"), "{error}");
        assert_eq!(choice(&kept, Some(3)), Ok(3));
        // An older one says nothing of what is in force.
        kept.revisions.remove(&Revision(4));
        kept.revisions.insert(Revision(1), Err("line 1 column 2".to_owned()));
        assert_eq!(choice(&kept, None), Ok(3));
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
    fn number_that_is_recorded_with_another_configuration_is_refused(
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
    fn every_newer_number_that_something_names_is_looked_for() {
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
    fn remedy_names_the_key_in_etcd() {
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
