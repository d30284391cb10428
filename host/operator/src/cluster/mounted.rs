//! The credential of a Pod that mounts no Secret and no ConfigMap (decision 0050). An ordinary Pod, and
//! `Config::incluster`, use a projection of the ConfigMap `kube-root-ca.crt`, which is encrypted like any other:
//! without its KMS the Pod could not start.

use std::net::IpAddr;
use std::path::PathBuf;

use super::ConnectError;

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Two files; the API server's address is in the environment of every Pod.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// A token that the kubelet renews; it is read again regularly.
    pub token_file: PathBuf,
    /// The cluster's CA. It is read again regularly, too.
    pub ca_file: PathBuf,
}

impl Mounted {
    pub(super) fn config(&self) -> Result<kube::Config, ConnectError> {
        let variable = |name| std::env::var(name).map_err(|_| ConnectError::NoPod(name));
        let (host, port) = (variable(HOST)?, variable(PORT)?);
        let address = address(&host, &port).ok_or(ConnectError::NoPod(HOST))?;
        // Checked now, so that a missing file is reported at once, and by its name.
        let found = std::fs::metadata(&self.ca_file);
        found.map_err(|source| ConnectError::Ca { path: self.ca_file.clone(), source })?;
        let mut config = kube::Config::new(address);
        config.root_cert_file = Some(self.ca_file.clone());
        // `root_cert_file` alone counts. Without this line kube also loads the system's roots, and the image has none.
        config.root_cert = Some(Vec::new());
        config.auth_info.token_file = Some(self.token_file.to_string_lossy().into_owned());
        Ok(config)
    }
}

fn address(host: &str, port: &str) -> Option<http::Uri> {
    let host = match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    format!("https://{host}:{port}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_understood() {
        for (host, port, expected) in [
            ("10.96.0.1", "443", "https://10.96.0.1:443/"),
            ("fd00::1", "443", "https://[fd00::1]:443/"),
            ("localhost", "6443", "https://localhost:6443/"),
        ] {
            assert_eq!(address(host, port).unwrap().to_string(), expected);
        }
        assert!(address("a b", "1").is_none());
    }
}
