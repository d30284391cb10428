//! The beginnings of explorations, and the steps that can follow in a world.

use std::sync::Arc;

use keyward_core::ids::KeyId;

use crate::explore::exhaustive::Bounds;
use crate::world::config::RESOURCES;
use crate::world::server::{Life, NAMES};
use crate::world::step::{Kind, Step};
use crate::world::{self, World};

/// A world with this many nodes in which these specs were requested one after the other; the last one is in
/// force.
pub fn settled(nodes: usize, specs: &[usize]) -> World {
    let mut world = World::new(nodes);
    for spec in specs {
        world.step(Step::to(Kind::Spec, *spec));
        for _ in 0..crate::liveness::ROUNDS {
            world.step(Step::of(Kind::Round));
            if crate::liveness::missing(&mut world).is_none() {
                break;
            }
        }
    }
    // Nobody remembers the way to this state.
    world.step(Step::of(Kind::Dies));
    for server in &mut world.servers {
        Arc::make_mut(server).forget();
    }
    for _ in 0..2 {
        world.step(Step::of(Kind::Round));
    }
    world
}

/// Steps that happen without an admin and without a fault.
pub fn ordinary(world: &World) -> Vec<Step> {
    let mut steps = vec![Step::of(Kind::Reconcile)];
    for n in 0..NAMES.len() {
        let life = world.servers[n].life;
        if life != Life::Absent {
            steps.push(Step::to(Kind::Agent, n));
        }
        let other = world.file(n).is_some_and(|file| file.hash != world.servers[n].loaded.hash);
        if life == Life::Joining || life == Life::Up && other {
            steps.push(Step::to(Kind::Poll, n));
        }
    }
    for resource in 0..RESOURCES.len() {
        if world.migration_is_due(resource) {
            steps.extend(world.running().map(|n| Step::with(Kind::Migrate, resource, n)));
        }
    }
    steps.push(Step::to(Kind::Tick, 2));
    let open = (0..RESOURCES.len()).any(|resource| !world.api.compacted[resource]);
    if open || world.etcd.history != world.etcd.stored {
        steps.push(Step::of(Kind::Compact));
    }
    steps
}

/// Steps that repair a fault, or that continue the second operator.
pub fn repairs(world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for (kek, kms) in world.kms.iter().enumerate().take(3) {
        if !kms.up {
            steps.push(Step::to(Kind::KmsUp, kek));
        }
        if !kms.encrypts {
            steps.push(Step::to(Kind::Grant, kek));
        }
    }
    if world.api.spec.paused.is_some() {
        steps.push(Step::of(Kind::Resume));
    }
    let paused = (0..NAMES.len()).filter(|n| world.servers[*n].observed.disk.paused.is_some());
    steps.extend(paused.map(|n| Step::to(Kind::ResumeAgent, n)));
    if world.unreadable {
        steps.push(Step::of(Kind::Readable));
    }
    if world.refuses_keys > 0 {
        steps.push(Step::of(Kind::AcceptKeys));
    }
    if world.api.lies {
        steps.push(Step::of(Kind::Honest));
    }
    let none = world::migration::Refused::default();
    if world.refused.orphans != none.orphans {
        steps.push(Step::of(Kind::Adopt));
    }
    if world.refused.by_webhook != none.by_webhook {
        steps.push(Step::of(Kind::Admit));
    }
    if !world.api.corrupt.is_empty() {
        steps.push(Step::of(Kind::FixKeys));
    }
    if world.api.token != Some(world.accepts.0) {
        steps.push(Step::of(Kind::TokenFix));
    }
    if !world.to_bury().is_empty() {
        steps.push(Step::of(Kind::Bury));
    }
    for (n, server) in world.servers.iter().enumerate() {
        if server.life == Life::Down && !world.books.left[n] {
            steps.push(Step::to(Kind::Start, n));
        }
    }
    if !world.operators[1].pending.is_empty() {
        steps.push(Step::to(Kind::Act, 1));
        steps.push(Step::to(Kind::Dies, 1));
    }
    steps
}

/// Faults that are always possible.
const ANYWHERE: [Kind; 11] = [
    Kind::TokenBad,
    Kind::TokenMissing,
    Kind::TokenNew,
    Kind::TokenEnds,
    Kind::DeleteCandidate,
    Kind::Unreadable,
    Kind::Lie,
    Kind::RefuseKeys,
    Kind::Week,
    Kind::Reencrypt,
    Kind::Pause,
];

/// Faults of something that has to exist.
const SOMEWHERE: [Kind; 27] = [
    Kind::Restore,
    Kind::Orphan,
    Kind::Webhook,
    Kind::ReconcileDies,
    Kind::Decide,
    Kind::AgentDies,
    Kind::Stop,
    Kind::Restart,
    Kind::Reboot,
    Kind::PauseAgent,
    Kind::DeleteNode,
    Kind::Leave,
    Kind::Return,
    Kind::Register,
    Kind::KmsDown,
    Kind::Revoke,
    Kind::Rotate,
    Kind::RecreateKek,
    Kind::Spec,
    Kind::Resources,
    Kind::DeleteKey,
    Kind::CorruptKey,
    Kind::Forget,
    Kind::Unforget,
    Kind::DeleteRevision,
    Kind::DeleteMigration,
    Kind::AbsurdMark,
];

/// The kinds of [`faults`].
pub fn fault_kinds() -> impl Iterator<Item = Kind> {
    SOMEWHERE.into_iter().chain(ANYWHERE)
}

/// Every single fault that is possible in this world; each is of one of [`fault_kinds`].
pub fn faults(world: &World) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..5).map(|k| Step::with(Kind::ReconcileDies, 0, k)).collect();
    steps.push(Step::to(Kind::Decide, 1));
    for n in 0..NAMES.len() {
        match world.servers[n].life {
            Life::Absent => {}
            Life::Joining => steps.extend((0..9).map(|k| Step::with(Kind::AgentDies, n, k))),
            Life::Down if world.may_return(n) => steps.push(Step::to(Kind::Return, n)),
            Life::Down => steps.push(Step::to(Kind::Reboot, n)),
            Life::Up => {
                steps.extend((0..9).map(|k| Step::with(Kind::AgentDies, n, k)));
                let kinds = [Kind::Stop, Kind::Restart, Kind::Reboot, Kind::DeleteNode, Kind::PauseAgent];
                steps.extend(kinds.map(|k| Step::to(k, n)));
                steps.push(Step::to(Kind::AbsurdMark, n));
                if world.may_be_restored(n) {
                    steps.push(Step::to(Kind::Restore, n));
                }
                if world.running().filter(|n| !world.books.left[*n]).count() > 1 {
                    steps.push(Step::to(Kind::Leave, n));
                }
            }
        }
    }
    if let Some(absent) = world.servers.iter().position(|server| server.life == Life::Absent) {
        steps.push(Step::to(Kind::Register, absent));
    }
    for (kek, kms) in world.kms.iter().enumerate().take(3) {
        let used =
            world.books.keys.values().any(|meaning| meaning.kek.is_some_and(|(k, _)| usize::from(k) == kek));
        if used && kms.up && kms.encrypts {
            steps.extend(
                [Kind::KmsDown, Kind::Revoke, Kind::Rotate, Kind::RecreateKek]
                    .map(|kind| Step::to(kind, kek)),
            );
        }
    }
    steps.extend(ANYWHERE.map(Step::of));
    steps.extend([3, 4, 7].map(|spec| Step::to(Kind::Spec, spec)));
    steps.extend([1, 2, 0].map(|list| Step::to(Kind::Resources, list)));
    for id in world.key_ids() {
        let id = usize::try_from(id.0).unwrap_or(0);
        steps.extend([Kind::DeleteKey, Kind::CorruptKey].map(|kind| Step::to(kind, id)));
    }
    let forget: Vec<KeyId> = world.api.spec.forget.iter().map(|request| request.key_id).collect();
    let small = |id: KeyId| usize::try_from(id.0).unwrap_or(0);
    let known = world.key_ids().filter(|id| !forget.contains(id));
    steps.extend(known.map(|id| Step::to(Kind::Forget, small(id))));
    steps.extend(forget.iter().map(|id| Step::to(Kind::Unforget, small(*id))));
    for kind in [Kind::Orphan, Kind::Webhook] {
        steps.extend((0..RESOURCES.len()).map(|resource| Step::to(kind, resource)));
    }
    for at in 0..world.api.configs.len().min(3) {
        steps.push(Step::to(Kind::DeleteRevision, at));
    }
    for resource in 0..RESOURCES.len() {
        let known = world.api.snapshot.migrations.keys();
        if known.into_iter().any(|r| r == &crate::world::config::resources()[resource]) {
            steps.push(Step::to(Kind::DeleteMigration, resource));
        }
    }
    steps
}

/// Bounds that are explored completely in seconds: for the tests.
pub fn small() -> Vec<(String, Bounds)> {
    let all = [
        (
            "1 API server, 3 keys (KMS a, KMS b, aescbc), no fault, all ends well",
            bounds(1, &[], &[3, 5, 1], 0, true),
        ),
        ("2 API servers, 2 keys (KMS a, KMS b), no fault", bounds(2, &[], &[3, 5], 0, false)),
        ("1 API server, 1 key (aescbc), every single fault", bounds(1, &[], &[1], 1, false)),
        (
            "1 API server, 2 keys (KMS a, KMS b), a KEK recreated at any moment, all ends well",
            Bounds { only: vec![Kind::RecreateKek], ..bounds(1, &[], &[3, 5], 1, true) },
        ),
        (
            "1 API server, 1 key in force (KMS a), then KMS b, paused and resumed at any moment, all ends well",
            Bounds { only: vec![Kind::Pause, Kind::PauseAgent], ..bounds(1, &[3], &[5], 1, true) },
        ),
        (
            "1 API server, 1 key in force (KMS a), forgotten at any moment, and its KEK recreated, all ends well",
            Bounds { only: vec![Kind::Forget, Kind::RecreateKek], ..bounds(1, &[3], &[], 2, true) },
        ),
        (
            "1 API server, 2 keys in force (KMS a, KMS b), one forgotten at any moment of an outage and after it, all ends well",
            Bounds { only: vec![Kind::Forget, Kind::KmsDown], ..bounds(1, &[3, 5], &[], 2, true) },
        ),
    ];
    all.map(|(what, bounds)| (what.to_owned(), bounds)).into()
}

/// Every single fault with 1 API server and 3 keys, kind by kind: with only one fault, the kinds do not
/// influence each other. Minutes for most, an hour or more for some.
pub fn faults_of_three_keys() -> Vec<(String, Bounds)> {
    kind_by_kind("KMS a, KMS b, aescbc", &[], &[3, 5, 1])
}

/// The same with the first key in force at the beginning: faults during its transition are not included. The
/// two others are requested at any moment, the second one perhaps before the first is done.
pub fn faults_with_a_key_in_force() -> Vec<(String, Bounds)> {
    kind_by_kind("KMS a in force, then KMS b, aescbc", &[3], &[5, 1])
}

fn kind_by_kind(keys: &str, specs: &[usize], script: &[usize]) -> Vec<(String, Bounds)> {
    let one = |kind: Kind| {
        let what = format!("1 API server, 3 keys ({keys}), at any moment once: {}", kind.name());
        (what, Bounds { only: vec![kind], ..bounds(1, specs, script, 1, false) })
    };
    fault_kinds().map(one).collect()
}

/// Bounds that take long.
pub fn large() -> Vec<(String, Bounds)> {
    let all = [
        (
            "1 API server, 1 key in force (KMS a), then KMS b, a key forgotten at any moment, all ends well",
            Bounds { only: vec![Kind::Forget], ..bounds(1, &[3], &[5], 1, true) },
        ),
        (
            "1 API server, 2 keys in force, then identity, every single fault",
            bounds(1, &[3, 5], &[0], 1, true),
        ),
        ("2 API servers, 2 keys (KMS a, KMS b), every single fault", bounds(2, &[], &[3, 5], 1, false)),
        (
            "2 API servers, 2 keys in force (KMS a, KMS b), each forgotten and the request removed at any moment, all ends well",
            Bounds { only: vec![Kind::Forget, Kind::Unforget], ..bounds(2, &[3, 5], &[], 3, true) },
        ),
    ];
    let all = all.map(|(what, bounds)| (what.to_owned(), bounds));
    [small(), faults_of_three_keys(), faults_with_a_key_in_force(), all.into()].concat()
}

fn bounds(nodes: usize, specs: &[usize], script: &[usize], faults: usize, liveness: bool) -> Bounds {
    Bounds {
        nodes,
        specs: specs.to_vec(),
        script: script.to_vec(),
        faults,
        only: Vec::new(),
        without: Vec::new(),
        most: 20_000_000,
        mutant: None,
        liveness,
    }
}
