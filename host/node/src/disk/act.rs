//! Carries out steps. Each can be repeated, and leaves the disk in a state from which the next pass
//! continues.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use keyward_core::SecretBytes;
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::formats::revision::{PluginRecord, RevisionContent};
use keyward_core::ids::{ConfigHash, KeyId, PluginDigest, Revision};
use keyward_core::names;
use keyward_core::node::pod::{self, Place, Rendered};
use keyward_core::node::{Instance, Observed, Step};

use super::atomic::Lasting;
use super::records::{self, InstanceRecord, Memory, RefusalRecord};
use super::{Disk, Recoveries, atomic, ports, sha256};
use crate::error::AgentError;

/// This many copies of manually edited files are stored. They may contain keys, and an admin needs the
/// latest, if any.
const COPIES: usize = 5;

impl Disk {
    /// Carries out one step, with the data from which it was decided.
    pub(crate) fn act(&self, step: &Step, observed: &Observed) -> Result<(), AgentError> {
        match step {
            Step::RecordHighWater(key_id) => {
                // Never lowered.
                self.remember(|memory| memory.highest_key_id = memory.highest_key_id.max(*key_id))
            }
            Step::KeepKeyChecks(key_checks) => self.remember(|memory| {
                memory.key_checks =
                    key_checks.iter().map(|(key_id, key_check)| (key_id.0, key_check.clone())).collect();
            }),
            Step::KeepPreflight(answer) => {
                self.remember(|memory| memory.preflight = Some((**answer).clone()))
            }
            Step::KeepRevision(revision) => {
                let content = observed.target.as_ref().and_then(|target| target.as_ref().ok());
                let content = content.ok_or_else(|| gone(format!("revision {revision}")))?;
                records::write_revision(&self.paths.revision(*revision), content)
            }
            Step::MakeFolder(instance) => self.make_folder(instance),
            Step::WriteFiles(instance) => self.write_files(instance, observed),
            Step::WritePod { instance, trial } => self.write_pod(instance, *trial, observed),
            Step::SwitchLink { key_id, instance } => self.switch_link(*key_id, instance),
            Step::InstallConfiguration { revision, hash } => {
                self.is_as_observed(observed)?;
                self.install(*revision, hash)
            }
            Step::PutBack { hash, refused } => {
                self.is_as_observed(observed)?;
                if let Some(refused) = refused {
                    let record = RefusalRecord {
                        revision: refused.revision,
                        hash: refused.hash.clone(),
                        attempts: refused.attempts,
                    };
                    self.remember(|memory| memory.refusal = Some(record))?;
                }
                let bytes = self.kept_configuration(hash)?;
                self.write_configuration(&bytes)
            }
            Step::RecordLoaded(hash) => self.remember(|memory| memory.loaded = Some(hash.clone())),
            Step::PutAside(hash) => self.put_aside(hash),
            Step::RecordDrift(revision) => self.remember(|memory| memory.drift = Some(*revision)),
            Step::ForgetDrift => self.remember(|memory| memory.drift = None),
            Step::ForgetRefusal => self.remember(|memory| memory.refusal = None),
            Step::RemoveLink(key_id) => {
                // The record is first: without it no step creates the link again.
                self.remember(|memory| drop(memory.serving.remove(&key_id.0)))?;
                atomic::remove(&self.paths.link(*key_id))
            }
            Step::RemovePod(instance) => atomic::remove(&self.paths.manifest(instance)),
            Step::RemoveFiles(instance) => {
                atomic::remove_folder(&self.paths.plugin(instance))?;
                atomic::remove_folder(&self.paths.socket_folder(instance))?;
                atomic::remove_empty_folder(&self.paths.key_folder(instance.key_id))?;
                atomic::remove(&self.paths.instance(instance))
            }
            Step::ForgetRevision(revision) => atomic::remove(&self.paths.revision(*revision)),
            Step::ForgetConfiguration(hash) => atomic::remove(&self.paths.configuration(hash)),
            Step::ForgetRecovered { key_id, number } => {
                Recoveries::new(self.paths.clone()).forget(*key_id, *number)
            }
        }
    }

    fn remember(&self, change: impl FnOnce(&mut Memory)) -> Result<(), AgentError> {
        let mut memory = self.memory()?;
        change(&mut memory);
        records::write_memory(&self.paths, &memory)
    }

    fn make_folder(&self, instance: &Instance) -> Result<(), AgentError> {
        // Sockets are below /var/run. A reboot empties it, and missing folders are created again.
        atomic::passage(&self.paths.key_folder(instance.key_id), Lasting::No)?;
        atomic::owned_folder(&self.paths.socket_folder(instance), self.owner, Lasting::No)
    }

    fn render(
        &self,
        instance: &Instance,
        digest: &PluginDigest,
        record: &PluginRecord,
        ports: &BTreeMap<String, u16>,
        trial: Option<u32>,
    ) -> Result<Rendered, AgentError> {
        let files = self.paths.plugin(instance);
        let place = Place {
            node: &self.node,
            files: &files.to_string_lossy(),
            ports,
            uid: self.owner.uid,
            gid: self.owner.gid,
            trial,
        };
        pod::render(instance.key_id, digest, record, &place)
            .map_err(|source| AgentError::Render { instance: instance.clone(), source })
    }

    fn write_files(&self, instance: &Instance, observed: &Observed) -> Result<(), AgentError> {
        let (digest, record) = observed.record(instance).ok_or_else(|| gone(instance.to_string()))?;
        let known = match self.record(instance).ok().flatten() {
            Some(known) => {
                let repairs = known.repairs.saturating_add(u32::from(!self.has_files(instance, &known)));
                InstanceRecord { repairs, ..known }
            }
            None => InstanceRecord {
                digest: digest.clone(),
                ports: ports::allocate(&self.node, instance, pod::ports(&record), &self.taken_ports()?)?,
                sums: BTreeMap::new(),
                manifest: None,
                tries: 0,
                repairs: 0,
            },
        };
        let rendered = self.render(instance, &digest, &record, &known.ports, None)?;
        let folder = self.paths.plugin(instance);
        if !rendered.files.is_empty() {
            atomic::passage(&self.paths.plugins(), Lasting::Yes)?;
            // Synced with the files.
            atomic::owned_folder(&folder, self.owner, Lasting::No)?;
            let contents = rendered.files.iter().map(|(name, content)| (name, content.expose()));
            atomic::write_all(&folder, contents, Some(self.owner))?;
        }
        let sums = rendered.files.iter().map(|(name, content)| (name.clone(), sha256(content.expose())));
        let record = InstanceRecord { digest, sums: sums.collect(), ..known };
        records::write(&self.paths.instance(instance), &record)
    }

    fn taken_ports(&self) -> Result<BTreeSet<u16>, AgentError> {
        let mut taken = BTreeSet::new();
        for name in atomic::entries(&self.paths.instances())? {
            let Some(instance) = name.strip_suffix(".json").and_then(Instance::parse) else { continue };
            taken.extend(
                self.record(&instance).ok().flatten().into_iter().flat_map(|r| r.ports.into_values()),
            );
        }
        Ok(taken)
    }

    fn write_pod(&self, instance: &Instance, trial: bool, observed: &Observed) -> Result<(), AgentError> {
        let (digest, record) = observed.record(instance).ok_or_else(|| gone(instance.to_string()))?;
        let known = self.record(instance)?.ok_or_else(|| gone(format!("the record of {instance}")))?;
        let tries = if trial { known.tries.saturating_add(1) } else { 0 };
        let rendered = self.render(instance, &digest, &record, &known.ports, trial.then_some(tries))?;
        let path = self.paths.manifest(instance);
        let text = pod::manifest(&rendered.pod)
            .map_err(|error| AgentError::Corrupt { path: path.clone(), why: error.to_string() })?;
        let manifest = Some(sha256(text.as_bytes()));
        let edited = match atomic::read(&path)? {
            Some(found) => known.manifest.is_some_and(|written| written != sha256(&found)),
            None => false,
        };
        let repairs = known.repairs.saturating_add(u32::from(edited));
        // The record is first. If the agent stops in between, the count is one start too high, which costs
        // time; one too low would cost a login. A manifest that differs from the record is written again.
        let known = InstanceRecord { manifest, tries, repairs, ..known };
        records::write(&self.paths.instance(instance), &known)?;
        atomic::private_folder(&self.paths.manifests())?;
        atomic::write(&path, text.as_bytes(), None)
    }

    fn switch_link(&self, key_id: KeyId, instance: &Instance) -> Result<(), AgentError> {
        // The record is first: after a reboot the link is created from it, and this instance has passed its
        // probes.
        self.remember(|memory| {
            memory.serving.insert(key_id.0, instance.generation.to_string());
        })?;
        atomic::passage(&self.paths.key_folder(key_id), Lasting::No)?;
        atomic::link(&self.paths.link(key_id), &instance.link_target())
    }

    /// The file must be the one that was decided about: it may have been edited since.
    fn is_as_observed(&self, observed: &Observed) -> Result<(), AgentError> {
        let now =
            atomic::read(&self.paths.config())?.map(|file| ConfigHash::of(SecretBytes::new(file).expose()));
        if now.as_ref() == observed.disk.file.as_ref().map(|file| &file.hash) {
            return Ok(());
        }
        Err(gone("the configuration file that was observed".to_owned()))
    }

    fn install(&self, revision: Revision, hash: &ConfigHash) -> Result<(), AgentError> {
        let content = self.kept_revision(revision)?;
        if content.hash() != *hash {
            return Err(gone(format!("revision {revision} with the configuration {hash}")));
        }
        // The API server may still have the current file loaded, so it must be possible to restore it.
        if let Some(old) = atomic::read(&self.paths.config())? {
            let old = SecretBytes::new(old);
            let old_hash = ConfigHash::of(old.expose());
            // An edited file is stored elsewhere, and must not be restored.
            if old_hash != *hash && !self.paths.edited_file(&old_hash).exists() {
                atomic::write(&self.paths.configuration(&old_hash), old.expose(), None)?;
            }
        }
        self.write_configuration(&content.bytes)
    }

    /// Copies the configuration file, unless it has changed since the decision.
    fn put_aside(&self, hash: &ConfigHash) -> Result<(), AgentError> {
        let Some(file) = atomic::read(&self.paths.config())? else { return Ok(()) };
        let file = SecretBytes::new(file);
        if ConfigHash::of(file.expose()) != *hash {
            return Ok(());
        }
        atomic::private_folder(&self.paths.edited())?;
        atomic::write(&self.paths.edited_file(hash), file.expose(), None)?;
        self.remove_oldest_copies(hash)
    }

    /// Removes the oldest copies, but never the newest one, also if the clock has gone back: its file is
    /// about to be replaced.
    fn remove_oldest_copies(&self, newest: &ConfigHash) -> Result<(), AgentError> {
        let (folder, newest) = (self.paths.edited(), self.paths.edited_file(newest));
        let mut others = Vec::new();
        for name in atomic::entries(&folder)? {
            let path = folder.join(&name);
            if name.strip_suffix(".json").is_none() || path == newest {
                continue;
            }
            // A copy whose time cannot be read counts as the oldest.
            let made = fs::metadata(&path).and_then(|found| found.modified());
            others.push((made.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
        others.sort_unstable();
        let too_many = (others.len() + 1).saturating_sub(COPIES);
        others.iter().take(too_many).try_for_each(|(_, path)| atomic::remove(path))
    }

    fn write_configuration(&self, bytes: &SecretBytes) -> Result<(), AgentError> {
        let path = self.paths.config();
        if let Some(folder) = path.parent() {
            atomic::private_folder(folder)?;
        }
        atomic::write(&path, bytes.expose(), None)
    }

    fn kept_revision(&self, revision: Revision) -> Result<RevisionContent, AgentError> {
        records::read_revision(&self.paths.revision(revision), &names::revision_secret(revision))?
            .ok_or_else(|| gone(format!("revision {revision}")))
    }

    fn kept_configuration(&self, hash: &ConfigHash) -> Result<SecretBytes, AgentError> {
        if let Some(bytes) = atomic::read(&self.paths.configuration(hash))? {
            let bytes = SecretBytes::new(bytes);
            if ConfigHash::of(bytes.expose()) == *hash {
                return Ok(bytes);
            }
        }
        if ConfigHash::of(REVISION_ZERO.as_bytes()) == *hash {
            return Ok(REVISION_ZERO.as_bytes().into());
        }
        let kept = self.look()?.disk.revisions;
        let found = kept.values().find(|content| content.hash() == *hash);
        found.map(|content| content.bytes.clone()).ok_or_else(|| gone(format!("the configuration {hash}")))
    }
}

fn gone(what: String) -> AgentError {
    AgentError::Gone { what }
}
