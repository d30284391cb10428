//! A revision on a node whose API server has not started yet: it joins, or its disk was lost.
//!
//! Nothing runs there, so no plugin can be asked first, and the file must be there before the API server: one that starts
//! without it would write in plain text (S9). No link leads to a plugin yet. The API server starts unready; the agent, which
//! needs nobody's word for it (`View::standing`), leads each key's link to its plugin once that has decrypted the key check.

use super::decide::Step;
use super::observe::Observed;
use super::view::{View, plugins_of};
use crate::formats::encryption_config::zero_hash;
use crate::ids::{ConfigHash, KeyId};

/// The steps that install the target, in order; revision 0's file where the spec names none. Each may be repeated.
///
/// # Errors
/// The target is of no use, or the file that is there is somebody else's.
pub fn first_steps(o: &Observed) -> Result<Vec<Step>, String> {
    let view = View::new(o);
    if let Some(problem) = &view.target_problem {
        return Err(problem.message.clone());
    }
    let is_ours = |hash: &ConfigHash| {
        view.is_known(hash) || view.target.as_ref().is_some_and(|target| target.hash == *hash)
    };
    if let Some(file) = view.file.filter(|file| !is_ours(file)) {
        return Err(format!(
            "the configuration file holds something that Keyward did not write ({file}); move it away where nothing is stored by it"
        ));
    }
    let Some(target) = &view.target else {
        let zero = zero_hash().clone();
        return match view.file {
            Some(file) if *file != zero => {
                Err(format!("this node has the configuration {file}, and the cluster has no revision yet"))
            }
            Some(_) => Ok(vec![Step::RecordLoaded(zero)]),
            None => Ok(vec![Step::RecordLoaded(zero.clone()), Step::PutBack { hash: zero, refused: None }]),
        };
    };
    let plugins = plugins_of(target.content, &o.disk.recovered)?;
    let mut steps = Vec::new();
    let key_checks = o.spec.iter().flat_map(|seen| &seen.spec.key_checks);
    let key_checks: std::collections::BTreeMap<KeyId, _> =
        key_checks.map(|told| (told.key_id, told.key_check.clone())).collect();
    let highest = plugins.keys().chain(key_checks.keys()).max().copied().unwrap_or_default();
    if highest > o.disk.highest_key_id {
        steps.push(Step::RecordHighWater(highest));
    }
    steps.push(Step::KeepKeyChecks(key_checks));
    steps.push(Step::KeepRevision(target.revision));
    for (key_id, needed) in plugins {
        if needed.external.is_some() {
            continue;
        }
        if let Some(why) = needed.unfit() {
            return Err(format!("the plugin of key {key_id}: {why}"));
        }
        let instance = needed.instance;
        steps.push(Step::WriteFiles(instance.clone()));
        steps.push(Step::MakeFolder(instance.clone()));
        steps.push(Step::WritePod { instance, trial: false });
    }
    // What an earlier life of this node had loaded is nothing to go back to.
    steps.push(Step::RecordLoaded(target.hash.clone()));
    if view.file != Some(&target.hash) {
        steps.push(Step::InstallConfiguration { revision: target.revision, hash: target.hash.clone() });
    }
    Ok(steps)
}
