//! What follows directly from the observation: which plugins are needed, which keys each configuration has.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::instance::Instance;
use super::observe::{Observed, OnDisk, Pass, Probed, Question, Socket, Unusable, linked_keys};
use super::pod::{self, RenderError};
use super::recovered::{self, Recovered};
use crate::api::{KeyCheck, PreflightRequest, PreflightResult};
use crate::formats::encryption_config::{EncryptionConfiguration, zero_hash};
use crate::formats::revision::{PluginRecord, RevisionContent};
use crate::ids::{ConfigHash, KeyId, PluginDigest, Revision};
use crate::names;
use crate::provider::{Failure, Plugin as Template};

/// Why the agent cannot continue, as `status.error` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bounded label.
    pub(super) reason: &'static str,
    /// The message, for people.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// One plugin that target, configuration file or candidate needs.
#[derive(Clone, Debug)]
pub(super) struct Needed<'a> {
    pub(super) instance: Instance,
    pub(super) digest: PluginDigest,
    /// The endpoint of an external plugin.
    pub(super) external: Option<String>,
    record: Cow<'a, PluginRecord>,
    /// Computed on first use, since a pod is rendered for it.
    unfit: OnceCell<Option<RenderError>>,
}

impl<'a> Needed<'a> {
    fn of(
        key_id: KeyId,
        record: Cow<'a, PluginRecord>,
        digest: Option<PluginDigest>,
    ) -> Result<Self, String> {
        let digest = digest.ok_or_else(|| format!("the data of key {key_id} has no salt"))?;
        let accepted = record
            .accepted
            .as_ref()
            .ok_or_else(|| format!("the data of key {key_id} has no accepted rendering"))?;
        let external = match &accepted.template {
            Template::External(endpoint) => Some(endpoint.clone()),
            Template::Managed(_) => None,
        };
        let instance = Instance::new(key_id, &digest);
        Ok(Self { instance, digest, external, record, unfit: OnceCell::new() })
    }

    /// Why no pod can be made from it.
    pub(super) fn unfit(&self) -> Option<&RenderError> {
        let managed = self.external.is_none();
        let check = || if managed { pod::check(&self.instance, &self.record).err() } else { None };
        self.unfit.get_or_init(check).as_ref()
    }
}

/// A usable target.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    pub(super) revision: Revision,
    pub(super) content: &'a RevisionContent,
    pub(super) hash: ConfigHash,
    pub(super) plugins: BTreeMap<KeyId, Needed<'a>>,
}

/// The state of the candidate.
#[derive(Clone, Debug)]
pub(super) enum Candidate<'a> {
    /// Nothing is requested.
    None,
    /// It cannot be read yet.
    Waiting(String),
    /// It cannot run.
    Broken(String),
    /// It can run.
    Ready(Box<Needed<'a>>),
}

pub(super) struct View<'a> {
    pub(super) o: &'a Observed,
    pub(super) target: Option<Target<'a>>,
    pub(super) target_problem: Option<Problem>,
    pub(super) candidate: Candidate<'a>,
    /// What the configuration file needs beside the target: see [`file_plugins`].
    pub(super) file_plugins: BTreeMap<KeyId, Needed<'a>>,
    /// The hash of the configuration file.
    pub(super) file: Option<&'a ConfigHash>,
    /// The hash of the configuration that the API server has loaded.
    pub(super) loaded: Option<&'a ConfigHash>,
}

impl<'a> View<'a> {
    pub(super) fn new(o: &'a Observed) -> Self {
        let (target, target_problem) = match target(o) {
            Ok(target) => (target, None),
            Err(problem) => (None, Some(problem)),
        };
        Self {
            o,
            file_plugins: file_plugins(o, target.as_ref()),
            target,
            target_problem,
            candidate: candidate(o),
            file: o.disk.file.as_ref().map(|file| &file.hash),
            loaded: o.server.as_ref().ok().and_then(|reading| reading.loaded.as_ref()),
        }
    }

    pub(super) fn request(&self) -> Option<&'a PreflightRequest> {
        self.o.spec.as_ref()?.spec.preflight.as_ref()
    }

    /// Whether the API server runs without a configuration file: every step waits (`NodeNotPrepared`).
    pub(super) fn unprepared(&self) -> bool {
        self.o.server.as_ref().is_ok_and(|reading| reading.loaded.is_none())
    }

    /// Whether the key's link and the record both name this instance.
    pub(super) fn serves(&self, instance: &Instance) -> bool {
        let on = |map: &BTreeMap<KeyId, _>| map.get(&instance.key_id) == Some(&instance.generation);
        on(&self.o.disk.links) && on(&self.o.disk.serving)
    }

    /// Whether the link or the record names it: then the API server may use it.
    pub(super) fn may_serve(&self, instance: &Instance) -> bool {
        let on = |map: &BTreeMap<KeyId, _>| map.get(&instance.key_id) == Some(&instance.generation);
        on(&self.o.disk.links) || on(&self.o.disk.serving)
    }

    /// The instance that serves a key.
    pub(super) fn serving(&self, key_id: KeyId) -> Option<Instance> {
        let generation = self.o.disk.links.get(&key_id)?.clone();
        Some(Instance { key_id, generation }).filter(|instance| self.serves(instance))
    }

    /// The plugins that the keys' links should lead to.
    pub(super) fn to_serve(&self) -> impl Iterator<Item = (&KeyId, &Needed<'a>)> {
        let target = self.target.iter().flat_map(|target| &target.plugins);
        target.chain(&self.file_plugins)
    }

    /// The plugins that target, configuration file and candidate need, each once.
    pub(super) fn needed(&self) -> BTreeMap<Instance, &Needed<'a>> {
        let candidate = match &self.candidate {
            Candidate::Ready(needed) => Some(&**needed),
            _ => None,
        };
        let to_serve = self.to_serve().map(|(_, needed)| needed);
        to_serve.chain(candidate).map(|needed| (needed.instance.clone(), needed)).collect()
    }

    pub(super) fn is_candidate(&self, instance: &Instance) -> bool {
        matches!(&self.candidate, Candidate::Ready(needed) if needed.instance == *instance)
    }

    /// The key check of a key in use: the spec's, otherwise the last one that a spec contained.
    pub(super) fn key_check(&self, key_id: KeyId) -> Option<&'a KeyCheck> {
        let in_spec = self.o.spec.as_ref().and_then(|seen| {
            seen.spec.key_checks.iter().find(|entry| entry.key_id == key_id).map(|entry| &entry.key_check)
        });
        in_spec.or_else(|| self.o.disk.key_checks.get(&key_id))
    }

    /// The preflight that succeeded and answers the present request. A success stays.
    pub(super) fn settled(&self) -> Option<&'a crate::api::PreflightAnswer> {
        let request = self.request()?;
        let answer = self.o.disk.preflight.as_ref()?;
        let same = answer.hash == request.hash && answer.result == PreflightResult::Succeeded;
        let decrypted = request.key_check.is_none() || request.key_check == answer.key_check;
        (same && decrypted).then_some(answer)
    }

    /// The question that a probe of this instance asks now.
    pub(super) fn question(&self, instance: &Instance, external: Option<&str>) -> Question {
        let socket = match external {
            Some(endpoint) => Socket::External(endpoint.to_owned()),
            None if self.serves(instance) => Socket::Link,
            None => Socket::Generation,
        };
        let key_id = instance.key_id;
        let found = self.o.disk.instances.get(instance).filter(|found| found.trial);
        let run = found.map_or(0, |found| found.tries);
        if !self.is_candidate(instance) {
            let key_check = self.key_check(key_id);
            let make_key_check = key_check.is_none() && self.must_make_key_check(instance);
            return Question { socket, key_check: key_check.cloned(), make_key_check, run };
        }
        let asked = self.request().and_then(|request| request.key_check.as_ref());
        let made = self.settled().and_then(|answer| answer.key_check.as_ref());
        let key_check = asked.or(made).or(self.key_check(key_id)).or_else(|| self.running_key_check(key_id));
        let make_key_check = key_check.is_none() && self.running_rival(instance).is_none();
        Question { socket, key_check: key_check.cloned(), make_key_check, run }
    }

    /// A key without a key check gets one from its serving plugin, so that a candidate can be compared with
    /// it.
    fn must_make_key_check(&self, instance: &Instance) -> bool {
        matches!(&self.candidate, Candidate::Ready(candidate)
            if candidate.instance.key_id == instance.key_id && self.serves(instance))
            && self.request().is_some_and(|request| request.key_check.is_none())
            && self.settled().is_none()
    }

    fn running_key_check(&self, key_id: KeyId) -> Option<&'a KeyCheck> {
        let instance = self.serving(key_id)?;
        self.o.probes.get(&instance)?.pass.as_ref()?.key_check.as_ref()
    }

    /// The instance that serves the candidate's key, if it is another one.
    pub(super) fn running_rival(&self, candidate: &Instance) -> Option<Instance> {
        self.serving(candidate.key_id).filter(|serving| serving != candidate)
    }

    /// The probe results of an instance for its present question.
    pub(super) fn probed(&self, instance: &Instance, external: Option<&str>) -> Option<&'a Probed> {
        let question = self.question(instance, external);
        self.o.probes.get(instance).filter(|probed| probed.question == question)
    }

    /// How the previous start failed, or the last start of which anything is known.
    pub(super) fn failed_before(&self, instance: &Instance, external: Option<&str>) -> Option<&'a Failure> {
        let question = self.question(instance, external);
        let known = self.o.probes.get(instance)?;
        if known.question == question {
            return known.earlier.as_ref();
        }
        let other_start = Question { run: question.run, ..known.question.clone() } == question;
        let failing = known.failing.as_ref().filter(|_| other_start).map(|failing| &failing.failure);
        failing.or(known.earlier.as_ref().filter(|_| other_start))
    }

    /// The pass of an instance that answers the present question, unless it has failed since.
    pub(super) fn pass(&self, instance: &Instance, external: Option<&str>) -> Option<&'a Pass> {
        self.probed(instance, external).filter(|probed| probed.failing.is_none())?.pass.as_ref()
    }

    pub(super) fn on_disk(&self, instance: &Instance) -> OnDisk {
        self.o.disk.instances.get(instance).cloned().unwrap_or_default()
    }

    /// The keys whose links the configuration of this hash names; `None` if that is not known.
    pub(super) fn keys_of(&self, hash: &ConfigHash) -> Option<BTreeSet<KeyId>> {
        if hash == zero_hash() {
            return Some(BTreeSet::new());
        }
        if let Some(content) = self.content_of(hash) {
            return Some(linked_keys(&content.config));
        }
        let disk = &self.o.disk;
        let file = disk.file.iter().find(|file| file.hash == *hash);
        file.or_else(|| disk.configurations.get(hash))?.keys.clone()
    }

    /// The configuration of this hash, if its content is known.
    pub(super) fn config_of(&self, hash: &ConfigHash) -> Option<&'a EncryptionConfiguration> {
        let disk = &self.o.disk;
        let file = disk.file.iter().find(|file| file.hash == *hash).or_else(|| disk.configurations.get(hash));
        let seen = || file.and_then(|file| file.config.as_deref());
        self.content_of(hash).map(|content| &content.config).or_else(seen)
    }

    /// The revision whose configuration has this hash: the target, otherwise the newest stored one.
    pub(super) fn content_of(&self, hash: &ConfigHash) -> Option<&'a RevisionContent> {
        self.revision_of(hash).map(|(_, content)| content)
    }

    pub(super) fn revision_of(&self, hash: &ConfigHash) -> Option<(Revision, &'a RevisionContent)> {
        let target = self.target.as_ref().filter(|target| target.hash == *hash);
        target.map(|target| (target.revision, target.content)).or_else(|| {
            let mut kept = self.o.disk.revisions.iter().rev();
            kept.find(|(_, content)| content.hash() == *hash).map(|(n, content)| (*n, content.as_ref()))
        })
    }

    /// Whether a configuration is one that Keyward wrote, or once replaced with an admin's consent.
    pub(super) fn is_known(&self, hash: &ConfigHash) -> bool {
        self.can_put_back(hash) || self.content_of(hash).is_some()
    }

    /// Whether its bytes are on this disk.
    pub(super) fn can_put_back(&self, hash: &ConfigHash) -> bool {
        let disk = &self.o.disk;
        hash == zero_hash()
            || disk.configurations.contains_key(hash)
            || disk.revisions.values().any(|content| content.hash() == *hash)
    }

    /// Whether a revision is installed completely: its configuration is the file and is loaded, and every
    /// plugin of it runs with its digest.
    pub(super) fn is_complete(&self, hash: &ConfigHash, plugins: &BTreeMap<KeyId, Needed<'a>>) -> bool {
        self.file == Some(hash)
            && self.loaded == Some(hash)
            && plugins.values().all(|needed| self.is_ready(&needed.instance, needed.external.as_deref()))
    }

    /// Whether an instance passed its probes (otherwise the key's link would not lead to it) and answers.
    pub(super) fn is_ready(&self, instance: &Instance, external: Option<&str>) -> bool {
        let Some(probed) = self.o.probes.get(instance) else { return false };
        let passed = if external.is_some() { probed.pass.is_some() } else { self.serves(instance) };
        passed && probed.last.as_ref().is_some_and(|last| last.answered)
    }
}

fn target(o: &Observed) -> Result<Option<Target<'_>>, Problem> {
    let (Some(seen), Some(content)) = (&o.spec, &o.target) else { return Ok(None) };
    let revision = seen.spec.revision;
    let name = names::revision_secret(revision);
    let content = match content {
        Ok(content) => content.as_ref(),
        Err(Unusable::Unreadable(why)) => {
            return Err(Problem::new("TargetUnreadable", format!("Secret {name} cannot be read: {why}")));
        }
        Err(Unusable::Invalid(why)) => {
            return Err(Problem::new("TargetInvalid", format!("Secret {name}: {why}")));
        }
    };
    let invalid = |why: String| Problem::new("TargetInvalid", format!("Secret {name}: {why}"));
    let hash = content.hash();
    if let Some(wanted) = seen.spec.config_hash.as_ref().filter(|wanted| **wanted != hash) {
        // Spec and Secret are of two revisions (invariant: decide-from-one-revision).
        return Err(invalid(format!("its configuration has the hash {hash}, but {wanted} is expected")));
    }
    if let Some(why) = content.config.refusal() {
        return Err(invalid(format!("an API server would refuse its configuration: {why}")));
    }
    let plugins = plugins_of(content, &o.disk.recovered).map_err(invalid)?;
    Ok(Some(Target { revision, content, hash, plugins }))
}

/// The plugins that the configuration file needs, with or without a target: those with a replacement
/// credential, and those to which no link leads, on a node that was just set up. For a key that the target
/// has, the target's plugin is used.
fn file_plugins<'a>(o: &'a Observed, target: Option<&Target<'a>>) -> BTreeMap<KeyId, Needed<'a>> {
    let disk = &o.disk;
    let kept = || disk.revisions.values().rev().map(AsRef::as_ref);
    let content = disk.file.as_ref().and_then(|file| kept().find(|content| content.hash() == file.hash));
    let plugins = content.map(|content| (content, plugins_of(content, &disk.recovered).unwrap_or_default()));
    let Some((content, mut plugins)) = plugins else { return BTreeMap::new() };
    plugins.retain(|key_id, needed| {
        let led = disk.links.contains_key(key_id) || disk.serving.contains_key(key_id);
        let replaced = recovered::in_force(&disk.recovered, *key_id, content).is_some();
        let targeted = target.is_some_and(|target| target.plugins.contains_key(key_id));
        needed.external.is_none() && (replaced || !led) && !targeted
    });
    plugins
}

/// The plugins of the KMS providers in a revision, as this node runs them.
pub(super) fn plugins_of<'a>(
    content: &'a RevisionContent,
    recovered: &[Recovered],
) -> Result<BTreeMap<KeyId, Needed<'a>>, String> {
    let mut plugins = BTreeMap::new();
    for key_id in content.kms_keys() {
        let (digest, record) = recovered::effective(recovered, key_id, content)
            .ok_or_else(|| format!("there is no data for the plugin of key {key_id}"))?;
        let needed = Needed::of(key_id, record, digest)?;
        let endpoint = needed.external.clone().unwrap_or_else(|| names::endpoint(key_id));
        if let Some(other) = endpoints(content, key_id).into_iter().find(|other| **other != endpoint) {
            return Err(format!("key {key_id} has the endpoint {other}, but its plugin is at {endpoint}"));
        }
        plugins.insert(key_id, needed);
    }
    Ok(plugins)
}

fn endpoints(content: &RevisionContent, key_id: KeyId) -> Vec<&String> {
    let number = key_id.to_string();
    content
        .config
        .resources
        .iter()
        .flat_map(|entry| &entry.providers)
        .filter_map(|provider| provider.kms.as_ref())
        .filter(|kms| kms.name.split_once('_').is_some_and(|(id, _)| id == number))
        .map(|kms| &kms.endpoint)
        .collect()
}

fn candidate(o: &Observed) -> Candidate<'_> {
    let Some(request) = o.spec.as_ref().and_then(|seen| seen.spec.preflight.as_ref()) else {
        return Candidate::None;
    };
    let plugins = match &o.candidate {
        None => return Candidate::Waiting("the candidate has not been read yet".to_owned()),
        Some(Ok(plugins)) => plugins,
        Some(Err(Unusable::Unreadable(why))) => {
            return Candidate::Waiting(format!("Secret {} cannot be read: {why}", names::PREFLIGHT_SECRET));
        }
        Some(Err(Unusable::Invalid(why))) => {
            return Candidate::Broken(format!("Secret {}: {why}", names::PREFLIGHT_SECRET));
        }
    };
    // The request and the candidate are two objects: one of them may be older.
    let Some(record) = plugins.get(&request.key_id) else {
        return Candidate::Waiting(format!("there is no candidate for key {} yet", request.key_id));
    };
    match Needed::of(request.key_id, Cow::Borrowed(record), record.digest(request.key_id)) {
        Err(why) => Candidate::Broken(format!("Secret {}: {why}", names::PREFLIGHT_SECRET)),
        Ok(needed) if needed.digest != request.hash => {
            Candidate::Waiting("the candidate is not the requested one yet".to_owned())
        }
        Ok(needed) => match needed.unfit() {
            Some(why) => Candidate::Broken(why.to_string()),
            None => Candidate::Ready(Box::new(needed)),
        },
    }
}

impl Observed {
    /// The digest and data of an instance, from the target, the candidate, or a stored revision, each also
    /// with its replacement credentials.
    pub fn record<'a>(&'a self, instance: &Instance) -> Option<(PluginDigest, Cow<'a, PluginRecord>)> {
        let key_id = instance.key_id;
        let is_it = |digest: &PluginDigest| Instance::new(key_id, digest) == *instance;
        let in_revision = |content: &'a RevisionContent| {
            let own = || {
                let digest = content.digest(key_id).filter(|digest| is_it(digest))?;
                Some((digest.clone(), Cow::Borrowed(content.plugins.get(&key_id)?)))
            };
            let replaced = || {
                let recovered = self.disk.recovered.iter().filter(|found| found.key_id == key_id);
                let mut over = recovered.filter_map(|found| found.over(content));
                over.find(|(digest, _)| is_it(digest)).map(|(digest, record)| (digest, Cow::Owned(record)))
            };
            own().or_else(replaced)
        };
        let target = self.target.iter().filter_map(|target| target.as_ref().ok());
        let candidate = || {
            let record = self.candidate.as_ref()?.as_ref().ok()?.get(&key_id)?;
            Some((record.digest(key_id).filter(is_it)?, Cow::Borrowed(record)))
        };
        let kept = || self.disk.revisions.values().find_map(|content| in_revision(content));
        target.map(AsRef::as_ref).find_map(in_revision).or_else(candidate).or_else(kept)
    }
}
