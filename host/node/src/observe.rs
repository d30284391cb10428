//! Observation: gathers everything that one decision is made from, again in each reconcile pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward_core::api::EncryptionNodeSpec;
use keyward_core::formats::revision::{PluginRecord, RevisionContent, decode_plugins};
use keyward_core::ids::{ConfigHash, KeyId, PluginDigest, Revision};
use keyward_core::names;
use keyward_core::node::{self, Absence, Observed, Reading, SeenSpec, Unread, Unusable};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::api::Connection;
use crate::error::AgentError;
use crate::metrics;

/// The agent's memory between passes, apart from the disk. Losing it costs time, never safety.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The configuration file as last seen, since when, and the count of failed reloads at that time.
    file: Option<FileMemory>,
    /// The last metrics of the API server, and when they were read.
    reading: Option<(Instant, metrics::Reading)>,
    /// The hash and the name of the identity Lease.
    lease: Option<(String, String)>,
    /// The last candidate that had the requested digest.
    candidate: Option<(PluginDigest, Arc<BTreeMap<KeyId, PluginRecord>>)>,
    /// The last target that was read from its Secret.
    target: Option<(Revision, Arc<RevisionContent>)>,
    /// Since when the refusal on disk is known.
    refusal: Option<(Revision, u32, Instant)>,
    /// Since when instances are unneeded.
    pub(crate) unneeded: BTreeMap<node::Instance, Instant>,
    pub(crate) failed_step: Option<node::StepFailure>,
    /// Since when the agent has read no revision in force, and whether another API server has no
    /// EncryptionNode of this node: it answered so while the node's own API server did not answer.
    absent: Option<(Instant, bool)>,
}

/// An object that a spec names.
type Named<T> = Option<Result<Arc<T>, Unusable>>;
type Records = BTreeMap<KeyId, PluginRecord>;

/// The node's `EncryptionNode`, as read from the API.
enum Found {
    Spec(Box<SeenSpec>),
    /// There is none.
    None,
    /// It cannot be read.
    Unread,
}

#[derive(Clone, Debug)]
struct FileMemory {
    hash: Option<ConfigHash>,
    since: Instant,
    failed_reloads: Option<u64>,
}

impl Memory {
    /// The API server's metrics are out of date.
    pub(crate) fn forget_reading(&mut self) {
        self.reading = None;
    }

    /// The answer of another API server that there is no object stays valid, also after the node's own API
    /// server answers again or no API server does.
    fn absence(&mut self, now: Instant, found: &Found, own_is_silent: bool) -> Absence {
        let (since, before) = self.absent.unwrap_or((now, false));
        let elsewhere = before || own_is_silent && matches!(found, Found::None);
        self.absent = Some((since, elsewhere));
        let since = now.duration_since(since);
        match found {
            _ if elsewhere => Absence::Elsewhere,
            Found::Unread => Absence::Unread(since),
            Found::Spec(_) | Found::None => Absence::Unsure(since),
        }
    }
}

impl Agent {
    /// `busy`: something is in progress, so older metrics of the API server are not used.
    pub(crate) async fn observe(&mut self, busy: bool) -> Result<Observed, AgentError> {
        let disk = Arc::clone(&self.disk);
        let look = tokio::task::spawn_blocking(move || disk.look())
            .await
            .map_err(|_| AgentError::Panicked { what: "reading the disk" })??;
        let memory = &mut self.memory;
        let now = Instant::now();
        let disk = look.with_refusal_age(|refusal| {
            let known = memory.refusal.filter(|(revision, attempts, _)| {
                *revision == refusal.revision && *attempts == refusal.attempts
            });
            let since = known.map_or(now, |(.., since)| since);
            memory.refusal = Some((refusal.revision, refusal.attempts, since));
            now.duration_since(since)
        });
        if disk.refusal.is_none() {
            memory.refusal = None;
        }
        let hash = disk.file.as_ref().map(|file| file.hash.clone());
        if memory.file.as_ref().is_none_or(|file| file.hash != hash) {
            memory.file = Some(FileMemory { hash, since: now, failed_reloads: None });
            memory.forget_reading();
        }

        // Only after the disk is read, so that the observed loaded configuration is never older than the file
        // that it is compared with. No such order is needed with the spec: a reading may be older than the
        // spec anyway.
        let known = self.known_reading(busy);
        let connection = self.connection.clone();
        let reading = async {
            match known {
                Some(known) => Ok(known),
                None => {
                    let at = Instant::now();
                    match connection {
                        Some(connection) => connection.metrics().await.map(|reading| (at, reading)),
                        None => Err(AgentError::NoConnection),
                    }
                }
            }
        };
        let (reading, (found, target, candidate)) = tokio::join!(reading, self.wanted(&disk));
        let server = match reading {
            Ok((at, reading)) => Ok(self.server(at, reading).await),
            Err(error) => {
                let answers = error.is_answer() || error.is_own_fault();
                Err(Unread { why: error.to_string(), answers })
            }
        };
        let now = Instant::now();
        let elsewhere = server.as_ref().err().is_some_and(|unread| !unread.answers);
        let has_revision = match &found {
            Found::Spec(seen) => seen.spec.revision > Revision(0) && matches!(target, Some(Ok(_))),
            Found::None | Found::Unread => false,
        };
        let absence = if has_revision {
            self.memory.absent = None;
            None
        } else {
            Some(self.memory.absence(now, &found, elsewhere))
        };
        let spec = match found {
            Found::Spec(seen) => Some(*seen),
            Found::None | Found::Unread => None,
        };
        Ok(Observed {
            policy: self.settings.policy,
            spec,
            absence,
            target,
            candidate,
            server,
            disk,
            probes: self.prober.probed(),
            file_age: self
                .memory
                .file
                .as_ref()
                .map_or_else(Default::default, |f| now.duration_since(f.since)),
            unneeded: self
                .memory
                .unneeded
                .iter()
                .map(|(instance, since)| (instance.clone(), now.duration_since(*since)))
                .collect(),
            failed_step: self.memory.failed_step.clone(),
            credential_expires: self.connection.as_ref().and_then(Connection::expires),
        })
    }

    /// The spec, and then the objects that it names. Each is read live unless the same bytes are known.
    async fn wanted(&mut self, disk: &node::Disk) -> (Found, Named<RevisionContent>, Named<Records>) {
        let found = self.spec().await;
        let Found::Spec(seen) = &found else { return (found, None, None) };
        let target = self.target(&seen.spec, disk).await;
        let candidate = self.candidate(&seen.spec).await;
        (found, target, candidate)
    }

    async fn spec(&mut self) -> Found {
        let Some(connection) = &self.connection else { return Found::Unread };
        match connection.node(&self.settings.node).await {
            Ok(Some(object)) => {
                let generation = object.metadata.generation.unwrap_or_default();
                if object.status.is_none() {
                    self.throttle.forget();
                }
                let reported = object.status.map(|status| status.revision).unwrap_or_default();
                Found::Spec(Box::new(SeenSpec { generation, spec: object.spec, reported }))
            }
            Ok(None) => {
                self.log_once("this node has no EncryptionNode yet; the operator creates it".to_owned());
                self.throttle.forget();
                Found::None
            }
            Err(error) => {
                self.log_once(format!("{error}; what is installed stays in use"));
                Found::Unread
            }
        }
    }

    /// From the disk if it is stored there, else from its Secret. Revisions are immutable.
    async fn target(&mut self, spec: &EncryptionNodeSpec, disk: &node::Disk) -> Named<RevisionContent> {
        let revision = spec.revision;
        if revision == Revision(0) {
            return None;
        }
        let wanted = |content: &Arc<RevisionContent>| {
            spec.config_hash.as_ref().is_some_and(|hash| *hash == content.hash())
        };
        let fetched = self.memory.target.iter().filter(|(n, _)| *n == revision).map(|(_, content)| content);
        if let Some(content) = disk.revisions.get(&revision).into_iter().chain(fetched).find(|c| wanted(c)) {
            return Some(Ok(Arc::clone(content)));
        }
        let name = names::revision_secret(revision);
        let data = match self.connection.as_ref()?.secret(&name).await {
            Ok(data) => data,
            Err(error) => return Some(Err(unusable(&error))),
        };
        Some(match RevisionContent::decode(&name, &data) {
            Ok(Some(content)) => {
                let content = Arc::new(content);
                self.memory.target = Some((revision, Arc::clone(&content)));
                Ok(content)
            }
            Ok(None) => Err(Unusable::Invalid("it contains no configuration".to_owned())),
            Err(error) => Err(Unusable::Invalid(error.to_string())),
        })
    }

    async fn candidate(&mut self, spec: &EncryptionNodeSpec) -> Named<Records> {
        let request = spec.preflight.as_ref()?;
        // The digest covers every byte, so data with this digest is the requested data.
        if let Some((_, found)) = self.memory.candidate.as_ref().filter(|(hash, _)| *hash == request.hash) {
            return Some(Ok(Arc::clone(found)));
        }
        let data = match self.connection.as_ref()?.secret(names::PREFLIGHT_SECRET).await {
            Ok(data) => data,
            Err(error) => return Some(Err(unusable(&error))),
        };
        Some(match decode_plugins(names::PREFLIGHT_SECRET, &data) {
            Ok(plugins) => {
                let plugins = Arc::new(plugins);
                let digest = plugins.get(&request.key_id).and_then(|record| record.digest(request.key_id));
                if digest.as_ref() == Some(&request.hash) {
                    self.memory.candidate = Some((request.hash.clone(), Arc::clone(&plugins)));
                }
                Ok(plugins)
            }
            Err(error) => Err(Unusable::Invalid(error.to_string())),
        })
    }

    /// The last metrics of the API server, if they are recent enough.
    fn known_reading(&mut self, busy: bool) -> Option<(Instant, metrics::Reading)> {
        let good_for = if busy { self.settings.busy } else { self.settings.policy.probe_interval };
        self.memory.reading.take().filter(|(at, _)| at.elapsed() < good_for)
    }

    async fn server(&mut self, at: Instant, reading: metrics::Reading) -> Reading {
        self.memory.reading = Some((at, reading.clone()));
        let failed_reloads = match &mut self.memory.file {
            Some(file) => {
                // A restarted server counts from zero.
                let before = file.failed_reloads.filter(|before| *before <= reading.failed_reloads);
                let before = match (before, file.failed_reloads) {
                    (Some(before), _) => before,
                    (None, None) => reading.failed_reloads,
                    (None, Some(_)) => 0,
                };
                file.failed_reloads = Some(before);
                reading.failed_reloads - before
            }
            None => 0,
        };
        let id = match &reading.id_hash {
            Some(hash) => self.lease(hash).await,
            None => None,
        };
        // The remote key ids that the API server uses are not read, so `adopted` is empty: a remote rotation
        // is reported and not followed.
        Reading { id, loaded: reading.loaded, failed_reloads, adopted: Vec::new() }
    }

    /// Read once for each hash.
    async fn lease(&mut self, id_hash: &str) -> Option<String> {
        if let Some((_, name)) = self.memory.lease.as_ref().filter(|(hash, _)| hash == id_hash) {
            return Some(name.clone());
        }
        match self.connection.as_ref()?.lease_of(id_hash).await {
            Ok(Some(name)) => {
                self.memory.lease = Some((id_hash.to_owned(), name.clone()));
                Some(name)
            }
            Ok(None) => {
                self.log_once("no identity Lease has the hash that the API server's metrics show".to_owned());
                None
            }
            Err(error) => {
                self.log_once(error.to_string());
                None
            }
        }
    }
}

fn unusable(error: &AgentError) -> Unusable {
    // The Secret may still be created, or the Role may not name it yet. The agent waits in both cases.
    if error.is_not_found() {
        Unusable::Invalid("it does not exist".to_owned())
    } else {
        Unusable::Unreadable(error.to_string())
    }
}
