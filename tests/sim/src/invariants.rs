//! What DESIGN.md promises (S1 to S9), held against the world after each step and each write.
//!
//! What may come in: the world as it really is, and books of what is long gone. What never does: how Keyward gets there.

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

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: `S1` to `S9`, `L`, `R`.
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
    /// The highest revision that was ever made.
    pub latest: Option<(Revision, Arc<Config>)>,
    /// What was re-encrypted under each key, as it was seen to be when that was recorded. What leaves the list and comes
    /// back puts no key into transition again.
    pub migrated: BTreeMap<KeyId, BTreeSet<GroupResource>>,
    /// Keys that an admin ever gave up (Decisions 15).
    pub forgotten: BTreeSet<KeyId>,
    /// Those of which nothing may be expected: they are given up, or were and are not in force everywhere again.
    pub given_up: BTreeSet<KeyId>,
    /// The newest revision took over from one that wrote with a key that was given up, and was not seen everywhere yet.
    pub takes_over: bool,
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

/// S1: whatever is stored can be read at every server; at one that has come back once it has loaded another configuration
/// than it had, unless what it had is the newest.
fn readable(world: &World) -> Option<(&'static str, String)> {
    let has_newest = |n: usize| {
        world.books.latest.as_ref().is_some_and(|(_, latest)| world.servers[n].loaded.hash == latest.hash)
    };
    for n in world.running().filter(|n| !world.servers[*n].returned || has_newest(*n)) {
        for (resource, name) in RESOURCES.iter().enumerate() {
            let stored = &world.etcd.stored[resource];
            let gone = |sealed| is_lost(world, sealed) || world.is_given_up(sealed);
            let unread = |sealed: &Sealed| {
                !gone(*sealed)
                    && !world.reads(n, resource, *sealed)
                    && !given_up::left_with_its_node(world, resource, *sealed)
            };
            let next =
                world.books.latest.as_ref().filter(|(_, latest)| {
                    world.books.takes_over && world.servers[n].loaded.hash != latest.hash
                });
            let is_next = |sealed: &Sealed| next.is_some_and(|(_, latest)| has(latest, resource, *sealed));
            if let Some(sealed) = stored.iter().find(|sealed| unread(sealed) && !is_next(sealed)) {
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
    // A restored machine writes with its old configuration until its agent has installed the target.
    for n in world.running().filter(|n| !world.servers[*n].returned) {
        let loaded = &world.servers[n].loaded;
        for (resource, name) in RESOURCES.iter().enumerate() {
            // What is to be written in plain text from the latest revision on is asked for: it left the list.
            let latest = world.books.latest.as_ref();
            let encrypted = world.books.encrypted[resource]
                && latest.is_some_and(|(_, config)| config.writer(resource) != Provider::Identity);
            let plain = loaded.writer(resource) == Provider::Identity && loaded.write_key(resource).is_none();
            if encrypted && plain {
                return Some(("S9", format!("{name} are written in plain text at {}", NAMES[n])));
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
        // One that leaves the list is decrypted; if it comes back at once, that is under way until all have the next
        // revision.
        let wanted = snapshot.wanted.resources.contains(&resources()[resource]);
        // Plain text that a revision asked for (`applied` tells whether it might) goes on until all have the next.
        let plain = newest.is_some_and(|(_, config)| config.writer(resource) == Provider::Identity);
        *encrypted = wanted && !plain && (*encrypted || converged.is_some());
    }
    if encrypted != world.books.encrypted {
        Arc::make_mut(&mut world.books).encrypted = encrypted;
    }
    let back: Vec<KeyId> =
        world.books.given_up.iter().copied().filter(|id| given_up::is_back(world, *id)).collect();
    if !back.is_empty() {
        Arc::make_mut(&mut world.books).given_up.retain(|id| !back.contains(id));
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

/// After every write of an operator, who was asked to encrypt these resources.
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

/// S5.
fn created(world: &mut World, key: &KeySecret) -> Wrong {
    let id = key.id;
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
    // A candidate that passed makes its key a second time where nobody ever saw the first; it is the same key then, with
    // the key check of the KEK that there was, though another may have its name by now.
    if let Some(before) = world.books.keys.get(&id) {
        let name = |kek: Option<(Kek, u8)>| kek.map(|(kek, _)| kek);
        let same = before.mode == Mode::Kms && key.mode == Mode::Kms && name(before.kek) == name(kek);
        return (!same).then(|| ("S5", format!("key {id} is made a second time, and is another key")));
    }
    let resources = world.api.snapshot.wanted.resources.clone();
    Arc::make_mut(&mut world.books).keys.insert(id, Meaning { mode: key.mode, kek, resources });
    None
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
    // One that was given up on its way may come back beside the next.
    let left = |key: &&KeySecret| key.is_abandoned() || world.books.forgotten.contains(&key.id);
    let keys = world.api.snapshot.keys.iter().filter(|key| !left(key));
    let unsettled = keys.filter(|key| {
        let meant = world.books.keys.get(&key.id).map(|m| m.resources.as_slice()).unwrap_or_default();
        !meant
            .iter()
            .filter(|resource| newest.is_none() || deployed(resource))
            // What left the list is plain, whoever wrote it before (Decisions 11).
            .filter(|resource| world.api.snapshot.wanted.resources.contains(resource))
            .all(|r| world.books.migrated.get(&key.id).is_some_and(|migrated| migrated.contains(r)))
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

/// S2, S3, S6, S7 and S9.
fn applied(world: &mut World, revision: Revision, asked: [bool; RESOURCES.len()]) -> Wrong {
    let config = world.api.configs.get(&revision)?.clone();
    let made_before = world.books.revisions.get(&revision);
    if let Some(before) = made_before.filter(|hash| **hash != config.hash.0) {
        return Some(("S7", format!("revision {revision} was {before} and is made anew as {}", config.hash)));
    }
    let is_made_anew = made_before.is_some();
    // What an operator that was slow makes: no node is told of a revision below the newest.
    if world.books.latest.as_ref().is_some_and(|(latest, _)| *latest > revision) {
        Arc::make_mut(&mut world.books).revisions.insert(revision, config.hash.0.clone());
        return None;
    }
    let before = world.books.latest.clone().filter(|(latest, _)| *latest < revision);
    let takes_over = before.as_ref().map_or(world.books.takes_over, |(number, before)| {
        let pending = world.books.takes_over && world.api.snapshot.last_converged < *number;
        pending || world.writes_given_up(before)
    });
    let books = Arc::make_mut(&mut world.books);
    books.takes_over = takes_over;
    books.revisions.insert(revision, config.hash.0.clone());
    if books.latest.as_ref().is_none_or(|(latest, _)| *latest < revision) {
        books.latest = Some((revision, config.clone()));
    }
    let under_way: Vec<KeyId> = unsettled(world).into_iter().filter(|id| config.keys.contains(id)).collect();
    if under_way.len() > 1 {
        return Some(("S6", format!("revision {revision} has keys {under_way:?} in transition at once")));
    }
    for (resource, name) in RESOURCES.iter().enumerate() {
        if config.lists[resource].is_none()
            && world.servers.iter().all(|s| s.loaded.lists[resource].is_none())
        {
            continue;
        }
        // S9
        let wanted = asked[resource] && world.api.snapshot.wanted.resources.contains(&resources()[resource]);
        // One that was made and that nobody has loaded never encrypted anything.
        let in_force = |config: &Config| world.servers.iter().any(|s| s.loaded.hash == config.hash);
        let encrypted = before
            .as_ref()
            .is_some_and(|(_, before)| before.writer(resource) != Provider::Identity && in_force(before));
        // An identity key is asked for when it is made, not when one after it is given up.
        let writer_before = before.as_ref().and_then(|(_, before)| before.writer(resource).key());
        let steps_back = config.writer(resource) == Provider::Identity
            && config.write_key(resource).zip(writer_before).is_some_and(|(now, before)| now < before);
        if wanted && encrypted && (steps_back || config.write_key(resource).is_none()) {
            return Some(("S9", format!("revision {revision} writes {name} in plain text")));
        }
        // Decisions 5
        if let Some(key) = config.write_key(resource).and_then(|id| world.api.snapshot.key(id))
            && key.write_published.is_none()
            && key.mode != Mode::Identity
        // what is plain needs no key
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
                    // The operator cannot know what this server has loaded.
                    Life::Up if server.unreported => None,
                    Life::Up => Some(server.loaded.clone()),
                    Life::Down if world.api.snapshot.servers.contains_key(NAMES[n]) => world.file(n),
                    Life::Down | Life::Absent | Life::Held => None,
                };
                let reads = |seen: &Config| seen.providers(resource).contains(&writer);
                // It became the writer while this one was given up, and nobody waits for it to write on.
                let wrote = before.as_ref().is_some_and(|(_, before)| before.writer(resource) == writer);
                let late = server.returned && (wrote || is_made_anew);
                if seen.is_some_and(|seen| !reads(&seen)) && !takes_over && !late {
                    let node = NAMES[n];
                    return Some((
                        "S2",
                        format!("revision {revision} writes {name} with key {id}, which {node} cannot read"),
                    ));
                }
            }
        }
        // S3
        let gone = |sealed| is_lost(world, sealed) || world.is_given_up(sealed);
        let needed = world.etcd.stored[resource].iter().filter(|sealed| !gone(*sealed));
        for sealed in needed {
            if !has(&config, resource, sealed) && !given_up::left_with_its_node(world, resource, sealed) {
                return Some((
                    "S3",
                    format!("revision {revision} lacks what {name} are stored under: {sealed:?}"),
                ));
            }
        }
        // Decisions 7
        let history = world.etcd.history[resource].iter().filter(|sealed| !gone(*sealed));
        for sealed in history.filter(|sealed| matches!(sealed, Sealed::Kms { .. })) {
            if before.as_ref().is_some_and(|(_, before)| has(before, resource, sealed))
                && !has(&config, resource, sealed)
            {
                return Some((
                    "S3",
                    format!("revision {revision} lacks what {name} had in etcd's history: {sealed:?}"),
                ));
            }
        }
    }
    None
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
fn retired(world: &World, id: KeyId) -> Wrong {
    let used = |config: &Config| config.keys.contains(&id);
    let loaded = (0..world.servers.len()).any(|n| {
        // What has left for good takes its own copy along.
        world.servers[n].life != Life::Absent
            && !world.books.left[n]
            && (used(&world.servers[n].loaded) || world.file(n).is_some_and(|file| used(&file)))
    });
    let stored = world.api.configs.values().any(|config| used(config));
    (loaded || stored)
        .then(|| ("S4", format!("the secret of key {id} is deleted, and a configuration has it")))
}

/// The same, when it is done on purpose.
pub(crate) fn key_deleted(world: &mut World, id: KeyId) {
    if let Some((rule, what)) = retired(world, id) {
        world.fails(rule, what);
    }
}

/// Decisions 5: nothing may be stored under a key that is superseded.
fn abandoned(world: &World, id: KeyId) -> Wrong {
    let writes =
        |config: &Config| (0..RESOURCES.len()).any(|resource| config.write_key(resource) == Some(id));
    // Under an identity key nothing is stored that needs it.
    let identity = world.books.keys.get(&id).is_some_and(|meaning| meaning.mode == Mode::Identity);
    let published = !identity
        && (world.api.configs.values().any(|config| writes(config))
            || world.running().any(|n| writes(&world.servers[n].loaded)));
    let stored = world.etcd.stored.iter().any(|ways| ways.iter().any(|sealed| sealed.key() == Some(id)));
    (published || stored).then(|| ("D5", format!("key {id} is abandoned and was a write key")))
}

/// Decisions 6: what is recorded as re-encrypted after a rotation is.
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
        "S3",
        format!("key {} is recorded as re-encrypted under {recorded}, and there is {other:?}", key.id),
    ))
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
