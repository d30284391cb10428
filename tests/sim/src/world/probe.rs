//! The results when the agent probes its plugins.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::api::HealthStatus;
use keyward_core::node::{Ask, Failing, Instance, LastProbe, Pass, Probed, Question, Socket};
use keyward_core::provider::Failure;

use super::World;
use super::kms;
use crate::mutants::Mutant;

type Answer = Result<u8, (Failure, bool)>;

impl World {
    pub(super) fn probe(&mut self, n: usize, asks: &BTreeMap<Instance, Ask>) {
        self.server_mut(n).observed.probes.retain(|instance, _| asks.contains_key(instance));
        for (instance, ask) in asks {
            let known = self.servers[n].observed.probes.get(instance);
            let same = known.is_some_and(|probed| probed.question == ask.question);
            let well = same && known.is_some_and(|p| p.pass.is_some() && p.failing.is_none());
            // While a plugin is healthy, only Status is asked, unless a step waits for the answer; the rest
            // now and then.
            let slow =
                known.and_then(|p| p.pass.as_ref()).is_none_or(|pass| pass.age.as_secs() >= super::LONG);
            let whole = !well || ask.urgent || slow;
            let answer = self.answer(n, instance, &ask.question, whole);
            let mut probed = if same { known.cloned() } else { None }.unwrap_or_else(|| {
                let earlier = known.filter(|probed| {
                    Question { run: ask.question.run, ..probed.question.clone() } == ask.question
                });
                Probed {
                    question: ask.question.clone(),
                    age: Duration::ZERO,
                    pass: None,
                    last: None,
                    failing: None,
                    earlier: earlier.and_then(|p| {
                        p.failing.as_ref().map(|failing| failing.failure.clone()).or(p.earlier.clone())
                    }),
                    attempts: earlier.map_or(0, |probed| probed.attempts),
                }
            });
            self.note(&mut probed, answer, whole);
            self.server_mut(n).observed.probes.insert(instance.clone(), probed);
        }
    }

    fn note(&mut self, probed: &mut Probed, answer: Answer, whole: bool) {
        let remote = answer.as_ref().ok().map(|kek| kms::remote_key_id(*kek, self.kms[usize::from(*kek)]));
        probed.last = Some(LastProbe {
            at: String::new(),
            status: if answer.is_ok() { HealthStatus::Healthy } else { HealthStatus::Error },
            remote_key_id: remote.clone(),
            failure: answer.as_ref().err().map(|(failure, _)| failure.clone()),
            answered: answer.as_ref().err().is_none_or(|(failure, _)| failure.phase != "start"),
        });
        match (answer, remote) {
            (Ok(kek), Some(remote_key_id)) if whole => {
                let made = probed.pass.take().and_then(|pass| pass.key_check);
                let key_check = made.or_else(|| {
                    probed.question.make_key_check.then(|| {
                        self.made += 1;
                        kms::key_check(kek, self.kms[usize::from(kek)], self.made)
                    })
                });
                probed.pass = Some(Pass {
                    age: Duration::ZERO,
                    remote_key_id,
                    latency: Duration::from_millis(2),
                    started_in: Duration::from_secs(1),
                    key_check,
                });
                (probed.failing, probed.earlier) = (None, None);
            }
            (Ok(_), _) => {}
            (Err((failure, mismatch)), _) => {
                let before = probed.failing.take();
                probed.failing = Some(Failing {
                    failure,
                    mismatch,
                    since: before.as_ref().map(|failing| failing.since).unwrap_or_default(),
                    times: before.map_or(0, |failing| failing.times).saturating_add(1),
                });
                probed.attempts = probed.attempts.saturating_add(1);
            }
        }
    }

    /// The answer of the process at a socket: the KEK that it reaches.
    fn answer(&self, n: usize, instance: &Instance, question: &Question, whole: bool) -> Answer {
        let failure = |phase: &str, message: &str| Failure {
            phase: phase.into(),
            message: message.into(),
            ..Failure::default()
        };
        let server = &self.servers[n];
        let reached = match &question.socket {
            Socket::Link => server.at_link(instance.key_id),
            Socket::Generation | Socket::External(_) => Some(instance.clone()),
        };
        let Some(process) = reached.and_then(|reached| server.process(&reached)) else {
            let ended = server.processes.get(instance).is_some_and(|process| process.ended);
            let silent = failure("start", "nobody listens");
            return Err((Failure { exit_code: ended.then_some(1), ..silent }, false));
        };
        let kms = self.kms[usize::from(process.kek)];
        if !kms.up {
            return Err((failure("status", "sealed"), false));
        }
        if !whole {
            return Ok(process.kek);
        }
        if !kms.encrypts {
            return Err((failure("encrypt", "permission denied"), false));
        }
        match question.key_check.as_ref().filter(|_| self.mutant != Some(Mutant::NoKeyCheck)) {
            Some(key_check) if !kms::decrypts(process.kek, kms, key_check) => {
                Err((failure("key-check", "another KEK"), true))
            }
            _ => Ok(process.kek),
        }
    }
}
