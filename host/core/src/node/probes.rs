//! Which plugins are probed, and with which question. The agent schedules the probes.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Ask, Step};
use super::instance::Instance;
use super::observe::Question;
use super::view::{View, plugins_of};

/// Probes of the instances that these steps start. They begin once the steps are done, before the instances
/// are observed on disk. An instance is left out while something is known of an earlier process that the
/// question does not distinguish from the new one.
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

/// Probes of every plugin that runs on this node, needed or not, and of the external plugins of a
/// configuration in force.
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
