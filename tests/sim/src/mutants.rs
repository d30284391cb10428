//! Decisions that are wrong on purpose: each must be found, or the checks prove nothing.
//!
//! A mutant changes the input of the real decision, or its result; the decision itself is unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::api::{
    ConditionStatus, EncryptionMigrationSpec, ForgetPhase, ForgetRequest, ForgetStatus, HealthStatus,
    MigrationPhase, NodePlugin, PluginHealth,
};
use keyward_core::formats::encryption_config::{EncryptionConfiguration, Identity, ProviderConfiguration};
use keyward_core::formats::key_secret::KeySecret;
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::{KeyId, RemoteKeyId, Revision};
use keyward_core::node::{self, Decision, Instance, Observed, SeenSpec, Step};
use keyward_core::outcome::{Action, Outcome};
use keyward_core::snapshot::Snapshot;

use crate::explore::random::{self, Plan};
use crate::explore::{Way, replay};
use crate::invariants::{self, Violation};
use crate::world::World;
use crate::world::etcd::Sealed;
use crate::world::step::Kind;

macro_rules! mutants {
    ($($mutant:ident = $what:literal, $helped:expr;)*) => {
        /// One wrong decision.
        #[allow(missing_docs)] // `what` says it
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($mutant,)* }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &[Self] = &[$(Self::$mutant,)*];

            /// Describes the wrong decision.
            pub fn what(self) -> &'static str {
                match self { $(Self::$mutant => $what,)* }
            }

            /// The steps that have to happen for it to show.
            pub(crate) fn helped_by(self) -> &'static [Kind] {
                match self { $(Self::$mutant => $helped,)* }
            }
        }
    };
}

mutants! {
    PromoteEarly = "a key becomes write key before every API server can read with it", &[];
    DropOnDeletion = "a key whose secret was deleted leaves the configuration", &[Kind::DeleteKey];
    PruneOneTooMany = "one read key too many leaves the configuration", &[];
    MigrateEarly = "re-encryption starts before every API server has switched", &[];
    NoWaitForWrites = "re-encryption does not wait for writes in flight", &[];
    ReuseNumber = "the number of a deleted key is used again", &[Kind::DeleteKey];
    NoKeyCheck = "a plugin passes without decrypting the key check", &[Kind::Lie];
    DecideBlind = "what cannot be read counts as absent", &[Kind::Unreadable];
    ForgetServer = "a server whose node was deleted is not counted any more", &[Kind::Leave];
    NoPublication = "it is not recorded that a key was published as write key", &[];
    NoHighWater = "the high-water mark is not raised before a key is created", &[];
    DeleteKeyInUse = "a key secret is deleted while its key is deployed", &[];
    TwoKeysAtOnce = "a new key is created while one is in transition", &[Kind::Spec];
    RecordEarly = "a resource is recorded as migrated that is not", &[];
    ClaimEarly = "a key claims every resource as soon as it is published", &[];
    ReadyEarly = "Ready is True as soon as the spec was read", &[Kind::Spec];
    DeleteTarget = "a revision is deleted that a node has to install", &[];
    RenameProvider = "a provider that was deployed gets another name", &[];
    PlainWriter = "plain text is written between two keys", &[];
    StopsReading = "the write key's predecessor leaves with the promotion", &[];
    InstallEarly = "the agent installs a configuration before its plugins answer", &[Kind::Restart];
    StopEarly = "the agent stops a plugin that the API server still needs", &[];
    SwitchBlind = "the agent switches a key's link to a plugin that was never probed", &[Kind::Spec];
    RetireEarly = "a KMS provider leaves while etcd's history may need it", &[Kind::Spec];
    AbandonPublished = "a key is abandoned that was a write key", &[Kind::Spec];
    ServeSuperseded = "a node that returns serves the keys that it had", &[Kind::Stop, Kind::Leave, Kind::Return, Kind::Spec];
    SetBackIsRollout = "a machine that was restored counts as part of a rollout", &[Kind::Restore];
    ForgetLate = "a key is forgotten though it works again", &[Kind::Forget, Kind::KmsDown];
    IgnorePause = "the operator continues while it is paused", &[Kind::Pause, Kind::Resume];
    IgnorePauseFile = "an agent continues while it is paused on its node", &[Kind::PauseAgent, Kind::ResumeAgent];
    BelieveMark = "a number counts as used because one agent reports it", &[Kind::AbsurdMark];
    OrphanIsGone = "a 404 for an object's missing namespace counts as a deleted object", &[Kind::Orphan];
    FailureIsSuccess = "a migration that failed for a webhook counts as one that succeeded", &[Kind::Webhook];
    InstallOther = "the agent installs another revision on its disk than the one in its spec", &[];
}

impl Mutant {
    /// Changes the snapshot that the operator decides from.
    pub(crate) fn before(self, _world: &World, snapshot: &mut Snapshot) {
        match self {
            Self::PromoteEarly => converged(snapshot),
            Self::NoWaitForWrites => {
                for age in snapshot.ages.values_mut() {
                    age.elapsed = Duration::from_hours(1);
                }
                if let Some((revision, content)) = newest(snapshot) {
                    let age = keyward_core::platform::Age {
                        value: format!("{revision}/{}", content.hash().0),
                        elapsed: Duration::from_hours(1),
                    };
                    snapshot.ages.insert("converged".to_owned(), age);
                }
            }
            Self::RetireEarly => {
                snapshot.compacted.extend(snapshot.migrations.keys().cloned());
            }
            Self::ReuseNumber => {
                snapshot.highest_key = snapshot.keys.first().map_or(KeyId(0), |key| key.id);
            }
            Self::ForgetLate => {
                let carried_out = |request: &ForgetRequest| ForgetStatus {
                    key_id: request.key_id,
                    requested_at: request.requested_at.clone(),
                    phase: ForgetPhase::CarriedOut,
                    message: String::new(),
                };
                snapshot.recorded_forget = snapshot.wanted.requests.iter().map(carried_out).collect();
                snapshot.wanted.forget = snapshot.accepted();
            }
            Self::BelieveMark => {
                snapshot.highest_key = snapshot.excess_keys.pop_last().unwrap_or(snapshot.highest_key);
            }
            Self::FailureIsSuccess => {
                for migration in snapshot.migrations.values_mut() {
                    let status = &mut migration.status;
                    if status.phase == MigrationPhase::Failed {
                        (status.phase, status.end_version) = (MigrationPhase::Succeeded, Some("end".into()));
                    }
                }
            }
            Self::SetBackIsRollout => snapshot.last_converged = Revision(0),
            Self::DecideBlind => snapshot.unreadable.clear(),
            Self::ForgetServer => {
                snapshot.servers.retain(|_, server| server.is_node || server.agent.is_some());
            }
            Self::TwoKeysAtOnce => {
                let wanted = snapshot.wanted.resources.clone();
                if let Some(key) = snapshot.keys.first_mut() {
                    key.migrated = wanted;
                    key.migrated_at.get_or_insert(snapshot.now);
                }
            }
            _ => {}
        }
    }

    /// Whether the engine counts an object as deleted that the API server refuses to update.
    pub(crate) fn takes_for_gone(self, world: &World, resource: usize, sealed: Sealed) -> bool {
        self == Self::OrphanIsGone && world.refused.orphans[resource].contains(sealed)
    }

    /// Changes the operator's decision.
    pub(crate) fn after(self, _world: &World, snapshot: &Snapshot, outcome: &mut Outcome) {
        match self {
            Self::NoPublication => {
                outcome.actions.retain(|action| !matches!(action, Action::RecordPublication { .. }));
            }
            Self::NoHighWater => {
                outcome.actions.retain(|action| !matches!(action, Action::RecordHighWater { .. }));
            }
            Self::DropOnDeletion => applied(outcome, |id, _, _| snapshot.key(id).is_some()),
            Self::PruneOneTooMany => {
                applied(outcome, |id, first, oldest| first == Some(id) || oldest != Some(id));
            }
            Self::StopsReading => applied(outcome, |id, first, _| {
                first.is_none_or(|first| {
                    first == id || snapshot.key(first).is_some_and(|k| k.write_published.is_some())
                })
            }),
            Self::MigrateEarly => migrate_early(snapshot, outcome),
            Self::RecordEarly => record_early(snapshot, outcome),
            Self::DeleteTarget => {
                if let Some((revision, stored)) = snapshot.revisions.last_key_value() {
                    let resource_version = stored.resource_version.clone();
                    outcome.actions.push(Action::DeleteRevision { revision: *revision, resource_version });
                }
            }
            Self::AbandonPublished => {
                if let Some(key) = snapshot.usable().next().filter(|key| key.write_published.is_some()) {
                    let key = Box::new(KeySecret { abandoned: Some("now".into()), ..key.clone() });
                    outcome.actions.insert(0, Action::AbandonKey { key, reason: "it is old".into() });
                }
            }
            Self::IgnorePause => outcome.actions.append(&mut outcome.withheld),
            Self::ReadyEarly => {
                for condition in outcome.conditions.iter_mut().filter(|c| c.type_ == "Ready") {
                    condition.status = ConditionStatus::True;
                }
            }
            Self::RenameProvider => renamed(outcome),
            Self::PlainWriter => plain_writer(outcome),
            _ => {}
        }
    }

    /// Does something else after a write.
    pub(crate) fn acted(self, world: &mut World, action: &Action) {
        if self == Self::DeleteKeyInUse
            && let Action::RecordMigrated { key, .. } = action
        {
            let id = key.id;
            Arc::make_mut(&mut world.api).delete_key(id);
            invariants::key_deleted(world, id);
        }
        if self == Self::ClaimEarly
            && let Action::RecordPublication { key, .. } = action
        {
            Arc::make_mut(&mut world.api).claim_everything(key.id);
        }
    }

    /// The agent's decision.
    pub(crate) fn agent(self, observed: &Observed) -> Decision {
        let mut decision = if self == Self::IgnorePauseFile {
            let disk = node::Disk { paused: None, ..observed.disk.clone() };
            node::next(&Observed { disk, ..observed.clone() })
        } else if self == Self::SetBackIsRollout {
            let spec = observed.spec.clone().map(|seen| SeenSpec { reported: Revision(0), ..seen });
            node::next(&Observed { spec, ..observed.clone() })
        } else {
            node::next(observed)
        };
        let target = observed.target.as_ref().and_then(|target| target.as_ref().ok());
        let revision = observed.spec.as_ref().map(|seen| seen.spec.revision);
        let serves = |id: KeyId| {
            let generation = observed.disk.links.get(&id)?.clone();
            Some(Instance { key_id: id, generation })
        };
        match (self, target, revision) {
            (Self::InstallEarly, Some(content), Some(revision)) => {
                let kept = observed.disk.revisions.contains_key(&revision);
                let hash = content.hash();
                if kept && observed.disk.file.as_ref().is_none_or(|file| file.hash != hash) {
                    decision.steps.push(Step::InstallConfiguration { revision, hash });
                }
            }
            (Self::StopEarly, Some(content), _) => {
                let needed = content.kms_keys();
                let unneeded = observed.disk.links.keys().filter(|id| !needed.contains(id)).copied();
                decision.steps.extend(unneeded.filter_map(serves).map(Step::RemovePod));
            }
            (Self::SwitchBlind, Some(content), _) => {
                for (id, digest) in content.digests() {
                    let instance = Instance::new(id, &digest);
                    if serves(id).is_some_and(|serving| serving != instance) {
                        decision.steps.insert(0, Step::SwitchLink { key_id: id, instance });
                    }
                }
            }
            (Self::ServeSuperseded, ..) => {
                for (id, generation) in &observed.disk.serving {
                    let instance = Instance { key_id: *id, generation: generation.clone() };
                    let made = Step::SwitchLink { key_id: *id, instance };
                    if !observed.disk.links.contains_key(id) && !decision.steps.contains(&made) {
                        decision.steps.push(made);
                    }
                }
            }
            (Self::InstallOther, ..) => {
                // The oldest one on its disk: the one that it has just left.
                if let Some((revision, content)) = observed.disk.revisions.first_key_value() {
                    let hash = content.hash();
                    if observed.disk.revisions.len() > 1 {
                        decision.steps.push(Step::InstallConfiguration { revision: *revision, hash });
                    }
                }
            }
            _ => {}
        }
        decision
    }

    /// A way that leads to it, if random schedules seldom do.
    fn way(self) -> Option<String> {
        // Key 1 is retired while node 1 is removed.
        let retired = "round,".repeat(12);
        let back = "return.1,start.1,agent.1,agent.1,agent.1,reconcile,agent.1,agent.1,poll.1";
        match self {
            Self::ServeSuperseded => Some(format!("2/3/stop.1,leave.1,tick.2,spec.5,{retired}{back}")),
            // An update in place creates a revision, and with it the operator adopts the mark.
            Self::BelieveMark => Some(format!("2/3/absurd-mark.1,agent.1,spec.4,{retired}spec.5")),
            _ => None,
        }
    }

    /// Goes the known way to it, or runs random schedules. Returns the first violation, and after how many
    /// schedules.
    pub fn hunt(self, schedules: u64, seed: u64, threads: usize) -> Option<(u64, Violation, Way)> {
        if let Some(way) = self.way().and_then(|way| way.parse::<Way>().ok()) {
            let by_itself = replay(&way, None, |_, _| ());
            let violation = replay(&way, Some(self), |_, _| ()).filter(|_| by_itself.is_none())?;
            return Some((0, violation, way));
        }
        let plan = Plan {
            schedules,
            seed,
            without: Vec::new(),
            only: Some(self.helped_by().to_vec()),
            length: 200,
            mutant: Some(self),
            liveness_each: 0,
            threads,
            enough: 1,
        };
        let found = random::explore(&plan);
        let schedules = found.schedules;
        found.violations.into_iter().next().map(|(_, violation, way)| (schedules, violation, way))
    }
}

fn newest(snapshot: &Snapshot) -> Option<(keyward_core::ids::Revision, RevisionContent)> {
    let (revision, stored) = snapshot.revisions.last_key_value()?;
    Some((*revision, stored.content.as_ref().ok()?.clone()))
}

/// Makes every server seem to have the newest revision.
fn converged(snapshot: &mut Snapshot) {
    let Some((revision, content)) = newest(snapshot) else { return };
    let health = || PluginHealth {
        status: HealthStatus::Healthy,
        remote_key_id: RemoteKeyId("k".into()),
        last_checked_time: String::new(),
        detail: None,
        failure: None,
    };
    for server in snapshot.servers.values_mut() {
        let Some(agent) = &mut server.agent else { continue };
        let Some(status) = &mut agent.status else { continue };
        status.loaded_hash = Some(content.hash());
        status.revision = revision;
        let digests = content.digests().into_iter();
        let plugin = |(key_id, digest): (KeyId, keyward_core::ids::PluginDigest)| NodePlugin {
            key_id,
            digest,
            ready: true,
            health: health(),
            repairs: 0,
        };
        status.plugins = digests.map(plugin).collect();
    }
}

/// Keeps only the providers of each new revision for which `keep` is true, given the key, the write key and
/// the oldest key.
fn applied(outcome: &mut Outcome, keep: impl Fn(KeyId, Option<KeyId>, Option<KeyId>) -> bool) {
    rewritten(outcome, |providers| {
        let first = providers.first().and_then(key_of);
        let oldest = providers.iter().filter_map(key_of).min();
        providers.retain(|provider| key_of(provider).is_none_or(|id| keep(id, first, oldest)));
    });
}

fn rewritten(outcome: &mut Outcome, change: impl Fn(&mut Vec<ProviderConfiguration>)) {
    for action in &mut outcome.actions {
        let Action::ApplyConfig { content, .. } = action else { continue };
        let mut entries = content.config.resources.clone();
        for entry in &mut entries {
            change(&mut entry.providers);
        }
        let config = EncryptionConfiguration::new(entries);
        let whole = RevisionContent::new(config, content.plugins.clone());
        let left = whole.kms_keys();
        let plugins: BTreeMap<_, _> = whole
            .plugins
            .iter()
            .filter(|(id, _)| left.contains(id))
            .map(|(id, p)| (*id, p.clone()))
            .collect();
        **content = RevisionContent::new(whole.config.clone(), plugins);
    }
}

fn key_of(provider: &ProviderConfiguration) -> Option<KeyId> {
    let notation = provider.notations().into_iter().next()?;
    notation.split_once(':')?.1.parse().ok()
}

/// Renames local keys only: a KMS provider with another name is not understood, and is installed nowhere.
fn renamed(outcome: &mut Outcome) {
    rewritten(outcome, |providers| {
        for provider in providers {
            for keys in [&mut provider.aescbc, &mut provider.aesgcm].into_iter().flatten() {
                for key in &mut keys.keys {
                    key.name = format!("{}0", key.name);
                }
            }
        }
    });
}

fn plain_writer(outcome: &mut Outcome) {
    rewritten(outcome, |providers| {
        providers.retain(|provider| provider.identity.is_none());
        providers.insert(0, ProviderConfiguration { identity: Some(Identity {}), ..Default::default() });
    });
}

fn migrate_early(snapshot: &Snapshot, outcome: &mut Outcome) {
    let Some(key) = snapshot.keys.first().filter(|key| key.write_published.is_some()) else { return };
    for resource in &snapshot.wanted.resources {
        let existing = snapshot.migrations.get(resource);
        if key.migrated.contains(resource) || existing.is_some_and(|m| m.spec.key_id == key.id) {
            continue;
        }
        outcome.actions.push(Action::StartMigration {
            resource: resource.clone(),
            spec: Box::new(EncryptionMigrationSpec {
                operand: snapshot.component.clone(),
                resource: resource.to_string(),
                key_id: key.id,
                key_secret_uid: key.uid.clone(),
                since: key.write_published.unwrap_or_default(),
                ..Default::default()
            }),
            resource_version: existing.map(|migration| migration.resource_version.clone()),
        });
    }
}

fn record_early(snapshot: &Snapshot, outcome: &mut Outcome) {
    let Some(key) = snapshot.keys.first().filter(|key| key.write_published.is_some()) else { return };
    let Some(resource) = snapshot.wanted.resources.iter().find(|r| !key.migrated.contains(r)) else { return };
    let mut key = key.clone();
    key.migrated.push(resource.clone());
    outcome.actions.push(Action::RecordMigrated { resource: resource.clone(), key: Box::new(key) });
}
