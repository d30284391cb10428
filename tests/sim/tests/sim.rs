//! The checks of every run: small bounds completely, some random schedules, and that every mutant is found.

use std::collections::BTreeSet;

use keyward_core::ids::KeyId;
use keyward_test_sim::explore::random::{self, Plan};
use keyward_test_sim::explore::{Way, exhaustive, replay};
use keyward_test_sim::mutants::Mutant;
use keyward_test_sim::pairs::{self, WrongClaim};
use keyward_test_sim::scenario;
use keyward_test_sim::world::step::Kind;

/// Kinds of faults with a known violation. A fix removes its kind from here.
const KNOWN: &[Kind] = &[];

#[test]
fn every_state_within_small_bounds_is_sound() {
    for (what, mut bounds) in scenario::small() {
        bounds.without = KNOWN.to_vec();
        let found = exhaustive::explore(&bounds, 2, |_| ());
        println!("{what}: {} states", found.states);
        let violations: Vec<String> =
            found.violations.iter().map(|(v, way)| format!("{v}\n  {way}")).collect();
        assert!(violations.is_empty(), "{what}:\n{}", violations.join("\n"));
        // The smallest exploration has 208 states: an outage and a request, and nothing else can happen.
        assert!(found.complete && found.states > 150, "{what}: {} states", found.states);
    }
}

#[test]
fn random_schedules_are_sound() {
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
    let violations: Vec<String> =
        found.violations.iter().map(|(s, v, way)| format!("seed {s}: {v}\n  {way}")).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert_eq!(found.schedules, 1000);
}

#[test]
fn every_mistake_is_found() {
    assert!(Mutant::ALL.len() >= 15);
    let missed: Vec<&Mutant> = Mutant::ALL.iter().filter(|m| m.hunt(2000, 1, 2).is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The number of pairs, which the environment can set.
fn pairs() -> u64 {
    std::env::var("KEYWARD_SIM_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn plan_claims_what_is_then_decided() {
    let (seen, differences) = pairs::compare(pairs(), 1, None);
    println!("pairs {}, by effect {seen:?}, differences {}", pairs(), differences.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    // Otherwise there would be nothing to compare.
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

/// A second operator decides before a resource leaves the list, and writes after the resource was added
/// again. Its record or its migration is about an earlier publication of the key (decision 0056).
#[test]
fn a_decision_from_before_the_publication_claims_nothing() {
    let rounds = ["round"; 9].join(",");
    let is_added_again = "decide.1,resources.0,reconcile,reconcile,reconcile,agent,agent,poll,agent,reconcile,\
                      resources.2,reconcile,reconcile";
    let way: Way =
        format!("1//spec.3,resources.2,{rounds},reconcile,reconcile,{is_added_again},act.1").parse().unwrap();
    assert_eq!(replay(&way, None, |_, _| ()), None, "{way}");
}

/// The newest revision is lost for good, with a node that had it and wrote with its key. The key is known
/// from the status, or its secret can be repaired.
#[test]
fn what_a_lost_revision_wrote_is_read_on() {
    let rolls = |n: usize| format!("agent.{n},agent.{n},agent.{n},poll.{n},agent.{n}");
    let (a, b, c) = (rolls(0), rolls(1), rolls(2));
    // The operator dies before it records that every server had the previous revision.
    let deleted = format!(
        "3/1/spec.2,reconcile,reconcile,reconcile,{a},reconcile,{b},reconcile,{c},reconcile-dies.0.3,reconcile,\
         reconcile,{a},stop.0,tick.2,leave.0,stop.2,agent.2,agent.1,delete-revision.0,delete-key.2,reconcile,\
         reconcile,reconcile,agent.1"
    );
    // The KEK of key 1 was recreated, so that the key does not work and may be forgotten. Its only successor
    // writes at once.
    let accepted = "recreate-kek,round,round,forget.1,reconcile,round,round,spec.1";
    let undecodable = format!(
        "3/3/{accepted},reconcile,reconcile,reconcile,{a},stop.0,tick.2,leave.0,agent.1,agent.2,delete-revision.0,\
         corrupt-key.2,reconcile,reconcile,reconcile,fix-keys"
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
            key_2_writes |= is_replaced && world.books.forgotten.contains(&KeyId(1));
        });
        assert_eq!(violation, None, "{way}");
        assert_eq!(key_2_writes, forgets, "{way}");
    }
}

/// Otherwise the exploration kind by kind would omit one.
#[test]
fn every_fault_is_of_a_kind_that_is_explored() {
    let rounds = ["round"; 9].join(",");
    let way: Way = format!("3/5+1+3/spec.5,{rounds},forget.3,{rounds},register.2,{rounds}").parse().unwrap();
    let known: BTreeSet<Kind> = scenario::fault_kinds().collect();
    let mut seen = BTreeSet::new();
    replay(&way, None, |world, _| seen.extend(scenario::faults(world).iter().map(|step| step.kind)));
    assert!(seen.is_subset(&known), "{:?}", seen.difference(&known));
    assert!(seen.len() > 25, "the way has too few faults: {seen:?}");
}
