//! What is shown each time: small bounds completely, some schedules by chance, and that every mistake is found.

use std::collections::BTreeSet;

use keyward_core::ids::KeyId;
use keyward_test_sim::explore::random::{self, Plan};
use keyward_test_sim::explore::{Way, exhaustive, replay};
use keyward_test_sim::mutants::Mutant;
use keyward_test_sim::pairs::{self, WrongClaim};
use keyward_test_sim::scenario;
use keyward_test_sim::world::step::Kind;

/// Known to go wrong, each told where it is to be mended; taken out of here with that.
const KNOWN: &[Kind] = &[];

#[test]
fn every_state_within_small_bounds_is_sound() {
    for (what, mut bounds) in scenario::small() {
        bounds.without = KNOWN.to_vec();
        let found = exhaustive::explore(&bounds, 2, |_| ());
        println!("{what}: {} states", found.states);
        let told: Vec<String> = found.violations.iter().map(|(v, way)| format!("{v}\n  {way}")).collect();
        assert!(told.is_empty(), "{what}:\n{}", told.join("\n"));
        // The smallest has 208: an outage and a request, and nothing else may move.
        assert!(found.complete && found.states > 150, "{what}: {} states", found.states);
    }
}

#[test]
fn schedules_by_chance_are_sound() {
    let found = random::explore(&Plan {
        schedules: 1000,
        seed: 1,
        without: KNOWN.to_vec(),
        only: None,
        length: 200,
        mutant: None,
        liveness_each: 0,
        threads: 2,
        enough: 3,
    });
    let told: Vec<String> =
        found.violations.iter().map(|(s, v, way)| format!("seed {s}: {v}\n  {way}")).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    assert_eq!(found.schedules, 1000);
}

#[test]
fn every_mistake_is_found() {
    assert!(Mutant::ALL.len() >= 15);
    let missed: Vec<&Mutant> = Mutant::ALL.iter().filter(|m| m.hunt(2000, 1, 2).is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// So many pairs, or as many as the environment says.
fn pairs() -> u64 {
    std::env::var("KEYWARD_SIM_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn plan_claims_what_is_then_decided() {
    let (seen, differences) = pairs::compare(pairs(), 1, None);
    println!("pairs {}, by effect {seen:?}, differences {}", pairs(), differences.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    // Else there would be nothing to compare.
    assert!(seen.len() == 5 && seen.values().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn every_wrong_claim_is_found() {
    for wrong in WrongClaim::ALL {
        let (_, differences) = pairs::compare(pairs(), 1, Some(wrong));
        assert!(!differences.is_empty(), "{wrong:?} is not found");
    }
}

#[test]
fn a_way_is_read_as_it_is_written() {
    let text = "2/3+5/spec.1,reconcile-dies.0.2,agent.1,tick.2";
    let way: Way = text.parse().unwrap();
    assert_eq!(way.to_string(), text);
    assert!("2/3/jump".parse::<Way>().is_err());
}

#[test]
fn a_whole_life_ends_well() {
    for way in [
        "1//spec.3",
        "1//spec.1",
        "1/3/spec.5",
        "1/3/spec.0",
        "2/1/spec.3",
        "3/3/spec.4,reconcile",
        "2/3/rotate",
    ] {
        let way: Way = way.parse().unwrap();
        assert_eq!(replay(&way, None, |_, _| ()), None, "{way}");
    }
}

/// What a second operator decided before a resource left the list and writes after it came back is about an earlier time
/// of the key as its writer: a claim, or a migration.
#[test]
fn what_is_written_late_claims_nothing() {
    let rounds = ["round"; 9].join(",");
    let comes_back = "decide.1,resources.0,reconcile,reconcile,reconcile,agent,agent,poll,agent,reconcile,\
                      resources.2,reconcile,reconcile";
    let way: Way =
        format!("1//spec.3,resources.2,{rounds},reconcile,reconcile,{comes_back},act.1").parse().unwrap();
    assert_eq!(replay(&way, None, |_, _| ()), None, "{way}");
}

/// A newest revision that is gone for good, with a node that had it and wrote by it. Its key is known from the status, or
/// its secret can be mended.
#[test]
fn what_a_lost_revision_wrote_is_read_on() {
    let rolls = |n: usize| format!("agent.{n},agent.{n},agent.{n},poll.{n},agent.{n}");
    let (a, b, c) = (rolls(0), rolls(1), rolls(2));
    // The operator dies before it tells that all had the revision before.
    let deleted = format!(
        "3/1/spec.2,reconcile,reconcile,reconcile,{a},reconcile,{b},reconcile,{c},reconcile-dies.0.3,reconcile,\
         reconcile,{a},stop.0,tick.2,leave.0,stop.2,agent.2,agent.1,delete-revision.0,delete-key.2,reconcile,\
         reconcile,reconcile,agent.1"
    );
    // The KEK of key 1 was recreated, so that the key does not work and may be forgotten. Its only successor writes at once.
    let accepted = "anew,round,round,forget.1,reconcile,round,round,spec.1";
    let undecodable = format!(
        "3/3/{accepted},reconcile,reconcile,reconcile,{a},stop.0,tick.2,leave.0,agent.1,agent.2,delete-revision.0,\
         corrupt-key.2,reconcile,reconcile,reconcile,mend-keys"
    );
    let installed = format!(
        "3/3/{accepted},reconcile,reconcile,delete-key.2,reconcile,agent-dies.0.4,delete-node,delete-key.1,\
         delete-revision,reconcile,agent,tick.2"
    );
    for (text, forgets) in [(deleted, false), (undecodable, true), (installed, true)] {
        let way: Way = text.parse().unwrap();
        let mut key_2_writes = false;
        let violation = replay(&way, None, |world, _| {
            let is_replaced = world.books.latest.as_ref().is_some_and(|(_, latest)| {
                latest.keys.contains(&KeyId(2)) && !latest.keys.contains(&KeyId(1))
            });
            key_2_writes |= is_replaced && world.books.given_up.contains(&KeyId(1));
        });
        assert_eq!(violation, None, "{way}");
        assert_eq!(key_2_writes, forgets, "{way}");
    }
}

/// Else what is explored kind by kind would leave one out.
#[test]
fn every_fault_is_of_a_kind_that_is_explored() {
    let rounds = ["round"; 9].join(",");
    let way: Way = format!("3/5+1+3/spec.5,{rounds},forget.3,{rounds},register.2,{rounds}").parse().unwrap();
    let known: BTreeSet<Kind> = scenario::fault_kinds().collect();
    let mut seen = BTreeSet::new();
    replay(&way, None, |world, _| seen.extend(scenario::faults(world).iter().map(|step| step.kind)));
    assert!(seen.is_subset(&known), "{:?}", seen.difference(&known));
    assert!(seen.len() > 25, "the way has little of it: {seen:?}");
}
