//! Vault's HTTP API: the client, the verification of its TLS, and the parsing of responses.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use reqwest::{
    Certificate, Client, Method, Request, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HOST, HeaderValue, LOCATION},
    redirect::Policy,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{self, Answer, BackendError},
    settings::{Secret, Settings},
};

/// One request.
pub(crate) struct Call<'a> {
    /// For errors: "failed to {what}".
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    /// The path below `/v1/`.
    pub(crate) path: &'a str,
    /// Empty for the root namespace.
    pub(crate) namespace: &'a str,
    pub(crate) body: Option<&'a Value>,
}

/// Vault's HTTP API at one address.
#[derive(Debug)]
pub(crate) struct Api {
    http: Client,
    /// The configured address, for errors.
    address: Url,
    /// The URL of requests: the address, with the server name in place of its host if one is set.
    target: Url,
    /// The address's host and port, if `target` has another host.
    host: Option<HeaderValue>,
    /// Host and port of the proxy.
    proxy: Option<String>,
}

impl Api {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let address = settings.address.clone();
        let mut target = address.clone();
        let mut host = None;
        let mut builder = Client::builder()
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout.min(Duration::from_secs(10)))
            .redirect(Policy::none());
        if address.scheme() == "https" {
            if let Some(pem) = &settings.tls.ca_bundle {
                let certificates = Certificate::from_pem_bundle(pem).context("-tls-ca-file holds no PEM")?;
                anyhow::ensure!(!certificates.is_empty(), "-tls-ca-file holds no certificate");
                builder = builder.tls_certs_only(certificates);
            }
            builder = builder.tls_danger_accept_invalid_certs(settings.tls.skip_verify);
            if let Some(name) = &settings.tls.server_name {
                // The client sends the URL's host as server name and verifies the certificate against it. So
                // the URL has the server name as host, and only the resolution of that name uses the
                // address's host.
                target.set_host(Some(name)).context("-tls-sni is not a host name")?;
                host = Some(HeaderValue::from_str(&authority(&address)?)?);
                let real = address.host_str().context("-vault-address has no host")?;
                builder = builder.dns_resolver(Arc::new(Elsewhere {
                    name: name.to_ascii_lowercase(),
                    // An IPv6 literal has brackets only in a URL.
                    host: real.trim_matches(['[', ']']).to_owned(),
                }));
            }
        }
        // Go never uses a proxy for loopback addresses, and a proxy would resolve the server name itself.
        let mut proxy = proxy_of_environment();
        if is_loopback(&address) || host.is_some() {
            builder = builder.no_proxy();
            proxy = None;
        }
        let http = builder.build().context("cannot set up HTTPS")?;
        Ok(Self { http, address, target, host, proxy })
    }

    /// Makes a request and returns the JSON of the response; null if it has no body.
    pub(crate) async fn call(&self, call: &Call<'_>, token: Option<&Secret>) -> Result<Value, BackendError> {
        let what = call.what;
        let mut shown = below(&self.address, call.path);
        let mut server_name = self.target.host_str().unwrap_or_default().to_owned();
        let request = self.request(call, token)?;
        let again = request.try_clone();
        let sent = self.send(request).await;
        let mut response = sent.map_err(|error| self.unreachable(call, &shown, &server_name, &error))?;
        // Like Vault's own client, it follows one redirect: from a standby to the active node.
        if let (Some(active), Some(mut request)) = (redirect(&response), again) {
            active.host_str().unwrap_or_default().clone_into(&mut server_name);
            request.headers_mut().remove(HOST);
            *request.url_mut() = active.clone();
            shown = active;
            let sent = self.send(request).await;
            response = sent.map_err(|error| self.unreachable(call, &shown, &server_name, &error))?;
        }
        let status = response.status();
        let read = response.bytes().await;
        let bytes = read.map_err(|error| self.unreachable(call, &shown, &server_name, &error))?;
        let answer = if status.is_success() { None } else { Some(answer_of(status, &bytes)) };
        match answer {
            // Vault's client reads the body of a 404 like that of a success.
            Some(answer) if status != StatusCode::NOT_FOUND || matches!(answer, Answer::Errors(_)) => {
                let namespace = call.namespace.to_owned();
                let request = format!("{} {shown}", call.method);
                Err(BackendError::Refused { what, request, namespace, status, answer })
            }
            _ if bytes.is_empty() => Ok(Value::Null),
            _ => serde_json::from_slice(&bytes)
                .map_err(|error| BackendError::Unexpected { what, reason: error::no_json(&bytes, &error) }),
        }
    }

    async fn send(&self, request: Request) -> reqwest::Result<Response> {
        let copies = [request.try_clone(), request.try_clone(), request.try_clone()];
        let mut response = self.http.execute(request).await;
        for (attempt, again) in copies.into_iter().flatten().enumerate() {
            match &response {
                // A persistent connection may be broken meanwhile; every request of this plugin can be repeated.
                Err(error) if attempt == 0 && !error.is_connect() && !error.is_timeout() => {}
                // The server closed the connection before the request: its reason shows in one of the next attempts.
                Err(error) if is_not_ready(error) => {}
                _ => break,
            }
            response = self.http.execute(again).await;
        }
        response
    }

    /// The error for a server that did not respond at this URL; its certificate had to be for this name.
    fn unreachable(
        &self,
        call: &Call<'_>,
        url: &Url,
        server_name: &str,
        error: &reqwest::Error,
    ) -> BackendError {
        let server = authority(url).unwrap_or_default();
        BackendError::Unreachable {
            what: call.what,
            request: quoted(&call.method, url),
            reason: error::reason(error, &server, server_name, self.proxy.as_deref()),
            timed_out: error.is_timeout(),
        }
    }

    fn request(&self, call: &Call<'_>, token: Option<&Secret>) -> Result<Request, BackendError> {
        let mut request = self.http.request(call.method.clone(), below(&self.target, call.path));
        if let Some(host) = &self.host {
            request = request.header(HOST, host.clone());
        }
        if let Some(token) = token {
            // An invalid token makes build() fail below.
            request = request.header("X-Vault-Token", token.reveal());
        }
        if !call.namespace.is_empty() {
            request = request.header("X-Vault-Namespace", call.namespace);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let mut request = request
            .build()
            .map_err(|error| BackendError::Invalid { what: call.what, reason: error.to_string() })?;
        if let Some(token) = request.headers_mut().get_mut("X-Vault-Token") {
            token.set_sensitive(true);
        }
        Ok(request)
    }
}

/// `Put "https://vault:8200/v1/…"`.
fn quoted(method: &Method, url: &Url) -> String {
    let method = method.as_str();
    let (first, rest) = method.split_at(method.len().min(1));
    format!("{first}{} \"{url}\"", rest.to_ascii_lowercase())
}

/// The URL to which a standby redirects; none that is less secure.
fn redirect(response: &Response) -> Option<Url> {
    let from = response.url();
    let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?;
    let active = from.join(location.to_str().ok()?).ok()?;
    (active.scheme() == "https" || active.scheme() == from.scheme()).then_some(active)
}

fn answer_of(status: StatusCode, body: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) if !errors.is_empty() => Answer::Errors(errors),
        // Vault returns an empty list for a path that does not exist.
        Ok(_) => Answer::Errors(vec![status.canonical_reason().unwrap_or("no reason given").to_lowercase()]),
        Err(_) => {
            Answer::Raw(String::from_utf8_lossy(body).chars().take(200).collect::<String>().trim().to_owned())
        }
    }
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("v1").extend(path.split('/'));
    }
    url
}

fn authority(url: &Url) -> Result<String> {
    let host = url.host_str().context("the URL has no host")?;
    Ok(match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Host and port of the proxy for https, if one is set.
fn proxy_of_environment() -> Option<String> {
    let set = ["HTTPS_PROXY", "https_proxy"].into_iter().find_map(|name| std::env::var(name).ok())?;
    authority(&Url::parse(&set).ok()?).ok()
}

/// Resolves one name to the addresses of another host.
struct Elsewhere {
    name: String,
    host: String,
}

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        let host = if name.as_str() == self.name { self.host.clone() } else { name.as_str().to_owned() };
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), 0))
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("lookup {host}: {error}")))?
                .collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether the connection ended before the request was sent.
fn is_not_ready(error: &reqwest::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.to_string().contains("connection was not ready") {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::settings::{KeyPath, Tls};

    fn api(address: &str) -> Api {
        let settings = Settings {
            socket: "/unused".into(),
            address: Url::parse(address).unwrap(),
            tls: Tls { ca_bundle: None, server_name: None, skip_verify: false },
            timeout: Duration::from_secs(30),
            namespace: String::new(),
            auth_namespace: String::new(),
            auth_mount: "approle".into(),
            role_id: "role".into(),
            secret_id: Secret::new("secret".into()),
            key: KeyPath { mount: "transit".into(), name: "k".into() },
            health_port: 0,
            metrics_port: 0,
        };
        Api::new(&settings).unwrap()
    }

    /// Reads a request without body.
    async fn request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(request).unwrap()
    }

    #[tokio::test]
    async fn a_broken_persistent_connection_is_replaced() {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = api(&format!("http://{}", listener.local_addr().unwrap()));
        let server = async {
            let (mut first, _) = listener.accept().await.unwrap();
            request(&mut first).await;
            first.write_all(ANSWER).await.unwrap();
            // It closes the connection after the second request, without a response.
            request(&mut first).await;
            drop(first);
            let (mut second, _) = listener.accept().await.unwrap();
            assert!(request(&mut second).await.contains("x-vault-namespace: team\r\n"));
            second.write_all(ANSWER).await.unwrap();
        };
        let client = async {
            let path = "transit/keys/k";
            let read = Call { what: "read", method: Method::GET, path, namespace: "team", body: None };
            for _ in 0..2 {
                api.call(&read, Some(&Secret::new("token".into()))).await.unwrap();
            }
        };
        tokio::join!(server, client);
    }

    #[test]
    fn paths_are_below_the_address() {
        for (base, expected) in [
            ("https://vault:8200", "https://vault:8200/v1/a/keys/k"),
            ("https://vault:8200/", "https://vault:8200/v1/a/keys/k"),
            ("https://vault/behind/proxy/", "https://vault/behind/proxy/v1/a/keys/k"),
        ] {
            assert_eq!(below(&Url::parse(base).unwrap(), "a/keys/k").as_str(), expected);
        }
        assert_eq!(
            below(&Url::parse("https://vault").unwrap(), "a/keys/k?x#y").path(),
            "/v1/a/keys/k%3Fx%23y"
        );
    }

    #[test]
    fn a_request_without_response_is_quoted_like_in_go() {
        let url = Url::parse("https://vault:8200/v1/a").unwrap();
        assert_eq!(quoted(&Method::PUT, &url), "Put \"https://vault:8200/v1/a\"");
    }

    #[test]
    fn errors_are_vaults_or_the_beginning_of_the_body() {
        let of = |status, body: &str| answer_of(status, body.as_bytes()).to_string();
        assert_eq!(
            of(StatusCode::FORBIDDEN, r#"{"errors":["permission denied"]}"#),
            "Errors:\n\n* permission denied"
        );
        assert_eq!(of(StatusCode::NOT_FOUND, r#"{"errors":[]}"#), "Errors:\n\n* not found");
        assert_eq!(of(StatusCode::BAD_REQUEST, "<html>no\n"), "Raw Message:\n\n<html>no");
    }

    #[test]
    fn loopback_is_recognized_by_name_and_address() {
        for (url, expected) in [
            ("http://localhost:1", true),
            ("http://127.0.0.2:1", true),
            ("http://[::1]:1", true),
            ("http://vault:1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
