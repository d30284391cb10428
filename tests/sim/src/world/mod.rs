//! The world: everything that Keyward's decisions see and change, and everything that happens to it.
//!
//! This module contains what really happens, or could. It never contains what should happen: that is in
//! [`invariants`].

pub(crate) mod admin;
pub mod config;
pub mod etcd;
pub mod kms;
pub mod migration;
mod objects;
pub(crate) mod operator;
mod print;
mod probe;
pub mod server;
pub mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use keyward_core::ids::{ConfigHash, KeyId};
use keyward_core::outcome::Action;

use crate::invariants::{self, Books, Violation};
use crate::mutants::Mutant;
use config::{Config, RESOURCES};
use etcd::{Etcd, Ways};
use kms::{KEKS, Kms};
pub use objects::Api;
pub use operator::Operator;
use server::{Life, NAMES, Server};
use step::{Kind, Step};

/// An hour: longer than any wait of operator and agent.
pub const LONG: u64 = 3600;

/// All of it. Parts that are large are shared between states until they change.
#[derive(Clone)]
pub struct World {
    /// The objects in the API.
    pub api: Arc<Api>,
    /// The nodes, by place in [`NAMES`].
    pub servers: Vec<Arc<Server>>,
    /// The operator, and a second one that does not know that it is not the only one.
    pub operators: [Operator; 2],
    /// The KMSs, by place in [`KEKS`].
    pub kms: [Kms; KEKS.len()],
    /// The database.
    pub etcd: Etcd,
    /// Writes in flight that began before their server switched.
    pub inflight: [Ways; RESOURCES.len()],
    /// When the youngest of them began.
    pub inflight_age: u64,
    /// The migration engine's runs.
    pub runs: [migration::Run; RESOURCES.len()],
    /// Objects that the API server refuses to update.
    pub refused: migration::Refused,
    /// Every configuration that ever existed.
    pub configs: Arc<BTreeMap<ConfigHash, Arc<Config>>>,
    /// The credential that KMSs accept, and whether they also accept the previous one.
    pub accepts: (u8, bool),
    /// Secrets cannot be read.
    pub unreadable: bool,
    /// The creation of this many key secrets fails. Each attempt uses up a number, so without a limit there
    /// would be no end of different worlds.
    pub refuses_keys: u8,
    /// How often eight days have passed.
    pub weeks: u8,
    /// Tokens of `spec.reencrypt`.
    pub tokens: u8,
    /// Facts that Keyward cannot see, for the checks.
    pub books: Arc<Books>,
    /// A decision that is wrong on purpose.
    pub mutant: Option<Mutant>,
    /// The first violation.
    pub violation: Option<Violation>,
    /// The number of salts and key checks that were created.
    made: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("violation", &self.violation).finish_non_exhaustive()
    }
}

impl World {
    /// This many prepared nodes, with nothing encrypted and nothing requested; others may join.
    pub fn new(nodes: usize) -> Self {
        let zero = Arc::new(Config::zero());
        let mut world = Self {
            api: Arc::new(Api::new()),
            servers: (0..NAMES.len())
                .map(|n| Arc::new(Server::new(&zero, if n < nodes { Life::Up } else { Life::Absent })))
                .collect(),
            operators: Default::default(),
            kms: Kms::all(),
            etcd: Etcd::plain(),
            inflight: Default::default(),
            inflight_age: 0,
            runs: Default::default(),
            refused: Default::default(),
            configs: Arc::new(BTreeMap::from([(zero.hash.clone(), zero)])),
            accepts: (1, false),
            unreadable: false,
            refuses_keys: 0,
            weeks: 0,
            tokens: 0,
            books: Arc::default(),
            mutant: None,
            violation: None,
            made: 0,
        };
        for n in 0..nodes {
            world.show(n);
        }
        world
    }

    /// The servers that serve.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.servers.iter().enumerate().filter(|(_, server)| server.life == Life::Up).map(|(n, _)| n)
    }

    /// The wall clock.
    fn now(&self) -> jiff::Timestamp {
        let days = i64::from(self.weeks) * 8;
        jiff::Timestamp::from_second(1_750_000_000 + days * 86_400).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// Records a violation. Only the first is kept: later ones may follow from it.
    pub fn fails(&mut self, rule: &'static str, what: String) {
        self.violation.get_or_insert(Violation { rule, what });
    }

    /// One step. A step whose object is gone does nothing.
    pub fn step(&mut self, step: Step) {
        let (a, b) = (step.who(), step.how());
        match step.kind {
            Kind::Reconcile => self.reconcile(a % 2, None),
            Kind::ReconcileDies => self.reconcile(a % 2, Some(b)),
            Kind::Decide => self.decide(a % 2),
            Kind::Act => drop(self.act(a % 2)),
            Kind::Dies => self.operators[a % 2] = Operator::default(),
            Kind::Tick => self.tick([5, 60, LONG][a.min(2)]),
            Kind::Compact => self.compact(),
            Kind::Migrate => self.migrate(a % RESOURCES.len(), b % NAMES.len()),
            Kind::Round => self.round(),
            Kind::Agent | Kind::AgentDies | Kind::AgentStale | Kind::Poll => {
                self.node(step.kind, a % NAMES.len(), b);
            }
            Kind::Stop | Kind::Start | Kind::Restart | Kind::Reboot => self.power(step.kind, a % NAMES.len()),
            _ => self.disturb(step.kind, a),
        }
        self.happened();
    }

    fn node(&mut self, kind: Kind, n: usize, b: usize) {
        match kind {
            Kind::Agent => {
                self.fetch(n);
                self.agent(n, None);
            }
            Kind::AgentDies => {
                self.fetch(n);
                self.agent(n, Some(b));
            }
            Kind::AgentStale => self.agent(n, None),
            _ => self.poll(n),
        }
    }

    fn power(&mut self, kind: Kind, n: usize) {
        match (kind, self.servers[n].life) {
            (Kind::Stop, Life::Up) => {
                self.under_way(n);
                self.server_mut(n).life = Life::Down;
            }
            // A node that has left returns by another step (`Kind::Return`).
            (Kind::Start, Life::Down) if !self.books.left[n] => self.start_server(n),
            (Kind::Restart, Life::Up) => {
                self.under_way(n);
                self.start_server(n);
            }
            (Kind::Reboot, Life::Up | Life::Down) => self.reboot(n),
            _ => {}
        }
    }

    /// A server's identity Lease and its Node exist.
    pub(crate) fn show(&mut self, n: usize) {
        let api = Arc::make_mut(&mut self.api);
        let view = api.snapshot.servers.entry(NAMES[n].to_owned()).or_default();
        NAMES[n].clone_into(&mut view.name);
        view.has_lease = true;
        if self.servers[n].life == Life::Up && !self.books.left[n] {
            view.is_node = true;
        }
    }

    fn tick(&mut self, seconds: u64) {
        if seconds >= 60 {
            for n in 0..self.servers.len() {
                if self.servers[n].life == Life::Up {
                    self.poll(n);
                    self.happened();
                }
            }
        }
        self.inflight_age += seconds;
        if self.inflight_age >= 60 {
            self.inflight.iter_mut().for_each(Ways::clear);
            self.inflight_age = 0;
        }
        for operator in &mut self.operators {
            for age in operator.ages.values_mut() {
                age.elapsed += std::time::Duration::from_secs(seconds);
            }
        }
        for n in 0..self.servers.len() {
            if self.servers[n].life != Life::Absent {
                self.node_time(n, seconds);
            }
        }
        if seconds >= LONG {
            self.leases_end();
        }
    }

    fn leases_end(&mut self) {
        for (n, name) in NAMES.iter().enumerate() {
            let up = self.servers[n].life == Life::Up;
            let has = self.api.snapshot.servers.get(*name).is_some_and(|view| view.has_lease);
            if !up && has {
                let api = Arc::make_mut(&mut self.api);
                if let Some(view) = api.snapshot.servers.get_mut(*name) {
                    view.has_lease = false;
                    if !view.is_node && view.agent.is_none() {
                        api.snapshot.servers.remove(*name);
                    }
                }
            }
        }
    }

    fn compact(&mut self) {
        self.etcd.compact();
        Arc::make_mut(&mut self.api).compacted = [true; RESOURCES.len()];
    }

    /// One round: everybody does their pending work, and then an hour passes.
    fn round(&mut self) {
        let nodes: Vec<usize> = (0..self.servers.len()).collect();
        self.reconcile(0, None);
        for n in &nodes {
            for kind in [Kind::Agent, Kind::Agent, Kind::Poll, Kind::Agent] {
                self.node(kind, *n, 0);
                self.happened();
            }
        }
        self.reconcile(0, None);
        for resource in 0..RESOURCES.len() {
            for _ in 0..6 {
                let served = self.running().next();
                if let Some(n) = served.filter(|_| self.migration_is_due(resource)) {
                    self.migrate(resource, n);
                    self.happened();
                }
            }
        }
        self.compact();
        self.tick(LONG);
    }

    /// What follows every event at once: everybody writes, and the invariants are checked.
    pub(crate) fn happened(&mut self) {
        let running: Vec<usize> = self.running().collect();
        for n in running {
            for resource in 0..RESOURCES.len() {
                if let Some(sealed) = self.writes(n, resource) {
                    self.etcd.put(resource, sealed);
                }
            }
        }
        for resource in 0..RESOURCES.len() {
            if !self.inflight[resource].is_empty() {
                let landing: Vec<_> = self.inflight[resource].iter().collect();
                for sealed in landing {
                    self.etcd.put(resource, sealed);
                }
            }
        }
        invariants::state(self);
    }

    /// The effect of an action on the world beside the objects.
    pub(crate) fn keep_configuration(&mut self, action: &Action) {
        if let Action::ApplyConfig { revision, .. } = action
            && let Some(config) = self.api.configs.get(revision).cloned()
        {
            Arc::make_mut(&mut self.configs).entry(config.hash.clone()).or_insert(config);
        }
    }

    /// Keys whose secrets exist.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.api.snapshot.keys.iter().map(|key| key.id)
    }
}
