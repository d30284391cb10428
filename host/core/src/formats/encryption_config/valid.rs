//! The API server's own validation of an EncryptionConfiguration (kubernetes: configuration-validation; Kubernetes
//! 1.36).
//!
//! An API server that restarts with an invalid file never starts again. If it is the only API server, the agent then
//! gets no other target. So an invalid configuration is never installed.

use std::collections::BTreeSet;

use super::{EncryptionConfiguration, KeysConfiguration, KmsConfiguration, ProviderConfiguration};
use crate::duration;

const AES_BYTES: &[usize] = &[16, 24, 32];
const SECRETBOX_BYTES: &[usize] = &[32];
/// Resources that are stored but have no REST API.
const WITHOUT_API: [&str; 3] = ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"];
/// Why an API server with automatic reload refuses the configuration: the first mistake, without key material. `None`
/// if its validation passes. Plugins that do not answer are not checked here.
pub(super) fn refused(config: &EncryptionConfiguration) -> Option<String> {
    if config.resources.is_empty() {
        return Some("resources: at least one is required".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut wildcards = Vec::new();
    for (i, entry) in config.resources.iter().enumerate() {
        let at = format!("resources[{i}]");
        let resources: Vec<(&str, GroupResource<'_>)> =
            entry.resources.iter().flatten().map(|name| (name.as_str(), GroupResource::of(name))).collect();
        if let Some(why) = resource_list(&resources, &wildcards) {
            return Some(format!("{at}.resources: {why}"));
        }
        wildcards.extend(resources.iter().map(|(_, parsed)| *parsed).filter(|parsed| parsed.resource == "*"));
        if entry.providers.is_empty() {
            return Some(format!("{at}.providers: at least one is required"));
        }
        for (j, one) in entry.providers.iter().enumerate() {
            if let Some((field, why)) = provider(one, &mut names) {
                return Some(format!("{at}.providers[{j}]{field}: {why}"));
            }
        }
    }
    None
}

/// `resource.group` as the API server splits it: at the first dot.
#[derive(Clone, Copy, PartialEq, Eq)]
struct GroupResource<'a> {
    resource: &'a str,
    group: &'a str,
}

impl<'a> GroupResource<'a> {
    fn of(name: &'a str) -> Self {
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        Self { resource, group }
    }

    fn is_everything(self) -> bool {
        self.resource == "*" && self.group == "*"
    }

    /// Whether this wildcard covers the resources of the other.
    fn covers(self, other: Self) -> bool {
        self.is_everything() || self.resource == "*" && self.group == other.group
    }
}

fn resource_list(list: &[(&str, GroupResource<'_>)], earlier: &[GroupResource<'_>]) -> Option<String> {
    if list.is_empty() {
        return Some("at least one is required".to_owned());
    }
    for (i, (name, this)) in list.iter().enumerate() {
        if let Some(why) = resource_name(name, *this) {
            return Some(format!("{name:?} {why}"));
        }
        if earlier.iter().any(|wildcard| wildcard.covers(*this)) {
            return Some(format!("{name:?} is masked by the wildcard of an entry before it"));
        }
        let mut others = list.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, (_, other))| other);
        if let Some(other) = others.find(|other| **other == *this || this.covers(**other)) {
            let how = if other == this {
                "is listed twice"
            } else {
                "overlaps with another resource of this entry"
            };
            return Some(format!("{name:?} {how}"));
        }
    }
    None
}

fn resource_name(name: &str, parsed: GroupResource<'_>) -> Option<&'static str> {
    if name.to_lowercase() != *name {
        Some("has capital letters")
    } else if name == "*" {
        Some("is not a valid wildcard; use \"*.\" for the core group or \"*.*\" for everything")
    } else if WITHOUT_API.contains(&name) {
        Some("has no REST API")
    } else if parsed.group == "events.k8s.io" {
        Some("is stored as \"events\"")
    } else if parsed.group == "extensions" {
        Some("belongs to a removed API group")
    } else if parsed.group == "*" && parsed.resource != "*" {
        Some("means this resource in all API groups; name one group")
    } else {
        None
    }
}

/// A field below the provider, and why it is refused.
type Refusal = (String, String);

fn provider(one: &ProviderConfiguration, names: &mut BTreeSet<String>) -> Option<Refusal> {
    let kinds = [
        one.kms.is_some(),
        one.aesgcm.is_some(),
        one.aescbc.is_some(),
        one.secretbox.is_some(),
        one.identity.is_some(),
    ];
    match kinds.iter().filter(|set| **set).count() {
        0 => return Some((String::new(), "it has no known provider".to_owned())),
        1 => {}
        _ => return Some((String::new(), "it has more than one provider".to_owned())),
    }
    if let Some(one) = &one.kms {
        let refusal = kms(one, names).map(|(field, why)| (format!(".kms.{field}"), why));
        names.insert(one.name.clone());
        return refusal;
    }
    let local = [
        ("aesgcm", &one.aesgcm, AES_BYTES),
        ("aescbc", &one.aescbc, AES_BYTES),
        ("secretbox", &one.secretbox, SECRETBOX_BYTES),
    ];
    local.into_iter().find_map(|(kind, found, lengths)| {
        let (field, why) = keys(found.as_ref()?, lengths)?;
        Some((format!(".{kind}.keys{field}"), why))
    })
}

fn kms(one: &KmsConfiguration, names: &BTreeSet<String>) -> Option<(&'static str, String)> {
    let refuse = |field: &'static str, why: &str| Some((field, why.to_owned()));
    let v1 = one.api_version == "v1";
    if one.name.is_empty() {
        return refuse("name", "it is required");
    }
    if !v1 && one.name.contains(':') {
        return refuse("name", "it must not contain ':'");
    }
    if names.contains(&one.name) {
        return Some(("name", format!("{:?} is used twice", one.name)));
    }
    match duration::go(&one.timeout) {
        Ok(timeout) if timeout.is_zero() => return refuse("timeout", "it must be above zero"),
        Ok(_) => {}
        Err(why) => return Some(("timeout", why)),
    }
    if let Some(why) = endpoint(&one.endpoint) {
        return refuse("endpoint", why);
    }
    match one.cachesize {
        Some(_) if !v1 => return refuse("cachesize", "it must not be set for KMS v2"),
        Some(0) => return refuse("cachesize", "it must not be 0"),
        _ => {}
    }
    if !v1 && one.api_version != "v2" {
        return Some(("apiVersion", format!("{:?} is neither v1 nor v2", one.api_version)));
    }
    None
}

/// Why an endpoint is refused. This refuses a little more than Go's URL parser: any host, because a Unix socket has
/// none.
fn endpoint(url: &str) -> Option<&'static str> {
    let scheme = url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:"));
    let Some(rest) = url.get(5..).filter(|_| scheme) else { return Some("it must begin with unix://") };
    if rest.bytes().any(|byte| byte.is_ascii_control()) {
        return Some("it has a control character");
    }
    let is_escape = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !rest.split('%').skip(1).all(is_escape) {
        return Some("it has a % that is not followed by two hexadecimal digits");
    }
    let host =
        rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    (!host.bytes().all(plain)).then_some("it names a host; use unix:// and an absolute path")
}

fn keys(found: &KeysConfiguration, lengths: &[usize]) -> Option<Refusal> {
    if found.keys.is_empty() {
        return Some((String::new(), "at least one is required".to_owned()));
    }
    found.keys.iter().enumerate().find_map(|(i, key)| {
        if key.name.is_empty() {
            return Some((format!("[{i}].name"), "it is required".to_owned()));
        }
        let refuse = |why: String| Some((format!("[{i}].secret"), why));
        let Some(bytes) = key.material() else { return refuse("it is not base64".to_owned()) };
        if lengths.contains(&bytes.len()) {
            return None;
        }
        refuse(format!("it has {} bytes; {lengths:?} are allowed", bytes.len()))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::encryption_config::REVISION_ZERO;

    fn refusal(resources: &Value) -> Option<String> {
        let config = json!({
            "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": resources,
        });
        refused(&EncryptionConfiguration::decode(config.to_string().as_bytes()).unwrap())
    }

    fn entry(resources: &Value, provider: &Value) -> Value {
        json!([{"resources": resources, "providers": [provider, {"identity": {}}]}])
    }

    fn with_provider(provider: &Value) -> Option<String> {
        refusal(&entry(&json!(["secrets"]), provider))
    }

    fn kms(change: &Value) -> Value {
        let mut kms =
            json!({"apiVersion": "v2", "name": "1_secrets", "endpoint": "unix:///x", "timeout": "10s"});
        kms.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"kms": kms})
    }

    fn aes(kind: &str, bytes: usize) -> Value {
        use base64::Engine as _;
        use base64::prelude::BASE64_STANDARD;
        json!({kind: {"keys": [{"name": "1", "secret": BASE64_STANDARD.encode(vec![7; bytes])}]}})
    }

    #[test]
    fn valid_configurations_pass() {
        assert_eq!(refused(&EncryptionConfiguration::decode(REVISION_ZERO.as_bytes()).unwrap()), None);
        for bytes in [16, 24, 32] {
            assert_eq!(with_provider(&aes("aesgcm", bytes)), None);
            assert_eq!(with_provider(&aes("aescbc", bytes)), None);
        }
        assert_eq!(with_provider(&aes("secretbox", 32)), None);
        assert_eq!(with_provider(&kms(&json!({}))), None);
        assert_eq!(with_provider(&kms(&json!({"apiVersion": "v1", "cachesize": 1000}))), None);
        let broken = json!({"aescbc": {"keys": [{"name": "1", "secret": "BwcHBwcHBwcH\nBwcHBwcHBw=="}]}});
        assert_eq!(with_provider(&broken), None, "line breaks in base64");
        let identity = json!({"identity": {}});
        for resources in [
            json!(["secrets", "configmaps", "events"]),
            json!(["*."]),
            json!(["*.*"]),
            json!(["*.apps", "secrets"]),
        ] {
            assert_eq!(refusal(&entry(&resources, &identity)), None, "{resources}");
        }
        let one = |name: &str| json!({"resources": [name], "providers": [identity]});
        assert_eq!(refusal(&json!([one("secrets"), one("secrets"), one("*."), one("*.*")])), None);
    }

    #[rstest]
    #[case::length(
        aes("aesgcm", 3),
        "resources[0].providers[0].aesgcm.keys[0].secret: it has 3 bytes; [16, 24, 32] are allowed"
    )]
    #[case::length_of_cbc(
        aes("aescbc", 31),
        "resources[0].providers[0].aescbc.keys[0].secret: it has 31 bytes; [16, 24, 32] are allowed"
    )]
    #[case::length_of_secretbox(
        aes("secretbox", 16),
        "resources[0].providers[0].secretbox.keys[0].secret: it has 16 bytes; [32] are allowed"
    )]
    #[case::not_base64(json!({"aesgcm": {"keys": [{"name": "1", "secret": "%%"}]}}), "resources[0].providers[0].aesgcm.keys[0].secret: it is not base64")]
    #[case::no_name(json!({"aesgcm": {"keys": [{"name": "", "secret": "AAAA"}]}}), "resources[0].providers[0].aesgcm.keys[0].name: it is required")]
    #[case::no_keys(json!({"aesgcm": {"keys": []}}), "resources[0].providers[0].aesgcm.keys: at least one is required")]
    #[case::of_no_kind(json!({}), "resources[0].providers[0]: it has no known provider")]
    #[case::of_two_kinds(json!({"identity": {}, "aesgcm": {"keys": []}}), "resources[0].providers[0]: it has more than one provider")]
    #[case::kms_name(kms(&json!({"name": ""})), "resources[0].providers[0].kms.name: it is required")]
    #[case::colon(kms(&json!({"name": "1:a"})), "resources[0].providers[0].kms.name: it must not contain ':'")]
    #[case::scheme(kms(&json!({"endpoint": "http://x"})), "resources[0].providers[0].kms.endpoint: it must begin with unix://")]
    #[case::escape(kms(&json!({"endpoint": "unix:///a%2"})), "resources[0].providers[0].kms.endpoint: it has a % that is not followed by two hexadecimal digits")]
    #[case::control(kms(&json!({"endpoint": "unix:///a\n"})), "resources[0].providers[0].kms.endpoint: it has a control character")]
    #[case::host(kms(&json!({"endpoint": "unix://[::1/a"})), "resources[0].providers[0].kms.endpoint: it names a host; use unix:// and an absolute path")]
    #[case::zero(kms(&json!({"timeout": "0s"})), "resources[0].providers[0].kms.timeout: it must be above zero")]
    #[case::negative(kms(&json!({"timeout": "-1s"})), "resources[0].providers[0].kms.timeout: \"-1s\" is negative")]
    #[case::words(kms(&json!({"timeout": "10 seconds"})), "resources[0].providers[0].kms.timeout: \"10 seconds\" is not a duration such as 10s or 1m30s")]
    #[case::cache(kms(&json!({"cachesize": 5})), "resources[0].providers[0].kms.cachesize: it must not be set for KMS v2")]
    #[case::version(kms(&json!({"apiVersion": "v3"})), "resources[0].providers[0].kms.apiVersion: \"v3\" is neither v1 nor v2")]
    fn invalid_providers_are_refused_with_field_and_reason(#[case] provider: Value, #[case] expected: &str) {
        assert_eq!(with_provider(&provider).as_deref(), Some(expected));
    }

    #[rstest]
    #[case::none(json!([]), "resources[0].resources: at least one is required")]
    #[case::capitals(json!(["Secrets"]), "resources[0].resources: \"Secrets\" has capital letters")]
    #[case::star(json!(["*"]), "resources[0].resources: \"*\" is not a valid wildcard; use \"*.\" for the core group or \"*.*\" for everything")]
    #[case::across_groups(json!(["secrets.*"]), "resources[0].resources: \"secrets.*\" means this resource in all API groups; name one group")]
    #[case::events(json!(["events.events.k8s.io"]), "resources[0].resources: \"events.events.k8s.io\" is stored as \"events\"")]
    #[case::extensions(json!(["ingresses.extensions"]), "resources[0].resources: \"ingresses.extensions\" belongs to a removed API group")]
    #[case::no_api(json!(["serviceipallocations"]), "resources[0].resources: \"serviceipallocations\" has no REST API")]
    #[case::twice(json!(["secrets", "secrets"]), "resources[0].resources: \"secrets\" is listed twice")]
    #[case::overlap(json!(["secrets", "*."]), "resources[0].resources: \"*.\" overlaps with another resource of this entry")]
    #[case::overlap_of_all(json!(["*.*", "pods.apps"]), "resources[0].resources: \"*.*\" overlaps with another resource of this entry")]
    fn invalid_resources_are_refused_with_the_reason(#[case] resources: Value, #[case] expected: &str) {
        let why = refusal(&entry(&resources, &json!({"identity": {}})));
        assert_eq!(why.as_deref(), Some(expected));
    }

    #[test]
    fn entries_are_checked_against_each_other() {
        let one = |name: &str, provider: &Value| json!({"resources": [name], "providers": [provider]});
        let identity = json!({"identity": {}});
        assert_eq!(refusal(&json!([])).as_deref(), Some("resources: at least one is required"));
        let none = json!([{"resources": ["secrets"], "providers": []}]);
        assert_eq!(refusal(&none).as_deref(), Some("resources[0].providers: at least one is required"));
        let twice = json!([one("secrets", &kms(&json!({}))), one("configmaps", &kms(&json!({})))]);
        let expected = "resources[1].providers[0].kms.name: \"1_secrets\" is used twice";
        assert_eq!(refusal(&twice).as_deref(), Some(expected));
        for (wildcard, masked) in [("*.", "secrets"), ("*.apps", "deployments.apps"), ("*.*", "pods")] {
            let why = refusal(&json!([one(wildcard, &identity), one(masked, &identity)])).unwrap();
            assert_eq!(
                why,
                format!("resources[1].resources: {masked:?} is masked by the wildcard of an entry before it")
            );
        }
    }
}
