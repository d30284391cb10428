//! What `keyward status` shows if `ClusterEncryption/cluster` is gone: it may have been deleted while objects
//! were encrypted. The output names everything that cannot be read, and reports that nothing is encrypted
//! only if everything was read (invariant: unknown-is-not-absent).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{EncryptionMigration, EncryptionNode, MigrationPhase};
use keyward_core::formats::revision::RevisionContent;
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_core::platform::{Unreadable, kubernetes};
use keyward_operator::Cluster;
use keyward_operator::live::own_secrets;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::live::INSTALL_CRDS;
use crate::plan::Unknown;

/// Timeout of one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The beginning of the names of key secrets.
const KEY_SECRET: &str = "encryption-key-";

/// Each resource's providers in a revision, the writer first.
type Lists = BTreeMap<String, Vec<String>>;

/// What is left in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// Whether the API server serves the kind `ClusterEncryption`.
    is_served: bool,
    /// The newest revision that can be decoded.
    revision: Option<(Revision, Lists)>,
    /// Names of key secrets.
    keys: Vec<String>,
    nodes: Vec<EncryptionNode>,
    migrations: Vec<EncryptionMigration>,
    /// What cannot be read or decoded.
    unknown: Vec<Unknown>,
}

/// Reads what is left.
pub(crate) async fn look(client: &kube::Client, is_served: bool) -> Gone {
    let all = ListParams::default();
    let nodes = Api::<EncryptionNode>::all(client.clone());
    let migrations = Api::<EncryptionMigration>::all(client.clone());
    let cluster = Cluster::new(client.clone(), CALL_TIMEOUT);
    let (nodes, migrations, secrets) =
        tokio::join!(nodes.list(&all), migrations.list(&all), own_secrets(&cluster));
    let nodes = nodes.map(|list| list.items).map_err(|error| why(&error));
    let migrations = migrations.map(|list| list.items).map_err(|error| why(&error));
    Gone::of(is_served, secrets, nodes, migrations)
}

fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("the API server does not serve them; {INSTALL_CRDS}")
        }
        other => other.to_string(),
    }
}

impl Gone {
    fn of(
        is_served: bool,
        (secrets, unreadable): (Vec<Secret>, Vec<Unreadable>),
        nodes: Result<Vec<EncryptionNode>, String>,
        migrations: Result<Vec<EncryptionMigration>, String>,
    ) -> Self {
        let mut gone = Self { is_served, ..Self::default() };
        let unreadable = unreadable.into_iter();
        gone.unknown.extend(unreadable.map(|one| Unknown { what: one.what, why: one.why }));
        let mut unread = |what: &str, why: String| gone.unknown.push(Unknown { what: what.to_owned(), why });
        gone.nodes = nodes.map_err(|why| unread("EncryptionNodes", why)).unwrap_or_default();
        gone.migrations = migrations.map_err(|why| unread("EncryptionMigrations", why)).unwrap_or_default();
        let names = secrets.iter().filter_map(|secret| secret.metadata.name.clone());
        gone.keys = names.filter(|name| name.starts_with(KEY_SECRET)).collect();
        gone.keys.sort();
        for secret in &secrets {
            gone.read(secret);
        }
        gone
    }

    /// Reads one Secret. A revision that cannot be decoded is reported: it may be the one in force.
    fn read(&mut self, secret: &Secret) {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        let Some(revision) = names::parse_revision_secret(name) else { return };
        let why = match RevisionContent::decode(name, &kubernetes::data(secret)) {
            Ok(Some(content)) => {
                if self.revision.as_ref().is_none_or(|(newest, _)| *newest < revision) {
                    self.revision = Some((revision, content.config.lists()));
                }
                return;
            }
            Ok(None) => format!("it is missing required key {:?}", names::CONFIG_KEY),
            Err(error) => error.to_string(),
        };
        let what = format!("revision {revision} (secret {}/{name})", names::NAMESPACE);
        self.unknown.push(Unknown { what, why });
    }

    /// 1 if something cannot be read.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }

    /// Nodes by the revision that they have loaded.
    fn loaded(&self) -> BTreeMap<Revision, Vec<&str>> {
        let mut loaded: BTreeMap<Revision, Vec<&str>> = BTreeMap::new();
        for node in &self.nodes {
            let revision = node.status.as_ref().map(|status| status.revision).unwrap_or_default();
            if revision > Revision(0) {
                loaded.entry(revision).or_default().push(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
        loaded
    }

    /// JSON for programs: `gone`, and everything that is known.
    pub(crate) fn document(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| json!({"name": node.metadata.name, "spec": node.spec, "status": node.status}))
            .collect();
        let migrations: Vec<Value> =
            self.migrations.iter().map(|one| json!({"spec": one.spec, "status": one.status})).collect();
        let revision = self.revision.as_ref().map(|(n, lists)| json!({"n": n, "lists": lists}));
        json!({
            "gone": true, "served": self.is_served, "revision": revision, "keySecrets": self.keys,
            "nodes": nodes, "migrations": migrations, "unknown": self.unknown,
        })
    }

    /// Text for people.
    pub(crate) fn render(&self) -> String {
        let loaded = self.loaded();
        let has_trace = self.revision.is_some()
            || !(self.keys.is_empty() && loaded.is_empty() && self.migrations.is_empty());
        if !has_trace && self.unknown.is_empty() {
            return "there is no ClusterEncryption/cluster, and nothing shows that Keyward has encrypted here: no revision, no key secret, no migration, no node that reports a revision\n".to_owned();
        }
        let mut text = match (self.is_served, has_trace) {
            (false, _) => "warning: the API server does not serve ClusterEncryption, so there is no ClusterEncryption/cluster; objects that were encrypted still are\n",
            (true, true) if self.is_decrypted() => "ClusterEncryption/cluster is gone; the newest revision writes everything in plain text\n",
            (true, true) => "warning: ClusterEncryption/cluster is gone, but objects that were encrypted still are\n",
            (true, false) => "warning: there is no ClusterEncryption/cluster; it is not known whether objects are encrypted\n",
        }
        .to_owned();
        for (revision, nodes) in loaded {
            let _ = writeln!(text, "  revision {revision} is loaded on {}", nodes.join(", "));
        }
        let statuses = self.nodes.iter().filter_map(|node| node.status.as_ref());
        let plugins: BTreeSet<String> =
            statuses.flat_map(|status| &status.plugins).map(|plugin| plugin.key_id.to_string()).collect();
        if !plugins.is_empty() {
            let keys: Vec<String> = plugins.into_iter().collect();
            let _ = writeln!(text, "  running plugins: key {}", keys.join(", key "));
        }
        self.stored(&mut text);
        for migration in &self.migrations {
            if let Some(line) = self.migrated(migration) {
                let _ = writeln!(text, "  {line}");
            }
        }
        for unknown in &self.unknown {
            let _ = writeln!(text, "error: {} cannot be read: {}", unknown.what, unknown.why);
        }
        if !self.unknown.is_empty() {
            text.push_str("if you are not allowed to read it, bind the Role keyward-plan in keyward-system and the ClusterRole keyward-status to your user (deploy/rbac); otherwise make it readable first, see docs/recovery.md\n");
        }
        if !self.is_served {
            let _ = writeln!(text, "{INSTALL_CRDS}");
        }
        text.push_str(
            "keys, plugins and nodes are not managed now; do not delete Secrets of keyward-system, EncryptionNodes, plugins or KEKs: stored objects can be read only with them\n\
             to continue: create ClusterEncryption/cluster with the spec that it had; first check it with `keyward plan -f FILE`, which prints `nothing changes` if it names the same KEK\n\
             to decrypt everything: create it with spec.encryption.type identity, and delete it when status.encryptedResources is empty\n",
        );
        text
    }

    /// What Keyward's Secrets show.
    fn stored(&self, text: &mut String) {
        if let Some((revision, lists)) = &self.revision {
            for (resource, providers) in lists {
                let writer = providers.first().map_or("nothing", String::as_str);
                let how = match writer {
                    "identity" => "in plain text".to_owned(),
                    writer => format!("under {writer}"),
                };
                let _ = writeln!(
                    text,
                    "  revision {revision} writes {resource} {how} and reads them with {}",
                    providers.join(", ")
                );
            }
        } else if self.unknown.is_empty() {
            let _ = writeln!(text, "  there is no revision in {}", names::NAMESPACE);
        }
        if !self.keys.is_empty() {
            let _ = writeln!(text, "  key secrets in {}: {}", names::NAMESPACE, self.keys.join(", "));
        }
    }

    /// Whether everything was read, and the newest revision writes nothing under a key.
    fn is_decrypted(&self) -> bool {
        let plain = |providers: &Vec<String>| providers.first().is_some_and(|writer| writer == "identity");
        self.unknown.is_empty() && self.revision.as_ref().is_some_and(|(_, lists)| lists.values().all(plain))
    }

    /// The state of a migration; `None` if the newest revision writes the resource with another key. A report
    /// about an earlier spec does not show how objects are stored now.
    fn migrated(&self, migration: &EncryptionMigration) -> Option<String> {
        let (resource, id) = (&migration.spec.resource, migration.spec.key_id);
        let writer =
            self.revision.as_ref().map(|(_, lists)| lists.get(resource).and_then(|list| list.first()));
        let under = match writer {
            Some(None) => "in plain text".to_owned(),
            // Also for an identity key, which has a number.
            Some(Some(writer)) if writer == "identity" => "in plain text".to_owned(),
            Some(Some(writer)) if writer.split_once(':').is_none_or(|(_, n)| n != id.to_string()) => {
                return None;
            }
            _ if id.0 == 0 => "in plain text".to_owned(),
            _ => format!("under key {id}"),
        };
        let status = migration.status.as_ref();
        let current =
            status.filter(|status| Some(status.observed_generation) == migration.metadata.generation);
        Some(match current.map(|status| status.phase) {
            Some(MigrationPhase::Succeeded) => {
                format!("migration of {resource}: everything is stored {under}")
            }
            Some(other) => format!("migration of {resource}: not everything is stored {under} ({other:?})"),
            None => format!(
                "migration of {resource}: it is not known whether everything is stored {under}; there is no report about this migration yet"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use keyward_core::api::{EncryptionMigrationSpec, EncryptionMigrationStatus, EncryptionNodeSpec};
    use keyward_core::ids::KeyId;

    use super::*;

    const CONFIG: &str = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"6","secret":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}]}},{"identity":{}}]}]}"#;

    fn secret(name: &str, config: Option<&str>) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        let data = config.map(|text| (names::CONFIG_KEY.to_owned(), ByteString(text.as_bytes().to_vec())));
        secret.data = Some(data.into_iter().collect());
        secret
    }

    fn node() -> EncryptionNode {
        let mut node = EncryptionNode::new("cp-1", EncryptionNodeSpec::default());
        node.status.get_or_insert_default().revision = Revision(9);
        node
    }

    fn migration(observed: i64) -> EncryptionMigration {
        let spec = EncryptionMigrationSpec {
            resource: "secrets".into(),
            key_id: KeyId(6),
            ..EncryptionMigrationSpec::default()
        };
        let mut migration = EncryptionMigration::new("m", spec);
        migration.metadata.generation = Some(3);
        migration.status = Some(EncryptionMigrationStatus {
            phase: MigrationPhase::Succeeded,
            observed_generation: observed,
            ..Default::default()
        });
        migration
    }

    fn gone(secrets: &[Secret], unreadable: Option<&str>) -> Gone {
        let unreadable =
            unreadable.map(|why| Unreadable { what: "secrets in keyward-system".into(), why: why.into() });
        let unreadable = unreadable.into_iter().collect();
        Gone::of(true, (secrets.to_vec(), unreadable), Ok(Vec::new()), Ok(Vec::new()))
    }

    #[test]
    fn encrypted_resources_are_listed_although_the_object_is_gone() {
        let secrets = vec![secret("encryption-config-9", Some(CONFIG))];
        let gone = Gone::of(true, (secrets, Vec::new()), Ok(vec![node()]), Ok(vec![migration(3)]));
        let rendered = gone.render();
        for part in [
            "ClusterEncryption/cluster is gone",
            "revision 9 is loaded on cp-1",
            "revision 9 writes secrets under aescbc:6",
            "secrets: everything is stored under key 6",
            "to continue: create ClusterEncryption/cluster with the spec that it had",
        ] {
            assert!(rendered.contains(part), "{rendered}");
        }
        assert!(
            !rendered.contains("BwcH") && !gone.document().to_string().contains("BwcH"),
            "a key is shown"
        );
        assert_eq!(gone.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn nothing_encrypted_is_reported_only_if_every_list_was_read_and_is_empty() {
        let nothing = gone(&[], None);
        assert!(nothing.render().contains("nothing shows"));
        assert_eq!(nothing.exit_code(), ExitCode::SUCCESS);

        let list = || (Vec::new(), Vec::new());
        let refused = || "forbidden: not yours".to_owned();
        for unread in [
            gone(&[], Some("forbidden: not yours")),
            Gone::of(true, list(), Err(refused()), Ok(Vec::new())),
            Gone::of(true, list(), Ok(Vec::new()), Err(refused())),
            Gone::of(false, list(), Err(refused()), Err(refused())),
        ] {
            let rendered = unread.render();
            assert!(!rendered.contains("nothing shows"), "{rendered}");
            assert!(rendered.contains("cannot be read: forbidden: not yours"), "{rendered}");
            assert!(rendered.contains("Role keyward-plan in keyward-system"), "{rendered}");
            assert_eq!(unread.exit_code(), ExitCode::from(1));
        }
        let key = gone(&[secret("encryption-key-kube-apiserver-6", None)], None).render();
        assert!(!key.contains("nothing shows") && key.contains("encryption-key-kube-apiserver-6"), "{key}");
    }

    #[test]
    fn revision_that_cannot_be_decoded_is_reported() {
        for bad in [Some("resources: ["), None] {
            let gone = gone(
                &[secret("encryption-config-10", bad), secret("encryption-config-9", Some(CONFIG))],
                None,
            );
            let rendered = gone.render();
            assert!(
                rendered.contains("error: revision 10 (secret keyward-system/encryption-config-10)"),
                "{rendered}"
            );
            assert!(rendered.contains("revision 9 writes secrets"), "{rendered}");
            assert_eq!(gone.exit_code(), ExitCode::from(1));
        }
    }

    #[test]
    fn migration_phase_of_an_earlier_spec_does_not_count() {
        let gone = gone(&[secret("encryption-config-9", Some(CONFIG))], None);
        let line = |observed| gone.migrated(&migration(observed)).unwrap();
        assert_eq!(line(3), "migration of secrets: everything is stored under key 6");
        assert!(
            line(2).starts_with(
                "migration of secrets: it is not known whether everything is stored under key 6"
            )
        );
    }

    #[test]
    fn migration_to_another_key_than_the_write_key_is_not_shown() {
        let gone = gone(&[secret("encryption-config-9", Some(&CONFIG.replace("\"6\"", "\"7\"")))], None);
        assert_eq!(gone.migrated(&migration(3)), None);
        assert!(gone.render().contains("revision 9 writes secrets under aescbc:7"), "{}", gone.render());
    }

    #[test]
    fn migration_to_an_identity_key_stores_plain_text() {
        let plain = CONFIG.replace(r#"{"aescbc""#, r#"{"identity":{}},{"aescbc""#);
        let gone = gone(&[secret("encryption-config-9", Some(&plain))], None);
        assert_eq!(
            gone.migrated(&migration(3)).unwrap(),
            "migration of secrets: everything is stored in plain text"
        );
        let rendered = gone.render();
        assert!(rendered.contains("writes everything in plain text"), "{rendered}");
        assert!(!rendered.contains("objects that were encrypted still are"), "{rendered}");
    }

    #[test]
    fn secrets_are_read_although_the_kind_is_not_served() {
        let unserved = || Err("the API server does not serve them".to_owned());
        let secrets = vec![secret("encryption-config-9", Some(CONFIG))];
        let gone = Gone::of(false, (secrets, Vec::new()), unserved(), Err("not served".into()));
        let rendered = gone.render();
        for part in
            ["does not serve ClusterEncryption", "secrets under aescbc:6", "install the CRDs", "to continue"]
        {
            assert!(rendered.contains(part), "{rendered}");
        }
        let document = gone.document();
        assert_eq!((&document["gone"], &document["served"]), (&json!(true), &json!(false)));
        assert_eq!(document["revision"]["lists"]["secrets"], json!(["aescbc:6", "identity"]));
        assert_eq!(document["unknown"][0]["what"], "EncryptionNodes");
    }
}
