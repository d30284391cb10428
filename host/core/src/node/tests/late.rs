//! A node that returns with a configuration that was superseded meanwhile.

use rstest::rstest;

use super::machine::{Machine, Memory, reconcile, settle};
use super::rules::{at_rest, settled};
use super::*;

/// Revision 1 with key 1 was installed here, the node was off for a long time, and boots.
fn returning(memory: &mut Memory) -> Machine {
    let mut machine = settled(memory);
    machine.disk.links.clear();
    machine.disk.instances.values_mut().for_each(|found| found.folder = false);
    (machine.away, machine.loaded) = (true, None);
    *memory = Memory::default();
    machine
}

#[test]
fn returning_node_gets_no_link_of_a_superseded_key_and_the_target_before_its_server_answers() {
    let mut memory = Memory::default();
    let mut machine = returning(&mut memory);
    let content = revision(&[(2, "c")]);
    machine.publish(3, &content);
    machine.ask(target(3, &content, &[key_check_entry(2, "kek-2")]));
    for _ in 0..60 {
        reconcile(&mut machine, &mut memory, usize::MAX);
        assert_eq!(machine.at_link(KeyId(1)), None);
    }
    assert_eq!(machine.disk.file.as_ref().map(|file| file.hash.clone()), Some(content.hash()));
    assert_eq!(machine.at_link(KeyId(2)), Some(instance(2, "c")));
    machine.restart_server();
    for _ in 0..90 {
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.loaded, Some(content.hash()));
    assert!(!machine.disk.serving.contains_key(&KeyId(1)), "no record of key 1 is left");
    assert!(!machine.disk.instances.contains_key(&instance(1, "a")));
}

/// A key that is superseded for one resource may still be in the target for another. Its link is made in the
/// reconcile pass that installs the target, and not before.
#[test]
fn key_that_the_target_has_for_another_resource_is_linked_with_the_target() {
    let mut memory = Memory::default();
    let mut machine = returning(&mut memory);
    let mut config = revision(&[(1, "a"), (2, "c")]).config.clone();
    config.resources[0].resources = Some(vec!["configmaps".into()]);
    let records = [(1, "a"), (2, "c")].map(|(key, image)| (KeyId(key), record(image)));
    let content = Arc::new(RevisionContent::new(config, records.into()));
    machine.publish(3, &content);
    machine.ask(target(3, &content, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]));
    let installed = |machine: &Machine| machine.disk.file.as_ref().is_some_and(|f| f.hash == content.hash());
    for _ in 0..60 {
        reconcile(&mut machine, &mut memory, usize::MAX);
        assert_eq!(machine.at_link(KeyId(1)).is_some(), installed(&machine));
    }
    assert!(installed(&machine));
}

#[rstest]
#[case::without_a_known_absence(None, None, true)]
#[case::another_server_has_no_such_node(Some(Absence::Elsewhere), None, false)]
#[case::perhaps_only_its_own_server_reports_it(Some(Absence::Unsure(seconds(299))), None, false)]
#[case::for_five_minutes(Some(Absence::Unsure(seconds(300))), None, true)]
#[case::no_server_answers(Some(Absence::Unread(seconds(9))), None, false)]
#[case::no_server_answers_for_ten_seconds(Some(Absence::Unread(seconds(10))), None, true)]
#[case::still_read_by_the_target(None, Some(&[(2, "c"), (1, "a")][..]), true)]
#[case::superseded(None, Some(&[(2, "c")][..]), false)]
fn link_is_restored_after_a_reboot_unless_its_key_may_be_superseded(
    #[case] absence: Option<Absence>,
    #[case] now: Option<&[(u64, &str)]>,
    #[case] expected: bool,
) {
    let mut observed = at_rest();
    observed.disk.links.clear();
    observed.absence = absence;
    let seen = observed.spec.take();
    observed.target = now.map(|plugins| Ok(revision(plugins)));
    observed.spec = observed.target.iter().flatten().next().map(|content| SeenSpec {
        spec: target(3, content, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]),
        ..seen.unwrap()
    });
    let again = Step::SwitchLink { key_id: KeyId(1), instance: instance(1, "a") };
    let decision = next(&observed);
    assert_eq!(decision.steps.contains(&again), expected, "{:?}", decision.why);
}

/// The target cannot be read before the node's own API server serves, which needs the links.
#[rstest]
#[case::the_installed_one(2, true)]
#[case::the_next(3, true)]
#[case::a_later_one(4, false)]
fn node_whose_target_became_the_next_revision_while_it_was_off_serves_at_once(
    #[case] named: u64,
    #[case] expected: bool,
) {
    let mut observed = at_rest();
    observed.disk.links.clear();
    let kept = observed.disk.revisions.pop_last().unwrap().1;
    observed.disk.revisions.insert(Revision(2), kept);
    observed.absence = Some(Absence::Unsure(seconds(1)));
    observed.target = Some(Err(Unusable::Unreadable("timeout".into())));
    observed.spec.as_mut().unwrap().spec.revision = Revision(named);
    observed.spec.as_mut().unwrap().spec.config_hash = None;
    let again = Step::SwitchLink { key_id: KeyId(1), instance: instance(1, "a") };
    let decision = next(&observed);
    assert_eq!(decision.steps.contains(&again), expected, "{:?}", decision.why);
}

/// The rollout waits for a server that is away in its middle. A server that wrote plain text before anything
/// was encrypted, and returns afterwards, gets the target while it is away.
#[rstest]
#[case::the_next_revision(1, false)]
#[case::a_later_one(2, true)]
fn superseded_plain_text_configuration_is_replaced_while_the_server_is_away(
    #[case] n: u64,
    #[case] expected: bool,
) {
    let (mut machine, mut memory) = (Machine::new(), Memory::default());
    machine.plugins.insert(instance(2, "c"), Ok("kek-2".into()));
    machine.away = true;
    let content = revision(&[(2, "c")]);
    machine.publish(n, &content);
    machine.ask(target(n, &content, &[key_check_entry(2, "kek-2")]));
    for _ in 0..60 {
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    let file = machine.disk.file.as_ref().map(|file| file.hash.clone());
    assert_eq!(file == Some(content.hash()), expected);
}

#[rstest]
#[case::in_a_rollout(&[(2, "c"), (1, "a")], true)]
#[case::superseded(&[(2, "c")], false)]
fn superseded_configuration_is_not_put_back(#[case] now: &[(u64, &str)], #[case] expected: bool) {
    let mut observed = at_rest();
    let content = revision(now);
    let old = observed.disk.file.replace(FileSeen::of(content.bytes.expose())).unwrap();
    observed.disk.configurations.insert(old.hash.clone(), old.clone());
    observed.disk.revisions.insert(Revision(3), content.clone());
    observed.spec.as_mut().unwrap().spec =
        target(3, &content, &[key_check_entry(1, "kek-1"), key_check_entry(2, "kek-2")]);
    observed.target = Some(Ok(content));
    observed.server = silent();
    observed.file_age = Duration::from_hours(1);
    let steps = next(&observed).steps;
    let back = steps.iter().any(|step| matches!(step, Step::PutBack { hash, .. } if *hash == old.hash));
    assert_eq!(back, expected, "{steps:?}");
}
