//! `spec.paused`: decided as always, and nothing is carried out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use keyward_core::api::{NodePause, Pause};
use keyward_core::outcome::Action;
use support::World;

fn pause() -> Pause {
    Pause { reason: "the KMS is being moved".into(), by: "ada".into() }
}

fn kinds(actions: &[Action]) -> Vec<&'static str> {
    actions.iter().map(Action::kind).collect()
}

/// In every state of a change of key: paused, exactly what would be done is listed, and nothing of it is done.
#[test]
fn a_pause_withholds_what_resuming_then_does() {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("one", "image:1");
    world.settle();
    world.want_kms("two", "image:1");
    let mut withheld_at = 0;
    for _ in 0..80 {
        world.spec().paused = Some(pause());
        let before = world.objects.secrets.len();
        // Both decisions are of one moment: time passes with each.
        let ages = world.ages.clone();
        let paused = world.reconcile();
        assert!(paused.actions.is_empty(), "{:?}", kinds(&paused.actions));
        assert_eq!(world.objects.secrets.len(), before);
        let told = paused.view.paused.unwrap();
        assert_eq!(told.by, "ada");
        assert!(told.withheld.len() >= paused.withheld.len(), "{:?}", told.withheld);
        world.spec().paused = None;
        world.ages = ages;
        let resumed = world.reconcile();
        assert_eq!(kinds(&paused.withheld), kinds(&resumed.actions));
        assert!(resumed.withheld.is_empty() && resumed.view.paused.is_none());
        withheld_at += usize::from(!paused.withheld.is_empty());
        world.follow();
    }
    assert!(withheld_at > 8, "only {withheld_at} states had something to do");
    assert!(world.config()["secrets"].starts_with("kms:2,"), "{:?}", world.config());
}

#[test]
fn a_pause_is_reported_with_its_reason_and_health_goes_on() {
    let mut world = World::new(&["a"]);
    world.want_kms("one", "image:1");
    world.settle();
    assert!(world.condition("Paused").starts_with("False AsExpected"), "{}", world.condition("Paused"));
    world.spec().paused = Some(pause());
    world.want_kms("two", "image:1");
    world.made_anew.insert("one".into());
    world.nodes_follow();
    world.reconcile();
    let told = world.condition("Paused");
    assert!(told.starts_with("True SpecPaused Keyward is paused by ada: the KMS is being moved; "), "{told}");
    let told = world.condition("Progressing");
    assert!(told.starts_with("True Paused Keyward is paused by ada"), "{told}");
    assert!(
        world.condition("KMSPluginsDegraded").starts_with("True"),
        "{}",
        world.condition("KMSPluginsDegraded")
    );
}

#[test]
fn a_paused_agent_is_reported_with_its_node() {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("one", "image:1");
    world.settle();
    let paused =
        NodePause { reason: "an emergency edit".into(), since: None, withheld: vec!["PutBack x".into()] };
    world.objects.encryption_nodes[1].status.as_mut().unwrap().paused = Some(paused);
    world.reconcile();
    let told = world.condition("Paused");
    assert!(
        told.starts_with(
            "True NodesPaused the agent of node b is paused: an emergency edit; withheld steps: 1"
        ),
        "{told}"
    );
}
