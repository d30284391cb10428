//! The migration engine: rewrites what is stored of one resource, through whichever API server it talks to.

use keyward_core::api::{EncryptionMigrationStatus, MigrationFailure, MigrationPhase};

use super::World;
use super::config::{SECRETS, resources};
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
}

impl World {
    /// Whether the engine has something to do for this resource.
    pub(crate) fn migration_is_due(&self, resource: usize) -> bool {
        let stored = self.api.snapshot.migrations.get(&resources()[resource]);
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
            self.runs[resource] = Run { generation, todo: self.etcd.stored[resource].clone(), failed: false };
            return self.tell_migration(resource, MigrationPhase::Running);
        }
        let first = self.runs[resource].todo.iter().next();
        if let Some(sealed) = first {
            match self.rewrite(resource, n, sealed) {
                None => return,
                Some(done) => {
                    let run = &mut self.runs[resource];
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
        if let Sealed::Kms { kek, .. } = sealed
            && !self.kms[usize::from(kek)].up
        {
            return None;
        }
        let now = self.writes(n, resource)?;
        if now != sealed {
            // Others may write so at this very instant, or have begun to.
            let again = self.inflight[resource].contains(sealed)
                || self.running().any(|other| self.writes(other, resource) == Some(sealed));
            if !again {
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
        let status = EncryptionMigrationStatus { phase, failures, ..EncryptionMigrationStatus::default() };
        std::sync::Arc::make_mut(&mut self.api).report_migration(&resources()[resource], status);
    }
}
