//! Decodes a document to an EncryptionConfiguration, strictly as the API server (kubernetes: configuration-decoding):
//! an unknown field, a duplicate field and a field of another type are errors that name the path. Errors quote no
//! value: in a damaged file, key material may be anywhere.

use super::{
    EncryptionConfiguration, Identity, KeysConfiguration, KmsConfiguration, NamedKey, ProviderConfiguration,
    ResourceConfiguration,
};
use crate::formats::FormatError;
use crate::formats::document::Node;

const KIND: &str = "EncryptionConfiguration";
const API_VERSION: &str = "apiserver.config.k8s.io/v1";

pub(super) fn configuration(node: Node) -> Result<EncryptionConfiguration, FormatError> {
    let has = |field: &str, value: &str| {
        let Node::Map(fields) = &node else { return false };
        fields.iter().any(|(name, node)| name == field && matches!(node, Node::Text(text) if text == value))
    };
    // Checked first, because errors about the fields of another kind would only confuse.
    if !has("kind", KIND) || !has("apiVersion", API_VERSION) {
        return Err(FormatError::Config(format!("it is not of kind {KIND} and apiVersion {API_VERSION}")));
    }
    let [_, _, resources] = fields(node, "", ["kind", "apiVersion", "resources"])?;
    Ok(EncryptionConfiguration::new(items(resources, "resources", entry)?))
}

fn entry(node: Node, at: &str) -> Result<ResourceConfiguration, FormatError> {
    let [resources, providers] = fields(node, at, ["resources", "providers"])?;
    let resources = match resources {
        None => None,
        // Present, even if empty: it is absent only in an envelope.
        Some(_) => Some(items(resources, &below(at, "resources"), text)?),
    };
    Ok(ResourceConfiguration { resources, providers: items(providers, &below(at, "providers"), provider)? })
}

fn provider(node: Node, at: &str) -> Result<ProviderConfiguration, FormatError> {
    let known = ["aesgcm", "aescbc", "secretbox", "identity", "kms"];
    let [aesgcm, aescbc, secretbox, identity, kms_node] = fields(node, at, known)?;
    let local = |node: Option<Node>, kind: &str| node.map(|node| keys(node, &below(at, kind))).transpose();
    Ok(ProviderConfiguration {
        aesgcm: local(aesgcm, "aesgcm")?,
        aescbc: local(aescbc, "aescbc")?,
        secretbox: local(secretbox, "secretbox")?,
        identity: identity
            .map(|node| fields(node, &below(at, "identity"), []).map(|[]| Identity {}))
            .transpose()?,
        kms: kms_node.map(|node| kms(node, &below(at, "kms"))).transpose()?,
    })
}

fn keys(node: Node, at: &str) -> Result<KeysConfiguration, FormatError> {
    let [keys] = fields(node, at, ["keys"])?;
    let key = |node: Node, at: &str| {
        let [name, secret] = fields(node, at, ["name", "secret"])?;
        Ok(NamedKey {
            name: required(name, &below(at, "name"))?,
            secret: required(secret, &below(at, "secret"))?,
        })
    };
    Ok(KeysConfiguration { keys: items(keys, &below(at, "keys"), key)? })
}

fn kms(node: Node, at: &str) -> Result<KmsConfiguration, FormatError> {
    let known = ["apiVersion", "name", "cachesize", "endpoint", "timeout"];
    let [api_version, name, cachesize, endpoint, timeout] = fields(node, at, known)?;
    let optional = |node: Option<Node>, field: &str, default: &str| match node {
        None => Ok(default.to_owned()),
        Some(node) => text(node, &below(at, field)),
    };
    let cachesize = match cachesize {
        None => None,
        Some(Node::Integer(size)) => Some(
            i32::try_from(size)
                .map_err(|_| refused(&below(at, "cachesize"), "the number does not fit into 32 bits"))?,
        ),
        Some(_) => {
            return Err(refused(&below(at, "cachesize"), "must be an integer in decimal digits"));
        }
    };
    Ok(KmsConfiguration {
        // The defaults of the API server.
        api_version: Some(optional(api_version, "apiVersion", "v1")?)
            .filter(|version| !version.is_empty())
            .unwrap_or_else(|| "v1".to_owned()),
        name: required(name, &below(at, "name"))?,
        cachesize,
        endpoint: required(endpoint, &below(at, "endpoint"))?,
        timeout: optional(timeout, "timeout", "3s")?,
    })
}

/// The fields in the order of `known`. As in Go, a null field is absent.
fn fields<const N: usize>(node: Node, at: &str, known: [&str; N]) -> Result<[Option<Node>; N], FormatError> {
    let Node::Map(fields) = node else { return Err(refused(at, "must be an object")) };
    let mut found = [const { None }; N];
    let mut seen = [false; N];
    for (name, value) in fields {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let why = match known.as_slice() {
                [] => "must be empty".to_owned(),
                known => format!("has an unknown field; known are {}", known.join(", ")),
            };
            return Err(refused(at, &why));
        };
        if let (Some(seen), Some(found)) = (seen.get_mut(index), found.get_mut(index)) {
            if std::mem::replace(seen, true) {
                return Err(refused(&below(at, &name), "is given twice"));
            }
            *found = Some(value).filter(|value| *value != Node::Null);
        }
    }
    Ok(found)
}

/// The items of a list; none if the list is absent. A list that must not be empty is checked where it is used.
fn items<T>(
    node: Option<Node>,
    at: &str,
    item: impl Fn(Node, &str) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    match node {
        None => Ok(Vec::new()),
        Some(Node::List(list)) => {
            list.into_iter().enumerate().map(|(i, node)| item(node, &format!("{at}[{i}]"))).collect()
        }
        Some(_) => Err(refused(at, "must be a list")),
    }
}

fn required(node: Option<Node>, at: &str) -> Result<String, FormatError> {
    text(node.ok_or_else(|| refused(at, "is required"))?, at)
}

fn text(node: Node, at: &str) -> Result<String, FormatError> {
    match node {
        Node::Text(text) => Ok(text),
        Node::Null => Err(refused(at, "is required")),
        Node::Bool | Node::Integer(_) | Node::Number => {
            Err(refused(at, "must be text; put it in quotation marks"))
        }
        Node::List(_) | Node::Map(_) => Err(refused(at, "must be text")),
    }
}

fn below(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

fn refused(at: &str, why: &str) -> FormatError {
    let at = if at.is_empty() { "the configuration" } else { at };
    FormatError::Config(format!("{at}: {why}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(entry: &str) -> Result<EncryptionConfiguration, String> {
        let text = format!(
            "{{\"kind\":\"EncryptionConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"resources\":[{entry}]}}"
        );
        EncryptionConfiguration::decode(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn with_provider(provider: &str) -> Result<EncryptionConfiguration, String> {
        read(&format!("{{\"resources\":[\"secrets\"],\"providers\":[{provider}]}}"))
    }

    #[rstest]
    #[case::unknown(
        r#"{"resourcess":["secrets"]}"#,
        "resources[0]: has an unknown field; known are resources, providers"
    )]
    #[case::case_matters(
        r#"{"Resources":["secrets"]}"#,
        "resources[0]: has an unknown field; known are resources, providers"
    )]
    #[case::twice(r#"{"resources":["a"],"resources":["b"]}"#, "resources[0].resources: is given twice")]
    #[case::not_an_object("[]", "resources[0]: must be an object")]
    #[case::null("null", "resources[0]: must be an object")]
    #[case::not_a_list(r#"{"resources":"secrets"}"#, "resources[0].resources: must be a list")]
    #[case::null_name(r#"{"resources":[null]}"#, "resources[0].resources[0]: is required")]
    #[case::number(
        r#"{"resources":[1]}"#,
        "resources[0].resources[0]: must be text; put it in quotation marks"
    )]
    fn entries_that_are_not_understood_are_refused_with_their_path(#[case] entry: &str, #[case] why: &str) {
        assert_eq!(read(entry), Err(format!("failed to decode EncryptionConfiguration: {why}")));
    }

    #[rstest]
    #[case::unknown_kind(
        r#"{"identiy":{}}"#,
        ": has an unknown field; known are aesgcm, aescbc, secretbox, identity, kms"
    )]
    #[case::identity_with_a_field(r#"{"identity":{"a":1}}"#, ".identity: must be empty")]
    #[case::identity_is_not_an_object(r#"{"identity":[]}"#, ".identity: must be an object")]
    #[case::no_name(r#"{"aescbc":{"keys":[{"secret":"QQ=="}]}}"#, ".aescbc.keys[0].name: is required")]
    #[case::null_secret(
        r#"{"aesgcm":{"keys":[{"name":"1","secret":null}]}}"#,
        ".aesgcm.keys[0].secret: is required"
    )]
    #[case::second_key(
        r#"{"aesgcm":{"keys":[{"name":"1","secret":"QQ=="},{"name":2,"secret":"QQ=="}]}}"#,
        ".aesgcm.keys[1].name: must be text; put it in quotation marks"
    )]
    #[case::no_endpoint(r#"{"kms":{"name":"1_secrets"}}"#, ".kms.endpoint: is required")]
    #[case::cachesize_as_text(
        r#"{"kms":{"name":"a","endpoint":"b","cachesize":"1"}}"#,
        ".kms.cachesize: must be an integer in decimal digits"
    )]
    #[case::cachesize_as_float(
        r#"{"kms":{"name":"a","endpoint":"b","cachesize":1.0}}"#,
        ".kms.cachesize: must be an integer in decimal digits"
    )]
    #[case::cachesize_of_33_bits(
        r#"{"kms":{"name":"a","endpoint":"b","cachesize":2147483648}}"#,
        ".kms.cachesize: the number does not fit into 32 bits"
    )]
    #[case::timeout_as_number(
        r#"{"kms":{"name":"a","endpoint":"b","timeout":3}}"#,
        ".kms.timeout: must be text; put it in quotation marks"
    )]
    fn providers_that_are_not_understood_are_refused_with_their_path(
        #[case] provider: &str,
        #[case] why: &str,
    ) {
        let at = "failed to decode EncryptionConfiguration: resources[0].providers[0]";
        assert_eq!(with_provider(provider), Err(format!("{at}{why}")));
    }

    #[test]
    fn null_is_absent_and_defaults_are_those_of_the_api_server() {
        let nulls = r#"{"kms":{"name":"a","endpoint":"b","cachesize":null,"timeout":null,"apiVersion":null},"aescbc":null}"#;
        let config = with_provider(nulls).unwrap();
        assert_eq!(config, with_provider(r#"{"kms":{"name":"a","endpoint":"b"}}"#).unwrap());
        let kms = config.resources[0].providers[0].kms.clone().unwrap();
        assert_eq!((kms.api_version.as_str(), kms.timeout.as_str(), kms.cachesize), ("v1", "3s", None));
        let empty = with_provider(r#"{"kms":{"name":"a","endpoint":"b","apiVersion":""}}"#).unwrap();
        assert_eq!(empty, config);
    }

    #[rstest]
    #[case::kind("v1", "EncryptionConfig")]
    #[case::version("apiserver.config.k8s.io/v1alpha1", "EncryptionConfiguration")]
    #[case::case_of_the_kind("apiserver.config.k8s.io/v1", "encryptionConfiguration")]
    fn other_kinds_and_versions_are_refused(#[case] version: &str, #[case] kind: &str) {
        let text = format!("apiVersion: {version}\nkind: {kind}\nresources: []\n");
        assert_eq!(
            EncryptionConfiguration::decode(text.as_bytes()).unwrap_err().to_string(),
            "failed to decode EncryptionConfiguration: it is not of kind EncryptionConfiguration and apiVersion apiserver.config.k8s.io/v1"
        );
    }
}
