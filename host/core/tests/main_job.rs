//! The main job on the model: enable, change in place, change the KEK, disable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use keyward_core::SecretBytes;
use keyward_core::platform::ObjectRef;
use keyward_core::provider::{Failure, ReferenceKind};
use support::World;

const NODES: [&str; 3] = ["a", "b", "c"];

fn enabled() -> World {
    let mut world = World::new(&NODES);
    world.settle();
    world.want_kms("one", "image:1");
    world.settle();
    world
}

#[test]
fn nothing_happens_without_a_request() {
    let mut world = World::new(&NODES);
    world.settle();
    assert_eq!(world.kinds(), vec!["SetTarget"; 3], "nodes are registered, and nothing else happens");
    assert_eq!(world.condition("Encrypted"), "False EncryptionDisabled Encryption is not enabled");
}

#[test]
fn a_kms_configuration_becomes_the_write_key_of_everything() {
    let world = enabled();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert_eq!(world.config()["configmaps"], "kms:1,identity");
    assert_eq!(
        world.condition("Encrypted"),
        "True EncryptionCompleted All resources encrypted: configmaps, secrets"
    );
    let of_interest: Vec<String> = world.kinds().into_iter().filter(|kind| kind != "SetTarget").collect();
    assert_eq!(
        of_interest,
        [
            "RequirePreflight",
            "RecordHighWater",
            "CreateKey",
            "RecordHighWater",
            "ApplyConfig",
            "ClearPreflight",
            "RecordHighWater",
            "RecordPublication",
            "ApplyConfig",
            "StartMigration",
            "StartMigration",
            "RecordMigrated",
            "RecordMigrated",
        ]
    );
}

#[test]
fn an_image_is_changed_in_place() {
    let mut world = enabled();
    let before = world.log.len();
    world.want_kms("one", "image:2");
    world.settle();
    let kinds: Vec<String> = world.kinds().split_off(before);
    assert!(kinds.contains(&"UpdateKey".to_owned()) && !kinds.contains(&"CreateKey".to_owned()), "{kinds:?}");
    assert!(!kinds.contains(&"StartMigration".to_owned()), "{kinds:?}");
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(
        !kinds.contains(&"RequirePreflight".to_owned())
            || kinds.iter().position(|k| k == "RequirePreflight")
                < kinds.iter().position(|k| k == "UpdateKey")
    );
}

#[test]
fn another_kek_is_a_new_key_and_the_old_one_stays_for_reading() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    world.want("identity");
    world.settle();
    assert_eq!(world.config()["secrets"], "identity,kms:2,kms:1,aesgcm:3", "etcd's history may need both");
    assert!(world.condition("Encrypted").starts_with("False DecryptionCompleted"));
    world.compacted = true;
    world.settle();
    assert_eq!(world.config()["secrets"], "identity,aesgcm:3");
    world.want_kms("one", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:4,identity,aesgcm:3", "the same KEK, a new number");
}

#[test]
fn a_failing_preflight_changes_nothing_and_continues_after_the_repair() {
    let mut world = World::new(&NODES);
    world.settle();
    let before = world.objects.encryption_nodes.iter().map(|n| n.status.clone()).collect::<Vec<_>>();
    world.preflight_failure =
        Some(Failure { phase: "encrypt".into(), message: "permission denied".into(), ..Default::default() });
    world.want_kms("one", "image:1");
    for _ in 0..20 {
        world.reconcile();
        world.nodes_follow();
    }
    assert!(!world.kinds().contains(&"CreateKey".to_owned()));
    let loaded = |statuses: &[Option<keyward_core::api::EncryptionNodeStatus>]| {
        statuses.iter().map(|s| s.as_ref().unwrap().loaded_hash.clone()).collect::<Vec<_>>()
    };
    let now = world.objects.encryption_nodes.iter().map(|n| n.status.clone()).collect::<Vec<_>>();
    assert_eq!(loaded(&now), loaded(&before));
    assert_eq!(
        world.condition("EncryptionKMSPreflightControllerDegraded"),
        "True PreflightCheckFailed preflight of key 1 (new-key): node a: encrypt: permission denied"
    );
    world.preflight_failure = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
}

#[test]
fn a_missing_reference_is_named_and_overwrites_nothing() {
    let mut world = enabled();
    let credentials = ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() };
    let good = world.referenced.remove(&credentials).unwrap();
    let config = world.config();
    world.settle();
    assert_eq!(
        world.condition("EncryptionKeyControllerDegraded"),
        "True Error failed to create key: failed to get secret credentials in keyward-system: not found; credentials references it"
    );
    assert_eq!(world.config(), config);
    let mut empty = good.clone();
    empty.insert("token".into(), SecretBytes::default());
    world.referenced.insert(credentials.clone(), empty);
    world.settle();
    assert!(world.condition("EncryptionKeyControllerDegraded").contains("has an empty key \"token\""));
    let mut broken = good.clone();
    broken.insert("token".into(), SecretBytes::new(b"hunter2\r\n".to_vec()));
    world.referenced.insert(credentials.clone(), broken);
    world.settle();
    let shown = world.condition("EncryptionKeyControllerDegraded");
    let named =
        "secret credentials in keyward-system: key \"token\" ends with a line break (CRLF); store the value";
    assert!(shown.contains(named) && !shown.contains("hunter"), "{shown}");
    assert_eq!(world.config(), config);
    world.referenced.insert(credentials, good);
    world.settle();
    assert!(world.condition("EncryptionKeyControllerDegraded").starts_with("False"));
}

#[test]
fn a_changed_credential_reaches_every_key_in_use() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.settle();
    let credentials = ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() };
    world.referenced.get_mut(&credentials).unwrap().insert("token".into(), SecretBytes::new(b"new".to_vec()));
    let before = world.log.len();
    world.settle();
    let synced: Vec<u64> = world.log[before..]
        .iter()
        .filter(|action| action["kind"] == "SyncData")
        .map(|action| action["keyID"].as_u64().unwrap())
        .collect();
    assert_eq!(synced, [2, 1]);
    let (_, content) = world.revisions().pop().unwrap();
    for plugin in content.plugins.values() {
        assert!(plugin.referenced.values().all(|value| value.expose() == b"new"));
    }
}

#[test]
fn a_wrong_module_is_caught_by_the_key_check() {
    let mut world = enabled();
    // The provider's KEK identity ignores case: it calls `ONE` the same KEK, which is wrong.
    world.want_kms("ONE", "image:1");
    for _ in 0..20 {
        world.reconcile();
        world.nodes_follow();
    }
    assert!(!world.kinds().contains(&"UpdateKey".to_owned()));
    assert!(world.condition("EncryptionKMSPreflightControllerDegraded").starts_with("True KEKMismatch"));
}

#[test]
fn one_node_at_a_time() {
    let mut world = World::new(&NODES);
    world.settle();
    world.want_kms("one", "image:1");
    let mut most = 0;
    for _ in 0..100 {
        world.reconcile();
        let moving = world
            .objects
            .encryption_nodes
            .iter()
            .filter(|node| node.status.as_ref().is_none_or(|status| status.revision != node.spec.revision))
            .count();
        most = most.max(moving);
        world.nodes_follow();
    }
    assert_eq!(most, 1);
}

#[test]
fn what_cannot_be_read_decides_nothing() {
    let mut world = enabled();
    world.objects.unreadable = vec![keyward_core::platform::Unreadable {
        what: "secrets in keyward-system".into(),
        why: "Internal error".into(),
    }];
    world.objects.secrets.clear();
    let outcome = world.reconcile();
    assert!(outcome.actions.is_empty(), "{:?}", outcome.actions);
    assert_eq!(outcome.waiting.unwrap().reason, "Unreadable");
}

#[test]
fn a_foreign_configuration_is_left_alone() {
    let mut world = World::new(&NODES);
    world.settle();
    world.objects.encryption_nodes[1].status.as_mut().unwrap().loaded_hash =
        Some(keyward_core::ids::ConfigHash::of(b"foreign"));
    world.want_kms("one", "image:1");
    let outcome = world.reconcile();
    assert!(outcome.actions.is_empty());
    assert_eq!(outcome.waiting.unwrap().reason, "ForeignConfiguration");
}

#[test]
fn local_keys_are_made_without_a_preflight() {
    let mut world = World::new(&NODES);
    world.settle();
    world.want("aescbc");
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:1,identity");
    world.want("aesgcm");
    world.settle();
    assert_eq!(world.config()["secrets"], "aesgcm:2,aescbc:1,identity");
    assert!(!world.kinds().contains(&"RequirePreflight".to_owned()));
}
