//! Small servers that answer every request in the same way, and OpenBao setups with more than one server in
//! memory.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::bao::{Bao, Raw, eventually, free_port};

/// Starts a server that answers each request with this while the test runs. Returns its port.
pub(crate) async fn answering(status: &'static str, body: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, status, body));
        }
    });
    port
}

/// Answers one request.
async fn answer(stream: TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    let count = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await
}

/// The standby of two servers, after the active node has stopped.
pub(crate) struct Standby {
    pub(crate) address: String,
    /// The address of the active node.
    pub(crate) gone: String,
    _server: Raw,
    _folders: [TempDir; 2],
}

/// Starts two servers with one Raft storage, and stops the active one.
pub(crate) async fn standby(certificate: &str, key: &str) -> Standby {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [active, standby] = folders.each_ref().map(|folder| node(folder, certificate, key));
    active.until(501).await;
    standby.until(501).await;
    let made = active.put("sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await;
    let unseal = json!({"key": made.pointer("/keys_base64/0").and_then(Value::as_str).unwrap()});
    active.put("sys/unseal", unseal.clone()).await;
    active.until(200).await;
    let join = json!({"leader_api_addr": active.address, "leader_ca_cert": certificate});
    standby.put("sys/storage/raft/join", join).await;
    standby.put("sys/unseal", unseal).await;
    standby.until(429).await;
    let gone = active.address.clone();
    drop(active);
    eventually("the active node to be gone", async || {
        let port: u16 = gone.rsplit(':').next().unwrap().parse().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err()
    })
    .await;
    Standby { address: standby.address.clone(), gone, _server: standby, _folders: folders }
}

fn node(folder: &TempDir, certificate: &str, key: &str) -> Raw {
    let [api, cluster] =
        [(); 2].map(|()| SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST)));
    let file = |name: &str| folder.path().join(name);
    fs::write(file("cert.pem"), certificate).unwrap();
    fs::write(file("key.pem"), key).unwrap();
    let listener = json!({
        "address": api.to_string(),
        "cluster_address": cluster.to_string(),
        "tls_cert_file": file("cert.pem"),
        "tls_key_file": file("key.pem"),
    });
    let config = json!({
        "listener": [{"tcp": listener}],
        "storage": {"raft": {"path": folder.path(), "node_id": api.to_string(), "performance_multiplier": 1}},
        "api_addr": format!("https://{api}"),
        "cluster_addr": format!("https://{cluster}"),
        "disable_mlock": true,
    });
    Bao::with_config(api, folder, &config)
}
