//! Steps by an admin, and steps from outside.

use std::sync::Arc;

use keyward_core::api::{ForgetRequest, Pause};
use keyward_core::ids::KeyId;
use keyward_core::node::PauseFile;
use keyward_core::platform::kubernetes::DEFAULT_RESOURCES;

use super::World;
use super::config::{Provider, RESOURCES, resources};
use super::etcd::Sealed;
use super::kms;
use super::server::{Life, NAMES, Server};
use super::step::Kind;

/// The specs of the menu: the mode, and for a KMS the KEK and an image.
pub(crate) const MENU: [(&str, Option<(u8, u8)>); 8] = [
    ("identity", None),
    ("aescbc", None),
    ("aesgcm", None),
    ("KMS", Some((0, 1))),
    ("KMS", Some((0, 2))),
    ("KMS", Some((1, 1))),
    ("KMS", Some((2, 1))),
    ("KMS", Some((3, 1))),
];

/// The number in a damaged record: the last one that the API can store.
pub(crate) const ABSURD: KeyId = KeyId(i64::MAX.unsigned_abs());

const LISTS: [Option<&[&str]>; 3] =
    [None, Some(&["secrets"]), Some(&["configmaps", "secrets", "widgets.example.com"])];

impl World {
    pub(super) fn disturb(&mut self, kind: Kind, a: usize) {
        let kek = a % (kms::KEKS.len() - 1);
        match kind {
            Kind::KmsDown | Kind::KmsUp => self.kms[kek].up = kind == Kind::KmsUp,
            Kind::Revoke | Kind::Grant => self.kms[kek].encrypts = kind == Kind::Grant,
            Kind::Rotate => self.kms[kek].version = self.kms[kek].version.saturating_add(1),
            Kind::RecreateKek => self.kms[kek].made = self.kms[kek].made.saturating_add(1),
            Kind::Unreadable | Kind::Readable => self.unreadable = kind == Kind::Unreadable,
            Kind::RefuseKeys => self.refuses_keys = 3,
            Kind::AcceptKeys => self.refuses_keys = 0,
            Kind::Orphan | Kind::Webhook => self.refuse_updates(kind, a % RESOURCES.len()),
            Kind::Adopt => self.refused.orphans = Default::default(),
            Kind::Admit => self.refused.by_webhook = Default::default(),
            Kind::Bury => self.bury(),
            Kind::PauseAgent | Kind::ResumeAgent => {
                let paused = (kind == Kind::PauseAgent).then(PauseFile::default);
                self.server_mut(a % NAMES.len()).observed.disk.paused = paused;
            }
            Kind::Week => self.weeks = self.weeks.saturating_add(1),
            Kind::TokenEnds => self.accepts.1 = false,
            Kind::Register => self.register(a % NAMES.len()),
            Kind::Restore => self.restore(a % NAMES.len()),
            Kind::AbsurdMark => {
                self.server_mut(a % NAMES.len()).observed.disk.highest_key_id =
                    KeyId(i64::MAX.unsigned_abs());
            }
            Kind::Return => self.return_node(a % NAMES.len()),
            Kind::Leave | Kind::DeleteNode => self.leave(a % NAMES.len(), kind == Kind::Leave),
            Kind::DeleteRevision => {
                let found = self.api.snapshot.revisions.keys().rev().nth(a).copied();
                if let Some(revision) = found {
                    Arc::make_mut(&mut self.api).delete_revision(revision);
                }
            }
            _ => self.edit(kind, a),
        }
    }

    fn edit(&mut self, kind: Kind, a: usize) {
        let id = KeyId(a as u64);
        let newest = self.accepts.0;
        let tokens = self.tokens;
        let api = Arc::make_mut(&mut self.api);
        match kind {
            Kind::Spec => {
                let (mode, configuration) = MENU[a % MENU.len()];
                api.spec.encryption.type_ = Some(mode.to_owned());
                api.spec.encryption.kms = configuration.map(|(kek, image)| kms::configuration(kek, image));
            }
            Kind::Resources => {
                let list = LISTS[a % LISTS.len()];
                let listed = list.unwrap_or(&DEFAULT_RESOURCES);
                let left = RESOURCES.iter().filter(|name| !listed.contains(name));
                // Resources that leave the list are decrypted. Unconfirmed decryptions are in `pairs`.
                api.spec.decrypt = left.map(|name| (*name).to_owned()).collect();
                api.spec.resources = list.map(|list| list.iter().map(|name| (*name).to_owned()).collect());
            }
            Kind::Reencrypt => {
                api.spec.reencrypt = Some(format!("t{}", tokens + 1));
                self.tokens += 1;
            }
            Kind::Forget | Kind::Unforget => {
                api.spec.forget.retain(|other| other.key_id != id);
                if kind == Kind::Forget {
                    self.tokens += 1;
                    api.spec.forget.push(ForgetRequest {
                        key_id: id,
                        requested_at: format!("t{}", self.tokens),
                        objects: None,
                        accept_keyward_loss: true,
                    });
                }
            }
            Kind::Pause => api.spec.paused = Some(Pause::default()),
            Kind::Resume => api.spec.paused = None,
            Kind::TokenBad => api.token = Some(200),
            Kind::TokenMissing => api.token = None,
            Kind::TokenFix => api.token = Some(newest),
            Kind::TokenNew => {
                api.token = Some(newest + 1);
                self.accepts = (newest + 1, true);
            }
            Kind::Lie | Kind::Honest => api.lies = kind == Kind::Lie,
            Kind::DeleteKey => api.delete_key(id),
            Kind::CorruptKey => api.corrupt_key(id),
            Kind::FixKeys => api.fix_keys(),
            Kind::DeleteCandidate => api.delete_candidate(),
            Kind::DeleteMigration => {
                let resource = &resources()[a % resources().len()];
                api.snapshot.migrations.remove(resource);
            }
            _ => {}
        }
        if matches!(
            kind,
            Kind::Spec
                | Kind::Resources
                | Kind::Reencrypt
                | Kind::Forget
                | Kind::Unforget
                | Kind::Pause
                | Kind::Resume
        ) {
            api.cluster_version += 1;
        }
        api.touch();
        if matches!(kind, Kind::DeleteKey | Kind::CorruptKey) {
            Arc::make_mut(&mut self.books).tampered = true;
        }
    }

    /// Forgotten objects that no server can read, by resource and way of storage: they can be deleted.
    pub(crate) fn to_bury(&self) -> Vec<(usize, Sealed)> {
        if self.books.forgotten.is_empty() {
            return Vec::new();
        }
        let each = self.etcd.stored.iter().enumerate();
        let all = each.flat_map(|(resource, ways)| ways.iter().map(move |sealed| (resource, sealed)));
        let nobody = |resource, sealed| self.running().all(|n| !self.reads(n, resource, sealed));
        all.filter(|(resource, sealed)| self.is_forgotten(*sealed) && nobody(*resource, *sealed)).collect()
    }

    /// An object that cannot be read can be deleted only by force; then the API server does not read it.
    pub(super) fn bury(&mut self) {
        for (resource, sealed) in self.to_bury() {
            self.etcd.stored[resource].remove(sealed);
            self.runs[resource].todo.remove(sealed);
            self.refused.orphans[resource].remove(sealed);
            self.refused.by_webhook[resource].remove(sealed);
        }
    }

    /// From now on, some object of this resource, for each way of storage, cannot be updated.
    fn refuse_updates(&mut self, kind: Kind, resource: usize) {
        let refused =
            if kind == Kind::Orphan { &mut self.refused.orphans } else { &mut self.refused.by_webhook };
        for sealed in self.etcd.stored[resource].iter() {
            refused[resource].insert(sealed);
        }
    }

    /// `prepare --join` (decision 0045): from now on the node counts. Its API server waits.
    fn register(&mut self, n: usize) {
        // A server that returned or was restored does not have the configuration in force.
        if self.servers[n].life != Life::Absent || self.running().all(|n| self.servers[n].returned) {
            return;
        }
        let zero = self.configs.values().find(|config| config.content.is_none()).cloned();
        let Some(zero) = zero else { return };
        // The newest revision that some server has loaded. If that is lost, the node cannot join.
        let stored = self.api.configs.iter().rev();
        let in_force = stored
            .map(|(revision, config)| (*revision, config.hash.clone()))
            .find(|(_, hash)| self.running().any(|n| self.servers[n].loaded.hash == *hash));
        let encrypted = self.running().any(|n| self.servers[n].loaded.content.is_some());
        let newer = self
            .running()
            .any(|n| self.api.configs.values().all(|config| config.hash != self.servers[n].loaded.hash));
        if encrypted && (in_force.is_none() || newer) {
            return;
        }
        self.servers[n] = Arc::new(Server::new(&zero, Life::Joining));
        let api = Arc::make_mut(&mut self.api);
        let (revision, hash) = in_force.map_or((Default::default(), None), |(n, hash)| (n, Some(hash)));
        let key_checks = api
            .snapshot
            .servers
            .values()
            .find_map(|view| view.agent.as_ref().map(|agent| agent.spec.key_checks.clone()));
        let spec = keyward_core::api::EncryptionNodeSpec {
            revision,
            config_hash: hash,
            preflight: None,
            key_checks: key_checks.unwrap_or_default(),
        };
        let version = api.next_version();
        let view = api.snapshot.servers.entry(NAMES[n].to_owned()).or_default();
        NAMES[n].clone_into(&mut view.name);
        view.is_node = true;
        view.agent =
            Some(keyward_core::snapshot::AgentView { spec, status: None, resource_version: version });
        *api.generations.entry(NAMES[n].to_owned()).or_default() += 1;
        Arc::make_mut(&mut self.books).left[n] = false;
    }

    /// Whether a node can return: it has left, and its agent can prevent its API server from writing what
    /// nobody can read. With local keys, or in plain text, the API server writes as soon as it has started,
    /// and the agent cannot prevent it; nor with a KMS key that the newest revision has for another resource
    /// only.
    pub(crate) fn may_return(&self, n: usize) -> bool {
        let Some(file) = self.file(n) else { return false };
        let newest = self.books.latest.as_ref().map(|(_, config)| config);
        let is_kept_away = |resource: usize| match file.writer(resource) {
            Provider::Kms(id) => newest.is_none_or(|newest| {
                !newest.kms.contains(&id) || newest.providers(resource).contains(&Provider::Kms(id))
            }),
            Provider::Identity => !self.books.encrypted[resource],
            _ => false,
        };
        self.books.left[n]
            && self.servers[n].life == Life::Down
            && self.running().next().is_some()
            && (0..RESOURCES.len()).all(is_kept_away)
    }

    fn return_node(&mut self, n: usize) {
        if !self.may_return(n) {
            return;
        }
        let api = Arc::make_mut(&mut self.api);
        let view = api.snapshot.servers.entry(NAMES[n].to_owned()).or_default();
        NAMES[n].clone_into(&mut view.name);
        view.is_node = true;
        Arc::make_mut(&mut self.books).left[n] = false;
        self.reboot(n);
        self.server_mut(n).returned = true;
    }

    /// Whether a machine can be restored without further loss: the operator knows its node, and another API
    /// server has the configuration in force.
    pub(crate) fn may_be_restored(&self, n: usize) -> bool {
        let known = self.api.snapshot.servers.get(NAMES[n]).is_some_and(|view| view.status().is_some());
        let mut others = self.running().filter(|other| *other != n && !self.servers[*other].returned);
        known && self.servers[n].life == Life::Up && others.next().is_some()
    }

    /// The disk is as it was after `prepare`, and the machine boots. Its objects in the API stay.
    fn restore(&mut self, n: usize) {
        let zero = self.configs.values().find(|config| config.content.is_none()).cloned();
        let Some(zero) = zero.filter(|_| self.may_be_restored(n)) else { return };
        self.under_way(n);
        self.servers[n] = Arc::new(Server::new(&zero, Life::Down));
        self.start_server(n);
        let server = self.server_mut(n);
        (server.disturbed, server.returned, server.unreported) = (true, true, true);
    }

    /// Deletes a node's objects: the EncryptionNode, and with `node` the Node too.
    fn leave(&mut self, n: usize, node: bool) {
        let api = Arc::make_mut(&mut self.api);
        let Some(view) = api.snapshot.servers.get_mut(NAMES[n]) else { return };
        view.agent = None;
        if node {
            view.is_node = false;
            Arc::make_mut(&mut self.books).left[n] = true;
        }
        let gone = !view.is_node && !view.has_lease;
        if gone {
            api.snapshot.servers.remove(NAMES[n]);
        }
    }
}
