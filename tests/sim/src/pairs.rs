//! The claims of `keyward plan` about a change, compared with everything that is then decided
//! (invariant: plan-is-decision).
//!
//! A pair of specs: the first is in force and settled, then the second is requested. The claim is that of
//! [`keyward_core::effect::between`], which `plan` prints. The world shows what happens: keys that are
//! created, plugins that are replaced in place, and how each resource is stored in etcd before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use keyward_core::api::{ClusterEncryptionSpec, PluginSettings, ProxySettings};
use keyward_core::effect::{Change, InForce, between};
use keyward_core::formats::revision::PluginRecord;
use keyward_core::ids::{GroupResource, KeyId};
use keyward_core::platform::kubernetes;
use keyward_core::provider::{Effect, Evaluation, EvaluationRequest, Origin};
use keyward_core::snapshot::{Snapshot, Wanted};

use crate::liveness::{ROUNDS, missing};
use crate::rng::Rng;
use crate::world::World;
use crate::world::admin::MENU;
use crate::world::config::{RESOURCES, resources};
use crate::world::kms;
use crate::world::step::{Kind, Step};

/// The number of entries of the menu that can be carried out.
const MODES: usize = 7;

/// One spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    mode: usize,
    /// Bits of [`RESOURCES`]; none for a spec that names none.
    list: usize,
    /// Whether the decryption of resources outside the list is confirmed.
    confirmed: bool,
    timeout: bool,
    proxy: bool,
    token: usize,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.object();
        let token = spec.reencrypt.as_deref().unwrap_or("-");
        let mode = spec.encryption.type_.as_deref().unwrap_or_default();
        let kms = spec.encryption.kms.as_ref().map(|kms| kms["test"].to_string()).unwrap_or_default();
        write!(
            f,
            "{mode}{kms} resources {:?} decrypt {:?} timeout {} proxy {} token {token}",
            spec.resources, spec.decrypt, self.timeout, self.proxy
        )
    }
}

impl Spec {
    fn any(rng: &mut Rng) -> Self {
        Self {
            mode: rng.below(MODES),
            list: rng.below(1 << RESOURCES.len()),
            confirmed: rng.percent(50),
            timeout: rng.percent(15),
            proxy: rng.percent(15),
            token: if rng.percent(20) { 1 + rng.below(2) } else { 0 },
        }
    }

    /// A change of one or two things, as admins make them.
    fn edited(mut self, rng: &mut Rng) -> Self {
        for _ in 0..=rng.below(2) {
            let other = Self::any(rng);
            match rng.below(6) {
                0 => self.mode = other.mode,
                1 | 2 => (self.list, self.confirmed) = (other.list, other.confirmed),
                3 => self.timeout = other.timeout,
                4 => self.proxy = other.proxy,
                _ => self.token = other.token,
            }
        }
        self
    }

    fn object(&self) -> ClusterEncryptionSpec {
        let (mode, configuration) = MENU[self.mode];
        let mut spec = ClusterEncryptionSpec::default();
        spec.encryption.type_ = Some(mode.to_owned());
        spec.encryption.kms = configuration.map(|(kek, image)| kms::configuration(kek, image));
        let named: Vec<String> = (0..RESOURCES.len())
            .filter(|bit| self.list & (1 << bit) != 0)
            .map(|bit| RESOURCES[bit].to_owned())
            .collect();
        let listed: Vec<&str> = if named.is_empty() {
            kubernetes::DEFAULT_RESOURCES.to_vec()
        } else {
            named.iter().map(String::as_str).collect()
        };
        if self.confirmed {
            let left = RESOURCES.iter().filter(|resource| !listed.contains(resource));
            spec.decrypt = left.map(|name| (*name).to_owned()).collect();
        }
        spec.resources = (!named.is_empty()).then_some(named);
        spec.plugins = PluginSettings {
            timeout: self.timeout.then(|| "7s".to_owned()),
            proxy: self
                .proxy
                .then(|| ProxySettings { https: Some("http://proxy:3128".into()), ..Default::default() }),
            ..Default::default()
        };
        spec.reencrypt = (self.token > 0).then(|| format!("t{}", self.token));
        spec
    }
}

/// A claim that is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongClaim {
    /// A resource that leaves the list has no effect.
    LeavingHasNoEffect,
    /// A resource that leaves the list is decrypted, confirmed or not.
    LeavingNeedsNoConfirmation,
    /// How plugins are run has no effect.
    SettingsHaveNoEffect,
    /// A resource that is added to the list is already stored under the key.
    JoiningHasNoEffect,
}

impl WrongClaim {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::LeavingHasNoEffect,
        Self::LeavingNeedsNoConfirmation,
        Self::SettingsHaveNoEffect,
        Self::JoiningHasNoEffect,
    ];

    fn made(self, wanted: &Wanted, change: &mut Change) {
        let leaving = |resource: &GroupResource| !wanted.resources.contains(resource);
        match self {
            Self::LeavingHasNoEffect => change.decrypted.retain(|resource| !leaving(resource)),
            Self::LeavingNeedsNoConfirmation => change.decrypted.extend(wanted.unconfirmed.iter().cloned()),
            Self::SettingsHaveNoEffect => change.in_place = false,
            Self::JoiningHasNoEffect if change.new_key.is_none() => change.reencrypted.clear(),
            Self::JoiningHasNoEffect => {}
        }
    }
}

/// The effects of a change: claimed, or seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Effects {
    keys: usize,
    in_place: bool,
    reencrypted: BTreeSet<GroupResource>,
    decrypted: BTreeSet<GroupResource>,
}

impl From<&Change> for Effects {
    fn from(change: &Change) -> Self {
        Self {
            keys: usize::from(change.new_key.is_some()),
            in_place: change.in_place,
            reencrypted: change.reencrypted.clone(),
            decrypted: change.decrypted.clone(),
        }
    }
}

/// Checks this many pairs. Returns how many of them had each effect, and where claim and outcome differ.
pub fn compare(pairs: u64, seed: u64, wrong: Option<WrongClaim>) -> (BTreeMap<Effect, usize>, Vec<String>) {
    let mut counts = BTreeMap::new();
    let mut differences = Vec::new();
    for n in 0..pairs {
        let mut rng = Rng::new(seed.wrapping_add(n));
        let current = Spec::any(&mut rng);
        let desired = if rng.percent(70) { current.edited(&mut rng) } else { Spec::any(&mut rng) };
        match pair(current, desired, wrong) {
            Ok(effect) => *counts.entry(effect).or_default() += 1,
            Err(difference) => {
                let seed = seed.wrapping_add(n);
                differences.push(format!("seed {seed}: {current}\n  → {desired}\n  {difference}"));
                if wrong.is_some() {
                    break;
                }
            }
        }
    }
    (counts, differences)
}

fn pair(current: Spec, desired: Spec, wrong: Option<WrongClaim>) -> Result<Effect, String> {
    let mut world = World::new(1);
    ask(&mut world, current);
    settle(&mut world, |_| ()).map_err(|why| format!("the first spec does not settle: {why}"))?;
    let claimed = claim(&world, current, desired, wrong)?;
    let before = world.etcd.stored.clone();
    let keys: BTreeSet<KeyId> = world.key_ids().collect();
    let records = records(&world.api.snapshot);
    let mut made: BTreeSet<KeyId> = BTreeSet::new();
    let mut in_place = false;
    ask(&mut world, desired);
    settle(&mut world, |world| {
        made.extend(world.key_ids().filter(|id| !keys.contains(id)));
        let now = self::records(&world.api.snapshot);
        in_place |= now.iter().any(|(id, record)| records.get(id).is_some_and(|old| old != record));
    })
    .map_err(|why| format!("the second spec does not settle: {why}"))?;
    let changed = |index: &usize| world.etcd.stored[*index] != before[*index];
    let encrypted = |index: &usize| world.etcd.stored[*index].iter().any(|sealed| sealed.key().is_some());
    let named = |index: usize| resources()[index].clone();
    let seen = Effects {
        keys: made.len(),
        in_place,
        reencrypted: (0..RESOURCES.len()).filter(changed).filter(encrypted).map(named).collect(),
        decrypted: (0..RESOURCES.len())
            .filter(changed)
            .filter(|index| !encrypted(index))
            .map(named)
            .collect(),
    };
    let claim = Effects::from(&claimed);
    if claim != seen {
        return Err(format!("claimed {claim:?}\n  seen    {seen:?}"));
    }
    let total = total(&seen, desired);
    if claimed.effect != total && wrong.is_none() {
        return Err(format!("claimed {} in all, seen {total}: {seen:?}", claimed.effect));
    }
    Ok(total)
}

fn ask(world: &mut World, spec: Spec) {
    let api = Arc::make_mut(&mut world.api);
    api.spec = spec.object();
    api.cluster_version += 1;
    api.touch();
}

/// Runs round after round, until everything has ended well.
fn settle(world: &mut World, mut look: impl FnMut(&World)) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..ROUNDS {
        world.step(Step::of(Kind::Round));
        if let Some(violation) = &world.violation {
            return Err(violation.to_string());
        }
        look(world);
        match missing(world) {
            None => return Ok(()),
            Some(missing) => why = missing,
        }
    }
    Err(why)
}

/// The plugin of each KMS key, and the API server's timeout for it.
fn records(snapshot: &Snapshot) -> BTreeMap<KeyId, (PluginRecord, String)> {
    let kms = |key: &keyward_core::formats::key_secret::KeySecret| {
        let kms = key.kms.as_ref()?;
        let record = PluginRecord { salt: None, ..kms.plugin.clone() };
        Some((key.id, (record, kms.provider.timeout.clone())))
    };
    snapshot.keys.iter().filter_map(kms).collect()
}

/// The claim from the two specs, as in `plan --current --desired`. It must equal the claim from the deployed
/// state, as in `plan -f`.
fn claim(world: &World, current: Spec, desired: Spec, wrong: Option<WrongClaim>) -> Result<Change, String> {
    let (old, mut wanted) = (kubernetes::wanted(&current.object()), kubernetes::wanted(&desired.object()));
    let evaluation = |wanted: &Wanted, origin: Origin| -> Option<Evaluation> {
        kms::evaluate(&EvaluationRequest::new(origin, wanted.kms.as_ref()?), false).ok()
    };
    let (before, after) = (evaluation(&old, Origin::Stored), evaluation(&wanted, Origin::Desired));
    let settled = InForce::settled(&old, before.as_ref());
    let deployed = InForce::deployed(&world.api.snapshot, &old)
        .map_err(|unknown| format!("the deployed state is not known: {unknown:?}"))?;
    let newest = world.api.snapshot.content(world.api.snapshot.newest_revision());
    let live = kubernetes::in_force(wanted.clone(), &BTreeMap::new(), newest);
    kubernetes::keep_encrypted(&mut wanted, settled.encrypted.iter().cloned());
    let offline = between(&settled, &wanted, after.as_ref());
    let live = between(&deployed, &live, after.as_ref());
    if offline != live {
        return Err(format!("offline {offline:?}\n  live    {live:?}"));
    }
    let mut change = offline.ok_or("the spec has no mode")?;
    if let Some(wrong) = wrong {
        wrong.made(&wanted, &mut change);
    }
    Ok(change)
}

/// The effect of the whole change.
fn total(seen: &Effects, desired: Spec) -> Effect {
    let to_plain = MENU[desired.mode].0 == "identity";
    if !seen.decrypted.is_empty() || seen.keys > 0 && to_plain {
        Effect::Decrypt
    } else if seen.keys > 0 {
        Effect::NewKey
    } else if !seen.reencrypted.is_empty() {
        Effect::ReEncrypt
    } else if seen.in_place {
        Effect::InPlace
    } else {
        Effect::None
    }
}
