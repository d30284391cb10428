//! Recorded claims: a key's `migrated`, and decrypted resources (invariant: claims-are-true).

use keyward_core::api::{ConditionStatus, MigrationPhase};
use keyward_core::ids::{GroupResource, KeyId, Mode};
use keyward_core::outcome::Outcome;

use super::{Wrong, is_lost};
use crate::world::World;
use crate::world::config::resources;
use crate::world::etcd::Sealed;
use crate::world::server::NAMES;

/// Nothing changes any more, so what the newest key claims as migrated, and the decryption of resources that
/// left the list, must be true in etcd.
pub fn settled(world: &mut World) {
    if nobody_knows(world) {
        return;
    }
    if let Some((rule, what)) = claims(world) {
        world.fails(rule, what);
    }
}

/// While the condition `Ready` is True, every running server and etcd are as the spec asks
/// (invariant: ready-is-true).
pub fn ready(world: &mut World, outcome: &Outcome) {
    let is_ready = |type_: &str, status| type_ == "Ready" && status == ConditionStatus::True;
    if nobody_knows(world)
        || !outcome.conditions.iter().any(|condition| is_ready(&condition.type_, condition.status))
    {
        return;
    }
    if let Some(what) = not_ready(world) {
        world.fails("ready-is-true", format!("Ready is True: {what}"));
    }
}

/// Whether the agent of a restored machine has not reported yet: nobody knows what its API server has
/// written.
pub(super) fn nobody_knows(world: &World) -> bool {
    world.servers.iter().any(|server| server.unreported)
}

fn not_ready(world: &World) -> Option<String> {
    let newest = world.api.configs.last_key_value();
    for n in world.running() {
        let hash = &world.servers[n].loaded.hash;
        if let Some((revision, _)) = newest.filter(|(_, config)| config.hash != *hash) {
            return Some(format!("{} has not loaded revision {revision}", NAMES[n]));
        }
    }
    let snapshot = &world.api.snapshot;
    let key = snapshot.usable().next();
    let mode = snapshot.wanted.mode.clone().ok()?;
    for (index, resource) in resources().iter().enumerate() {
        let writes = newest.and_then(|(_, config)| config.write_key(index));
        let wanted = snapshot.wanted.resources.contains(resource);
        let encrypts = wanted && mode != Mode::Identity;
        if let Some(key) = key.filter(|key| wanted && (key.mode != mode || writes != Some(key.id))) {
            return Some(format!("{resource} are written with {writes:?}, not with key {} ({mode})", key.id));
        }
        let own = |sealed: &Sealed| match key.filter(|_| encrypts) {
            Some(key) => sealed.key() == Some(key.id),
            None => *sealed == Sealed::Plain,
        };
        let counts = |sealed: &Sealed| {
            let sealed = *sealed;
            !is_lost(world, sealed)
                && !world.is_forgotten(sealed)
                && !super::given_up::left_with_its_node(world, index, sealed)
        };
        if let Some(other) = world.etcd.stored[index].iter().find(|sealed| !own(sealed) && counts(sealed)) {
            return Some(format!("{resource} are stored as {other:?}"));
        }
    }
    None
}

fn claims(world: &World) -> Wrong {
    let snapshot = &world.api.snapshot;
    let (revision, latest) = world.books.latest.as_ref()?;
    let newest = snapshot.usable().next();
    for (index, resource) in resources().iter().enumerate() {
        // A key that does not write is not checked: its records of migration are removed before it writes
        // again.
        let writes = latest.write_key(index);
        if let Some(key) = newest.filter(|key| writes == Some(key.id) && key.migrated.contains(resource))
            && let Some((rule, what)) = migrated(world, resource, key.id)
        {
            return Some((rule, format!("everything is idle: {what}")));
        }
        let decrypted = snapshot.migrations.get(resource).is_some_and(|migration| {
            let spec = &migration.spec;
            let done = migration.current && migration.status.phase == MigrationPhase::Succeeded;
            done && spec.key_id == KeyId(0) && spec.since == *revision
        });
        let wanted = snapshot.wanted.resources.contains(resource);
        let other = world.etcd.stored[index].iter().find(|sealed| *sealed != Sealed::Plain);
        if let Some(other) = other.filter(|_| !wanted && (decrypted || latest.lists[index].is_none())) {
            return Some((
                "claims-are-true",
                format!("everything is idle: {resource} left the list, and some are stored as {other:?}"),
            ));
        }
    }
    None
}

/// Everything is stored under the key that is recorded as migrated (invariant: claims-are-true).
pub(super) fn migrated(world: &World, resource: &GroupResource, id: KeyId) -> Wrong {
    let index = resources().iter().position(|known| known == resource)?;
    let identity = world.books.keys.get(&id).is_some_and(|meaning| meaning.mode == Mode::Identity);
    let own = |sealed: &Sealed| if identity { *sealed == Sealed::Plain } else { sealed.key() == Some(id) };
    let other = world.etcd.stored[index].iter().find(|sealed| !own(sealed) && !is_lost(world, *sealed))?;
    let what = format!("{resource} are recorded as migrated to key {id}, and some are stored as {other:?}");
    Some(("claims-are-true", what))
}
