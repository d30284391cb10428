//! The invariants of docs/invariants.md, checked after each step and each write.
//!
//! This module sees the real state of the world, and books of the past. It never contains how Keyward gets
//! there.

mod claims;
pub(crate) mod given_up;

use std::collections::{BTreeMap, BTreeSet};
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

pub use claims::{ready, settled};

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name in docs/invariants.md.
    pub rule: &'static str,
    /// The violation.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The key that a key number names, for ever (invariant: one-number-one-kek).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// How it encrypts.
    pub mode: Mode,
    /// For KMS: the KEK that was reached, and which of the KEKs that had its name.
    pub kek: Option<(Kek, u8)>,
    /// The resources to encrypt when the key was created.
    pub resources: Vec<GroupResource>,
}

/// Facts that no part of Keyward can see, and facts about the past.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Every key that was ever created.
    pub keys: BTreeMap<KeyId, Meaning>,
    /// The hash of every revision that was ever created.
    pub revisions: BTreeMap<Revision, String>,
    /// Resources that are encrypted by a revision that every server was seen to have.
    pub encrypted: [bool; RESOURCES.len()],
    /// Nodes whose objects an admin has deleted.
    pub left: [bool; NAMES.len()],
    /// The highest revision that was ever created.
    pub latest: Option<(Revision, Arc<Config>)>,
    /// The resources that were recorded as migrated to each key. A resource that leaves the list and is added
    /// again puts no key into transition again.
    pub migrated: BTreeMap<KeyId, BTreeSet<GroupResource>>,
    /// Keys that an admin ever forgot (decision 0015).
    pub ever_forgotten: BTreeSet<KeyId>,
    /// Of these, the keys that are exempt: they are forgotten, or were and are not yet in force everywhere
    /// again.
    pub forgotten: BTreeSet<KeyId>,
    /// The newest revision replaces one that wrote with a forgotten key, and is not yet known to be loaded
    /// everywhere.
    pub successor_rolls_out: bool,
    /// An admin deleted or damaged key secrets.
    pub tampered: bool,
    /// How often each KEK had been recreated when the candidate was written.
    pub tried: [u8; KEKS.len()],
}

/// Whether this is unreadable for ever: its KEK was deleted.
pub fn is_lost(world: &World, sealed: Sealed) -> bool {
    matches!(sealed, Sealed::Kms { kek, made, .. } if world.kms[usize::from(kek)].made != made)
}

/// Whether a configuration reads values that are sealed in this way.
fn has(config: &Config, resource: usize, sealed: Sealed) -> bool {
    config.providers(resource).iter().any(|provider| provider.names(sealed))
}

impl World {
    /// Whether a server can read this: its configuration has the provider, and its plugin reaches that KEK.
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

/// Everything that is stored can be read at every server (invariant: readable-everywhere). A server that
/// returned counts once it has loaded another configuration than before, or if its configuration is the
/// newest.
fn readable(world: &World) -> Option<(&'static str, String)> {
    let has_newest = |n: usize| {
        world.books.latest.as_ref().is_some_and(|(_, latest)| world.servers[n].loaded.hash == latest.hash)
    };
    for n in world.running().filter(|n| !world.servers[*n].returned || has_newest(*n)) {
        for (resource, name) in RESOURCES.iter().enumerate() {
            let stored = &world.etcd.stored[resource];
            let gone = |sealed| is_lost(world, sealed) || world.is_forgotten(sealed);
            let unread = |sealed: &Sealed| {
                !gone(*sealed)
                    && !world.reads(n, resource, *sealed)
                    && !given_up::left_with_its_node(world, resource, *sealed)
            };
            let next = world.books.latest.as_ref().filter(|(_, latest)| {
                world.books.successor_rolls_out && world.servers[n].loaded.hash != latest.hash
            });
            let is_next = |sealed: &Sealed| next.is_some_and(|(_, latest)| has(latest, resource, *sealed));
            if let Some(sealed) = stored.iter().find(|sealed| unread(sealed) && !is_next(sealed)) {
                let loaded = world.servers[n].loaded.providers(resource);
                return Some((
                    "readable-everywhere",
                    format!("{name} stored as {sealed:?} cannot be read at {}: {loaded:?}", NAMES[n]),
                ));
            }
        }
    }
    None
}

/// Every plugin of a loaded configuration exists, unless a reboot removed its link
/// (invariant: plugins-before-configuration).
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
                return Some((
                    "plugins-before-configuration",
                    format!("key {id} is loaded at {} and has no plugin", NAMES[n]),
                ));
            }
        }
    }
    None
}

/// Once a resource was seen to be encrypted everywhere, it is written in plain text only under an identity
/// key (invariant: no-unrequested-plain-text).
fn plain(world: &World) -> Option<(&'static str, String)> {
    // A restored machine writes with its old configuration until its agent has installed the target.
    for n in world.running().filter(|n| !world.servers[*n].returned) {
        let loaded = &world.servers[n].loaded;
        for (resource, name) in RESOURCES.iter().enumerate() {
            // Plain text that the latest revision writes is requested: the resource left the list.
            let latest = world.books.latest.as_ref();
            let encrypted = world.books.encrypted[resource]
                && latest.is_some_and(|(_, config)| config.writer(resource) != Provider::Identity);
            let plain = loaded.writer(resource) == Provider::Identity && loaded.write_key(resource).is_none();
            if encrypted && plain {
                return Some((
                    "no-unrequested-plain-text",
                    format!("{name} are written in plain text at {}", NAMES[n]),
                ));
            }
        }
    }
    None
}

fn remember(world: &mut World) {
    let snapshot = &world.api.snapshot;
    let newest = world.books.latest.as_ref();
    let converged = newest.filter(|(revision, _)| *revision == snapshot.last_converged);
    let mut encrypted = world.books.encrypted;
    for (resource, encrypted) in encrypted.iter_mut().enumerate() {
        // A resource that leaves the list is decrypted. If it is added again at once, the decryption is under
        // way until every server has the next revision.
        let wanted = snapshot.wanted.resources.contains(&resources()[resource]);
        // Plain text of a revision (`applied` checks that it is allowed) is written until every server has
        // the next one.
        let plain = newest.is_some_and(|(_, config)| config.writer(resource) == Provider::Identity);
        *encrypted = wanted && !plain && (*encrypted || converged.is_some());
    }
    if encrypted != world.books.encrypted {
        Arc::make_mut(&mut world.books).encrypted = encrypted;
    }
    let back: Vec<KeyId> =
        world.books.forgotten.iter().copied().filter(|id| given_up::is_back(world, *id)).collect();
    if !back.is_empty() {
        Arc::make_mut(&mut world.books).forgotten.retain(|id| !back.contains(id));
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

/// After every write of an operator that was requested to encrypt these resources.
pub fn action(world: &mut World, action: &Action, asked: [bool; RESOURCES.len()]) {
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
        Action::ApplyConfig { revision, .. } => applied(world, *revision, asked),
        Action::RecordMigrated { resource, key } => {
            let unknown = claims::nobody_knows(world);
            let wrong = if unknown { None } else { claims::migrated(world, resource, key.id) };
            let books = Arc::make_mut(&mut world.books);
            books.migrated.entry(key.id).or_default().insert(resource.clone());
            wrong
        }
        Action::DeleteRevision { revision, .. } => deleted(world, *revision),
        Action::RecordRotation { key, .. } => rotated(world, key),
        Action::AbandonKey { key, .. } => abandoned(world, key.id),
        Action::RetireKey { key_id, .. } | Action::DeleteKey { key_id, .. } => retired(world, *key_id),
        Action::RecordHighWater { .. }
        | Action::ClearPreflight { .. }
        | Action::SetTarget { .. }
        | Action::RecordPublication { .. }
        | Action::RequireConfigHash { .. }
        | Action::ApplyManagedConfig { .. }
        | Action::ForgetMigrated { .. }
        | Action::ReencryptOwn { .. }
        | Action::StartMigration { .. } => None,
    };
    if let Some((rule, what)) = wrong {
        world.fails(rule, what);
    }
}

type Wrong = Option<(&'static str, String)>;

/// A new key has a new number, below the high-water mark (invariant: one-number-one-kek).
fn created(world: &mut World, key: &KeySecret) -> Wrong {
    let id = key.id;
    if world.api.snapshot.recorded_key < id {
        return Some((
            "one-number-one-kek",
            format!("key {id} is created, and the high-water mark is {}", world.api.snapshot.recorded_key),
        ));
    }
    let kek = key.kms.as_ref().map(|kms| {
        let kek = kms::truth(&kms.plugin);
        (kek, world.kms[usize::from(kek)].made)
    });
    // A candidate that passed creates its key a second time if nobody ever saw the first. Then it is the same
    // key, with the key check of the earlier KEK, even if another KEK has its name now.
    if let Some(before) = world.books.keys.get(&id) {
        let name = |kek: Option<(Kek, u8)>| kek.map(|(kek, _)| kek);
        let same = before.mode == Mode::Kms && key.mode == Mode::Kms && name(before.kek) == name(kek);
        return (!same)
            .then(|| ("one-number-one-kek", format!("key {id} is created a second time, as another key")));
    }
    let resources = world.api.snapshot.wanted.resources.clone();
    Arc::make_mut(&mut world.books).keys.insert(id, Meaning { mode: key.mode, kek, resources });
    None
}

/// Keys that were created and are not migrated.
fn unsettled(world: &World) -> Vec<KeyId> {
    if world.books.tampered {
        return Vec::new();
    }
    let newest = world.api.configs.values().next_back();
    let deployed = |resource: &GroupResource| {
        let index = resources().iter().position(|known| known == resource);
        newest.is_some_and(|config| index.is_some_and(|index| config.lists[index].is_some()))
    };
    // A key that was abandoned or forgotten in transition may return beside the next key.
    let left = |key: &&KeySecret| key.is_abandoned() || world.books.ever_forgotten.contains(&key.id);
    let keys = world.api.snapshot.keys.iter().filter(|key| !left(key));
    let unsettled = keys.filter(|key| {
        let meant = world.books.keys.get(&key.id).map(|m| m.resources.as_slice()).unwrap_or_default();
        !meant
            .iter()
            .filter(|resource| newest.is_none() || deployed(resource))
            // A resource that left the list is in plain text, whichever key wrote it before (decision 0011).
            .filter(|resource| world.api.snapshot.wanted.resources.contains(resource))
            .all(|r| world.books.migrated.get(&key.id).is_some_and(|migrated| migrated.contains(r)))
            || meant.is_empty()
    });
    unsettled.map(|key| key.id).collect()
}

/// An update in place keeps the KEK, even if a module is wrong or another KEK has its name
/// (invariant: one-number-one-kek, invariant: key-check-before-serving).
fn same_kek(world: &World, key: &KeySecret) -> Wrong {
    let kek = kms::truth(&key.kms.as_ref()?.plugin);
    // Nobody can see that a KEK is recreated between a plugin's answer and the write.
    let now = (kek, world.books.tried[usize::from(kek)]);
    let meant = world.books.keys.get(&key.id)?.kek?;
    (meant != now).then(|| {
        let name = |(kek, made): (Kek, u8)| format!("{}/{made}", KEKS[usize::from(kek)]);
        let what = format!("key {} was updated in place from KEK {} to {}", key.id, name(meant), name(now));
        ("key-check-before-serving", what)
    })
}

/// A new revision: most invariants of docs/invariants.md, each named where it is checked.
fn applied(world: &mut World, revision: Revision, asked: [bool; RESOURCES.len()]) -> Wrong {
    let config = world.api.configs.get(&revision)?.clone();
    let made_before = world.books.revisions.get(&revision);
    if let Some(before) = made_before.filter(|hash| **hash != config.hash.0) {
        return Some((
            "one-revision-one-configuration",
            format!("revision {revision} was {before} and is recreated as {}", config.hash),
        ));
    }
    let is_recreated = made_before.is_some();
    // A slow operator may create an older revision: no node gets a revision below the newest.
    if world.books.latest.as_ref().is_some_and(|(latest, _)| *latest > revision) {
        Arc::make_mut(&mut world.books).revisions.insert(revision, config.hash.0.clone());
        return None;
    }
    let before = world.books.latest.clone().filter(|(latest, _)| *latest < revision);
    let successor_rolls_out = before.as_ref().map_or(world.books.successor_rolls_out, |(number, before)| {
        let pending = world.books.successor_rolls_out && world.api.snapshot.last_converged < *number;
        pending || world.writes_forgotten(before)
    });
    let books = Arc::make_mut(&mut world.books);
    books.successor_rolls_out = successor_rolls_out;
    books.revisions.insert(revision, config.hash.0.clone());
    if books.latest.as_ref().is_none_or(|(latest, _)| *latest < revision) {
        books.latest = Some((revision, config.clone()));
    }
    let under_way: Vec<KeyId> = unsettled(world).into_iter().filter(|id| config.keys.contains(id)).collect();
    if under_way.len() > 1 {
        return Some((
            "one-transition",
            format!("revision {revision} has keys {under_way:?} in transition at once"),
        ));
    }
    for (resource, name) in RESOURCES.iter().enumerate() {
        if config.lists[resource].is_none()
            && world.servers.iter().all(|s| s.loaded.lists[resource].is_none())
        {
            continue;
        }
        // An encrypted resource stays encrypted (invariant: no-unrequested-plain-text).
        let wanted = asked[resource] && world.api.snapshot.wanted.resources.contains(&resources()[resource]);
        // A revision that no server has loaded never encrypted anything.
        let in_force = |config: &Config| world.servers.iter().any(|s| s.loaded.hash == config.hash);
        let encrypted = before
            .as_ref()
            .is_some_and(|(_, before)| before.writer(resource) != Provider::Identity && in_force(before));
        // An identity key is requested when it is created, not when a newer key is forgotten.
        let writer_before = before.as_ref().and_then(|(_, before)| before.writer(resource).key());
        let steps_back = config.writer(resource) == Provider::Identity
            && config.write_key(resource).zip(writer_before).is_some_and(|(now, before)| now < before);
        if wanted && encrypted && (steps_back || config.write_key(resource).is_none()) {
            return Some((
                "no-unrequested-plain-text",
                format!("revision {revision} writes {name} in plain text"),
            ));
        }
        // The publication is recorded (invariant: publication-first).
        if let Some(key) = config.write_key(resource).and_then(|id| world.api.snapshot.key(id))
            && key.write_published.is_none()
            && key.mode != Mode::Identity
        // plain text needs no key
        {
            return Some((
                "publication-first",
                format!("revision {revision} has write key {}, and its publication is not recorded", key.id),
            ));
        }
        // Every server reads with the write key (invariant: read-before-write).
        let writer = config.writer(resource);
        if let Some(id) = writer.key() {
            for (n, server) in world.servers.iter().enumerate() {
                let seen = match server.life {
                    // The operator cannot know what this server has loaded.
                    Life::Up if server.unreported => None,
                    Life::Up => Some(server.loaded.clone()),
                    Life::Down if world.api.snapshot.servers.contains_key(NAMES[n]) => world.file(n),
                    Life::Down | Life::Absent | Life::Joining => None,
                };
                let reads = |seen: &Config| seen.providers(resource).contains(&writer);
                // The key became the write key while the server was removed: no rollout waits for that
                // server.
                let wrote = before.as_ref().is_some_and(|(_, before)| before.writer(resource) == writer);
                let is_exempt = server.returned && (wrote || is_recreated);
                if seen.is_some_and(|seen| !reads(&seen)) && !successor_rolls_out && !is_exempt {
                    let node = NAMES[n];
                    return Some((
                        "read-before-write",
                        format!("revision {revision} writes {name} with key {id}, which {node} cannot read"),
                    ));
                }
            }
        }
        // Keys of stored objects stay (invariant: needed-keys-stay).
        let gone = |sealed| is_lost(world, sealed) || world.is_forgotten(sealed);
        let needed = world.etcd.stored[resource].iter().filter(|sealed| !gone(*sealed));
        for sealed in needed {
            if !has(&config, resource, sealed) && !given_up::left_with_its_node(world, resource, sealed) {
                return Some((
                    "needed-keys-stay",
                    format!("revision {revision} lacks the key that {name} are stored under: {sealed:?}"),
                ));
            }
        }
        // KMS keys of etcd's history stay (invariant: history-stays-readable).
        let history = world.etcd.history[resource].iter().filter(|sealed| !gone(*sealed));
        for sealed in history.filter(|sealed| matches!(sealed, Sealed::Kms { .. })) {
            if before.as_ref().is_some_and(|(_, before)| has(before, resource, sealed))
                && !has(&config, resource, sealed)
            {
                return Some((
                    "history-stays-readable",
                    format!("revision {revision} lacks a key of {name} in etcd's history: {sealed:?}"),
                ));
            }
        }
    }
    None
}

/// A revision that a node names is not deleted (invariant: one-revision-one-configuration).
fn deleted(world: &World, revision: Revision) -> Wrong {
    let named = world
        .api
        .snapshot
        .servers
        .values()
        .find(|server| server.agent.as_ref().is_some_and(|agent| agent.spec.revision == revision))?;
    Some((
        "one-revision-one-configuration",
        format!("revision {revision} is deleted, and {} has to install it", named.name),
    ))
}

/// The operator deletes a key secret (invariant: secret-outlives-configuration).
fn retired(world: &World, id: KeyId) -> Wrong {
    let used = |config: &Config| config.keys.contains(&id);
    let loaded = (0..world.servers.len()).any(|n| {
        // A node that left for good has its own copy.
        world.servers[n].life != Life::Absent
            && !world.books.left[n]
            && (used(&world.servers[n].loaded) || world.file(n).is_some_and(|file| used(&file)))
    });
    let stored = world.api.configs.values().any(|config| used(config));
    let what = || format!("the secret of key {id} is deleted, and a configuration has the key");
    (loaded || stored).then(|| ("secret-outlives-configuration", what()))
}

/// The same, when a mutant does it.
pub(crate) fn key_deleted(world: &mut World, id: KeyId) {
    if let Some((rule, what)) = retired(world, id) {
        world.fails(rule, what);
    }
}

/// Nothing may be stored under an abandoned key (decision 0005).
fn abandoned(world: &World, id: KeyId) -> Wrong {
    let writes =
        |config: &Config| (0..RESOURCES.len()).any(|resource| config.write_key(resource) == Some(id));
    // Under an identity key nothing is stored that needs it.
    let identity = world.books.keys.get(&id).is_some_and(|meaning| meaning.mode == Mode::Identity);
    let published = !identity
        && (world.api.configs.values().any(|config| writes(config))
            || world.running().any(|n| writes(&world.servers[n].loaded)));
    let stored = world.etcd.stored.iter().any(|ways| ways.iter().any(|sealed| sealed.key() == Some(id)));
    (published || stored).then(|| ("publication-first", format!("key {id} is abandoned and was a write key")))
}

/// Everything is re-encrypted that is recorded as re-encrypted after a rotation (decision 0006).
fn rotated(world: &World, key: &KeySecret) -> Wrong {
    let recorded = key.remote_key_id.as_ref()?;
    let behind = |sealed: &Sealed| match sealed {
        Sealed::Kms { key: id, kek, made, version } if *id == key.id => {
            let kms = kms::Kms { made: *made, version: *version, ..world.kms[usize::from(*kek)] };
            let now = world.kms[usize::from(*kek)];
            kms::remote_key_id(*kek, kms) != *recorded
                && *version < now.version
                && *made == now.made
                && kms::remote_key_id(*kek, now) == *recorded
        }
        _ => false,
    };
    let other = world.etcd.stored.iter().flat_map(crate::world::etcd::Ways::iter).find(behind)?;
    Some((
        "claims-are-true",
        format!("key {} is recorded as re-encrypted under {recorded}, but {other:?} is stored", key.id),
    ))
}

/// An agent has switched a key's link to another plugin.
pub fn link(world: &mut World, n: usize, instance: &Instance) {
    let Some(process) = world.servers[n].processes.get(instance).copied() else { return };
    let meant = world.books.keys.get(&instance.key_id).and_then(|meaning| meaning.kek);
    if let Some((kek, _)) = meant.filter(|(kek, _)| *kek != process.kek) {
        let (other, own) = (KEKS[usize::from(process.kek)], KEKS[usize::from(kek)]);
        world.fails(
            "key-check-before-serving",
            format!("key {} of KEK {own} is served by KEK {other} at {}", instance.key_id, NAMES[n]),
        );
    }
}
