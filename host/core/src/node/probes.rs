//! Which plugins are probed, and with what question. When, within a probe's schedule, is the agent's.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Ask, Step};
use super::instance::Instance;
use super::observe::Question;
use super::view::{View, plugins_of};

/// What these steps start is asked from its first moment: it need not be seen on disk before.
pub(super) fn asks_of_started(view: &View<'_>, steps: &[Step], asks: &mut BTreeMap<Instance, Ask>) {
    for step in steps {
        let Step::WritePod { instance, trial } = step else { continue };
        let run = if *trial { view.on_disk(instance).tries.saturating_add(1) } else { 0 };
        let question = Question { run, ..view.question(instance, None) };
        asks.insert(instance.clone(), Ask { question, urgent: false });
    }
}

/// Every plugin that runs here, needed or not, and those that others run for a configuration in force.
pub(super) fn asks(view: &View<'_>, urgent: &BTreeSet<Instance>) -> BTreeMap<Instance, Ask> {
    let mut external: BTreeMap<Instance, &str> = BTreeMap::new();
    for (instance, needed) in view.needed() {
        if let Some(endpoint) = needed.external {
            external.insert(instance, endpoint);
        }
    }
    let in_force = view.loaded.and_then(|hash| view.content_of(hash)).map(plugins_of);
    for needed in in_force.iter().flatten().flat_map(BTreeMap::values) {
        if let Some(endpoint) = needed.external {
            external.insert(needed.instance.clone(), endpoint);
        }
    }
    let running = view.o.disk.instances.iter().filter(|(_, found)| found.pod).map(|(instance, _)| instance);
    let ours = running.map(|instance| (instance.clone(), None));
    let theirs = external.into_iter().map(|(instance, endpoint)| (instance, Some(endpoint)));
    ours.chain(theirs)
        .map(|(instance, endpoint)| {
            let urgent = urgent.contains(&instance);
            let question = view.question(&instance, endpoint);
            (instance, Ask { question, urgent })
        })
        .collect()
}
