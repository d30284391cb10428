//! The plugin as a process: its start, its endpoints and its exit.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use keyward_kms::wait_ready;

use crate::{
    bao::{Bao, Credentials, DEADLINE, eventually, free_port},
    plugin::{Plan, STATUS},
};

fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward-test-kms-plugin")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn nobody() -> Credentials {
    Credentials { role_id: "nobody".into(), secret_id: "nothing".into() }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_gos_message() {
    for (args, message) in [
        (["-transit-key=k"], "flag provided but not defined: -transit-key\nUsage of "),
        (["-health-port=x"], "invalid value \"x\" for flag -health-port: parse error\nUsage of "),
        (["-zap-log-level=loud"], "invalid value \"loud\" for flag -zap-log-level: invalid log level"),
    ] {
        let (code, stderr) = run(&args);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.starts_with(message), "{stderr}");
    }
    let (code, stderr) = run(&["-help"]);
    assert_eq!(code, Some(0));
    assert!(
        stderr
            .contains("  -auth-mount string\n    \tMount of the AppRole auth method (default \"approle\")\n")
    );
}

#[test]
fn an_invalid_setting_exits_with_1_and_names_its_flag() {
    let (code, stderr) =
        run(&["-vault-address=https://localhost:1", "-approle-role-id=r", "-vault-key-path=k"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("-vault-key-path=\\\"k\\\" is not of the form mount/keys/name"), "{stderr}");
}

#[tokio::test]
async fn only_the_owner_can_connect_and_sigterm_removes_the_socket() {
    let (bao, credentials) = Bao::with_key().await;
    let mut plugin = Plan::new(&bao, &credentials).start();
    plugin.ready().await;
    let _idle = keyward_kms::Client::connect(
        &plugin.socket,
        keyward_kms::Timeouts { connect: DEADLINE, call: DEADLINE },
    )
    .await
    .unwrap();
    let mode = plugin.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    plugin.terminate();
    assert_eq!(plugin.ended().await.code(), Some(0), "{}", plugin.log());
    assert!(!plugin.socket.exists());
    assert!(!plugin.log().contains("cut off"), "the plugin does not wait for a connection without calls");
}

#[tokio::test]
async fn health_and_metrics_are_served_on_their_ports() {
    let (bao, credentials) = Bao::with_key().await;
    let (health, metrics) = (free_port(Ipv4Addr::UNSPECIFIED), free_port(Ipv4Addr::UNSPECIFIED));
    let plan = Plan::new(&bao, &credentials).with("health-port", &health.to_string());
    let plugin = plan.with("metrics-port", &metrics.to_string()).start();
    plugin.ready().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |port: u16, path: &str| {
        let answer = http.get(format!("http://127.0.0.1:{port}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get(health, "/healthz").await, (200, "ok\n".to_owned()));
    let (_, text) = get(metrics, "/metrics").await;
    assert!(text.contains("vault_kube_kms_requests_total{operation=\"encrypt\",code=\"Ok\"} 1"), "{text}");

    drop(bao);
    eventually("OpenBao to be gone", async || {
        let (code, text) = get(health, "/healthz").await;
        code == 503 && text.contains("connect: connection refused")
    })
    .await;
    let status = plugin.probe(&STATUS).await.status.unwrap();
    assert!(status.healthz.contains("connect: connection refused"), "{status:?}");
    assert!(status.remote_key_id.starts_with("transit/keys/k@v1#"), "the last known id: {status:?}");

    let mut second = Plan::bare(&nobody()).with("health-port", &health.to_string()).start();
    assert_eq!(second.ended().await.code(), Some(1));
}

#[tokio::test]
async fn a_sealed_vault_is_reported_with_its_own_message() {
    let (bao, credentials) = Bao::with_key().await;
    let plugin = Plan::new(&bao, &credentials).start();
    plugin.ready().await;
    bao.post("", "sys/seal", serde_json::json!({})).await;
    let error = plugin.failure(&STATUS).await;
    assert!(error.to_string().ends_with("Code: 503. Errors: * Vault is sealed"), "{error}");
}

#[tokio::test]
async fn the_plugin_waits_for_a_vault_that_starts_later() {
    let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST));
    let plan = Plan::bare(&nobody()).with("vault-address", &format!("https://{listen}"));
    let plan = plan.with("vault-key-path", "transit/keys/k").with("tls-skip-verify", "true");
    let mut plugin = plan.start();
    eventually("a first try", async || plugin.log().contains("connect: connection refused")).await;
    let _bao = Bao::start_at(listen).await;
    // The login reaches OpenBao, and is denied because there is no AppRole.
    assert_eq!(plugin.ended().await.code(), Some(1));
    assert!(plugin.log().contains("* permission denied"), "{}", plugin.log());
}

#[tokio::test]
async fn the_plugin_exits_if_vault_does_not_start() {
    let port = free_port(Ipv4Addr::LOCALHOST);
    let plan = Plan::bare(&nobody()).with("vault-address", &format!("https://127.0.0.1:{port}"));
    let plan = plan.with("vault-key-path", "transit/keys/k").with("vault-connection-timeout", "500ms");
    let mut plugin = plan.start();
    assert_eq!(plugin.ended().await.code(), Some(1));
    let log = plugin.log();
    assert!(log.matches("not logged in yet").count() > 1, "{log}");
    assert!(log.contains(&format!("dial tcp 127.0.0.1:{port}: connect: connection refused")), "{log}");
    assert!(!plugin.socket.exists());
    let report = wait_ready(&plugin.socket, &STATUS, DEADLINE / 300).await;
    assert_eq!(report.result.unwrap_err().phase().as_str(), "start");
}
