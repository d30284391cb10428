//! How HashiCorp's plugin is started, and what it needs: references, arguments, policy.
//!
//! The arguments have the order of OpenShift's controllers (openshift: sidecar-arguments), so that the same
//! configuration gives the same plugin. The health port is last; it is set because two plugins on one host
//! network would both use the default 8081.

use keyward_guest::prelude::*;

use crate::config::Config;

/// The port of the plugin's own health endpoint.
const HEALTH: &str = "health";

/// The references of the plugin.
struct Needs {
    role_id: Reference,
    secret_id: Reference,
    ca_bundle: Option<Reference>,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let ids = config.app_role_ids();
        let ca_bundle = config.tls.as_ref().and_then(|tls| tls.ca_bundle.as_ref());
        Self {
            role_id: Reference::secret(ids.secret, ids.role_id).from_field(ids.field).as_public_value(),
            secret_id: Reference::secret(ids.secret, ids.secret_id).from_field(ids.field),
            ca_bundle: ca_bundle.map(|ca_bundle| {
                Reference::config_map(&ca_bundle.name.0, "ca-bundle.crt").from_field("tls.caBundle.name")
            }),
        }
    }
}

pub(crate) fn references(config: &Config) -> Vec<Reference> {
    let Needs { role_id, secret_id, ca_bundle } = Needs::of(config);
    [Some(role_id), Some(secret_id), ca_bundle].into_iter().flatten().collect()
}

pub(crate) fn render(config: &Config) -> Plugin {
    let needs = Needs::of(config);
    let server_name = config.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    Managed::new()
        .arg("-listen-address=", host::socket_uri())
        .arg("-vault-address=", &config.vault_address)
        .arg("-vault-key-path=", config.transit_key().path())
        .arg("-approle-role-id=", needs.role_id.value())
        .arg("-approle-secret-id-path=", needs.secret_id.path())
        .arg_if("-tls-ca-file=", needs.ca_bundle.map(|ca_bundle| ca_bundle.path()))
        .arg_if("-tls-sni=", server_name)
        .arg_if("-vault-namespace=", config.vault_namespace.as_deref())
        .arg_if("-vault-auth-namespace=", config.vault_auth_namespace.as_deref())
        .word("-metrics-port=0")
        .arg("-health-port=", host::port(HEALTH))
        .port(HEALTH)
        .health(HEALTH, "/healthz")
        .cpu_millis(10)
        .memory_mib(64)
        .into_plugin()
}

pub(crate) fn requirements(config: &Config) -> Vec<String> {
    let key = config.transit_key();
    let (mount, name) = (key.mount, key.name);
    let namespace = |namespace: Option<&str>| match namespace {
        Some(namespace) => format!("namespace {namespace}"),
        None => "the root namespace".to_owned(),
    };
    let transit = namespace(config.vault_namespace.as_deref());
    let auth = namespace(config.vault_auth_namespace.as_deref().or(config.vault_namespace.as_deref()));
    vec![
        format!("the Transit key {} in {transit} of {}", key.path(), config.vault_address),
        format!("an AppRole of the auth method mounted at approle/ in {auth}, with a policy that grants:"),
        format!("\"update\" on {mount}/encrypt/{name}, also for an old key until its plugin is removed"),
        format!("\"update\" on {mount}/decrypt/{name}"),
        format!("\"read\" on {mount}/keys/{name}"),
        "\"read\" on sys/license/status (the plugin requires Vault Enterprise)".to_owned(),
    ]
}
