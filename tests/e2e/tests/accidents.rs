//! A mistake of an admin decrypts nothing; a confirmed decryption does (invariant: decryption-is-confirmed).
//!
//! The tests run on a real API server with the shipped files, and a second time with a CRD that checks nothing,
//! so that only the operator protects the stored data. After each mistake every value is read from etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyward_core::api::ClusterEncryption;
use keyward_core::names;
use keyward_core::platform::kubernetes;
use keyward_core::platform::refused::REFUSED;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{
    Contents, IMAGE, Install, Keyward, Load, SHORT_HISTORY, evidence, give, person, shipped, vault_spec,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, ValidationDirective};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);
const CRD: &str = "clusterencryptions.encryption.keyward.dev";
const CRDS: [&str; 3] =
    [CRD, "encryptionmigrations.encryption.keyward.dev", "encryptionnodes.encryption.keyward.dev"];
const POLICY: &str = "keyward-protect-clusterencryption";

/// The stored objects, with their original content.
struct Stored {
    load: Load,
    before: Contents,
}

impl Stored {
    /// Fails unless every value in etcd has the prefix of this key.
    async fn is_under(&self, keyward: &Keyward, key: u64) -> Result<()> {
        let prefix = format!("k8s:enc:aescbc:v1:{key}:");
        evidence(&keyward.cluster, &self.load, &self.before).await?.expect(|_| prefix.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mistake_decrypts_anything_and_a_confirmed_decryption_does() -> Result<()> {
    let apiserver_args = vec![SHORT_HISTORY.to_owned()];
    let keyward = Keyward::start(Install { apiserver_args, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 30, 10).await?;
    let stored = Stored { before: load.contents().await?, load };
    let encryption = json!({"type": "aescbc"});
    keyward.apply(&encryption).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    protect(&keyward).await?;

    refused_at_once(&keyward).await.context("refused by the API server")?;
    the_installation_is_not_deleted(&keyward).await?;
    the_crd_refuses_what_the_operator_refuses(&keyward).await?;
    the_crd_refuses_what_the_vault_module_refuses(&keyward).await?;
    stored.is_under(&keyward, 1).await.context("after the requests that the API server refused")?;

    survived(&keyward, &stored, &encryption).await.context("with a CRD that checks nothing")?;
    deleted(&keyward, &stored, &encryption).await.context("deleted")?;
    confirmed(&keyward, &stored).await.context("confirmed")
}

/// Installs the policies, and waits until the API server enforces them.
async fn protect(keyward: &Keyward) -> Result<()> {
    keyward.cluster.apply(&shipped(&keyward.cluster, "protect.yaml")?).await?;
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    wait_until("the policy to be in force", PATIENCE, async || {
        let tried = DeleteParams { dry_run: true, ..Default::default() };
        let deleted = clusters.delete(names::CLUSTER, &tried).await;
        let namespaces = Api::<Namespace>::all(keyward.client.clone());
        let emptied = namespaces.delete(names::NAMESPACE, &tried).await;
        let refused = deleted.is_err() && emptied.is_err();
        Ok(Seen::when(refused, "a delete would be allowed".to_owned()))
    })
    .await
}

/// Deleting a CustomResourceDefinition deletes its objects, and deleting the namespace deletes the keys: the
/// policies refuse both.
async fn the_installation_is_not_deleted(keyward: &Keyward) -> Result<()> {
    let crds = Api::<CustomResourceDefinition>::all(keyward.client.clone());
    let namespaces = Api::<Namespace>::all(keyward.client.clone());
    let real = DeleteParams::default();
    let mut refused = Vec::new();
    for name in CRDS {
        let deleted = crds.delete(name, &real).await;
        refused.push((name, "customresourcedefinitions", deleted.err().context(name)?.to_string()));
    }
    let deleted = namespaces.delete(names::NAMESPACE, &real).await;
    refused.push((names::NAMESPACE, "namespaces", deleted.err().context("the namespace")?.to_string()));
    for (name, resource, error) in refused {
        let remedy = format!("kubectl annotate {resource} {name} {}=true", names::ANNOTATION_ALLOW_DELETION);
        for part in ["would be deleted with", "first decrypt everything", &remedy] {
            ensure!(error.contains(part), "{part}: {error}");
        }
    }
    // Another client may delete a collection; `kubectl delete crd --all` does not.
    let only = ListParams::default().fields(&format!("metadata.name={CRD}"));
    let collection = crds.delete_collection(&real, &only).await;
    ensure!(collection.is_err(), "the CRD is deleted with its collection");
    for name in CRDS {
        ensure!(crds.get(name).await?.metadata.deletion_timestamp.is_none(), "{name} is being deleted");
    }
    let namespace = namespaces.get(names::NAMESPACE).await?;
    ensure!(namespace.metadata.deletion_timestamp.is_none(), "the namespace is being deleted");

    // An admin can allow it, and objects that are not Keyward's can be deleted.
    let tried = DeleteParams { dry_run: true, ..Default::default() };
    let annotated = |value: Option<&str>| {
        Patch::Merge(json!({"metadata": {"annotations": {names::ANNOTATION_ALLOW_DELETION: value}}}))
    };
    let params = PatchParams::default();
    for (value, allowed) in [(Some("yes"), false), (Some("true"), true), (None, false)] {
        crds.patch(CRD, &params, &annotated(value)).await?;
        namespaces.patch(names::NAMESPACE, &params, &annotated(value)).await?;
        let deleted = [
            crds.delete(CRD, &tried).await.is_ok(),
            namespaces.delete(names::NAMESPACE, &tried).await.is_ok(),
        ];
        ensure!(deleted == [allowed; 2], "annotated with {value:?}: deleted {deleted:?}");
    }
    namespaces.delete("kube-node-lease", &tried).await.context("another namespace")?;
    Ok(())
}

/// The API server names the mistake, and so does `plan`.
async fn refused_at_once(keyward: &Keyward) -> Result<()> {
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    for (what, spec, words) in [
        ("misspelled", json!({"encryption": null, "encrytion": {"type": "aescbc"}}), "spec.encryption"),
        ("emptied", json!({"encryption": {"type": null}}), "spec.encryption.type"),
        ("gone", json!({"encryption": null}), "spec.encryption"),
        ("empty type", json!({"encryption": {"type": ""}}), "spec.encryption.type"),
        ("letter case", json!({"encryption": {"type": "Identity"}}), "\"identity\""),
        ("left the list", json!({"resources": ["configmaps"]}), "spec.decrypt"),
        ("in both lists", json!({"decrypt": ["secrets"]}), "spec.decrypt"),
    ] {
        // Like a client that does not request strict field validation.
        let params =
            PatchParams { field_validation: Some(ValidationDirective::Ignore), ..Default::default() };
        let written = clusters.patch(names::CLUSTER, &params, &Patch::Merge(json!({"spec": spec}))).await;
        let refused = written.err().with_context(|| format!("{what} is accepted"))?.to_string();
        ensure!(refused.contains(words), "{what}: {refused}");
    }
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..Default::default() };
    let typo = json!({"spec": {"encrytion": {"type": "aescbc"}}});
    let refused = clusters.patch(names::CLUSTER, &strict, &Patch::Merge(typo)).await;
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("encrytion")),
        "kubectl's typo is accepted"
    );
    let refused = clusters.delete(names::CLUSTER, &DeleteParams::default()).await;
    let refused = refused.err().context("it is deleted")?.to_string();
    for part in ["still encrypted", ": configmaps, secrets;", "identity", "status.encryptedResources"] {
        ensure!(refused.contains(part), "{refused}");
    }

    let mut object = keyward.object(&json!({"type": "aescbc"}));
    let encryption = object["spec"].as_object_mut().unwrap().remove("encryption").unwrap();
    object["spec"]["encrytion"] = encryption;
    plan(keyward, &object, 1, &["spec.encrytion: unknown field; did you mean \"encryption\"?"]).await?;
    plan(keyward, &keyward.object(&json!({})), 1, &["spec.encryption.type: Required value"]).await?;
    plan(keyward, &keyward.object(&json!({"type": "AESCBC"})), 1, &["did you mean \"aescbc\"?"]).await?;
    let mut object = keyward.object(&json!({"type": "aescbc"}));
    object["spec"]["resources"] = json!(["configmaps"]);
    plan(keyward, &object, 0, &["secrets left spec.resources but stays encrypted", "nothing changes"])
        .await?;
    object["spec"]["decrypt"] = json!(["secrets"]);
    plan(keyward, &object, 2, &["decrypt secrets", "objects in 1 resource", "in plain text"]).await
}

async fn plan(keyward: &Keyward, object: &Value, code: i32, words: &[&str]) -> Result<()> {
    let file = keyward.cluster.folder().join("planned.json");
    std::fs::write(&file, object.to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-f", &file, "--providers", &modules.to_string_lossy()];
    let answer = keyward.command(&arguments).await?;
    ensure!(answer.status.code() == Some(code), "expected {code}: {answer:?}");
    for word in words {
        ensure!(answer.stdout.contains(word), "{word}: {answer:?}");
    }
    Ok(())
}

/// The API server refuses exactly the mistakes that the operator reports.
async fn the_crd_refuses_what_the_operator_refuses(keyward: &Keyward) -> Result<()> {
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let dry = PatchParams { dry_run: true, ..Default::default() };
    let (mut refused, mut accepted) = (0, 0);
    for part in table() {
        let mut spec = json!({
            "encryption": {"type": "aescbc"}, "resources": null, "decrypt": null,
            "plugins": {"timeout": null, "proxy": null, "resources": null}, "apiServer": {"requestTimeout": null},
        });
        for (field, value) in part.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let mut sparse = spec.clone();
        sparse.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let mistakes = kubernetes::wanted(&serde_json::from_value(sparse)?).mistakes;
        let written = clusters.patch(names::CLUSTER, &dry, &Patch::Merge(json!({"spec": spec}))).await;
        let error = written.err().map(|error| error.to_string());
        ensure!(
            error.is_some() != mistakes.is_empty(),
            "{part}: operator {mistakes:?}, API server {error:?}"
        );
        if error.is_some() { refused += 1 } else { accepted += 1 }
    }
    ensure!(refused > 50 && accepted > 10, "{refused} refused, {accepted} accepted");
    Ok(())
}

/// The same for a field that only the provider module checks; `plan` calls the module.
async fn the_crd_refuses_what_the_vault_module_refuses(keyward: &Keyward) -> Result<()> {
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let dry = PatchParams { dry_run: true, ..Default::default() };
    for (address, is_valid) in [
        ("https://vault.example.com", true),
        ("https://vault.example.com.:8200/", true),
        ("https://vault.example.com:", true),
        ("https://vault.example.com:065535?", true),
        ("https://192.0.2.7:8200", true),
        ("https://[2001:db8::1]:8200", true),
        ("https://vault.example.com:0", false),
        ("https://vault.example.com:00", false),
        ("https://vault.example.com:65536", false),
        ("https://vault.example.com:99999999", false),
        ("https://", false),
        ("https://:8200", false),
        ("https:///", false),
        ("https://.", false),
        ("https://.example.com", false),
        ("https://vault..example.com", false),
        ("https://vault.example.com..", false),
        ("https://192.0.2.256", false),
        ("https://127.1", false),
        ("https://0x7f000001:8200", false),
        ("https://vault.example.com#", false),
        ("https://vault.example.com/#fragment", false),
        ("https://vault.example.com?&", false),
        ("https://v%61ult.example.com", false),
    ] {
        let mut spec = vault_spec(keyward, "a", &IMAGE(1));
        spec["kms"]["vault"]["vaultAddress"] = json!(address);
        let patch = Patch::Merge(json!({"spec": {"encryption": spec.clone()}}));
        let written = clusters.patch(names::CLUSTER, &dry, &patch).await;
        let error = written.err().map(|error| error.to_string());
        ensure!(error.is_none() == is_valid, "{address}: the API server's error is {error:?}");
        let names_it = error.is_none_or(|error| error.contains("vaultAddress"));
        ensure!(names_it, "{address}: another field is refused");
        let (code, words) = if is_valid { (2, "") } else { (1, "vaultAddress") };
        plan(keyward, &keyward.object(&spec), code, &[words]).await.context(address)?;
    }
    Ok(())
}

fn table() -> Vec<Value> {
    let resources = |name: &str| json!({"resources": ["configmaps", "secrets", name]});
    let mut table = Vec::new();
    for refused in REFUSED {
        let group = if refused.group.is_empty() { String::new() } else { format!(".{}", refused.group) };
        let any = if refused.resources.is_empty() { &["anything"][..] } else { refused.resources };
        table.extend(any.iter().map(|name| resources(&format!("{name}{group}"))));
        // The same names in another group are not refused.
        table.extend(any.iter().map(|name| resources(&format!("{name}.of.example.com{group}"))));
    }
    for name in [
        "*",
        "*.*",
        "*.apps",
        "Secrets",
        "pods/status",
        "",
        ".apps",
        "a b",
        "secrets",
        "widgets.example.com",
        "a-b.c",
        "pods.",
        "secrets.",
        "deployments.apps.",
        "widgets..example.com",
        ".",
    ] {
        table.push(resources(name));
    }
    for name in ["*", "Widgets", "widgets", "pods", "secrets", "", "secrets.", "widgets.example.com.", "a..b"]
    {
        table.push(json!({"decrypt": [name]}));
    }
    table.push(json!({"resources": ["pods."]}));
    table.push(json!({"resources": ["secrets", "secrets."]}));
    table.push(json!({"decrypt": ["widgets", "widgets"]}));
    table.push(json!({"resources": [], "decrypt": ["secrets"]}));
    for text in [
        "10s",
        "1m30s",
        ".5s",
        "1.s",
        "2000us",
        "0",
        "0s",
        "0.1ns",
        "-1s",
        "+1s",
        "1d",
        "10",
        "s",
        "",
        "ten",
        "1s ",
        "99999999999999h",
    ] {
        table.push(json!({"plugins": {"timeout": text}}));
        table.push(json!({"apiServer": {"requestTimeout": text}}));
    }
    for url in ["http://proxy:3128", "http://user:password@proxy:3128"] {
        table.push(json!({"plugins": {"proxy": {"https": url}}}));
    }
    for quantity in ["10m", "1", "0.5", "1e3", "64Mi", "", "ten", "1x", "-1", "1 "] {
        table.push(json!({"plugins": {"resources": {"requests": {"cpu": quantity}}}}));
    }
    for limit in ["20m", "0.02", "10m", "5m"] {
        table.push(json!({"plugins": {"resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": limit}}}}));
    }
    for mode in ["identity", "aesgcm", "secretbox", "", "Identity", "AESCBC", "kms", "none"] {
        table.push(json!({"encryption": {"type": mode}}));
    }
    table.push(json!({"encryption": {"type": "aescbc", "kms": {"type": "External", "external": {}}}}));
    table.push(json!({"encryption": {"type": "KMS", "kms": {"type": "External", "external": {}}}}));
    table
}

/// With a CRD that checks nothing, the same mistakes reach the operator.
async fn survived(keyward: &Keyward, stored: &Stored, encryption: &Value) -> Result<()> {
    let shipped = unchecked(keyward).await?;
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let unchecked = PatchParams { field_validation: Some(ValidationDirective::Ignore), ..Default::default() };
    for (what, spec, words) in [
        ("gone", json!({"encryption": null}), "spec.encryption.type: Required value"),
        ("empty type", json!({"encryption": {"type": ""}}), "spec.encryption.type: Required value"),
        ("letter case", json!({"encryption": {"type": "Identity"}}), "configured: Identity; did you mean"),
        (
            "gone, and a resource left the list",
            json!({"encryption": null, "resources": ["configmaps"]}),
            "spec.encryption.type: Required value",
        ),
        (
            "left the list",
            json!({"encryption": {"type": "aescbc"}, "resources": ["configmaps"]}),
            "secrets left spec.resources but stays encrypted",
        ),
    ] {
        clusters
            .patch(names::CLUSTER, &unchecked, &Patch::Merge(json!({"spec": spec})))
            .await
            .context(what)?;
        keyward.wait(what, PATIENCE, |status| status.summary().contains(words)).await?;
        // New objects are encrypted as before, too.
        let name = what.replace([' ', ','], "-");
        stored.load.add(&format!("secret/{name}"), what).await?;
        stored.is_under(keyward, 1).await.context(what)?;
    }
    let crds = Api::<CustomResourceDefinition>::all(keyward.client.clone());
    let restored = PatchParams::apply("admin").force();
    crds.patch(CRD, &restored, &Patch::Apply(&shipped)).await?;
    keyward.apply(encryption).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    stored.is_under(keyward, 1).await
}

/// Removes every check but types from the CRD. Returns the original CRD.
async fn unchecked(keyward: &Keyward) -> Result<CustomResourceDefinition> {
    let crds = Api::<CustomResourceDefinition>::all(keyward.client.clone());
    let mut shipped = crds.get(CRD).await?;
    shipped.metadata = kube::api::ObjectMeta { name: shipped.metadata.name, ..Default::default() };
    shipped.status = None;
    let mut text = serde_json::to_value(&shipped)?;
    let schema = &mut text["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema.as_object_mut().context("a schema")?.remove("x-kubernetes-validations");
    // Only in the spec: the lists in the status need their keys.
    strip(&mut schema["properties"]["spec"]);
    let loose: CustomResourceDefinition = serde_json::from_value(text)?;
    crds.patch(CRD, &PatchParams::apply("admin").force(), &Patch::Apply(&loose)).await?;
    // Wait until the API server uses it.
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    wait_until("the loose CRD to be served", PATIENCE, async || {
        let tried = PatchParams { dry_run: true, ..Default::default() };
        let patch = Patch::Merge(json!({"spec": {"encryption": {"type": ""}}}));
        let written = clusters.patch(names::CLUSTER, &tried, &patch).await;
        Ok(Seen::when(written.is_ok(), format!("{written:?}")))
    })
    .await?;
    Ok(shipped)
}

fn strip(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            // Lists of type map need required keys, which are removed below.
            for keys in ["x-kubernetes-list-type", "x-kubernetes-list-map-keys"] {
                fields.remove(keys);
            }
            // Only arrays: a field with this name is an object.
            fields.retain(|name, value| !(["required", "enum"].contains(&name.as_str()) && value.is_array()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Without the policy, ClusterEncryption can be deleted: nothing is decrypted, `status` shows what is
/// encrypted, and creating the object again restores everything.
async fn deleted(keyward: &Keyward, stored: &Stored, encryption: &Value) -> Result<()> {
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(keyward.client.clone());
    bindings.delete(POLICY, &DeleteParams::default()).await?;
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    wait_until("the object to be deleted", PATIENCE, async || {
        let deleted = clusters.delete(names::CLUSTER, &DeleteParams::default()).await;
        Ok(Seen::when(deleted.is_ok(), format!("{:?}", deleted.err())))
    })
    .await?;
    ensure!(clusters.get_opt(names::CLUSTER).await?.is_none(), "it is still there");
    let answer = keyward.command(&["status"]).await?;
    for part in [
        "ClusterEncryption/cluster is gone",
        "writes secrets under aescbc:1",
        "secrets: everything is stored under key 1",
        "create ClusterEncryption/cluster with the spec that it had",
    ] {
        ensure!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
    deleted_without_permissions(keyward, encryption).await?;
    stored.load.add("secret/without-an-object", "value").await?;
    stored.is_under(keyward, 1).await?;

    plan(keyward, &keyward.object(encryption), 0, &["nothing changes"]).await?;
    keyward.apply(encryption).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    protect(keyward).await?;
    stored.is_under(keyward, 1).await
}

/// To a user who is not allowed to list Secrets, `status` reports that they cannot be read, not that nothing
/// is encrypted.
async fn deleted_without_permissions(keyward: &Keyward, encryption: &Value) -> Result<()> {
    give(&keyward.cluster, "status").await?;
    let answer = keyward.command_as(&person("status"), &["status"]).await?;
    let says = answer.stdout.contains("secrets in keyward-system cannot be read: ")
        && answer.stdout.contains("bind the Role keyward-plan")
        && !answer.stdout.contains("nothing shows");
    ensure!(answer.status.code() == Some(1) && says, "{answer:?}");
    let answer = keyward.command_as(&person("status"), &["status", "-o", "json"]).await?;
    let document: Value = serde_json::from_str(&answer.stdout)?;
    ensure!(document["gone"] == true && document["unknown"][0]["why"] != Value::Null, "{answer:?}");
    let answer = keyward.command(&["status", "-o", "json"]).await?;
    let document: Value = serde_json::from_str(&answer.stdout)?;
    ensure!(document["revision"]["lists"]["secrets"][0] == "aescbc:1", "{answer:?}");

    // The same user, with all permissions of `plan -f` but those for Secrets, plans to decrypt everything.
    let mut roles = give(&keyward.cluster, "plan").await?;
    roles.retain(|role| role["kind"] == "Role" && role["metadata"]["namespace"] == names::NAMESPACE);
    for mut role in roles {
        role["rules"] = json!([]);
        keyward.cluster.apply(&role.to_string()).await?;
    }
    let file = keyward.cluster.folder().join("decrypted.json");
    std::fs::write(&file, keyward.object(&json!({"type": "identity"})).to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-f", &file, "--providers", &modules.to_string_lossy()];
    wait_until("the role to be in force", PATIENCE, async || {
        let answer = keyward.command_as(&person("plan"), &arguments).await?;
        let says = answer.stdout.contains("not known what is deployed")
            && answer.stdout.contains("secrets in keyward-system: ")
            && !answer.stdout.contains("nothing changes");
        Ok(Seen::when(answer.status.code() == Some(1) && says, format!("{answer:?}")))
    })
    .await?;
    // To a user who is allowed to read them, `plan` shows the change.
    let object = keyward.object(&json!({"type": "identity"}));
    plan(keyward, &object, 2, &["⇒ decrypt configmaps, secrets"]).await?;
    let mut object = keyward.object(encryption);
    object["spec"]["forget"] = json!([{"keyID": 1, "requestedAt": "now"}]);
    plan(keyward, &object, 2, &["⇒ forget key 1"]).await
}

/// Fails if another entry of the newest revision than these has a key: the status no longer lists its
/// resource.
fn only_these_have_keys(status: &keyward_test_e2e::Status, is_allowed: impl Fn(&str) -> bool) -> Result<()> {
    let newest = status.0.status.as_ref().and_then(|status| status.revisions.iter().max_by_key(|r| r.n));
    for (resource, list) in &newest.context("a revision")?.lists {
        let entry = format!("{resource}: {}", list.join(", "));
        ensure!(!entry.contains("aescbc") || is_allowed(&entry), "an entry still has a key: {entry}");
    }
    Ok(())
}

/// A confirmed decryption decrypts exactly the confirmed resources.
async fn confirmed(keyward: &Keyward, stored: &Stored) -> Result<()> {
    let clusters = Api::<ClusterEncryption>::all(keyward.client.clone());
    let confirmed = json!({"spec": {"resources": ["configmaps"], "decrypt": ["secrets"]}});
    clusters.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(confirmed)).await?;
    let done = |status: &keyward_test_e2e::Status, left: &[&str]| {
        status.0.status.as_ref().is_some_and(|status| status.encrypted_resources == left)
    };
    let status =
        keyward.wait("Secrets to be decrypted", PATIENCE, |status| done(status, &["configmaps"])).await?;
    only_these_have_keys(&status, |list| list.contains("configmaps") && list.contains("aescbc"))?;
    let aescbc = |resource: &str| match resource {
        "configmaps" => "k8s:enc:aescbc:v1:1:".to_owned(),
        _ => "plain".to_owned(),
    };
    evidence(&keyward.cluster, &stored.load, &stored.before).await?.expect(aescbc)?;

    keyward.apply(&json!({"type": "identity"})).await?;
    keyward.wait("everything to be decrypted", PATIENCE, |status| done(status, &[])).await?;
    evidence(&keyward.cluster, &stored.load, &stored.before).await?.expect(|_| "plain".to_owned())?;
    clusters
        .delete(names::CLUSTER, &DeleteParams::default())
        .await
        .context("nothing is encrypted any more")?;
    Ok(())
}
