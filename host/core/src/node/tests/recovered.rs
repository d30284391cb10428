//! Replacement credentials from an admin, and the steps before the API server first starts.

use super::machine::{Machine, Memory, reconcile, settle};
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

/// A replacement credential for the data of revision 1, and its instance.
fn replacement(number: u32) -> (Recovered, Instance) {
    let recovered = Recovered {
        key_id: KeyId(1),
        number,
        replaces: [digest(1, "a")].into(),
        values: ReferencedData::new(),
        salt: SecretBytes::new(format!("salt {number}").into_bytes()),
        rolled_back: false,
    };
    let (digest, _) = recovered.over(&revision(&[(1, "a")])).unwrap();
    (recovered, Instance::new(KeyId(1), &digest))
}

/// The credential does not work any more, no API server answers, and an admin gave a replacement.
fn recovering(memory: &mut Memory, works: bool) -> (Machine, Instance) {
    let mut machine = settled(memory);
    machine.plugins.insert(instance(1, "a"), Err("permission denied".into()));
    machine.spec = None;
    machine.away = true;
    let (one, recovered) = replacement(1);
    let answer = if works { Ok(KEK.into()) } else { Err("permission denied".into()) };
    machine.plugins.insert(recovered.clone(), answer);
    machine.disk.recovered.push(one);
    (machine, recovered)
}

fn api_returns(machine: &mut Machine) {
    machine.away = false;
    machine.ask(target(1, &revision(&[(1, "a")]), &[key_check_entry(1, KEK)]));
}

fn has_pod(machine: &Machine, instance: &Instance) -> bool {
    machine.disk.instances.get(instance).is_some_and(|found| found.pod)
}

#[test]
fn replacement_credential_serves_without_operator_or_api_until_newer_data_are_installed() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = recovering(&mut memory, true);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(recovered.clone()));
    assert!(!has_pod(&machine, &instance(1, "a")), "a plugin whose login is refused is not started again");

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

    // The operator still has only the old credential.
    api_returns(&mut machine);
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
fn replacement_credential_that_fails_stops_and_the_previous_plugin_stays_in_use() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = recovering(&mut memory, false);
    for _ in 0..30 {
        reconcile(&mut machine, &mut memory, usize::MAX);
    }
    assert!(has_pod(&machine, &recovered), "it is tried");
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    machine.disk.recovered[0].rolled_back = true;
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
    assert!(!machine.disk.instances.contains_key(&recovered) && machine.disk.recovered.is_empty());
    assert!(has_pod(&machine, &instance(1, "a")));
}

#[test]
fn replacement_credential_that_reaches_another_kek_gets_no_link() {
    let mut memory = Memory::default();
    let (mut machine, recovered) = recovering(&mut memory, true);
    machine.plugins.insert(recovered, Ok("kek-9".into()));
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(instance(1, "a")));
}

#[test]
fn later_of_two_replacement_credentials_is_in_force_and_the_earlier_stops() {
    let mut memory = Memory::default();
    let (mut machine, first) = recovering(&mut memory, true);
    settle(&mut machine, &mut memory, &mut None);
    let (two, second) = replacement(2);
    machine.plugins.insert(first.clone(), Err("permission denied".into()));
    machine.plugins.insert(second.clone(), Ok(KEK.into()));
    machine.disk.recovered.push(two);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(second.clone()));
    assert!(!has_pod(&machine, &first));
    api_returns(&mut machine);
    settle(&mut machine, &mut memory, &mut None);
    assert_eq!(machine.at_link(KeyId(1)), Some(second));
    let left: Vec<u32> = machine.disk.recovered.iter().map(|one| one.number).collect();
    assert_eq!(left, [2]);
}

#[test]
fn agent_that_is_killed_between_any_two_steps_still_links_the_replacement() {
    for kill in 0..12 {
        let mut memory = Memory::default();
        let (mut machine, recovered) = recovering(&mut memory, true);
        settle(&mut machine, &mut memory, &mut Some(kill));
        assert_eq!(machine.at_link(KeyId(1)), Some(recovered), "killed after {kill} steps");
        assert!(!has_pod(&machine, &instance(1, "a")), "killed after {kill} steps");
    }
}

/// A node with an empty disk: its API server has not started.
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
fn joining_node_has_the_file_first_and_a_link_only_when_its_plugin_has_passed() {
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
        // Running the steps again, as after a crash, has the same result.
        first(&mut machine, &mut memory);
        // The agent starts without a spec.
        machine.spec = None;
        settle(&mut machine, &mut memory, &mut None);
        let expected = (kek == KEK).then(|| instance(1, "a"));
        assert_eq!(machine.at_link(KeyId(1)), expected);
        assert_eq!(machine.disk.file.as_ref().map(|file| file.hash.clone()), Some(content.hash()));
    }
}

#[test]
fn node_that_joins_before_the_first_revision_gets_revision_0() {
    let (mut machine, mut memory) = (bare(), Memory::default());
    assert_eq!(first(&mut machine, &mut memory), ["RecordLoaded", "PutBack"]);
    // A file that Keyward did not write is not replaced.
    machine.disk.file =
        Some(FileSeen { hash: crate::ids::ConfigHash("sha256:foreign".into()), keys: None, config: None });
    let observed = machine.observe(&mut memory);
    assert!(first_steps(&observed).is_err());
}
