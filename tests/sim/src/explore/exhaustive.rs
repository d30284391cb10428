//! Every state that can be reached within bounds: an admin's script, and a number of faults at any moment.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Way;
use crate::invariants::Violation;
use crate::liveness::{self, Known};
use crate::mutants::Mutant;
use crate::scenario;
use crate::world::World;
use crate::world::step::{Kind, Step};

/// The number of different violations after which it stops.
const ENOUGH: usize = 5;

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Nodes.
    pub nodes: usize,
    /// The specs that were requested before the beginning; the last one is in force.
    pub specs: Vec<usize>,
    /// The specs that the admin requests after that, each at any moment.
    pub script: Vec<usize>,
    /// The number of faults on each way.
    pub faults: usize,
    /// The kinds of faults that can happen; empty: all.
    pub only: Vec<Kind>,
    /// The kinds of faults that do not happen.
    pub without: Vec<Kind>,
    /// The number of states after which it stops, unfinished.
    pub most: usize,
    /// A decision that is wrong on purpose.
    pub mutant: Option<Mutant>,
    /// Whether every state must end well.
    pub liveness: bool,
}

/// The result of an exploration.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps taken, known states included.
    pub steps: usize,
    /// Nothing is left to explore within the bounds.
    pub complete: bool,
    /// The different violations, each with the way to it.
    pub violations: Vec<(Violation, Way)>,
}

/// The way to each state: its last step, and the place of the way before that step.
#[derive(Default)]
struct Trails(Vec<(Step, Option<usize>)>);

impl Trails {
    fn add(&mut self, step: Step, before: Option<usize>) -> usize {
        self.0.push((step, before));
        self.0.len() - 1
    }

    fn steps(&self, mut at: Option<usize>) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((step, before)) = at.and_then(|at| self.0.get(at)) {
            steps.push(*step);
            at = *before;
        }
        steps.reverse();
        steps
    }
}

struct Frame {
    world: World,
    /// How many specs of the script were requested.
    asked: usize,
    faults: usize,
    /// Its place in [`Trails`]; none at the beginning.
    trail: Option<usize>,
}

/// The state that the threads of one exploration share.
struct Shared<'a> {
    bounds: &'a Bounds,
    seen: Seen,
    found: Mutex<Found>,
    trails: Mutex<Trails>,
    /// Work that one thread left for another, and how many threads are idle.
    spare: Mutex<(Vec<Frame>, usize)>,
    more: Condvar,
    threads: usize,
    /// How many threads are idle, to be read without the lock.
    hungry: AtomicUsize,
    ended: AtomicBool,
}

/// Known fingerprints, in parts that are locked one by one.
struct Seen(Vec<Mutex<HashSet<u128>>>);

impl Seen {
    fn new() -> Self {
        Self((0..256).map(|_| Mutex::default()).collect())
    }

    fn part(&self, print: u128) -> MutexGuard<'_, HashSet<u128>> {
        self.0[usize::from(print.to_le_bytes()[15])].lock().expect("no thread panicked")
    }

    /// Whether it is new.
    fn insert(&self, print: u128) -> bool {
        self.part(print).insert(print)
    }

    fn contains(&self, print: u128) -> bool {
        self.part(print).contains(&print)
    }
}

/// Explores depth first, with this many threads: few worlds are kept at a time.
pub fn explore(bounds: &Bounds, threads: usize, progress: impl Fn(&Found) + Sync) -> Found {
    let mut world = scenario::settled(bounds.nodes, &bounds.specs);
    world.mutant = bounds.mutant;
    let first = Frame { world, asked: 0, faults: bounds.faults, trail: None };
    let shared = Shared {
        bounds,
        seen: Seen::new(),
        found: Mutex::default(),
        trails: Mutex::default(),
        spare: Mutex::new((vec![first], 0)),
        more: Condvar::new(),
        threads: threads.max(1),
        hungry: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 0..shared.threads {
            scope.spawn(|| work(&shared, &progress));
        }
    });
    let mut found = shared.found.into_inner().expect("no thread panicked");
    found.complete = !shared.ended.into_inner();
    found
}

fn work(shared: &Shared<'_>, progress: &(impl Fn(&Found) + Sync)) {
    let mut known = Known::default();
    let mut stack = Vec::new();
    let _ends_all = EndsAll(shared);
    while !shared.ended.load(Ordering::Relaxed) {
        let Some(frame) = stack.pop().or_else(|| shared.take()) else { return };
        shared.visit(&frame, &mut stack, &mut known, progress);
        // The lowest frames are nearest to the beginning: most work is behind them.
        if shared.hungry.load(Ordering::Relaxed) > 0 && stack.len() > 1 {
            let given: Vec<Frame> = stack.drain(..stack.len() / 2).collect();
            shared.spare.lock().expect("no thread panicked").0.extend(given);
            shared.more.notify_all();
        }
    }
    shared.more.notify_all();
}

/// A thread that panics ends the exploration: otherwise the others would wait for its work for ever.
struct EndsAll<'a>(&'a Shared<'a>);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ended.store(true, Ordering::Relaxed);
            self.0.more.notify_all();
        }
    }
}

impl Shared<'_> {
    /// Waits until another thread leaves some work; none if no thread has any.
    fn take(&self) -> Option<Frame> {
        let mut spare = self.spare.lock().expect("no thread panicked");
        spare.1 += 1;
        self.hungry.store(spare.1, Ordering::Relaxed);
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(frame) = spare.0.pop() {
                spare.1 -= 1;
                self.hungry.store(spare.1, Ordering::Relaxed);
                return Some(frame);
            }
            if spare.1 == self.threads {
                self.more.notify_all();
                return None;
            }
            // Another thread may end the exploration between this thread's check and its sleep.
            spare = self.more.wait_timeout(spare, Duration::from_millis(100)).expect("no thread panicked").0;
        }
    }

    fn visit(
        &self,
        frame: &Frame,
        stack: &mut Vec<Frame>,
        known: &mut Known,
        progress: &(impl Fn(&Found) + Sync),
    ) {
        if !self.seen.insert(fingerprint(frame)) {
            return;
        }
        let mut wrong = Vec::new();
        if self.bounds.liveness
            && let Some((violation, _)) = liveness::check(&frame.world, known)
        {
            wrong.push((None, violation));
        }
        let mut steps = 0;
        for (step, cost, asks) in next(self.bounds, frame) {
            let mut world = frame.world.clone();
            world.step(step);
            steps += 1;
            if let Some(violation) = world.violation.take() {
                wrong.push((Some(step), violation));
                continue;
            }
            let (asked, faults) = (frame.asked + asks, frame.faults - cost);
            let mut next = Frame { world, asked, faults, trail: None };
            if !self.seen.contains(fingerprint(&next)) {
                next.trail = Some(self.trails.lock().expect("no thread panicked").add(step, frame.trail));
                stack.push(next);
            }
        }
        let mut found = self.found.lock().expect("no thread panicked");
        found.states += 1;
        found.steps += steps;
        for (step, violation) in wrong {
            self.note(&mut found, frame, step, violation);
        }
        if found.states.is_multiple_of(10_000) {
            progress(&found);
        }
        if found.states >= self.bounds.most || found.violations.len() >= ENOUGH {
            self.ended.store(true, Ordering::Relaxed);
        }
    }

    fn note(&self, found: &mut Found, frame: &Frame, step: Option<Step>, violation: Violation) {
        if found.violations.iter().any(|(known, _)| *known == violation) {
            return;
        }
        let mut steps = self.trails.lock().expect("no thread panicked").steps(frame.trail);
        steps.extend(step);
        let way = Way { nodes: self.bounds.nodes, specs: self.bounds.specs.clone(), steps };
        found.violations.push((violation, way));
    }
}

/// Explores each of these bounds, one after the other, when the caller takes the next. Prints the progress of
/// long ones.
pub fn explore_all(
    bounds: Vec<(String, Bounds)>,
    threads: usize,
) -> impl Iterator<Item = (String, Found, Duration)> {
    bounds.into_iter().map(move |(what, bounds)| {
        let began = Instant::now();
        let found = explore(&bounds, threads, |found| {
            if found.states.is_multiple_of(500_000) {
                println!("   {what}: {} states so far, {:.0?}", found.states, began.elapsed());
            }
        });
        (what, found, began.elapsed())
    })
}

fn fingerprint(frame: &Frame) -> u128 {
    frame.world.print()
        ^ (((frame.asked as u128) << 8) | frame.faults as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C)
}

fn next(bounds: &Bounds, frame: &Frame) -> Vec<(Step, usize, usize)> {
    let world = &frame.world;
    let mut steps: Vec<(Step, usize, usize)> = scenario::ordinary(world)
        .into_iter()
        .chain(scenario::repairs(world))
        .map(|step| (step, 0, 0))
        .collect();
    if let Some(spec) = bounds.script.get(frame.asked) {
        steps.push((Step::to(Kind::Spec, *spec), 0, 1));
    }
    if frame.faults > 0 {
        let faults = scenario::faults(world).into_iter();
        let allowed = faults.filter(|step| bounds.only.is_empty() || bounds.only.contains(&step.kind));
        let allowed = allowed.filter(|step| !bounds.without.contains(&step.kind));
        steps.extend(allowed.map(|step| (step, 1, 0)));
    }
    steps
}
