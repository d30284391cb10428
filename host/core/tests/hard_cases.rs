//! What an admin, an API server or a KMS may do in the middle of the main job, on the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::api::PluginResources;
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_core::platform::Unreadable;
use rstest::rstest;
use support::World;

const KEY_CONTROLLER: &str = "EncryptionKeyControllerDegraded";

/// With the key secrets gone nothing is decrypted, and the status does not say that encryption is off.
#[test]
fn encryption_without_key_secrets_is_not_told_to_be_disabled() {
    let mut world = World::enabled();
    let is_key = |s: &k8s_openapi::api::core::v1::Secret| {
        s.metadata.name.as_deref().is_some_and(|name| name.starts_with("encryption-key-"))
    };
    world.objects.secrets.retain(|secret| !is_key(secret));
    world.reconcile();
    let told = world.condition("Encrypted");
    assert!(told.contains("EncryptionInProgress") && told.contains("key 1"), "{told}");
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// A key that was given up and is taken back: another wrote meanwhile, so that what it claimed holds no longer.
#[test]
fn a_key_that_is_taken_back_re_encrypts_what_others_wrote_meanwhile() {
    let mut world = World::enabled();
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "etcd's history has key 1");
    world.give_up(&[2]);
    for _ in 0..10 {
        world.reconcile();
    }
    assert!(world.config()["secrets"].starts_with("kms:1,"), "{:?}", world.config());
    world.nodes_follow();
    world.spec().forget.clear();
    world.broken.clear();
    world.stuck = Some("secrets".into());
    world.compacted = true;
    world.run(60);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "key 1 stays: something is under it");
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(2));
    let secret = world.objects.secrets.iter().find(|s| s.metadata.name.as_deref() == Some(&name)).unwrap();
    let claims = secret.metadata.annotations.as_ref().unwrap();
    let claims = &claims["encryption.apiserver.operator.openshift.io/migrated-resources"];
    assert!(!claims.contains("secrets"), "the earlier record of migration is removed: {claims}");
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// A key whose secret is deleted before any node could take it into use leaves again, and another is made.
#[test]
fn a_key_that_vanishes_on_its_way_blocks_nothing() {
    let mut world = World::enabled();
    world.want_kms("two", "image:1");
    let has_two = |world: &World| world.config()["secrets"].contains("kms:2");
    for _ in 0..50 {
        world.reconcile();
        if has_two(&world) {
            break;
        }
        world.follow();
    }
    assert!(has_two(&world));
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(2));
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    world.settle();
    assert!(world.config()["secrets"].starts_with("kms:3,kms:1"), "{:?}", world.config());
}

/// A KEK that is made anew under its name after every node had passed the preflight: no node could go on with the key, nor
/// could it be given another key check (S5). It gives way to another key, wherever its revision stands.
#[rstest]
#[case::its_revision_is_made(&["a", "b"], 1)]
#[case::the_first_node_has_it(&["a", "b"], 2)]
#[case::every_node_has_it(&["a", "b"], 3)]
#[case::the_only_node_is_to_have_it(&["a"], 1)]
#[case::the_only_node_has_it(&["a"], 2)]
fn a_key_whose_kek_is_made_anew_on_its_way_gives_way(#[case] nodes: &[&str], #[case] turns: usize) {
    let mut world = World::new(nodes);
    world.want_kms("one", "image:1");
    for _ in 0..50 {
        if world.config().contains_key("secrets") {
            break;
        }
        world.follow();
        world.reconcile();
    }
    for _ in 1..turns {
        world.reconcile();
        world.follow();
    }
    assert_eq!(world.config()["secrets"], "identity,kms:1");
    world.made_anew.insert("one".into());
    world.follow();
    world.run(4);
    let waiting = world.last.waiting.clone().unwrap();
    assert!(waiting.message.contains("has not decrypted the key check since 2026-05-08T12:3"), "{waiting:?}");
    assert!(waiting.message.contains("if this lasts 10 minutes, another key replaces it"), "{waiting:?}");
    assert!(world.condition(KEY_CONTROLLER).contains("the KMS has another KEK under the same name"));
    assert_eq!(world.config()["secrets"], "identity,kms:1", "it may pass");
    world.run(30);
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity", "{:?}", world.last.waiting);
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
    assert!(world.condition(KEY_CONTROLLER).starts_with("False"));
}

/// … but one that was published as a write key stays: nobody can know that nothing was written with it (Decisions 5).
#[test]
fn a_published_key_whose_kek_is_made_anew_stays() {
    let mut world = World::enabled();
    world.made_anew.insert("one".into());
    world.run(60);
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(!world.kinds().contains(&"AbandonKey".to_owned()));
}

/// A timeout that the API server could not read is named, and not rolled out: that configuration would be refused.
#[test]
fn a_wrong_timeout_changes_nothing() {
    let mut world = World::enabled();
    let before = world.log.len();
    world.spec().plugins.timeout = Some("soon".into());
    world.settle();
    assert!(world.condition(KEY_CONTROLLER).contains("spec.plugins.timeout"));
    assert_eq!(world.log.len(), before, "{:#?}", world.log);
    world.spec().plugins.timeout = Some("25s".into());
    world.settle();
    assert!(world.kinds().contains(&"UpdateKey".to_owned()));
}

/// Resources of plugins that the kubelet refuses are named, and not rolled out: no plugin would start.
#[test]
fn a_wrong_quantity_changes_nothing() {
    let mut world = World::enabled();
    let before = world.log.len();
    let requests = |memory: &str| [("memory".to_owned(), memory.to_owned())].into();
    world.spec().plugins.resources =
        Some(PluginResources { requests: requests("64 Mi"), ..Default::default() });
    world.settle();
    let condition = world.condition(KEY_CONTROLLER);
    assert!(
        condition.contains("spec.plugins.resources.requests.memory: \"64 Mi\" is not a quantity"),
        "{condition}"
    );
    assert_eq!(world.log.len(), before, "{:#?}", world.log);
    world.spec().plugins.resources =
        Some(PluginResources { requests: requests("64Mi"), ..Default::default() });
    world.settle();
    assert!(world.kinds().contains(&"UpdateKey".to_owned()));
}

/// A key secret that cannot be made costs no number and no second preflight.
#[test]
fn a_key_that_cannot_be_stored_keeps_its_number() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.refuses_keys = true;
    world.run(20);
    world.refuses_keys = false;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert_eq!(world.kinds().iter().filter(|kind| *kind == "RequirePreflight").count(), 1);
}

/// … but a number that was recorded for one KEK is never another's (S5).
#[test]
fn a_recorded_number_is_not_given_to_another_kek() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.refuses_keys = true;
    world.run(20);
    world.want_kms("two", "image:1");
    world.run(20);
    world.refuses_keys = false;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// What a lost revision is made anew from is not forgotten when it is needed.
#[test]
fn status_keeps_what_cannot_be_read_now() {
    let mut world = World::enabled();
    let told = world.last.view.clone();
    assert!(!told.keys.is_empty() && !told.revisions.is_empty());
    let newest = told.revisions.last().unwrap().clone();
    let secrets = world.objects.secrets.clone();
    world.objects.secrets.clear();
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "the KMS is down".into() }];
    let blocked = world.reconcile();
    assert_eq!((&blocked.view.keys, &blocked.view.revisions), (&told.keys, &told.revisions));
    assert!(blocked.conditions.iter().all(|condition| condition.type_ != KEY_CONTROLLER), "left as it was");

    world.objects.unreadable.clear();
    world.objects.secrets = secrets;
    let name = names::revision_secret(newest.n);
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    // The key secret is gone too, and every other revision: nothing gives the same bytes.
    let key = names::key_secret(names::KUBE_APISERVER, keyward_core::ids::KeyId(1));
    let has_key = |secret: &mut Secret| {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        name == key || name.starts_with("encryption-config-")
    };
    let held: Vec<_> = world.objects.secrets.extract_if(.., has_key).collect();
    for _ in 0..3 {
        let lost = world.reconcile();
        assert_eq!(lost.waiting.as_ref().unwrap().reason, "RevisionLost");
        assert!(lost.waiting.as_ref().unwrap().message.contains("the secret of key 1 is gone as well"));
        assert!(lost.view.revisions.contains(&newest), "{:?}", lost.view.revisions);
        assert!(lost.actions.is_empty(), "{:?}", lost.actions);
    }
    world.objects.secrets.extend(held);
    let made_anew = world.reconcile();
    assert_eq!(made_anew.actions.first().map(|a| a.describe()["revision"].clone()), Some(newest.n.0.into()));
    assert!(world.reconcile().converged, "{:?}", world.last.waiting);
}

/// S2: the agent knows which API server is its own; a node need not be named as its host is.
#[test]
fn a_lease_belongs_to_the_node_whose_agent_names_it() {
    let mut world = World::enabled();
    let lease = |id: &str, host: &str| Lease {
        metadata: ObjectMeta {
            name: Some(id.to_owned()),
            labels: Some([("kubernetes.io/hostname".to_owned(), host.to_owned())].into()),
            ..Default::default()
        },
        ..Default::default()
    };
    world.objects.leases = vec![lease("apiserver-1", "host-1.example.com")];
    let blocked = world.reconcile();
    assert_eq!(blocked.waiting.unwrap().reason, "NodeNotPrepared");
    let status = world.objects.encryption_nodes[0].status.as_mut().unwrap();
    status.api_server_id = Some("apiserver-1".to_owned());
    assert!(world.reconcile().converged);
}
