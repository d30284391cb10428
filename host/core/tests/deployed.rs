//! The deployed state that `plan -f` compares with: an object that cannot be read is unknown, never absent
//! (invariant: unknown-is-not-absent).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use k8s_openapi::ByteString;
use keyward_core::api::{ForgetRequest, Pause};
use keyward_core::effect::{InForce, between};
use keyward_core::ids::{KeyId, Mode};
use keyward_core::names;
use keyward_core::platform::{Unreadable, kubernetes};
use keyward_core::provider::Effect;
use rstest::rstest;
use support::World;

fn enabled() -> World {
    let mut world = World::new(&["a", "b"]);
    world.want("aescbc");
    world.settle();
    world
}

/// Everything that is unknown, one line each; empty if nothing is.
fn unknown(world: &mut World) -> Vec<String> {
    let stored = kubernetes::wanted(world.spec());
    let snapshot = world.snapshot();
    match InForce::deployed(&snapshot, &stored) {
        Ok(_) => Vec::new(),
        Err(unknown) => unknown.into_iter().map(|one| format!("{}: {}", one.what, one.why)).collect(),
    }
}

fn newest(world: &mut World) -> usize {
    let (number, _) = world.revisions().pop().unwrap();
    let name = format!("encryption-config-{number}");
    let secrets = world.objects.secrets.iter();
    secrets.map(|secret| secret.metadata.name.clone()).position(|found| found == Some(name.clone())).unwrap()
}

#[test]
fn what_can_be_read_is_deployed() {
    let mut world = enabled();
    let stored = kubernetes::wanted(world.spec());
    let snapshot = world.snapshot();
    let deployed = InForce::deployed(&snapshot, &stored).unwrap();
    assert_eq!(deployed.mode, Mode::Aescbc);
    assert_eq!(deployed.encrypted.len(), 2);
}

/// A user who is not allowed to list Secrets gets none: a full decryption must not look like no change.
#[test]
fn secrets_that_cannot_be_read_do_not_count_as_nothing_encrypted() {
    let mut world = enabled();
    world.objects.secrets.clear();
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "forbidden".into() }];
    assert_eq!(unknown(&mut world), ["secrets in keyward-system: forbidden"]);
}

#[test]
fn one_of_keywards_secrets_that_cannot_be_decrypted_leaves_unknown_what_is_deployed() {
    let mut world = enabled();
    let at = newest(&mut world);
    world.objects.secrets.remove(at);
    let what = "secret keyward-system/encryption-config-3".to_owned();
    world.objects.unreadable = vec![Unreadable { what, why: "no matching prefix found".into() }];
    assert_eq!(unknown(&mut world).len(), 1);
}

#[test]
fn a_revision_that_is_not_understood_does_not_count_as_nothing_encrypted() {
    let mut world = enabled();
    let at = newest(&mut world);
    let data = world.objects.secrets[at].data.as_mut().unwrap();
    data.insert(names::CONFIG_KEY.to_owned(), ByteString(b"resources: [".to_vec()));
    let unknown = unknown(&mut world);
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(unknown[0].starts_with("secret keyward-system/encryption-config-"), "{unknown:?}");
}

#[rstest]
#[case::by_the_status(false, "the status records revision")]
#[case::by_a_node(true, "the agent of node ")]
fn a_recorded_revision_without_a_secret_does_not_count_as_nothing_encrypted(
    #[case] forgotten: bool,
    #[case] says: &str,
) {
    let mut world = enabled();
    world.objects.secrets.clear();
    if forgotten {
        // The object was deleted and created again.
        world.objects.cluster_encryption.as_mut().unwrap().status = None;
    } else {
        world.objects.encryption_nodes.clear();
    }
    let unknown = unknown(&mut world);
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(unknown[0].contains(says), "{unknown:?}");
}

#[test]
fn nothing_is_unknown_where_nothing_was_ever_encrypted() {
    let mut world = World::new(&["a"]);
    assert_eq!(unknown(&mut world), [""; 0]);
}

#[test]
fn a_kms_key_whose_configuration_no_module_evaluates_is_unknown_unless_encryption_changes_its_mode() {
    let mut world = World::new(&["a"]);
    world.want_kms("one", "image:1");
    world.settle();
    let stored = kubernetes::wanted(world.spec());
    let mut snapshot = world.snapshot();
    snapshot.evaluations.clear();
    let unknown = InForce::deployed(&snapshot, &stored).unwrap_err();
    assert!(unknown[0].what.contains("configuration of key 1"), "{unknown:?}");
    snapshot.wanted.mode = Ok(Mode::Identity);
    let deployed = InForce::deployed(&snapshot, &stored).unwrap();
    let change = between(&deployed, &snapshot.wanted, None).unwrap();
    assert_eq!(change.effect, Effect::Decrypt);
}

fn request(at: &str, accept_keyward_loss: bool) -> ForgetRequest {
    ForgetRequest { key_id: KeyId(1), requested_at: at.into(), objects: Some(3), accept_keyward_loss }
}

#[rstest]
#[case::another(&[], &[request("now", false)], Effect::Forget)]
#[case::again(&[request("before", false)], &[request("now", false)], Effect::Forget)]
#[case::accepts_more(&[request("now", false)], &[request("now", true)], Effect::Forget)]
#[case::accepts_less(&[request("now", true)], &[request("now", false)], Effect::None)]
#[case::the_same(&[request("now", false)], &[request("now", false)], Effect::None)]
#[case::removed(&[request("now", false)], &[], Effect::None)]
fn a_request_to_forget_a_key_is_the_most_costly_effect(
    #[case] stored: &[ForgetRequest],
    #[case] asked: &[ForgetRequest],
    #[case] effect: Effect,
) {
    let mut world = enabled();
    let mut before = kubernetes::wanted(world.spec());
    before.requests = stored.to_vec();
    world.spec().forget = asked.to_vec();
    let snapshot = world.snapshot();
    let deployed = InForce::deployed(&snapshot, &before).unwrap();
    let change = between(&deployed, &snapshot.wanted, None).unwrap();
    assert_eq!(change.effect, effect);
    assert_eq!(change.forgotten.contains(&KeyId(1)), effect == Effect::Forget);
    let settled = between(&InForce::settled(&before, None), &snapshot.wanted, None).unwrap();
    assert_eq!(settled.effect, effect, "both ways to plan agree");
}

#[rstest]
#[case::begins(false, true, Effect::Pause)]
#[case::stays(true, true, Effect::None)]
#[case::ends(true, false, Effect::Resume)]
fn a_pause_that_begins_or_ends_is_an_effect(#[case] was: bool, #[case] is: bool, #[case] effect: Effect) {
    let mut world = enabled();
    let pause = || Some(Pause { reason: "the KMS moves".into(), by: "ada".into() });
    let mut before = kubernetes::wanted(world.spec());
    before.paused = was.then(pause).flatten();
    world.spec().paused = is.then(pause).flatten();
    let snapshot = world.snapshot();
    let deployed = InForce::deployed(&snapshot, &before).unwrap();
    assert_eq!(between(&deployed, &snapshot.wanted, None).unwrap().effect, effect);
}
