//! The rules of docs/reference/openshift.md on dumps of an OpenShift cluster's objects, in the notation of
//! that page (openshift: provider-list-notation).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

mod ocp;

use keyward_core::api::ConditionStatus;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::platform::openshift::{Component, PodsVerdict, verdict};
use ocp::{Cluster, Pod};
use rstest::rstest;
use serde_json::json;

fn kinds(outcome: &Outcome) -> Vec<&'static str> {
    outcome.actions.iter().map(Action::kind).collect()
}

/// The list of `secrets` in the configuration that is written.
fn written(outcome: &Outcome) -> Option<String> {
    outcome.actions.iter().find_map(|action| match action {
        Action::ApplyManagedConfig { content, .. } => {
            let lists = content.config.lists();
            assert!(lists.values().all(|list| *list == lists["secrets"]), "{lists:?}");
            Some(lists["secrets"].join(","))
        }
        _ => None,
    })
}

fn condition(outcome: &Outcome, type_: &str) -> String {
    let found: Vec<String> = outcome
        .conditions
        .iter()
        .filter(|condition| condition.type_ == type_)
        .map(|c| format!("{:?} {} {}", c.status, c.reason, c.message))
        .collect();
    assert!(found.len() < 2, "one type, one condition: {found:?}");
    found.into_iter().next().unwrap_or_default()
}

/// The configuration that is written next, and the key that is created.
#[rstest]
// Three deployments a rotation: read key, write key, prune (openshift: read-keys-come-first,
// openshift: write-key-needs-all-servers, openshift: prune-after-migration,
// openshift: when-a-new-key-is-made).
#[case::second_key_to_read("aescbc:1,identity", "1! 2", "aescbc", Some("aescbc:1,aescbc:2,identity"), None)]
#[case::second_key_to_write(
    "aescbc:1,aescbc:2,identity",
    "1! 2",
    "aescbc",
    Some("aescbc:2,aescbc:1,identity"),
    None
)]
#[case::migrating("aescbc:2,aescbc:1,identity", "1! 2", "aescbc", None, None)]
#[case::third_leaves_the_first(
    "aescbc:3,aescbc:2,aescbc:1,identity",
    "1! 2! 3!",
    "aescbc",
    Some("aescbc:3,aescbc:2,identity"),
    None
)]
#[case::steady("aescbc:3,aescbc:2,identity", "1! 2! 3!", "aescbc", None, None)]
// Plain text is a key of its own (openshift: switch-to-identity).
#[case::identity_to_read(
    "aescbc:1,identity",
    "1! identity:2",
    "identity",
    Some("aescbc:1,identity,aesgcm:2"),
    None
)]
#[case::identity_to_write(
    "aescbc:1,identity,aesgcm:2",
    "1! identity:2",
    "identity",
    Some("identity,aescbc:1,aesgcm:2"),
    None
)]
#[case::mode_changes("aescbc:1,identity", "1!", "identity", None, Some("2 identity encryption-mode-changed"))]
#[case::same_mode("identity,aescbc:1,aesgcm:2", "1! identity:2!", "identity", None, None)]
// The secret of a local key is deleted (openshift: deleted-local-key-secret).
#[case::six_is_gone(
    "aescbc:6,aescbc:5,identity",
    "5! 4!",
    "aescbc",
    Some("aescbc:6,aescbc:5,aescbc:4,identity"),
    Some("7 aescbc encryption-config-key-6-not-backed-by-secret")
)]
#[case::seven_to_read(
    "aescbc:6,aescbc:5,aescbc:4,identity",
    "7 5! 4!",
    "aescbc",
    Some("aescbc:6,aescbc:7,aescbc:5,aescbc:4,identity"),
    None
)]
#[case::seven_to_write(
    "aescbc:6,aescbc:7,aescbc:5,aescbc:4,identity",
    "7 5! 4!",
    "aescbc",
    Some("aescbc:7,aescbc:6,aescbc:5,aescbc:4,identity"),
    None
)]
#[case::six_leaves_with_four(
    "aescbc:7,aescbc:6,aescbc:5,aescbc:4,identity",
    "7! 5! 4!",
    "aescbc",
    Some("aescbc:7,aescbc:6,aescbc:5,identity"),
    None
)]
#[case::all_are_gone(
    "aescbc:6,aescbc:5,identity",
    "",
    "aescbc",
    None,
    Some("7 aescbc encryption-config-key-6-not-backed-by-secret")
)]
fn what_comes_next(
    #[case] deployed: &str,
    #[case] keys: &str,
    #[case] mode: &str,
    #[case] next: Option<&str>,
    #[case] key: Option<&str>,
) {
    let outcome = Cluster::new(mode).deployed(deployed).keys(keys).decide();
    assert_eq!(written(&outcome).as_deref(), next, "{:#?}", outcome.explanation);
    let made = outcome.actions.iter().find_map(|action| match action {
        Action::CreateKey { key } => Some(format!("{} {} {}", key.id, key.mode, key.internal_reason)),
        _ => None,
    });
    assert_eq!(made.as_deref(), key, "{:#?}", outcome.explanation);
    // On OpenShift, Keyward has no high-water marks, EncryptionNodes or revisions of its own.
    for kind in ["RecordHighWater", "SetTarget", "DeleteRevision"] {
        assert!(!kinds(&outcome).contains(&kind), "{kind}");
    }
}

/// The desired configuration is computed again from the deployed one
/// (openshift: deleted-desired-configuration).
#[test]
fn desired_configuration_that_is_gone_is_written_again() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1!");
    cluster.managed = None;
    let outcome = cluster.decide();
    assert_eq!(written(&outcome).as_deref(), Some("aescbc:1,identity"));
    assert_eq!(kinds(&outcome), ["ApplyConfig"]);
}

/// The operator waits until the written configuration is rolled out, and migrates nothing meanwhile
/// (openshift: apply-desired-configuration).
#[test]
fn what_is_written_is_not_written_again() {
    let mut cluster = Cluster::new("identity").deployed("aescbc:1,identity").keys("1! identity:2");
    cluster.managed = Some("aescbc:1,identity,aesgcm:2".into());
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    assert_eq!(outcome.waiting.unwrap().reason, "APIServerRevisionNotConverged");
}

/// OpenShift loses the provider here (openshift: deleted-kms-key-secret); Keyward keeps it (decision 0004).
#[rstest]
#[case::write_key("kms:13,kms:12,identity", "kms:12! kms:11!", "kms:13,kms:12,kms:11,identity")]
#[case::old_key_while_migrating(
    "kms:13,kms:12,kms:11,identity",
    "kms:13 kms:11!",
    "kms:13,kms:12,kms:11,identity"
)]
#[case::the_only_one("kms:13,identity", "", "kms:13,identity")]
fn deleted_kms_key_keeps_its_provider(#[case] deployed: &str, #[case] keys: &str, #[case] next: &str) {
    let outcome = Cluster::new("KMS").deployed(deployed).keys(keys).decide();
    let written = written(&outcome).unwrap_or_else(|| deployed.to_owned());
    assert_eq!(written, next);
    for action in &outcome.actions {
        if let Action::ApplyManagedConfig { content, .. } = action {
            assert!(content.plugins.contains_key(&keyward_core::ids::KeyId(13)), "its plugin's data stays");
        }
    }
}

/// Rule by rule (openshift: converged-pods).
#[rstest]
#[case::no_nodes(&[], &[Pod::good("a", "3")], Err("progressing: no node is known to host an API server pod"))]
#[case::no_pods(&["a"], &[], Err("progressing: there is no API server pod"))]
#[case::good(&["a", "b"], &[Pod::good("a", "3"), Pod::good("b", "3")], Ok(3))]
#[case::not_ready(&["a"], &[Pod::good("a", "3").not_ready()], Err("progressing: API server pod a is not ready"))]
#[case::pending(&["a"], &[Pod::good("a", "3").phase("Pending")], Err("progressing: API server pod a is pending"))]
#[case::unknown(&["a"], &[Pod::good("a", "3").phase("Unknown")], Err("failed to get converged static pod revision: api server pod a in unknown phase"))]
#[case::unexpected(&["a"], &[Pod::good("a", "3").phase("Odd")], Err("failed to get converged static pod revision: api server pod a has unexpected phase Odd"))]
#[case::two_revisions(&["a", "b"], &[Pod::good("a", "3"), Pod::good("b", "4")], Err("progressing: API server pods run revisions 3 and 4"))]
#[case::no_label_is_zero(&["a"], &[Pod::good("a", "")], Ok(0))]
#[case::no_label_and_zero(&["a", "b"], &[Pod::good("a", ""), Pod::good("b", "0")], Err("progressing: API server pods run revisions none and 0"))]
#[case::a_node_without(&["a", "b"], &[Pod::good("a", "3")], Err("progressing: node b hosts no running API server pod"))]
#[case::not_a_number(&["a"], &[Pod::good("a", "x")], Err("failed to get converged static pod revision: api server has invalid revision: \"x\""))]
#[case::bad_and_newer(&["a"], &[Pod::good("a", "3"), Pod::good("a2", "4").phase("Failed")], Err("failed to get converged static pod revision: api server has failed revision 4 which is newer than running revision 3"))]
#[case::bad_and_equal(&["a"], &[Pod::good("a", "3"), Pod::good("a2", "3").phase("Failed")], Ok(3))]
#[case::bad_and_older(&["a"], &[Pod::good("a", "3"), Pod::good("a2", "2").phase("Succeeded")], Ok(3))]
#[case::bad_without_label(&["a"], &[Pod::good("a", "3"), Pod::good("a2", "").phase("Failed")], Ok(3))]
#[case::bad_alone(&["a"], &[Pod::good("a", "3").phase("Failed")], Err("progressing: no API server pod is running"))]
fn the_deployer(#[case] nodes: &[&str], #[case] pods: &[Pod], #[case] expected: Result<u64, &str>) {
    let pods: Vec<_> = pods.iter().map(|pod| pod.typed("openshift-kube-apiserver")).collect();
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    let said = match verdict(&nodes, &pods.iter().collect::<Vec<_>>()) {
        PodsVerdict::Converged { revision } => Ok(revision.0),
        PodsVerdict::Progressing { why } => Err(format!("progressing: {why}")),
        PodsVerdict::Failed { why } => Err(why),
        PodsVerdict::NotManaged { state } => Err(state),
    };
    assert_eq!(said, expected.map_err(ToOwned::to_owned));
}

/// Nothing is computed in transition, and conditions stay unchanged (openshift: decide-only-when-converged).
#[test]
fn nothing_is_decided_while_pods_roll() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1! 2");
    cluster.pods[0].revision = "2".into();
    let outcome = cluster.decide();
    assert!(!outcome.converged);
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    let waiting = outcome.waiting.clone().unwrap();
    assert_eq!(waiting.reason, "APIServerRevisionNotConverged");
    for type_ in ["EncryptionKeyControllerDegraded", "EncryptionStateControllerDegraded", "Encrypted"] {
        assert_eq!(condition(&outcome, type_), "", "left unchanged");
    }
}

/// An error of the deployer is an error of each controller that asks it (openshift: converged-pods,
/// openshift: decide-only-when-converged).
#[test]
fn an_error_of_the_deployer_is_reported_by_each_controller() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1! 2");
    cluster.pods.push(Pod::good("new", "9").phase("Failed"));
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    let shown = "True Error failed to get converged static pod revision: api server has failed revision 9 which is newer than running revision 3";
    for controller in ["Key", "State", "Migration", "Prune"] {
        assert_eq!(condition(&outcome, &format!("Encryption{controller}ControllerDegraded")), shown);
    }
}

/// So is a deployed configuration that cannot be read, or whose parts disagree
/// (openshift: decide-only-when-converged, openshift: one-key-id-says-one-thing).
#[rstest]
#[case::not_yaml(json!("\u{1}"), "failed to decode EncryptionConfiguration: line 1 has a tab or another control character")]
#[case::parts_disagree(
    ocp::configuration(&[("secrets", "aescbc:1,identity"), ("configmaps", "aesgcm:1,identity")]),
    "key mismatch for keyID 1: keys from different resources must be identical"
)]
#[case::plugin_of_nobody(
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [{
        "resources": ["secrets"],
        "providers": [{"kms": {"apiVersion": "v2", "name": "plugin", "endpoint": "unix:///x", "timeout": "3s"}}],
    }]}),
    "invalid plugin name \"plugin\": expected format keyID_resourceName"
)]
#[case::wildcard(
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [{
        "resources": ["*."], "providers": [{"identity": {}}],
    }]}),
    "failed to decode EncryptionConfiguration: resources[0].resources[0]: wildcards are not supported; name each resource"
)]
#[case::key_that_has_a_name(
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [{
        "resources": ["secrets", "configmaps"],
        "providers": [{"secretbox": {"keys": [{"name": "key1", "secret": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}]}}],
    }]}),
    "failed to decode EncryptionConfiguration: resources[0].providers[0].secretbox.keys[0].name: is not a keyID: a positive number without leading zeros"
)]
fn a_deployed_configuration_that_cannot_be_read(#[case] config: serde_json::Value, #[case] why: &str) {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1!");
    let bytes = config.as_str().map_or_else(|| config.to_string(), ToOwned::to_owned);
    cluster.deployed_bytes = Some(bytes);
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    let shown =
        format!("True Error invalid encryption config openshift-kube-apiserver/encryption-config-3: {why}");
    assert_eq!(condition(&outcome, "EncryptionStateControllerDegraded"), shown);
}

/// A desired configuration that cannot be read is not overwritten either: OpenShift may be rolling it out.
#[test]
fn a_desired_configuration_that_cannot_be_read_is_left_alone() {
    let mut cluster = Cluster::new("secretbox").deployed("aescbc:1,identity").keys("1! 2");
    cluster.managed = None;
    cluster.more.push(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "openshift-config-managed", "name": "encryption-config-openshift-kube-apiserver"},
        // `resources: []`
        "data": {"encryption-config": "cmVzb3VyY2VzOiBbXQo="},
    }));
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    assert_eq!(
        condition(&outcome, "EncryptionStateControllerDegraded"),
        "True Error invalid encryption config openshift-config-managed/encryption-config-openshift-kube-apiserver: failed to decode EncryptionConfiguration: it is not of kind EncryptionConfiguration and apiVersion apiserver.config.k8s.io/v1; correct it, or delete it: the operator recreates it from what the pods run"
    );
}

/// If two key secrets of one number disagree, neither is used (openshift: key-secrets-of-one-number-agree).
#[test]
fn key_secrets_of_one_number_must_agree() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1!");
    let mut other = cluster.key_secret("aesgcm:1");
    other["metadata"]["name"] = json!("encryption-key-other-1");
    cluster.more.push(other);
    let outcome = cluster.decide();
    let shown = condition(&outcome, "EncryptionKeyControllerDegraded");
    assert!(
        shown.contains("key mismatch for keyID 1: keys from different resources must be identical"),
        "{shown}"
    );
}

/// A revision without a configuration counts as no deployed configuration
/// (openshift: no-configuration-is-none-deployed).
#[test]
fn a_revision_without_configuration_is_none() {
    let mut cluster = Cluster::new("identity").deployed("aescbc:1,identity");
    (cluster.deployed, cluster.managed) = (None, None);
    let outcome = cluster.decide();
    assert!(outcome.converged);
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    assert_eq!(condition(&outcome, "Encrypted"), "False EncryptionDisabled Encryption is not enabled");
}

/// The external reason is in the operator's overrides; for the OAuth API server below its own prefix
/// (openshift: overrides, openshift: external-reason-changed).
#[test]
fn external_reason_makes_a_key() {
    let overrides = json!({"encryption": {"reason": "audit"}});
    for (component, spec) in [
        ("openshift-kube-apiserver", json!({"unsupportedConfigOverrides": overrides})),
        ("openshift-oauth-apiserver", json!({"unsupportedConfigOverrides": {"oauthAPIServer": overrides}})),
    ] {
        let mut cluster = Cluster::of(component, "aescbc").deployed("aescbc:1,identity").keys("1!");
        assert_eq!(kinds(&cluster.decide()), Vec::<&str>::new());
        cluster.operator_spec = spec;
        let outcome = cluster.decide();
        match outcome.actions.as_slice() {
            [Action::CreateKey { key }] => {
                assert_eq!(key.internal_reason, "external-reason-changed", "{component}");
                assert_eq!(key.external_reason, "audit");
            }
            other => panic!("{component}: {other:?}"),
        }
    }
}

/// Each component has its own resources (openshift: components).
#[rstest]
#[case("openshift-kube-apiserver", &["configmaps", "secrets"])]
#[case("openshift-apiserver", &["routes.route.openshift.io"])]
#[case("openshift-oauth-apiserver", &["oauthaccesstokens.oauth.openshift.io", "oauthauthorizetokens.oauth.openshift.io"])]
fn components_encrypt_what_is_theirs(#[case] component: &str, #[case] resources: &[&str]) {
    let outcome = Cluster::of(component, "aescbc").deployed("aescbc:1,identity").keys("1").decide();
    let started: Vec<String> = outcome
        .actions
        .iter()
        .map(|action| match action {
            Action::StartMigration { resource, spec, .. } => format!("{resource} {}", spec.key_id),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(started, resources.iter().map(|r| format!("{r} 1")).collect::<Vec<_>>());
    assert_eq!(outcome.operand, component);
    assert!(Component::named(component).is_some());
}

/// A StorageVersionMigration belongs to a key secret by the write key and by its creation time
/// (openshift: migration-states, openshift: migration-is-for-one-key-secret).
#[rstest]
#[case::running("1", json!([{"type": "Running", "status": "True", "lastUpdateTime": "2026-05-08T12:00:00Z"}]), &["StartMigration"], "")]
#[case::running_for_an_hour("1", json!([{"type": "Running", "status": "True", "lastUpdateTime": "2026-05-08T11:30:00Z"}]),
    &["StartMigration"], "the migration of configmaps has made no progress for 64 minutes")]
#[case::without_a_status_for_an_hour("1", json!([]), &["StartMigration"], "the migration of configmaps has made no progress for 94 minutes")]
#[case::done("1", json!([{"type": "Succeeded", "status": "True", "lastUpdateTime": "2026-05-08T12:00:00Z"}]), &["RecordMigrated", "StartMigration"], "")]
#[case::of_another_key("7", json!([{"type": "Succeeded", "status": "True"}]), &["StartMigration", "StartMigration"], "")]
#[case::failed_just_now("1", json!([{"type": "Failed", "status": "True", "message": "webhook", "lastUpdateTime": "2026-05-08T12:34:00Z"}]),
    &["StartMigration"], "migration of configmaps for key \"1\" failed: encryption-migration-core-configmaps: webhook")]
#[case::failed_long_ago("1", json!([{"type": "Failed", "status": "True", "message": "webhook", "lastUpdateTime": "2026-05-08T12:00:00Z"}]),
    &["StartMigration", "StartMigration"], "migration of configmaps")]
fn migrations(
    #[case] key: &str,
    #[case] conditions: serde_json::Value,
    #[case] decided: &[&str],
    #[case] trouble: &str,
) {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1");
    cluster.more.push(ocp::migration("configmaps", key, "2026-05-08T11:00:00Z", conditions));
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), decided, "{:?}", outcome.explanation);
    let shown = condition(&outcome, "EncryptionMigrationControllerDegraded");
    assert!(
        shown.contains(trouble) && shown.starts_with(if trouble.is_empty() { "False" } else { "True" }),
        "{shown}"
    );
}

/// By OpenShift's rules older keys leave after it. It proves less than Keyward's own evidence, which a notice
/// says (openshift: success-of-another-migrator).
#[test]
fn success_of_another_migrator_is_named_as_what_it_is() {
    let cluster = Cluster::new("aescbc").deployed("aescbc:2,aescbc:1,identity").keys("1! 2!");
    let outcome = cluster.decide();
    let shown: Vec<&str> = outcome.notices.iter().map(|notice| notice.message.as_str()).collect();
    let named = shown.iter().find(|message| message.contains("another migrator runs the migration to key 2"));
    let named = named.unwrap_or_else(|| panic!("{shown:?}"));
    assert!(named.contains("core/secrets") && named.contains("keep their KEKs"), "{named}");

    let cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1");
    let outcome = cluster.decide();
    assert!(
        !outcome.notices.iter().any(|notice| notice.reason == "MigratedByAnother"),
        "nothing is recorded"
    );
}

#[test]
fn migration_that_is_older_than_the_key_is_about_another() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1");
    let done = json!([{"type": "Succeeded", "status": "True", "lastUpdateTime": "2026-05-08T12:00:00Z"}]);
    cluster.more.push(ocp::migration("configmaps", "1", "2026-05-01T00:00:00Z", done));
    assert_eq!(kinds(&cluster.decide()), ["StartMigration", "StartMigration"]);
}

/// A preflight is requested by hash in the operator's status (openshift: preflight-before-a-key).
#[test]
fn preflight_goes_by_hash_in_status() {
    let mut cluster = Cluster::new("KMS").deployed("aescbc:1,identity").keys("1!");
    let outcome = cluster.decide();
    let [action @ Action::RequireConfigHash { config_hash, .. }] = outcome.actions.as_slice() else {
        panic!("{:?}", outcome.actions);
    };
    assert_eq!(config_hash.len(), 8);
    assert_eq!(
        action.describe(),
        json!({"kind": "RequirePreflight", "hash": config_hash, "for": "new-key", "keyID": 2})
    );
    assert_eq!(
        condition(&outcome, "EncryptionKMSPreflightControllerProgressing"),
        format!("True RunningPreflightCheck Deploying preflight pod for hash {config_hash}")
    );

    // Requested, without a result; with a result for another hash; failed; passed.
    cluster.status = json!({"preflight": {"observedConfigHash": config_hash}});
    let waits = cluster.decide();
    assert_eq!(kinds(&waits), Vec::<&str>::new());
    assert_eq!(
        waits.waiting.unwrap().message,
        format!("Waiting for preflight pod to report result for {config_hash}")
    );

    let result = |status: &str, hash: &str| {
        json!({"preflight": {
            "observedConfigHash": config_hash,
            "result": {"status": status, "configHash": hash, "remoteKeyID": "kek"},
        }})
    };
    cluster.status = result("Succeeded", "AAAAAA==");
    assert_eq!(kinds(&cluster.decide()), Vec::<&str>::new());

    cluster.status = result("Failed", config_hash);
    let failed = cluster.decide();
    assert_eq!(kinds(&failed), Vec::<&str>::new());
    assert_eq!(
        condition(&failed, "EncryptionKeyControllerDegraded"),
        format!(
            "True Error failed to create key: KMS preflight check failed for config hash {config_hash}; fix the KMS configuration to proceed"
        )
    );
    assert_eq!(
        condition(&failed, "EncryptionKMSPreflightControllerDegraded"),
        format!(
            "True PreflightCheckFailed preflight check failed for hash {config_hash}: pod was removed but failure is recorded in status"
        )
    );

    cluster.status = result("Succeeded", config_hash);
    let passed = cluster.decide();
    let [Action::CreateKey { key }] = passed.actions.as_slice() else { panic!("{:?}", passed.actions) };
    assert_eq!((key.id.0, key.internal_reason.as_str()), (2, "encryption-mode-changed"));
    let kms = key.kms.as_ref().unwrap();
    // The endpoint on OpenShift (openshift: kms-provider-entry).
    assert_eq!(kms.provider.endpoint, "unix:///var/run/kmsplugin/kms-2.sock");
    assert_eq!(kms.provider.timeout, "10s");
    assert_eq!(condition(&passed, "EncryptionKeyControllerDegraded"), "False AsExpected ");
}

/// A key of OpenShift's own controllers has no accepted rendering, and is not updated because of that.
#[test]
fn keys_of_openshifts_controllers_are_taken_as_they_are() {
    let outcome = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!").decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new(), "{:?}", outcome.explanation);
    assert_eq!(
        condition(&outcome, "Encrypted"),
        "True EncryptionCompleted All resources encrypted: configmaps, secrets"
    );
}

/// Keyward changes the timeout in place (decision 0009).
#[test]
fn timeout_is_changed_in_place() {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!");
    cluster.operator_spec =
        json!({"unsupportedConfigOverrides": {"encryption": {"kms": {"timeout": "25s"}}}});
    let outcome = cluster.decide();
    let [Action::RequireConfigHash { config_hash, candidate }] = outcome.actions.as_slice() else {
        panic!("{:?}", outcome.actions);
    };
    assert_eq!(candidate.purpose.to_string(), "in-place");
    cluster.status = json!({"preflight": {
        "observedConfigHash": config_hash,
        "result": {"status": "Succeeded", "configHash": config_hash, "remoteKeyID": "kek"},
    }});
    let outcome = cluster.decide();
    let [Action::UpdateKey { key, fields }] = outcome.actions.as_slice() else {
        panic!("{:?}", outcome.actions);
    };
    assert_eq!(fields, &["spec.plugins"]);
    assert_eq!(key.kms.as_ref().unwrap().provider.timeout, "25s");
}

/// A mistake in the overrides is reported with the path of its field, and changes nothing.
#[test]
fn wrong_timeout_is_reported_with_its_field() {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!");
    cluster.operator_spec =
        json!({"unsupportedConfigOverrides": {"encryption": {"kms": {"timeout": "soon"}}}});
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    let shown = condition(&outcome, "EncryptionKeyControllerDegraded");
    assert!(
        shown.starts_with("True Error spec.unsupportedConfigOverrides.encryption.kms.timeout: "),
        "{shown}"
    );
}

/// Keyward does nothing for a component whose operator is not managed.
#[test]
fn unmanaged_does_nothing() {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1! 2");
    cluster.operator_spec = json!({"managementState": "Unmanaged"});
    let outcome = cluster.decide();
    assert_eq!((kinds(&outcome), outcome.converged), (vec![], false));
    assert_eq!(outcome.waiting.as_ref().unwrap().reason, "NotManaged");
    assert_eq!(condition(&outcome, "EncryptionKeyControllerDegraded"), "False  ");
    let degraded = outcome.conditions.iter().filter(|c| c.type_.ends_with("Degraded"));
    assert!(degraded.into_iter().all(|c| c.status == ConditionStatus::False));
}

/// Reports of the health reporter, for the status (openshift: encryption-status).
#[test]
fn health_reports_are_in_the_status() {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!");
    cluster.status = json!({"healthReports": [
        {"nodeName": "a", "keyID": "1", "status": "Healthy", "remoteKeyID": "kek", "lastCheckedTime": "2026-05-08T12:34:56Z"},
        {"nodeName": "b", "keyID": "1", "status": "Error", "remoteKeyID": "kek", "lastCheckedTime": "2026-05-08T12:34:56Z", "detail": "refused"},
        {"nodeName": "b", "keyID": "socket", "status": "Error"},
    ]});
    let shown: Vec<String> = cluster
        .decide()
        .view
        .plugins
        .iter()
        .map(|plugin| format!("{} {} {} {}", plugin.node, plugin.key_id, plugin.status, plugin.detail))
        .collect();
    assert_eq!(shown, ["a 1 Healthy ", "b 1 Error status: refused"]);
}
