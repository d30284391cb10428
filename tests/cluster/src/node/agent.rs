//! Keyward's node agent as a static pod of a test node.

use serde_json::{Value, json};

use super::Node;

/// The repository whose images are run as the `keyward` binary.
pub const AGENT_IMAGE: &str = "example.com/keyward/keyward";
/// Where the harness puts the agent's kubeconfig, as a path on the node.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/keyward/agent.kubeconfig";
/// The manifest's name.
pub(crate) const NAME: &str = "keyward-agent";
/// Any digest does: the image map goes by the repository.
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl Node {
    /// The static pod that runs `keyward node-agent` here with these further arguments: on the node's network, with
    /// the node's folders at their own paths.
    pub fn agent_manifest(&self, args: &[&str]) -> Value {
        let folders = [
            ("kubernetes", "/etc/kubernetes"),
            ("kmsplugin", "/var/run/kmsplugin"),
            ("state", "/var/lib/keyward"),
            ("logs", "/var/log/pods"),
        ];
        let mut command = vec!["node-agent", "--node", self.name(), "--kubeconfig", KUBECONFIG];
        command.extend(args);
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAME, "namespace": "kube-system", "labels": {"app.kubernetes.io/name": NAME}},
            "spec": {
                "hostNetwork": true,
                "priorityClassName": "system-node-critical",
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "agent",
                    "image": format!("{AGENT_IMAGE}@{DIGEST}"),
                    "command": ["keyward"],
                    "args": command,
                    "volumeMounts": folders.map(|(name, path)| json!({"name": name, "mountPath": path})),
                }],
                "volumes": folders.map(|(name, path)| json!({"name": name, "hostPath": {"path": path}})),
            },
        })
    }

    /// Starts the agent: writes [`Self::agent_manifest`].
    pub fn start_agent(&self, args: &[&str]) -> anyhow::Result<()> {
        self.write_manifest(NAME, &self.agent_manifest(args))
    }

    /// Stops the agent.
    pub fn stop_agent(&self) -> anyhow::Result<()> {
        self.remove_manifest(NAME)
    }
}
