//! Which resources are encrypted: refused ones, new ones, and those that leave the list, on the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use keyward_core::platform::Serving;
use keyward_core::platform::kubernetes::{added, in_force, wanted};
use rstest::rstest;
use support::{World, resource};

const KEY_CONTROLLER: &str = "EncryptionKeyControllerDegraded";

/// A refused resource is reported, and nothing is rolled out because of it (decision 0074).
#[rstest]
#[case("pods", "the kubelets must read these")]
#[case("leases.coordination.k8s.io", "renew Leases before the KMS is available")]
#[case("customresourcedefinitions.apiextensions.k8s.io", "only after it has read these")]
#[case("clusterrolebindings.rbac.authorization.k8s.io", "authorizes every request")]
#[case("validatingadmissionpolicies.admissionregistration.k8s.io", "admits every write")]
#[case("namespaces", "reads the namespace")]
#[case("*.*", "wildcards are not allowed")]
#[case("Secrets", "in lower case")]
#[case("encryptionnodes.encryption.keyward.dev", "Keyward's own objects")]
#[case(
    "widgets.example.com",
    "the operator is not allowed to patch it; grant it: kubectl create clusterrole"
)]
#[case(
    "gadgets.example.com",
    "it is not known how the API server serves it: cannot check the operator's permissions: create"
)]
#[case("things.aggregated.example.com", "APIService v1.aggregated.example.com")]
#[case("secretz", "does not serve it")]
fn a_refused_resource_changes_nothing(#[case] name: &str, #[case] why: &str) {
    let mut world = World::enabled();
    let (before, config) = (world.log.len(), world.config());
    let aggregated = Serving::Aggregated("v1.aggregated.example.com".into());
    world.objects.serving = [
        (resource("things.aggregated.example.com"), aggregated),
        (resource("secretz"), Serving::Not),
        (resource("widgets.example.com"), Serving::Forbidden(vec!["patch"])),
        (
            resource("gadgets.example.com"),
            Serving::Unknown("cannot check the operator's permissions: create …".into()),
        ),
    ]
    .into();
    world.spec().resources = Some(vec!["secrets".into(), name.into()]);
    world.settle();
    let shown = world.condition(KEY_CONTROLLER);
    assert!(shown.contains(&format!("spec.resources: {name}: ")) && shown.contains(why), "{shown}");
    assert_eq!((world.log.len(), world.config()), (before, config));
    world.spec().resources = None;
    world.settle();
    assert!(world.condition(KEY_CONTROLLER).starts_with("False"));
}

/// An older version accepted the resource: a mistake would stop every rotation, and every other change of the
/// spec.
#[test]
fn a_refused_resource_that_is_deployed_stays_encrypted_with_a_notice() {
    let mut world = World::new(&["a", "b"]);
    world.spec().resources = Some(vec!["secrets".into(), "widgets.example.com".into()]);
    world.want_kms("one", "image:1");
    world.settle();
    let (_, mut newest) = world.revisions().pop().unwrap();
    for name in newest.config.resources.iter_mut().flat_map(|entry| entry.resources.iter_mut().flatten()) {
        *name = name.replace("widgets.example.com", "services");
    }
    world.spec().resources = Some(vec!["secrets".into(), "services".into(), "pods".into()]);
    let read = wanted(world.spec());
    assert_eq!(read.mistakes.len(), 2, "a new spec may name neither: {:?}", read.mistakes);

    let deployed = in_force(read, &Default::default(), Some(&newest));
    assert_eq!(deployed.mistakes.len(), 1, "{:?}", deployed.mistakes);
    assert!(deployed.mistakes[0].starts_with("spec.resources: pods: "), "{:?}", deployed.mistakes);

    world.spec().resources = Some(vec!["secrets".into(), "services".into()]);
    let deployed = in_force(wanted(world.spec()), &Default::default(), Some(&newest));
    assert!(deployed.mistakes.is_empty(), "{:?}", deployed.mistakes);
    assert_eq!(deployed.resources, [resource("secrets"), resource("services")]);
    let [notice] = &deployed.notices[..] else { panic!("{:?}", deployed.notices) };
    for part in ["spec.resources: services: the API server reads these", "encrypted already", "spec.decrypt"]
    {
        assert!(notice.contains(part), "{notice}");
    }
}

#[test]
fn a_resource_that_is_listed_twice_counts_once_and_a_new_key_is_made() {
    let mut world = World::enabled();
    world.compacted = true;
    world.spec().resources = Some(vec!["secrets".into(), "configmaps".into(), "secrets".into()]);
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    let said = "spec.resources: secrets: it is listed twice; it counts once";
    assert!(world.last.notices.iter().any(|notice| notice.message == said), "{:?}", world.last.notices);
    assert!(world.condition("Ready").contains(said), "{}", world.condition("Ready"));
}

/// Permissions are checked before a key exists: a rollout that cannot be migrated does not begin.
#[test]
fn nothing_begins_while_the_operator_lacks_a_right() {
    let mut world = World::new(&["a", "b"]);
    world.objects.serving = [(resource("secrets"), Serving::Forbidden(vec!["list", "patch"]))].into();
    world.want_kms("one", "image:1");
    world.settle();
    let shown = world.condition(KEY_CONTROLLER);
    assert!(
        shown.contains("spec.resources: secrets: the operator is not allowed to list or patch it"),
        "{shown}"
    );
    assert!(
        shown.contains(
            "--clusterrole=keyward-operator-secrets --serviceaccount=keyward-system:keyward-operator"
        ),
        "{shown}"
    );
    assert_eq!((world.revisions().len(), world.objects.secrets.len()), (0, 0));
    world.objects.serving.clear();
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
}

/// Only added resources are checked: the migration reports a permission that is lost later.
#[test]
fn what_is_in_force_is_not_added() {
    let mut world = World::enabled();
    world.spec().resources = Some(vec!["secrets".into(), "widgets.example.com".into(), "pods".into()]);
    let spec = world.spec().clone();
    assert_eq!(added(&spec, &world.objects.secrets), [resource("widgets.example.com")]);
    assert_eq!(added(&spec, &[]), [resource("secrets"), resource("widgets.example.com")]);
}

/// A resource that left the list is decrypted before its entry leaves. Until then its keys stay, no condition
/// reports completion, and no later key is created (invariant: needed-keys-stay, decision 0011).
#[test]
fn what_left_the_list_is_decrypted_before_its_entry_leaves() {
    let mut world = World::enabled();
    world.only_secrets(true);
    world.stuck = Some("configmaps".into());
    world.run(60);
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(world.kinds().contains(&"ForgetMigrated".to_owned()), "key 1 does not claim it any more");
    assert!(world.last.waiting.as_ref().is_some_and(|w| w.message.contains("core/configmaps")));
    world.want_kms("two", "image:1");
    world.run(60);
    assert!(!world.config()["secrets"].contains("kms:2"), "one transition at a time");
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["configmaps"], "identity,kms:1", "etcd's history still has encrypted values");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config().keys().collect::<Vec<_>>(), ["secrets"]);
    assert_eq!(world.config()["secrets"], "kms:2,identity");

    // The resource is added again: no earlier record counts.
    world.only_secrets(false);
    world.stuck = Some("configmaps".into());
    world.run(60);
    assert!(world.config()["configmaps"].starts_with("kms:2,"), "{}", world.config()["configmaps"]);
    assert!(
        world.condition("Encrypted").contains("EncryptionInProgress"),
        "{}",
        world.condition("Encrypted")
    );
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// … nor does an earlier record count when the resource is added again at once, while plain text is written
/// already.
#[test]
fn what_comes_back_before_it_was_decrypted_is_re_encrypted() {
    let mut world = World::enabled();
    world.only_secrets(true);
    for _ in 0..5 {
        world.reconcile();
    }
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
    world.only_secrets(false);
    world.stuck = Some("configmaps".into());
    world.run(60);
    assert_eq!(world.config()["configmaps"], "kms:1,identity");
    let shown = world.condition("Encrypted");
    assert!(shown.contains("EncryptionInProgress"), "the earlier migration proves nothing: {shown}");
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// The proof of an earlier decryption is none for a later one.
#[test]
fn a_resource_that_left_twice_is_decrypted_twice() {
    let mut world = World::enabled();
    world.compacted = true;
    for _ in 0..2 {
        world.only_secrets(true);
        world.settle();
        assert!(!world.config().contains_key("configmaps"));
        world.only_secrets(false);
        world.settle();
    }
    let decryptions = world.log.iter().filter(|a| a["kind"] == "StartMigration" && a["keyID"] == 0).count();
    assert_eq!(decryptions, 4, "each is verified before its entry leaves");
}
