//! Interference by an admin, an API server or a KMS in the middle of the main job, on the model.

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

/// Without the key secrets nothing is decrypted, and the status does not report that encryption is disabled.
#[test]
fn lost_key_secrets_do_not_report_encryption_as_disabled() {
    let mut world = World::enabled();
    let is_key = |s: &k8s_openapi::api::core::v1::Secret| {
        s.metadata.name.as_deref().is_some_and(|name| name.starts_with("encryption-key-"))
    };
    world.objects.secrets.retain(|secret| !is_key(secret));
    world.reconcile();
    let shown = world.condition("Encrypted");
    assert!(shown.contains("EncryptionInProgress") && shown.contains("key 1"), "{shown}");
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// The request to forget a key is removed after another key wrote: the key's records of migration are no
/// longer true (invariant: claims-are-true).
#[test]
fn a_key_whose_forget_request_is_removed_re_encrypts_everything() {
    let mut world = World::enabled();
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "etcd's history has key 1");
    world.forget_accepted(&[2]);
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
    assert_eq!(
        world.config()["secrets"],
        "kms:2,kms:1,identity",
        "key 1 stays: something is stored under it"
    );
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(2));
    let secret = world.objects.secrets.iter().find(|s| s.metadata.name.as_deref() == Some(&name)).unwrap();
    let claims = secret.metadata.annotations.as_ref().unwrap();
    let claims = &claims["encryption.apiserver.operator.openshift.io/migrated-resources"];
    assert!(!claims.contains("secrets"), "the earlier record of migration is removed: {claims}");
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// A key whose secret is deleted before any node has loaded the key leaves again, and another key is created.
#[test]
fn a_read_key_whose_secret_is_deleted_is_replaced() {
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

/// A KEK is deleted and recreated under its name after every node passed the preflight. No node can continue
/// with the key, and the key cannot get another key check (invariant: one-number-one-kek). Another key
/// replaces it, at every point of its rollout.
#[rstest]
#[case::its_revision_is_created(&["a", "b"], 1)]
#[case::the_first_node_has_it(&["a", "b"], 2)]
#[case::every_node_has_it(&["a", "b"], 3)]
#[case::the_only_node_is_to_have_it(&["a"], 1)]
#[case::the_only_node_has_it(&["a"], 2)]
fn a_read_key_whose_kek_is_recreated_is_replaced(#[case] nodes: &[&str], #[case] passes: usize) {
    let mut world = World::new(nodes);
    world.want_kms("one", "image:1");
    for _ in 0..50 {
        if world.config().contains_key("secrets") {
            break;
        }
        world.follow();
        world.reconcile();
    }
    for _ in 1..passes {
        world.reconcile();
        world.follow();
    }
    assert_eq!(world.config()["secrets"], "identity,kms:1");
    world.recreated_keks.insert("one".into());
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

/// … but a published key stays: nothing proves that no object was written with it (decision 0005).
#[test]
fn a_published_key_whose_kek_is_recreated_stays() {
    let mut world = World::enabled();
    world.recreated_keks.insert("one".into());
    world.run(60);
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(!world.kinds().contains(&"AbandonKey".to_owned()));
}

/// A timeout that the API server could not parse is reported and not rolled out: API servers would refuse
/// that configuration.
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

/// Plugin resources that the kubelet refuses are reported and not rolled out: no plugin would start.
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

/// A key secret that cannot be created uses up no number and needs no second preflight.
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

/// … but a number that was recorded for one KEK is never used for another (invariant: one-number-one-kek).
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

/// The status keeps the data from which a lost revision is recreated.
#[test]
fn status_keeps_what_cannot_be_read_now() {
    let mut world = World::enabled();
    let shown = world.last.view.clone();
    assert!(!shown.keys.is_empty() && !shown.revisions.is_empty());
    let newest = shown.revisions.last().unwrap().clone();
    let secrets = world.objects.secrets.clone();
    world.objects.secrets.clear();
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "the KMS is down".into() }];
    let blocked = world.reconcile();
    assert_eq!((&blocked.view.keys, &blocked.view.revisions), (&shown.keys, &shown.revisions));
    assert!(blocked.conditions.iter().all(|condition| condition.type_ != KEY_CONTROLLER), "left unchanged");

    world.objects.unreadable.clear();
    world.objects.secrets = secrets;
    let name = names::revision_secret(newest.n);
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    // The key secret is gone too, and every other revision: the same bytes cannot be rebuilt.
    let key = names::key_secret(names::KUBE_APISERVER, keyward_core::ids::KeyId(1));
    let has_key = |secret: &mut Secret| {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        name == key || name.starts_with("encryption-config-")
    };
    let removed: Vec<_> = world.objects.secrets.extract_if(.., has_key).collect();
    for _ in 0..3 {
        let lost = world.reconcile();
        assert_eq!(lost.waiting.as_ref().unwrap().reason, "RevisionLost");
        assert!(lost.waiting.as_ref().unwrap().message.contains("the secret of key 1 is gone as well"));
        assert!(lost.view.revisions.contains(&newest), "{:?}", lost.view.revisions);
        assert!(lost.actions.is_empty(), "{:?}", lost.actions);
    }
    world.objects.secrets.extend(removed);
    let recreated = world.reconcile();
    assert_eq!(recreated.actions.first().map(|a| a.describe()["revision"].clone()), Some(newest.n.0.into()));
    assert!(world.reconcile().converged, "{:?}", world.last.waiting);
}

/// An agent reports the identity of its own API server; the node's name may differ from the host's
/// (objects: api-servers).
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
