//! DESIGN.md, "Decisions": what is given up, retired, or lost, and how each ends.

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

/// Decisions 7: a KMS provider that nothing needs leaves once etcd's history is compacted, and its secret does not come
/// back; a local key keeps one predecessor.
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
    let told = world.condition("KMSPluginDecommissionable");
    assert!(told.starts_with("Unknown NotVerified") && told.contains("(key one)"), "{told}");
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

/// Decisions 5: a key that no revision had first is superseded by a corrected spec, also in the middle of a rollout.
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
            // The revision with key 2 as a read key is made, and no node has it yet.
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

/// S6 and Decisions 5: a key with the publication record completes.
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

/// CONTRACT 2.5, with Decisions 4: whichever secrets are deleted, no provider is lost and a new key takes over.
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

/// Decisions 15: the writer's KEK is gone for good.
#[test]
fn a_forgotten_writer_leaves_when_another_key_can_write() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.give_up(&[1]);
    let mut before = world.revisions().pop().unwrap();
    for _ in 0..200 {
        world.reconcile();
        world.follow();
        let (number, content) = world.revisions().pop().unwrap();
        // Whoever is off takes the number after its own for a revision that reads what it writes (`node/late.rs`).
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

/// … and the only one in the middle of a rollout that its dead plugin keeps from ending.
#[test]
fn a_forgotten_writer_leaves_in_the_middle_of_a_rollout() {
    let mut world = enabled("one");
    world.spec().resources = Some(["configmaps", "secrets", "widgets.example.com"].map(Into::into).into());
    world.reconcile();
    world.made_anew.insert("one".into());
    for _ in 0..10 {
        world.follow();
        world.reconcile();
    }
    assert!(!world.last.converged, "no node takes it: {:?}", world.last.waiting);
    world.give_up(&[1]);
    world.settle();
    assert!(world.last.converged, "{:?}", world.last.waiting);
    assert!(world.config().values().all(|list| list == "kms:2,identity"), "{:?}", world.config());
}

/// A resource that comes to the list while a key is given up waits for the key that there is.
#[test]
fn no_key_is_made_for_a_resource_that_is_about_to_get_one() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.settle();
    world.spec().resources = Some(["configmaps", "secrets", "widgets.example.com"].map(Into::into).into());
    world.give_up(&[1]);
    world.settle();
    assert_eq!(world.config()["widgets.example.com"], "kms:2,identity");
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// OBJECTS.md, "Kept revisions": whichever is lost, it is made anew byte for byte, or nothing is written.
#[test]
fn a_lost_revision_is_made_anew() {
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

    // Never a step back to what is older, though nobody names what was lost any more.
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    world
        .objects
        .encryption_nodes
        .iter_mut()
        .for_each(|node| node.spec.revision = keyward_core::ids::Revision(0));
    world.reconcile();
    assert!(world.last.actions.iter().all(|action| action.kind() != "SetTarget"), "{:?}", world.last.actions);
}

/// Goes on until node a is given a revision with this writer, and b is not.
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

/// The newest revision is lost, with the only node that had it. Its key's secret may be mended; once that is lost too, what
/// another revision has of the key gives the very same bytes.
#[test]
fn a_lost_revision_is_made_anew_from_what_another_has_of_its_key() {
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
        "it can be mended: {waiting:?}"
    );
    assert!(data.is_some());
    lose_key(&mut world, 2);
    world.reconcile();
    assert_eq!(world.revisions().pop().unwrap().0, given, "the very same");
    assert_eq!(world.config()["secrets"], "aesgcm:2,aescbc:1,identity");
    world.settle();
    assert!(world.config()["secrets"].starts_with("aesgcm:3,aesgcm:2,"), "{:?}", world.config());
}

/// `keyward node-agent republish`: a KEK is gone, and with it the newest revision and all key secrets, which were stored under
/// it. Once the revision is there again, the AES key is read on from its bytes, and another key is made.
#[test]
fn republished_revision_gives_back_a_local_key_whose_secret_is_gone() {
    let mut world = enabled("one");
    world.want("aescbc");
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
    let (newest, content) = world.revisions().pop().unwrap();
    let newest = Revision(newest);
    world.made_anew.insert("one".into());
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
    assert!(world.revisions().is_empty(), "nothing is made in its place");

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
    assert_eq!(world.config()["secrets"], "aescbc:2,aescbc:3,kms:1,identity", "key 2 reads and writes on");
    assert_eq!(world.last.waiting.clone().unwrap().reason, "RolloutStopped", "by the KEK that is gone");
    world.give_up(&[1]);
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:3,identity", "everything was stored under key 3 first");
    assert!(world.last.waiting.is_none(), "{:?}", world.last.waiting);
}

/// Nothing is left of the newest revision, nor of its key, nor anybody who had it. Whoever did may have written by it, so
/// that what was claimed before does not count: another is made with a number above its own, and everything is re-encrypted
/// by it.
#[test]
fn a_revision_that_is_gone_for_good_is_left_behind() {
    let mut world = enabled("one");
    // In the place of a key that was given up another writes at once, and no revision before has it.
    world.want("aescbc");
    world.give_up(&[1]);
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

/// Decisions 12: a node that runs what an admin gave it is named with what is to be updated; it keeps no other node from the
/// revision, nothing is decided on top of it, and newer data for that key end it.
#[test]
fn what_was_replaced_by_hand_on_a_node_is_named_until_all_follow() {
    let mut world = enabled("one");
    let (newest, content) = world.revisions().pop().unwrap();
    let before = content.digest(KeyId(1)).unwrap().clone();
    world.recovered.insert("a".into(), (KeyId(1), before.clone()));
    world.want_kms("two", "image:1");
    world.settle();
    let told = world.condition("Progressing");
    assert!(
        told.starts_with("True CredentialRecovered node a runs key 1 with a credential that `recover` replaced on this node; update secret/credentials"),
        "{told}"
    );
    assert!(!has_key(&world, 2), "nothing is decided on top of it");
    assert_eq!(world.revisions().pop().unwrap().0, newest);

    // Another node that returns with revision 0 meanwhile gets the next revision too.
    let b = world.objects.encryption_nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("b"));
    b.unwrap().spec.revision = keyward_core::ids::Revision(0);
    world.follow();
    world.settle();
    let (next, _) = world.revisions().pop().unwrap();
    let b = world.objects.encryption_nodes.iter().find(|node| node.metadata.name.as_deref() == Some("b"));
    assert_eq!((next, b.unwrap().spec.revision.0), (newest + 1, newest + 1));

    // The Secret has what works: all follow it, and what was waited for goes on.
    world.renew_credentials();
    world.settle();
    assert!(world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1));
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    assert!(world.condition("Progressing").starts_with("False"), "{}", world.condition("Progressing"));
}

/// Decisions 7: what a lost key secret leaves in the configuration goes as any other does.
#[test]
fn an_older_provider_leaves_though_its_key_secret_was_lost() {
    let mut world = enabled("one");
    lose_key(&mut world, 1);
    world.reconcile();
    let role = |world: &World, id: u64| {
        let mut keys = world.last.view.keys.iter();
        keys.find(|key| key.key_id == KeyId(id)).map(|key| key.role.clone()).unwrap_or_default()
    };
    assert_eq!(role(&world, 1), "write", "it is in force all the same");
    world.settle();
    assert_eq!([role(&world, 2), role(&world, 1)], ["write", "read"]);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "old values can still be read from etcd");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    assert_eq!([role(&world, 2), role(&world, 1)], ["write", "retired"]);
}

/// Of two secrets that say the same key, the one under the key's own name is read and written.
#[test]
fn a_copy_of_a_key_secret_under_another_name_changes_nothing() {
    let mut world = enabled("one");
    let own = names::key_secret(names::KUBE_APISERVER, KeyId(1));
    let mut copy =
        world.objects.secrets.iter().find(|s| s.metadata.name.as_deref() == Some(&own)).unwrap().clone();
    copy.metadata.name = Some("encryption-key-backup-1".into());
    // As it was before it wrote anything.
    copy.metadata.annotations.as_mut().unwrap().retain(|name, _| !name.contains("migrated"));
    world.objects.secrets.insert(0, copy);
    world.log.clear();
    world.settle();
    assert_eq!(world.log, Vec::<serde_json::Value>::new());
}

/// S2: an API server of which only its Lease tells counts for as long as it renews that.
#[test]
fn a_server_of_which_only_a_lease_is_left_counts_until_that_has_stopped() {
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
    // Rounds of 30 s; whatever the time is that it says, it has to say another.
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

/// Decisions 2: what dies with one node is not the credential of the others.
#[rstest]
fn other_data_reach_the_nodes_that_live_while_one_is_silent(
    #[values(true, false)] has_ever_reported: bool,
    #[values(false, true)] another_image: bool,
) {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    let before = world.revisions().pop().unwrap().0;
    world.silent.insert("a".into());
    if !has_ever_reported {
        // Its EncryptionNode was deleted, and made anew since there is a Node.
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
    // Nothing else is decided without it, and it follows when it is back.
    world.want_kms("two", if another_image { "image:2" } else { "image:1" });
    world.settle();
    assert!(!has_key(&world, 2) && world.revisions().pop().unwrap().0 == newest);
    world.silent.clear();
    world.settle();
    assert!(world.config()["secrets"].starts_with("kms:2,"), "{:?}", world.config());
}

/// One that fell silent with the newest revision in its file, and has not loaded it: it may be why.
#[test]
fn a_rollout_stops_where_a_node_falls_silent_by_it() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    world.spec().resources = Some(["configmaps".into()].into());
    world.spec().decrypt = vec!["secrets".into()];
    let before = world.revisions().pop().unwrap().0;
    let mut told = 0;
    for _ in 0..60 {
        world.reconcile();
        let (newest, content) = world.revisions().pop().unwrap();
        let nodes = &mut world.objects.encryption_nodes;
        let at_it = nodes.iter().filter(|node| node.spec.revision.0 == newest).count();
        let a = nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("a")).unwrap();
        if a.spec.revision.0 == newest && newest > before {
            a.status.as_mut().unwrap().installed_hash = Some(content.hash());
            world.silent.insert("a".into());
            told = told.max(at_it);
        }
        world.follow();
    }
    assert_eq!(told, 1, "{:?}", world.last.waiting);
}

/// No newer data come to a key whose secret is gone, or that was given up: what was replaced by hand for it is not waited
/// for, or the key that takes its place would never be made.
#[test]
fn what_was_replaced_by_hand_for_a_lost_key_holds_nothing_up() {
    for forget in [false, true] {
        let mut world = enabled("one");
        let (_, content) = world.revisions().pop().unwrap();
        world.recovered.insert("a".into(), (KeyId(1), content.digest(KeyId(1)).unwrap().clone()));
        world.settle();
        assert!(world.condition("Progressing").starts_with("True CredentialRecovered"), "forget: {forget}");
        if forget {
            world.give_up(&[1]);
        } else {
            lose_key(&mut world, 1);
        }
        world.settle();
        assert!(world.config()["secrets"].starts_with("kms:2,"), "{forget}: {:?}", world.config());
        assert!(world.condition("Progressing").starts_with("False"), "{}", world.condition("Progressing"));
    }
}

/// Decisions 14: an edit that is refused is somebody's to mend. No revision ends it, also where no API server has loaded
/// it; once it is gone, one is made, so that everything is re-encrypted.
#[test]
fn a_refused_edit_is_told_and_makes_no_revisions() {
    let mut world = enabled("one");
    let newest = |world: &World| world.revisions().pop().unwrap().0;
    let before = newest(&world);
    world.edited.insert("b".into());
    for _ in 0..20 {
        world.nodes_follow();
        world.reconcile();
    }
    assert_eq!(newest(&world), before);
    let told = world.last.notices.iter().find(|notice| notice.reason == "ConfigurationEdited").unwrap();
    assert!(told.warning && told.message.starts_with("node b: "), "{}", told.message);
    world.edited.clear();
    world.settle();
    assert_eq!(newest(&world), before + 1);
    assert!(world.last.notices.iter().all(|notice| notice.reason != "ConfigurationEdited"));
}

/// A login that is refused is refused at one node: there are KMSs that lock a role out after a few.
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

/// Decisions 15: of two keys that are given up at once the one that only reads leaves, also where nobody can take over from
/// the other, and in the middle of a rollout that its dead plugin keeps from its end.
#[test]
fn a_read_key_that_is_given_up_leaves_though_the_writer_has_no_heir() {
    let mut world = enabled("one");
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    world.give_up(&[1, 2]);
    world.reconcile();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:3,identity");
}
