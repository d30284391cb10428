//! Everything that the Vault module has a diagnosis for, brought about: what it is told of it is what its fixtures say.
//! (`cargo xtask test providers` has the module diagnose the fixtures.)

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

/// Fixtures that no server and no plugin here can be brought to say, and why.
const NOT_SEEN: [(&str, &str); 15] = [
    ("a Vault without an active node is named", "OpenBao redirects to the active node that it knew last"),
    ("a CA that is not known is named in rustls' words too", "the plugin speaks Go's"),
    ("a certificate for another name is named in rustls' words too", "the plugin speaks Go's"),
    ("a Vault without Enterprise is named", "OpenBao has no licences, the plugin asks for none"),
    ("a licence that is over is named", "OpenBao has no licences, the plugin asks for none"),
    ("an image that cannot be had is named", "the kubelet's words"),
    ("an AppRole that is not mounted is named", "OpenBao denies a login at what it does not have"),
    ("a denial without a path is told by its phase", "the plugin's errors name the path"),
    ("a denial that nothing more is known of names all rights", "the plugin's errors name the path"),
    ("what is not known is not guessed", "nothing that is known says it"),
    ("a token that is over is named", "the plugin logs in again by itself"),
    ("a Vault without a licence's path is not Enterprise", "the plugin asks for no licence"),
    ("a licence that may not be read is named", "the plugin asks for no licence"),
    ("what was logged before says nothing of what fails now", "made of two that are seen"),
    (
        "a plugin that does not listen says nothing about Vault",
        "a socket without a container's end is the agent's to tell",
    ),
];
/// Which of the two a machine says of a host that is none is its DNS's business.
const DNS: [&str; 4] = [
    "a host that DNS does not know is named",
    "a DNS that does not answer is named",
    "a proxy that DNS does not know is named",
    "a DNS that does not answer for a proxy is named",
];
/// The other spelling of a configuration, with a failure of another fixture's.
const AGAIN: [(&str, &str); 2] = [
    (
        "a refused login names the earlier spelling where that is written",
        "a refused login is named with its Secret",
    ),
    (
        "a key that does not exist names the earlier spelling where that is written",
        "a key that does not exist is named with its field",
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

/// What was seen, by the fixtures' names.
type Seen = Vec<(&'static str, Failure)>;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_module_is_told_is_what_its_fixtures_say() {
    let scenes: [LocalBoxFuture<'static, Seen>; 9] = [
        rights().boxed_local(),
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
    assert!(wrong.is_empty(), "seen, and not what the fixtures say:\n{}", wrong.join("\n"));
    for name in of_fixtures.keys().filter(|name| !DNS.contains(name)) {
        let told =
            NOT_SEEN.iter().any(|(not, _)| not == name) || AGAIN.iter().any(|(again, _)| again == name);
        assert!(told != seen.contains_key(name), "{name}: either it is seen or it is told why not");
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

fn told(failure: &Failure, address: &str, credentials: &Credentials) -> Failure {
    let failure = seen::in_fixtures_words(failure, address);
    let text = serde_json::to_string(&failure).unwrap();
    assert!(!text.contains(&credentials.secret_id), "a secret in {text}");
    failure
}

/// What a policy lacks.
async fn rights() -> Seen {
    let (bao, credentials) = vault().await;
    let plugin = plan(&bao, &credentials).start();
    plugin.ready().await;
    let key_check = plugin.key_check().await;
    let key_check = ProbeSpec { key_check: Some(&key_check), ..STATUS };
    let mut all = Vec::new();
    for (name, right, spec) in [
        ("a policy without read is named", "keys", &STATUS),
        ("a policy without encrypt is named", "encrypt", &ROUND_TRIP),
        ("a policy without decrypt is named", "decrypt", &ROUND_TRIP),
        ("a key check that may not be decrypted is told by its phase", "decrypt", &key_check),
    ] {
        let without = policy("transit", "kek").replace(&format!("transit/{right}"), "transit/none");
        bao.set_policy("", &without).await;
        all.push((name, told(&seen::running(&plugin, spec, &credentials).await, &bao.address, &credentials)));
    }
    all
}

/// What is wrong with the key, or its mount.
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
    let mut tell = |name, failure: Failure| all.push((name, told(&failure, &bao.address, &credentials)));

    bao.post("", "transit/keys/kek/config", json!({"min_decryption_version": 2})).await;
    let refused = seen::running(&plugin, &of(&first), &credentials).await;
    tell("a version that Vault no longer decrypts is named", refused);

    bao.post("", "transit/keys/kek/config", json!({"deletion_allowed": true})).await;
    bao.delete("", "transit/keys/kek").await;
    let missing = seen::running(&plugin, &STATUS, &credentials).await;
    tell("a key that does not exist is named with its field", missing);
    bao.post("", "transit/keys/kek", json!({})).await;
    let other = seen::running(&plugin, &of(&first), &credentials).await;
    tell("a key made anew under its name is named", other);
    let newer = seen::running(&plugin, &of(&second), &credentials).await;
    tell("a ciphertext newer than the key is another key's", newer);

    for (name, settings) in [
        ("a key that needs a context is named", json!({"derived": true})),
        ("a key that cannot encrypt is named", json!({"type": "ecdsa-p256"})),
    ] {
        bao.post("", "transit/keys/kek/config", json!({"deletion_allowed": true})).await;
        bao.delete("", "transit/keys/kek").await;
        bao.post("", "transit/keys/kek", settings).await;
        tell(name, seen::running(&plugin, &ROUND_TRIP, &credentials).await);
    }

    bao.delete("", "sys/mounts/transit").await;
    let unmounted = seen::running(&plugin, &STATUS, &credentials).await;
    tell("a mount that does not exist is named", unmounted);
    all
}

/// What happens to a plugin that was logged in.
async fn tokens() -> Seen {
    let (bao, credentials) = vault().await;
    let plugin = plan(&bao, &credentials).start();
    plugin.ready().await;
    let mut all = Vec::new();
    let mut tell = |name, failure: Failure| all.push((name, told(&failure, &bao.address, &credentials)));

    let quota = json!({"path": "transit", "rate": 1.0, "interval": "1h"});
    bao.post("", "sys/quotas/rate-limit/one", quota).await;
    eventually("the limit", async || plugin.probe(&STATUS).await.result.is_err()).await;
    tell("a rate limit is named", seen::running(&plugin, &STATUS, &credentials).await);
    bao.delete("", "sys/quotas/rate-limit/one").await;

    bao.delete("", "sys/auth/approle").await;
    let denied = seen::running(&plugin, &STATUS, &credentials).await;
    tell("a plugin that may not log in again is named", denied);

    bao.post("", "sys/seal", json!({})).await;
    tell("a sealed Vault is named", seen::running(&plugin, &STATUS, &credentials).await);
    let sealed = plan(&bao, &credentials).with("vault-connection-timeout", PATIENCE);
    tell("the cause may stand in the log alone", seen::ended(sealed, &credentials).await);

    let address = bao.address.clone();
    drop(bao);
    eventually("OpenBao to be gone", async || {
        let healthz = plugin.probe(&STATUS).await.status.map(|status| status.healthz);
        healthz.is_some_and(|healthz| healthz.contains("connection refused"))
    })
    .await;
    let gone = seen::running(&plugin, &STATUS, &credentials).await;
    let name = "a Vault that nobody answers for any more is unreachable";
    all.push((name, told(&gone, &address, &credentials)));
    all
}

/// Logins that are refused. OpenBao says the same of a secret id that is wrong, used up or expired.
async fn logins() -> Seen {
    let (bao, good) = vault().await;
    let mut all = Vec::new();
    let mut tell = |name, failure: Failure, with: &Credentials| {
        all.push((name, told(&failure, &bao.address, with)));
    };
    let wrong = Credentials { secret_id: "00000000-wrong-secret-id".into(), ..good.clone() };
    let refused = seen::ended(plan(&bao, &wrong), &wrong).await;
    tell("a refused login is named with its Secret", refused, &wrong);

    let fresh = async |settings| {
        let answer = bao.post("", "auth/approle/role/plugin/secret-id", settings).await;
        let secret_id = answer.pointer("/data/secret_id").and_then(|id| id.as_str()).unwrap().to_owned();
        Credentials { secret_id, ..good.clone() }
    };
    let used_up = fresh(json!({"num_uses": 1})).await;
    plan(&bao, &used_up).start().ready().await;
    let refused = seen::ended(plan(&bao, &used_up), &used_up).await;
    tell("a secret id that is used up is refused as a wrong one is", refused, &used_up);

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
    tell("a secret id that has expired is refused as a wrong one is", refused, &expired);

    let elsewhere = json!(["192.0.2.0/24"]);
    let bound = fresh(json!({"cidr_list": elsewhere})).await;
    let refused = seen::ended(plan(&bao, &bound), &bound).await;
    tell("a secret id that is bound to other addresses is named", refused, &bound);
    let role = |settings| bao.post("", "auth/approle/role/plugin", settings);
    role(json!({"token_bound_cidrs": elsewhere})).await;
    let plugin = plan(&bao, &good).start_answering().await;
    let denied = seen::running(&plugin, &STATUS, &good).await;
    tell("a token that is bound to other addresses is denied all", denied, &good);
    role(json!({"token_bound_cidrs": [], "secret_id_bound_cidrs": elsewhere})).await;
    let refused = seen::ended(plan(&bao, &good), &good).await;
    tell("an AppRole that is bound to other addresses is named", refused, &good);
    role(json!({"secret_id_bound_cidrs": []})).await;

    bao.post("", "sys/namespaces/admin", json!({})).await;
    bao.post("admin", "sys/namespaces/logins", json!({})).await;
    let inside = || plan(&bao, &good).with("vault-namespace", "admin");
    let denied = seen::ended(inside().with("vault-auth-namespace", "admin/logins"), &good).await;
    tell("a login that is denied is named with its namespace", denied, &good);
    bao.post("", "sys/namespaces/api-lock/lock/admin", json!({})).await;
    let locked = inside().with("vault-connection-timeout", PATIENCE);
    tell("a namespace that is locked is named", seen::ended(locked, &good).await, &good);
    let (without, login) = vault().await;
    let inside = plan(&without, &login).with("vault-namespace", "admin");
    let unknown = seen::ended(inside.with("vault-auth-namespace", "admin/logins"), &login).await;
    let flag = plan(&bao, &good).with("vault-new-flag", "1");
    tell("an argument that the plugin does not know is named", seen::ended(flag, &good).await, &good);
    all.push(("a namespace that does not exist is named", told(&unknown, &without.address, &login)));
    all
}

/// Certificates.
async fn tls() -> Seen {
    let (bao, credentials) = vault().await;
    let short = |plan: Plan| plan.with("vault-connection-timeout", PATIENCE);
    let mut all = Vec::new();
    let mut tell = |name, failure: &Failure, address: &str| {
        all.push((name, told(failure, address, &credentials)));
    };
    let unknown = seen::ended(short(plan(&bao, &credentials).without("tls-ca-file")), &credentials).await;
    tell("a CA that is not known is named", &unknown, &bao.address);
    let other = short(plan(&bao, &credentials).with("tls-sni", "vault.example.com"));
    let other = seen::ended(other, &credentials).await;
    tell("a certificate for another name is named", &other, &bao.address);
    let empty = short(plan(&bao, &credentials).with("tls-ca-file", "/dev/null"));
    tell("a CA bundle without a certificate is named", &seen::ended(empty, &credentials).await, &bao.address);

    let (expired, key) = certificate(&["127.0.0.1"], 2020);
    let server = Bao::uninitialised(&expired, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    tell("a certificate out of date is named", &refused, &server.address);
    let (nameless, key) = certificate(&[], 4000);
    let server = Bao::uninitialised(&nameless, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    tell("a certificate without a subject alternative name is named", &refused, &server.address);
    let (valid, key) = certificate(&["127.0.0.1"], 4000);
    let server = Bao::listening(&valid, &key, &json!({"tls_require_and_verify_client_cert": true}));
    let refused =
        seen::ended(plan(&server, &credentials).with("vault-connection-timeout", "8s"), &credentials);
    tell("a server that asks for a client certificate is named", &refused.await, &server.address);
    let server = Bao::uninitialised(&valid, &key).await;
    let refused = seen::ended(short(plan(&server, &credentials)), &credentials).await;
    tell("a Vault that is not initialised is named", &refused, &server.address);
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

/// Of nobody, for servers that look at no credential.
fn nobody() -> Credentials {
    Credentials { role_id: "nobody".into(), secret_id: "00000000-secret-id".into() }
}

/// A plugin for this address, which gives up after a moment.
fn towards(address: &str) -> Plan {
    let plan = Plan::bare(&nobody()).with("vault-address", address);
    plan.with("vault-key-path", "transit/keys/kek").with("vault-connection-timeout", PATIENCE)
}

/// Servers that are no Vault, or say what OpenBao has no words for.
async fn other_servers() -> Seen {
    let mut all = Vec::new();
    for (name, status, body) in [
        ("a login page in place of Vault is named", "200 OK", "<!DOCTYPE html><title>Sign in</title>"),
        ("a page that is not found in place of Vault is named", "404 Not Found", "<html>no such page</html>"),
        (
            "a proxy without a Vault behind it is unreachable",
            "503 Service Unavailable",
            "no healthy upstream",
        ),
        // The text is a constant of OpenBao's too, which has no such quota.
        (
            "a lease quota is named",
            "429 Too Many Requests",
            r#"{"errors":["request path \"auth/approle/login\": lease count quota exceeded"]}"#,
        ),
    ] {
        let address = format!("http://127.0.0.1:{}", servers::answering(status, body).await);
        all.push((name, told(&seen::ended(towards(&address), &nobody()).await, &address, &nobody())));
    }
    all
}

/// Proxies between the plugin and Vault.
async fn proxies() -> Seen {
    // Not the fixtures' host: that stands for an address in what a plugin says.
    const VAULT: &str = "https://vault.test:8200";
    let through = async |proxy: &str| {
        let plan = towards(VAULT).through(&format!("http://{proxy}"));
        let failure = seen::with(&seen::ended(plan, &nobody()).await, proxy, "192.0.2.8:3128");
        told(&failure, VAULT, &nobody())
    };
    let closed = through(&format!("127.0.0.1:{}", free_port(Ipv4Addr::LOCALHOST))).await;
    let unknown = through("proxy.invalid:3128").await;
    let login = servers::answering("407 Proxy Authentication Required", "").await;
    let login = through(&format!("127.0.0.1:{login}")).await;
    let [.., no_such_host, no_answer] = DNS;
    let says_so = unknown.log_tail.iter().any(|line| line.contains("no such host"));
    vec![
        ("a proxy that cannot be reached is named", closed),
        ("a proxy that asks for a login is named", login),
        (if says_so { no_such_host } else { no_answer }, unknown),
    ]
}

/// A standby redirects to its active node, though that is gone.
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
    vec![("a standby whose active node is gone is named", told(&failure, &standby.address, &nobody()))]
}

/// Addresses that lead nowhere.
async fn addresses() -> Seen {
    let of = async |address: &str| told(&seen::ended(towards(address), &nobody()).await, address, &nobody());
    let closed = of(&format!("https://127.0.0.1:{}", free_port(Ipv4Addr::LOCALHOST))).await;
    let unknown = of("https://vault.invalid:8200").await;
    // It accepts, since its queue does, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let late = of(&format!("https://{}", silent.local_addr().unwrap())).await;
    let plain = plain_http().await;
    let plain = of(&format!("https://127.0.0.1:{plain}")).await;
    let [no_such_host, no_answer, ..] = DNS;
    let says_so = unknown.log_tail.iter().any(|line| line.contains("no such host"));
    vec![
        ("a Vault that nobody answers for is unreachable", closed),
        ("a Vault that does not answer in time is unreachable", late),
        ("a port that serves plain HTTP is named", plain),
        (if says_so { no_such_host } else { no_answer }, unknown),
    ]
}

/// A server that speaks HTTP without TLS, as long as the test runs.
async fn plain_http() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
    port
}
