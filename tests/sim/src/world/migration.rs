//! The migration engine: it rewrites the stored objects of one resource, through any API server.

use keyward_core::api::{EncryptionMigrationStatus, MigrationFailure, MigrationPhase};

use super::World;
use super::config::{RESOURCES, SECRETS, resources};
use super::etcd::{Sealed, Ways};
use super::server::Life;

/// One run over one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// The request that it carries out.
    pub generation: i64,
    /// What is left of the list from its start. Objects that are written behind it are not seen.
    pub todo: Ways,
    /// Something could not be rewritten.
    pub failed: bool,
    /// Something was rewritten: the old value is in etcd's history.
    pub rewrote: bool,
}

/// Objects whose update the API server always refuses, by how they are stored. They can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Their namespace is missing in etcd: 404.
    pub orphans: [Ways; RESOURCES.len()],
    /// A webhook refuses them, with any status code.
    pub by_webhook: [Ways; RESOURCES.len()],
}

impl Refused {
    /// Whether updates of objects that are stored in this way are refused.
    pub fn contains(&self, resource: usize, sealed: Sealed) -> bool {
        self.orphans[resource].contains(sealed) || self.by_webhook[resource].contains(sealed)
    }
}

impl World {
    /// Whether the engine has something to do for this resource.
    pub(crate) fn migration_is_due(&self, resource: usize) -> bool {
        let stored = self.api.snapshot.migrations.get(&resources()[resource]);
        let stored = stored.filter(|_| self.api.spec.paused.is_none());
        stored.is_some_and(|stored| {
            !stored.current
                || matches!(stored.status.phase, MigrationPhase::Pending | MigrationPhase::Running)
        })
    }

    /// The next step of the engine, at server `n`: it begins, or rewrites everything that is sealed in one
    /// way.
    pub(super) fn migrate(&mut self, resource: usize, n: usize) {
        if !self.migration_is_due(resource) || self.servers[n].life != Life::Up {
            return;
        }
        let generation = self.api.migration_generations[resource];
        if self.runs[resource].generation != generation {
            let todo = self.etcd.stored[resource].clone();
            self.runs[resource] = Run { generation, todo, ..Run::default() };
            return self.report_phase(resource, MigrationPhase::Running);
        }
        let first = self.runs[resource].todo.iter().next();
        if let Some(sealed) = first {
            match self.rewrite(resource, n, sealed) {
                None => return,
                Some(done) => {
                    let writes = self.writes(n, resource);
                    let run = &mut self.runs[resource];
                    run.rewrote |= writes != Some(sealed);
                    run.failed |= !done;
                    run.todo.remove(sealed);
                }
            }
        }
        if self.runs[resource].todo.is_empty() {
            let failed = self.runs[resource].failed;
            let phase = if failed { MigrationPhase::Failed } else { MigrationPhase::Succeeded };
            self.report_phase(resource, phase);
        }
    }

    /// `None`: the server cannot now, and the run pauses. False: the update is refused.
    fn rewrite(&mut self, resource: usize, n: usize, sealed: Sealed) -> Option<bool> {
        if !self.reads(n, resource, sealed) {
            return Some(false);
        }
        let refused = self.refused.contains(resource, sealed);
        if refused && !self.mutant.is_some_and(|mutant| mutant.takes_for_gone(self, resource, sealed)) {
            return Some(false);
        }
        if let Sealed::Kms { kek, .. } = sealed
            && !self.kms[usize::from(kek)].up
        {
            return None;
        }
        if let Sealed::Kms { key, .. } = sealed {
            self.reaches(n, key)?;
        }
        let now = self.writes(n, resource)?;
        if now != sealed {
            // Other servers may write in this way now, or have writes in flight.
            let again = self.inflight[resource].contains(sealed)
                || self.running().any(|other| self.writes(other, resource) == Some(sealed));
            if !again && !refused {
                self.etcd.stored[resource].remove(sealed);
            }
            self.etcd.put(resource, now);
        }
        if resource == SECRETS {
            std::sync::Arc::make_mut(&mut self.api).rewrite_secrets();
        }
        Some(true)
    }

    fn report_phase(&mut self, resource: usize, phase: MigrationPhase) {
        let failure = MigrationFailure { object: "n/o".into(), message: "no matching prefix found".into() };
        let failures = if phase == MigrationPhase::Failed { vec![failure] } else { Vec::new() };
        let end_version = (phase == MigrationPhase::Succeeded).then(|| "end".to_owned());
        let status = EncryptionMigrationStatus {
            phase,
            start_version: Some("start".to_owned()),
            listed: true,
            failed: failures.len() as u64,
            failures,
            end_version,
            ..EncryptionMigrationStatus::default()
        };
        let rewrote = self.runs[resource].rewrote;
        std::sync::Arc::make_mut(&mut self.api).report_migration(&resources()[resource], status, rewrote);
    }
}
