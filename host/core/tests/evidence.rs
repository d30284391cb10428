//! The evidence of re-encryption: no key leaves before a verification saw every object under the write key
//! (invariant: verify-before-leaving), a failed migration is tried again for the objects that it left, and a
//! migration that nobody runs is reported.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use std::time::Duration;

use keyward_core::api::{
    EncryptionMigration, EncryptionMigrationStatus, MigrationFailure, MigrationPhase, MigrationWait, Pause,
};
use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::names;
use rstest::rstest;
use support::World;

const DEGRADED: &str = "EncryptionMigrationControllerDegraded";

fn of<'w>(world: &'w mut World, resource: &str) -> &'w mut EncryptionMigration {
    let mut migrations = world.objects.migrations.iter_mut();
    migrations.find(|migration| migration.spec.resource == resource).unwrap()
}

/// The engine reports this status for the requested attempt.
fn report(world: &mut World, resource: &str, status: EncryptionMigrationStatus) {
    let migration = of(world, resource);
    let observed_generation = migration.metadata.generation.unwrap();
    migration.status = Some(EncryptionMigrationStatus { observed_generation, ..status });
}

fn failed(objects: &[&str], count: u64, listed: bool) -> EncryptionMigrationStatus {
    let failure = |object: &&str| MigrationFailure { object: (*object).into(), message: "refused".into() };
    EncryptionMigrationStatus {
        phase: MigrationPhase::Failed,
        start_version: Some("7".into()),
        failures: objects.iter().map(failure).collect(),
        failed: count,
        listed,
        ..Default::default()
    }
}

/// Key 2 is the write key and is migrated; only missing evidence keeps key 1.
fn two_keys(first: &str, second: &str) -> World {
    let mut world = World::new(&["a"]);
    want(&mut world, first);
    world.settle();
    want(&mut world, second);
    world.settle();
    world
}

/// The verification before key 1 leaves has started, and the verification of `secrets` does not end.
fn verifying() -> World {
    let mut world = two_keys("kms/one", "kms/two");
    world.stuck = Some("secrets".into());
    world.compacted = true;
    world.reconcile();
    world
}

/// The first key is in force, and the migration of `secrets` does not end.
fn migrating() -> World {
    let mut world = World::new(&["a"]);
    world.stuck = Some("secrets".into());
    world.want("aescbc");
    while world.objects.migrations.is_empty() {
        world.run(1);
    }
    world
}

fn want(world: &mut World, what: &str) {
    match what.strip_prefix("kms/") {
        Some(kek) => world.want_kms(kek, "image:1"),
        None => world.want(what),
    }
}

#[test]
fn provider_leaves_only_after_every_object_was_looked_at_again() {
    let mut world = two_keys("kms/one", "kms/two");
    world.stuck = Some("secrets".into());
    world.compacted = true;
    world.log.clear();
    world.reconcile();
    let asked: Vec<bool> =
        ["configmaps", "secrets"].map(|resource| of(&mut world, resource).spec.verifies()).into();
    assert_eq!(asked, [true, true], "{:?}", world.kinds());
    world.run(30);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "the verification of secrets is not over");
    assert!(world.condition("Progressing").contains("Verifying"), "{}", world.condition("Progressing"));
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    assert!(world.condition("Progressing").starts_with("False"), "{}", world.condition("Progressing"));
}

#[test]
fn verification_begins_at_its_own_start_so_that_every_object_is_patched() {
    let mut world = two_keys("kms/one", "kms/two");
    let before = of(&mut world, "secrets").status.clone().unwrap();
    world.compacted = true;
    world.reconcile();
    let continues = of(&mut world, "secrets").spec.continues.clone().unwrap();
    assert_eq!((continues.start_version, continues.end_version), (None, before.end_version));
    assert!(continues.objects.is_empty(), "every object");
}

#[test]
fn verification_that_fails_keeps_the_provider_and_is_reported() {
    let mut world = verifying();
    report(&mut world, "secrets", failed(&["n/orphan"], 1, true));
    world.run(50);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    let spec = of(&mut world, "secrets").spec.clone();
    assert!(spec.verifies(), "the retry still verifies");
    assert_eq!(spec.continues.unwrap().objects, ["n/orphan"]);
    world.reconcile();
    report(&mut world, "secrets", failed(&["n/orphan"], 1, true));
    world.reconcile();
    let said = world.condition(DEGRADED);
    assert!(said.contains("n/orphan: refused"), "{said}");
}

/// For example, a plugin of an API server exits, and the agent starts it again.
fn server_is_not_at_the_revision(world: &mut World) {
    world.objects.encryption_nodes[0].status.as_mut().unwrap().revision = Revision(0);
    world.reconcile();
    assert!(!world.last.converged, "{:?}", world.last.waiting);
    world.follow();
}

/// Another operator leads, or this one has restarted.
fn operator_restarts(world: &mut World) {
    world.ages.clear();
}

/// Objects that an older write key wrote in a break are newer than the start of the attempt, so a retry would
/// skip them.
#[rstest]
#[case::server_was_not_at_the_revision(server_is_not_at_the_revision)]
#[case::nobody_watched(operator_restarts)]
fn verification_that_failed_begins_again_after_a_break(#[case] interrupt: fn(&mut World)) {
    let mut world = verifying();
    report(&mut world, "secrets", failed(&["n/orphan"], 1, true));
    world.reconcile();
    interrupt(&mut world);
    let attempt = of(&mut world, "secrets").spec.attempt;
    world.run(20);
    let spec = of(&mut world, "secrets").spec.clone();
    assert!(spec.attempt > attempt && spec.verifies(), "{spec:?}");
    let continues = spec.continues.unwrap();
    assert_eq!(continues.start_version, None, "from its own start");
    assert!(continues.objects.is_empty(), "every object");
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// The same while the attempt runs, and after it has succeeded where something else still keeps the key.
#[rstest]
#[case::running(MigrationPhase::Running)]
#[case::succeeded(MigrationPhase::Succeeded)]
fn verification_counts_only_where_the_cluster_stayed_converged(
    #[case] phase: MigrationPhase,
    #[values(server_is_not_at_the_revision, operator_restarts)] interrupt: fn(&mut World),
) {
    let mut world = verifying();
    // Now the older values are still in etcd's history.
    world.compacted = false;
    let end_version = Some("9".to_owned());
    report(&mut world, "secrets", EncryptionMigrationStatus { phase, end_version, ..Default::default() });
    world.reconcile();
    interrupt(&mut world);
    world.compacted = true;
    let attempt = of(&mut world, "secrets").spec.attempt;
    world.run(20);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
    let spec = of(&mut world, "secrets").spec.clone();
    assert!(spec.attempt > attempt && spec.verifies(), "{spec:?}");
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// A machine that was restored from a backup from before its first revision writes plain text until its agent
/// installs the target.
#[test]
fn objects_that_a_restored_machine_may_have_written_are_re_encrypted() {
    let mut world = World::new(&["a", "b"]);
    world.want("aescbc");
    world.settle();
    assert!(world.condition("Ready").starts_with("True"), "{}", world.condition("Ready"));
    let (newest, _) = world.revisions().pop().unwrap();
    let since = of(&mut world, "secrets").spec.since;
    let status = world.objects.encryption_nodes[0].status.as_mut().unwrap();
    (status.revision, status.loaded_hash) = (Revision(0), Some(ConfigHash::of(REVISION_ZERO.as_bytes())));
    world.reconcile();
    assert!(world.condition("Ready").starts_with("False"), "{}", world.condition("Ready"));
    world.settle();
    assert_eq!(world.revisions().pop().unwrap().0, newest + 1, "once");
    let spec = of(&mut world, "secrets").spec.clone();
    assert!(spec.since > since && spec.continues.is_none(), "everything is rewritten: {spec:?}");
    assert_eq!(world.config()["secrets"], "aescbc:1,identity");
    assert!(world.condition("Ready").starts_with("True"), "{}", world.condition("Ready"));
}

/// An annotation that another migrator or an admin wrote is not evidence: the engine must have checked every
/// object, twice.
#[test]
fn claim_that_somebody_else_recorded_lets_no_local_key_leave() {
    let mut world = two_keys("aescbc", "aesgcm");
    world.want("secretbox");
    world.stuck = Some("secrets".into());
    world.run(60);
    assert_eq!(world.config()["secrets"], "secretbox:3,aesgcm:2,aescbc:1,identity");
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(3));
    let secret =
        world.objects.secrets.iter_mut().find(|s| s.metadata.name.as_deref() == Some(&name)).unwrap();
    secret.metadata.annotations.as_mut().unwrap().insert(
        "encryption.apiserver.operator.openshift.io/migrated-resources".into(),
        r#"{"resources":[{"Group":"","Resource":"configmaps"},{"Group":"","Resource":"secrets"}]}"#.into(),
    );
    world.run(60);
    assert_eq!(world.config()["secrets"], "secretbox:3,aesgcm:2,aescbc:1,identity", "no verification ran");
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "secretbox:3,aesgcm:2,identity");
}

#[rstest]
#[case::all_named(&["n/a", "n/b"], 2, true, &["n/a", "n/b"])]
#[case::more_than_have_a_name(&["n/a"], 2, true, &[])]
#[case::not_everything_was_looked_at(&["n/a"], 1, false, &[])]
fn retry_is_for_what_the_attempt_left(
    #[case] objects: &[&str],
    #[case] count: u64,
    #[case] listed: bool,
    #[case] left: &[&str],
) {
    let mut world = migrating();
    report(&mut world, "secrets", failed(objects, count, listed));
    let mut pauses = Vec::new();
    for failures in 0..9 {
        let attempt = of(&mut world, "secrets").spec.attempt;
        let mut rounds = 0;
        while of(&mut world, "secrets").spec.attempt == attempt {
            world.reconcile();
            rounds += 1;
        }
        pauses.push(rounds);
        let continues = of(&mut world, "secrets").spec.continues.clone().unwrap();
        assert_eq!((continues.failures, continues.start_version.as_deref()), (failures + 1, Some("7")));
        assert_eq!(continues.objects, left, "they are all that is patched");
        report(&mut world, "secrets", failed(objects, count, listed));
    }
    // A reconcile is half a minute here; the first two see the failure.
    assert_eq!(pauses, [3, 4, 6, 10, 18, 34, 62, 62, 62], "30 s, doubling to 30 minutes");
}

/// It is 12:34:56, and the operator has just restarted.
#[rstest]
#[case::pause_is_not_over("2026-05-08T12:34:40Z", false)]
#[case::pause_is_over("2026-05-08T12:34:20Z", true)]
fn pause_before_the_next_attempt_is_reported_and_survives_a_restart(
    #[case] finished_at: &str,
    #[case] begins: bool,
) {
    let mut world = migrating();
    let finished_at = Some(finished_at.to_owned());
    report(
        &mut world,
        "secrets",
        EncryptionMigrationStatus { finished_at, ..failed(&["n/orphan"], 1, true) },
    );
    let attempt = of(&mut world, "secrets").spec.attempt;
    operator_restarts(&mut world);
    world.reconcile();
    assert_eq!(of(&mut world, "secrets").spec.attempt > attempt, begins);
    if !begins {
        let said = world.condition(DEGRADED);
        assert!(said.contains("; the next attempt begins at 2026-05-08T12:35:10Z"), "{said}");
    }
}

#[test]
fn missing_permission_and_a_list_that_fails_are_in_the_condition_with_since_when() {
    let mut world = migrating();
    let waiting = |since: &str| EncryptionMigrationStatus {
        phase: MigrationPhase::Running,
        waiting: Some(MigrationWait { since: since.into(), message: "list secrets: no answer".into() }),
        ..Default::default()
    };
    // It is 12:34:56.
    report(&mut world, "secrets", waiting("2026-05-08T12:34:30Z"));
    world.reconcile();
    assert!(world.condition(DEGRADED).starts_with("False"), "a short outage is not reported");
    let said = world.condition("Progressing");
    assert!(said.contains("has been waiting since 2026-05-08T12:34:30Z: list secrets: no answer"), "{said}");
    report(&mut world, "secrets", waiting("2026-05-08T12:30:00Z"));
    world.reconcile();
    let said = world.condition(DEGRADED);
    assert!(said.contains("has been waiting since 2026-05-08T12:30:00Z: list secrets: no answer"), "{said}");
    let refused = Some("the operator may not get secrets".to_owned());
    report(&mut world, "secrets", EncryptionMigrationStatus { refused, ..failed(&[], 0, false) });
    world.reconcile();
    assert!(world.condition(DEGRADED).contains("may not get secrets"), "{}", world.condition(DEGRADED));
}

#[test]
fn object_that_fails_is_named_while_the_run_is_under_way() {
    let mut world = migrating();
    let running = EncryptionMigrationStatus { phase: MigrationPhase::Running, ..failed(&["n/a"], 1, false) };
    report(&mut world, "secrets", running);
    world.reconcile();
    let said = world.condition("Progressing");
    assert!(said.contains("objects that are not rewritten yet: n/a: refused"), "{said}");
}

#[test]
fn failed_migration_is_reported_until_a_retry_succeeds() {
    let mut world = migrating();
    report(&mut world, "secrets", failed(&["n/orphan"], 1, true));
    let attempt = of(&mut world, "secrets").spec.attempt;
    while of(&mut world, "secrets").spec.attempt == attempt {
        world.reconcile();
    }
    for phase in [None, Some(MigrationPhase::Running)] {
        if let Some(phase) = phase {
            report(&mut world, "secrets", EncryptionMigrationStatus { phase, ..Default::default() });
        }
        world.reconcile();
        let said = world.condition(DEGRADED);
        assert!(said.starts_with("True") && said.contains("is tried again for n/orphan"), "{said}");
    }
    let phase = MigrationPhase::Succeeded;
    report(&mut world, "secrets", EncryptionMigrationStatus { phase, ..Default::default() });
    world.reconcile();
    assert!(world.condition(DEGRADED).starts_with("False"), "{}", world.condition(DEGRADED));
}

#[test]
fn migration_without_progress_for_an_hour_is_reported() {
    let mut world = migrating();
    world.reconcile();
    for age in world.ages.values_mut() {
        age.elapsed += Duration::from_mins(58);
    }
    world.reconcile();
    assert!(world.condition(DEGRADED).starts_with("False"), "{}", world.condition(DEGRADED));
    for _ in 0..4 {
        world.reconcile();
    }
    let said = world.condition(DEGRADED);
    assert!(said.contains("the migration of secrets has made no progress for 60 minutes"), "{said}");
    let progress =
        EncryptionMigrationStatus { phase: MigrationPhase::Running, done: 1, ..Default::default() };
    report(&mut world, "secrets", progress);
    world.reconcile();
    assert!(world.condition(DEGRADED).starts_with("False"), "{}", world.condition(DEGRADED));
}

#[test]
fn time_of_a_pause_is_no_time_without_progress() {
    let mut world = migrating();
    let paused = Pause { reason: "maintenance".into(), by: "admin".into() };
    world.spec().paused = Some(paused);
    world.reconcile();
    world.reconcile();
    for age in world.ages.values_mut() {
        age.elapsed += Duration::from_mins(90);
    }
    world.reconcile();
    world.spec().paused = None;
    world.reconcile();
    world.reconcile();
    assert!(world.condition(DEGRADED).starts_with("False"), "{}", world.condition(DEGRADED));
}

#[test]
fn list_that_cannot_be_decoded_is_in_the_condition_at_once() {
    let mut world = two_keys("kms/one", "kms/two");
    world.history_error = Some("unable to transform key \"/registry/secrets/n/a\"".into());
    world.reconcile();
    let said = world.condition(DEGRADED);
    assert!(said.contains("unable to transform key \"/registry/secrets/n/a\""), "{said}");
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
}
