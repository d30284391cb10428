//! Decryption is never an accident: an encrypted resource stays encrypted until the spec requests its
//! decryption (invariant: decryption-is-confirmed).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use rstest::rstest;
use support::World;

const KEY_CONTROLLER: &str = "EncryptionKeyControllerDegraded";

fn enabled() -> World {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.settle();
    world
}

/// A number of reconcile passes, for worlds that do not settle.
fn run(world: &mut World, passes: usize) {
    for _ in 0..passes {
        world.reconcile();
        world.follow();
    }
}

#[test]
fn a_resource_that_leaves_the_list_keeps_its_key_until_its_decryption_is_confirmed() {
    let mut world = enabled();
    let (before, actions) = (world.config(), world.log.len());
    world.spec().resources = Some(vec!["secrets".into()]);
    run(&mut world, 60);
    assert_eq!((world.config(), world.log.len()), (before, actions));
    let waiting = world.last.waiting.clone().unwrap();
    assert_eq!(waiting.reason, "DecryptionNotConfirmed");
    for part in ["configmaps", "spec.decrypt", "spec.resources"] {
        assert!(waiting.message.contains(part), "{}", waiting.message);
    }

    // It is still managed: a later key encrypts it too.
    world.compacted = true;
    world.want_kms("two", "image:1");
    run(&mut world, 60);
    let both = |providers: &str| {
        [("configmaps".to_owned(), providers.to_owned()), ("secrets".to_owned(), providers.to_owned())].into()
    };
    assert_eq!(world.config(), both("kms:2,identity"));

    world.spec().decrypt = vec!["configmaps".into()];
    world.settle();
    assert_eq!(world.config(), [("secrets".to_owned(), "kms:2,identity".to_owned())].into());
    assert_eq!(world.last.waiting, None);
}

#[rstest]
#[case::type_missing(None, true, "spec.encryption.type: Required value")]
#[case::type_empty(Some(""), true, "spec.encryption.type: Required value")]
#[case::encryption_emptied(None, false, "spec.encryption.type: Required value")]
#[case::letter_case(Some("Identity"), false, "did you mean \"identity\"?")]
#[case::unknown(Some("none"), false, "unknown encryption mode configured: none")]
fn a_spec_that_does_not_say_identity_decrypts_nothing(
    #[case] mode: Option<&str>,
    #[case] with_kms: bool,
    #[case] why: &str,
) {
    let mut world = enabled();
    let (before, actions) = (world.config(), world.log.len());
    let kms = world.spec().encryption.kms.clone();
    world.spec().encryption.type_ = mode.map(ToOwned::to_owned);
    world.spec().encryption.kms = kms.filter(|_| with_kms);
    // Nor in the same edit as a change that Keyward would carry out if it were alone.
    world.only_secrets(true);
    run(&mut world, 60);
    assert_eq!((world.config(), world.log.len()), (before, actions));
    let shown = world.condition(KEY_CONTROLLER);
    assert!(shown.starts_with("True") && shown.contains(why), "{shown}");
    assert!(!shown.contains("kms config is required"), "one mistake has one message: {shown}");

    world.want("identity");
    world.settle();
    assert!(world.config()["secrets"].starts_with("identity,"), "an explicit identity is a request");
}

#[rstest]
#[case::in_both_lists(&[], &["secrets"], "spec.decrypt: secrets: it is also in spec.resources")]
#[case::confirmed_twice(&[], &["widgets.x", "widgets.x"], "spec.decrypt: widgets.x: it is listed twice")]
#[case::wildcard(&["secrets"], &["*"], "spec.decrypt: *: wildcards are not allowed")]
fn a_mistake_in_the_lists_changes_nothing(
    #[case] resources: &[&str],
    #[case] decrypt: &[&str],
    #[case] why: &str,
) {
    let mut world = enabled();
    let (before, actions) = (world.config(), world.log.len());
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    world.spec().resources = (!resources.is_empty()).then(|| owned(resources));
    world.spec().decrypt = owned(decrypt);
    run(&mut world, 60);
    assert_eq!((world.config(), world.log.len()), (before, actions));
    let shown = world.condition(KEY_CONTROLLER);
    assert!(shown.contains(why), "{shown}");
}

/// The intention is clear, and the resource stays encrypted. So this is a warning, not a mistake that would
/// stop rotations.
#[test]
fn a_resource_that_is_listed_twice_changes_nothing_and_is_a_warning() {
    let mut world = enabled();
    let (before, actions) = (world.config(), world.log.len());
    world.spec().resources = Some(vec!["secrets".into(), "secrets".into()]);
    run(&mut world, 60);
    assert_eq!((world.config(), world.log.len()), (before, actions));
    assert_eq!(world.condition(KEY_CONTROLLER), "False AsExpected ");
    let shown: Vec<&str> = world.last.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(shown.contains(&"spec.resources: secrets: it is listed twice; it counts once"), "{shown:?}");
}

#[test]
fn a_confirmation_for_what_was_never_encrypted_changes_nothing() {
    let mut world = enabled();
    let (before, actions) = (world.config(), world.log.len());
    world.spec().decrypt = vec!["widgets.example.com".into()];
    world.settle();
    assert_eq!((world.config(), world.log.len()), (before, actions));
    assert_eq!(world.last.waiting, None);
}

#[test]
fn a_started_decryption_continues_while_the_spec_has_another_mistake() {
    let mut world = enabled();
    world.only_secrets(true);
    world.stuck = Some("configmaps".into());
    run(&mut world, 60);
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
    world.spec().plugins.timeout = Some("ten seconds".into());
    run(&mut world, 60);
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
}

/// Without the object the operator removes no provider from any configuration.
#[test]
fn the_status_lists_a_resource_until_no_key_is_in_its_list() {
    let mut world = enabled();
    world.compacted = false;
    world.only_secrets(true);
    let (mut rewritten, mut before) = (false, true);
    for compacted in [false, true] {
        world.compacted = compacted;
        for _ in 0..60 {
            let config = world.config();
            let listed = world.last.view.encrypted.clone().unwrap().contains(&"configmaps".to_owned());
            let has_key = config.get("configmaps").is_some_and(|list| list.contains("kms:"));
            assert!(listed || !has_key, "{config:?}");
            rewritten |= listed && config.get("configmaps").is_some_and(|list| list.starts_with("identity"));
            before = listed;
            world.reconcile();
            world.follow();
        }
    }
    assert!(rewritten && !before, "{:?}", world.config());
}

/// A policy denies the deletion of the object while this list is not empty.
#[test]
fn the_status_lists_what_may_be_stored_under_a_key() {
    let encrypted = |world: &World| world.last.view.encrypted.clone().unwrap();
    let mut world = World::new(&["a", "b"]);
    world.settle();
    assert!(encrypted(&world).is_empty());
    world.want_kms("one", "image:1");
    world.settle();
    assert_eq!(encrypted(&world), ["configmaps", "secrets"]);
    world.only_secrets(true);
    world.stuck = Some("configmaps".into());
    run(&mut world, 60);
    assert_eq!(encrypted(&world), ["configmaps", "secrets"], "decryption is not done");
    world.stuck = None;
    world.compacted = true;
    world.settle();
    assert_eq!(encrypted(&world), ["secrets"]);
    world.want("identity");
    world.stuck = Some("secrets".into());
    run(&mut world, 60);
    assert_eq!(encrypted(&world), ["secrets"], "decryption is not done");
    world.stuck = None;
    world.settle();
    assert!(encrypted(&world).is_empty());
}
