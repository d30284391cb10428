//! A credential of a plugin died, and the API cannot give another (DESIGN.md, Decisions 12): it is replaced on the node.
//!
//! The replacement is a record on disk, which the agent lays over the revision's data (core's `node::Recovered`). Where an
//! agent holds the disk, it goes on from that record by itself; where none does, this command holds it and makes the same
//! decisions. Either way it watches the new plugin itself, and takes the record back if that does not come up, or if the
//! command is told to end before it did. What the key's link leads to already is never taken back.

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

use super::ByHand;
use super::drive::{Asking, Driver, blocking, glance};
use super::replacement::{NewFile, objects, replacement};
use crate::disk::{Disk, Recoveries};
use crate::error::AgentError;
use crate::logs;

/// From one look to the next.
const PACE: Duration = Duration::from_millis(250);
/// What is left to do once the new plugin serves, or has failed, is given so long.
const TIDY: Duration = Duration::from_secs(20);

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// What serves the key now.
    pub instance: String,
    /// The objects that are to be updated, so that all nodes follow.
    pub objects: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// Why it was not seen to serve, though the key's link leads to it.
    pub warning: Option<String>,
}

/// Replaces these files of the key's plugin, and returns when a plugin with them serves the key. `say` is told what
/// happens meanwhile.
///
/// # Errors
/// The files are not the plugin's; or no plugin with them passed within `patience`, or before SIGTERM, SIGINT or SIGHUP:
/// then nothing was replaced.
pub async fn recover(
    place: &ByHand,
    key_id: KeyId,
    files: Vec<NewFile>,
    patience: Duration,
    say: impl Fn(&str),
) -> Result<Recovery, AgentError> {
    let began = Instant::now();
    let seen = glance(place).await?;
    if let Some(pause) = &seen.paused {
        let file = place.paths.paused();
        let why = format!(
            "this node is paused ({}), so that no plugin is started here; delete {}, and run the command again",
            pause.reason,
            file.display()
        );
        return Err(AgentError::CannotRecover { key_id, why });
    }
    let planned = replacement(&seen, key_id, &files, fresh_salt(key_id)?)?;
    drop(files);
    let objects = objects(&planned.values);
    let Some(instance) = made_of(&planned, &seen) else {
        let why = "the revision that the API server reads is not kept on this node".to_owned();
        return Err(AgentError::CannotRecover { key_id, why });
    };
    // Before there is a record: a signal must not leave one behind that nobody watches.
    let stop = Stop::new().map_err(|error| AgentError::CannotRecover {
        key_id,
        why: format!("signals cannot be handled: {error}"),
    })?;
    let recoveries = Recoveries::new(place.paths.clone());
    let keep = recoveries.clone();
    let one = blocking("keeping what is replaced", move || keep.add(planned)).await?;
    say(&format!("{instance} is started with what replaces {}", objects.join(", ")));
    let records = seen.revisions.values().flat_map(|content| content.plugins.values());
    let by_hand = seen.recovered.iter().chain([&one]).map(|one| &one.values);
    let mut asking = Asking::new(place, Scrubber::new(records).and(by_hand));
    let key_check = seen.key_checks.get(&key_id).cloned();
    let mut watch = Watch { place, instance: &instance, key_check, driver: None, stop };
    let passed = watch.until_it_serves(&mut asking, began + patience, &say).await;
    let led = glance(place).await.is_ok_and(|seen| leads_to(&instance, &seen));
    let warning = match passed {
        Ok(()) => None,
        // The link is led to what has passed only. The API server may use it by now: to stop it would take the key away.
        Err(error) if led => Some(match error {
            AgentError::NotRecovered { why, .. } => why,
            other => other.to_string(),
        }),
        Err(error) => {
            say("it is given up; what was there before is left as it was");
            blocking("taking back what was replaced", move || recoveries.withdraw(&one)).await?;
            watch
                .tidy(&mut asking, |seen| !seen.instances.get(&instance).is_some_and(|found| found.pod))
                .await?;
            return Err(error);
        }
    };
    watch.tidy(&mut asking, |seen| no_pod_of(&one, seen)).await?;
    Ok(Recovery { instance: instance.to_string(), objects, took: began.elapsed(), warning })
}

/// The instance that comes of it for what the API server reads, else for the newest revision.
fn made_of(one: &Recovered, seen: &Seen) -> Option<Instance> {
    let file = seen.file.as_ref().map(|file| &file.hash);
    let newest = || seen.revisions.values().rev();
    let in_file = newest().filter(|content| Some(&content.hash()) == file);
    let (digest, _) = in_file.chain(newest()).find_map(|content| one.over(content))?;
    Some(Instance::new(one.key_id, &digest))
}

/// The key's link leads to it, or is about to: what is recorded is what a link is made by after a reboot.
fn leads_to(instance: &Instance, seen: &Seen) -> bool {
    let generation = Some(&instance.generation);
    [&seen.links, &seen.serving].iter().any(|led| led.get(&instance.key_id) == generation)
}

/// The pods of what it replaced are gone.
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

/// What tells the command to end. It goes on until nothing is left that would be started over and over.
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

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The new plugin, watched.
struct Watch<'a> {
    place: &'a ByHand,
    instance: &'a Instance,
    key_check: Option<KeyCheck>,
    /// There while no agent holds the disk.
    driver: Option<Driver>,
    stop: Stop,
}

impl Watch<'_> {
    async fn until_it_serves(
        &mut self,
        asking: &mut Asking,
        deadline: Instant,
        say: &impl Fn(&str),
    ) -> Result<(), AgentError> {
        let mut said = false;
        loop {
            let steps = self.turn(asking).await?;
            if !said {
                said = true;
                say(match self.driver {
                    Some(_) => "no agent runs here: this command does what it would do",
                    None => "the agent of this node does it",
                });
            }
            for step in steps {
                say(&format!("done: {step}"));
            }
            let seen = glance(self.place).await?;
            let generation = Some(&self.instance.generation);
            let key_id = &self.instance.key_id;
            let serves = seen.links.get(key_id) == generation && seen.serving.get(key_id) == generation;
            let probed = asking.prober.probed().remove(self.instance);
            let pass =
                probed.as_ref().filter(|probed| probed.failing.is_none()).and_then(|p| p.pass.as_ref());
            if serves && pass.is_some() {
                return Ok(());
            }
            let led = leads_to(self.instance, &seen);
            if let Some(error) = self.failure(probed.as_ref(), asking, led, Instant::now() >= deadline).await
            {
                return Err(error);
            }
            // Only here, where no step is under way on the disk.
            tokio::select! {
                () = self.stop.told() => {
                    return Err(self.not_recovered("the command was told to end", Vec::new()));
                }
                () = tokio::time::sleep(PACE) => {}
                () = asking.bell.notified() => {}
            }
        }
    }

    /// One turn in the agent's place where there is none; else the plugin is asked beside the agent.
    async fn turn(&mut self, asking: &mut Asking) -> Result<Vec<Step>, AgentError> {
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
            asking.ask(&BTreeMap::from([(self.instance.clone(), Ask { question, urgent: false })]));
            return Ok(Vec::new());
        };
        Ok(driver.turn(self.place, asking).await?.0)
    }

    /// Why it is given up; `None` while it may still come up. A process that ended is not waited for: each further start
    /// may be a refused login, and a KMS that counts those locks the role out (core's `Policy::trial_first`).
    async fn failure(
        &self,
        probed: Option<&Probed>,
        asking: &Asking,
        led: bool,
        late: bool,
    ) -> Option<AgentError> {
        let failing = probed.and_then(|probed| probed.failing.as_ref());
        let (folder, node) = (self.place.paths.logs(), self.place.node.clone());
        let (pod, scrubber) = (self.instance.pod_name(), std::sync::Arc::clone(&asking.scrubber));
        let log = move || {
            let restarts = logs::restarts(&folder, &pod, &node, CONTAINER);
            Ok((restarts, logs::tail(&folder, &pod, &node, CONTAINER, &scrubber)))
        };
        let (restarts, tail) = blocking("looking at a log", log).await.unwrap_or_default();
        let over = failing.is_some_and(|failing| {
            failing.mismatch || restarts > 0 || failing.since >= self.place.policy.start_deadline
        });
        if !late && (led || !over) {
            return None;
        }
        let why = match failing {
            Some(failing) if restarts > 0 && failing.failure.phase == "start" => {
                "its plugin ends by itself".to_owned()
            }
            Some(failing) => failing.failure.message.clone(),
            None if led => "its plugin serves, and was not seen to pass".to_owned(),
            None if self.driver.is_some() => "its plugin was not started in time".to_owned(),
            None => "the agent of this node did not start its plugin in time; see its log".to_owned(),
        };
        Some(self.not_recovered(&why, tail))
    }

    fn not_recovered(&self, why: &str, log_tail: Vec<String>) -> AgentError {
        AgentError::NotRecovered { key_id: self.instance.key_id, why: why.to_owned(), log_tail }
    }

    /// What follows: the plugin that is of no more use stops. It is no failure of this command where that takes longer, nor
    /// where it is told (again) to end: the record says what is to stop.
    async fn tidy(&mut self, asking: &mut Asking, done: impl Fn(&Seen) -> bool) -> Result<(), AgentError> {
        let deadline = Instant::now() + TIDY;
        while !done(&glance(self.place).await?) && Instant::now() < deadline {
            self.turn(asking).await?;
            tokio::select! {
                () = self.stop.told() => return Ok(()),
                () = tokio::time::sleep(PACE) => {}
            }
        }
        Ok(())
    }
}
