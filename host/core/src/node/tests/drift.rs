//! A configuration file that somebody edits: put back, replaced, or left alone.

use super::rules::{at_rest, kinds, reason};
use super::*;

/// The target's configuration as an admin edited it: its providers are in reverse order.
fn edited(o: &Observed) -> FileSeen {
    let mut config = o.target.clone().unwrap().unwrap().config.clone();
    config.resources[0].providers.reverse();
    FileSeen::of(&serde_json::to_vec(&config).unwrap())
}

#[test]
fn edited_file_that_is_not_loaded_is_copied_and_the_loaded_configuration_is_put_back() {
    let mut observed = at_rest();
    let file = edited(&observed);
    observed.disk.file = Some(file.clone());
    let decision = next(&observed);
    assert_eq!(kinds(&decision)[..3], ["RecordDrift", "PutAside", "PutBack"], "{:?}", decision.why);
    assert!(decision.steps.contains(&Step::PutAside(file.hash)), "{:?}", decision.steps);
    assert_eq!(reason(&decision), None);
}

#[test]
fn edited_file_that_was_loaded_is_replaced_if_the_target_reads_all_that_it_may_have_written() {
    let mut observed = at_rest();
    observed.probes.values_mut().for_each(|probed| probed.pass.as_mut().unwrap().age = seconds(1));
    let file = edited(&observed);
    observed.disk.file = Some(file.clone());
    observed.server.as_mut().unwrap().loaded = Some(file.hash.clone());
    let decision = next(&observed);
    let target = observed.spec.as_ref().unwrap().spec.revision;
    assert!(decision.steps.contains(&Step::RecordDrift(target)), "{:?}", decision.steps);
    assert!(decision.steps.contains(&Step::PutAside(file.hash.clone())), "{:?}", decision.steps);
    assert!(kinds(&decision).contains(&"InstallConfiguration"), "{:?}", decision.why);
    // The drift is reported until a later revision is in force.
    observed.disk.drift = Some(target);
    assert_eq!(next(&observed).report.unwrap().drifted, Some(target));
    let mut observed = at_rest();
    observed.disk.drift = Some(target);
    assert!(!kinds(&next(&observed)).contains(&"ForgetDrift"));
    observed.disk.drift = Some(Revision(0));
    assert!(kinds(&next(&observed)).contains(&"ForgetDrift"));
}

#[test]
fn loaded_file_with_a_provider_that_the_target_lacks_is_left_alone() {
    let mut observed = at_rest();
    let target = observed.target.clone().unwrap().unwrap();
    let mut config = target.config.clone();
    let mut own = config.resources[0].providers[0].clone();
    own.kms.as_mut().unwrap().endpoint = "unix:///somebody/elses.sock".into();
    config.resources[0].providers.insert(0, own);
    let file = FileSeen::of(&serde_json::to_vec(&config).unwrap());
    observed.disk.file = Some(file.clone());
    observed.server.as_mut().unwrap().loaded = Some(file.hash);
    let decision = next(&observed);
    assert_eq!(reason(&decision), Some("ForeignConfiguration"));
    assert!(!kinds(&decision).contains(&"InstallConfiguration"), "{:?}", decision.steps);
}

/// The file and the loaded configuration are those of revision 0, which the agent knows.
fn has_revision_zero(reported: u64) -> Observed {
    let mut observed = at_rest();
    let zero = FileSeen::of(REVISION_ZERO.as_bytes());
    observed.server.as_mut().unwrap().loaded = Some(zero.hash.clone());
    observed.disk.file = Some(zero);
    observed.spec.as_mut().unwrap().reported = Revision(reported);
    observed
}

#[test]
fn older_configuration_than_the_reported_one_is_recorded_as_drift() {
    let observed = has_revision_zero(1);
    let target = observed.spec.as_ref().unwrap().spec.revision;
    let decision = next(&observed);
    assert_eq!(decision.steps.first(), Some(&Step::RecordDrift(target)), "{:?}", decision.why);
}

#[test]
fn older_configuration_is_a_rollout_if_nothing_newer_was_reported() {
    let decision = next(&has_revision_zero(0));
    assert!(!kinds(&decision).contains(&"RecordDrift"), "{:?}", decision.steps);
    // The target has the bytes of an older revision.
    let mut observed = at_rest();
    observed.spec.as_mut().unwrap().reported = Revision(9);
    assert!(!kinds(&next(&observed)).contains(&"RecordDrift"));
}

#[test]
fn paused_agent_leaves_an_edit_alone_records_it_and_lists_its_next_steps() {
    let mut observed = at_rest();
    let file = edited(&observed);
    let loaded = observed.server.as_ref().unwrap().loaded.clone().unwrap();
    observed.disk.file = Some(file);
    let since = Some("2026-05-08T12:34:56Z".parse().unwrap());
    observed.disk.paused = Some(PauseFile { reason: "the KMS is dead".into(), since });
    let decision = next(&observed);
    assert_eq!(kinds(&decision), ["RecordDrift", "PutAside"], "{:?}", decision.why);
    let paused = decision.report.unwrap().paused.unwrap();
    assert_eq!(
        (paused.reason.as_str(), paused.since.as_deref()),
        ("the KMS is dead", Some("2026-05-08T12:34:56Z"))
    );
    assert_eq!(paused.withheld, [format!("PutBack {loaded}")]);
    // After the pause it takes exactly these steps.
    observed.disk.paused = None;
    let decision = next(&observed);
    assert!(decision.steps.iter().any(|step| step.to_string() == paused.withheld[0]), "{:?}", decision.steps);
    assert_eq!(decision.report.unwrap().paused, None);
}

#[test]
fn paused_agent_starts_stops_and_links_no_plugin_and_continues_to_probe() {
    let mut observed = at_rest();
    observed.disk.links.clear();
    observed.disk.instances.values_mut().for_each(|found| found.pod = false);
    let withheld = kinds(&next(&observed)).join(" ");
    assert!(withheld.contains("SwitchLink") && withheld.contains("WritePod"), "{withheld}");
    let asks = next(&observed).asks;
    observed.disk.paused = Some(PauseFile::default());
    let decision = next(&observed);
    assert!(decision.steps.iter().all(Step::is_record), "{:?}", decision.steps);
    assert_eq!(decision.asks.keys().collect::<Vec<_>>(), asks.keys().collect::<Vec<_>>());
    assert!(!decision.busy);
}
