//! Resources that Keyward refuses to encrypt, each with the reason.
//!
//! An API server starts before its KMS plugin is available, and the plugin, the agent and the operator need the API
//! server while the KMS fails. Everything that they read then must be readable without the KMS
//! (kubernetes: needed-before-the-kms-answers, decision 0074). `plan`, the operator and the validation rules of the CRD
//! all use this table.

use crate::ids::GroupResource;
use crate::names;

/// Resources of one API group that are refused for the same reason.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Plural names, in lower case; if empty, every resource of the group.
    pub resources: &'static [&'static str],
    /// The reason, for people.
    pub why: &'static str,
}

/// Why wildcards are refused, in every group.
pub const WILDCARDS: &str = "wildcards are not allowed: what they match changes with every CRD";
/// Why a text that is not the name of a resource is refused.
pub const NO_NAME: &str = "expected `resource` or `resource.group`, in lower case";

/// All refused resources.
pub const REFUSED: &[Refused] = &[
    Refused {
        group: names::GROUP,
        resources: &[],
        why: "the operator and the agents must read Keyward's own objects before the KMS is available",
    },
    Refused {
        group: "",
        resources: &["nodes", "pods"],
        why: "the kubelets must read these to run the API server and the KMS plugin",
    },
    Refused {
        group: "coordination.k8s.io",
        resources: &["leases", "leasecandidates"],
        why: "the API servers, the nodes and the operator must renew Leases before the KMS is available",
    },
    Refused {
        group: "",
        resources: &["namespaces"],
        why: "the API server reads the namespace at every write, before the KMS is available",
    },
    Refused {
        group: "",
        resources: &["serviceaccounts"],
        why: "the API server reads the service account of every token, including the operator's",
    },
    Refused {
        group: "",
        resources: &["services", "endpoints"],
        why: "the API server reads these when it starts, and exits if it cannot",
    },
    Refused {
        group: "networking.k8s.io",
        resources: &["ipaddresses", "servicecidrs"],
        why: "the API server reads these when it starts, and exits if it cannot",
    },
    Refused {
        group: "rbac.authorization.k8s.io",
        resources: &[],
        why: "the API server authorizes every request with these, before the KMS is available",
    },
    Refused {
        group: "apiextensions.k8s.io",
        resources: &[],
        why: "the API server serves custom resources, including Keyward's own, only after it has read these",
    },
    Refused {
        group: "apiregistration.k8s.io",
        resources: &[],
        why: "the API server routes every request with these, before the KMS is available",
    },
    Refused {
        group: "admissionregistration.k8s.io",
        resources: &[],
        why: "the API server admits every write with these, before the KMS is available",
    },
    Refused {
        group: "flowcontrol.apiserver.k8s.io",
        resources: &[],
        why: "the API server queues every request with these, before the KMS is available",
    },
    Refused {
        group: "scheduling.k8s.io",
        resources: &["priorityclasses"],
        why: "the API server admits the Pods of the API servers and of the KMS plugin with these",
    },
    Refused {
        group: "certificates.k8s.io",
        resources: &["certificatesigningrequests"],
        why: "the kubelets get their certificates with these, before the KMS is available",
    },
    Refused { group: "", resources: &["events"], why: EVENTS },
    Refused { group: "events.k8s.io", resources: &[], why: EVENTS },
    Refused {
        group: "extensions",
        resources: &[],
        why: "the API group extensions was removed; kube-apiserver refuses a configuration with it",
    },
];

const EVENTS: &str = "events do not live long enough to be re-encrypted, and they must report a broken KMS";

impl Refused {
    /// Whether this entry covers the resource.
    pub fn covers(&self, resource: &GroupResource) -> bool {
        self.group == resource.group
            && (self.resources.is_empty() || self.resources.contains(&resource.resource.as_str()))
    }
}

/// Why a resource is refused in every cluster; `None` if it is not refused.
pub fn why(resource: &GroupResource) -> Option<&'static str> {
    let refused = || REFUSED.iter().find(|refused| refused.covers(resource)).map(|refused| refused.why);
    no_name(resource).or_else(refused)
}

/// Why this is not the name of a resource; `None` if it is one.
pub fn no_name(resource: &GroupResource) -> Option<&'static str> {
    let name = resource.to_string();
    if name.contains('*') {
        return Some(WILDCARDS);
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    (!name.split('.').all(is_label)).then_some(NO_NAME)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_resource_has_one_reason() {
        let mut seen = BTreeSet::new();
        for refused in REFUSED {
            let named = refused.resources.iter().copied();
            for resource in named.chain(refused.resources.is_empty().then_some("")) {
                assert!(seen.insert((refused.group, resource)), "{resource}.{} twice", refused.group);
            }
        }
    }

    #[test]
    fn resources_that_are_needed_before_the_kms_is_available_are_refused() {
        for name in [
            "apiservices.apiregistration.k8s.io",
            "certificatesigningrequests.certificates.k8s.io",
            "clusterencryptions.encryption.keyward.dev",
            "clusterrolebindings.rbac.authorization.k8s.io",
            "clusterroles.rbac.authorization.k8s.io",
            "customresourcedefinitions.apiextensions.k8s.io",
            "encryptionmigrations.encryption.keyward.dev",
            "events",
            "events.events.k8s.io",
            "leases.coordination.k8s.io",
            "mutatingadmissionpolicies.admissionregistration.k8s.io",
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "namespaces",
            "nodes",
            "pods",
            "rolebindings.rbac.authorization.k8s.io",
            "roles.rbac.authorization.k8s.io",
            "serviceaccounts",
            "validatingadmissionpolicies.admissionregistration.k8s.io",
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
        ] {
            assert!(why(&GroupResource::parse(name)).is_some(), "{name}");
        }
    }

    #[test]
    fn resource_with_the_same_name_in_another_group_is_not_refused() {
        for name in
            ["secrets", "configmaps", "nodes.longhorn.io", "events.example.com", "widgets.example.com"]
        {
            assert_eq!(why(&GroupResource::parse(name)), None, "{name}");
        }
    }

    #[test]
    fn wildcards_and_invalid_names_are_refused() {
        for (name, expected) in [
            ("*", WILDCARDS),
            ("*.*", WILDCARDS),
            ("*.apps", WILDCARDS),
            ("Secrets", NO_NAME),
            ("pods/status", NO_NAME),
            ("", NO_NAME),
            (".apps", NO_NAME),
            ("pods.", NO_NAME),
            ("secrets.", NO_NAME),
            ("deployments.apps.", NO_NAME),
            ("widgets..example.com", NO_NAME),
            ("secrets ", NO_NAME),
            ("secrets\n", NO_NAME),
        ] {
            assert_eq!(why(&GroupResource::as_written(name)), Some(expected), "{name:?}");
        }
    }
}
