//! Random schedules: everything at any moment, with three nodes, from several beginnings.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Way;
use crate::invariants::Violation;
use crate::liveness::{self, Known};
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::scenario;
use crate::world::World;
use crate::world::config::RESOURCES;
use crate::world::server::NAMES;
use crate::world::step::{Kind, Step};

/// The parameters of an exploration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many schedules.
    pub schedules: u64,
    /// The seed of the first schedule.
    pub seed: u64,
    /// The kinds of faults that do not happen.
    pub without: Vec<Kind>,
    /// If given, only these kinds of faults happen; specs are always requested.
    pub only: Option<Vec<Kind>>,
    /// Steps of each.
    pub length: usize,
    /// A decision that is wrong on purpose.
    pub mutant: Option<Mutant>,
    /// For every N-th schedule it is checked that its end ends well; 0: for none.
    pub liveness_each: u64,
    /// How many run at a time.
    pub threads: usize,
    /// The number of violations after which it stops.
    pub enough: usize,
}

/// The result of an exploration.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Schedules.
    pub schedules: u64,
    /// Steps.
    pub steps: u64,
    /// For how many schedules it was checked that their end ends well.
    pub ends: u64,
    /// Each with its seed.
    pub violations: Vec<(u64, Violation, Way)>,
}

/// Beginnings: the number of nodes, and the specs that were requested.
const BEGINNINGS: [(usize, &[usize]); 10] = [
    (3, &[]),
    (3, &[3]),
    (3, &[1]),
    (3, &[3, 5]),
    (2, &[3]),
    (3, &[1, 3]),
    (3, &[3, 0]),
    (2, &[5, 1, 3]),
    (2, &[3, 0, 5]),
    (2, &[1, 0, 2]),
];

/// The worlds of the beginnings, computed once.
pub struct Beginnings(Vec<(Way, World)>);

impl Beginnings {
    /// All of them.
    pub fn new(mutant: Option<Mutant>) -> Self {
        let each = BEGINNINGS.map(|(nodes, specs)| {
            let mut world = scenario::settled(nodes, specs);
            world.mutant = mutant;
            (Way { nodes, specs: specs.to_vec(), steps: Vec::new() }, world)
        });
        Self(each.into())
    }
}

/// Explores.
pub fn explore(plan: &Plan) -> Found {
    let beginnings = Beginnings::new(plan.mutant);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let all = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.max(1) {
            scope.spawn(|| {
                let mut known = Known::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= plan.schedules || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let ends = plan.liveness_each > 0 && index.is_multiple_of(plan.liveness_each);
                    let (way, violation) =
                        schedule(&beginnings, plan, plan.seed + index, ends.then_some(&mut known));
                    let mut found = all.lock().expect("no thread panicked");
                    found.schedules += 1;
                    found.steps += way.steps.len() as u64;
                    found.ends += u64::from(ends);
                    if let Some(violation) = violation {
                        found.violations.push((plan.seed + index, violation, way));
                        stop.store(found.violations.len() >= plan.enough, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    all.into_inner().expect("no thread panicked")
}

/// One schedule.
pub fn schedule(
    beginnings: &Beginnings,
    plan: &Plan,
    seed: u64,
    ends: Option<&mut Known>,
) -> (Way, Option<Violation>) {
    let mut rng = Rng::new(seed);
    let (way, world) = &beginnings.0[rng.below(beginnings.0.len())];
    let (mut way, mut world) = (way.clone(), world.clone());
    let mut chance = Chance { rng, slot: 0, trouble: 0, without: &plan.without, only: plan.only.as_deref() };
    chance.trouble = [2, 5, 12, 25][chance.rng.below(4)];
    for _ in 0..plan.length {
        let step = chance.next(&world);
        world.step(step);
        way.steps.push(step);
        if world.violation.is_some() {
            return (way, world.violation);
        }
    }
    let violation = ends.and_then(|known| liveness::check(&world, known)).map(|(violation, _)| violation);
    (way, violation)
}

struct Chance<'a> {
    without: &'a [Kind],
    only: Option<&'a [Kind]>,
    rng: Rng,
    /// The next slot of the ordinary schedule.
    slot: usize,
    /// The percentage of steps that are faults.
    trouble: usize,
}

impl Chance<'_> {
    fn next(&mut self, world: &World) -> Step {
        if self.rng.percent(self.trouble) {
            return self.trouble(world);
        }
        let repairs = scenario::repairs(world);
        if !repairs.is_empty() && self.rng.percent(10) {
            return repairs[self.rng.below(repairs.len())];
        }
        if self.rng.percent(3) {
            return Step::to(Kind::Spec, self.rng.below(7));
        }
        if self.rng.percent(25) {
            return self.any();
        }
        self.scheduled(world)
    }

    /// The next step of the ordinary schedule, so that there is progress.
    fn scheduled(&mut self, world: &World) -> Step {
        loop {
            let slot = self.slot;
            self.slot = (self.slot + 1) % 14;
            let due = (0..RESOURCES.len()).filter(|r| world.migration_is_due(*r)).count();
            return match slot {
                0 | 7 => Step::of(Kind::Reconcile),
                1..=6 => {
                    let n = (slot - 1) / 2;
                    let server = &world.servers[n];
                    if server.life == crate::world::server::Life::Absent {
                        continue;
                    }
                    if slot % 2 == 1 {
                        Step::to(Kind::Agent, n)
                    } else if world.file(n).is_none_or(|file| file.hash == server.loaded.hash) {
                        continue;
                    } else {
                        Step::to(Kind::Poll, n)
                    }
                }
                8..=12 if due > 0 => self.migrate(world),
                13 if self.rng.percent(40) => Step::to(Kind::Tick, self.rng.below(3)),
                _ => continue,
            };
        }
    }

    fn migrate(&mut self, world: &World) -> Step {
        let due: Vec<usize> = (0..RESOURCES.len()).filter(|r| world.migration_is_due(*r)).collect();
        let running: Vec<usize> = world.running().collect();
        let n = if running.is_empty() { 0 } else { running[self.rng.below(running.len())] };
        Step::with(Kind::Migrate, due[self.rng.below(due.len())], n)
    }

    fn any(&mut self) -> Step {
        let n = self.rng.below(NAMES.len());
        let who = usize::from(self.rng.percent(20));
        match self.rng.below(12) {
            0 | 1 => Step::to(Kind::Decide, who),
            2..=4 => Step::to(Kind::Act, who),
            5 => Step::to(Kind::Reconcile, who),
            6 => Step::to(Kind::Agent, n),
            7 => Step::to(Kind::AgentStale, n),
            8 => Step::to(Kind::Poll, n),
            9 => Step::with(Kind::Migrate, self.rng.below(RESOURCES.len()), n),
            10 => Step::of(Kind::Compact),
            _ => Step::to(Kind::Tick, self.rng.below(3)),
        }
    }

    fn trouble(&mut self, world: &World) -> Step {
        let mut faults = scenario::faults(world);
        faults.retain(|step| !self.without.contains(&step.kind));
        if let Some(only) = self.only {
            faults.retain(|step| only.contains(&step.kind));
        }
        if faults.is_empty() {
            return Step::of(Kind::Reconcile);
        }
        // Each kind has the same chance, however many faults it has.
        let mut kinds: Vec<Kind> = faults.iter().map(|step| step.kind).collect();
        kinds.dedup();
        let kind = kinds[self.rng.below(kinds.len())];
        let these: Vec<Step> = faults.into_iter().filter(|step| step.kind == kind).collect();
        these[self.rng.below(these.len())]
    }
}
