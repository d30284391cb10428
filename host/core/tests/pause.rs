//! `spec.paused`: decisions are made as always, and nothing is carried out
//! (invariant: pause-withholds-everything).

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

/// In every state of a key change, a paused operator lists exactly the actions that it withholds, and does
/// none of them.
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
        // Both decisions are made at one moment: each reconcile pass lets time pass.
        let ages = world.ages.clone();
        let paused = world.reconcile();
        assert!(paused.actions.is_empty(), "{:?}", kinds(&paused.actions));
        assert_eq!(world.objects.secrets.len(), before);
        let shown = paused.view.paused.unwrap();
        assert_eq!(shown.by, "ada");
        assert!(shown.withheld.len() >= paused.withheld.len(), "{:?}", shown.withheld);
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
fn a_pause_is_reported_with_its_reason_and_health_is_still_reported() {
    let mut world = World::new(&["a"]);
    world.want_kms("one", "image:1");
    world.settle();
    assert!(world.condition("Paused").starts_with("False AsExpected"), "{}", world.condition("Paused"));
    world.spec().paused = Some(pause());
    world.want_kms("two", "image:1");
    world.recreated_keks.insert("one".into());
    world.nodes_follow();
    world.reconcile();
    let shown = world.condition("Paused");
    assert!(
        shown.starts_with("True SpecPaused Keyward is paused by ada: the KMS is being moved; "),
        "{shown}"
    );
    let shown = world.condition("Progressing");
    assert!(shown.starts_with("True Paused Keyward is paused by ada"), "{shown}");
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
    let shown = world.condition("Paused");
    assert!(
        shown.starts_with(
            "True NodesPaused the agent of node b is paused: an emergency edit; withheld steps: 1"
        ),
        "{shown}"
    );
}
