//! From every state, once the faults are fixed and the spec stays as it is, the goal is reached
//! (invariant: ends-well).

use std::collections::HashSet;
use std::sync::Arc;

use keyward_core::api::{ConditionStatus, ForgetPhase};
use keyward_core::ids::{KeyId, Mode};

use crate::invariants::given_up::left_with_its_node;
use crate::invariants::{Violation, is_lost};
use crate::world::World;
use crate::world::admin::ABSURD;
use crate::world::config::{Config, Provider, RESOURCES, index_of};
use crate::world::etcd::Ways;
use crate::world::kms;
use crate::world::server::Life;
use crate::world::step::{Kind, Step};

/// This many rounds suffice: three rollouts over three nodes, a trial's longest pause, and the retries in
/// between.
pub const ROUNDS: usize = 80;

/// Repairs every fault; the admin corrects a spec that cannot be carried out.
pub fn heal(world: &mut World) {
    world.step(Step::of(Kind::Resume));
    for n in 0..world.servers.len() {
        world.step(Step::to(Kind::ResumeAgent, n));
    }
    for kind in [
        Kind::Readable,
        Kind::AcceptKeys,
        Kind::Honest,
        Kind::FixKeys,
        Kind::TokenFix,
        Kind::Adopt,
        Kind::Admit,
    ] {
        world.step(Step::of(kind));
    }
    for kek in 0..kms::KEKS.len() - 1 {
        world.step(Step::to(Kind::KmsUp, kek));
        world.step(Step::to(Kind::Grant, kek));
    }
    world.accepts.1 = true;
    // Pending writes of both operators are discarded.
    for who in 0..2 {
        world.step(Step::to(Kind::Dies, who));
    }
    for n in 0..world.servers.len() {
        // A node that left has left for good.
        if world.books.left[n] {
            world.step(Step::to(Kind::Stop, n));
            // A slow operator may have recreated its EncryptionNode; the admin deletes it again.
            world.step(Step::to(Kind::Leave, n));
        } else {
            world.step(Step::to(Kind::Start, n));
            world.server(n).forget();
            // The admin corrects the agent's damaged record, as the message about it requests.
            let named = world.api.snapshot.named_key;
            let highest = &mut world.server(n).observed.disk.highest_key_id;
            *highest = if *highest == ABSURD { named } else { *highest };
        }
    }
    let kek = world.api.spec.encryption.kms.as_ref().and_then(|kms| kms.pointer("/test/key")?.as_str());
    if kek == Some(kms::KEKS[3]) {
        world.step(Step::to(Kind::Spec, 3));
    }
}

/// What is still missing; `None` if everything has ended well.
pub fn missing(world: &mut World) -> Option<String> {
    let newest = world.api.configs.last_key_value().map(|(revision, config)| (*revision, config.clone()));
    for n in world.running() {
        let server = &world.servers[n];
        if let Some((revision, config)) = &newest
            && (server.loaded.hash != config.hash
                || world.file(n).is_none_or(|file| file.hash != config.hash))
        {
            return Some(format!("node {n} has not loaded revision {revision}"));
        }
    }
    // A joining node whose objects an admin deleted again is not waited for.
    let joining = |n: &usize| world.servers[*n].life == Life::Joining && !world.books.left[*n];
    if let Some(joining) = (0..world.servers.len()).find(joining) {
        return Some(format!("node {joining} has not joined"));
    }
    if let Some(missing) = goal(world, newest.as_ref().map(|(_, config)| &**config)) {
        return Some(missing);
    }
    let outcome = world.outcome(0);
    // A decryption that nobody confirmed keeps nothing else from ending.
    if let Some(waiting) = outcome.waiting.filter(|waiting| waiting.reason != "DecryptionNotConfirmed") {
        return Some(format!("the operator waits: {}: {}", waiting.reason, waiting.message));
    }
    if let Some(action) = outcome.actions.first() {
        return Some(format!("the action {} is pending", action.kind()));
    }
    let wanted = match world.api.snapshot.wanted.mode {
        Ok(Mode::Identity) => ["EncryptionDisabled", "DecryptionCompleted"],
        _ => ["EncryptionCompleted", "EncryptionCompleted"],
    };
    let encrypted = outcome.conditions.iter().find(|condition| condition.type_ == "Encrypted");
    let reason = encrypted.map_or("", |condition| condition.reason.as_str());
    if !wanted.contains(&reason) {
        return Some(format!("the condition Encrypted has reason {reason}"));
    }
    let ready = outcome.conditions.iter().find(|condition| condition.type_ == "Ready");
    // Only a decryption that nobody confirmed may be missing.
    let not = ready
        .filter(|ready| ready.status != ConditionStatus::True && ready.reason != "DecryptionNotConfirmed");
    not.map(|ready| format!("Ready is {:?}: {}: {}", ready.status, ready.reason, ready.message))
}

fn goal(world: &World, newest: Option<&Config>) -> Option<String> {
    let snapshot = &world.api.snapshot;
    let Ok(mode) = snapshot.wanted.mode.clone() else { return None };
    let Some(config) = newest else {
        return (mode != Mode::Identity).then(|| "there is no revision".to_owned());
    };
    let plain = |resource: usize| config.writer(resource) == Provider::Identity;
    let Some(key) = snapshot.usable().next() else {
        // A key that was abandoned or forgotten before it wrote anything leaves nothing to undo.
        let undone = mode == Mode::Identity && (0..RESOURCES.len()).all(plain);
        return (!undone).then(|| "there is no key secret".to_owned());
    };
    if key.mode != mode {
        return Some(format!("the newest key has mode {}, and the spec requests {mode}", key.mode));
    }
    let wanted = world.api.spec.encryption.kms.as_ref();
    if let (Some(kms), Some(wanted)) = (&key.kms, wanted)
        && kms.plugin.kms != *wanted
    {
        return Some(format!("key {} has another configuration than the spec requests", key.id));
    }
    for (resource, ways) in world.etcd.stored.iter().enumerate() {
        let wanted = snapshot.wanted.resources.iter().filter_map(index_of).any(|index| index == resource);
        if let Some(other) = ways.iter().find(|sealed| !wanted && sealed.key().is_some()) {
            let name = RESOURCES[resource];
            return Some(format!("{name} left the list and are still stored as {other:?}"));
        }
    }
    for resource in snapshot.wanted.resources.iter().filter_map(index_of) {
        if config.write_key(resource) != Some(key.id) {
            return Some(format!("{} are not written with key {}", RESOURCES[resource], key.id));
        }
        let own = |id: Option<KeyId>| if mode == Mode::Identity { id.is_none() } else { id == Some(key.id) };
        if let Some(other) = world.etcd.stored[resource].iter().find(|sealed| !own(sealed.key())) {
            return Some(format!("{} are still stored as {other:?}", RESOURCES[resource]));
        }
    }
    None
}

/// States that are known to end well.
#[derive(Debug, Default)]
pub struct Known(HashSet<u128>);

/// Repairs every fault, and continues round after round. The states on the way are remembered, so that a
/// later way that reaches one of them ends there. `None`: it ends well, or cannot be judged (stored objects
/// are lost for good, and not because of Keyward).
pub fn check(world: &World, known: &mut Known) -> Option<(Violation, usize)> {
    check_and_show(world, known, |_, _| ())
}

/// The same; `show` is called after each round.
pub fn check_and_show(
    world: &World,
    known: &mut Known,
    mut show: impl FnMut(&World, Step),
) -> Option<(Violation, usize)> {
    let mut world = world.clone();
    heal(&mut world);
    forget_lost_keys(&mut world, false);
    if left_with_nodes(&world) {
        return None;
    }
    let mut way = Vec::new();
    let mut why = String::new();
    for round in 0..ROUNDS {
        if let Some(violation) = world.violation.take() {
            return Some((violation, round));
        }
        let print = world.print();
        if known.0.contains(&print) {
            known.0.extend(way);
            return None;
        }
        if way.contains(&print) {
            why = missing(&mut world).unwrap_or_default();
            // Only nodes still have the lost revision: a backup is the only remedy, and the status says so.
            let reported =
                world.outcome(0).waiting.is_some_and(|w| w.message.contains("cannot be recreated"));
            if reported || cannot_join(&world) {
                return None;
            }
            // A key whose KEK was recreated at the last moment may have been published on the way.
            if forget_lost_keys(&mut world, true) {
                continue;
            }
            return Some((Violation { rule: "ends-well", what: format!("it is stuck: {why}") }, round));
        }
        match missing(&mut world) {
            None => {
                known.0.extend(way);
                known.0.insert(print);
                return None;
            }
            Some(missing) => why = missing,
        }
        way.push(print);
        world.step(Step::of(Kind::Bury));
        world.step(Step::of(Kind::Round));
        show(&world, Step::of(Kind::Round));
    }
    Some((Violation { rule: "ends-well", what: format!("after {ROUNDS} rounds: {why}") }, ROUNDS))
}

/// Does what an admin has to do if a needed KEK was deleted, or a key secret with the only key check
/// (decision 0015): Keyward cannot know that it is gone for good. A read key whose secret exists is abandoned
/// without the admin (decision 0005). Returns whether there was such a key.
fn forget_lost_keys(world: &mut World, stuck: bool) -> bool {
    let writes = |config: &Config, id: KeyId| {
        (0..RESOURCES.len()).any(|resource| config.writer(resource).key() == Some(id))
    };
    let may_write = |id: KeyId| {
        let published = world.api.snapshot.key(id).is_some_and(|key| key.write_published.is_some());
        let files = (0..world.servers.len()).filter_map(|n| world.file(n));
        published
            || world.api.configs.values().any(|config| writes(config, id))
            || world.servers.iter().any(|server| writes(&server.loaded, id))
            || files.into_iter().any(|file| writes(&file, id))
    };
    let unbacked = |id: KeyId| {
        let newest = world.api.configs.last_key_value();
        newest.is_some_and(|(_, config)| config.keys.contains(&id)) && world.api.snapshot.key(id).is_none()
    };
    let stored = |id: KeyId| {
        let mut all = world.etcd.stored.iter().chain(&world.etcd.history).flat_map(Ways::iter);
        all.any(|sealed| sealed.key() == Some(id) && is_lost(world, sealed))
    };
    // A void request has to be made again.
    let snapshot = &world.api.snapshot;
    let open =
        world.api.spec.forget.iter().filter(|request| snapshot.phase(request) != Some(ForgetPhase::Void));
    let forgotten: Vec<KeyId> = open.map(|request| request.key_id).collect();
    // If the key's plugin runs, the key stays in use. If not, the status says that nothing shows that it
    // reaches the KEK.
    let waits = if stuck { world.clone().decided().waiting } else { None };
    let waits = waits.map(|waits| waits.message).unwrap_or_default();
    let unproven = |id: KeyId| {
        let reported = ["KeyCheckMissing", "KEKMismatch"].iter().any(|reason| waits.contains(reason));
        unbacked(id) && reported && waits.contains(&format!("key {id}"))
    };
    let lost = |id: KeyId| is_gone(world, id) && (may_write(id) || stored(id));
    let known = world.books.keys.keys().copied().filter(|id| !forgotten.contains(id));
    let needed: Vec<KeyId> = known.filter(|id| lost(*id) || unproven(*id)).collect();
    for id in &needed {
        world.step(Step::to(Kind::Forget, usize::try_from(id.0).unwrap_or(usize::MAX)));
    }
    !needed.is_empty()
}

/// Whether something is stored under a key that was only on a server that has left.
fn left_with_nodes(world: &World) -> bool {
    (0..RESOURCES.len()).any(|resource| {
        let mut stored = world.etcd.stored[resource].iter();
        stored.any(|sealed| left_with_its_node(world, resource, sealed))
    })
}

/// Whether a joining node needs a key whose key check is in no object (its secret and the EncryptionNodes are
/// gone), or whose KEK was deleted. Without a key check nothing shows that the plugin on that node reaches
/// the KEK. With the key check of a deleted KEK nothing ever will, and the preflight of the next key needs
/// that node too. The agent reports `KeyCheckMissing` or `KEKMismatch`, and the admin removes the node until
/// another key is the only one.
fn cannot_join(world: &World) -> bool {
    let Some((_, newest)) = world.api.configs.last_key_value() else { return false };
    let joining = world.servers.iter().any(|server| server.life == Life::Joining);
    joining && newest.kms.iter().any(|id| world.api.snapshot.key_check(*id).is_none() || is_gone(world, *id))
}

/// Whether the KEK of a key was deleted, also between the creation of its key check and of the key.
fn is_gone(world: &World, id: KeyId) -> bool {
    let meant = world.books.keys.get(&id).and_then(|meaning| meaning.kek);
    let decrypts = |key_check| (0..).zip(world.kms).any(|(kek, kms)| kms::decrypts(kek, kms, key_check));
    meant.is_some_and(|(kek, made)| world.kms[usize::from(kek)].made != made)
        || world.api.snapshot.key_check(id).is_some_and(|key_check| !decrypts(key_check))
}

impl World {
    fn server(&mut self, n: usize) -> &mut crate::world::server::Server {
        Arc::make_mut(&mut self.servers[n])
    }
}
