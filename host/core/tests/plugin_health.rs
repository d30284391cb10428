//! The reported health of plugins: the agents' reports while they are recent, the provider's diagnosis, and
//! the steps that wait for health (decision 0013, decision 0018, invariant: healthy-before-next-step).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test stops at its first surprise

mod support;

use keyward_core::api::{EncryptionNodeStatus, HealthStatus, NodePlugin, PreflightPurpose, PreflightRequest};
use keyward_core::ids::{KeyId, PluginDigest};
use keyward_core::outcome::REPORT_FACTS;
use keyward_core::platform::{Expiry, ExpirySource, ObjectRef, Unreadable};
use keyward_core::provider::{Diagnosis, Failure, ReferenceKind};
use rstest::rstest;
use support::World;

/// Key 1 is in use on both nodes.
fn world() -> World {
    let mut world = World::new(&["a", "b"]);
    world.want_kms("k1", "img");
    world.settle();
    world.log.clear();
    world
}

fn status<'w>(world: &'w mut World, node: &str) -> &'w mut EncryptionNodeStatus {
    let nodes = &mut world.objects.encryption_nodes;
    let node = nodes.iter_mut().find(|n| n.metadata.name.as_deref() == Some(node)).unwrap();
    node.status.as_mut().unwrap()
}

fn plugin<'w>(world: &'w mut World, node: &str) -> &'w mut NodePlugin {
    &mut status(world, node).plugins[0]
}

fn fails(world: &mut World, node: &str, failure: Failure) {
    let plugin = plugin(world, node);
    plugin.health.status = HealthStatus::Error;
    plugin.health.detail = Some(failure.message.clone());
    plugin.ready = failure.phase != "start";
    plugin.health.failure = Some(failure);
}

fn failure(phase: &str, exit_code: Option<i32>, grpc_code: Option<u32>, message: &str) -> Failure {
    Failure {
        phase: phase.into(),
        grpc_code,
        exit_code,
        message: message.into(),
        log_tail: vec!["bye".into()],
    }
}

fn shown(world: &World) -> Vec<String> {
    let plugins = &world.last.view.plugins;
    plugins.iter().map(|plugin| format!("{} {} {}", plugin.node, plugin.key_id, plugin.status)).collect()
}

#[rstest]
#[case::exits(
    failure("start", Some(3), None, "the plugin ended with exit code 3"),
    "start: the plugin ended with exit code 3; its log is in keyward status. Next: The plugin exits and is restarted"
)]
#[case::hangs(
    failure("status", None, Some(4), "status: no answer from the KMS plugin within 10s"),
    "status: no answer from the KMS plugin within 10s; its log is in keyward status. Next: The plugin accepts connections but does not answer"
)]
#[case::unhealthy(
    failure("status", None, None, "status: the KMS plugin is unhealthy: sealed"),
    "status: the KMS plugin is unhealthy: sealed. Next: Read its log"
)]
fn a_failing_plugin_is_reported_with_its_failure_and_its_remedy(
    #[case] failure: Failure,
    #[case] says: &str,
) {
    let mut world = world();
    fails(&mut world, "b", failure);
    world.reconcile();
    let condition = world.condition("KMSPluginsDegraded");
    let impact = "True PluginUnhealthy Writes of configmaps, secrets fail from about 3 minutes after";
    let cause = format!("Cause: the plugin of key 1 on node b is Error: {says}");
    assert!(condition.starts_with(impact) && condition.contains(&cause), "{condition}");
    assert_eq!(shown(&world), ["a 1 Healthy", "b 1 Error"]);
    assert!(!world.last.view.plugins[1].remedy.is_empty() && world.last.view.plugins[0].remedy.is_empty());
}

#[test]
fn one_outage_is_one_notice_for_any_wording_of_its_probes() {
    let mut world = world();
    let announced = |world: &mut World, on: &[(&str, &str)]| {
        for (node, request) in on {
            let message = format!("status: Unavailable: request {request} from 127.0.0.1:4{request}");
            fails(world, node, failure("status", None, Some(14), &message));
        }
        world.reconcile();
        let condition = world.condition("KMSPluginsDegraded");
        let (_, request) = on[0];
        assert!(
            condition.contains(&format!("request {request}")),
            "the condition contains its message: {condition}"
        );
        let mut notices = world.last.notices.iter().filter(|notice| notice.reason == "PluginUnhealthy");
        let notice = notices.next().unwrap();
        assert!(notices.next().is_none() && !notice.message.contains("request"), "{}", notice.message);
        notice.subject.clone()
    };
    let first = announced(&mut world, &[("a", "0112")]);
    assert_eq!(announced(&mut world, &[("a", "0113"), ("b", "0207")]), first);
    let condition = world.condition("KMSPluginsDegraded");
    assert!(condition.contains("key 1 on nodes a, b is Error"), "one line: {condition}");
}

#[test]
fn the_providers_diagnosis_comes_first() {
    let mut world = world();
    world.diagnosis = Some(Diagnosis {
        cause: "Sealed".into(),
        summary: "the KMS is sealed".into(),
        remedy: "Unseal it.".into(),
        retryable: true,
    });
    fails(&mut world, "a", failure("status", None, None, "status: 503"));
    world.reconcile();
    let cause = |seen: &str| {
        format!(
            "Cause: the plugin of key 1 on node a is Error: Sealed: the KMS is sealed{seen}. Next: Unseal it. Then run keyward status."
        )
    };
    let condition = world.condition("KMSPluginsDegraded");
    assert!(condition.ends_with(&cause(" (status: 503)")), "{condition}");
    let event = world.last.notices.iter().find(|notice| notice.reason == "PluginUnhealthy").unwrap();
    assert!(event.warning && event.message.ends_with(&cause("")), "{}", event.message);
    assert!(event.message.contains("Do not restart API servers"), "{}", event.message);
    let plugin = &world.last.view.plugins[0];
    assert_eq!(
        (plugin.detail.as_str(), plugin.remedy.as_str()),
        ("Sealed: the KMS is sealed (status: 503)", "Unseal it.")
    );
}

#[test]
fn a_report_counts_for_four_intervals_by_the_operators_own_clock() {
    let mut world = world();
    // The node's clock does not count.
    plugin(&mut world, "b").health.last_checked_time = "1999-01-01T00:00:00Z".into();
    world.reconcile();
    assert!(world.last.unrecorded.contains(&format!("{REPORT_FACTS}b/1")), "{:?}", world.last.unrecorded);
    world.silent.insert("b".into());
    // Rounds of 30 s: it was seen in the first, and in the sixth it has been seen unchanged for 120.
    for _ in 0..5 {
        world.reconcile();
        assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
    }
    world.reconcile();
    let condition = world.condition("KMSPluginsDegraded");
    let says = "Cause: the plugin of key 1 on node b is Unknown: its last report is older than 120 s; its last status was Healthy. Next: Check whether the node agent runs on b. Then run keyward status.";
    assert!(
        condition.starts_with("True PluginHealthUnknown API servers continue with what they have"),
        "{condition}"
    );
    assert!(condition.ends_with(says), "{condition}");
    assert_eq!(shown(&world), ["a 1 Healthy", "b 1 Unknown"]);
    assert!(world.last.unrecorded.iter().all(|fact| fact.ends_with("a/1")), "a dump must replay it");

    // A new report counts at once.
    plugin(&mut world, "b").health.last_checked_time = "1998-01-01T00:00:00Z".into();
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn the_report_interval_is_the_one_that_the_node_reports() {
    let mut world = world();
    let nodes = &mut world.objects.encryption_nodes;
    nodes[0].status.as_mut().unwrap().probe_interval_seconds = Some(5);
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    for _ in 0..3 {
        world.reconcile();
    }
    assert_eq!(shown(&world), ["a 1 Unknown", "b 1 Healthy"]);
    assert_eq!(
        world.last.requeue_after.map(|after| after.as_secs()),
        Some(90),
        "when b would be unknown too"
    );
}

#[test]
fn no_key_is_promoted_while_a_plugin_that_it_needs_is_not_reported() {
    let mut world = world();
    world.want_kms("k2", "img");
    let health = |world: &mut World, status: HealthStatus| {
        let nodes = &mut world.objects.encryption_nodes;
        let status_of_b = nodes.iter_mut().find(|n| n.metadata.name.as_deref() == Some("b")).unwrap();
        for plugin in &mut status_of_b.status.as_mut().unwrap().plugins {
            plugin.health.status = if plugin.key_id == KeyId(2) { status } else { HealthStatus::Healthy };
        }
    };
    // Key 2 is a read key everywhere, and its plugin is unhealthy on b.
    for _ in 0..30 {
        world.reconcile();
        world.nodes_follow();
        health(&mut world, HealthStatus::Error);
    }
    let waits = |world: &World| world.last.waiting.as_ref().map(|w| w.message.clone()).unwrap_or_default();
    assert!(waits(&world).contains("key 2 on node b is Error"), "{}", waits(&world));
    // The last report says that it is healthy, and none follows.
    world.silent.insert("b".into());
    for _ in 0..8 {
        world.reconcile();
    }
    health(&mut world, HealthStatus::Healthy);
    world.reconcile();
    assert!(waits(&world).contains("key 2 on node b is Unknown"), "{}", waits(&world));
    assert!(world.config().values().all(|list| list.starts_with("kms:1")), "{:?}", world.config());
    world.silent.clear();
    world.ages.clear();
    world.settle();
    assert!(world.config().values().all(|list| list.starts_with("kms:2")), "{:?}", world.config());
}

/// Node b's serving plugin of key 2 fails, even if a candidate beside it works.
#[test]
fn a_healthy_candidate_does_not_count_for_the_serving_plugin() {
    let mut world = world();
    world.want_kms("k2", "img");
    for _ in 0..30 {
        world.reconcile();
        world.nodes_follow();
        let plugins = &mut status(&mut world, "b").plugins;
        if let Some(serving) = plugins.iter_mut().find(|plugin| plugin.key_id == KeyId(2)) {
            let digest = PluginDigest("tried".into());
            let candidate = NodePlugin { ready: false, digest, ..serving.clone() };
            serving.health.status = HealthStatus::Error;
            plugins.push(candidate);
        }
    }
    let waits = world.last.waiting.as_ref().map(|w| w.message.clone()).unwrap_or_default();
    assert!(waits.contains("key 2 on node b is Error"), "{waits}");
    assert!(world.config().values().all(|list| list.starts_with("kms:1")), "{:?}", world.config());
}

/// Key 2 cannot become the write key while its plugins need another credential: the credential is rolled out
/// first.
#[test]
fn a_credential_that_heals_a_plugin_does_not_wait_for_its_health() {
    let mut world = world();
    world.want_kms("k2", "img");
    let mut dead = None;
    let mut reached = false;
    for pass in 0..60 {
        world.reconcile();
        world.nodes_follow();
        if pass == 20 {
            // The credential of key 2's plugins expires; the admin replaces it.
            dead = status(&mut world, "b")
                .plugins
                .iter()
                .find(|p| p.key_id == KeyId(2))
                .map(|p| p.digest.clone());
            assert!(dead.is_some() && world.config().values().all(|list| list.starts_with("kms:1")));
            world.renew_credentials();
        }
        for node in ["a", "b"] {
            for plugin in &mut status(&mut world, node).plugins {
                // Before that no plugin of key 2 is healthy, so that it does not become the write key.
                let waits = pass < 20 && plugin.key_id == KeyId(2);
                if waits || Some(&plugin.digest) == dead.as_ref() {
                    plugin.health.status = HealthStatus::Error;
                }
            }
        }
        reached |= world.config().values().all(|list| list.starts_with("kms:2"));
    }
    assert!(reached, "{:?}", world.last.waiting);
}

/// All nodes were rebooted while the KMS is sealed: the Secrets cannot be read either.
#[test]
fn a_failure_is_reported_but_not_cleared_while_nothing_can_be_decided() {
    let mut world = world();
    let secrets = std::mem::take(&mut world.objects.secrets);
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "the KMS is sealed".into() }];
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "", "the condition stays unchanged");

    // The preflight reports the failure of a candidate.
    let mut candidate = plugin(&mut world, "a").clone();
    candidate.key_id = KeyId(2);
    candidate.digest = PluginDigest("tried".into());
    candidate.ready = false;
    candidate.health.status = HealthStatus::Error;
    let node = &mut world.objects.encryption_nodes[0];
    node.spec.preflight = Some(PreflightRequest {
        key_id: KeyId(2),
        hash: candidate.digest.clone(),
        purpose: PreflightPurpose::NewKey,
        key_check: None,
    });
    node.status.as_mut().unwrap().plugins.push(candidate);
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "");

    for node in ["a", "b"] {
        fails(&mut world, node, failure("start", None, None, "nobody listens"));
    }
    world.reconcile();
    let condition = world.condition("KMSPluginsDegraded");
    let says = "True PluginUnhealthy Writes of encrypted resources fail";
    assert!(condition.starts_with(says), "{condition}");
    assert!(condition.contains("the plugin of key 1 on nodes a, b is Error: "), "{condition}");

    for node in ["a", "b"] {
        let plugin = plugin(&mut world, node);
        plugin.ready = true;
        plugin.health.status = HealthStatus::Healthy;
        (plugin.health.failure, plugin.health.detail) = (None, None);
    }
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "", "the condition is not cleared");
    world.objects.secrets = secrets;
    world.objects.unreadable.clear();
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn a_plugin_that_is_not_reported_yet_or_is_starting_is_not_degraded() {
    let mut world = world();
    for node in &mut world.objects.encryption_nodes {
        node.status.as_mut().unwrap().plugins.clear();
    }
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");

    // An instance that is not ready, beside one that serves the same key, is only starting.
    let mut world = self::world();
    let serving = plugin(&mut world, "a").clone();
    fails(&mut world, "a", failure("start", None, None, "nobody listens"));
    let node = world.objects.encryption_nodes.iter_mut().find(|n| n.metadata.name.as_deref() == Some("a"));
    node.unwrap().status.as_mut().unwrap().plugins.push(serving);
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn orphans_are_named_and_count_until_they_have_left() {
    let mut world = world();
    let mut orphan = plugin(&mut world, "a").clone();
    orphan.key_id = KeyId(9);
    world.objects.encryption_nodes[0].status.as_mut().unwrap().plugins.push(orphan);
    world.objects.nodes.retain(|node| node.metadata.name.as_deref() != Some("b"));
    world.reconcile();
    let explained = world.last.explanation.join("\n");
    assert!(explained.contains("the plugin of key 9 on node a is orphaned"), "{explained}");
    assert!(explained.contains("the Node of EncryptionNode b is gone"), "{explained}");
    assert!(world.last.notices.iter().any(|notice| notice.reason == "NodeGone"));
    assert_eq!(shown(&world), ["a 1 Healthy", "a 9 Healthy", "b 1 Healthy"]);
    assert_eq!(world.last.view.plugins[1].detail, "orphaned: no revision and no candidate needs it");

    // If a node is silent, the report of its orphaned plugin is removed, but not the report of its serving
    // plugin.
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    for _ in 0..6 {
        world.reconcile();
    }
    assert_eq!(shown(&world), ["a 1 Unknown", "b 1 Unknown"]);
    assert!(world.last.view.plugins[1].remedy.contains("kubectl delete encryptionnode b"));
}

/// Its Node exists: deleting its EncryptionNode would make the operator forget an API server that serves.
#[test]
fn a_node_without_its_label_is_not_reported_as_gone() {
    let mut world = world();
    let node =
        world.objects.nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("b")).unwrap();
    node.metadata.labels = None;
    world.silent.insert("b".to_owned());
    for _ in 0..6 {
        world.reconcile();
    }
    let notices = &world.last.notices;
    let notice = notices.iter().find(|notice| notice.reason == "NodeNotLabelled").unwrap();
    let remedy = "kubectl label node b node-role.kubernetes.io/control-plane=";
    assert!(notice.warning && notice.message.contains(remedy), "{}", notice.message);
    assert!(notices.iter().all(|notice| notice.reason != "NodeGone"));
    assert_eq!(shown(&world), ["a 1 Healthy", "b 1 Unknown"]);
    let everything = format!("{:?}", world.last);
    assert!(
        !everything.contains("delete encryptionnode") && !everything.contains("Node is gone"),
        "{everything}"
    );
}

#[test]
fn an_agents_expiring_certificate_is_a_warning() {
    let mut world = world();
    world.reconcile();
    assert_eq!(world.condition("KMSCredentialsExpiring"), "False AsExpected ");
    // World's clock says 2026-05-08.
    for (at, said) in [
        ("2026-06-08T00:00:00Z", "False AsExpected "),
        (
            "2026-06-01T00:00:00Z",
            "True CredentialExpiring the client certificate of the agent on node a expires at 2026-06-01T00:00:00Z; renew the agent's kubeconfig on that node before that time",
        ),
        (
            "2026-05-01T00:00:00Z",
            "True CredentialExpired the client certificate of the agent on node a expired at 2026-05-01T00:00:00Z, so the agent cannot report; renew the agent's kubeconfig on that node",
        ),
        ("never", "False AsExpected "),
    ] {
        status(&mut world, "a").credential_expires = Some(at.to_owned());
        world.silent = ["a".to_owned(), "b".to_owned()].into();
        world.reconcile();
        assert_eq!(world.condition("KMSCredentialsExpiring"), said, "{at}");
        let shown = world.last.view.expiries.iter().filter(|expires| expires.kind == "node").count();
        assert_eq!(shown, usize::from(at != "never"), "{at}");
    }
}

#[test]
fn a_plugin_that_somebody_edits_is_reported() {
    let mut world = world();
    plugin(&mut world, "a").repairs = 2;
    world.silent = ["a".to_owned(), "b".to_owned()].into();
    world.reconcile();
    let shown = world.last.notices.iter().find(|notice| notice.reason == "PluginEdited");
    let message =
        "node a: the manifest or the files of key 1's plugin were edited; the agent restored them 2 times";
    assert_eq!(shown.map(|notice| notice.message.as_str()), Some(message));
}

#[test]
fn an_expiring_certificate_is_a_warning_if_a_configuration_refers_to_it() {
    let mut world = world();
    let expiries = |key: &str, at: &str| {
        let source = ExpirySource::Certificate { key: key.into(), subject: "CN=x".into() };
        vec![Expiry { source, at: Ok(at.parse().unwrap()) }]
    };
    let object = ObjectRef { kind: ReferenceKind::Secret, name: "credentials".into() };
    // World's clock says 2026-05-08.
    world.expiries.insert(object.clone(), expiries("other", "2026-05-09T00:00:00Z"));
    world.reconcile();
    assert_eq!(world.condition("KMSCredentialsExpiring"), "False AsExpected ", "nobody refers to it");

    world.expiries.insert(object.clone(), expiries("token", "2026-05-09T12:34:56Z"));
    world.reconcile();
    assert_eq!(
        world.condition("KMSCredentialsExpiring"),
        "True CredentialExpiring certificate \"CN=x\" in secret credentials, key token, expires at 2026-05-09T12:34:56Z; replace it before that time"
    );
    let known: Vec<_> = world.last.view.expiries.iter().map(|e| (e.key.clone(), e.seconds_left)).collect();
    assert_eq!(known, [(Some("token".to_owned()), 86_400)]);
    assert!(world.last.notices.iter().any(|notice| notice.reason == "CredentialExpiring" && notice.warning));

    // It cannot be read: the condition stays unchanged.
    world.expiries.clear();
    world.unreadable.insert(object);
    world.reconcile();
    assert_eq!(world.condition("KMSCredentialsExpiring"), "");
}
