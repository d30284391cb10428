//! `spec.forget`: a request is bound to what was true when it was made (invariant: forget-is-bound).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use keyward_core::api::{ForgetPhase, ForgetStatus};
use keyward_core::ids::KeyId;
use keyward_core::outcome::Action;
use keyward_core::platform::Unreadable;
use support::World;

fn enabled() -> World {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("one", "image:1");
    world.settle();
    world
}

/// Key 2 is the write key, and re-encryption has not ended: something is stored under both keys.
fn between() -> World {
    let mut world = enabled();
    world.want("aescbc");
    world.stuck = Some("secrets".into());
    world.settle();
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
    world
}

fn request(world: &World) -> &ForgetStatus {
    &world.last.view.forget[0]
}

fn rounds(world: &mut World, count: usize) {
    for _ in 0..count {
        world.follow();
        world.reconcile();
    }
}

/// The request is made in an outage in which nothing can be decided, and the KMS returns before anything can.
#[test]
fn a_request_of_an_outage_is_void_once_the_key_works_again() {
    let mut world = between();
    world.broken.insert(KeyId(1));
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "kms away".into() }];
    world.forget(&[1], "outage");
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::Pending, "{:?}", request(&world));
    // Readable again, and the last reports are from before.
    world.objects.unreadable.clear();
    world.reconcile();
    assert_eq!(request(&world).phase, ForgetPhase::Pending, "{:?}", request(&world));
    world.broken.clear();
    rounds(&mut world, 20);
    let shown = request(&world);
    assert_eq!(shown.phase, ForgetPhase::Void, "{shown:?}");
    assert!(shown.message.contains("key 1 works (its plugin on node a is Healthy)"), "{shown:?}");
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity", "nothing is lost");
    // The request stays void even if the key fails again; only another request counts.
    world.broken.insert(KeyId(1));
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::Void);
    world.forget(&[1], "again");
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::CarriedOut, "{:?}", request(&world));
    assert_eq!(world.config()["secrets"], "aescbc:2,identity");
}

/// The request is accepted, and the key works again before a revision without it is created.
#[test]
fn an_accepted_request_is_void_where_the_key_works_before_it_leaves() {
    let mut world = between();
    world.forget_accepted(&[1]);
    world.broken.clear();
    world.nodes_follow();
    world.reconcile();
    assert_eq!(request(&world).phase, ForgetPhase::Void);
    rounds(&mut world, 10);
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
}

#[test]
fn a_key_that_works_is_forgotten_only_where_nothing_is_stored_under_it() {
    let mut world = between();
    world.forget(&[1], "now");
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::Void);
    // A local key is part of the configuration: it works.
    world.forget(&[2], "now");
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::Void);
    world.stuck = None;
    world.settle();
    world.forget(&[1], "later");
    rounds(&mut world, 20);
    assert_eq!(request(&world).phase, ForgetPhase::CarriedOut, "{:?}", request(&world));
    assert_eq!(world.config()["secrets"], "aescbc:2,identity");
}

#[test]
fn a_key_that_a_silent_node_does_not_report_is_not_forgotten() {
    let mut world = between();
    world.broken.insert(KeyId(1));
    world.nodes_follow();
    world.silent.insert("b".into());
    world.forget(&[1], "now");
    rounds(&mut world, 40);
    let shown = request(&world);
    assert_eq!(shown.phase, ForgetPhase::Pending, "{shown:?}");
    assert!(shown.message.contains("node b is silent: its report about the plugin is too old"), "{shown:?}");
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
}

/// Keyward's own Secrets are re-encrypted under the write key first: one of them is the key secret of key 2,
/// an AES key.
#[test]
fn keyward_s_own_objects_are_re_encrypted_before_a_key_leaves() {
    let mut world = between();
    world.broken.insert(KeyId(1));
    world.forget(&[1], "now");
    world.spec().forget[0].accept_keyward_loss = false;
    for _ in 0..20 {
        world.follow();
        let outcome = world.reconcile();
        let at = |kind: &str| outcome.actions.iter().position(|action| action.kind() == kind);
        if let Some(applied) = at("ApplyConfig") {
            assert!(at("ReencryptOwn").is_some_and(|own| own < applied), "{:?}", outcome.actions);
            let own = outcome.actions.iter().find_map(|action| match action {
                Action::ReencryptOwn { resources, leaving, required: true } => {
                    Some((resources.clone(), leaving.clone()))
                }
                _ => None,
            });
            let (resources, leaving) = own.unwrap();
            let resources: Vec<String> = resources.iter().map(ToString::to_string).collect();
            assert_eq!((resources.join(" "), leaving), ("configmaps secrets".to_owned(), vec![KeyId(1)]));
            return;
        }
    }
    panic!("key 1 did not leave: {:?}", request(&world));
}

/// If the write key itself is to be forgotten, they cannot be re-encrypted first.
#[test]
fn the_write_key_of_secrets_is_kept_until_the_loss_of_keyward_s_own_is_accepted() {
    let mut world = enabled();
    world.broken.insert(KeyId(1));
    world.forget(&[1], "now");
    world.spec().forget[0].accept_keyward_loss = false;
    rounds(&mut world, 40);
    let shown = request(&world);
    assert_eq!(shown.phase, ForgetPhase::Pending, "{shown:?}");
    assert!(shown.message.contains("it is the write key of configmaps"), "{shown:?}");
    assert!(shown.message.contains("docs/recovery.md"), "{shown:?}");
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    world.spec().forget[0].accept_keyward_loss = true;
    rounds(&mut world, 40);
    assert_eq!(request(&world).phase, ForgetPhase::CarriedOut, "{:?}", request(&world));
}

/// If the write key is to be forgotten too, no key that stays can encrypt Keyward's own objects.
#[test]
fn keys_that_fail_together_are_forgotten_only_where_the_loss_of_keyward_s_own_is_accepted() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.stuck = Some("secrets".into());
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    world.broken.extend([KeyId(1), KeyId(2)]);
    world.forget(&[1, 2], "now");
    for request in &mut world.spec().forget {
        request.accept_keyward_loss = request.key_id == KeyId(2);
    }
    rounds(&mut world, 20);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    assert!(request(&world).message.contains("would be stored under key 2"), "{:?}", request(&world));
    world.spec().forget[0].accept_keyward_loss = true;
    for _ in 0..20 {
        world.follow();
        let outcome = world.reconcile();
        if outcome.actions.iter().any(|action| action.kind() == "ApplyConfig") {
            assert!(
                !outcome
                    .actions
                    .iter()
                    .any(|action| matches!(action, Action::ReencryptOwn { required: true, .. }))
            );
        }
    }
    assert!(!world.config()["secrets"].contains("kms:1"), "{:?}", world.config());
}

/// The evidence of an acceptance must be true until the key leaves: a node that becomes silent, or an
/// operator that has not seen the failure itself, ends the acceptance.
#[test]
fn an_acceptance_ends_when_its_evidence_ends() {
    let mut world = between();
    world.broken.insert(KeyId(1));
    world.forget(&[1], "now");
    let mut left = 40;
    while request_phase(&world) != Some(ForgetPhase::Accepted) {
        left -= 1;
        assert!(left > 0, "{:?}", world.last.view.forget);
        world.follow();
        world.reconcile();
    }
    // Another operator becomes the leader.
    world.ages.clear();
    world.reconcile();
    assert_eq!(request(&world).phase, ForgetPhase::Pending, "{:?}", request(&world));
    assert_eq!(world.config()["secrets"], "aescbc:2,kms:1,identity");
    rounds(&mut world, 40);
    assert_eq!(request(&world).phase, ForgetPhase::CarriedOut, "{:?}", request(&world));
}

fn request_phase(world: &World) -> Option<ForgetPhase> {
    world.last.view.forget.first().map(|request| request.phase)
}

#[test]
fn a_number_that_was_never_made_is_refused() {
    let mut world = enabled();
    world.forget(&[9], "now");
    rounds(&mut world, 2);
    assert_eq!(request(&world).message, "key 9 does not exist; the highest key number is 1");
    assert_eq!(request(&world).phase, ForgetPhase::Void);
}
