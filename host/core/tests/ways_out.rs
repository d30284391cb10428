//! Keys, revisions and nodes that are retired, abandoned, forgotten or lost, and how each case ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use k8s_openapi::api::coordination::v1::Lease;
use keyward_core::ids::{KeyId, Revision};
use keyward_core::names;
use rstest::rstest;
use serde_json::json;
use support::World;

fn enabled(kek: &str) -> World {
    let mut world = World::new(&["a", "b"]);
    world.want_kms(kek, "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    world
}

fn has_key(world: &World, id: u64) -> bool {
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(id));
    world.objects.secrets.iter().any(|secret| secret.metadata.name.as_deref() == Some(&name))
}

fn lose_key(world: &mut World, id: u64) {
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(id));
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
}

/// A KMS provider that nothing needs leaves once etcd's history is compacted, and its key secret is deleted
/// for good (decision 0007); a local key keeps one predecessor.
#[test]
fn an_unused_kms_provider_is_retired_after_compaction() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "old values can still be read from etcd");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    assert!(!has_key(&world, 1) && has_key(&world, 2));
    assert!(world.revisions().iter().all(|(_, content)| !content.kms_keys().contains(&KeyId(1))));
    let shown = world.condition("KMSPluginDecommissionable");
    assert!(shown.starts_with("Unknown NotVerified") && shown.contains("(key one)"), "{shown}");
    world.compacted = false;
    world.want("aescbc");
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:3,kms:2,identity");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:3,identity");
    world.want("aesgcm");
    world.settle();
    assert_eq!(world.config()["secrets"], "aesgcm:4,aescbc:3,identity", "as on OpenShift");
    assert!(has_key(&world, 3));
}

/// A corrected spec replaces a key that no revision had as write key, also in the middle of a rollout
/// (decision 0005).
#[test]
fn a_key_that_never_wrote_is_abandoned() {
    for stuck in [false, true] {
        let mut world = enabled("one");
        world.want_kms("two", "image:1");
        while !has_key(&world, 2) {
            world.reconcile();
            world.follow();
        }
        if stuck {
            // The revision with key 2 as a read key exists, and no node has it yet.
            world.reconcile();
            world.reconcile();
            assert_eq!(world.config()["secrets"], "kms:1,kms:2,identity");
            assert!(!world.reconcile().converged);
        }
        world.want_kms("one", "image:1");
        world.settle();
        assert!(world.kinds().contains(&"AbandonKey".to_owned()), "{:?}", world.kinds());
        assert_eq!(world.config()["secrets"], "kms:1,identity", "stuck: {stuck}");
        assert!(!has_key(&world, 2), "nothing is stored under it");
        world.want_kms("two", "image:1");
        world.settle();
        assert_eq!(world.config()["secrets"], "kms:3,kms:1,identity", "its number is not used again");
    }
}

/// A published key completes (invariant: one-transition, invariant: publication-first).
#[test]
fn a_published_key_completes_before_the_next() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    while !world.kinds().iter().any(|kind| kind == "RecordPublication")
        || !world.config()["secrets"].starts_with("kms:2")
    {
        world.reconcile();
        world.follow();
    }
    world.want_kms("three", "image:1");
    world.settle();
    assert!(!world.kinds().contains(&"AbandonKey".to_owned()));
    assert_eq!(world.config()["secrets"], "kms:3,kms:2,kms:1,identity");
}

/// For every choice of deleted key secrets, no provider is lost, and a new key becomes the write key
/// (openshift: deleted-local-key-secret, decision 0004).
#[test]
fn deleted_key_secrets_never_drop_a_provider() {
    for lost in [&[2][..], &[1], &[1, 2]] {
        let mut world = enabled("one");
        world.want_kms("two", "image:1");
        world.settle();
        for id in lost {
            lose_key(&mut world, *id);
        }
        let before = world.config();
        world.reconcile();
        for _ in 0..4 {
            let now = world.config();
            for provider in before["secrets"].split(',') {
                assert!(now["secrets"].split(',').any(|other| other == provider), "{lost:?}: {now:?}");
            }
            world.reconcile();
            world.nodes_follow();
        }
        world.settle();
        let expected = if lost.contains(&2) { "kms:3," } else { "kms:2," };
        assert!(world.config()["secrets"].starts_with(expected), "{lost:?}: {:?}", world.config());
        assert!(
            world.condition("Encrypted").contains("EncryptionCompleted"),
            "{}",
            world.condition("Encrypted")
        );
    }
}

/// The KEK of the write key is lost for good (decision 0015, decision 0039).
#[test]
fn a_forgotten_writer_leaves_when_another_key_can_write() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.forget_accepted(&[1]);
    let mut before = world.revisions().pop().unwrap();
    for _ in 0..200 {
        world.reconcile();
        world.follow();
        let (number, content) = world.revisions().pop().unwrap();
        // A node that returns assumes that the revision after its own reads what it writes (`node/late.rs`).
        let writes = before.1.config.resources[0].providers[0].kms.clone().unwrap();
        let reads = content.config.resources[0]
            .providers
            .iter()
            .any(|provider| provider.kms.as_ref().is_some_and(|kms| kms.name == writes.name));
        assert!(reads || number > before.0 + 1, "revision {number} does not read what {} writes", before.0);
        before = (number, content);
    }
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    assert!(!has_key(&world, 1));
}

/// … and the only key, in the middle of a rollout that cannot end because the key's plugin fails.
#[test]
fn a_forgotten_writer_leaves_in_the_middle_of_a_rollout() {
    let mut world = enabled("one");
    world.spec().resources = Some(["configmaps", "secrets", "widgets.example.com"].map(Into::into).into());
    world.reconcile();
    world.recreated_keks.insert("one".into());
    for _ in 0..10 {
        world.follow();
        world.reconcile();
    }
    assert!(!world.last.converged, "no node installs it: {:?}", world.last.waiting);
    world.forget_accepted(&[1]);
    world.settle();
    assert!(world.last.converged, "{:?}", world.last.waiting);
    assert!(world.config().values().all(|list| list == "kms:2,identity"), "{:?}", world.config());
}

/// A resource that is added while a key is forgotten waits for the key that exists.
#[test]
fn no_key_is_made_for_a_resource_that_is_about_to_get_one() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.settle();
    world.spec().resources = Some(["configmaps", "secrets", "widgets.example.com"].map(Into::into).into());
    world.forget_accepted(&[1]);
    world.settle();
    assert_eq!(world.config()["widgets.example.com"], "kms:2,identity");
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// A lost revision is recreated byte for byte, or nothing is written (objects: missing-revision).
#[test]
fn a_lost_revision_is_recreated() {
    let mut world = enabled("one");
    world.want("identity");
    world.settle();
    let (newest, content) = world.revisions().pop().unwrap();
    let name = names::revision_secret(keyward_core::ids::Revision(newest));
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    let outcome = world.reconcile();
    assert_eq!(outcome.waiting.as_ref().unwrap().reason, "RevisionLost");
    let again = world.revisions().pop().unwrap();
    assert_eq!((again.0, again.1.hash()), (newest, content.hash()));
    assert!(world.reconcile().converged);

    // Nodes never go back to an older revision, even if no object names the lost one any more.
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    world
        .objects
        .encryption_nodes
        .iter_mut()
        .for_each(|node| node.spec.revision = keyward_core::ids::Revision(0));
    world.reconcile();
    assert!(world.last.actions.iter().all(|action| action.kind() != "SetTarget"), "{:?}", world.last.actions);
}

/// Reconciles until node a is given a revision with this write key, and node b is not.
fn until_given(world: &mut World, writer: &str) -> u64 {
    for _ in 0..40 {
        world.reconcile();
        let newest = world.revisions().pop().unwrap().0;
        let at: Vec<u64> = world.objects.encryption_nodes.iter().map(|node| node.spec.revision.0).collect();
        if world.config()["secrets"].starts_with(writer) && at[0] == newest && at[1] < newest {
            return newest;
        }
        world.follow();
    }
    panic!("{:?}", world.config());
}

fn lose_revision(world: &mut World, n: u64) {
    let name = names::revision_secret(keyward_core::ids::Revision(n));
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
}

fn lose_node(world: &mut World, name: &str) {
    world.objects.nodes.retain(|node| node.metadata.name.as_deref() != Some(name));
    world.objects.encryption_nodes.retain(|node| node.metadata.name.as_deref() != Some(name));
}

/// The newest revision is lost, with the only node that had it. The damaged secret of its key can be
/// repaired. Once that is lost too, another revision has the key data from which the same bytes are rebuilt.
#[test]
fn a_lost_revision_is_recreated_from_the_key_data_of_another_revision() {
    let mut world = World::new(&["a", "b"]);
    world.want("aescbc");
    world.settle();
    world.want("aesgcm");
    let given = until_given(&mut world, "aesgcm:2");
    let key = names::key_secret(names::KUBE_APISERVER, KeyId(2));
    let at = world.objects.secrets.iter().position(|secret| secret.metadata.name.as_deref() == Some(&key));
    let data = world.objects.secrets[at.unwrap()].data.take();
    lose_revision(&mut world, given);
    assert_eq!(world.reconcile().waiting.unwrap().reason, "RevisionLost", "a has it");

    lose_node(&mut world, "a");
    let waiting = world.reconcile().waiting.unwrap();
    assert!(
        waiting.reason == "RevisionLost" && waiting.message.contains(&key),
        "it can be repaired: {waiting:?}"
    );
    assert!(data.is_some());
    lose_key(&mut world, 2);
    world.reconcile();
    assert_eq!(world.revisions().pop().unwrap().0, given, "the same revision");
    assert_eq!(world.config()["secrets"], "aesgcm:2,aescbc:1,identity");
    world.settle();
    assert!(world.config()["secrets"].starts_with("aesgcm:3,aesgcm:2,"), "{:?}", world.config());
}

/// `keyward node-agent republish`: a KEK is gone, and with it the newest revision and all key secrets, which
/// were stored under it. Once the revision exists again, its bytes contain the AES key, which stays in use
/// until another key replaces it.
#[test]
fn republished_revision_gives_back_a_local_key_whose_secret_is_gone() {
    let mut world = enabled("one");
    world.want("aescbc");
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
    let (newest, content) = world.revisions().pop().unwrap();
    let newest = Revision(newest);
    world.recreated_keks.insert("one".into());
    world.objects.secrets.retain(|secret| {
        let name = secret.metadata.name.as_deref().unwrap();
        names::parse_revision_secret(name).is_none() && KeyId::from_name(name).is_none()
    });
    for _ in 0..3 {
        world.follow();
        let waiting = world.reconcile().waiting.unwrap();
        assert!(
            waiting.reason == "RevisionLost" && waiting.message.contains("cannot be recreated"),
            "{waiting:?}"
        );
    }
    assert!(world.revisions().is_empty(), "nothing replaces it");

    let mut secret = content.secret(newest);
    secret.metadata.resource_version = Some("republished".into());
    secret.metadata.uid = Some("republished".into());
    world.objects.secrets.push(secret);
    world.log.clear();
    world.reconcile();
    assert!(
        world
            .last
            .notices
            .iter()
            .any(|notice| notice.reason == "KeyLost" && notice.message.contains("key 2 is lost")),
        "{:?}",
        world.last.notices
    );
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:2,aescbc:3,kms:1,identity", "key 2 stays the write key");
    assert_eq!(world.last.waiting.clone().unwrap().reason, "RolloutStopped", "by the KEK that is gone");
    world.forget_accepted(&[1]);
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:3,identity", "everything was stored under key 3 first");
    assert!(world.last.waiting.is_none(), "{:?}", world.last.waiting);
}

/// The newest revision, its key secret and the only node that had it are gone. That node may have written
/// with the lost key, so earlier records of migration do not count: a revision with a higher number is
/// created, and everything is re-encrypted.
#[test]
fn a_revision_that_is_lost_for_good_is_followed_by_a_higher_number() {
    let mut world = enabled("one");
    // The successor of a forgotten write key writes at once; no earlier revision has it.
    world.want("aescbc");
    world.forget_accepted(&[1]);
    let given = until_given(&mut world, "aescbc:2");
    lose_revision(&mut world, given);
    lose_key(&mut world, 2);
    assert_eq!(world.reconcile().waiting.unwrap().reason, "RevisionLost", "a has it");
    lose_node(&mut world, "a");
    world.log.clear();
    for _ in 0..4 {
        world.reconcile();
    }
    let (newest, _) = world.revisions().pop().unwrap();
    assert!(newest > given, "its number is not used again");
    let kinds = world.kinds();
    let at = |kind: &str| kinds.iter().position(|other| other == kind);
    assert!(at("RecordPublication").is_some() && at("RecordPublication") < at("ApplyConfig"), "{kinds:?}");
    world.settle();
    assert!(world.config()["secrets"].starts_with("aescbc:3,"), "{:?}", world.config());
}

/// While a node runs a credential that an admin replaced on it, the status names the node and the Secret to
/// update. The other nodes still get the revision, nothing else is decided, and newer data for that key end
/// the state (decision 0048).
#[test]
fn a_credential_replaced_on_one_node_is_reported_until_every_node_has_it() {
    let mut world = enabled("one");
    let (newest, content) = world.revisions().pop().unwrap();
    let before = content.digest(KeyId(1)).unwrap().clone();
    world.recovered.insert("a".into(), (KeyId(1), before.clone()));
    world.want_kms("two", "image:1");
    world.settle();
    let shown = world.condition("Progressing");
    assert!(
        shown.starts_with("True CredentialRecovered node a runs key 1 with a credential that `recover` replaced on this node; update secret/credentials"),
        "{shown}"
    );
    assert!(!has_key(&world, 2), "nothing else is decided");
    assert_eq!(world.revisions().pop().unwrap().0, newest);

    // Another node that returns with revision 0 meanwhile gets the next revision too.
    let b = world.objects.encryption_nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("b"));
    b.unwrap().spec.revision = keyward_core::ids::Revision(0);
    world.follow();
    world.settle();
    let (next, _) = world.revisions().pop().unwrap();
    let b = world.objects.encryption_nodes.iter().find(|node| node.metadata.name.as_deref() == Some("b"));
    assert_eq!((next, b.unwrap().spec.revision.0), (newest + 1, newest + 1));

    // The Secret has the working credential: every node gets it, and the requested change continues.
    world.renew_credentials();
    world.settle();
    assert!(world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1));
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    assert!(world.condition("Progressing").starts_with("False"), "{}", world.condition("Progressing"));
}

/// The provider of a lost key leaves the configuration like any other (decision 0007).
#[test]
fn an_older_provider_leaves_though_its_key_secret_was_lost() {
    let mut world = enabled("one");
    lose_key(&mut world, 1);
    world.reconcile();
    let role = |world: &World, id: u64| {
        let mut keys = world.last.view.keys.iter();
        keys.find(|key| key.key_id == KeyId(id)).map(|key| key.role.clone()).unwrap_or_default()
    };
    assert_eq!(role(&world, 1), "write", "it is still in force");
    world.settle();
    assert_eq!([role(&world, 2), role(&world, 1)], ["write", "read"]);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "old values can still be read from etcd");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    assert_eq!([role(&world, 2), role(&world, 1)], ["write", "retired"]);
}

/// Of two secrets with the same key, the operator reads and writes the one under the key's own name.
#[test]
fn a_copy_of_a_key_secret_under_another_name_changes_nothing() {
    let mut world = enabled("one");
    let own = names::key_secret(names::KUBE_APISERVER, KeyId(1));
    let mut copy =
        world.objects.secrets.iter().find(|s| s.metadata.name.as_deref() == Some(&own)).unwrap().clone();
    copy.metadata.name = Some("encryption-key-backup-1".into());
    // As it was before the key wrote anything.
    copy.metadata.annotations.as_mut().unwrap().retain(|name, _| !name.contains("migrated"));
    world.objects.secrets.insert(0, copy);
    world.log.clear();
    world.settle();
    assert_eq!(world.log, Vec::<serde_json::Value>::new());
}

/// An API server that only a Lease names counts while it renews the Lease (objects: api-servers).
#[test]
fn a_server_that_only_a_lease_names_counts_while_the_lease_is_renewed() {
    let mut world = enabled("one");
    let lease = |renewed: &str| -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "apiserver-gone", "labels": {"kubernetes.io/hostname": "gone"}},
            "spec": {"renewTime": renewed},
        }))
        .unwrap()
    };
    world.objects.leases.push(lease("2026-01-01T00:00:00.000000Z"));
    let waiting = world.reconcile().waiting.unwrap();
    assert!(waiting.reason == "NodeNotPrepared" && waiting.message.contains("on gone"), "{waiting:?}");
    // Reconcile passes of 30 s: a renewal is a changed `renewTime`, whatever the time in it.
    world.silent.insert("lease".into());
    for _ in 0..9 {
        assert!(world.reconcile().waiting.is_some());
    }
    *world.objects.leases.last_mut().unwrap() = lease("2026-01-01T00:00:10.000000Z");
    for _ in 0..10 {
        assert!(world.reconcile().waiting.is_some(), "it was renewed meanwhile");
    }
    world.reconcile();
    assert_eq!(world.reconcile().waiting, None);
    assert!(!world.last.unrecorded.iter().any(|fact| fact.contains("lease/")), "a dump must replay it");
}

/// A silent node does not keep newer credentials from the other nodes (decision 0047).
#[rstest]
fn newer_data_reach_the_other_nodes_while_one_is_silent(
    #[values(true, false)] has_ever_reported: bool,
    #[values(false, true)] another_image: bool,
) {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    let before = world.revisions().pop().unwrap().0;
    world.silent.insert("a".into());
    if !has_ever_reported {
        // Its EncryptionNode was deleted, and recreated because its Node exists.
        let nodes = &mut world.objects.encryption_nodes;
        nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("a")).unwrap().status = None;
    }
    for _ in 0..8 {
        world.reconcile();
    }
    if another_image {
        world.want_kms("one", "image:2");
    } else {
        world.renew_credentials();
    }
    world.settle();
    let (newest, content) = world.revisions().pop().unwrap();
    assert!(newest > before, "{:?} {:?}", world.last.waiting, world.kinds());
    let digest = content.digest(KeyId(1)).unwrap();
    let runs = |world: &World, node: &str| {
        let mut nodes = world.objects.encryption_nodes.iter();
        let node = nodes.find(|one| one.metadata.name.as_deref() == Some(node)).unwrap();
        node.status.iter().flat_map(|status| &status.plugins).any(|plugin| plugin.digest == *digest)
    };
    let all = ["a", "b", "c"].map(|node| runs(&world, node));
    assert_eq!(all, [false, true, true], "{:?} {:?}", world.last.waiting, world.kinds());
    // Nothing else is decided without the silent node, and it follows when it reports again.
    world.want_kms("two", if another_image { "image:2" } else { "image:1" });
    world.settle();
    assert!(!has_key(&world, 2) && world.revisions().pop().unwrap().0 == newest);
    world.silent.clear();
    world.settle();
    assert!(world.config()["secrets"].starts_with("kms:2,"), "{:?}", world.config());
}

/// A node became silent with the newest revision in its file and not loaded: the revision may be the cause.
#[test]
fn a_rollout_stops_when_a_node_becomes_silent_during_it() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    world.spec().resources = Some(["configmaps".into()].into());
    world.spec().decrypt = vec!["secrets".into()];
    let before = world.revisions().pop().unwrap().0;
    let mut shown = 0;
    for _ in 0..60 {
        world.reconcile();
        let (newest, content) = world.revisions().pop().unwrap();
        let nodes = &mut world.objects.encryption_nodes;
        let at_it = nodes.iter().filter(|node| node.spec.revision.0 == newest).count();
        let a = nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("a")).unwrap();
        if a.spec.revision.0 == newest && newest > before {
            a.status.as_mut().unwrap().installed_hash = Some(content.hash());
            world.silent.insert("a".into());
            shown = shown.max(at_it);
        }
        world.follow();
    }
    assert_eq!(shown, 1, "{:?}", world.last.waiting);
}

/// A lost or forgotten key gets no newer data. If the operator waited for newer data of such a key, its
/// successor would never be created.
#[test]
fn a_credential_replaced_on_one_node_for_a_lost_key_blocks_nothing() {
    for forget in [false, true] {
        let mut world = enabled("one");
        let (_, content) = world.revisions().pop().unwrap();
        world.recovered.insert("a".into(), (KeyId(1), content.digest(KeyId(1)).unwrap().clone()));
        world.settle();
        assert!(world.condition("Progressing").starts_with("True CredentialRecovered"), "forget: {forget}");
        if forget {
            world.forget_accepted(&[1]);
        } else {
            lose_key(&mut world, 1);
        }
        world.settle();
        assert!(world.config()["secrets"].starts_with("kms:2,"), "{forget}: {:?}", world.config());
        assert!(world.condition("Progressing").starts_with("False"), "{}", world.condition("Progressing"));
    }
}

/// An admin must undo an edit that is refused (decision 0049). No revision replaces it, even if no API server
/// has loaded it. Once the edit is undone, one revision is created, so that everything is re-encrypted.
#[test]
fn a_refused_edit_is_reported_and_makes_no_revisions() {
    let mut world = enabled("one");
    let newest = |world: &World| world.revisions().pop().unwrap().0;
    let before = newest(&world);
    world.edited.insert("b".into());
    for _ in 0..20 {
        world.nodes_follow();
        world.reconcile();
    }
    assert_eq!(newest(&world), before);
    let shown = world.last.notices.iter().find(|notice| notice.reason == "ConfigurationEdited").unwrap();
    assert!(shown.warning && shown.message.starts_with("node b: "), "{}", shown.message);
    world.edited.clear();
    world.settle();
    assert_eq!(newest(&world), before + 1);
    assert!(world.last.notices.iter().all(|notice| notice.reason != "ConfigurationEdited"));
}

/// A login that fails is tried on one node only: some KMS products lock a role after a few failures.
#[test]
fn nodes_try_a_candidate_one_after_another() {
    let mut world = World::new(&["a", "b", "c"]);
    world.failing_kek = Some("one".into());
    world.failing_at.insert("b".into(), "start");
    world.want_kms("one", "image:1");
    let asked = |world: &World| {
        let nodes = world.objects.encryption_nodes.iter().filter(|node| node.spec.preflight.is_some());
        nodes.map(|node| node.metadata.name.clone().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        world.reconcile();
        world.nodes_follow();
    }
    assert_eq!(asked(&world), ["a", "b"]);
    world.failing_kek = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
}

/// Of two keys that are forgotten together, the read key leaves at once, even if the write key has no
/// successor yet, and in the middle of a rollout that a failed plugin blocks (decision 0015, decision 0039).
#[test]
fn a_forgotten_read_key_leaves_though_the_write_key_has_no_successor() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    world.forget_accepted(&[1, 2]);
    world.reconcile();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:3,identity");
}
