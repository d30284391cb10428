//! A configuration file that somebody edits by hand where a revision of Keyward's is in force.
//!
//! It is put aside and the target installed over it, but only where every provider in it is one of the target's: else what
//! was written by it could not be read any more. Anything else is somebody's own configuration, and never replaced
//! (DESIGN.md, Decisions 14), also where the API server was not seen to have loaded it: it may be about to.
//!
//! An edited file may have been loaded for a moment, and have written with other providers than the revision, plain text
//! above all: that is kept in mind and told from the first sight of it, so that the operator takes back what it knew of
//! migrations (S3, S9). An older configuration of Keyward's is the same, where this node has reported a newer one: its machine was restored
//! from a copy, or the file was. Otherwise it is one that a rollout begins with.

use super::decide::{Draft, Step};
use super::view::{Target, View};
use crate::formats::encryption_config::{EncryptionConfiguration, ProviderConfiguration, zero_hash};
use crate::ids::{ConfigHash, GroupResource, Revision};

/// Records that something else than the target may have been loaded here, and forgets it once a later revision is in force.
pub(super) fn record(view: &View<'_>, draft: &mut Draft) {
    let known = view.o.disk.drift;
    let mut here = view.loaded.into_iter().chain(view.file);
    // Also while the target cannot be read: the next report has an older revision, and then nothing shows it any more.
    let foreign = view.target.is_some() && here.clone().any(|hash| !view.is_known(hash));
    let is_other = foreign || here.any(|hash| is_older(view, hash));
    let asked = view.o.spec.as_ref().map(|seen| seen.spec.revision).filter(|asked| *asked > Revision(0));
    if let Some(asked) = asked.filter(|asked| is_other && known.is_none_or(|drift| drift < *asked)) {
        let why = format!(
            "something else than revision {asked} is in the file or loaded, while that was to be in force"
        );
        draft.step(Step::RecordDrift(asked), why);
        return;
    }
    let Some(target) = &view.target else { return };
    if known.is_some_and(|drift| drift < target.revision) && view.is_complete(&target.hash, &target.plugins) {
        draft.step(Step::ForgetDrift, format!("revision {} is in force", target.revision));
    }
}

/// Whether a configuration is older than the one that this node has reported to be in force. The target never is: it may have
/// the bytes of an older one.
fn is_older(view: &View<'_>, hash: &ConfigHash) -> bool {
    let Some(seen) = &view.o.spec else { return false };
    if view.target.as_ref().is_some_and(|target| target.hash == *hash) {
        return false;
    }
    let here = if hash == zero_hash() { Some(Revision(0)) } else { view.revision_of(hash).map(|(n, _)| n) };
    here.is_some_and(|here| here < seen.reported)
}

/// What becomes of an edited file.
pub(super) enum Mend {
    /// Nothing: it is somebody's own configuration.
    Refuse,
    /// What the API server still has is put back.
    PutBack,
    /// The target may be installed over it.
    Install,
}

/// Puts the edited file aside where it may be replaced, and at once what the API server has not let go of yet.
pub(super) fn mend(view: &View<'_>, target: &Target<'_>, draft: &mut Draft) -> Mend {
    let (Some(file), Some(loaded)) = (&view.o.disk.file, view.loaded) else { return Mend::Refuse };
    let not_loaded = *loaded != file.hash;
    let readable = file.config.as_ref().is_some_and(|edited| reads_no_more(edited, target));
    if !readable || not_loaded && view.content_of(loaded).is_none() {
        return Mend::Refuse;
    }
    if !view.o.disk.aside.contains(&file.hash) {
        let why = format!("the configuration file was edited by hand ({}); a copy is kept", file.hash);
        draft.step(Step::PutAside(file.hash.clone()), why);
    }
    if !not_loaded {
        return Mend::Install;
    }
    let step = Step::PutBack { hash: loaded.clone(), refused: None };
    draft.step(step, "the API server has not loaded the edited file: what it has is put back");
    Mend::PutBack
}

/// Whether every provider of every resource is one that the target has for that resource. A provider is its name and its
/// key: another key under the same name is another provider.
fn reads_no_more(edited: &EncryptionConfiguration, target: &Target<'_>) -> bool {
    let target = &target.content.config;
    edited.resources.iter().all(|entry| {
        let resources = entry.resources.as_deref().unwrap_or_default();
        resources.iter().all(|resource| {
            let known = target.providers_of(&GroupResource::parse(resource));
            // What no entry names is read as plain text.
            let reads = |provider: &ProviderConfiguration| {
                if known.is_empty() { provider.identity.is_some() } else { known.contains(&provider) }
            };
            entry.providers.iter().all(reads)
        })
    })
}
