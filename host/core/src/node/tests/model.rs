//! Lives of a node: how they end, whenever its agent is killed.

use super::machine::{Machine, Memory, reconcile, settle};
use super::*;
use crate::api::{EncryptionNodeStatus, PreflightAnswer, PreflightResult};
use crate::formats::encryption_config::REVISION_ZERO;
use crate::ids::ConfigHash;

pub(super) fn status(decision: &Decision) -> &EncryptionNodeStatus {
    decision.report.as_ref().unwrap_or_else(|| panic!("no report: {:?}", decision.why))
}

pub(super) fn answer(decision: &Decision) -> &PreflightAnswer {
    status(decision).preflight.as_ref().expect("an answer")
}

/// From revision 0 to key 1, an in-place update, key 2, and key 1 gone. `kill` is counted over all of it.
fn life(mut kill: Option<usize>) -> (Machine, bool) {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    for (key, image) in [(1, "a"), (1, "b"), (2, "c")] {
        machine.plugins.insert(instance(key, image), Ok(format!("kek-{key}")));
    }
    let both = revision(&[(1, "b"), (2, "c")]);
    let steps =
        [(1, 1, "a", revision(&[(1, "a")])), (2, 1, "b", revision(&[(1, "b")])), (3, 2, "c", both.clone())];
    let mut key_checks: Vec<KeyCheckEntry> = Vec::new();
    for (n, key, image, content) in steps {
        let known =
            key_checks.iter().find(|found| found.key_id == KeyId(key)).map(|found| found.key_check.clone());
        machine.candidate = Some((KeyId(key), record(image)));
        let mut spec = machine.spec.clone().map(|seen| seen.spec).unwrap_or_default();
        spec.preflight = Some(request(key, image, known.clone()));
        machine.ask(spec);
        let decision = settle(&mut machine, &mut memory, &mut kill);
        assert_eq!(answer(&decision).result, PreflightResult::Succeeded, "{:?}", decision.why);
        let made = answer(&decision).key_check.clone().expect("the key check");
        assert_eq!(known.as_ref().unwrap_or(&made), &made);
        if known.is_none() {
            key_checks.push(KeyCheckEntry { key_id: KeyId(key), key_check: made });
        }
        machine.publish(n, &content);
        machine.ask(target(n, &content, &key_checks));
        let decision = settle(&mut machine, &mut memory, &mut kill);
        assert_eq!(status(&decision).revision, Revision(n), "{:?}", decision.why);
        assert_eq!(status(&decision).error, None);
    }
    let last = revision(&[(2, "c")]);
    machine.publish(4, &last);
    machine.ask(target(4, &last, &key_checks));
    let decision = settle(&mut machine, &mut memory, &mut kill);
    assert_eq!(status(&decision).revision, Revision(4), "{:?}", decision.why);
    (machine, kill.is_none())
}

#[test]
fn agent_that_is_killed_between_any_two_steps_reaches_the_same_end() {
    let (whole, _) = life(None);
    assert_eq!(whole.disk.links.keys().collect::<Vec<_>>(), [&KeyId(2)]);
    assert_eq!(whole.disk.instances.keys().collect::<Vec<_>>(), [&instance(2, "c")]);
    assert_eq!(whole.disk.highest_key_id, KeyId(2));
    // Revision 3 has the plugin of key 1, which is gone: the node could not return to it.
    assert_eq!(whole.disk.revisions.keys().collect::<Vec<_>>(), [&Revision(4)]);
    let mut kills = 0;
    for after in 0.. {
        let (killed, happened) = life(Some(after));
        if !happened {
            break;
        }
        kills += 1;
        let (mut a, mut b) = (whole.disk.clone(), killed.disk);
        // Which key check was made depends on when the agent was killed; that there is one does not.
        for disk in [&mut a, &mut b] {
            for key_check in disk.key_checks.values_mut() {
                key_check.ciphertext.truncate(5);
                key_check.remote_key_id.0.truncate(5);
            }
            disk.preflight.iter_mut().for_each(|answer| answer.key_check = None);
        }
        assert_eq!(a, b, "killed after {after} steps");
    }
    assert!(kills > 30, "only {kills} places to be killed at");
}

#[test]
fn node_boots_without_operator_and_api() {
    let (mut machine, _) = life(None);
    let mut memory = Memory::default();
    machine.spec = None;
    // A reboot empties the folder of the sockets.
    machine.disk.links.clear();
    machine.disk.instances.values_mut().for_each(|found| found.folder = false);
    let observed = machine.observe(&mut memory);
    let decision = next(&observed);
    let kinds: Vec<_> = decision.steps.iter().map(Step::kind).collect();
    assert_eq!(kinds, ["MakeFolder", "SwitchLink"]);
    for step in &decision.steps {
        machine.apply(step, &observed);
    }
    machine.check();
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert!(decision.report.is_none(), "there is no spec");
    assert_eq!(
        decision.asks[&instance(2, "c")].question.key_check.as_ref().map(|c| &c.ciphertext[..5]),
        Some("kek-2")
    );
}

#[test]
fn refused_configuration_is_rolled_back_and_tried_again_with_back_off() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    // The API server does not load the configuration, although the agent found its plugins healthy.
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    machine.poll = 0;
    let zero = ConfigHash::of(REVISION_ZERO.as_bytes());
    let (mut installed, mut put_back) = (Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for _ in 0..400 {
        let at = machine.now;
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        for step in &decision.steps {
            match step {
                Step::InstallConfiguration { .. } => installed.push(at),
                Step::PutBack { hash, .. } => {
                    assert_eq!(*hash, zero);
                    put_back.push(at);
                }
                _ => {}
            }
        }
        if let Some(error) = decision.report.and_then(|report| report.error) {
            errors.push((error.reason, error.put_back));
        }
    }
    // The file's age passes 0 + 20 + 30 s; the pauses are 30, 60, 120 s.
    let pauses: Vec<u64> = put_back.iter().zip(&installed[1..]).map(|(back, again)| again - back).collect();
    assert!(pauses.len() >= 2 && pauses[0] >= 30 && pauses[1] >= 60, "{installed:?} {put_back:?}");
    assert!(errors.contains(&("ConfigurationRefused".to_owned(), true)));
    while installed.len() > put_back.len() {
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        put_back.extend(decision.steps.iter().filter(|step| step.kind() == "PutBack").map(|_| machine.now));
    }
    assert_eq!(machine.disk.file.as_ref().map(|file| &file.hash), Some(&zero));

    // Another target is tried at once.
    let corrected = revision(&[(1, "a"), (2, "c")]);
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    machine.publish(2, &corrected);
    machine.ask(target(2, &corrected, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]));
    machine.poll = 3;
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).revision, Revision(2));
    assert_eq!(machine.disk.refusal, None);
}

#[test]
fn configuration_of_a_failed_reload_is_rolled_back_at_once() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    let mut back = 0;
    for _ in 0..20 {
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        if decision.steps.iter().any(|step| step.kind() == "InstallConfiguration") {
            // Its KMS fails between the agent's probe and the API server's.
            machine.plugins.insert(instance(1, "a"), Err("sealed".into()));
        }
        back += decision.steps.iter().filter(|step| step.kind() == "PutBack").count();
    }
    assert_eq!(back, 1);
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).revision, Revision(1), "{:?}", decision.why);
}

#[test]
fn in_place_candidate_of_another_kek_changes_nothing() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "wrong"), Ok("kek-9".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    let known = [key_check_entry(1, "kek-1")];
    machine.ask(target(1, &content, &known));
    settle(&mut machine, &mut memory, &mut None);

    machine.candidate = Some((KeyId(1), record("wrong")));
    let mut spec = target(1, &content, &known);
    spec.preflight = Some(request(1, "wrong", Some(key_check("kek-1"))));
    machine.ask(spec);
    let decision = settle(&mut machine, &mut memory, &mut None);
    let failure = answer(&decision).failure.clone().unwrap();
    assert_eq!((answer(&decision).result, failure.phase.as_str()), (PreflightResult::Failed, "key-check"));
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert_eq!(status(&decision).revision, Revision(1));

    // Even as a target (a bug elsewhere) it does not serve.
    let bad = revision(&[(1, "wrong")]);
    machine.publish(2, &bad);
    machine.ask(target(2, &bad, &known));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(status(&decision).error.as_ref().map(|error| error.reason.as_str()), Some("KEKMismatch"));
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert_eq!(status(&decision).revision, Revision(1));
}

#[test]
fn key_without_a_key_check_gets_one_from_its_serving_plugin() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "b"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "wrong"), Ok("kek-9".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    settle(&mut machine, &mut memory, &mut None);
    machine.disk.key_checks.clear();
    for (image, result) in [("wrong", PreflightResult::Failed), ("b", PreflightResult::Succeeded)] {
        machine.candidate = Some((KeyId(1), record(image)));
        let mut spec = target(1, &content, &[]);
        spec.preflight = Some(request(1, image, None));
        machine.ask(spec);
        let decision = settle(&mut machine, &mut memory, &mut None);
        assert_eq!(answer(&decision).result, result, "{image}");
        let made =
            answer(&decision).key_check.as_ref().is_some_and(|made| made.ciphertext.starts_with("kek-1#"));
        assert_eq!(made, result == PreflightResult::Succeeded);
    }
}

#[test]
fn external_plugins_are_only_probed() {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    let records = BTreeMap::from([(KeyId(1), external("unix:///run/other.sock"))]);
    let content = content([1].into_iter(), records.clone());
    let digest = records[&KeyId(1)].digest(KeyId(1)).unwrap();
    let instance = Instance::new(KeyId(1), &digest);
    machine.plugins.insert(instance.clone(), Ok("kek-1".into()));
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    for _ in 0..5 {
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        let kinds: Vec<_> = decision.steps.iter().map(Step::kind).collect();
        assert!(kinds.iter().all(|kind| !kind.contains("Pod") && !kind.contains("Link")), "{kinds:?}");
        assert_eq!(
            decision.asks[&instance].question.socket,
            Socket::External("unix:///run/other.sock".into())
        );
    }
    assert_eq!(machine.disk.file.map(|file| file.hash), Some(content.hash()));
}

/// Revision 1 is loaded; the API server is killed while revision 2, which it cannot load, is in its file.
fn restarted_on_a_configuration_that_it_cannot_load() -> (Machine, Memory, Arc<RevisionContent>) {
    let mut machine = Machine::new();
    let mut memory = Memory::default();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    let (good, bad) = (revision(&[(1, "a")]), revision(&[(1, "a"), (2, "c")]));
    machine.publish(1, &good);
    machine.ask(target(1, &good, &[key_check_entry(1, "kek-1")]));
    settle(&mut machine, &mut memory, &mut None);
    machine.unloadable.insert(bad.hash());
    machine.publish(2, &bad);
    machine.ask(target(2, &bad, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]));
    for _ in 0..100 {
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        if decision.steps.iter().any(|step| step.kind() == "InstallConfiguration") {
            break;
        }
    }
    assert_eq!(machine.disk.file.as_ref().map(|file| &file.hash), Some(&bad.hash()));
    // Before the agent observes that a reload failed.
    machine.restart_server();
    assert!(machine.away);
    // Without the API server the spec cannot be read.
    machine.spec = None;
    (machine, memory, good)
}

#[test]
fn server_that_cannot_start_on_its_configuration_gets_the_last_one_that_it_had_loaded() {
    for agent_restarts in [false, true] {
        let (mut machine, mut memory, good) = restarted_on_a_configuration_that_it_cannot_load();
        let began = machine.now;
        if agent_restarts {
            memory = Memory::default();
        }
        let mut back = None;
        for _ in 0..200 {
            let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
            // The kubelet starts it again and again.
            machine.restart_server();
            if decision.steps.iter().any(|step| step.kind() == "PutBack") {
                back = Some(machine.now);
            }
        }
        // 3 s poll, 40 s for its plugins, 30 s margin; not before.
        let took = back.expect("something is put back") - began;
        assert!((72..80).contains(&took), "{took}");
        assert!(!machine.away, "it serves");
        assert_eq!(machine.loaded, Some(good.hash()));
        assert_eq!(machine.disk.refusal.as_ref().map(|refusal| refusal.revision), Some(Revision(2)));
    }
}
