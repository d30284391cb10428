//! Reads the current state of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use keyward_core::SecretBytes;
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{ConfigHash, KeyId, PluginDigest, Revision};
use keyward_core::names;
use keyward_core::node::{self, FileSeen, Generation, Instance, OnDisk, PauseFile, pod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::records::{self, InstanceRecord, Memory, RefusalRecord};
use super::{Disk, Recoveries, atomic, sha256};
use crate::error::AgentError;
use crate::paths::{PLUGIN_MANIFEST, Paths};

/// This many bytes of a pause's reason are read.
const LONGEST_REASON: u64 = 1024;
/// This many of its characters are shown.
const LONGEST_SHOWN: usize = 256;

/// The disk in core's form. The caller has the clock and adds the age of the refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) disk: node::Disk,
    pub(super) refusal: Option<RefusalRecord>,
}

impl Look {
    /// The disk with the refusal and its age.
    pub(crate) fn with_refusal_age(
        mut self,
        age: impl FnOnce(&node::Refusal) -> std::time::Duration,
    ) -> node::Disk {
        self.disk.refusal = self.refusal.map(|record| {
            let mut refusal = node::Refusal {
                revision: record.revision,
                hash: record.hash,
                attempts: record.attempts,
                elapsed: std::time::Duration::ZERO,
            };
            refusal.elapsed = age(&refusal);
            refusal
        });
        self.disk
    }
}

impl Disk {
    /// The contents of an instance's files. Files that cannot be read are left out.
    pub(crate) fn files(&self, instance: &Instance) -> Vec<SecretBytes> {
        let folder = self.paths.plugin(instance);
        let names = atomic::entries(&folder).unwrap_or_default();
        let read = |name: String| atomic::read(&folder.join(name)).ok().flatten();
        names.into_iter().filter_map(read).map(SecretBytes::new).collect()
    }

    /// Whether an admin has paused the agent of this node.
    pub(crate) fn is_paused(&self) -> bool {
        paused(&self.paths.paused()).is_some()
    }

    /// Everything on disk that a decision needs.
    pub(crate) fn look(&self) -> Result<Look, AgentError> {
        let memory = self.memory()?;
        let file = atomic::read(&self.paths.config())?.map(|bytes| FileSeen::of(&bytes));
        let mut configurations = BTreeMap::new();
        let folder = self.paths.configurations();
        for name in atomic::entries(&folder)? {
            // A file whose bytes do not match the hash in its name cannot be restored.
            let seen = atomic::read(&folder.join(&name))?.map(|bytes| FileSeen::of(&bytes));
            if let Some(seen) = seen.filter(|seen| self.paths.configuration(&seen.hash).ends_with(&name)) {
                configurations.insert(seen.hash.clone(), seen);
            }
        }
        let links = self.links()?;
        let serving = memory
            .serving
            .iter()
            .filter_map(|(key, generation)| Some((KeyId(*key), Generation::parse(generation)?)))
            .collect();
        let key_checks =
            memory.key_checks.iter().map(|(key, key_check)| (KeyId(*key), key_check.clone())).collect();
        let disk = node::Disk {
            file,
            revisions: self.revisions()?,
            configurations,
            instances: self.instances()?,
            links,
            serving,
            key_checks,
            preflight: memory.preflight,
            highest_key_id: memory.highest_key_id,
            refusal: None,
            loaded: memory.loaded,
            recovered: Recoveries::new(self.paths.clone()).all()?,
            drift: memory.drift,
            aside: self.aside()?,
            paused: paused(&self.paths.paused()),
        };
        Ok(Look { disk, refusal: memory.refusal })
    }

    fn aside(&self) -> Result<BTreeSet<ConfigHash>, AgentError> {
        let names = atomic::entries(&self.paths.edited())?;
        let hash =
            |name: String| name.strip_suffix(".json").map(|digits| ConfigHash(format!("sha256:{digits}")));
        Ok(names.into_iter().filter_map(hash).collect())
    }

    pub(super) fn memory(&self) -> Result<Memory, AgentError> {
        let records::Remembered { memory, lost } = records::memory(&self.paths)?;
        // Nothing is changed without the lock.
        if let (Some(why), Some(_)) = (lost, &self.lock) {
            let (path, kept) = (self.paths.memory(), self.paths.memory_lost());
            if let Some(bytes) = atomic::read(&path)? {
                atomic::write(&kept, &bytes, None)?;
            }
            records::write(&path, &memory)?;
            tracing::warn!(
                "{why}; it was restored from its copy, {}, without loss; the unreadable file is kept as {}",
                self.paths.memory_copy().display(),
                kept.display()
            );
        }
        Ok(memory)
    }

    pub(super) fn record(&self, instance: &Instance) -> Result<Option<InstanceRecord>, AgentError> {
        records::read(&self.paths.instance(instance))
    }

    fn revisions(&self) -> Result<BTreeMap<Revision, Arc<RevisionContent>>, AgentError> {
        let folder = self.paths.revisions();
        let mut revisions = BTreeMap::new();
        for name in atomic::entries(&folder)? {
            let Some(number) = name.strip_suffix(".json").and_then(|n| n.parse().ok()) else { continue };
            let revision = Revision(number);
            match records::read_revision(&folder.join(&name), &names::revision_secret(revision)) {
                Ok(Some(content)) => drop(revisions.insert(revision, Arc::new(content))),
                Ok(None) => {}
                Err(error @ AgentError::Corrupt { .. }) => {
                    tracing::warn!(%revision, %error, "a stored revision cannot be read; it is ignored");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(revisions)
    }

    /// Each instance of which anything is on disk.
    fn instances(&self) -> Result<BTreeMap<Instance, OnDisk>, AgentError> {
        let mut instances: BTreeMap<Instance, OnDisk> = BTreeMap::new();
        for name in atomic::entries(&self.paths.instances())? {
            let Some(instance) = name.strip_suffix(".json").and_then(Instance::parse) else { continue };
            let record = match self.record(&instance) {
                Err(error @ AgentError::Corrupt { .. }) => {
                    tracing::warn!(
                        %instance, %error,
                        "the record of a plugin instance cannot be read; the instance is written again if it is needed"
                    );
                    None
                }
                other => other?,
            };
            let found = instances.entry(instance.clone()).or_default();
            found.files = record.as_ref().is_some_and(|record| self.has_files(&instance, record));
            let Some(record) = record else { continue };
            found.tries = record.tries;
            found.repairs = record.repairs;
            let manifest = self.paths.manifest(&instance);
            if let (Some(written), Some(bytes)) = (&record.manifest, atomic::read(&manifest)?) {
                // By its name it is Keyward's, with any content.
                found.edited = *written != sha256(&bytes);
                found.pod = true;
                found.trial = record.tries > 0;
            }
            found.digest = Some(record.digest);
        }
        for name in atomic::entries(&self.paths.plugins())? {
            if let Some(instance) = Instance::parse(&name) {
                instances.entry(instance).or_default();
            }
        }
        for key_id in self.keys()? {
            for entry in atomic::entries(&self.paths.key_folder(key_id))? {
                if let Some(generation) = entry.strip_prefix("g-").and_then(Generation::parse) {
                    instances.entry(Instance { key_id, generation }).or_default().folder = true;
                }
            }
        }
        for (instance, digest, trial) in self.manifests()? {
            let found = instances.entry(instance).or_default();
            if !found.pod {
                (found.pod, found.trial) = (true, trial);
            }
            found.digest.get_or_insert(digest);
        }
        for (instance, found) in &mut instances {
            // Checked only for plugins that should have stopped. The prober knows more about the others.
            found.listening = !found.pod && found.folder && is_listening(&self.paths.socket(instance));
        }
        Ok(instances)
    }

    /// The keys that have a folder among the sockets.
    fn keys(&self) -> Result<Vec<KeyId>, AgentError> {
        let names = atomic::entries(self.paths.sockets())?;
        Ok(names.iter().filter_map(|name| name.strip_prefix("kms-")?.parse().ok()).collect())
    }

    /// The targets of the keys' links. Links that Keyward did not create are ignored.
    fn links(&self) -> Result<BTreeMap<KeyId, Generation>, AgentError> {
        let point = |key_id: KeyId| {
            let target = fs::read_link(self.paths.link(key_id)).ok()?;
            Some((key_id, Instance::parse_link_target(target.to_str()?)?))
        };
        Ok(self.keys()?.into_iter().filter_map(point).collect())
    }

    /// Whether each file is unchanged, and readable by the plugin's user alone.
    pub(super) fn has_files(&self, instance: &Instance, record: &InstanceRecord) -> bool {
        let folder = self.paths.plugin(instance);
        let Ok(owner) = fs::symlink_metadata(&folder) else { return record.sums.is_empty() };
        record.sums.iter().all(|(name, written)| {
            let path = folder.join(name);
            // Only a regular file is read: reading a pipe could block for ever.
            let is_private = fs::symlink_metadata(&path).is_ok_and(|found| {
                let same = found.uid() == owner.uid() && found.gid() == owner.gid();
                found.is_file() && same && found.mode() & 0o7777 == 0o600
            });
            let read = || atomic::read(&path).ok().flatten().map(SecretBytes::new);
            is_private && read().is_some_and(|bytes| *written == sha256(bytes.expose()))
        })
    }

    /// Keyward's pods, and whether each is a trial.
    fn manifests(&self) -> Result<Vec<(Instance, PluginDigest, bool)>, AgentError> {
        let folder = self.paths.manifests();
        let mut found = Vec::new();
        for name in atomic::entries(&folder)? {
            if name.strip_suffix(".yaml").is_none_or(|stem| !stem.starts_with(PLUGIN_MANIFEST)) {
                continue;
            }
            let path = folder.join(&name);
            let Some(bytes) = atomic::read(&path)? else { continue };
            let pod = pod::read(&bytes);
            match pod.as_ref().and_then(|pod| Some((pod::identify(pod)?, pod::is_trial(pod)))) {
                Some(((instance, digest), trial)) if self.paths.manifest(&instance) == path => {
                    found.push((instance, digest, trial));
                }
                _ => tracing::warn!(
                    path = %path.display(),
                    "a manifest has a name of Keyward's, but Keyward did not write it; it is ignored"
                ),
            }
        }
        Ok(found)
    }
}

/// The file that pauses the agent. Anything of that name pauses it, also an empty file or one that is not
/// regular.
pub(crate) fn paused(path: &Path) -> Option<PauseFile> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(PauseFile { reason: format!("{}: {error}", path.display()), since: None }),
    };
    let since = found.modified().ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
    // Only a regular file is read: reading a pipe could block for ever.
    let text = if found.is_file() { reason(path) } else { "not a regular file".to_owned() };
    let reason = if text.is_empty() { "no reason".to_owned() } else { text };
    Some(PauseFile { reason, since })
}

/// The first line, cut to the length for a status, without anything that looks like a secret: the file may
/// have any content.
fn reason(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST_REASON).read_to_end(&mut bytes));
    if let Err(error) = read {
        return format!("its reason cannot be read: {error}");
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    node::Scrubber::new([]).clean_and_cut(line.trim(), LONGEST_SHOWN)
}

/// Whether an agent on this node has installed a configuration with this hash, or has observed it as loaded.
pub(crate) fn knows(paths: &Paths, hash: &ConfigHash) -> Result<bool, AgentError> {
    let memory = records::memory(paths)?.memory;
    if memory.loaded.as_ref() == Some(hash) || paths.configuration(hash).exists() {
        return Ok(true);
    }
    let folder = paths.revisions();
    for name in atomic::entries(&folder)? {
        // A revision that cannot be understood is no evidence.
        let stored = records::read_revision(&folder.join(&name), &name).unwrap_or_default();
        if stored.is_some_and(|content| content.hash() == *hash) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a process listens on a socket. It never waits: a stopping plugin accepts no connection, and a
/// blocking connect to a full backlog would wait until that process ends.
pub(super) fn is_listening(socket: &Path) -> bool {
    let attempt = || {
        let address = SocketAddrUnix::new(socket)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let own = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&own, &address)
    };
    // EAGAIN: a process listens, and its backlog is full.
    matches!(attempt(), Ok(()) | Err(Errno::AGAIN))
}
