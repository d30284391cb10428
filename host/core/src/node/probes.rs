//! Which plugins are probed, and with what question. When, within a probe's schedule, is the agent's.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Ask, Step};
use super::instance::Instance;
use super::observe::Question;
use super::view::{View, plugins_of};

/// What these steps start is asked from its first moment, once they are done: it need not be seen on disk before. Where
/// something is known of an earlier process that the question would not tell from this one, that is forgotten first.
pub(super) fn starts(view: &View<'_>, steps: &[Step]) -> BTreeMap<Instance, Ask> {
    let written = steps.iter().filter_map(|step| match step {
        Step::WritePod { instance, trial } => Some((instance, *trial)),
        _ => None,
    });
    written
        .filter_map(|(instance, trial)| {
            let run = if trial { view.on_disk(instance).tries.saturating_add(1) } else { 0 };
            let known = view.o.probes.get(instance).is_some_and(|known| known.question.run == run);
            let question = Question { run, ..view.question(instance, None) };
            (!known).then(|| (instance.clone(), Ask { question, urgent: false }))
        })
        .collect()
}

/// Every plugin that runs here, needed or not, and those that others run for a configuration in force.
pub(super) fn asks(view: &View<'_>, urgent: &BTreeSet<Instance>) -> BTreeMap<Instance, Ask> {
    let mut external: BTreeMap<Instance, String> = BTreeMap::new();
    for (instance, needed) in view.needed() {
        if let Some(endpoint) = &needed.external {
            external.insert(instance, endpoint.clone());
        }
    }
    let in_force = view.loaded.and_then(|hash| view.content_of(hash));
    let in_force = in_force.map(|content| plugins_of(content, &view.o.disk.recovered));
    for needed in in_force.iter().flatten().flat_map(BTreeMap::values) {
        if let Some(endpoint) = &needed.external {
            external.insert(needed.instance.clone(), endpoint.clone());
        }
    }
    let running = view.o.disk.instances.iter().filter(|(_, found)| found.pod).map(|(instance, _)| instance);
    let ours = running.map(|instance| (instance.clone(), None));
    let theirs = external.into_iter().map(|(instance, endpoint)| (instance, Some(endpoint)));
    ours.chain(theirs)
        .map(|(instance, endpoint)| {
            let urgent = urgent.contains(&instance);
            let question = view.question(&instance, endpoint.as_deref());
            (instance, Ask { question, urgent })
        })
        .collect()
}
