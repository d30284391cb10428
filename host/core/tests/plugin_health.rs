//! What is told of plugins: what their agents report, for as long as anything is heard; with the provider's diagnosis; and
//! what waits for it (DESIGN.md, "Health", Decisions 13).

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

fn told(world: &World) -> Vec<String> {
    let plugins = &world.last.view.plugins;
    plugins.iter().map(|plugin| format!("{} {} {}", plugin.node, plugin.key_id, plugin.status)).collect()
}

#[rstest]
#[case::ends_by_itself(
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
fn a_plugin_that_fails_is_told_with_what_was_seen_and_what_to_do(
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
    assert_eq!(told(&world), ["a 1 Healthy", "b 1 Error"]);
    assert!(!world.last.view.plugins[1].remedy.is_empty() && world.last.view.plugins[0].remedy.is_empty());
}

#[test]
fn one_outage_is_one_notice_whatever_words_each_probe_has() {
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
            "the condition has its words: {condition}"
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
    // What the node's clock says means nothing.
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
    assert_eq!(told(&world), ["a 1 Healthy", "b 1 Unknown"]);
    assert!(world.last.unrecorded.iter().all(|fact| fact.ends_with("a/1")), "a dump must replay it");

    // Heard again: at once.
    plugin(&mut world, "b").health.last_checked_time = "1998-01-01T00:00:00Z".into();
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn how_often_a_node_reports_is_its_own_word() {
    let mut world = world();
    let nodes = &mut world.objects.encryption_nodes;
    nodes[0].status.as_mut().unwrap().probe_interval_seconds = Some(5);
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    for _ in 0..3 {
        world.reconcile();
    }
    assert_eq!(told(&world), ["a 1 Unknown", "b 1 Healthy"]);
    assert_eq!(world.last.requeue_after.map(|after| after.as_secs()), Some(90), "when b would be");
}

#[test]
fn nothing_is_promoted_while_nothing_is_heard_of_a_plugin_it_needs() {
    let mut world = world();
    world.want_kms("k2", "img");
    let health = |world: &mut World, status: HealthStatus| {
        let nodes = &mut world.objects.encryption_nodes;
        let status_of_b = nodes.iter_mut().find(|n| n.metadata.name.as_deref() == Some("b")).unwrap();
        for plugin in &mut status_of_b.status.as_mut().unwrap().plugins {
            plugin.health.status = if plugin.key_id == KeyId(2) { status } else { HealthStatus::Healthy };
        }
    };
    // Key 2 is read everywhere, and its plugin is not well on b.
    for _ in 0..30 {
        world.reconcile();
        world.nodes_follow();
        health(&mut world, HealthStatus::Error);
    }
    let waits = |world: &World| world.last.waiting.as_ref().map(|w| w.message.clone()).unwrap_or_default();
    assert!(waits(&world).contains("key 2 on node b is Error"), "{}", waits(&world));
    // What is told last is that it is well, and nothing since.
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

/// Node b's plugin of key 2 does not work with what it was given, whatever is tried beside it.
#[test]
fn a_candidate_that_is_well_does_not_stand_in_for_the_plugin_that_serves() {
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

/// Key 2 waits to become the write key for plugins that wait for another credential: that comes first.
#[test]
fn what_a_plugin_is_unwell_for_want_of_does_not_wait_for_its_health() {
    let mut world = world();
    world.want_kms("k2", "img");
    let mut dead = None;
    let mut reached = false;
    for turn in 0..60 {
        world.reconcile();
        world.nodes_follow();
        if turn == 20 {
            // What key 2's plugins run with by now dies; the admin replaces it.
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
                // Before that nobody is well, so that it is not the writer yet.
                let waits = turn < 20 && plugin.key_id == KeyId(2);
                if waits || Some(&plugin.digest) == dead.as_ref() {
                    plugin.health.status = HealthStatus::Error;
                }
            }
        }
        reached |= world.config().values().all(|list| list.starts_with("kms:2"));
    }
    assert!(reached, "{:?}", world.last.waiting);
}

/// All nodes were rebooted while the KMS is sealed: it keeps the Secrets from being read too.
#[test]
fn trouble_is_told_while_nothing_can_be_decided_and_not_taken_back() {
    let mut world = world();
    let secrets = std::mem::take(&mut world.objects.secrets);
    world.objects.unreadable =
        vec![Unreadable { what: "secrets in keyward-system".into(), why: "the KMS is sealed".into() }];
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "", "what was said stands");

    // One that is only tried is the preflight's to tell.
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
    assert_eq!(world.condition("KMSPluginsDegraded"), "", "nor is it taken back");
    world.objects.secrets = secrets;
    world.objects.unreadable.clear();
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");
}

#[test]
fn what_is_not_reported_yet_is_not_broken_and_what_comes_up_is_the_rollouts_to_tell() {
    let mut world = world();
    for node in &mut world.objects.encryption_nodes {
        node.status.as_mut().unwrap().plugins.clear();
    }
    world.reconcile();
    assert_eq!(world.condition("KMSPluginsDegraded"), "False AsExpected ");

    // Beside one that serves the same key, an instance that is not ready serves nobody.
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
    assert_eq!(told(&world), ["a 1 Healthy", "a 9 Healthy", "b 1 Healthy"]);
    assert_eq!(world.last.view.plugins[1].detail, "orphaned: no revision and no candidate needs it");

    // Of whom nothing is heard: the orphan's report is removed, the node's plugin is not.
    world.silent.extend(["a".to_owned(), "b".to_owned()]);
    for _ in 0..6 {
        world.reconcile();
    }
    assert_eq!(told(&world), ["a 1 Unknown", "b 1 Unknown"]);
    assert!(world.last.view.plugins[1].remedy.contains("kubectl delete encryptionnode b"));
}

/// Its Node is there: to delete its EncryptionNode would make the operator forget an API server that serves.
#[test]
fn a_node_without_its_label_is_named_as_that_and_not_as_gone() {
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
    assert_eq!(told(&world), ["a 1 Healthy", "b 1 Unknown"]);
    let everything = format!("{:?}", world.last);
    assert!(
        !everything.contains("delete encryptionnode") && !everything.contains("Node is gone"),
        "{everything}"
    );
}

#[test]
fn the_end_of_an_agents_certificate_is_warned_of() {
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
        let told = world.last.view.expiries.iter().filter(|expires| expires.kind == "node").count();
        assert_eq!(told, usize::from(at != "never"), "{at}");
    }
}

#[test]
fn a_plugin_that_somebody_edits_is_told() {
    let mut world = world();
    plugin(&mut world, "a").repairs = 2;
    world.silent = ["a".to_owned(), "b".to_owned()].into();
    world.reconcile();
    let told = world.last.notices.iter().find(|notice| notice.reason == "PluginEdited");
    let message =
        "node a: the manifest or the files of key 1's plugin were edited; the agent restored them 2 times";
    assert_eq!(told.map(|notice| notice.message.as_str()), Some(message));
}

#[test]
fn what_expires_is_warned_of_where_a_configuration_refers_to_it() {
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
        "True CredentialExpiring certificate \"CN=x\" in secret credentials, key token, expires at 2026-05-09T12:34:56Z; replace it before"
    );
    let known: Vec<_> = world.last.view.expiries.iter().map(|e| (e.key.clone(), e.seconds_left)).collect();
    assert_eq!(known, [(Some("token".to_owned()), 86_400)]);
    assert!(world.last.notices.iter().any(|notice| notice.reason == "CredentialExpiring" && notice.warning));

    // It cannot be read: what was said stands.
    world.expiries.clear();
    world.unreadable.insert(object);
    world.reconcile();
    assert_eq!(world.condition("KMSCredentialsExpiring"), "");
}
