//! Every state that can be reached within bounds: an admin's script, and so many faults at any moment.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Way;
use crate::invariants::Violation;
use crate::liveness::{self, Known};
use crate::mutants::Mutant;
use crate::scenario;
use crate::world::World;
use crate::world::step::{Kind, Step};

/// What bounds an exploration.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Nodes.
    pub nodes: usize,
    /// What is in force at the beginning.
    pub specs: Vec<usize>,
    /// What the admin asks for after that, each at any moment.
    pub script: Vec<usize>,
    /// How many faults befall it.
    pub faults: usize,
    /// Those that may; all where it is empty.
    pub only: Vec<Kind>,
    /// Those that do not.
    pub without: Vec<Kind>,
    /// States after which it stops, unfinished.
    pub most: usize,
    /// What is wrong on purpose.
    pub mutant: Option<Mutant>,
    /// Whether all must end well from every state.
    pub liveness: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps taken, known states included.
    pub steps: usize,
    /// Nothing is left to explore within the bounds.
    pub complete: bool,
    /// The first violation of each rule and kind, and the way there.
    pub violations: Vec<(Violation, Way)>,
}

/// How each state was come to: the step, and the place of what led to the state before it.
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
    /// How far the script is.
    asked: usize,
    faults: usize,
    /// Its place in [`Trails`]; none at the beginning.
    trail: Option<usize>,
}

/// Explores depth first: few worlds are kept at a time.
pub fn explore(bounds: &Bounds, mut progress: impl FnMut(&Found)) -> Found {
    let mut found = Found::default();
    let (mut seen, mut known, mut trails) = (HashSet::new(), Known::default(), Trails::default());
    let mut world = scenario::settled(bounds.nodes, &bounds.specs);
    world.mutant = bounds.mutant;
    let mut stack = vec![Frame { world, asked: 0, faults: bounds.faults, trail: None }];
    while let Some(frame) = stack.pop() {
        if !seen.insert(fingerprint(&frame)) {
            continue;
        }
        found.states += 1;
        if found.states.is_multiple_of(10_000) {
            progress(&found);
        }
        if found.states >= bounds.most {
            return found;
        }
        if bounds.liveness
            && let Some((violation, _)) = liveness::check(&frame.world, &mut known)
            && note(&mut found, bounds, trails.steps(frame.trail), violation)
        {
            return found;
        }
        for (step, cost, asks) in next(bounds, &frame) {
            let mut world = frame.world.clone();
            world.step(step);
            found.steps += 1;
            if let Some(violation) = world.violation.take() {
                let mut steps = trails.steps(frame.trail);
                steps.push(step);
                if note(&mut found, bounds, steps, violation) {
                    return found;
                }
                continue;
            }
            let (asked, faults) = (frame.asked + asks, frame.faults - cost);
            let mut next = Frame { world, asked, faults, trail: None };
            if !seen.contains(&fingerprint(&next)) {
                next.trail = Some(trails.add(step, frame.trail));
                stack.push(next);
            }
        }
    }
    found.complete = true;
    found
}

/// Each within its bounds, so many at a time as there are threads. Prints how far those are that take long.
pub fn explore_all(
    bounds: Vec<(&'static str, Bounds)>,
    threads: usize,
) -> Vec<(&'static str, Found, Duration)> {
    let todo = Mutex::new(bounds.into_iter());
    let done = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let next = todo.lock().expect("no thread panicked").next();
            let Some((what, bounds)) = next else { return };
            let began = Instant::now();
            let found = explore(&bounds, |found| {
                if found.states.is_multiple_of(500_000) {
                    println!("   {what}: {} states so far", found.states);
                }
            });
            done.lock().expect("no thread panicked").push((what, found, began.elapsed()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(worker);
        }
    });
    done.into_inner().expect("no thread panicked")
}

fn fingerprint(frame: &Frame) -> u128 {
    frame.world.print()
        ^ (((frame.asked as u128) << 8) | frame.faults as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C)
}

fn next(bounds: &Bounds, frame: &Frame) -> Vec<(Step, usize, usize)> {
    let world = &frame.world;
    let mut steps: Vec<(Step, usize, usize)> = scenario::ordinary(world)
        .into_iter()
        .chain(scenario::mending(world))
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

/// Whether enough was found.
fn note(found: &mut Found, bounds: &Bounds, steps: Vec<Step>, violation: Violation) -> bool {
    if found.violations.iter().any(|(known, _)| *known == violation) {
        return false;
    }
    found.violations.push((violation, Way { nodes: bounds.nodes, specs: bounds.specs.clone(), steps }));
    found.violations.len() >= 5
}
