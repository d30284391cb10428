//! The migration engine: rewrites what is stored of one resource, through whichever API server it talks to.

use keyward_core::api::{EncryptionMigrationStatus, MigrationFailure, MigrationPhase};

use super::World;
use super::config::{RESOURCES, SECRETS, resources};
use super::etcd::{Sealed, Ways};
use super::server::Life;

/// One run over one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// The wish that it carries out.
    pub generation: i64,
    /// What it has not dealt with: as listed at its start. What lands behind it is not seen.
    pub todo: Ways,
    /// Something could not be rewritten.
    pub failed: bool,
    /// Something was rewritten: what was there before is in etcd's history.
    pub rewrote: bool,
}

/// Objects whose update the API server refuses whoever asks, as they are stored. They can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Their namespace is missing in etcd: 404.
    pub orphans: [Ways; RESOURCES.len()],
    /// A webhook refuses them, with whatever code it likes.
    pub by_webhook: [Ways; RESOURCES.len()],
}

impl Refused {
    /// Whether something that is stored so is refused.
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

    /// The next step of the engine, at server `n`: it begins, or rewrites all that is sealed in one way.
    pub(super) fn migrate(&mut self, resource: usize, n: usize) {
        if !self.migration_is_due(resource) || self.servers[n].life != Life::Up {
            return;
        }
        let generation = self.api.migration_generations[resource];
        if self.runs[resource].generation != generation {
            let todo = self.etcd.stored[resource].clone();
            self.runs[resource] = Run { generation, todo, ..Run::default() };
            return self.tell_migration(resource, MigrationPhase::Running);
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
            self.tell_migration(resource, phase);
        }
    }

    /// `None`: the server cannot now, and the run pauses. False: it never will.
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
            // Others may write so at this very instant, or have begun to.
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

    fn tell_migration(&mut self, resource: usize, phase: MigrationPhase) {
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
