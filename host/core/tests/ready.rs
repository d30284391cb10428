//! `Ready`: everything is observed to be as this generation of the spec requests (invariant: ready-is-true).
//! It is never True a pass too early, and its message says what the operator waits for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test stops at its first surprise

mod support;

use keyward_core::api::{EncryptionNodeStatus, HealthStatus};
use keyward_core::ids::RemoteKeyId;
use keyward_core::platform::Unreadable;
use rstest::rstest;
use support::World;

fn world() -> World {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("k1", "img");
    world.settle();
    world
}

fn ready(world: &World) -> String {
    world.condition("Ready")
}

fn statuses(world: &mut World) -> impl Iterator<Item = &mut EncryptionNodeStatus> {
    world.objects.encryption_nodes.iter_mut().filter_map(|node| node.status.as_mut())
}

/// What must be true of the objects while `Ready` is True.
fn check(world: &World, mode: &str, key: u64) {
    let newest = format!("{mode}:{key}");
    for (resource, list) in world.config() {
        assert!(list.starts_with(&newest), "{resource} is written by {list}: {}", ready(world));
    }
    let migrated =
        world.last.view.keys.iter().find(|found| found.key_id.0 == key).map(|key| key.migrated.len());
    assert_eq!(migrated, Some(2), "{}", ready(world));
    assert!(world.last.waiting.is_none() && world.last.actions.is_empty());
}

#[rstest]
#[case::another_kek(|w: &mut World| w.want_kms("k2", "img"), "kms")]
#[case::local(|w: &mut World| w.want("aesgcm"), "aesgcm")]
#[case::again(|w: &mut World| w.spec().reencrypt = Some("now".into()), "kms")]
fn ready_is_never_true_before_everything_is_under_the_new_key(
    #[case] change: fn(&mut World),
    #[case] mode: &str,
) {
    let mut world = world();
    assert!(
        ready(&world).starts_with("True AsRequested configmaps, secrets are stored under key 1 (KMS)"),
        "{}",
        ready(&world)
    );
    change(&mut world);
    let mut was_ready = false;
    for pass in 0..200 {
        world.compacted = pass > 150;
        world.reconcile();
        world.follow();
        if ready(&world).starts_with("True") {
            was_ready = true;
            check(&world, mode, 2);
        }
    }
    assert!(was_ready, "{}", ready(&world));
}

#[test]
fn ready_without_encryption_means_that_nothing_is_requested_and_nothing_encrypted() {
    let mut world = World::new(&["a"]);
    world.want("identity");
    world.settle();
    assert_eq!(ready(&world), "True AsRequested encryption is not requested, and nothing is encrypted");
}

#[test]
fn ready_after_decryption_waits_until_everything_is_plain() {
    let mut world = world();
    world.want("identity");
    world.reconcile();
    assert!(ready(&world).starts_with("False"), "{}", ready(&world));
    world.compacted = true;
    world.settle();
    assert!(ready(&world).starts_with("True AsRequested"), "{}", ready(&world));
}

#[test]
fn an_old_provider_that_waits_for_compaction_is_named() {
    let mut world = world();
    world.want_kms("k2", "img");
    world.settle();
    assert!(world.condition("Encrypted").starts_with("True"), "Encrypted keeps its meaning");
    let said = ready(&world);
    assert!(said.starts_with("False HistoryNotCompacted"), "{said}");
    assert!(
        said.contains("The provider of key 1 leaves when") && said.contains("--etcd-compaction-interval"),
        "{said}"
    );
    world.compacted = true;
    world.settle();
    assert!(ready(&world).starts_with("True"), "{}", ready(&world));
}

#[test]
fn a_wait_for_writes_in_flight_says_when_it_ends() {
    let mut world = world();
    world.want_kms("k2", "img");
    let mut seen = false;
    for _ in 0..60 {
        world.reconcile();
        world.follow();
        if ready(&world).starts_with("False WritesInFlight") {
            seen = true;
            let until = world.last.until.as_ref().unwrap();
            assert!(world.last.facts.contains_key(&until.fact), "the fact is kept");
            assert_eq!(until.after.as_secs(), 60);
        }
    }
    assert!(seen);
}

#[test]
fn a_plugin_that_fails_or_is_not_reported_is_not_ready() {
    let mut world = world();
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    for status in statuses(&mut world) {
        status.plugins[0].health.status = HealthStatus::Unhealthy;
    }
    world.reconcile();
    assert!(
        ready(&world).starts_with("False PluginUnhealthy Writes of configmaps, secrets continue while"),
        "{}",
        ready(&world)
    );
    for status in statuses(&mut world) {
        status.plugins.clear();
    }
    world.reconcile();
    assert!(ready(&world).starts_with("False"), "{}", ready(&world));
}

#[test]
fn what_cannot_be_read_makes_ready_unknown() {
    let mut world = world();
    world.objects.unreadable = vec![Unreadable { what: "secrets".into(), why: "timeout".into() }];
    world.reconcile();
    assert!(ready(&world).starts_with("Unknown Unreadable"), "{}", ready(&world));
}

#[test]
fn a_spec_with_a_mistake_is_not_ready() {
    let mut world = world();
    world.want("rot13");
    world.reconcile();
    assert!(ready(&world).starts_with("False"), "{}", ready(&world));
    assert!(world.condition("Encrypted").starts_with("True"), "the deployed configuration stays in force");
}

/// No report shows yet which version of the KEK an API server writes with.
#[test]
fn a_rotation_by_the_kms_is_reported_with_what_to_do_and_what_not_to_do() {
    let mut world = world();
    let rotated = |world: &mut World| {
        for status in statuses(world) {
            status.adopted.clear();
            for plugin in &mut status.plugins {
                plugin.health.remote_key_id = RemoteKeyId("kek@v2".into());
            }
        }
    };
    rotated(&mut world);
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    world.reconcile();
    let said = ready(&world);
    assert!(
        said.starts_with("False RotationNotFollowed the KMS rotated the KEK of key 1 from kek to kek@v2"),
        "{said}"
    );
    assert!(said.contains("Run keyward reencrypt.") && said.contains("min_decryption_version"), "{said}");
    let event = world.last.notices.iter().find(|notice| notice.reason == "RotationNotFollowed").unwrap();
    assert!(event.warning && event.message.contains("keyward reencrypt"), "{}", event.message);
    assert!(world.last.actions.is_empty(), "an API server that has not noticed it would skip old objects");
}
