//! Ways through the world: all of them for small bounds, many by chance for large ones, and one again.

pub mod exhaustive;
pub mod random;
pub mod shrink;

use crate::invariants::Violation;
use crate::liveness::{self, Known};
use crate::mutants::Mutant;
use crate::scenario;
use crate::world::World;
use crate::world::step::Step;

/// A way through the world: where it begins, and what happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// How many nodes there are.
    pub nodes: usize,
    /// What was asked for and is in force.
    pub specs: Vec<usize>,
    /// What happens then.
    pub steps: Vec<Step>,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let specs: Vec<String> = self.specs.iter().map(ToString::to_string).collect();
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        write!(f, "{}/{}/{}", self.nodes, specs.join("+"), steps.join(","))
    }
}

impl std::str::FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().ok_or_else(|| anyhow::anyhow!("a way is NODES/SPECS/STEPS"));
        let nodes = part()?.parse()?;
        let specs = part()?;
        let specs = specs.split('+').filter(|s| !s.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        let steps = part()?;
        let steps = steps.split(',').filter(|s| !s.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { nodes, specs, steps })
    }
}

/// Goes a way, from where it begins to the first violation, or to its end and on to where all should be well.
pub fn replay(
    way: &Way,
    mutant: Option<Mutant>,
    mut told: impl FnMut(&World, Option<Step>),
) -> Option<Violation> {
    let mut world = scenario::settled(way.nodes, &way.specs);
    world.mutant = mutant;
    told(&world, None);
    for step in &way.steps {
        world.step(*step);
        told(&world, Some(*step));
        if world.violation.is_some() {
            return world.violation;
        }
    }
    let end = liveness::check_told(&world, &mut Known::default(), |world, step| told(world, Some(step)));
    end.map(|(violation, _)| violation)
}
