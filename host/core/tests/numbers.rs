//! No number of a key or of a revision is used twice, even after objects were lost or restored, and no wrong
//! mark blocks the next number (invariant: one-number-one-kek, invariant: one-revision-one-configuration).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

mod support;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::api::{
    Adopted, ClusterEncryptionStatus, EncryptionMigration, EncryptionMigrationSpec, EncryptionNodeStatus,
    KeyCheck, KeyCheckEntry, KeyStatus, NodeError, RevisionStatus,
};
use keyward_core::ids::{ConfigHash, KeyId, Mode, RemoteKeyId, Revision};
use keyward_core::names;
use keyward_core::outcome::Action;
use rstest::rstest;
use support::World;

const ABSURD: u64 = i64::MAX.unsigned_abs();

fn status(world: &mut World) -> &mut ClusterEncryptionStatus {
    world.objects.cluster_encryption.as_mut().unwrap().status.as_mut().unwrap()
}

fn agent(world: &mut World) -> &mut EncryptionNodeStatus {
    world.objects.encryption_nodes[1].status.as_mut().unwrap()
}

fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(names::NAMESPACE.to_owned()),
        resource_version: Some("1".into()),
        ..Default::default()
    };
    Secret { metadata, data: Some(data.collect()), ..Default::default() }
}

/// Key 1 is in force.
fn in_force() -> World {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("one", "example.com/kms:1");
    world.settle();
    world
}

fn highest_key(world: &World) -> u64 {
    let names = world.objects.secrets.iter().filter_map(|secret| {
        let labels = secret.metadata.labels.as_ref()?;
        labels.contains_key(names::LABEL_COMPONENT).then_some(secret.metadata.name.as_deref()?)
    });
    names.filter_map(KeyId::from_name).map(|id| id.0).max().unwrap()
}

fn restored_key_check(world: &mut World) {
    let key_check = KeyCheck {
        ciphertext: "seven".into(),
        remote_key_id: RemoteKeyId("kek".into()),
        annotations: Default::default(),
        plaintext_sha256: String::new(),
    };
    world.objects.encryption_nodes[0].spec.key_checks.push(KeyCheckEntry { key_id: KeyId(7), key_check });
}

fn restored_migration(world: &mut World) {
    let spec = EncryptionMigrationSpec {
        operand: names::KUBE_APISERVER.into(),
        resource: "widgets.example.com".into(),
        key_id: KeyId(7),
        ..Default::default()
    };
    let mut migration = EncryptionMigration::new("encryption-migration-example.com-widgets", spec);
    migration.metadata.generation = Some(1);
    world.objects.migrations.push(migration);
}

fn key_of_status(world: &mut World) {
    status(world).keys.push(KeyStatus {
        key_id: KeyId(7),
        mode: Mode::Kms,
        role: "retired".into(),
        provider: None,
        kek: None,
        remote_key_id: None,
        reason: String::new(),
        migrated: vec![],
    });
}

fn list_of_status(world: &mut World) {
    let lists = [("secrets".to_owned(), vec!["kms:7".to_owned(), "identity".to_owned()])];
    let said = RevisionStatus { n: Revision(1), config_hash: ConfigHash("x".into()), lists: lists.into() };
    status(world).revisions = [vec![said], status(world).revisions.clone()].concat();
}

fn key_secret_without_label(world: &mut World) {
    world.objects.secrets.push(secret("encryption-key-kube-apiserver-7", &[]));
}

fn revision_that_is_not_understood(world: &mut World) {
    let data = [("encryption-config", "kind: Other\nkeys:\n- name: \"7\"\n")];
    world.objects.secrets.push(secret("encryption-config-1", &data));
}

fn plugin_of_a_revision_that_is_not_understood(world: &mut World) {
    world
        .objects
        .secrets
        .push(secret("encryption-config-1", &[("encryption-config", "{"), ("keyward-salt-7", "x")]));
}

fn adopted_key(world: &mut World) {
    agent(world).adopted = vec![Adopted { key_id: KeyId(7), remote_key_id: RemoteKeyId("kek".into()) }];
}

fn agents_mark(world: &mut World) {
    agent(world).highest_key_id = KeyId(7);
}

/// For a key whose number is chosen at once, and for a candidate: the object may change while the candidate
/// is tried.
#[rstest]
fn key_never_takes_a_number_that_an_object_names(
    #[values(
        restored_key_check,
        restored_migration,
        key_of_status,
        list_of_status,
        key_secret_without_label,
        revision_that_is_not_understood,
        plugin_of_a_revision_that_is_not_understood,
        adopted_key,
        agents_mark
    )]
    restored: fn(&mut World),
    #[values(true, false)] local: bool,
) {
    let mut world = in_force();
    restored(&mut world);
    if local {
        world.want("aescbc");
    } else {
        world.want_kms("two", "example.com/kms:1");
    }
    let tried = world.reconcile().actions.into_iter().find_map(|action| match action {
        Action::CreateKey { key } => Some(key.id),
        Action::RequirePreflight { candidate, .. } => Some(candidate.key_id),
        _ => None,
    });
    assert_eq!(tried, Some(KeyId(8)));
}

/// The object that names the number changes while the candidate is tried.
#[rstest]
fn number_of_a_restored_object_stays_used_when_the_object_is_gone(
    #[values(restored_key_check, key_of_status, list_of_status)] restored: fn(&mut World),
) {
    let mut world = in_force();
    restored(&mut world);
    world.want_kms("two", "example.com/kms:1");
    world.settle();
    assert_eq!(highest_key(&world), 8, "{:#?}", world.log);
}

/// A candidate keeps its number if its key secret could not be stored; not if an agent has seen a key of that
/// number, for example after a restore from a backup of that moment.
#[rstest]
#[case(None, 2)]
#[case(Some(2), 3)]
fn number_that_an_agent_has_seen_is_not_tried_again(#[case] seen: Option<u64>, #[case] next: u64) {
    let mut world = in_force();
    world.refuses_keys = true;
    world.want_kms("two", "example.com/kms:1");
    for _ in 0..10 {
        world.reconcile();
        world.follow();
    }
    assert_eq!(status(&mut world).highest_key_id, KeyId(2));
    world.marks.extend(seen.map(|id| ("b".to_owned(), KeyId(id))));
    world.refuses_keys = false;
    world.nodes_follow();
    world.settle();
    assert_eq!(highest_key(&world), next, "{:#?}", world.log);
}

/// One agent's record is damaged while the key changes in place; then everything continues.
#[test]
fn absurd_mark_of_an_agent_does_not_stop_the_next_keys() {
    let mut world = in_force();
    world.marks.insert("b".into(), KeyId(ABSURD));
    world.want_kms("one", "example.com/kms:2");
    world.settle();
    for (kek, bound) in [("two", 1 + 17), ("three", 18 + 17)] {
        world.want_kms(kek, "example.com/kms:2");
        world.settle();
        assert_eq!(highest_key(&world), bound, "{:#?}", world.log);
        let said = world.condition("EncryptionKeyControllerDegraded");
        assert!(said.starts_with("True Error node b: status.highestKeyID is 9223372036854775807"), "{said}");
        assert!(status(&mut world).highest_key_id < KeyId(100), "the mark is not adopted");
    }
    world.marks.clear();
    world.settle();
    assert_eq!(world.condition("EncryptionKeyControllerDegraded"), "False AsExpected ");
}

/// An older operator, without the bound, has already adopted it.
#[test]
fn absurd_mark_of_the_operator_does_not_stop_the_next_key() {
    let mut world = in_force();
    status(&mut world).highest_key_id = KeyId(ABSURD);
    world.want_kms("two", "example.com/kms:1");
    world.settle();
    assert!((2..ABSURD / 2).contains(&highest_key(&world)), "{}", highest_key(&world));
    let said = world.condition("EncryptionKeyControllerDegraded");
    assert!(said.contains("ClusterEncryption cluster: status.highestKeyID is 9223372036854775807"), "{said}");
}

/// The last number names a key: there is no next number, and numbers do not start again.
#[test]
fn last_number_is_not_followed_by_another() {
    let last = ABSURD;
    let mut world = in_force();
    world.objects.secrets.push(secret(&format!("encryption-key-kube-apiserver-{last}"), &[]));
    world.want("aescbc");
    let outcome = world.reconcile();
    assert!(!outcome.actions.iter().any(|action| matches!(action, Action::CreateKey { .. })), "{outcome:?}");
    let said = world.condition("EncryptionKeyControllerDegraded");
    assert!(
        said.contains(&format!("no key number is left: an object already uses key number {last}")),
        "{said}"
    );
}

fn next_revision(world: &mut World) -> Option<Revision> {
    for _ in 0..10 {
        let applied = world.reconcile().actions.into_iter().find_map(|action| match action {
            Action::ApplyConfig { revision, .. } => Some(revision),
            _ => None,
        });
        if applied.is_some() {
            return applied;
        }
    }
    None
}

fn published_by_a_later_revision(world: &mut World) {
    let secrets = world.objects.secrets.iter_mut();
    for secret in secrets.filter(|secret| secret.metadata.labels.is_some()) {
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ANNOTATION_WRITE_PUBLISHED.to_owned(), "40".to_owned());
    }
}

fn migration_since_a_later_revision(world: &mut World) {
    restored_migration(world);
    let migration = &mut world.objects.migrations.last_mut().unwrap().spec;
    (migration.since, migration.key_id) = (Revision(40), KeyId(1));
}

fn agents_error_at_a_later_revision(world: &mut World) {
    let error = NodeError { revision: Revision(17), reason: "x".into(), message: "x".into(), put_back: true };
    agent(world).error = Some(error);
}

#[rstest]
#[case(published_by_a_later_revision, 41)]
#[case(migration_since_a_later_revision, 41)]
#[case(agents_error_at_a_later_revision, 18)]
fn revision_never_takes_a_number_that_an_object_names(#[case] restored: fn(&mut World), #[case] next: u64) {
    let mut world = in_force();
    restored(&mut world);
    world.want("aescbc");
    assert_eq!(next_revision(&mut world), Some(Revision(next)), "{:#?}", world.log);
}

/// The status records which bytes a lost revision had; a node reports other bytes.
#[test]
fn lost_revision_is_not_recreated_with_other_bytes_than_a_node_was_given() {
    for other in [false, true] {
        let mut world = in_force();
        let newest = world.revisions().pop().unwrap().0;
        let name = names::revision_secret(Revision(newest));
        world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(name.as_str()));
        if other {
            world.objects.encryption_nodes[0].spec.config_hash = Some(ConfigHash("sha256:other".into()));
        }
        assert_eq!(next_revision(&mut world).is_none(), other, "{:#?}", world.log);
        let said = world.last.waiting.clone().unwrap();
        assert_eq!(said.reason, "RevisionLost");
        assert_eq!(said.message.contains("node a has another configuration under that number"), other);
    }
}

/// The API cannot store such a number: if the status contained it, every write of the status would fail.
#[rstest]
#[case::labelled("encryption-key-kube-apiserver-9223372036854775808", true)]
#[case::not_labelled("encryption-key-kube-apiserver-18446744073709551615", false)]
#[case::revision("encryption-config-9223372036854775808", false)]
fn a_secret_with_a_number_that_no_key_has_is_named_and_kept_and_stops_nothing(
    #[case] name: &str,
    #[case] is_copy: bool,
) {
    let mut world = in_force();
    world.compacted = true;
    let mut foreign = secret(name, &[("encryption-config", "{}")]);
    if is_copy {
        let of_key =
            |secret: &&Secret| secret.metadata.name.as_deref() == Some("encryption-key-kube-apiserver-1");
        foreign = world.objects.secrets.iter().find(of_key).unwrap().clone();
        foreign.metadata.name = Some(name.to_owned());
    }
    world.objects.secrets.push(foreign);
    world.want_kms("two", "example.com/kms:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    let shown = world.condition("EncryptionKeyControllerDegraded");
    assert!(shown.contains(&format!("secret {name}: metadata.name has the number")), "{shown}");
    let highest = world.objects.cluster_encryption.as_ref().unwrap().status.as_ref().unwrap();
    assert!(highest.highest_key_id == KeyId(2) && highest.highest_revision.0 < 10, "{highest:?}");
    assert!(world.objects.secrets.iter().any(|secret| secret.metadata.name.as_deref() == Some(name)), "kept");
}
