//! What an admin replaces by hand, and what is installed before the API server first starts.

use super::machine::{Machine, Memory, settle, turn};
use super::*;
use crate::formats::ReferencedData;

const KEK: &str = "kek-1";

/// Revision 1 with key 1 is installed.
fn settled(memory: &mut Memory) -> Machine {
    let mut machine = Machine::new();
    for image in ["a", "b"] {
        machine.plugins.insert(instance(1, image), Ok(KEK.into()));
    }
    let content = revision(&[(1, "a")]);
    machine.publish(1, &content);
    machine.ask(target(1, &content, &[key_check_entry(1, KEK)]));
    settle(&mut machine, memory, &mut None);
    machine
}

/// What replaces the data of revision 1, and the instance that comes of it.
fn replaced(number: u32) -> (Recovered, Instance) {
    let one = Recovered {
        key_id: KeyId(1),
        number,
        replaces: [digest(1, "a")].into(),
        values: ReferencedData::new(),
        salt: SecretBytes::new(format!("salt {number}").into_bytes()),
        withdrawn: false,
    };
    let (digest, _) = one.over(&revision(&[(1, "a")])).unwrap();
    (one, Instance::new(KeyId(1), &digest))
}

/// The credential is dead, nobody can be asked, and another one was given by hand.
fn dead(memory: &mut Memory, works: bool) -> (Machine, Instance) {
    let mut machine = settled(memory);
    machine.plugins.insert(instance(1, "a"), Err("permission denied".into()));
    machine.spec = None;
    machine.away = true;
    let (one, recovered) = replaced(1);
    let answer = if works { Ok(KEK.into()) } else { Err("permission denied".into()) };
    machine.plugins.insert(recovered.clone(), answer);
    machine.disk.recovered.push(one);
    (machine, recovered)
}

fn told(machine: &mut Machine) {
    machine.away = false;
    machine.ask(target(1, &revision(&[(1, "a")]), &[key_check_entry(1, KEK)]));
}

fn has_pod(machine: &Machine, instance: &Instance) -> bool {
    machine.disk.instances.get(instance).is_some_and(|found| found.pod)
}

#[test]
fn what_is_replaced_by_hand_serves_without_operator_or_api_and_goes_when_newer_data_come() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = dead(&mut memory, true);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(recovered.clone()));
    assert!(!has_pod(&machine, &instance(1, "a")), "what is refused is not started over and over");

    // A reboot, and another agent.
    let starts = machine.starts.len();
    memory = Memory::default();
    machine.disk.links.clear();
    machine.disk.instances.values_mut().for_each(|found| found.folder = false);
    let observed = machine.observe(&mut memory);
    for step in next(&observed).steps {
        machine.apply(&step, &observed);
    }
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(recovered.clone()));

    // The operator still knows the dead one alone.
    told(&mut machine);
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(recovered.clone()));
    assert!(machine.starts[starts..].iter().all(|(_, started)| *started != instance(1, "a")));
    let report = decision.report.unwrap();
    assert_eq!((report.revision, &report.error), (Revision(1), &None));
    let [one] = report.recovered.as_slice() else { panic!("{report:?}") };
    assert_eq!((one.key_id, Instance::new(KeyId(1), &one.digest)), (KeyId(1), recovered.clone()));

    let newer = revision(&[(1, "b")]);
    machine.publish(2, &newer);
    machine.ask(target(2, &newer, &[key_check_entry(1, KEK)]));
    let decision = settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "b")));
    assert_eq!(machine.disk.recovered, []);
    assert!(!has_pod(&machine, &recovered));
    let report = decision.report.unwrap();
    assert_eq!((report.revision, report.recovered), (Revision(2), vec![]));
}

#[test]
fn what_fails_is_withdrawn_and_stops_and_what_was_there_goes_on() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = dead(&mut memory, false);
    for _ in 0..30 {
        turn(&mut machine, &mut memory, usize::MAX);
    }
    assert!(has_pod(&machine, &recovered), "it is tried");
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    machine.disk.recovered[0].withdrawn = true;
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert!(!machine.disk.instances.contains_key(&recovered) && machine.disk.recovered.is_empty());
    assert!(has_pod(&machine, &instance(1, "a")));
}

#[test]
fn a_plugin_that_reaches_another_kek_gets_no_link_however_it_was_given() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = dead(&mut memory, true);
    machine.plugins.insert(recovered, Ok("kek-9".into()));
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
}

#[test]
fn of_two_replacements_the_later_holds_and_the_earlier_goes() {
    let mut memory = Memory::default();
    let (mut machine, first) = dead(&mut memory, true);
    settle(&mut machine, &mut memory, &mut None);
    let (two, second) = replaced(2);
    machine.plugins.insert(first.clone(), Err("permission denied".into()));
    machine.plugins.insert(second.clone(), Ok(KEK.into()));
    machine.disk.recovered.push(two);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(second.clone()));
    assert!(!has_pod(&machine, &first));
    told(&mut machine);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(second));
    let left: Vec<u32> = machine.disk.recovered.iter().map(|one| one.number).collect();
    assert_eq!(left, [2]);
}

#[test]
fn killed_between_any_two_steps_the_end_is_the_same() {
    for kill in 0..12 {
        let mut memory = Memory::default();
        let (mut machine, recovered) = dead(&mut memory, true);
        settle(&mut machine, &mut memory, &mut Some(kill));
        assert_eq!(machine.at_link(KeyId(1)), Some(recovered), "killed after {kill} steps");
        assert!(!has_pod(&machine, &instance(1, "a")), "killed after {kill} steps");
    }
}

/// A node that never had anything: its API server has not started.
fn bare() -> Machine {
    let mut machine = Machine::new();
    (machine.disk.file, machine.loaded, machine.away) = (None, None, true);
    machine
}

fn first(machine: &mut Machine, memory: &mut Memory) -> Vec<&'static str> {
    let observed = machine.observe(memory);
    let steps = first_steps(&observed).unwrap();
    for step in &steps {
        machine.apply(step, &observed);
    }
    steps.iter().map(Step::kind).collect()
}

#[test]
fn a_node_that_joins_has_the_file_first_and_a_link_only_when_its_plugin_has_passed() {
    for kek in [KEK, "kek-9"] {
        let (mut machine, mut memory) = (bare(), Memory::default());
        machine.plugins.insert(instance(1, "a"), Ok(kek.into()));
        let content = revision(&[(1, "a")]);
        machine.publish(1, &content);
        machine.ask(target(1, &content, &[key_check_entry(1, KEK)]));
        let kinds = first(&mut machine, &mut memory);
        assert_eq!(
            kinds,
            [
                "RecordHighWater",
                "KeepKeyChecks",
                "KeepRevision",
                "WriteFiles",
                "MakeFolder",
                "WritePod",
                "RecordLoaded",
                "InstallConfiguration"
            ]
        );
        assert_eq!(machine.disk.file.as_ref().map(|file| file.hash.clone()), Some(content.hash()));
        assert_eq!(machine.at_link(KeyId(1)), None);
        // Again, as after a crash in its middle: nothing else comes of it.
        first(&mut machine, &mut memory);
        // The agent begins; nobody tells it anything.
        machine.spec = None;
        settle(&mut machine, &mut memory, &mut None);
        let expected = (kek == KEK).then(|| instance(1, "a"));
        assert_eq!(machine.at_link(KeyId(1)), expected);
        assert_eq!(machine.disk.file.as_ref().map(|file| file.hash.clone()), Some(content.hash()));
    }
}

#[test]
fn a_node_that_joins_before_there_is_a_revision_gets_the_first_file() {
    let (mut machine, mut memory) = (bare(), Memory::default());
    assert_eq!(first(&mut machine, &mut memory), ["RecordLoaded", "PutBack"]);
    // One that somebody else set up is not touched.
    machine.disk.file =
        Some(FileSeen { hash: crate::ids::ConfigHash("sha256:foreign".into()), keys: None, config: None });
    let observed = machine.observe(&mut memory);
    assert!(first_steps(&observed).is_err());
}
