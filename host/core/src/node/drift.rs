//! A configuration file that somebody edits while a revision of Keyward is in force (decision 0049).
//!
//! The agent keeps a copy of it and installs the target over it, but only if every provider in it is one that
//! the target has: otherwise nothing could read any more what was written with it. Any other file is
//! somebody's own configuration. It is never replaced, also where the API server was not seen to have loaded
//! it: it may be about to load it.
//!
//! The API server may have loaded an edited file for a moment, and have written with other providers than the
//! revision's, also in plain text. The node records that from the first sight of the file and reports it, so
//! that the operator removes its records of migration (invariant: claims-are-true,
//! invariant: no-unrequested-plain-text). An older configuration of Keyward counts the same if this node has
//! reported a newer one: the machine, or the file, was restored from a backup. Otherwise it belongs to a
//! rollout, and does not count as drift.

use super::decide::{Draft, Step};
use super::view::{Target, View};
use crate::formats::encryption_config::{EncryptionConfiguration, ProviderConfiguration, zero_hash};
use crate::ids::{ConfigHash, GroupResource, Revision};

/// Records that something else than the target may have been loaded. Removes the record once a later revision
/// is in force.
pub(super) fn record(view: &View<'_>, draft: &mut Draft) {
    let known = view.o.disk.drift;
    let mut here = view.loaded.into_iter().chain(view.file);
    let foreign = view.target.is_some() && here.clone().any(|hash| !view.is_known(hash));
    // An older configuration is recorded also while the target cannot be read: the next report has the older
    // revision, and after it nothing shows the change any more.
    let is_other = foreign || here.any(|hash| is_older(view, hash));
    let asked = view.o.spec.as_ref().map(|seen| seen.spec.revision).filter(|asked| *asked > Revision(0));
    if let Some(asked) = asked.filter(|asked| is_other && known.is_none_or(|drift| drift < *asked)) {
        let why = format!(
            "the configuration file, or what the API server has loaded, is not revision {asked}, which should be in force"
        );
        draft.step(Step::RecordDrift(asked), why);
        return;
    }
    let Some(target) = &view.target else { return };
    if known.is_some_and(|drift| drift < target.revision) && view.is_complete(&target.hash, &target.plugins) {
        draft.step(Step::ForgetDrift, format!("revision {} is in force", target.revision));
    }
}

/// Whether a configuration is older than the one that this node has reported as in force. The target is never
/// older: it may have the bytes of an older revision.
fn is_older(view: &View<'_>, hash: &ConfigHash) -> bool {
    let Some(seen) = &view.o.spec else { return false };
    if view.target.as_ref().is_some_and(|target| target.hash == *hash) {
        return false;
    }
    let here = if hash == zero_hash() { Some(Revision(0)) } else { view.revision_of(hash).map(|(n, _)| n) };
    here.is_some_and(|here| here < seen.reported)
}

/// What happens to an edited file.
pub(super) enum EditedFile {
    /// It stays: it is somebody's own configuration.
    Refuse,
    /// The configuration that the API server still has loaded is put back.
    PutBack,
    /// The target may be installed over it.
    Install,
}

/// Keeps a copy of an edited file that may be replaced. If the API server has not loaded it, what the server
/// has loaded is put back at once.
pub(super) fn edited_file(view: &View<'_>, target: &Target<'_>, draft: &mut Draft) -> EditedFile {
    let (Some(file), Some(loaded)) = (&view.o.disk.file, view.loaded) else { return EditedFile::Refuse };
    let not_loaded = *loaded != file.hash;
    let readable = file.config.as_ref().is_some_and(|edited| reads_no_more(edited, target));
    if !readable || not_loaded && view.content_of(loaded).is_none() {
        return EditedFile::Refuse;
    }
    if !view.o.disk.aside.contains(&file.hash) {
        let why = format!("the configuration file was edited ({}); a copy is kept", file.hash);
        draft.step(Step::PutAside(file.hash.clone()), why);
    }
    if !not_loaded {
        return EditedFile::Install;
    }
    let step = Step::PutBack { hash: loaded.clone(), refused: None };
    draft.step(
        step,
        "the API server has not loaded the edited file; the configuration that it has loaded is put back",
    );
    EditedFile::PutBack
}

/// Whether every provider of every resource is one that the target has for that resource. A provider is its
/// name and its key: another key under the same name is another provider.
fn reads_no_more(edited: &EncryptionConfiguration, target: &Target<'_>) -> bool {
    let target = &target.content.config;
    edited.resources.iter().all(|entry| {
        let resources = entry.resources.as_deref().unwrap_or_default();
        resources.iter().all(|resource| {
            let known = target.providers_of(&GroupResource::parse(resource));
            // A resource without an entry is stored in plain text.
            let reads = |provider: &ProviderConfiguration| {
                if known.is_empty() { provider.identity.is_some() } else { known.contains(&provider) }
            };
            entry.providers.iter().all(reads)
        })
    })
}
