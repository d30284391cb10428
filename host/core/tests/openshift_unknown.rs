//! OpenShift: an object that is gone, foreign, unknown or not yet observed never counts as absent
//! (invariant: unknown-is-not-absent, decision 0070). On dumps of its objects.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value)]

mod ocp;

use keyward_core::outcome::{Action, Outcome};
use ocp::Cluster;
use rstest::rstest;
use serde_json::{Value, json};

const KUBE_APISERVER: &str = "openshift-kube-apiserver";

fn kinds(outcome: &Outcome) -> Vec<&'static str> {
    outcome.actions.iter().map(Action::kind).collect()
}

fn condition(outcome: &Outcome, type_: &str) -> String {
    let found = outcome.conditions.iter().find(|condition| condition.type_ == type_);
    found.map(|c| format!("{:?} {} {}", c.status, c.reason, c.message)).unwrap_or_default()
}

/// Each resource's list in the configuration that is written.
fn written(outcome: &Outcome) -> Vec<(String, String)> {
    let content = outcome.actions.iter().find_map(|action| match action {
        Action::ApplyManagedConfig { content, .. } => Some(content),
        _ => None,
    });
    let lists = content.map(|content| content.config.lists()).unwrap_or_default();
    lists.into_iter().map(|(resource, list)| (resource, list.join(","))).collect()
}

fn lists(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(resource, list)| ((*resource).to_owned(), (*list).to_owned())).collect()
}

#[rstest]
#[case::secret_is_gone(true, "aescbc:7,aescbc:5,identity")]
#[case::secret_has_no_configuration(false, "aescbc:7,aescbc:5,identity")]
#[case::decrypted_with_a_key_that_has_no_secret(true, "identity,aescbc:4,aesgcm:7")]
fn deployed_configuration_that_is_gone_is_not_replaced_by_plain_text(
    #[case] gone: bool,
    #[case] managed: &str,
) {
    let mut cluster = Cluster::new("aescbc").deployed(managed).keys("7! 5!");
    cluster.deployed_is_gone = gone;
    cluster.deployed = None;
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    assert!(!outcome.converged);
    let waiting = outcome.waiting.clone().unwrap();
    assert_eq!(waiting.reason, "RevisionLost");
    for named in [
        "openshift-kube-apiserver/encryption-config-3",
        "openshift-config-managed/encryption-config-openshift-kube-apiserver",
    ] {
        assert!(waiting.message.contains(named), "{}", waiting.message);
    }
    assert_eq!(condition(&outcome, "Encrypted"), "", "left as it is");
    let said = condition(&outcome, "EncryptionRolloutControllerDegraded");
    assert!(said.starts_with("True RevisionLost "), "{said}");
}

/// A restore lost both configurations but not the keys, which record what was encrypted.
#[rstest]
#[case::both_are_gone(true, None)]
#[case::both_have_no_configuration(false, Some(String::new()))]
fn migrated_key_shows_that_there_was_a_configuration(#[case] gone: bool, #[case] managed: Option<String>) {
    let mut cluster = Cluster::new("aescbc").keys("7! 5!");
    (cluster.deployed, cluster.managed) = (None, None);
    cluster.deployed_is_gone = gone;
    cluster.managed_bytes = managed;
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    let waiting = outcome.waiting.clone().unwrap();
    assert_eq!(waiting.reason, "RevisionLost");
    assert!(waiting.message.contains("recorded as migrated to key 7"), "{}", waiting.message);
}

/// The first configuration is written while no pod has one.
#[test]
fn operator_waits_for_the_first_configuration() {
    let mut cluster = Cluster::new("aescbc").deployed("identity,aescbc:1").keys("1");
    cluster.deployed_is_gone = true;
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new());
    assert_eq!(outcome.waiting.unwrap().reason, "APIServerRevisionNotConverged");

    cluster.managed = None;
    assert_eq!(
        written(&cluster.decide()),
        lists(&[("configmaps", "identity,aescbc:1"), ("secrets", "identity,aescbc:1")])
    );
}

fn with_entry(resource: &str) -> String {
    let list = "aescbc:1,identity";
    ocp::configuration(&[("configmaps", list), (resource, list), ("secrets", list)]).to_string()
}

/// This API server does not store the resource, so the entry has no effect; the migration object belongs to
/// the other one.
#[rstest]
fn entry_of_another_api_servers_resource_leaves_without_decryption(
    #[values("routes.route.openshift.io", "oauthaccesstokens.oauth.openshift.io")] resource: &str,
) {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1!");
    cluster.deployed_bytes = Some(with_entry(resource));
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), Vec::<&str>::new(), "the desired configuration lacks it: it is waited for");

    cluster.managed_bytes = cluster.deployed_bytes.clone();
    let outcome = cluster.decide();
    assert_eq!(kinds(&outcome), ["RecordPublication", "ApplyConfig"], "{:?}", outcome.explanation);
    assert_eq!(
        written(&outcome),
        lists(&[("configmaps", "aescbc:1,identity"), ("secrets", "aescbc:1,identity")])
    );
    assert!(outcome.explanation.iter().any(|why| why.contains(resource)), "{:?}", outcome.explanation);
}

/// In every state of a key, nothing is ever started for a resource of another API server.
#[rstest]
fn no_migration_of_another_api_servers_resource_is_touched(
    #[values("1", "1!", "1! 2", "1! 2!", "")] keys: &str,
    #[values("aescbc", "identity")] mode: &str,
) {
    let mut cluster = Cluster::new(mode).deployed("aescbc:1,identity").keys(keys);
    let bytes = with_entry("routes.route.openshift.io");
    (cluster.deployed_bytes, cluster.managed_bytes) = (Some(bytes.clone()), Some(bytes));
    let mut foreign = ocp::migration("routes", "9", "2026-05-08T11:00:00Z", json!([]));
    foreign["metadata"]["name"] = json!("encryption-migration-route.openshift.io-routes");
    cluster.more.push(foreign);
    for action in &cluster.decide().actions {
        match action {
            Action::StartMigration { resource, .. }
            | Action::RecordMigrated { resource, .. }
            | Action::ForgetMigrated { resource, .. } => {
                assert!(["secrets", "configmaps"].contains(&resource.to_string().as_str()), "{action:?}");
            }
            Action::CreateKey { key } => assert!(key.id.0 < 9, "another component's number"),
            _ => {}
        }
    }
}

fn with_resources(resources: Value) -> String {
    let mut config =
        ocp::configuration(&[("configmaps", "aescbc:1,identity"), ("secrets", "aescbc:1,identity")]);
    config["resources"][1]["resources"] = resources;
    config.to_string()
}

/// Configurations that are not understood, and a part of the message about each.
fn not_understood() -> Vec<(String, &'static str)> {
    vec![
        (with_entry("widgets.example.com"), "widgets.example.com"),
        (with_resources(json!(["secrets", "events"])), ""),
        (with_resources(json!(["*."])), "wildcards"),
        (with_resources(json!(["*.*"])), "wildcards"),
        (with_resources(json!([])), ""),
        (with_resources(json!(null)), ""),
        ("\u{1}".to_owned(), ""),
        ("{}".to_owned(), ""),
        ("kind: EncryptionConfiguration\n---\nkind: EncryptionConfiguration\n".to_owned(), ""),
    ]
}

/// A configuration that is not understood, deployed or desired, blocks: nothing replaces it, and the message
/// names the Secret (invariant: understood-or-untouched).
#[test]
fn configuration_that_is_not_understood_blocks() {
    for (bytes, part) in not_understood() {
        for (desired, name) in [
            (false, "openshift-kube-apiserver/encryption-config-3"),
            (true, "openshift-config-managed/encryption-config-openshift-kube-apiserver"),
        ] {
            for (keys, mode) in [("1!", "aescbc"), ("1! 2", "aescbc"), ("", "aescbc"), ("1!", "identity")] {
                let mut cluster = Cluster::new(mode).deployed("aescbc:1,identity").keys(keys);
                let place = if desired { &mut cluster.managed_bytes } else { &mut cluster.deployed_bytes };
                *place = Some(bytes.clone());
                let outcome = cluster.decide();
                assert_eq!(kinds(&outcome), Vec::<&str>::new(), "{bytes}");
                let waiting = outcome.waiting.clone().unwrap_or_else(|| panic!("{bytes}: nothing is said"));
                assert!(waiting.message.contains(name) && waiting.message.contains(part), "{waiting:?}");
                let said = condition(&outcome, "EncryptionStateControllerDegraded");
                assert!(said.starts_with("True Error invalid encryption config"), "{said}");
                assert_eq!(condition(&outcome, "Encrypted"), "", "left as it is");
            }
        }
    }
}

fn report(node: &str, key: u64, status: &str) -> Value {
    json!({
        "nodeName": node, "keyID": key.to_string(), "status": status, "remoteKeyID": "kek",
        "lastCheckedTime": "2026-05-08T12:34:56Z", "detail": "refused",
    })
}

/// A KMS key becomes the write key once every host of an API server reports its plugin healthy.
#[rstest]
#[case::no_report(json!([]), false)]
#[case::one_node_reports(json!([report("a", 2, "Healthy")]), false)]
#[case::about_another_key(json!([report("a", 1, "Healthy"), report("b", 1, "Healthy")]), false)]
#[case::unhealthy(json!([report("a", 2, "Healthy"), report("b", 2, "Unhealthy")]), false)]
#[case::node_that_left_is_healthy(json!([report("a", 2, "Healthy"), report("z", 2, "Healthy")]), false)]
#[case::node_that_left_is_unhealthy(json!([report("a", 2, "Healthy"), report("b", 2, "Healthy"), report("z", 2, "Error")]), true)]
#[case::all_healthy(json!([report("a", 2, "Healthy"), report("b", 2, "Healthy")]), true)]
fn kms_key_is_promoted_only_by_reports_of_every_host(#[case] reports: Value, #[case] promoted: bool) {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,kms:2,identity").keys("kms:1! kms:2");
    cluster.status = json!({"healthReports": reports});
    let outcome = cluster.decide();
    let next = if promoted { "kms:2,kms:1,identity" } else { "" };
    let expected: Vec<_> = if promoted { lists(&[("configmaps", next), ("secrets", next)]) } else { vec![] };
    assert_eq!(written(&outcome), expected, "{:?}", outcome.explanation);
    if !promoted {
        assert_eq!(kinds(&outcome), Vec::<&str>::new());
        let waiting = outcome.waiting.unwrap();
        assert_eq!(waiting.reason, "PluginUnhealthy");
        assert!(waiting.message.contains("node b"), "{}", waiting.message);
    }
}

#[test]
fn plugins_without_a_report_are_not_yet_observed() {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!");
    assert_eq!(
        condition(&cluster.decide(), "KMSPluginsDegraded"),
        "Unknown NotYetObserved no health report yet: key 1 on node a, key 1 on node b"
    );
    cluster.status = json!({"healthReports": [report("a", 1, "Healthy"), report("b", 1, "Healthy")]});
    assert_eq!(condition(&cluster.decide(), "KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn reports_of_nodes_that_left_are_orphans() {
    let mut cluster = Cluster::new("KMS").deployed("kms:1,identity").keys("kms:1!");
    let here = [report("a", 1, "Healthy"), report("b", 1, "Healthy")];
    cluster.status = json!({"healthReports": [here[0], here[1], report("z", 1, "Error")]});
    let outcome = cluster.decide();
    assert_eq!(condition(&outcome, "KMSPluginsDegraded"), "False AsExpected ");
    assert!(outcome.view.plugins.iter().all(|plugin| plugin.node != "z"));
    let notice = outcome.notices.iter().find(|notice| notice.reason == "OrphanedHealthReport").unwrap();
    assert!(notice.message.contains("node z"), "{}", notice.message);
}

/// A restore brought back a configuration whose key secret it did not have.
#[rstest]
#[case::the_only_key("aescbc:6,identity", "", "6")]
#[case::the_write_key("aescbc:6,aescbc:5,identity", "5!", "6")]
#[case::kms("kms:6,identity", "", "6")]
fn key_whose_secret_is_gone_is_reported_as_lost(
    #[case] deployed: &str,
    #[case] keys: &str,
    #[case] id: &str,
) {
    let outcome = Cluster::new("aescbc").deployed(deployed).keys(keys).decide();
    assert_eq!(
        condition(&outcome, "Encrypted"),
        format!(
            "False EncryptionInProgress Encrypted with key {id}, which is lost (its secret is gone); a new key must replace it"
        )
    );
    let notice = outcome.notices.iter().find(|notice| notice.reason == "KeyLost").unwrap();
    let secret = format!("openshift-config-managed/encryption-key-openshift-kube-apiserver-{id}");
    assert!(notice.warning && notice.message.contains(&secret), "{}", notice.message);
}

/// A lost key that is only a read key is reported too.
#[test]
fn lost_read_key_is_named() {
    let outcome = Cluster::new("aescbc").deployed("aescbc:6,aescbc:5,identity").keys("6!").decide();
    assert!(condition(&outcome, "Encrypted").starts_with("True EncryptionCompleted"));
    let notice = outcome.notices.iter().find(|notice| notice.reason == "KeyLost").unwrap();
    assert!(notice.message.starts_with("key 5 is lost"), "{}", notice.message);
}

/// OpenShift stores no high-water mark: every object that names a number prevents its use for another key.
#[rstest]
#[case::nothing_else(vec![], json!([]), 2)]
#[case::migration(vec![ocp::migration("secrets", "7", "2026-05-08T11:00:00Z", json!([]))], json!([]), 8)]
#[case::health_report(vec![], json!([report("a", 7, "Healthy")]), 8)]
#[case::absurd_health_report(vec![], json!([report("a", i64::MAX.unsigned_abs(), "Healthy")]), 18)]
#[case::older_revision_that_is_not_understood(vec![json!({
    "apiVersion": "v1", "kind": "Secret",
    "metadata": {"name": "encryption-config-2", "namespace": KUBE_APISERVER},
    "data": {"encryption-config": "e30K", "kms-plugin-config-7": "e30K"},
})], json!([]), 8)]
fn number_that_an_object_names_is_not_given_to_another_key(
    #[case] more: Vec<Value>,
    #[case] reports: Value,
    #[case] next: u64,
) {
    let mut cluster = Cluster::new("aescbc").deployed("aescbc:1,identity").keys("1!");
    cluster.operator_spec = json!({"unsupportedConfigOverrides": {"encryption": {"reason": "audit"}}});
    cluster.more = more;
    cluster.status = json!({"healthReports": reports});
    let outcome = cluster.decide();
    let [Action::CreateKey { key }] = outcome.actions.as_slice() else { panic!("{:?}", outcome.actions) };
    assert_eq!(key.id.0, next);
    let said = condition(&outcome, "EncryptionKeyControllerDegraded");
    assert_eq!(said.contains("node a: "), next == 18, "{said}");
}
