//! The certificates that the plugin trusts, and the names that it verifies.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    time::Duration,
};

use rustls::server::Acceptor;

use crate::{
    bao::{Bao, Credentials, free_port},
    plugin::{PATIENCE, Plan, Plugin},
};

/// The log of a plugin whose login fails because of TLS until its timeout.
async fn refused(plan: Plan) -> String {
    let mut plugin = plan.with("vault-connection-timeout", PATIENCE).start();
    assert_eq!(plugin.ended().await.code(), Some(1));
    plugin.log()
}

async fn accepted(plan: Plan) -> Plugin {
    let plugin = plan.start();
    plugin.ready().await;
    plugin
}

#[tokio::test]
async fn a_certificate_must_be_signed_by_a_known_ca() {
    let (bao, credentials) = Bao::with_key().await;
    accepted(Plan::new(&bao, &credentials)).await;

    let log = refused(Plan::new(&bao, &credentials).without("tls-ca-file")).await;
    assert!(log.contains("x509: certificate signed by unknown authority"), "{log}");
    accepted(Plan::new(&bao, &credentials).without("tls-ca-file").with("tls-skip-verify", "true")).await;
}

#[tokio::test]
async fn a_certificate_must_be_for_the_server_name() {
    let (bao, credentials) = Bao::with_key().await;
    accepted(Plan::new(&bao, &credentials).with("tls-sni", "localhost")).await;

    let log = refused(Plan::new(&bao, &credentials).with("tls-sni", "vault.example.com")).await;
    assert!(log.contains("x509: certificate is valid for localhost,"), "{log}");
    assert!(log.contains("not vault.example.com"), "{log}");
    assert!(log.contains(&bao.address), "errors contain the configured address: {log}");
}

/// The purpose of `-tls-sni`: an address that is not in the certificate.
#[tokio::test]
async fn a_server_name_replaces_an_address_that_is_not_in_the_certificate() {
    let ip = Ipv4Addr::new(127, 0, 0, 2);
    let bao = Bao::start_at(SocketAddrV4::new(ip, free_port(ip))).await;
    let nobody = Credentials { role_id: "nobody".into(), secret_id: "nothing".into() };
    let log = refused(Plan::new(&bao, &nobody)).await;
    assert!(log.contains("x509: certificate is valid for") && log.contains("not 127.0.0.2"), "{log}");

    let log = refused(Plan::new(&bao, &nobody).with("tls-sni", "localhost")).await;
    assert!(log.contains("* permission denied"), "TLS succeeds, the login does not: {log}");
}

#[tokio::test]
async fn the_server_name_is_sent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let seen = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut acceptor = Acceptor::default();
        loop {
            acceptor.read_tls(&mut stream).unwrap();
            if let Some(accepted) = acceptor.accept().unwrap() {
                return accepted.client_hello().server_name().map(str::to_owned);
            }
        }
    });
    let nobody = Credentials { role_id: "nobody".into(), secret_id: "nothing".into() };
    let plan = Plan::bare(&nobody).with("vault-address", &address).with("vault-key-path", "transit/keys/k");
    let _plugin = plan.with("tls-sni", "Vault.Example.com").start();
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap().unwrap();
    assert_eq!(seen.as_deref(), Some("vault.example.com"));
}
