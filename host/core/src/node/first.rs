//! Installs a revision on a node whose API server has not started yet: the node joins, or its disk was lost.
//!
//! Nothing runs there, so no plugin can be probed first. The file must be there before the API server: one
//! that starts without it would write in plain text (invariant: no-unrequested-plain-text). No link leads to
//! a plugin yet, so the API server starts unready. The agent leads each key's link to its plugin once the
//! plugin has decrypted the key check; it needs no spec for that (`View::file_plugins`).

use super::decide::Step;
use super::observe::Observed;
use super::view::{View, plugins_of};
use crate::formats::encryption_config::zero_hash;
use crate::ids::{ConfigHash, KeyId};

/// The steps that install the target, in order, or revision 0 if the spec names no revision. Each may be
/// repeated.
///
/// # Errors
/// The target cannot be used, or the configuration file was not written by Keyward.
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
            "the configuration file ({file}) was not written by Keyward; move it away if nothing is stored under its keys"
        ));
    }
    let Some(target) = &view.target else {
        let zero = zero_hash().clone();
        return match view.file {
            Some(file) if *file != zero => {
                Err(format!("this node has the configuration {file}, but the cluster has no revision yet"))
            }
            Some(_) => Ok(vec![Step::RecordLoaded(zero)]),
            None => Ok(vec![Step::RecordLoaded(zero.clone()), Step::PutBack { hash: zero, refused: None }]),
        };
    };
    let plugins = plugins_of(target.content, &o.disk.recovered)?;
    let mut steps = Vec::new();
    let key_checks = o.spec.iter().flat_map(|seen| &seen.spec.key_checks);
    let key_checks: std::collections::BTreeMap<KeyId, _> =
        key_checks.map(|entry| (entry.key_id, entry.key_check.clone())).collect();
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
    // A configuration that was loaded before this node was set up again must not be put back.
    steps.push(Step::RecordLoaded(target.hash.clone()));
    if view.file != Some(&target.hash) {
        steps.push(Step::InstallConfiguration { revision: target.revision, hash: target.hash.clone() });
    }
    Ok(steps)
}
