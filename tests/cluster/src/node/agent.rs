//! Keyward's node agent as a static pod of a test node.

use serde_json::{Value, json};

use super::Node;

/// The repository whose images run as the `keyward` binary.
pub const AGENT_IMAGE: &str = "example.com/keyward/keyward";
/// The agent's kubeconfig, as a path on the node.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/keyward/agent.kubeconfig";
/// The manifest's name.
pub(crate) const NAME: &str = "keyward-agent";
/// Any digest works: the image map goes by repository.
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl Node {
    /// The static pod that runs `keyward node-agent` on this node with these further arguments: on the host
    /// network, with the node's folders mounted at their own paths.
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
