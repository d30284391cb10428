//! What DESIGN.md promises (S1 to S9), held against the world after each step and each write.
//!
//! What may come in: the world as it really is, and books of what is long gone. What never does: how Keyward gets there.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward_core::formats::key_secret::KeySecret;
use keyward_core::ids::{GroupResource, KeyId, Mode, Revision};
use keyward_core::node::Instance;
use keyward_core::outcome::Action;

use crate::world::World;
use crate::world::config::{Config, Provider, RESOURCES, resources};
use crate::world::etcd::Sealed;
use crate::world::kms::{self, KEKS, Kek};
use crate::world::server::{Life, NAMES};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: `S1` to `S9`, `L`.
    pub rule: &'static str,
    /// How.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What a key number means, for ever (S5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// How it encrypts.
    pub mode: Mode,
    /// For KMS: the KEK that was reached, and which of those that had its name.
    pub kek: Option<(Kek, u8)>,
    /// What was to be encrypted when it was made.
    pub resources: Vec<GroupResource>,
}

/// What nobody inside can see, or what is gone.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Every key that was ever made.
    pub keys: BTreeMap<KeyId, Meaning>,
    /// Every revision that was ever made, by the hash of what it says.
    pub revisions: BTreeMap<Revision, String>,
    /// Resources that a revision encrypts which every server was seen to have.
    pub encrypted: [bool; RESOURCES.len()],
    /// Nodes whose objects an admin has deleted.
    pub left: [bool; NAMES.len()],
    /// An admin laid hands on key secrets.
    pub tampered: bool,
    /// How often each KEK had been made anew when the candidate was written.
    pub tried: [u8; KEKS.len()],
}

/// Whether nobody can ever read this again, whatever is done: its KEK was deleted.
pub fn is_lost(world: &World, sealed: Sealed) -> bool {
    matches!(sealed, Sealed::Kms { kek, made, .. } if world.kms[usize::from(kek)].made != made)
}

/// Whether a configuration reads what is sealed so.
fn has(config: &Config, resource: usize, sealed: Sealed) -> bool {
    config.providers(resource).iter().any(|provider| provider.names(sealed))
}

impl World {
    /// Whether a server reads this: its configuration has the provider, and its plugin reaches that KEK.
    pub(crate) fn reads(&self, n: usize, resource: usize, sealed: Sealed) -> bool {
        if is_lost(self, sealed) || !has(&self.servers[n].loaded, resource, sealed) {
            return false;
        }
        match sealed {
            Sealed::Kms { key, kek, .. } => self.reaches(n, key).is_none_or(|reached| reached == kek),
            _ => true,
        }
    }
}

/// After every step.
pub fn state(world: &mut World) {
    if world.violation.is_some() {
        return;
    }
    if let Some((rule, what)) = readable(world).or_else(|| plugins(world)).or_else(|| plain(world)) {
        world.fails(rule, what);
    }
    remember(world);
}

/// S1: whatever is stored can be read at every server.
fn readable(world: &World) -> Option<(&'static str, String)> {
    for n in world.running() {
        for (resource, name) in RESOURCES.iter().enumerate() {
            let stored = &world.etcd.stored[resource];
            if let Some(sealed) = stored.iter().find(|s| !is_lost(world, *s) && !world.reads(n, resource, *s))
            {
                let loaded = world.servers[n].loaded.providers(resource);
                return Some((
                    "S1",
                    format!("{name} stored as {sealed:?} cannot be read at {}: {loaded:?}", NAMES[n]),
                ));
            }
        }
    }
    None
}

/// S1, for whoever has to read: a configuration in force names no link that leads nowhere, unless a reboot took it.
fn plugins(world: &World) -> Option<(&'static str, String)> {
    for n in world.running() {
        let server = &world.servers[n];
        if server.disturbed {
            continue;
        }
        for id in &server.loaded.kms {
            let whole = server.at_link(*id).is_some_and(|instance| {
                let found = server.observed.disk.instances.get(&instance);
                found.is_some_and(|found| found.pod && found.files && found.folder)
            });
            if !whole {
                return Some(("S1", format!("key {id} is loaded at {} and has no plugin", NAMES[n])));
            }
        }
    }
    None
}

/// S9: once a resource was seen to be encrypted everywhere, nothing is written in plain text but under an identity key.
fn plain(world: &World) -> Option<(&'static str, String)> {
    for n in world.running() {
        let loaded = &world.servers[n].loaded;
        for (resource, name) in RESOURCES.iter().enumerate() {
            let encrypted = world.books.encrypted[resource];
            let plain = loaded.writer(resource) == Provider::Identity && loaded.write_key(resource).is_none();
            if encrypted && plain {
                return Some(("S9", format!("{name} are written in plain text at {}", NAMES[n])));
            }
        }
    }
    None
}

fn remember(world: &mut World) {
    let converged = world.api.configs.get(&world.api.snapshot.last_converged).cloned();
    for resource in 0..RESOURCES.len() {
        let encrypts = converged.as_ref().is_some_and(|config| config.writer(resource) != Provider::Identity);
        if encrypts && !world.books.encrypted[resource] {
            Arc::make_mut(&mut world.books).encrypted[resource] = true;
        }
    }
    let restored: Vec<usize> = world
        .running()
        .filter(|n| {
            let server = &world.servers[*n];
            server.disturbed && server.loaded.kms.iter().all(|id| server.at_link(*id).is_some())
        })
        .collect();
    for n in restored {
        let mut server = (*world.servers[n]).clone();
        server.disturbed = false;
        world.servers[n] = Arc::new(server);
    }
}

/// After every write of an operator.
pub fn action(world: &mut World, action: &Action) {
    world.keep_configuration(action);
    if world.violation.is_some() {
        return;
    }
    let wrong = match action {
        Action::CreateKey { key } => created(world, key),
        Action::UpdateKey { key, .. } | Action::SyncData { key, .. } => same_kek(world, key),
        Action::RequirePreflight { .. } => {
            let made = world.kms.map(|kms| kms.made);
            Arc::make_mut(&mut world.books).tried = made;
            None
        }
        Action::ApplyConfig { revision, .. } => applied(world, *revision),
        Action::RecordMigrated { resource, key } => migrated(world, resource, key.id),
        Action::DeleteRevision { revision, .. } => deleted(world, *revision),
        Action::RecordHighWater { .. }
        | Action::ClearPreflight { .. }
        | Action::SetTarget { .. }
        | Action::RecordPublication { .. }
        | Action::StartMigration { .. } => None,
    };
    if let Some((rule, what)) = wrong {
        world.fails(rule, what);
    }
}

type Wrong = Option<(&'static str, String)>;

/// S5 and S6.
fn created(world: &mut World, key: &KeySecret) -> Wrong {
    let id = key.id;
    if world.books.keys.contains_key(&id) {
        return Some(("S5", format!("key {id} is made a second time")));
    }
    if world.api.snapshot.recorded_key < id {
        return Some((
            "S5",
            format!("key {id} is made, and the high-water mark is {}", world.api.snapshot.recorded_key),
        ));
    }
    let kek = key.kms.as_ref().map(|kms| {
        let kek = kms::truth(&kms.plugin);
        (kek, world.kms[usize::from(kek)].made)
    });
    let resources = world.api.snapshot.wanted.resources.clone();
    Arc::make_mut(&mut world.books).keys.insert(id, Meaning { mode: key.mode, kek, resources });
    let under_way = unsettled(world);
    (under_way.len() > 1).then(|| ("S6", format!("keys {under_way:?} are in transition at once")))
}

/// Keys that were made and are not through.
fn unsettled(world: &World) -> Vec<KeyId> {
    if world.books.tampered {
        return Vec::new();
    }
    let newest = world.api.configs.values().next_back();
    let deployed = |resource: &GroupResource| {
        let index = resources().iter().position(|known| known == resource);
        newest.is_some_and(|config| index.is_some_and(|index| config.lists[index].is_some()))
    };
    let keys = world.api.snapshot.keys.iter().filter(|key| key.abandoned.is_none());
    let unsettled = keys.filter(|key| {
        let meant = world.books.keys.get(&key.id).map(|m| m.resources.as_slice()).unwrap_or_default();
        !meant
            .iter()
            .filter(|resource| newest.is_none() || deployed(resource))
            .all(|r| key.migrated.contains(r))
            || meant.is_empty()
    });
    unsettled.map(|key| key.id).collect()
}

/// S5 and S8: in place means the same KEK, whatever a module says, and not another one under its name.
fn same_kek(world: &World, key: &KeySecret) -> Wrong {
    let kek = kms::truth(&key.kms.as_ref()?.plugin);
    // One that is made anew between a plugin's answer and the write is not seen by anybody.
    let now = (kek, world.books.tried[usize::from(kek)]);
    let meant = world.books.keys.get(&key.id)?.kek?;
    (meant != now).then(|| {
        let name = |(kek, made): (Kek, u8)| format!("{}/{made}", KEKS[usize::from(kek)]);
        ("S8", format!("key {} was updated in place from KEK {} to {}", key.id, name(meant), name(now)))
    })
}

/// S2, S3 and S7.
fn applied(world: &mut World, revision: Revision) -> Wrong {
    let config = world.api.configs.get(&revision)?.clone();
    let before = world.books.revisions.get(&revision);
    if let Some(before) = before.filter(|hash| **hash != config.hash.0) {
        return Some(("S7", format!("revision {revision} was {before} and is made anew as {}", config.hash)));
    }
    Arc::make_mut(&mut world.books).revisions.insert(revision, config.hash.0.clone());
    for (resource, name) in RESOURCES.iter().enumerate() {
        if config.lists[resource].is_none()
            && world.servers.iter().all(|s| s.loaded.lists[resource].is_none())
        {
            continue;
        }
        // Decisions 5
        if let Some(key) = config.write_key(resource).and_then(|id| world.api.snapshot.key(id))
            && key.write_published.is_none()
        {
            return Some((
                "D5",
                format!("revision {revision} has key {} first, and that was not recorded", key.id),
            ));
        }
        // S2
        let writer = config.writer(resource);
        if let Some(id) = writer.key() {
            for (n, server) in world.servers.iter().enumerate() {
                let seen = match server.life {
                    Life::Up => Some(server.loaded.clone()),
                    Life::Down if world.api.snapshot.servers.contains_key(NAMES[n]) => world.file(n),
                    Life::Down | Life::Absent | Life::Held => None,
                };
                if seen.is_some_and(|seen| !seen.providers(resource).contains(&writer)) {
                    let node = NAMES[n];
                    return Some((
                        "S2",
                        format!("revision {revision} writes {name} with key {id}, which {node} cannot read"),
                    ));
                }
            }
        }
        // S3
        let needed = world.etcd.stored[resource].iter().filter(|sealed| !is_lost(world, *sealed));
        for sealed in needed {
            if !has(&config, resource, sealed) {
                return Some((
                    "S3",
                    format!("revision {revision} lacks what {name} are stored under: {sealed:?}"),
                ));
            }
        }
    }
    None
}

/// S3: what is recorded as migrated is.
fn migrated(world: &World, resource: &GroupResource, id: KeyId) -> Wrong {
    let index = resources().iter().position(|known| known == resource)?;
    let identity = world.books.keys.get(&id).is_some_and(|meaning| meaning.mode == Mode::Identity);
    let own = |sealed: &Sealed| if identity { *sealed == Sealed::Plain } else { sealed.key() == Some(id) };
    let other = world.etcd.stored[index].iter().find(|sealed| !own(sealed) && !is_lost(world, *sealed))?;
    Some(("S3", format!("{resource} are recorded as migrated to key {id}, and some are stored as {other:?}")))
}

/// A revision that a node names may not go.
fn deleted(world: &World, revision: Revision) -> Wrong {
    let named = world
        .api
        .snapshot
        .servers
        .values()
        .find(|server| server.agent.as_ref().is_some_and(|agent| agent.spec.revision == revision))?;
    Some(("S7", format!("revision {revision} is deleted, and {} is to install it", named.name)))
}

/// S4, when a key secret is deleted by us.
pub fn key_deleted(world: &mut World, id: KeyId) {
    let used = |config: &Config| config.keys.contains(&id);
    let deployed = world.running().any(|n| used(&world.servers[n].loaded));
    if deployed || world.api.configs.values().next_back().is_some_and(|config| used(config)) {
        world.fails(
            "S4",
            format!("the secret of key {id} is deleted, and it stands in a deployed configuration"),
        );
    }
}

/// When an agent has turned a key's link to another plugin.
pub fn link(world: &mut World, n: usize, instance: &Instance) {
    let Some(process) = world.servers[n].processes.get(instance).copied() else { return };
    let meant = world.books.keys.get(&instance.key_id).and_then(|meaning| meaning.kek);
    if let Some((kek, _)) = meant.filter(|(kek, _)| *kek != process.kek) {
        let (other, own) = (KEKS[usize::from(process.kek)], KEKS[usize::from(kek)]);
        world.fails(
            "S8",
            format!("key {} of KEK {own} is served by KEK {other} at {}", instance.key_id, NAMES[n]),
        );
    }
}
