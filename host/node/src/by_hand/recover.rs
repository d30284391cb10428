//! Replaces a credential of a plugin on the node, for the case that the credential is not valid any more and
//! the API cannot deliver another one (decision 0048).
//!
//! The replacement is a record on disk, which the agent lays over the revision's data (core's
//! `node::Recovered`). If an agent runs, it continues from that record. Otherwise this command locks the disk
//! and makes the same decisions. In both cases the command watches the new plugin. It rolls the record back
//! if the plugin does not start, or if the command is interrupted before. A plugin to which the key's link
//! already leads is never rolled back.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::SecretBytes;
use keyward_core::api::KeyCheck;
use keyward_core::ids::KeyId;
use keyward_core::node::{
    Ask, Disk as Seen, Instance, Probed, Question, Recovered, Scrubber, Socket, Step, pod::CONTAINER,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::CommandSettings;
use super::drive::{Driver, Probes, blocking, read_disk};
use super::replacement::{NewFile, objects, replacement};
use crate::disk::{Disk, Recoveries};
use crate::error::AgentError;
use crate::logs;

/// The pause between two reads of the disk.
const POLL: Duration = Duration::from_millis(250);
/// The longest wait for the unneeded plugin to stop, after the new one serves or has failed.
const TIDY: Duration = Duration::from_secs(20);

/// The result of a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The instance that serves the key now.
    pub instance: String,
    /// The objects to update, so that all nodes follow.
    pub objects: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// Why it was not seen to pass its probes, though the key's link leads to it.
    pub warning: Option<String>,
}

/// Replaces these files of the key's plugin, and returns when a plugin with them serves the key. `say` gets
/// messages about the progress.
///
/// # Errors
/// The files are not the plugin's; or no plugin with them passed within `patience`, or before SIGTERM, SIGINT
/// or SIGHUP: then nothing was replaced.
pub async fn recover(
    place: &CommandSettings,
    key_id: KeyId,
    files: Vec<NewFile>,
    patience: Duration,
    say: impl Fn(&str),
) -> Result<Recovery, AgentError> {
    let began = Instant::now();
    let seen = read_disk(place).await?;
    if let Some(pause) = &seen.paused {
        let file = place.paths.paused();
        let why = format!(
            "this node is paused ({}), so no plugin is started; delete {}, and run the command again",
            pause.reason,
            file.display()
        );
        return Err(AgentError::CannotRecover { key_id, why });
    }
    let planned = replacement(&seen, key_id, &files, fresh_salt(key_id)?)?;
    drop(files);
    let objects = objects(&planned.values);
    let Some(instance) = instance_of(&planned, &seen) else {
        let why = "the revision that the API server uses is not stored on this node".to_owned();
        return Err(AgentError::CannotRecover { key_id, why });
    };
    // Before the record is written: a signal must not leave a record without a command that watches its
    // plugin.
    let stop = Stop::new().map_err(|error| AgentError::CannotRecover {
        key_id,
        why: format!("signals cannot be handled: {error}"),
    })?;
    let recoveries = Recoveries::new(place.paths.clone());
    let writer = recoveries.clone();
    let one = blocking("storing the replacement", move || writer.add(planned)).await?;
    say(&format!("starting {instance} with the new values of {}", objects.join(", ")));
    let records = seen.revisions.values().flat_map(|content| content.plugins.values());
    let recovered = seen.recovered.iter().chain([&one]).map(|one| &one.values);
    let mut probes = Probes::new(place, Scrubber::new(records).and(recovered));
    let key_check = seen.key_checks.get(&key_id).cloned();
    let mut watch = Watch { place, instance: &instance, key_check, driver: None, stop };
    let passed = watch.until_it_serves(&mut probes, began + patience, &say).await;
    let is_linked = read_disk(place).await.is_ok_and(|seen| leads_to(&instance, &seen));
    let warning = match passed {
        Ok(()) => None,
        // A link leads only to an instance that has passed. The API server may use it already, and would lose
        // the key if it stopped.
        Err(error) if is_linked => Some(match error {
            AgentError::NotRecovered { why, .. } => why,
            other => other.to_string(),
        }),
        Err(error) => {
            say("failed; the previous plugin stays in use");
            blocking("rolling the replacement back", move || recoveries.roll_back(&one)).await?;
            watch
                .tidy(&mut probes, |seen| !seen.instances.get(&instance).is_some_and(|found| found.pod))
                .await?;
            return Err(error);
        }
    };
    watch.tidy(&mut probes, |seen| no_pod_of(&one, seen)).await?;
    Ok(Recovery { instance: instance.to_string(), objects, took: began.elapsed(), warning })
}

/// The instance with the replacement, for the revision that the API server uses, else for the newest one.
fn instance_of(one: &Recovered, seen: &Seen) -> Option<Instance> {
    let file = seen.file.as_ref().map(|file| &file.hash);
    let newest = || seen.revisions.values().rev();
    let in_file = newest().filter(|content| Some(&content.hash()) == file);
    let (digest, _) = in_file.chain(newest()).find_map(|content| one.over(content))?;
    Some(Instance::new(one.key_id, &digest))
}

/// Whether the key's link leads to the instance or is about to: after a reboot the link is created from the
/// record.
fn leads_to(instance: &Instance, seen: &Seen) -> bool {
    let generation = Some(&instance.generation);
    [&seen.links, &seen.serving].iter().any(|links| links.get(&instance.key_id) == generation)
}

/// Whether the pods of the replaced instances are removed.
fn no_pod_of(one: &Recovered, seen: &Seen) -> bool {
    let replaced = |digest: &_| {
        let own = Instance::new(one.key_id, digest);
        seen.instances.get(&own).is_some_and(|found| found.pod)
    };
    !one.replaces.iter().any(replaced)
}

fn fresh_salt(key_id: KeyId) -> Result<SecretBytes, AgentError> {
    let mut salt = vec![0; 32];
    getrandom::fill(&mut salt)
        .map_err(|error| AgentError::CannotRecover { key_id, why: format!("no random bytes: {error}") })?;
    Ok(SecretBytes::new(salt))
}

/// The signals that interrupt the command. It ends only after it has rolled back a plugin that would be
/// started again and again.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Watches the new plugin.
struct Watch<'a> {
    place: &'a CommandSettings,
    instance: &'a Instance,
    key_check: Option<KeyCheck>,
    /// Set if no agent locks the disk.
    driver: Option<Driver>,
    stop: Stop,
}

impl Watch<'_> {
    async fn until_it_serves(
        &mut self,
        probes: &mut Probes,
        deadline: Instant,
        say: &impl Fn(&str),
    ) -> Result<(), AgentError> {
        let mut is_announced = false;
        loop {
            let steps = self.pass(probes).await?;
            if !is_announced {
                is_announced = true;
                say(match self.driver {
                    Some(_) => "no agent runs on this node: this command does its work",
                    None => "the agent of this node carries it out",
                });
            }
            for step in steps {
                say(&format!("done: {step}"));
            }
            let seen = read_disk(self.place).await?;
            let generation = Some(&self.instance.generation);
            let key_id = &self.instance.key_id;
            let serves = seen.links.get(key_id) == generation && seen.serving.get(key_id) == generation;
            let last = probes.prober.probed().remove(self.instance);
            let pass =
                last.as_ref().filter(|last| last.failing.is_none()).and_then(|last| last.pass.as_ref());
            if serves && pass.is_some() {
                return Ok(());
            }
            let is_linked = leads_to(self.instance, &seen);
            let timed_out = Instant::now() >= deadline;
            if let Some(error) = self.failure(last.as_ref(), probes, is_linked, timed_out).await {
                return Err(error);
            }
            // Only here, between two passes: no step is being carried out on the disk.
            tokio::select! {
                () = self.stop.requested() => {
                    return Err(self.not_recovered("the command was interrupted", Vec::new()));
                }
                () = tokio::time::sleep(POLL) => {}
                () = probes.notify.notified() => {}
            }
        }
    }

    /// One reconcile pass if no agent runs. Otherwise only the plugin is probed, in addition to the agent's
    /// probes.
    async fn pass(&mut self, probes: &mut Probes) -> Result<Vec<Step>, AgentError> {
        if self.driver.is_none() {
            let (node, paths, owner) = (self.place.node.clone(), self.place.paths.clone(), self.place.owner);
            match blocking("opening the disk", move || Disk::open(&node, paths, owner)).await {
                Ok(disk) => self.driver = Some(Driver::new(disk)),
                Err(AgentError::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(driver) = &mut self.driver else {
            let question = Question {
                socket: Socket::Generation,
                key_check: self.key_check.clone(),
                make_key_check: false,
                run: 0,
            };
            probes.run(&BTreeMap::from([(self.instance.clone(), Ask { question, urgent: false })]));
            return Ok(Vec::new());
        };
        Ok(driver.pass(self.place, probes).await?.0)
    }

    /// Why the replacement failed. `None` while its plugin may still start. The command does not wait for a
    /// process that has exited: each further start may be a refused login, and a KMS that counts those locks
    /// the role (core's `Policy::trial_first`).
    async fn failure(
        &self,
        last: Option<&Probed>,
        probes: &Probes,
        is_linked: bool,
        timed_out: bool,
    ) -> Option<AgentError> {
        let failing = last.and_then(|last| last.failing.as_ref());
        let (folder, node) = (self.place.paths.logs(), self.place.node.clone());
        let (pod, scrubber) = (self.instance.pod_name(), std::sync::Arc::clone(&probes.scrubber));
        let log = move || {
            let restarts = logs::restarts(&folder, &pod, &node, CONTAINER);
            Ok((restarts, logs::tail(&folder, &pod, &node, CONTAINER, &scrubber)))
        };
        let (restarts, tail) = blocking("reading a log", log).await.unwrap_or_default();
        let over = failing.is_some_and(|failing| {
            failing.mismatch || restarts > 0 || failing.since >= self.place.policy.start_deadline
        });
        if !timed_out && (is_linked || !over) {
            return None;
        }
        let why = match failing {
            Some(failing) if restarts > 0 && failing.failure.phase == "start" => {
                "its plugin exits".to_owned()
            }
            Some(failing) => failing.failure.message.clone(),
            None if is_linked => "its plugin serves, but was not seen to pass its probes".to_owned(),
            None if self.driver.is_some() => "its plugin was not started in time".to_owned(),
            None => "the agent of this node did not start its plugin in time; see its log".to_owned(),
        };
        Some(self.not_recovered(&why, tail))
    }

    fn not_recovered(&self, why: &str, log_tail: Vec<String>) -> AgentError {
        AgentError::NotRecovered { key_id: self.instance.key_id, why: why.to_owned(), log_tail }
    }

    /// Waits until the unneeded plugin has stopped. The command does not fail if that takes longer, or if it
    /// is interrupted again: by the record, an agent or the next command stops the plugin.
    async fn tidy(&mut self, probes: &mut Probes, done: impl Fn(&Seen) -> bool) -> Result<(), AgentError> {
        let deadline = Instant::now() + TIDY;
        while !done(&read_disk(self.place).await?) && Instant::now() < deadline {
            self.pass(probes).await?;
            tokio::select! {
                () = self.stop.requested() => return Ok(()),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        Ok(())
    }
}
