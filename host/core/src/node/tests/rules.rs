//! One rule in each test: a node at rest, or about to act, and one difference.

use rstest::rstest;

use super::machine::{Machine, Memory, reconcile, settle};
use super::*;
use crate::api::HealthStatus;
use crate::ids::ConfigHash;
use crate::provider::Failure;

/// Revision 1 with key 1 is installed, and nothing is to be done.
pub(super) fn at_rest() -> Observed {
    let mut memory = Memory::default();
    settled(&mut memory).observe(&mut memory)
}

pub(super) fn settled(memory: &mut Memory) -> Machine {
    let mut machine = Machine::new();
    machine.plugins.insert(instance(1, "a"), Ok("kek-1".into()));
    machine.plugins.insert(instance(1, "b"), Ok("kek-1".into()));
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, "kek-1")]));
    settle(&mut machine, memory, &mut None);
    machine
}

/// Revision 2 is the target; its plugins run and have passed at their links, and only the file is missing.
fn about_to_install() -> Observed {
    let mut memory = Memory::default();
    let mut machine = settled(&mut memory);
    let content = revision(&[(1, "a"), (2, "c")]);
    machine.publish(2, &content);
    machine.ask(target(2, &content, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]));
    for _ in 0..50 {
        let observed = machine.observe(&mut memory);
        if kinds(&next(&observed)).contains(&"InstallConfiguration") {
            return observed;
        }
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    panic!("nothing is installed: {:?}", next(&machine.observe(&mut memory)).why);
}

/// Revision 2's configuration is in the file and not loaded yet.
fn waiting() -> Observed {
    let mut observed = about_to_install();
    let content = observed.target.clone().unwrap().unwrap();
    let old = observed.disk.file.replace(FileSeen::of(content.bytes.expose())).unwrap();
    observed.disk.configurations.insert(old.hash.clone(), old);
    observed.file_age = Duration::ZERO;
    observed
}

pub(super) fn kinds(decision: &Decision) -> Vec<&'static str> {
    decision.steps.iter().map(Step::kind).collect()
}

pub(super) fn reason(decision: &Decision) -> Option<&str> {
    decision.report.as_ref()?.error.as_ref().map(|error| error.reason.as_str())
}

pub(super) fn spec(observed: &mut Observed) -> &mut EncryptionNodeSpec {
    &mut observed.spec.as_mut().unwrap().spec
}

fn foreign() -> FileSeen {
    FileSeen { hash: ConfigHash("sha256:foreign".into()), keys: Some([KeyId(1)].into()), config: None }
}

pub(super) fn failing(phase: &str, since: u64, mismatch: bool) -> Failing {
    let failure = Failure { phase: phase.into(), message: "no".into(), ..Default::default() };
    Failing { failure, mismatch, since: seconds(since), times: 3 }
}

#[test]
fn node_at_rest_does_nothing_and_reports_everything() {
    let observed = at_rest();
    let decision = next(&observed);
    assert_eq!((kinds(&decision), decision.busy), (vec![], false), "{:?}", decision.why);
    let report = decision.report.unwrap();
    assert_eq!((report.revision, report.error), (Revision(1), None));
    assert_eq!(report.api_server_id.as_deref(), Some("apiserver-x"));
    assert_eq!(report.loaded_hash, observed.disk.file.map(|file| file.hash));
    assert_eq!(report.highest_key_id, KeyId(1));
    let [plugin] = report.plugins.as_slice() else { panic!("{:?}", report.plugins) };
    assert_eq!((plugin.key_id, &plugin.digest, plugin.ready), (KeyId(1), &digest(1, "a"), true));
    assert_eq!(plugin.health.status, HealthStatus::Healthy);
    // The plugin never reported its remote key id.
    assert_eq!(plugin.health.remote_key_id.0, "unknown");
}

#[rstest]
#[case::no_spec(|o: &mut Observed| { o.spec = None; o.target = None; })]
#[case::target_unreadable(|o: &mut Observed| {
    spec(o).revision = Revision(9);
    o.target = Some(Err(Unusable::Unreadable("timeout".into())));
})]
#[case::target_is_another_revision(|o: &mut Observed| spec(o).config_hash = Some(ConfigHash("sha256:other".into())))]
#[case::metrics_unreadable(|o: &mut Observed| o.server = silent())]
#[case::loaded_is_unknown(|o: &mut Observed| {
    o.server.as_mut().unwrap().loaded = Some(ConfigHash("sha256:unknown".into()));
})]
#[case::file_is_foreign(|o: &mut Observed| o.disk.file = Some(FileSeen { keys: None, ..foreign() }))]
fn nothing_stops_while_anything_is_unknown(#[case] change: fn(&mut Observed)) {
    let mut observed = at_rest();
    let stray = OnDisk { pod: true, files: true, folder: true, ..Default::default() };
    observed.disk.instances.insert(instance(7, "stray"), stray.clone());
    let stops = |decision: &Decision| kinds(decision).iter().any(|kind| kind.starts_with("Remove"));
    assert!(stops(&next(&observed)), "a stray plugin stops when all is known");
    change(&mut observed);
    let decision = next(&observed);
    assert!(!stops(&decision), "{:?}", decision.why);
    assert_eq!(decision.unneeded, [].into());
}

#[rstest]
#[case::target_unreadable(|o: &mut Observed| o.target = Some(Err(Unusable::Unreadable("timeout".into()))), "TargetUnreadable")]
#[case::target_gone(|o: &mut Observed| o.target = Some(Err(Unusable::Invalid("not found".into()))), "TargetInvalid")]
#[case::of_two_revisions(|o: &mut Observed| spec(o).config_hash = Some(ConfigHash("sha256:x".into())), "TargetInvalid")]
#[case::without_plugin_data(|o: &mut Observed| {
    let target = content([1, 2].into_iter(), [(KeyId(1), record("a"))].into());
    spec(o).config_hash = Some(target.hash());
    o.target = Some(Ok(target));
}, "TargetInvalid")]
#[case::unprepared(|o: &mut Observed| o.server.as_mut().unwrap().loaded = None, "NodeNotPrepared")]
#[case::metrics_unreadable(|o: &mut Observed| o.server = silent(), "APIServerUnreadable")]
#[case::foreign(|o: &mut Observed| {
    o.server.as_mut().unwrap().loaded = Some(foreign().hash);
    o.disk.file = Some(foreign());
}, "ForeignConfiguration")]
#[case::a_server_would_refuse_it(|o: &mut Observed| {
    let mut target = (*o.target.clone().unwrap().unwrap()).clone();
    target.config.resources[0].providers[0].kms.as_mut().unwrap().timeout = "10 seconds".into();
    let target = RevisionContent::new(target.config.clone(), target.plugins.clone());
    spec(o).config_hash = Some(target.hash());
    o.target = Some(Ok(Arc::new(target)));
}, "TargetInvalid")]
#[case::failed_step(|o: &mut Observed| {
    o.failed_step = Some(StepFailure { step: "WriteFiles".into(), message: "no space".into() });
    o.server.as_mut().unwrap().loaded = Some(ConfigHash("sha256:z".into()));
    o.disk.file = Some(foreign());
}, "StepFailed")]
fn nothing_is_installed_and_the_reason_is_reported(
    #[case] change: fn(&mut Observed),
    #[case] expected: &str,
) {
    let mut observed = about_to_install();
    change(&mut observed);
    let decision = next(&observed);
    assert!(!kinds(&decision).contains(&"InstallConfiguration"), "{:?}", decision.why);
    assert_eq!(reason(&decision), Some(expected), "{:?}", decision.why);
}

#[rstest]
#[case::not_probed(|probed: &mut Probed| probed.pass = None, None, false)]
#[case::at_its_own_socket_only(|probed: &mut Probed| probed.question.socket = Socket::Generation, None, false)]
#[case::with_another_key_check(|probed: &mut Probed| probed.question.key_check = Some(key_check("other")), None, false)]
#[case::a_while_ago(|probed: &mut Probed| probed.pass.as_mut().unwrap().age = seconds(11), None, true)]
#[case::unhealthy_for_a_moment(|probed: &mut Probed| probed.failing = Some(failing("status", 1, false)), None, false)]
#[case::unhealthy(|probed: &mut Probed| probed.failing = Some(failing("encrypt", 5, false)), Some("PluginNotReady"), false)]
#[case::gone_for_a_moment(|probed: &mut Probed| { probed.age = seconds(29); probed.failing = Some(failing("start", 29, false)); }, None, false)]
#[case::gone(|probed: &mut Probed| { probed.age = seconds(30); probed.failing = Some(failing("start", 30, false)); }, Some("PluginNotReady"), false)]
#[case::another_kek(|probed: &mut Probed| probed.failing = Some(failing("key-check", 0, true)), Some("KEKMismatch"), false)]
fn configuration_waits_until_its_plugins_pass(
    #[case] change: fn(&mut Probed),
    #[case] expected: Option<&str>,
    #[case] urgent: bool,
    #[values((1, "a"), (2, "c"))] which: (u64, &str),
) {
    let mut observed = about_to_install();
    let instance = instance(which.0, which.1);
    change(observed.probes.get_mut(&instance).unwrap());
    let decision = next(&observed);
    assert!(!kinds(&decision).contains(&"InstallConfiguration"), "{:?}", decision.why);
    assert_eq!(reason(&decision), expected, "{:?}", decision.why);
    assert_eq!(decision.asks[&instance].urgent, urgent);
    assert!(decision.busy);
}

#[test]
fn link_is_not_switched_without_a_key_check() {
    let mut memory = Memory::default();
    let mut machine = settled(&mut memory);
    let content = revision(&[(1, "b")]);
    machine.publish(2, &content);
    machine.ask(target(2, &content, &[]));
    machine.disk.key_checks.clear();
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(reason(&decision), Some("KeyCheckMissing"));
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
}

#[test]
fn missing_key_check_does_not_block_a_plugin_that_already_serves() {
    let mut memory = Memory::default();
    let mut machine = settled(&mut memory);
    let content = revision(&[(1, "a"), (2, "c")]);
    machine.publish(2, &content);
    machine.ask(target(2, &content, &[key_check_entry(2, "kek-2")]));
    machine.disk.key_checks.clear();
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(decision.report.unwrap().revision, Revision(2), "{:?}", decision.why);
}

#[rstest]
#[case::just_installed(0, 0, false)]
#[case::before_the_deadline(0, 129, false)]
#[case::overdue(0, 131, true)]
#[case::a_failed_reload(1, 0, true)]
fn configuration_that_is_not_loaded_is_rolled_back(
    #[case] failed_reloads: u64,
    #[case] age: u64,
    #[case] expected: bool,
) {
    let mut observed = waiting();
    // Two providers of 10 s each: 60 + 2 × 20 + 30 s.
    observed.policy = Policy::default();
    observed.file_age = seconds(age);
    observed.server.as_mut().unwrap().failed_reloads = failed_reloads;
    let decision = next(&observed);
    let put_back = decision.steps.iter().find_map(|step| match step {
        Step::PutBack { hash, refused } => Some((hash.clone(), refused.clone().unwrap())),
        _ => None,
    });
    assert_eq!(put_back.is_some(), expected, "{:?}", decision.why);
    if let Some((hash, refused)) = put_back {
        assert_eq!(Some(hash), observed.server.unwrap().loaded);
        assert_eq!((refused.revision, refused.attempts), (Revision(2), 1));
    } else {
        assert_eq!(reason(&decision), None);
    }
}

#[test]
fn configuration_that_is_not_on_this_disk_cannot_be_put_back() {
    let mut observed = waiting();
    let reading = observed.server.as_mut().unwrap();
    reading.failed_reloads = 1;
    reading.loaded = Some(ConfigHash("sha256:unknown".into()));
    let decision = next(&observed);
    assert!(!kinds(&decision).contains(&"PutBack"));
    assert_eq!(reason(&decision), Some("ConfigurationRefused"));
}

#[rstest]
#[case::before_the_deadline(|_: &mut Observed| {}, 129, None)]
#[case::overdue(|_: &mut Observed| {}, 131, Some("ConfigurationRefused"))]
#[case::seen_loaded(|o: &mut Observed| o.disk.loaded = o.disk.file.as_ref().map(|file| file.hash.clone()), 9999, None)]
#[case::never_seen(|o: &mut Observed| o.disk.loaded = None, 9999, None)]
#[case::not_written_by_keyward(|o: &mut Observed| o.disk.file = Some(foreign()), 9999, None)]
#[case::it_runs(|o: &mut Observed| o.server = Err(Unread { why: "forbidden".into(), answers: true }), 9999, None)]
fn last_loaded_configuration_is_put_back_while_the_server_does_not_answer(
    #[case] change: fn(&mut Observed),
    #[case] age: u64,
    #[case] expected: Option<&str>,
    #[values(false, true)] with_spec: bool,
) {
    let mut observed = waiting();
    observed.policy = Policy::default();
    observed.server = silent();
    observed.file_age = seconds(age);
    change(&mut observed);
    if !with_spec {
        (observed.spec, observed.target) = (None, None);
    }
    let before = revision(&[(1, "a")]).hash();
    observed.disk.revisions.insert(Revision(2), revision(&[(1, "a"), (2, "c")]));
    let decision = next(&observed);
    let put_back = decision.steps.iter().find_map(|step| match step {
        Step::PutBack { hash, refused } => {
            Some((hash.clone(), refused.as_ref().map(|refused| refused.revision)))
        }
        _ => None,
    });
    assert_eq!(put_back, expected.map(|_| (before, Some(Revision(2)))), "{:?}", decision.why);
    // In every case nothing is installed and no plugin stops while the server does not answer.
    let kinds = kinds(&decision);
    assert!(!kinds.iter().any(|kind| kind.starts_with("Install") || kind.starts_with("Remove")), "{kinds:?}");
}

#[test]
fn missing_file_is_put_back_while_the_server_does_not_answer() {
    let mut observed = at_rest();
    observed.server = silent();
    observed.disk.file = None;
    let expected = Step::PutBack { hash: revision(&[(1, "a")]).hash(), refused: None };
    assert_eq!(next(&observed).steps, [expected]);
}

#[test]
fn loaded_configuration_is_recorded_before_another_is_installed() {
    let mut observed = about_to_install();
    observed.disk.loaded = None;
    let decision = next(&observed);
    let at = |kind| kinds(&decision).iter().position(|found| *found == kind);
    assert!(at("RecordLoaded").unwrap() < at("InstallConfiguration").unwrap(), "{:?}", decision.steps);
}

#[test]
fn foreign_configuration_is_not_replaced() {
    let mut observed = at_rest();
    observed.disk.file = Some(foreign());
    observed.file_age = seconds(3600);
    observed.server.as_mut().unwrap().failed_reloads = 9;
    let decision = next(&observed);
    assert_eq!(kinds(&decision), ["RecordDrift"]);
    assert_eq!(reason(&decision), Some("ForeignConfiguration"));
}

#[test]
fn missing_file_is_installed_again_or_put_back() {
    let mut observed = at_rest();
    observed.disk.file = None;
    observed.probes.values_mut().for_each(|probed| probed.pass.as_mut().unwrap().age = seconds(1));
    assert_eq!(kinds(&next(&observed)), ["InstallConfiguration"]);
    observed.spec = None;
    observed.target = None;
    assert_eq!(kinds(&next(&observed)), ["PutBack"]);
}

#[rstest]
#[case::for_another_revision(Revision(1), 0, true)]
#[case::just_now(Revision(2), 0, false)]
#[case::before_its_pause(Revision(2), 59, false)]
#[case::after_its_pause(Revision(2), 60, true)]
fn refused_configuration_waits_for_its_pause(
    #[case] revision: Revision,
    #[case] elapsed: u64,
    #[case] expected: bool,
) {
    let mut observed = about_to_install();
    let hash = ConfigHash("sha256:refused".into());
    observed.disk.refusal = Some(Refusal { revision, hash, attempts: 2, elapsed: seconds(elapsed) });
    let decision = next(&observed);
    assert_eq!(kinds(&decision).contains(&"InstallConfiguration"), expected, "{:?}", decision.why);
    let error = decision.report.unwrap().error;
    assert_eq!(
        error.is_some_and(|e| e.put_back && e.reason == "ConfigurationRefused"),
        revision == Revision(2)
    );
}

#[rstest]
#[case::not_loaded(|o: &mut Observed| o.server.as_mut().unwrap().loaded = Some(ConfigHash("sha256:x".into())), 0)]
#[case::not_in_the_file(|o: &mut Observed| o.disk.file = Some(foreign()), 0)]
#[case::another_instance_serves(|o: &mut Observed| {
    o.disk.links.insert(KeyId(1), instance(1, "b").generation);
}, 0)]
#[case::its_process_is_gone(|o: &mut Observed| {
    o.probes.values_mut().for_each(|probed| probed.last.as_mut().unwrap().answered = false);
}, 0)]
#[case::its_kms_is_down(|o: &mut Observed| {
    o.probes.values_mut().for_each(|probed| {
        probed.failing = Some(failing("status", 600, false));
        probed.last.as_mut().unwrap().status = HealthStatus::Unhealthy;
    });
}, 1)]
fn revision_is_reported_only_when_it_is_complete(#[case] change: fn(&mut Observed), #[case] expected: u64) {
    let mut observed = at_rest();
    change(&mut observed);
    let decision = next(&observed);
    let report = decision.report.clone().unwrap();
    assert_eq!(report.revision, Revision(expected));
    if expected == 1 {
        assert_eq!(report.error, None, "a plugin that fails later is reported by its health");
    }
}

#[test]
fn previous_revision_is_reported_until_the_next_is_loaded() {
    let mut observed = waiting();
    assert_eq!(next(&observed).report.unwrap().revision, Revision(1));
    observed.server.as_mut().unwrap().loaded = observed.disk.file.as_ref().map(|file| file.hash.clone());
    assert_eq!(next(&observed).report.unwrap().revision, Revision(2));
}

#[test]
fn nothing_is_reported_before_every_serving_plugin_was_probed() {
    let mut observed = at_rest();
    observed.probes.clear();
    let decision = next(&observed);
    assert_eq!(decision.report, None);
    assert!(decision.asks.contains_key(&instance(1, "a")));
}

#[test]
fn edited_manifest_is_restored_if_its_plugin_is_used() {
    let mut observed = at_rest();
    let edited = |o: &mut Observed, one: &Instance| {
        let found = o.disk.instances.entry(one.clone()).or_default();
        *found = OnDisk { pod: true, files: true, folder: true, edited: true, ..found.clone() };
    };
    // Nothing needs it: it is removed.
    edited(&mut observed, &instance(7, "stray"));
    assert_eq!(kinds(&next(&observed)), ["RemovePod"]);
    observed.disk.instances.remove(&instance(7, "stray"));

    edited(&mut observed, &instance(1, "a"));
    observed.disk.instances.get_mut(&instance(1, "a")).unwrap().repairs = 3;
    let decision = next(&observed);
    assert_eq!(decision.steps, [Step::WritePod { instance: instance(1, "a"), trial: false }]);
    assert_eq!(decision.report.unwrap().plugins[0].repairs, 3);

    // Its revision cannot be read: the edit is reported, and left alone.
    observed.disk.revisions.clear();
    observed.target = Some(Err(Unusable::Unreadable("timeout".into())));
    let decision = next(&observed);
    assert_eq!(kinds(&decision), Vec::<&str>::new());
    assert!(decision.why.iter().any(|why| why.contains("PluginEdited")), "{:?}", decision.why);
}

#[test]
fn replaced_plugin_stops_after_its_successor_passed_through_the_link() {
    let mut observed = at_rest();
    let old = OnDisk { pod: true, files: true, folder: true, ..Default::default() };
    observed.disk.instances.insert(instance(1, "b"), old);
    let stops = |o: &Observed| next(o).steps.contains(&Step::RemovePod(instance(1, "b")));
    assert!(stops(&observed));
    observed.probes.get_mut(&instance(1, "a")).unwrap().pass = None;
    assert!(!stops(&observed));
}

/// A trial for a key in use never served. The serving plugin may fail until an admin fixes it, while one
/// candidate after the other is tried: otherwise the remains of each trial would stay.
#[test]
fn finished_trial_is_removed_even_while_the_serving_plugin_fails() {
    let mut observed = at_rest();
    observed.probes.get_mut(&instance(1, "a")).unwrap().pass = None;
    let tried = OnDisk { pod: true, files: true, folder: true, trial: true, tries: 4, ..Default::default() };
    observed.disk.instances.insert(instance(1, "b"), tried);
    let steps = |o: &Observed| next(o).steps;
    assert!(steps(&observed).contains(&Step::RemovePod(instance(1, "b"))));
    let left = observed.disk.instances.get_mut(&instance(1, "b")).unwrap();
    (left.pod, left.trial) = (false, false);
    assert!(steps(&observed).contains(&Step::RemoveFiles(instance(1, "b"))));
}

#[rstest]
#[case(29, false)]
#[case(30, true)]
fn plugin_of_a_key_that_left_drains_before_it_stops(#[case] unneeded: u64, #[case] expected: bool) {
    let mut observed = at_rest();
    let none = revision(&[]);
    *spec(&mut observed) = target(2, &none, &[]);
    observed.disk.revisions.insert(Revision(2), none.clone());
    observed.disk.file = Some(FileSeen::of(none.bytes.expose()));
    observed.target = Some(Ok(none.clone()));
    let old = observed.server.as_mut().unwrap().loaded.replace(none.hash());
    observed.unneeded.insert(instance(1, "a"), seconds(unneeded));
    let wanted = [Step::RemoveLink(KeyId(1)), Step::RemovePod(instance(1, "a"))];
    let steps = |o: &Observed| next(o).steps;
    assert_eq!(wanted.iter().all(|step| steps(&observed).contains(step)), expected);
    // Not while the API server still has the old configuration.
    observed.server.as_mut().unwrap().loaded = old;
    assert!(!wanted.iter().any(|step| steps(&observed).contains(step)));
}

#[rstest]
#[case::listening(true, 59, false)]
#[case::still_listening(true, 60, true)]
#[case::silent(false, 0, true)]
fn files_are_removed_after_the_process_has_stopped(
    #[case] listening: bool,
    #[case] unneeded: u64,
    #[case] expected: bool,
) {
    let mut observed = at_rest();
    let found = OnDisk { files: true, folder: true, listening, ..Default::default() };
    observed.disk.instances.insert(instance(7, "old"), found);
    observed.unneeded.insert(instance(7, "old"), seconds(unneeded));
    assert_eq!(next(&observed).steps.contains(&Step::RemoveFiles(instance(7, "old"))), expected);
}
