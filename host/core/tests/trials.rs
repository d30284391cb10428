//! Candidates that fail, and work that continues meanwhile, on the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use keyward_core::names;
use keyward_core::platform::ObjectRef;
use keyward_core::provider::{Failure, ReferenceKind};
use rstest::rstest;
use support::World;

const KEY_CONTROLLER: &str = "EncryptionKeyControllerDegraded";

fn credentials() -> ObjectRef {
    ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() }
}

/// A reference that cannot be read for a while does not end a preflight (invariant: unknown-is-not-absent).
#[test]
fn a_failed_read_does_not_end_a_preflight() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.reconcile();
    world.reconcile();
    let candidate = |world: &World| {
        let of = |s: &&k8s_openapi::api::core::v1::Secret| {
            s.metadata.name.as_deref() == Some(names::PREFLIGHT_SECRET)
        };
        world.objects.secrets.iter().find(of).and_then(|s| s.metadata.resource_version.clone())
    };
    let before = candidate(&world);
    assert!(before.is_some());
    world.unreadable.insert(credentials());
    world.run(5);
    assert_eq!(candidate(&world), before);
    assert!(world.condition(KEY_CONTROLLER).contains("timed out"), "{}", world.condition(KEY_CONTROLLER));
    world.unreadable.clear();
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity", "the number is the first one still");
}

/// Keys in use follow their credentials, even while another requested change fails (decision 0002).
#[test]
fn a_new_key_that_fails_does_not_keep_credentials_from_being_followed() {
    let mut world = World::enabled();
    world.want_kms("two", "image:1");
    world.failing_kek = Some("two".into());
    world.run(20);
    world.renew_credentials();
    world.run(40);
    let synced = world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1);
    assert!(synced, "{:#?}", world.log);
    world.failing_kek = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
}

/// … and the other way round: an old KEK that is gone does not prevent a new key.
#[test]
fn a_key_in_use_that_fails_does_not_keep_a_new_one_from_being_made() {
    let mut world = World::enabled();
    world.failing_kek = Some("one".into());
    world.renew_credentials();
    world.run(20);
    world.want_kms("two", "image:1");
    world.run(80);
    assert!(world.config()["secrets"].starts_with("kms:2,kms:1"), "{:?}", world.config());
}

/// The provider diagnoses the candidate's configuration: here the one of the key, not the one in the spec.
#[test]
fn a_failing_preflight_is_reported_with_cause_remedy_and_the_place_of_its_log() {
    let mut world = World::enabled();
    world.want_kms("two", "image:1");
    world.settle();
    world.preflight_failure = Some(Failure {
        phase: "start".into(),
        exit_code: Some(2),
        message: "the plugin ended with exit code 2".into(),
        log_tail: ["no flag -new", "Usage:", "  -old", "  -older", "  -oldest"].map(Into::into).into(),
        ..Default::default()
    });
    world.renew_credentials();
    let shown = |world: &mut World, key: &str, cannot: &str| {
        let before = format!(
            "preflight of key {key}: node a: ended: the plugin of {cannot} cannot run (start: the plugin ended with \
             exit code 2; its log is in keyward status). correct it"
        );
        for _ in 0..80 {
            world.reconcile();
            world.nodes_follow();
            if world.condition("EncryptionKMSPreflightControllerDegraded").contains(&before) {
                return;
            }
        }
        panic!("{before:?} is not shown: {:#?}", world.last.conditions);
    };
    shown(&mut world, "2 (sync)", "two");
    shown(&mut world, "1 (sync)", "one");
}

/// The plugin does not even start: it is unknown whether its login works.
fn refused() -> Failure {
    Failure { phase: "start".into(), message: "permission denied".into(), ..Default::default() }
}

/// If both trials fail, they alternate, and that uses up nothing: the number of a key that was not created
/// stays free.
#[rstest]
#[case::refused_before_their_login(refused(), 60)]
#[case::refused_after_it(Failure { phase: "encrypt".into(), ..refused() }, 4)]
fn failing_trials_alternate_and_use_up_no_key_number(#[case] failure: Failure, #[case] rounds: usize) {
    let mut world = World::enabled();
    world.renew_credentials();
    world.want_kms("two", "image:1");
    world.preflight_failure = Some(failure);
    let mut begun: Vec<(usize, u64, String)> = Vec::new();
    let mut shown = false;
    for round in 0..600 {
        let before = world.log.len();
        world.reconcile();
        world.follow();
        let written = world.log.iter().skip(before).filter(|action| action["kind"] == "RequirePreflight");
        begun.extend(written.map(|action| {
            (round, action["keyID"].as_u64().unwrap(), action["for"].as_str().unwrap().to_owned())
        }));
        let waiting = world.last.waiting.as_ref();
        shown |= waiting.is_some_and(|waiting| waiting.message.contains("; next: key "));
        let asked = world.objects.encryption_nodes.iter().filter(|node| node.spec.preflight.is_some());
        assert!(asked.count() <= 1, "a node that fails is asked alone");
        if round % 7 == 0 {
            world.unreadable.insert(credentials());
            world.reconcile();
            world.unreadable.clear();
        }
    }
    let trials: Vec<_> = begun.iter().map(|(_, key, purpose)| (*key, purpose.as_str())).collect();
    assert!(trials.len() > 8, "{begun:?}");
    for pair in trials.chunks_exact(2) {
        assert_eq!(pair, [(1, "sync"), (2, "new-key")]);
    }
    // At 30 s a pass, and one more in each seven.
    for pair in begun.windows(2) {
        let apart = pair[1].0 - pair[0].0;
        assert!(apart <= rounds + 2 && (apart + 1) * 8 / 7 + 1 >= rounds, "{apart}: {begun:?}");
    }
    assert!(shown, "the next trial is shown");
    world.preflight_failure = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
}

/// A new candidate every ten minutes does not keep the other trials waiting for ever.
#[test]
fn a_key_check_that_some_node_never_decrypts_does_not_keep_credentials_from_being_followed() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    world.failing_kek = Some("two".into());
    world.failing_at = [("b".to_owned(), "key-check"), ("c".to_owned(), "start")].into();
    world.want_kms("two", "image:1");
    world.run(30);
    world.renew_credentials();
    world.run(80);
    let synced = world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1);
    assert!(synced, "{:#?}", world.log);
}

/// While the spec has a mistake, the key in use is still managed.
#[test]
fn a_wrong_spec_does_not_keep_credentials_from_being_followed() {
    let mut world = World::enabled();
    world.spec().encryption.kms = Some(serde_json::json!({"type": "Test", "test": {}}));
    world.renew_credentials();
    world.run(20);
    assert!(world.condition(KEY_CONTROLLER).contains("Required value"));
    assert!(world.kinds().contains(&"SyncData".to_owned()));
}
