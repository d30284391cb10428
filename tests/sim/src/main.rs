//! `keyward-sim`: explores the world around Keyward's decisions. The last line has the figures.

#![allow(clippy::indexing_slicing)] // nodes are counted by the same list everywhere
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use keyward_test_sim::explore::random::{self, Plan};
use keyward_test_sim::explore::{Way, exhaustive, replay, shrink};
use keyward_test_sim::invariants::Violation;
use keyward_test_sim::mutants::Mutant;
use keyward_test_sim::pairs;
use keyward_test_sim::scenario;
use keyward_test_sim::world::World;
use keyward_test_sim::world::step::{Kind, Step};

#[derive(Parser)]
#[command(name = "keyward-sim", about = "Explores the world around Keyward's decisions")]
struct Options {
    /// How many random schedules of 200 steps with up to three API servers
    #[arg(long, default_value_t = 2000)]
    schedules: u64,
    /// The seed of the first schedule; each schedule has the next seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many schedules run at a time
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// For every N-th schedule, check from its end that everything ends well; 0 for none
    #[arg(long, default_value_t = 16)]
    ends: u64,
    /// What is explored completely
    #[arg(long, value_enum, default_value_t = Complete::Small)]
    complete: Complete,
    /// Steps, by name, that must not happen
    #[arg(long, value_delimiter = ',')]
    without: Vec<Kind>,
    /// Of the explorations by kind of fault, run only these kinds
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Run the decisions that are wrong on purpose, and check that each is found
    #[arg(long)]
    mutants: bool,
    /// Only compare what `plan` claims with what is then decided, for this many pairs of specs
    #[arg(long)]
    pairs: Option<u64>,
    /// Replay one schedule: NODES/SPECS/STEPS, as printed with a violation
    #[arg(long)]
    replay: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Complete {
    /// Nothing
    None,
    /// Explorations that take seconds
    Small,
    /// 1 API server, 3 keys, every single fault, kind by kind: an hour or more
    Faults,
    /// The same with the first key in force at the beginning
    InForce,
    /// All of these: hours
    Large,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let good = match &options.replay {
        Some(way) => again(way),
        None if options.pairs.is_some() => compared(&options),
        None if options.mutants => mutants(&options),
        None => explore(&options),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn explore(options: &Options) -> bool {
    let (mut states, mut steps, mut violations) = (0, 0, 0);
    let bounds = match options.complete {
        Complete::None => Vec::new(),
        Complete::Small => scenario::small(),
        Complete::Faults => scenario::faults_of_three_keys(),
        Complete::InForce => scenario::faults_with_a_key_in_force(),
        Complete::Large => scenario::large(),
    };
    let asked =
        |only: &[Kind]| options.kinds.is_empty() || only.iter().any(|kind| options.kinds.contains(kind));
    let bounds = bounds.into_iter().filter(|(_, bounds)| asked(&bounds.only));
    let all = bounds.map(|(what, mut bounds)| {
        bounds.without.clone_from(&options.without);
        (what, bounds)
    });
    for (what, found, spent) in exhaustive::explore_all(all.collect(), options.threads) {
        let whole = if found.complete { "complete" } else { "stopped" };
        let count = found.violations.len();
        println!(
            "{what}: {} states, {} steps, {whole}, {count} violations, {spent:.1?}",
            found.states, found.steps
        );
        for (violation, way) in &found.violations {
            print_violation(violation, way);
        }
        states += found.states;
        steps += found.steps as u64;
        violations += found.violations.len();
    }
    let began = Instant::now();
    let found = random::explore(&Plan {
        schedules: options.schedules,
        seed: options.seed,
        without: options.without.clone(),
        only: None,
        length: 200,
        mutant: None,
        liveness_each: options.ends,
        threads: options.threads,
        enough: 5,
    });
    for (seed, violation, way) in &found.violations {
        println!("seed {seed}:");
        print_violation(violation, way);
    }
    let spent = began.elapsed();
    println!("{} schedules in {spent:.1?}; {} were checked to end well", found.schedules, found.ends);
    violations += found.violations.len();
    steps += found.steps;
    println!("schedules {}, steps {steps}, states {states}, violations {violations}", found.schedules);
    violations == 0
}

fn compared(options: &Options) -> bool {
    let pairs = options.pairs.unwrap_or_default();
    let (seen, differences) = pairs::compare(pairs, options.seed, None);
    for difference in &differences {
        println!("{difference}");
    }
    println!("pairs {pairs}, by effect {seen:?}, differences {}", differences.len());
    differences.is_empty()
}

fn print_violation(violation: &Violation, way: &Way) {
    println!("   {violation}");
    println!("   --replay {}", shrink::shrink(way, None, violation.rule));
}

fn mutants(options: &Options) -> bool {
    let mut missed = 0;
    for mutant in Mutant::ALL {
        match mutant.hunt(options.schedules, options.seed, options.threads) {
            Some((schedules, violation, _)) => {
                println!("caught      {mutant:?}, schedule {schedules}: {}: {violation}", mutant.what());
            }
            None => {
                missed += 1;
                println!("NOT CAUGHT  {mutant:?}: {}", mutant.what());
            }
        }
    }
    println!("mutants {}, caught {}, not caught {missed}", Mutant::ALL.len(), Mutant::ALL.len() - missed);
    missed == 0
}

fn again(way: &str) -> bool {
    let way: Way = match way.parse() {
        Ok(way) => way,
        Err(error) => {
            println!("{error}");
            return false;
        }
    };
    match replay(&way, None, show) {
        Some(violation) => {
            println!("{violation}");
            false
        }
        None => {
            println!("no violation");
            true
        }
    }
}

/// Prints the world after a step: keys, revisions, who has loaded them, what the operator waits for.
fn show(world: &World, step: Option<Step>) {
    println!("{}", step.map_or("the beginning".to_owned(), |step| step.to_string()));
    let keys: Vec<String> = world.key_ids().map(|id| id.to_string()).collect();
    println!("    keys {}", keys.join(" "));
    for (revision, config) in &world.api.configs {
        let lists = config.content.as_ref().map(|content| content.config.lists()).unwrap_or_default();
        let lists: Vec<String> =
            lists.iter().map(|(name, list)| format!("{name}={}", list.join(","))).collect();
        let at: Vec<String> = world
            .running()
            .filter(|n| world.servers[*n].loaded.hash == config.hash)
            .map(|n| format!("n{n}"))
            .collect();
        println!("    revision {revision} {} loaded by [{}]", lists.join(";"), at.join(" "));
    }
    for request in &world.api.snapshot.recorded_forget {
        println!("    forget key {}: {:?} {}", request.key_id, request.phase, request.message);
    }
    let outcome = world.clone().decided();
    let waiting = outcome.waiting.map(|w| format!("{}: {}", w.reason, w.message)).unwrap_or_default();
    let actions: Vec<&str> = outcome.actions.iter().map(keyward_core::outcome::Action::kind).collect();
    println!("    next [{}] {waiting}", actions.join(" "));
}
