//! Candidates that exit: how often they are started, and how one that passed is started to serve.

use rstest::rstest;

use super::machine::{Machine, Memory, reconcile, settle};
use super::model::answer;
use super::*;
use crate::api::PreflightResult;
use crate::provider::Failure;

/// Revision 1 with key 1 is installed; a candidate for key 2 is requested.
fn requested() -> (Machine, Memory) {
    let mut memory = Memory::default();
    let mut machine = Machine::new();
    for (key, image) in [(1, "a"), (2, "c"), (2, "d")] {
        machine.plugins.insert(instance(key, image), Ok(format!("kek-{key}")));
    }
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    settle(&mut machine, &mut memory, &mut None);
    request_candidate(&mut machine, "c");
    (machine, memory)
}

fn request_candidate(machine: &mut Machine, image: &str) {
    let mut spec = machine.spec.clone().unwrap().spec;
    spec.preflight = Some(request(2, image, None));
    machine.candidate = Some((KeyId(2), record(image)));
    machine.ask(spec);
}

fn starts(machine: &Machine, image: &str) -> Vec<u64> {
    let these = machine.starts.iter().filter(|(_, started)| *started == instance(2, image));
    these.map(|(at, _)| *at).collect()
}

/// The highest count in a KMS that counts refused logins, and forgets them after a quarter of an hour without
/// another one.
fn highest_count(logins: &[u64]) -> u32 {
    let (mut highest, mut count, mut last) = (0, 0, 0);
    for at in logins {
        count = if at - last > 15 * 60 { 1 } else { count + 1 };
        highest = highest.max(count);
        last = *at;
    }
    highest
}

/// Candidates that take turns (`controllers/key.rs`) start from the beginning each time; `slip` is the extra
/// time of a start.
#[rstest]
fn refused_candidates_that_take_turns_do_not_lock_their_role_out(#[values(0, 20, 60, 180)] slip: u64) {
    let policy = Policy::default();
    let patience = crate::controllers::LOGIN_PATIENCE.as_secs();
    let mut logins = Vec::new();
    let mut begun = 0;
    for _ in 0..20 {
        let mut at = begun;
        for tries in 1.. {
            if at >= begun + patience + slip {
                break;
            }
            logins.push(at + slip);
            at += policy.after_trial(tries).as_secs() + slip;
        }
        begun += patience + slip;
    }
    assert!(highest_count(&logins) <= 4, "locked out at the fifth: {logins:?}");
}

#[rstest]
#[case::agent_is_not_killed(u64::MAX)]
#[case::agent_is_killed_every_ten_minutes(600)]
#[case::agent_is_killed_every_seven_seconds(7)]
fn refused_candidate_does_not_lock_its_role_out(#[case] killed_each: u64) {
    let (mut machine, mut memory) = requested();
    machine.refused.insert(instance(2, "c"));
    let mut failures = 0;
    for second in 1..90 * 60 {
        if second % killed_each == 0 {
            memory = Memory::default();
        }
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        let Some(now) = decision.report.and_then(|report| report.preflight) else { continue };
        if now.result == PreflightResult::Failed {
            assert!(now.failure.is_some());
            failures += 1;
        } else if killed_each == u64::MAX {
            assert_eq!(
                (failures, now.result),
                (0, PreflightResult::Running),
                "the failure is reported until the candidate passes"
            );
        }
    }
    let logins = starts(&machine, "c");
    assert!(highest_count(&logins) <= 3, "locked out at the fifth: {logins:?}");
    if killed_each == u64::MAX {
        assert!(failures > 90 * 60 - 30 && logins.len() > 6, "the candidate is tried again: {logins:?}");
        let pauses: Vec<u64> = logins.windows(2).map(|pair| pair[1] - pair[0]).take(4).collect();
        assert!(
            pauses.iter().zip([60, 240, 960, 960]).all(|(is, least)| (least..least + 10).contains(is)),
            "{pauses:?}"
        );
    }
}

#[test]
fn fixed_candidate_passes_at_its_next_start_and_another_candidate_at_once() {
    let (mut machine, mut memory) = requested();
    machine.refused.insert(instance(2, "c"));
    for _ in 0..20 {
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    let (mut other, mut its_memory) = (machine.clone(), memory.clone());

    machine.refused.clear();
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(answer(&decision).result, PreflightResult::Succeeded);
    assert_eq!(starts(&machine, "c").len(), 2);

    let changed = other.now;
    request_candidate(&mut other, "d");
    let decision = settle(&mut other, &mut its_memory, &mut None);
    assert_eq!(answer(&decision).result, PreflightResult::Succeeded);
    assert!(starts(&other, "d")[0] - changed < 3);
    assert_eq!(starts(&other, "c").len(), 1, "it is not requested any more");
}

#[test]
fn candidate_that_passed_is_started_again_before_it_serves() {
    let (mut machine, mut memory) = requested();
    let decision = settle(&mut machine, &mut memory, &mut None);
    let made = answer(&decision).key_check.clone().unwrap();
    assert!(machine.disk.instances[&instance(2, "c")].trial);

    let content = revision(&[(1, "a"), (2, "c")]);
    machine.publish(2, &content);
    let key_checks = [key_check_entry(1, "kek-1"), KeyCheckEntry { key_id: KeyId(2), key_check: made }];
    let mut spec = target(2, &content, &key_checks);
    // The operator keeps the request until the revision is deployed.
    spec.preflight = machine.spec.clone().unwrap().spec.preflight;
    machine.ask(spec);
    let mut about = Vec::new();
    for _ in 0..60 {
        let linked = machine.at_link(KeyId(2));
        let trial = machine.disk.instances[&instance(2, "c")].trial;
        assert!(linked.is_none() || !trial, "a trial never serves");
        let (_, decision) = reconcile(&mut machine, &mut memory, usize::MAX);
        let steps = decision.steps.into_iter();
        about
            .extend(steps.filter(|step| step.to_string().contains("kms-2-")).map(|step| (machine.now, step)));
    }
    let (times, steps): (Vec<u64>, Vec<Step>) = about.into_iter().unzip();
    let c = instance(2, "c");
    let expected = [
        Step::RemovePod(c.clone()),
        Step::WritePod { instance: c.clone(), trial: false },
        Step::SwitchLink { key_id: KeyId(2), instance: c.clone() },
    ];
    assert_eq!(steps, expected);
    assert!(times[1] - times[0] >= 2, "not before the trial's process is gone: {times:?}");
    let found = &machine.disk.instances[&c];
    assert!(found.pod && !found.trial && found.tries == 0);
    assert_eq!(machine.loaded, Some(content.hash()));
    assert_eq!(machine.starts.iter().filter(|(_, started)| *started == instance(1, "a")).count(), 1);
}

#[test]
fn plugin_that_a_revision_needs_is_kept_running_by_the_kubelet() {
    let (mut machine, mut memory) = requested();
    machine.starts.clear();
    machine.refused.insert(instance(1, "b"));
    let content = revision(&[(1, "b")]);
    machine.publish(2, &content);
    machine.ask(target(2, &content, &[key_check_entry(1, "kek-1")]));
    for _ in 0..45 {
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    let found = &machine.disk.instances[&instance(1, "b")];
    assert!(found.pod && !found.trial, "a revision needs it");
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert!(machine.starts.len() > 3);
}

#[rstest]
#[case::within_its_pause("start", Some(1), 59, 1, false)]
#[case::after_its_pause("start", Some(1), 60, 1, true)]
#[case::within_the_second("start", Some(0), 239, 2, false)]
#[case::after_the_second("start", Some(0), 240, 2, true)]
#[case::within_the_last("start", Some(1), 959, 99, false)]
#[case::after_the_last("start", Some(1), 960, 99, true)]
#[case::silent_for_no_known_reason("start", None, 959, 1, false)]
#[case::silent_for_long("start", None, 960, 1, true)]
#[case::its_image_cannot_be_pulled("image", None, 9999, 1, false)]
#[case::it_answers("status", None, 9999, 1, false)]
fn trial_is_started_again_after_its_pause(
    #[case] phase: &str,
    #[case] exit_code: Option<i32>,
    #[case] since: u64,
    #[case] tries: u32,
    #[case] expected: bool,
) {
    let (mut machine, mut memory) = requested();
    machine.plugins.insert(instance(2, "c"), Err("no".to_owned()));
    reconcile(&mut machine, &mut memory, usize::MAX);
    machine.disk.instances.get_mut(&instance(2, "c")).unwrap().tries = tries;
    reconcile(&mut machine, &mut memory, usize::MAX);
    let mut observed = machine.observe(&mut memory);
    let failure = Failure { phase: phase.into(), exit_code, message: "no".into(), ..Default::default() };
    let probed = observed.probes.get_mut(&instance(2, "c")).unwrap();
    (probed.pass, probed.age) = (None, seconds(since));
    probed.failing = Some(Failing { failure, mismatch: false, since: seconds(since), times: 9 });
    let decision = next(&observed);
    let again = Step::WritePod { instance: instance(2, "c"), trial: true };
    assert_eq!(decision.steps.contains(&again), expected, "{:?}", decision.why);
    assert_eq!(answer(&decision).result, PreflightResult::Failed);
    // Once it has passed for this request, it is not started again.
    let mut settled = observed.clone();
    let request = settled.spec.as_ref().unwrap().spec.preflight.clone().unwrap();
    let mut passed = answer(&decision).clone();
    (passed.result, passed.hash, passed.failure) = (PreflightResult::Succeeded, request.hash, None);
    settled.disk.preflight = Some(passed);
    assert!(!next(&settled).steps.contains(&again));
}
