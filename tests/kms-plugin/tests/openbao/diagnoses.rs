//! Causes every failure that the Vault module diagnoses: the module gets exactly the failures in its
//! fixtures. (`cargo xtask test providers` runs the module's diagnoses on the fixtures.)

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use futures::{FutureExt as _, future::LocalBoxFuture};
use keyward_core::provider::Failure;
use keyward_kms::ProbeSpec;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::bao::{Bao, Credentials, eventually, free_port, policy};
use crate::plugin::{PATIENCE, Plan, ROUND_TRIP, STATUS};
use crate::{seen, servers};

/// Fixtures whose failures this test cannot cause, and why.
const NOT_SEEN: [(&str, &str); 15] = [
    (
        "a Vault without an active node is recognized",
        "OpenBao redirects to the active node that it knew last",
    ),
    ("an unknown CA is recognized in rustls' texts too", "the plugin has Go's texts"),
    ("a certificate for another name is recognized in rustls' texts too", "the plugin has Go's texts"),
    ("a Vault without Enterprise is recognized", "OpenBao has no license, the plugin does not read one"),
    ("an expired license is recognized", "OpenBao has no license, the plugin does not read one"),
    ("an image that cannot be pulled is recognized", "the text is the kubelet's"),
    ("a missing AppRole auth method is recognized", "OpenBao denies a login at a mount that does not exist"),
    ("a denial without a path is recognized by its phase", "the plugin's errors contain the path"),
    ("the diagnosis of a denial without details names all rights", "the plugin's errors contain the path"),
    ("an unknown failure has no diagnosis", "no known failure has this text"),
    ("an expired token is recognized", "the plugin logs in again by itself"),
    ("a Vault without the license path is not Enterprise", "the plugin does not read the license"),
    ("denied access to the license is recognized", "the plugin does not read the license"),
    ("an earlier log line does not decide about a current failure", "a combination of two other fixtures"),
    (
        "a plugin that does not listen has no diagnosis about Vault",
        "the agent reports a socket without an exit of the container",
    ),
];
/// The DNS of the machine decides which of these texts a host without an address causes.
const DNS: [&str; 4] = [
    "an unknown host is recognized",
    "a DNS that does not answer is recognized",
    "a proxy that DNS does not know is recognized",
    "a DNS that does not answer for a proxy is recognized",
];
/// Fixtures with the other spelling of a configuration, and the fixtures whose failures they repeat.
const AGAIN: [(&str, &str); 2] = [
    (
        "the diagnosis of a refused login names the earlier spelling if it is used",
        "the diagnosis of a refused login names the Secret",
    ),
    (
        "the diagnosis of a missing key names the earlier spelling if it is used",
        "the diagnosis of a missing key names the field",
    ),
];

#[derive(Deserialize)]
struct Fixtures {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    failure: Failure,
}

/// The failures that occurred, by the names of fixtures.
type Seen = Vec<(&'static str, Failure)>;

#[tokio::test(flavor = "multi_thread")]
async fn the_module_gets_exactly_the_failures_in_its_fixtures() {
    let scenes: [LocalBoxFuture<'static, Seen>; 9] = [
        permissions().boxed_local(),
        keys().boxed_local(),
        tokens().boxed_local(),
        logins().boxed_local(),
        tls().boxed_local(),
        addresses().boxed_local(),
        other_servers().boxed_local(),
        proxies().boxed_local(),
        standby().boxed_local(),
    ];
    let seen: BTreeMap<_, _> = futures::future::join_all(scenes).await.into_iter().flatten().collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../providers/vault/fixtures/diagnoses.yaml");
    let fixtures: Fixtures = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let of_fixtures: BTreeMap<_, _> = fixtures.cases.iter().map(|case| (case.name.as_str(), case)).collect();

    let mut wrong = Vec::new();
    for (name, failure) in &seen {
        match of_fixtures.get(name) {
            Some(case) if case.failure == *failure => {}
            _ => {
                wrong.push(format!("- name: {name}\n  failure: {}", serde_json::to_string(failure).unwrap()));
            }
        }
    }
    assert!(wrong.is_empty(), "these failures are not in the fixtures:\n{}", wrong.join("\n"));
    for name in of_fixtures.keys().filter(|name| !DNS.contains(name)) {
        let excused =
            NOT_SEEN.iter().any(|(not, _)| not == name) || AGAIN.iter().any(|(again, _)| again == name);
        assert!(
            excused != seen.contains_key(name),
            "{name}: cause the failure, or list why that is not possible"
        );
    }
    for (again, first) in AGAIN {
        assert_eq!(of_fixtures[again].failure, of_fixtures[first].failure, "{again}");
    }
}

/// An OpenBao with the fixtures' key, and the plugin's command line for it.
async fn vault() -> (Bao, Credentials) {
    let bao = Bao::start().await;
    bao.mount_transit("").await;
    bao.post("", "transit/keys/kek", json!({})).await;
    let credentials = bao.credentials("", &policy("transit", "kek"), json!({})).await;
    (bao, credentials)
}

fn plan(bao: &Bao, credentials: &Credentials) -> Plan {
    Plan::new(bao, credentials).with("vault-key-path", "transit/keys/kek")
}

fn fixture(failure: &Failure, address: &str, credentials: &Credentials) -> Failure {
    let failure = seen::in_fixtures_form(failure, address);
    let text = serde_json::to_string(&failure).unwrap();
    assert!(!text.contains(&credentials.secret_id), "a secret in {text}");
    failure
}

/// Missing permissions of a policy.
async fn permissions() -> Seen {
    let (bao, credentials) = vault().await;
    let plugin = plan(&bao, &credentials).start();
    plugin.ready().await;
    let key_check = plugin.key_check().await;
    let key_check = ProbeSpec { key_check: Some(&key_check), ..STATUS };
    let mut all = Vec::new();
    for (name, permission, spec) in [
        ("a policy without read is recognized", "keys", &STATUS),
        ("a policy without encrypt is recognized", "encrypt", &ROUND_TRIP),
        ("a policy without decrypt is recognized", "decrypt", &ROUND_TRIP),
        ("a denied decryption of the key check is recognized by its phase", "decrypt", &key_check),
    ] {
        let without = policy("transit", "kek").replace(&format!("transit/{permission}"), "transit/none");
        bao.set_policy("", &without).await;
        all.push((
            name,
            fixture(&seen::running(&plugin, spec, &credentials).await, &bao.address, &credentials),
        ));
    }
    all
}

/// Failures of the key, or its mount.
async fn keys() -> Seen {
    let (bao, credentials) = vault().await;
    let plugin = plan(&bao, &credentials).start();
    plugin.ready().await;
    let first = plugin.key_check().await;
    bao.post("", "transit/keys/kek/rotate", json!({})).await;
    plugin.ready().await;
    let second = plugin.key_check().await;
    let of = |key_check| ProbeSpec { key_check: Some(key_check), ..STATUS };
    let mut all = Vec::new();
    let mut add = |name, failure: Failure| all.push((name, fixture(&failure, &bao.address, &credentials)));

    bao.post("", "transit/keys/kek/config", json!({"min_decryption_version": 2})).await;
    let refused = seen::running(&plugin, &of(&first), &credentials).await;
    add("a version that Vault no longer decrypts is recognized", refused);

    bao.post("", "transit/keys/kek/config", json!({"deletion_allowed": true})).await;
    bao.delete("", "transit/keys/kek").await;
    let missing = seen::running(&plugin, &STATUS, &credentials).await;
    add("the diagnosis of a missing key names the field", missing);
    bao.post("", "transit/keys/kek", json!({})).await;
    let other = seen::running(&plugin, &of(&first), &credentials).await;
    add("a key that was created again under its name is recognized", other);
    let newer = seen::running(&plugin, &of(&second), &credentials).await;
    add("a ciphertext newer than the key is another key's", newer);

    for (name, settings) in [
        ("a key that needs a context is recognized", json!({"derived": true})),
        ("a key that cannot encrypt is recognized", json!({"type": "ecdsa-p256"})),
    ] {
        bao.post("", "transit/keys/kek/config", json!({"deletion_allowed": true})).await;
        bao.delete("", "transit/keys/kek").await;
        bao.post("", "transit/keys/kek", settings).await;
        add(name, seen::running(&plugin, &ROUND_TRIP, &credentials).await);
    }

    bao.delete("", "sys/mounts/transit").await;
    let unmounted = seen::running(&plugin, &STATUS, &credentials).await;
    add("a missing mount is recognized", unmounted);
    all
}

/// Failures of a plugin that is logged in.
async fn tokens() -> Seen {
    let (bao, credentials) = vault().await;
    let plugin = plan(&bao, &credentials).start();
    plugin.ready().await;
    let mut all = Vec::new();
    let mut add = |name, failure: Failure| all.push((name, fixture(&failure, &bao.address, &credentials)));

    let quota = json!({"path": "transit", "rate": 1.0, "interval": "1h"});
    bao.post("", "sys/quotas/rate-limit/one", quota).await;
    eventually("the limit", async || plugin.probe(&STATUS).await.result.is_err()).await;
    add("a rate limit is recognized", seen::running(&plugin, &STATUS, &credentials).await);
    bao.delete("", "sys/quotas/rate-limit/one").await;

    bao.delete("", "sys/auth/approle").await;
    let denied = seen::running(&plugin, &STATUS, &credentials).await;
    add("a denied repeated login is recognized", denied);

    bao.post("", "sys/seal", json!({})).await;
    add("a sealed Vault is recognized", seen::running(&plugin, &STATUS, &credentials).await);
    let sealed = plan(&bao, &credentials).with("vault-connection-timeout", PATIENCE);
    add("the cause can be in the log only", seen::ended(sealed, &credentials).await);

    let address = bao.address.clone();
    drop(bao);
    eventually("OpenBao to be gone", async || {
        let healthz = plugin.probe(&STATUS).await.status.map(|status| status.healthz);
        healthz.is_some_and(|healthz| healthz.contains("connection refused"))
    })
    .await;
    let gone = seen::running(&plugin, &STATUS, &credentials).await;
    let name = "a Vault that starts to refuse connections is unreachable";
    all.push((name, fixture(&gone, &address, &credentials)));
    all
}

/// Refused logins. OpenBao has the same text for a secret id that is wrong, used up or expired.
async fn logins() -> Seen {
    let (bao, good) = vault().await;
    let mut all = Vec::new();
    let mut add = |name, failure: Failure, with: &Credentials| {
        all.push((name, fixture(&failure, &bao.address, with)));
    };
    let wrong = Credentials { secret_id: "00000000-wrong-secret-id".into(), ..good.clone() };
    let refused = seen::ended(plan(&bao, &wrong), &wrong).await;
    add("the diagnosis of a refused login names the Secret", refused, &wrong);

    let fresh = async |settings| {
        let answer = bao.post("", "auth/approle/role/plugin/secret-id", settings).await;
        let secret_id = answer.pointer("/data/secret_id").and_then(|id| id.as_str()).unwrap().to_owned();
        Credentials { secret_id, ..good.clone() }
    };
    let used_up = fresh(json!({"num_uses": 1})).await;
    plan(&bao, &used_up).start().ready().await;
    let refused = seen::ended(plan(&bao, &used_up), &used_up).await;
    add("a used-up secret id is refused like a wrong one", refused, &used_up);

    let expired = fresh(json!({"ttl": "1s"})).await;
    eventually("a secret id to expire", async || {
        let mut plugin = plan(&bao, &expired).start();
        eventually("a login or its refusal", async || {
            plugin.log().contains("logged in\"") || plugin.log().contains("failed to log in")
        })
        .await;
        let refused = !plugin.log().contains("\"logged in\"");
        plugin.terminate();
        plugin.ended().await;
        refused
    })
    .await;
    let refused = seen::ended(plan(&bao, &expired), &expired).await;
    add("an expired secret id is refused like a wrong one", refused, &expired);

    let elsewhere = json!(["192.0.2.0/24"]);
    let bound = fresh(json!({"cidr_list": elsewhere})).await;
    let refused = seen::ended(plan(&bao, &bound), &bound).await;
    add("a secret id that is bound to other addresses is recognized", refused, &bound);
    let role = |settings| bao.post("", "auth/approle/role/plugin", settings);
    role(json!({"token_bound_cidrs": elsewhere})).await;
    let plugin = plan(&bao, &good).start_answering().await;
    let denied = seen::running(&plugin, &STATUS, &good).await;
    add("a token that is bound to other addresses is denied everything", denied, &good);
    role(json!({"token_bound_cidrs": [], "secret_id_bound_cidrs": elsewhere})).await;
    let refused = seen::ended(plan(&bao, &good), &good).await;
    add("an AppRole that is bound to other addresses is recognized", refused, &good);
    role(json!({"secret_id_bound_cidrs": []})).await;

    bao.post("", "sys/namespaces/admin", json!({})).await;
    bao.post("admin", "sys/namespaces/logins", json!({})).await;
    let inside = || plan(&bao, &good).with("vault-namespace", "admin");
    let denied = seen::ended(inside().with("vault-auth-namespace", "admin/logins"), &good).await;
    add("the diagnosis of a denied login names the namespace", denied, &good);
    bao.post("", "sys/namespaces/api-lock/lock/admin", json!({})).await;
    let locked = inside().with("vault-connection-timeout", PATIENCE);
    add("a namespace that is locked is recognized", seen::ended(locked, &good).await, &good);
    let (without, login) = vault().await;
    let inside = plan(&without, &login).with("vault-namespace", "admin");
    let unknown = seen::ended(inside.with("vault-auth-namespace", "admin/logins"), &login).await;
    let flag = plan(&bao, &good).with("vault-new-flag", "1");
    add("an unknown argument is recognized", seen::ended(flag, &good).await, &good);
    all.push(("a missing namespace is recognized", fixture(&unknown, &without.address, &login)));
    all
}

/// Failures of certificates.
async fn tls() -> Seen {
    let (bao, credentials) = vault().await;
    let short = |plan: Plan| plan.with("vault-connection-timeout", PATIENCE);
    let mut all = Vec::new();
    let mut add = |name, failure: &Failure, address: &str| {
        all.push((name, fixture(failure, address, &credentials)));
    };
    let unknown = seen::ended(short(plan(&bao, &credentials).without("tls-ca-file")), &credentials).await;
    add("an unknown CA is recognized", &unknown, &bao.address);
    let other = short(plan(&bao, &credentials).with("tls-sni", "vault.example.com"));
    let other = seen::ended(other, &credentials).await;
    add("a certificate for another name is recognized", &other, &bao.address);
    let empty = short(plan(&bao, &credentials).with("tls-ca-file", "/dev/null"));
    add(
        "a CA bundle without a certificate is recognized",
        &seen::ended(empty, &credentials).await,
        &bao.address,
    );

    let (expired, key) = certificate(&["127.0.0.1"], 2020);
    let server = Bao::uninitialised(&expired, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    add("an expired certificate is recognized", &refused, &server.address);
    let (nameless, key) = certificate(&[], 4000);
    let server = Bao::uninitialised(&nameless, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    add("a certificate without a subject alternative name is recognized", &refused, &server.address);
    let (valid, key) = certificate(&["127.0.0.1"], 4000);
    let server = Bao::listening(&valid, &key, &json!({"tls_require_and_verify_client_cert": true}));
    let refused =
        seen::ended(plan(&server, &credentials).with("vault-connection-timeout", "8s"), &credentials);
    add("a server that asks for a client certificate is recognized", &refused.await, &server.address);
    let server = Bao::uninitialised(&valid, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    add("a Vault that is not initialized is recognized", &refused, &server.address);
    all
}

fn certificate(names: &[&str], until: i32) -> (String, String) {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 2, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Credentials for servers that do not check any.
fn nobody() -> Credentials {
    Credentials { role_id: "nobody".into(), secret_id: "00000000-secret-id".into() }
}

/// The command line for this address, with a short timeout.
fn towards(address: &str) -> Plan {
    let plan = Plan::bare(&nobody()).with("vault-address", address);
    plan.with("vault-key-path", "transit/keys/kek").with("vault-connection-timeout", PATIENCE)
}

/// Servers that are not Vault, or that send texts which this OpenBao cannot be made to send.
async fn other_servers() -> Seen {
    let mut all = Vec::new();
    for (name, status, body) in [
        ("a login page in place of Vault is recognized", "200 OK", "<!DOCTYPE html><title>Sign in</title>"),
        ("a not-found page in place of Vault is recognized", "404 Not Found", "<html>no such page</html>"),
        (
            "a proxy without a Vault behind it is unreachable",
            "503 Service Unavailable",
            "no healthy upstream",
        ),
        // The text is also a constant of OpenBao, which has no such quota.
        (
            "a lease quota is recognized",
            "429 Too Many Requests",
            r#"{"errors":["request path \"auth/approle/login\": lease count quota exceeded"]}"#,
        ),
    ] {
        let address = format!("http://127.0.0.1:{}", servers::answering(status, body).await);
        all.push((name, fixture(&seen::ended(towards(&address), &nobody()).await, &address, &nobody())));
    }
    all
}

/// Proxies between the plugin and Vault.
async fn proxies() -> Seen {
    // Not the fixtures' host, which replaces an address in the plugin's texts.
    const VAULT: &str = "https://vault.test:8200";
    let through = async |proxy: &str| {
        let plan = towards(VAULT).through(&format!("http://{proxy}"));
        let failure = seen::with(&seen::ended(plan, &nobody()).await, proxy, "192.0.2.8:3128");
        fixture(&failure, VAULT, &nobody())
    };
    let closed = through(&format!("127.0.0.1:{}", free_port(Ipv4Addr::LOCALHOST))).await;
    let unknown = through("proxy.invalid:3128").await;
    let login = servers::answering("407 Proxy Authentication Required", "").await;
    let login = through(&format!("127.0.0.1:{login}")).await;
    let [.., no_such_host, no_answer] = DNS;
    let is_unknown = unknown.log_tail.iter().any(|line| line.contains("no such host"));
    vec![
        ("a proxy that cannot be reached is recognized", closed),
        ("a proxy that asks for a login is recognized", login),
        (if is_unknown { no_such_host } else { no_answer }, unknown),
    ]
}

/// A standby that redirects to its active node, which has stopped.
async fn standby() -> Seen {
    let (certificate, key) = certificate(&["127.0.0.1"], 4000);
    let standby = servers::standby(&certificate, &key).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &certificate).unwrap();
    let plan = towards(&standby.address).with("tls-ca-file", &ca.display().to_string());
    let failure = seen::ended(plan, &nobody()).await;
    let failure = seen::with(&failure, &standby.gone, "https://vault-1.example.com:8200");
    let host = standby.gone.trim_start_matches("https://");
    let failure = seen::with(&failure, host, "192.0.2.8:8200");
    vec![(
        "a standby whose active node is gone is recognized",
        fixture(&failure, &standby.address, &nobody()),
    )]
}

/// Addresses without a Vault.
async fn addresses() -> Seen {
    let of =
        async |address: &str| fixture(&seen::ended(towards(address), &nobody()).await, address, &nobody());
    let closed = of(&format!("https://127.0.0.1:{}", free_port(Ipv4Addr::LOCALHOST))).await;
    let unknown = of("https://vault.invalid:8200").await;
    // The kernel accepts connections for it, and it never responds.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let timed_out = of(&format!("https://{}", silent.local_addr().unwrap())).await;
    let plain = plain_http().await;
    let plain = of(&format!("https://127.0.0.1:{plain}")).await;
    let [no_such_host, no_answer, ..] = DNS;
    let is_unknown = unknown.log_tail.iter().any(|line| line.contains("no such host"));
    vec![
        ("a Vault that refuses connections is unreachable", closed),
        ("a Vault that does not answer in time is unreachable", timed_out),
        ("a port that serves plain HTTP is recognized", plain),
        (if is_unknown { no_such_host } else { no_answer }, unknown),
    ]
}

/// Starts an HTTP server without TLS, which runs while the test does. Returns its port.
async fn plain_http() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
    port
}
