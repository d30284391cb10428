//! The candidate of a preflight: how it is started, what is reported, and how long it stays.

use rstest::rstest;

use super::machine::{Memory, settle};
use super::rules::{at_rest, failing, kinds, reason, settled, spec};
use super::*;
use crate::api::PreflightResult;
use crate::provider::{EnvVar, KeyRef, ReferenceKind};

/// A candidate for key 2 is requested beside revision 1.
fn candidate(record: PluginRecord) -> Observed {
    let mut observed = at_rest();
    let hash = record.digest(KeyId(2)).unwrap();
    spec(&mut observed).preflight =
        Some(PreflightRequest { key_id: KeyId(2), hash, purpose: PreflightPurpose::NewKey, key_check: None });
    observed.candidate = Some(Ok(Arc::new([(KeyId(2), record)].into())));
    observed
}

#[test]
fn candidate_starts_beside_the_serving_plugins() {
    let decision = next(&candidate(record("c")));
    assert_eq!(kinds(&decision), ["WriteFiles", "MakeFolder", "WritePod"]);
    let report = decision.report.unwrap();
    assert_eq!(report.preflight.map(|answer| answer.result), Some(PreflightResult::Running));
    assert_eq!(report.revision, Revision(1));
}

/// A plugin may try its KMS for long before it exits; its log shows why long before.
#[test]
fn log_of_a_candidate_is_reported_while_it_starts() {
    let mut observed = candidate(record("c"));
    let running =
        OnDisk { pod: true, files: true, folder: true, trial: true, tries: 1, ..Default::default() };
    observed.disk.instances.insert(instance(2, "c"), running);
    let asks = next(&observed).asks;
    let mut failing = failing("start", 6, false);
    let reported = |failing: &Failing, observed: &mut Observed| {
        let probed = Probed {
            question: asks[&instance(2, "c")].question.clone(),
            age: seconds(6),
            pass: None,
            last: None,
            failing: Some(failing.clone()),
            earlier: None,
            attempts: 0,
        };
        observed.probes.insert(instance(2, "c"), probed);
        let answer = next(observed).report.unwrap().preflight.unwrap();
        assert_eq!(answer.result, PreflightResult::Running);
        answer.failure.map(|failure| failure.log_tail)
    };
    assert_eq!(reported(&failing, &mut observed), None);
    failing.failure.log_tail.push("not logged in yet".into());
    assert_eq!(reported(&failing, &mut observed), Some(vec!["not logged in yet".to_owned()]));
}

#[test]
fn candidate_with_a_secret_in_its_environment_is_not_started() {
    let mut record = record("c");
    let source = KeyRef { kind: ReferenceKind::Secret, name: "login".into(), key: "token".into() };
    record.referenced.insert(source.clone(), SecretBytes::from(b"s3cr3t".as_slice()));
    if let Some(AcceptedPlugin { template: Plugin::Managed(container), .. }) = &mut record.accepted {
        container.env.push(EnvVar { name: "TOKEN".into(), value: vec![Part::Value(source)] });
    }
    let decision = next(&candidate(record));
    assert_eq!(kinds(&decision), Vec::<&str>::new());
    let answer = decision.report.unwrap().preflight.unwrap();
    assert_eq!(answer.result, PreflightResult::Failed);
    let message = answer.failure.unwrap().message;
    assert!(message.contains("environment variable TOKEN") && message.contains("secret login"), "{message}");
    assert!(!message.contains("s3cr3t"));
}

#[rstest]
#[case::unreadable(Some(Err(Unusable::Unreadable("timeout".into()))), PreflightResult::Running)]
#[case::older_than_the_request(Some(Ok(Arc::new([(KeyId(2), record("older"))].into()))), PreflightResult::Running)]
#[case::of_another_key(Some(Ok(Arc::new([(KeyId(3), record("c"))].into()))), PreflightResult::Running)]
#[case::broken(Some(Err(Unusable::Invalid("not a plugin".into()))), PreflightResult::Failed)]
fn candidate_that_cannot_be_read_starts_nothing(
    #[case] found: Option<Result<Arc<BTreeMap<KeyId, PluginRecord>>, Unusable>>,
    #[case] expected: PreflightResult,
) {
    let mut observed = candidate(record("c"));
    observed.candidate = found;
    let running = OnDisk { pod: true, files: true, folder: true, ..Default::default() };
    observed.disk.instances.insert(instance(2, "c"), running);
    let decision = next(&observed);
    assert_eq!(kinds(&decision), Vec::<&str>::new(), "what runs for the request continues");
    assert_eq!(decision.report.unwrap().preflight.map(|answer| answer.result), Some(expected));
}

#[test]
fn success_of_a_preflight_stays_and_covers_the_key_check_that_it_made() {
    let mut memory = Memory::default();
    let mut machine = settled(&mut memory);
    machine.candidate = Some((KeyId(2), record("c")));
    let mut asked = machine.spec.clone().unwrap().spec;
    asked.preflight = Some(request(2, "c", None));
    machine.ask(asked.clone());
    let decision = settle(&mut machine, &mut memory, &mut None);
    let first = decision.report.unwrap().preflight.unwrap();
    assert_eq!((first.result, first.attempts), (PreflightResult::Succeeded, 1));

    // Its KMS fails, the agent restarts, the operator sends the key check to all nodes: the answer stays.
    machine.plugins.insert(instance(2, "c"), Err("sealed".into()));
    for key_check in [None, first.key_check.clone()] {
        asked.preflight = Some(request(2, "c", key_check));
        machine.ask(asked.clone());
        let decision = settle(&mut machine, &mut Memory::default(), &mut None);
        assert_eq!(decision.report.unwrap().preflight.as_ref(), Some(&first));
    }
    // Another key check is another question.
    asked.preflight = Some(request(2, "c", Some(key_check("kek-2"))));
    machine.ask(asked.clone());
    let decision = settle(&mut machine, &mut memory, &mut None);
    let second = decision.report.unwrap().preflight.unwrap();
    assert_eq!(second.result, PreflightResult::Failed);
    assert!(second.attempts > 1);
    // Once the KMS is fixed, the candidate passes without another request.
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(decision.report.unwrap().preflight.unwrap().result, PreflightResult::Succeeded);
}

#[rstest]
#[case(299, false)]
#[case(300, true)]
fn candidate_that_passed_stays_for_five_minutes(#[case] unneeded: u64, #[case] expected: bool) {
    let mut memory = Memory::default();
    let mut machine = settled(&mut memory);
    machine.candidate = Some((KeyId(2), record("c")));
    let mut asked = machine.spec.clone().unwrap().spec;
    asked.preflight = Some(request(2, "c", None));
    machine.ask(asked.clone());
    settle(&mut machine, &mut memory, &mut None);
    asked.preflight = None;
    machine.ask(asked);
    let mut observed = machine.observe(&mut memory);
    observed.unneeded.insert(instance(2, "c"), seconds(unneeded));
    assert_eq!(next(&observed).steps.contains(&Step::RemovePod(instance(2, "c"))), expected);
}

/// The numbers of a configuration are used up, a candidate's is not yet (objects: numbers).
#[test]
fn numbers_count_once_a_configuration_names_them() {
    let mut observed = candidate(record("c"));
    observed.disk.highest_key_id = KeyId(0);
    let recorded: Vec<Step> = next(&observed).steps;
    assert!(recorded.contains(&Step::RecordHighWater(KeyId(1))), "{recorded:?}");
    assert!(!recorded.contains(&Step::RecordHighWater(KeyId(2))), "{recorded:?}");
    spec(&mut observed).key_checks = vec![key_check_entry(3, "kek-3")];
    assert!(next(&observed).steps.contains(&Step::RecordHighWater(KeyId(3))));
}

#[test]
fn unprepared_node_starts_nothing() {
    let mut observed = candidate(record("c"));
    observed.server.as_mut().unwrap().loaded = None;
    let decision = next(&observed);
    assert_eq!(kinds(&decision), Vec::<&str>::new());
    assert_eq!(reason(&decision), Some("NodeNotPrepared"));
    assert_eq!(decision.report.unwrap().preflight, None);
}
