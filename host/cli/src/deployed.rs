//! Tests that this program understands the manifests in deploy/.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use serde_json::Value;

use crate::{Cli, Command};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn documents(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(deploy().join(name)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn parsed(container: &Value, more: &[&str]) -> Command {
    let strings = |key: &str| -> Vec<String> { serde_json::from_value(container[key].clone()).unwrap() };
    assert_eq!(strings("command"), ["/usr/bin/keyward"]);
    let more = more.iter().map(ToString::to_string);
    let words = strings("command").into_iter().chain(strings("args")).chain(more);
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command
}

#[test]
fn operator_deployment_has_valid_arguments() {
    let deployment =
        documents("operator.yaml").into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert!(matches!(parsed(container, &[]), Command::Operator { .. }));
}

#[test]
fn node_agent_pod_has_valid_arguments() {
    let [pod]: [Value; 1] = documents("node-agent.yaml").try_into().unwrap();
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["env"][0]["name"], "NODE_NAME");
    assert!(matches!(parsed(container, &["--node", "cp-1"]), Command::NodeAgent(_)));
}

#[test]
fn deployed_pods_mount_no_encrypted_object_and_have_no_privileges() {
    let deployment =
        documents("operator.yaml").into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let pods = [&deployment["spec"]["template"]["spec"], &documents("node-agent.yaml")[0]["spec"]];
    for pod in pods {
        assert_eq!(pod["automountServiceAccountToken"], false);
        for volume in pod["volumes"].as_array().unwrap() {
            let text = volume.to_string();
            for word in ["\"secret\"", "\"configMap\"", "clusterTrustBundle"] {
                assert!(!text.contains(word), "{text}");
            }
        }
        let container = &pod["containers"][0];
        assert!(container.get("envFrom").is_none());
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"][0], "ALL");
    }
}

#[test]
fn kustomization_names_every_file_except_the_static_pod() {
    let [base]: [Value; 1] = documents("kustomization.yaml").try_into().unwrap();
    let mut named: Vec<String> = serde_json::from_value(base["resources"].clone()).unwrap();
    named.sort();
    let in_folder = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(deploy().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        yaml.map(|path| format!("{folder}{}", path.file_name().unwrap().to_str().unwrap())).collect()
    };
    let mut files = in_folder("");
    files.extend(in_folder("rbac/"));
    files.retain(|name| name != "kustomization.yaml" && name != "node-agent.yaml");
    files.sort();
    assert_eq!(named, files);
}
