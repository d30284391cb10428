//! Ways through the world: all of them within small bounds, many random ones within large bounds, and one
//! replayed.

pub mod exhaustive;
pub mod random;
pub mod shrink;

use crate::invariants::Violation;
use crate::liveness::{self, Known};
use crate::mutants::Mutant;
use crate::scenario;
use crate::world::World;
use crate::world::step::Step;

/// A way through the world: its beginning and its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// How many nodes there are.
    pub nodes: usize,
    /// The specs that were requested before; the last one is in force.
    pub specs: Vec<usize>,
    /// The steps that follow.
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

/// Goes a way, from its beginning to the first violation, or to its end and on until everything has ended
/// well.
pub fn replay(
    way: &Way,
    mutant: Option<Mutant>,
    mut show: impl FnMut(&World, Option<Step>),
) -> Option<Violation> {
    let mut world = scenario::settled(way.nodes, &way.specs);
    world.mutant = mutant;
    show(&world, None);
    for step in &way.steps {
        world.step(*step);
        show(&world, Some(*step));
        if world.violation.is_some() {
            return world.violation;
        }
    }
    let end = liveness::check_and_show(&world, &mut Known::default(), |world, step| show(world, Some(step)));
    end.map(|(violation, _)| violation)
}
