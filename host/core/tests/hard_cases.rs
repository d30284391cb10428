//! What an admin, an API server or a KMS may do in the middle of the main job, on the model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod support;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyward_core::api::PluginResources;
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_core::platform::kubernetes::{added, in_force, wanted};
use keyward_core::platform::{ObjectRef, Serving, Unreadable};
use keyward_core::provider::{Failure, ReferenceKind};
use rstest::rstest;
use support::{World, resource};

const KEY_CONTROLLER: &str = "EncryptionKeyControllerDegraded";

fn enabled() -> World {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.settle();
    world
}

/// So many reconciles, for worlds that do not come to rest.
fn run(world: &mut World, turns: usize) {
    for _ in 0..turns {
        world.reconcile();
        world.follow();
    }
}

fn credentials() -> ObjectRef {
    ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() }
}

/// Decisions 11: what is refused is named, and nothing is rolled out because of it.
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
    let mut world = enabled();
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
    let told = world.condition(KEY_CONTROLLER);
    assert!(told.contains(&format!("spec.resources: {name}: ")) && told.contains(why), "{told}");
    assert_eq!((world.log.len(), world.config()), (before, config));
    world.spec().resources = None;
    world.settle();
    assert!(world.condition(KEY_CONTROLLER).starts_with("False"));
}

/// An older version took it: as a mistake it would end every rotation, and every other change of the spec.
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
    let mut world = enabled();
    world.compacted = true;
    world.spec().resources = Some(vec!["secrets".into(), "configmaps".into(), "secrets".into()]);
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
    let said = "spec.resources: secrets: it is listed twice; it counts once";
    assert!(world.last.notices.iter().any(|notice| notice.message == said), "{:?}", world.last.notices);
    assert!(world.condition("Ready").contains(said), "{}", world.condition("Ready"));
}

/// Rights are looked up before there is any key: a rollout that cannot be migrated is not begun.
#[test]
fn nothing_begins_while_the_operator_lacks_a_right() {
    let mut world = World::new(&["a", "b"]);
    world.objects.serving = [(resource("secrets"), Serving::Forbidden(vec!["list", "patch"]))].into();
    world.want_kms("one", "image:1");
    world.settle();
    let told = world.condition(KEY_CONTROLLER);
    assert!(
        told.contains("spec.resources: secrets: the operator is not allowed to list or patch it"),
        "{told}"
    );
    assert!(
        told.contains(
            "--clusterrole=keyward-operator-secrets --serviceaccount=keyward-system:keyward-operator"
        ),
        "{told}"
    );
    assert_eq!((world.revisions().len(), world.objects.secrets.len()), (0, 0));
    world.objects.serving.clear();
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
}

/// Only what a spec adds is looked at: a right that is lost later is the migration's to report.
#[test]
fn what_is_in_force_is_not_added() {
    let mut world = enabled();
    world.spec().resources = Some(vec!["secrets".into(), "widgets.example.com".into(), "pods".into()]);
    let spec = world.spec().clone();
    assert_eq!(added(&spec, &world.objects.secrets), [resource("widgets.example.com")]);
    assert_eq!(added(&spec, &[]), [resource("secrets"), resource("widgets.example.com")]);
}

/// S3 and Decisions 11: what left the list is decrypted before its entry leaves, and until then its keys stay, nobody is
/// told that all is well, and no later key is made.
#[test]
fn what_left_the_list_is_decrypted_before_its_entry_leaves() {
    let mut world = enabled();
    world.only_secrets(true);
    world.stuck = Some("configmaps".into());
    run(&mut world, 60);
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(world.kinds().contains(&"ForgetMigrated".to_owned()), "key 1 does not claim it any more");
    assert!(world.last.waiting.as_ref().is_some_and(|w| w.message.contains("core/configmaps")));
    world.want_kms("two", "image:1");
    run(&mut world, 60);
    assert!(!world.config()["secrets"].contains("kms:2"), "one transition at a time");
    world.stuck = None;
    world.settle();
    assert_eq!(world.config()["configmaps"], "identity,kms:1", "etcd still has what was before");
    world.compacted = true;
    world.settle();
    assert_eq!(world.config().keys().collect::<Vec<_>>(), ["secrets"]);
    assert_eq!(world.config()["secrets"], "kms:2,identity");

    // It comes back: nothing that was recorded before counts.
    world.only_secrets(false);
    world.stuck = Some("configmaps".into());
    run(&mut world, 60);
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

/// … nor does what was recorded count when it comes back at once, while plain text is being written already.
#[test]
fn what_comes_back_before_it_was_decrypted_is_re_encrypted() {
    let mut world = enabled();
    world.only_secrets(true);
    for _ in 0..5 {
        world.reconcile();
    }
    assert_eq!(world.config()["configmaps"], "identity,kms:1");
    world.only_secrets(false);
    world.stuck = Some("configmaps".into());
    run(&mut world, 60);
    assert_eq!(world.config()["configmaps"], "kms:1,identity");
    let told = world.condition("Encrypted");
    assert!(told.contains("EncryptionInProgress"), "the migration of before proves nothing: {told}");
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// With the key secrets gone nothing is decrypted, and the status does not say that encryption is off.
#[test]
fn encryption_without_key_secrets_is_not_told_to_be_disabled() {
    let mut world = enabled();
    let is_key = |s: &k8s_openapi::api::core::v1::Secret| {
        s.metadata.name.as_deref().is_some_and(|name| name.starts_with("encryption-key-"))
    };
    world.objects.secrets.retain(|secret| !is_key(secret));
    world.reconcile();
    let told = world.condition("Encrypted");
    assert!(told.contains("EncryptionInProgress") && told.contains("key 1"), "{told}");
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// A key that was given up and is taken back: another wrote meanwhile, so that what it claimed holds no longer.
#[test]
fn a_key_that_is_taken_back_re_encrypts_what_others_wrote_meanwhile() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "etcd's history has key 1");
    world.give_up(&[2]);
    for _ in 0..10 {
        world.reconcile();
    }
    assert!(world.config()["secrets"].starts_with("kms:1,"), "{:?}", world.config());
    world.nodes_follow();
    world.spec().forget.clear();
    world.broken.clear();
    world.stuck = Some("secrets".into());
    world.compacted = true;
    run(&mut world, 60);
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity", "key 1 stays: something is under it");
    assert!(world.kinds().contains(&"ForgetMigrated".to_owned()), "{:?}", world.kinds());
    world.stuck = None;
    world.settle();
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
}

/// A key whose secret is deleted before any node could take it into use leaves again, and another is made.
#[test]
fn a_key_that_vanishes_on_its_way_blocks_nothing() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    let has_two = |world: &World| world.config()["secrets"].contains("kms:2");
    for _ in 0..50 {
        world.reconcile();
        if has_two(&world) {
            break;
        }
        world.follow();
    }
    assert!(has_two(&world));
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(2));
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    world.settle();
    assert!(world.config()["secrets"].starts_with("kms:3,kms:1"), "{:?}", world.config());
}

/// A KEK that is made anew under its name after every node had passed the preflight: no node could go on with the key, nor
/// could it be given another key check (S5). It gives way to another key, wherever its revision stands.
#[rstest]
#[case::its_revision_is_made(&["a", "b"], 1)]
#[case::the_first_node_has_it(&["a", "b"], 2)]
#[case::every_node_has_it(&["a", "b"], 3)]
#[case::the_only_node_is_to_have_it(&["a"], 1)]
#[case::the_only_node_has_it(&["a"], 2)]
fn a_key_whose_kek_is_made_anew_on_its_way_gives_way(#[case] nodes: &[&str], #[case] turns: usize) {
    let mut world = World::new(nodes);
    world.want_kms("one", "image:1");
    for _ in 0..50 {
        if world.config().contains_key("secrets") {
            break;
        }
        world.follow();
        world.reconcile();
    }
    for _ in 1..turns {
        world.reconcile();
        world.follow();
    }
    assert_eq!(world.config()["secrets"], "identity,kms:1");
    world.made_anew.insert("one".into());
    world.follow();
    run(&mut world, 4);
    let waiting = world.last.waiting.clone().unwrap();
    assert!(waiting.message.contains("has not decrypted the key check since 2026-05-08T12:3"), "{waiting:?}");
    assert!(waiting.message.contains("if this lasts 10 minutes, another key replaces it"), "{waiting:?}");
    assert!(world.condition(KEY_CONTROLLER).contains("the KMS has another KEK under the same name"));
    assert_eq!(world.config()["secrets"], "identity,kms:1", "it may pass");
    run(&mut world, 30);
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity", "{:?}", world.last.waiting);
    assert!(world.condition("Encrypted").contains("EncryptionCompleted"));
    assert!(world.condition(KEY_CONTROLLER).starts_with("False"));
}

/// … but one that was published as a write key stays: nobody can know that nothing was written with it (Decisions 5).
#[test]
fn a_published_key_whose_kek_is_made_anew_stays() {
    let mut world = enabled();
    world.made_anew.insert("one".into());
    run(&mut world, 60);
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert!(!world.kinds().contains(&"AbandonKey".to_owned()));
}

/// The proof of an earlier decryption is none for a later one.
#[test]
fn a_resource_that_left_twice_is_decrypted_twice() {
    let mut world = enabled();
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

/// S7: that a reference cannot be read now is no reason to stop what is being tried.
#[test]
fn a_failed_read_does_not_end_a_preflight() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.reconcile();
    world.reconcile();
    let candidate = |world: &World| {
        let of = |s: &&k8s_openapi::api::core::v1::Secret| {
            s.metadata.name.as_deref() == Some(names::PREFLIGHT_SECRET)
        };
        world.objects.secrets.iter().find(of).and_then(|s| s.metadata.resource_version.clone())
    };
    let before = candidate(&world);
    assert!(before.is_some());
    world.unreadable.insert(credentials());
    run(&mut world, 5);
    assert_eq!(candidate(&world), before);
    assert!(world.condition(KEY_CONTROLLER).contains("timed out"), "{}", world.condition(KEY_CONTROLLER));
    world.unreadable.clear();
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity", "the number is the first one still");
}

/// Decisions 2: keys in use follow their credentials, whatever else is wanted and cannot be had.
#[test]
fn a_new_key_that_fails_does_not_keep_credentials_from_being_followed() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.failing_kek = Some("two".into());
    run(&mut world, 20);
    world.renew_credentials();
    run(&mut world, 40);
    let synced = world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1);
    assert!(synced, "{:#?}", world.log);
    world.failing_kek = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
}

/// … and the other way round: an old KEK that is gone does not keep a new one from being had.
#[test]
fn a_key_in_use_that_fails_does_not_keep_a_new_one_from_being_made() {
    let mut world = enabled();
    world.failing_kek = Some("one".into());
    world.renew_credentials();
    run(&mut world, 20);
    world.want_kms("two", "image:1");
    run(&mut world, 80);
    assert!(world.config()["secrets"].starts_with("kms:2,kms:1"), "{:?}", world.config());
}

/// The provider is asked with the configuration that the candidate runs with: here a key's own, and not the spec's.
#[test]
fn a_failing_preflight_is_reported_with_cause_remedy_and_the_place_of_its_log() {
    let mut world = enabled();
    world.want_kms("two", "image:1");
    world.settle();
    world.preflight_failure = Some(Failure {
        phase: "start".into(),
        exit_code: Some(2),
        message: "the plugin ended with exit code 2".into(),
        log_tail: ["no flag -new", "Usage:", "  -old", "  -older", "  -oldest"].map(Into::into).into(),
        ..Default::default()
    });
    world.renew_credentials();
    let told = |world: &mut World, key: &str, cannot: &str| {
        let before = format!(
            "preflight of key {key}: node a: ended: the plugin of {cannot} cannot run (start: the plugin ended with \
             exit code 2; its log is in keyward status). mend it"
        );
        for _ in 0..80 {
            world.reconcile();
            world.nodes_follow();
            if world.condition("EncryptionKMSPreflightControllerDegraded").contains(&before) {
                return;
            }
        }
        panic!("{before:?} is not told: {:#?}", world.last.conditions);
    };
    told(&mut world, "2 (sync)", "two");
    told(&mut world, "1 (sync)", "one");
}

/// The plugin does not even start: nobody can say that its login is good.
fn refused() -> Failure {
    Failure { phase: "start".into(), message: "permission denied".into(), ..Default::default() }
}

/// Where neither can be had they take turns, and that costs nothing: a number that no key was made of stays free.
#[rstest]
#[case::refused_before_their_login(refused(), 60)]
#[case::refused_after_it(Failure { phase: "encrypt".into(), ..refused() }, 4)]
fn trials_that_fail_take_turns_without_using_anything_up(#[case] failure: Failure, #[case] rounds: usize) {
    let mut world = enabled();
    world.renew_credentials();
    world.want_kms("two", "image:1");
    world.preflight_failure = Some(failure);
    let mut begun: Vec<(usize, u64, String)> = Vec::new();
    let mut told = false;
    for round in 0..600 {
        let before = world.log.len();
        world.reconcile();
        world.follow();
        let written = world.log.iter().skip(before).filter(|action| action["kind"] == "RequirePreflight");
        begun.extend(written.map(|action| {
            (round, action["keyID"].as_u64().unwrap(), action["for"].as_str().unwrap().to_owned())
        }));
        let waiting = world.last.waiting.as_ref();
        told |= waiting.is_some_and(|waiting| waiting.message.contains("; after it: key "));
        let asked = world.objects.encryption_nodes.iter().filter(|node| node.spec.preflight.is_some());
        assert!(asked.count() <= 1, "a node that fails is asked alone");
        if round % 7 == 0 {
            world.unreadable.insert(credentials());
            world.reconcile();
            world.unreadable.clear();
        }
    }
    let turns: Vec<_> = begun.iter().map(|(_, key, purpose)| (*key, purpose.as_str())).collect();
    assert!(turns.len() > 8, "{begun:?}");
    for pair in turns.chunks_exact(2) {
        assert_eq!(pair, [(1, "sync"), (2, "new-key")]);
    }
    // At 30 s a round, and one more in each seven.
    for pair in begun.windows(2) {
        let apart = pair[1].0 - pair[0].0;
        assert!(apart <= rounds + 2 && (apart + 1) * 8 / 7 + 1 >= rounds, "{apart}: {begun:?}");
    }
    assert!(told, "what comes next is told");
    world.preflight_failure = None;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,kms:1,identity");
}

/// Another candidate every ten minutes is no reason for the others never to have their turn.
#[test]
fn a_key_check_that_some_node_never_decrypts_does_not_keep_credentials_from_being_followed() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want_kms("one", "image:1");
    world.settle();
    world.failing_kek = Some("two".into());
    world.failing_at = [("b".to_owned(), "key-check"), ("c".to_owned(), "start")].into();
    world.want_kms("two", "image:1");
    run(&mut world, 30);
    world.renew_credentials();
    run(&mut world, 80);
    let synced = world.log.iter().any(|action| action["kind"] == "SyncData" && action["keyID"] == 1);
    assert!(synced, "{:#?}", world.log);
}

/// With a spec that is wrong, the key in use goes on being looked after.
#[test]
fn a_wrong_spec_does_not_keep_credentials_from_being_followed() {
    let mut world = enabled();
    world.spec().encryption.kms = Some(serde_json::json!({"type": "Test", "test": {}}));
    world.renew_credentials();
    run(&mut world, 20);
    assert!(world.condition(KEY_CONTROLLER).contains("Required value"));
    assert!(world.kinds().contains(&"SyncData".to_owned()));
}

/// A timeout that the API server could not read is named, and not rolled out: that configuration would be refused.
#[test]
fn a_wrong_timeout_changes_nothing() {
    let mut world = enabled();
    let before = world.log.len();
    world.spec().plugins.timeout = Some("soon".into());
    world.settle();
    assert!(world.condition(KEY_CONTROLLER).contains("spec.plugins.timeout"));
    assert_eq!(world.log.len(), before, "{:#?}", world.log);
    world.spec().plugins.timeout = Some("25s".into());
    world.settle();
    assert!(world.kinds().contains(&"UpdateKey".to_owned()));
}

/// Resources of plugins that the kubelet refuses are named, and not rolled out: no plugin would start.
#[test]
fn a_wrong_quantity_changes_nothing() {
    let mut world = enabled();
    let before = world.log.len();
    let requests = |memory: &str| [("memory".to_owned(), memory.to_owned())].into();
    world.spec().plugins.resources =
        Some(PluginResources { requests: requests("64 Mi"), ..Default::default() });
    world.settle();
    let condition = world.condition(KEY_CONTROLLER);
    assert!(
        condition.contains("spec.plugins.resources.requests.memory: \"64 Mi\" is not a quantity"),
        "{condition}"
    );
    assert_eq!(world.log.len(), before, "{:#?}", world.log);
    world.spec().plugins.resources =
        Some(PluginResources { requests: requests("64Mi"), ..Default::default() });
    world.settle();
    assert!(world.kinds().contains(&"UpdateKey".to_owned()));
}

/// A key secret that cannot be made costs no number and no second preflight.
#[test]
fn a_key_that_cannot_be_stored_keeps_its_number() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.refuses_keys = true;
    run(&mut world, 20);
    world.refuses_keys = false;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:1,identity");
    assert_eq!(world.kinds().iter().filter(|kind| *kind == "RequirePreflight").count(), 1);
}

/// … but a number that was recorded for one KEK is never another's (S5).
#[test]
fn a_recorded_number_is_not_given_to_another_kek() {
    let mut world = World::new(&["a", "b"]);
    world.settle();
    world.want_kms("one", "image:1");
    world.refuses_keys = true;
    run(&mut world, 20);
    world.want_kms("two", "image:1");
    run(&mut world, 20);
    world.refuses_keys = false;
    world.settle();
    assert_eq!(world.config()["secrets"], "kms:2,identity");
}

/// What a lost revision is made anew from is not forgotten when it is needed.
#[test]
fn status_keeps_what_cannot_be_read_now() {
    let mut world = enabled();
    let told = world.last.view.clone();
    assert!(!told.keys.is_empty() && !told.revisions.is_empty());
    let newest = told.revisions.last().unwrap().clone();
    let secrets = world.objects.secrets.clone();
    world.objects.secrets.clear();
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "the KMS is down".into() }];
    let blocked = world.reconcile();
    assert_eq!((&blocked.view.keys, &blocked.view.revisions), (&told.keys, &told.revisions));
    assert!(blocked.conditions.iter().all(|condition| condition.type_ != KEY_CONTROLLER), "left as it was");

    world.objects.unreadable.clear();
    world.objects.secrets = secrets;
    let name = names::revision_secret(newest.n);
    world.objects.secrets.retain(|secret| secret.metadata.name.as_deref() != Some(&name));
    // The key secret is gone too, and every other revision: nothing gives the same bytes.
    let key = names::key_secret(names::KUBE_APISERVER, keyward_core::ids::KeyId(1));
    let has_key = |secret: &mut Secret| {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        name == key || name.starts_with("encryption-config-")
    };
    let held: Vec<_> = world.objects.secrets.extract_if(.., has_key).collect();
    for _ in 0..3 {
        let lost = world.reconcile();
        assert_eq!(lost.waiting.as_ref().unwrap().reason, "RevisionLost");
        assert!(lost.waiting.as_ref().unwrap().message.contains("the secret of key 1 is gone as well"));
        assert!(lost.view.revisions.contains(&newest), "{:?}", lost.view.revisions);
        assert!(lost.actions.is_empty(), "{:?}", lost.actions);
    }
    world.objects.secrets.extend(held);
    let made_anew = world.reconcile();
    assert_eq!(made_anew.actions.first().map(|a| a.describe()["revision"].clone()), Some(newest.n.0.into()));
    assert!(world.reconcile().converged, "{:?}", world.last.waiting);
}

/// S2: the agent knows which API server is its own; a node need not be named as its host is.
#[test]
fn a_lease_belongs_to_the_node_whose_agent_names_it() {
    let mut world = enabled();
    let lease = |id: &str, host: &str| Lease {
        metadata: ObjectMeta {
            name: Some(id.to_owned()),
            labels: Some([("kubernetes.io/hostname".to_owned(), host.to_owned())].into()),
            ..Default::default()
        },
        ..Default::default()
    };
    world.objects.leases = vec![lease("apiserver-1", "host-1.example.com")];
    let blocked = world.reconcile();
    assert_eq!(blocked.waiting.unwrap().reason, "NodeNotPrepared");
    let status = world.objects.encryption_nodes[0].status.as_mut().unwrap();
    status.api_server_id = Some("apiserver-1".to_owned());
    assert!(world.reconcile().converged);
}
