//! Resources that Keyward refuses to encrypt, each with the reason.
//!
//! An API server starts before its KMS plugin answers, and the plugin, the agent and the operator need the API server to
//! work on a KMS that is broken. Whatever one of them reads on that way must be readable without the KMS. The table is the
//! one place where this is written: `plan`, the operator and the CRD's validation rules take it from here.

use crate::ids::GroupResource;
use crate::names;

/// Resources of one API group that are refused for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Plural names, in lower case; every resource of the group where there is none.
    pub resources: &'static [&'static str],
    /// Why, for people.
    pub why: &'static str,
}

/// Wildcards: in no group.
pub const WILDCARDS: &str = "wildcards are refused: what they would cover changes with every CRD";
/// What is no resource's name.
pub const NO_NAME: &str = "expected `resource` or `resource.group`, in lower case";

/// All of them.
pub const REFUSED: &[Refused] = &[
    Refused {
        group: names::GROUP,
        resources: &[],
        why: "the operator and the agents read Keyward's own objects before the KMS answers",
    },
    Refused {
        group: "",
        resources: &["nodes", "pods"],
        why: "the kubelets read these to run the API server and the KMS plugin",
    },
    Refused {
        group: "coordination.k8s.io",
        resources: &["leases", "leasecandidates"],
        why: "the API servers, the nodes and the operator renew Leases before the KMS answers",
    },
    Refused {
        group: "",
        resources: &["namespaces"],
        why: "the API server looks up the namespace at every write, before the KMS answers",
    },
    Refused {
        group: "",
        resources: &["serviceaccounts"],
        why: "the API server looks up the service account of every token, the operator's too",
    },
    Refused {
        group: "",
        resources: &["services", "endpoints"],
        why: "the API server checks these when it starts, and ends where it cannot read them",
    },
    Refused {
        group: "networking.k8s.io",
        resources: &["ipaddresses", "servicecidrs"],
        why: "the API server checks these when it starts, and ends where it cannot read them",
    },
    Refused {
        group: "rbac.authorization.k8s.io",
        resources: &[],
        why: "the API server authorizes every request with these, before the KMS answers",
    },
    Refused {
        group: "apiextensions.k8s.io",
        resources: &[],
        why: "the API server serves custom resources, Keyward's own too, only after it has read these",
    },
    Refused {
        group: "apiregistration.k8s.io",
        resources: &[],
        why: "the API server routes every request by these, before the KMS answers",
    },
    Refused {
        group: "admissionregistration.k8s.io",
        resources: &[],
        why: "the API server admits every write by these, before the KMS answers",
    },
    Refused {
        group: "flowcontrol.apiserver.k8s.io",
        resources: &[],
        why: "the API server queues every request by these, before the KMS answers",
    },
    Refused {
        group: "scheduling.k8s.io",
        resources: &["priorityclasses"],
        why: "the API server admits the Pods of the API servers and of the KMS plugin by these",
    },
    Refused {
        group: "certificates.k8s.io",
        resources: &["certificatesigningrequests"],
        why: "the kubelets get their certificates by these, before the KMS answers",
    },
    Refused { group: "", resources: &["events"], why: EVENTS },
    Refused { group: "events.k8s.io", resources: &[], why: EVENTS },
    Refused {
        group: "extensions",
        resources: &[],
        why: "the API group extensions was removed, and kube-apiserver refuses a configuration that names it",
    },
];

const EVENTS: &str = "events are not kept long enough to be re-encrypted, and report a broken KMS";

impl Refused {
    /// Whether this entry speaks of the resource.
    pub fn covers(&self, resource: &GroupResource) -> bool {
        self.group == resource.group
            && (self.resources.is_empty() || self.resources.contains(&resource.resource.as_str()))
    }
}

/// Why a resource is refused whatever the cluster is; `None` where it is not.
pub fn why(resource: &GroupResource) -> Option<&'static str> {
    let refused = || REFUSED.iter().find(|refused| refused.covers(resource)).map(|refused| refused.why);
    no_name(resource).or_else(refused)
}

/// Why this is no resource's name; `None` where it is one.
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
    fn what_is_needed_before_the_kms_answers_is_refused() {
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
    fn a_resource_of_the_same_name_in_another_group_is_not_refused() {
        for name in
            ["secrets", "configmaps", "nodes.longhorn.io", "events.example.com", "widgets.example.com"]
        {
            assert_eq!(why(&GroupResource::parse(name)), None, "{name}");
        }
    }

    #[test]
    fn wildcards_and_what_is_no_name_are_refused() {
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
