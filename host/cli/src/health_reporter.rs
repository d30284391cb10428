//! `keyward health-reporter`: the sidecar that reports the health of KMS plugins on OpenShift
//! (openshift: health-reporter).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use clap::builder::PossibleValuesParser;
use keyward_core::platform::openshift::{COMPONENTS, Component};
use keyward_node::{KmsSocket, Reporter, ReporterSettings};
use keyward_operator::settings::duration;

/// Example: `keyward health-reporter --kms-sockets unix:///var/run/kmsplugin/kms-2.sock --node-name cp-1`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  keyward health-reporter --kms-sockets unix:///var/run/kmsplugin/kms-2.sock,unix:///var/run/kmsplugin/kms-1.sock --node-name cp-1"
)]
pub(crate) struct Args {
    /// The plugins' sockets, separated by commas
    #[arg(long, value_name = "unix:///var/run/kmsplugin/kms-N.sock", value_delimiter = ',', required = true)]
    kms_sockets: Vec<KmsSocket>,
    /// Interval between reports; up to a tenth is added
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    interval: Duration,
    /// Timeout of one call to a plugin
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    read_timeout: Duration,
    /// Timeout of the write
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    write_timeout: Duration,
    /// Name of the node that the reports are for
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
    /// Path of the kubeconfig [default: the Pod's own credential]
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    kubeconfig: String,
    /// Kind of the operator's CR `cluster` whose status gets the reports [default: from the Pod's namespace,
    /// else KubeAPIServer]
    #[arg(
        long, value_name = "KIND",
        value_parser = PossibleValuesParser::new(COMPONENTS.iter().map(|component| component.operator))
    )]
    resource: Option<String>,
}

/// The default of `--resource` outside the components' namespaces.
const RESOURCE: &str = "KubeAPIServer";

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut keys: Vec<&str> = args.kms_sockets.iter().map(KmsSocket::key_id).collect();
    keys.sort_unstable();
    for pair in keys.windows(2) {
        ensure!(
            pair.first() != pair.last(),
            "--kms-sockets names key {} twice; give each key once",
            pair.first().copied().unwrap_or_default()
        );
    }
    ensure!(
        is_node_name(&args.node_name),
        "--node-name {:?} is not a valid node name; use lower-case letters, digits, '-' and '.', at most 253",
        args.node_name
    );
    let (client, namespace) = client(&args.kubeconfig).await?;
    let component = component(args.resource.as_deref(), namespace.as_deref())
        .context("--resource must be one of KubeAPIServer, OpenShiftAPIServer, Authentication")?;
    let settings = ReporterSettings {
        sockets: args.kms_sockets,
        interval: args.interval,
        read_timeout: args.read_timeout,
        write_timeout: args.write_timeout,
        node_name: args.node_name,
        component,
    };
    Reporter::new(settings, client).run(crate::stop::on_signal()?).await;
    Ok(ExitCode::SUCCESS)
}

/// The component whose plugins are reported (openshift: reports-of-one-component). The three API servers of a
/// node have keys with the same numbers: with one default for all of them, each would overwrite the others'
/// entries.
fn component(resource: Option<&str>, namespace: Option<&str>) -> Option<&'static Component> {
    let own = namespace.and_then(Component::named).filter(|_| resource.is_none());
    let resource = resource.unwrap_or(RESOURCE);
    own.or_else(|| COMPONENTS.iter().find(|component| component.operator == resource))
}

/// Connects. Without `--kubeconfig` it takes the Pod's own credential, never `KUBECONFIG` or `~/.kube/config`
/// (openshift: health-reporter), and also returns the Pod's namespace.
async fn client(kubeconfig: &str) -> Result<(kube::Client, Option<String>)> {
    if !kubeconfig.is_empty() {
        let connection =
            keyward_operator::Connection { kubeconfig: Some(kubeconfig.into()), ..Default::default() };
        return Ok((keyward_operator::connect(&connection).await?, None));
    }
    let mut config = kube::Config::incluster()
        .context("--kubeconfig is not set, and the Pod's own credential cannot be used")?;
    // As in `keyward_operator::connect`: the reporter has its own timeouts.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let namespace = config.default_namespace.clone();
    Ok((kube::Client::try_from(config)?, Some(namespace)))
}

/// An RFC 1123 subdomain of at most 253 characters (openshift: encryption-status).
fn is_node_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|byte| alphanumeric(*byte))
            && bytes.last().is_some_and(|byte| alphanumeric(*byte))
            && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::flag(Some("Authentication"), Some("openshift-apiserver"), "Authentication")]
    #[case::in_the_namespace_of_openshift_apiserver(None, Some("openshift-apiserver"), "OpenShiftAPIServer")]
    #[case::in_the_namespace_of_oauth_apiserver(None, Some("openshift-oauth-apiserver"), "Authentication")]
    #[case::in_another_namespace(None, Some("default"), "KubeAPIServer")]
    #[case::with_a_kubeconfig(None, None, "KubeAPIServer")]
    fn flag_decides_the_operator_resource_then_the_namespace_then_the_default(
        #[case] resource: Option<&str>,
        #[case] namespace: Option<&str>,
        #[case] operator: &str,
    ) {
        assert_eq!(component(resource, namespace).map(|component| component.operator), Some(operator));
    }

    #[test]
    fn node_name_must_be_a_kubernetes_name() {
        for good in ["cp-1", "a", "ip-10-0-0-1.ec2.internal"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "CP-1", "-a", "a-", "a..b", "a_b", &"a".repeat(254)] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
