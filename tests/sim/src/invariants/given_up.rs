//! The exemption of forgotten keys (`spec.forget`, decision 0015): objects stored under those keys, and
//! nothing else.

use std::sync::Arc;

use keyward_core::api::{EncryptionNodeStatus, ForgetPhase, HealthStatus};
use keyward_core::ids::KeyId;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::snapshot::ServerView;

use super::{has, is_lost};
use crate::world::World;
use crate::world::config::{Config, RESOURCES};
use crate::world::etcd::{Sealed, Ways};
use crate::world::server::Life;

impl World {
    /// Whether an admin has accepted that this is lost (decision 0015).
    pub(crate) fn is_forgotten(&self, sealed: Sealed) -> bool {
        sealed.key().is_some_and(|id| self.books.forgotten.contains(&id))
    }

    /// Whether a configuration writes with a forgotten key. If that is the only key, its successor writes at
    /// once, because nothing may be written in plain text in between (invariant: no-unrequested-plain-text).
    /// Until the last server has switched, servers with an earlier configuration cannot read the new values
    /// (`Books::successor_rolls_out`). Beside the forgotten objects, this is the only exception
    /// (invariant: readable-everywhere, invariant: read-before-write).
    pub(super) fn writes_forgotten(&self, config: &Config) -> bool {
        let mut writers = (0..RESOURCES.len()).filter_map(|resource| config.writer(resource).key());
        writers.any(|id| self.books.forgotten.contains(&id))
    }
}

/// Whether the request to forget a key was removed, its secret exists, and every server has the newest
/// revision, with the key: from then on, objects under the key must be readable again.
pub(super) fn is_back(world: &World, id: KeyId) -> bool {
    let Some((revision, latest)) = world.books.latest.as_ref() else { return false };
    let has_left = |n: usize| world.servers[n].life == Life::Down && world.books.left[n];
    let known = (0..world.servers.len()).filter(|n| world.servers[*n].life != Life::Absent && !has_left(*n));
    let at_latest = |n: usize| {
        let server = &world.servers[n];
        let is_target = server.observed.spec.as_ref().is_none_or(|seen| seen.spec.revision == *revision);
        server.life == Life::Up && server.loaded.hash == latest.hash && is_target
    };
    let reads = |n: usize| {
        (0..RESOURCES.len()).all(|resource| {
            let stored = world.etcd.stored[resource].iter().chain(world.etcd.history[resource].iter());
            let mut own = stored.filter(|sealed| sealed.key() == Some(id) && !is_lost(world, *sealed));
            own.all(|sealed| world.reads(n, resource, sealed))
        })
    };
    !world.api.snapshot.accepted().contains(&id)
        && latest.keys.contains(&id)
        && world.api.snapshot.key(id).is_some()
        && known.into_iter().all(|n| at_latest(n) && reads(n))
}

/// Whether a local key is in no object, on no server and in no file any more: only a server that has left
/// knew it, and wrote with it before any other server had it (as the successor of a forgotten key).
pub(crate) fn left_with_its_node(world: &World, resource: usize, sealed: Sealed) -> bool {
    let Sealed::Local { key, .. } = sealed else { return false };
    let stays = |n: &usize| world.servers[*n].life != Life::Absent && !world.books.left[*n];
    let at_servers = (0..world.servers.len()).filter(stays).any(|n| {
        has(&world.servers[n].loaded, resource, sealed)
            || world.file(n).is_some_and(|file| has(&file, resource, sealed))
    });
    let in_revisions = world.api.configs.values().any(|config| has(config, resource, sealed));
    !at_servers && !in_revisions && world.api.snapshot.key(key).is_none()
}

/// The exemption begins with the acceptance that the status reports: until then a request exempts nothing.
pub(crate) fn accepted(world: &mut World) {
    let accepted = world.api.snapshot.accepted();
    if accepted.is_subset(&world.books.forgotten) {
        return;
    }
    let books = Arc::make_mut(&mut world.books);
    books.ever_forgotten.extend(accepted.iter().copied());
    books.forgotten.extend(accepted);
}

/// A key that a decision removes by request, although the reports say that it works and something is stored
/// under it (invariant: forget-is-bound).
pub(crate) fn works_and_leaves(world: &World, outcome: &Outcome) -> Option<String> {
    let (_, latest) = world.books.latest.as_ref()?;
    let snapshot = &world.api.snapshot;
    let applied = outcome.actions.iter().find_map(|action| match action {
        Action::ApplyConfig { content, .. } => Some(content.key_ids()),
        _ => None,
    })?;
    let asked = |id: &KeyId| {
        let mut requests = world.api.spec.forget.iter().filter(|request| request.key_id == *id);
        requests.any(|request| snapshot.phase(request) != Some(ForgetPhase::CarriedOut))
    };
    let stored = |id: &KeyId| {
        let mut all = world.etcd.stored.iter().flat_map(Ways::iter);
        all.any(|sealed| sealed.key() == Some(*id) && !is_lost(world, sealed))
    };
    let is_healthy = |status: &EncryptionNodeStatus, id: &KeyId| {
        status.plugins.iter().any(|plugin| {
            let matches = !status.kek_mismatch.contains(&plugin.digest);
            plugin.key_id == *id && plugin.health.status == HealthStatus::Healthy && matches
        })
    };
    let works = |id: &KeyId| {
        let mut statuses = snapshot.servers.values().filter_map(ServerView::status);
        statuses.any(|status| is_healthy(status, id))
    };
    let mut left = latest.kms.iter().filter(|id| !applied.contains(id));
    let id = left.find(|id| asked(id) && stored(id) && works(id))?;
    Some(format!("key {id} works, something is stored under it, and a revision is created without it"))
}
