//! Requests of an admin: `keyward reencrypt` and `keyward forget-key`. Each writes one field of the spec, on
//! condition that the spec is as it was read. The operator carries the request out.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args as ClapArgs;
use keyward_core::api::{
    ClusterEncryption, ClusterEncryptionStatus, EncryptionMigration, ForgetPhase, ForgetRequest, ForgetStatus,
};
use keyward_core::controllers::forget_kept;
use keyward_core::ids::{GroupResource, KeyId};
use keyward_core::names;
use keyward_operator::Cluster;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::{Condition, await_condition};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::output::print;

/// The writer in `managedFields`.
const FIELD_MANAGER: &str = "keyward-cli";
/// Timeout of one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The operator may write the status between the read and the write, but hardly ever so often in a row.
const WRITE_ATTEMPTS: usize = 5;

/// Timeout of counting one resource: while the KMS fails, each object that cannot be read takes seconds.
const COUNT_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `keyward reencrypt`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "For a KMS that does not report a rotation of its key. The operator creates a new key with the same KEK and re-encrypts\neverything under it.\n\nExample:\n  keyward reencrypt --wait"
)]
pub(crate) struct Reencrypt {
    /// Wait until everything is stored under the new key
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Flags of `keyward forget-key`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Without --accept-loss the command only lists what would be lost. The operator carries a request out only while the key\nfails; if the key works again, the request is void. If Keyward's own objects cannot be stored under another key, the\ncommand also needs --accept-keyward-loss.\n\nExample:\n  keyward forget-key 3 --accept-loss --wait"
)]
pub(crate) struct ForgetKey {
    /// Number of the key
    #[arg(value_name = "N")]
    key: u64,
    /// Accept that objects stored under the key become unreadable
    #[arg(long)]
    accept_loss: bool,
    /// Accept that Keyward's own Secrets, which hold keys and credentials, become unreadable too
    #[arg(long, requires = "accept_loss")]
    accept_keyward_loss: bool,
    /// Wait until the request is carried out or void
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Raises `spec.reencrypt`.
pub(crate) async fn reencrypt(args: Reencrypt) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let found = cluster_encryption(&client).await?;
    let mode = found.spec.encryption.type_.as_deref().unwrap_or_default();
    ensure!(
        !matches!(mode, "" | "identity"),
        "encryption is off (spec.encryption.type is {mode:?}); nothing can be re-encrypted"
    );
    let token = jiff::Timestamp::now().to_string();
    write(&client, &found, json!({"reencrypt": token})).await?;
    print(&format!("requested: spec.reencrypt is {token}\n"))?;
    if args.wait {
        let api = Api::<ClusterEncryption>::all(client);
        let done = await_condition(api, names::CLUSTER, carried_out(token)).await;
        done.context("waiting for the re-encryption")?;
        print("done: everything is stored under a new key\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn carried_out(token: String) -> impl Condition<ClusterEncryption> {
    move |found: Option<&ClusterEncryption>| {
        let status = found.and_then(|found| found.status.as_ref());
        status.is_some_and(|status| status.reencrypt.token.as_ref() == Some(&token))
    }
}

/// Adds a request to `spec.forget`, after it lists what would be lost.
pub(crate) async fn forget_key(args: ForgetKey) -> Result<ExitCode> {
    let client = args.connection.client().await?;
    let found = cluster_encryption(&client).await?;
    let key = KeyId(args.key);
    let status = found.status.clone().unwrap_or_default();
    ensure!(
        key.0 > 0 && key <= status.highest_key_id,
        "key {key} does not exist; the highest key number is {}",
        status.highest_key_id
    );
    let existing = found.spec.forget.iter().find(|request| request.key_id == key);
    let is_void = existing
        .is_some_and(|request| recorded(&status, request).is_some_and(|r| r.phase == ForgetPhase::Void));
    // A request that accepts more replaces the existing one.
    let accepts_more = |request: &ForgetRequest| args.accept_keyward_loss && !request.accept_keyward_loss;
    let request = match existing.filter(|request| !is_void && !accepts_more(request)) {
        Some(request) => {
            print(&format!("already requested at {}\n", request.requested_at))?;
            if let Some(recorded) = recorded(&status, request).filter(|_| !args.wait) {
                print(&format!("{:?}: {}\n", recorded.phase, recorded.message))?;
            }
            request.clone()
        }
        None => {
            let mut loss = loss(&status, key);
            let objects = count(&client, &status, &mut loss).await;
            print(&listing(&status, key, &loss))?;
            let at_risk = loss.is_unknown || !loss.written.is_empty() || !loss.perhaps.is_empty();
            let works =
                status.plugins.iter().find(|plugin| plugin.key_id == key && plugin.status == "Healthy");
            if let Some(works) = works.filter(|_| at_risk) {
                bail!(
                    "nothing was changed: key {key} works, its plugin on node {} is Healthy; to replace the key, change spec.encryption",
                    works.node
                );
            }
            if let Some(kept) = kept(&found, key).filter(|_| !args.accept_keyward_loss) {
                bail!("nothing was changed: {kept}");
            }
            if !args.accept_loss {
                bail!("nothing was changed; to forget key {key}, accept the loss with --accept-loss");
            }
            let request = ForgetRequest {
                key_id: key,
                requested_at: jiff::Timestamp::now().to_string(),
                objects,
                accept_keyward_loss: args.accept_keyward_loss,
            };
            let others = found.spec.forget.iter().filter(|other| other.key_id != key).cloned();
            let all: Vec<ForgetRequest> = others.chain([request.clone()]).collect();
            write(&client, &found, json!({"forget": all})).await?;
            print(&format!(
                "requested: the operator forgets key {key} when it has seen that the key fails; keyward status shows the state of the request\n"
            ))?;
            request
        }
    };
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let api = Api::<ClusterEncryption>::all(client);
    let mut printed = String::new();
    let status = loop {
        let news = news(request.clone(), printed.clone());
        let seen = await_condition(api.clone(), names::CLUSTER, news).await;
        let seen = seen.context("waiting for the request")?;
        if ended(seen.as_ref(), &request) {
            break seen.and_then(|found| found.status).unwrap_or_default();
        }
        let status = seen.and_then(|found| found.status).unwrap_or_default();
        printed = recorded(&status, &request).map(line).unwrap_or_default();
        print(&format!("{printed}\n"))?;
    };
    let Some(outcome) = recorded(&status, &request) else {
        bail!("the request was removed from spec.forget")
    };
    ensure!(outcome.phase == ForgetPhase::CarriedOut, "{}", outcome.message);
    print(&format!("key {key} is forgotten: {}\n", outcome.message))?;
    Ok(ExitCode::SUCCESS)
}

/// What the status records about this request, not about an earlier request for the same key.
fn recorded<'a>(status: &'a ClusterEncryptionStatus, request: &ForgetRequest) -> Option<&'a ForgetStatus> {
    let mut all = status.forget.iter();
    all.find(|one| one.key_id == request.key_id && one.requested_at == request.requested_at)
}

/// Whether the request has ended: carried out, void or removed.
fn ended(found: Option<&ClusterEncryption>, request: &ForgetRequest) -> bool {
    let Some(found) = found else { return true };
    let state = found.status.as_ref().and_then(|status| recorded(status, request));
    !found.spec.forget.contains(request)
        || state.is_some_and(|state| matches!(state.phase, ForgetPhase::CarriedOut | ForgetPhase::Void))
}

/// The request has ended, or its line in the status differs from the last printed one.
fn news(request: ForgetRequest, printed: String) -> impl Condition<ClusterEncryption> {
    move |found: Option<&ClusterEncryption>| {
        let status = found.and_then(|found| found.status.as_ref());
        let state = status.and_then(|status| recorded(status, &request));
        let is_new = state.is_some_and(|state| line(state) != printed);
        is_new || ended(found, &request)
    }
}

/// The state of a request, on one line.
fn line(state: &ForgetStatus) -> String {
    let phase = match state.phase {
        ForgetPhase::Pending => "pending",
        ForgetPhase::Accepted => "accepted",
        ForgetPhase::CarriedOut => "carried out",
        ForgetPhase::Void => "void",
    };
    format!("{phase}: {}", state.message)
}

/// The reason why the operator would keep the key, as far as the status shows.
fn kept(found: &ClusterEncryption, key: KeyId) -> Option<String> {
    let status = found.status.as_ref()?;
    let newest = status.revisions.iter().max_by_key(|revision| revision.n)?;
    let is_over = |request: &ForgetRequest| {
        let state = recorded(status, request);
        state.is_some_and(|state| matches!(state.phase, ForgetPhase::CarriedOut | ForgetPhase::Void))
    };
    let open = found.spec.forget.iter().filter(|request| !is_over(request));
    forget_kept(&newest.lists, open.map(|request| request.key_id), key)
}

/// Resources with objects that may be stored under a key, by the newest revision.
#[derive(Debug, Default, PartialEq, Eq)]
struct Loss {
    /// The key is their write key.
    written: Vec<String>,
    /// The key only reads them, and they are not completely re-encrypted.
    perhaps: Vec<String>,
    /// All of them are recorded as stored under a newer key.
    clean: Vec<String>,
    /// The status records no revision.
    is_unknown: bool,
    /// By resource: the number of objects that are not proven to be stored under another key, or why it is
    /// not known.
    counts: Vec<(String, Result<u64, String>)>,
}

/// Counts objects that are not proven to be stored under another key. `None` if a resource cannot be counted.
async fn count(client: &kube::Client, status: &ClusterEncryptionStatus, loss: &mut Loss) -> Option<u64> {
    let cluster = Cluster::new(client.clone(), CALL_TIMEOUT);
    let is_all_written = loss.perhaps.is_empty() && loss.clean.is_empty();
    let migrations = if is_all_written { Vec::new() } else { migrations(client).await };
    for resource in loss.written.iter().chain(&loss.perhaps).chain(&loss.clean) {
        // No migration proves anything about objects that the key itself writes.
        let is_written = loss.written.contains(resource);
        let proof = migrations.iter().find_map(|one| proof(status, one, resource)).filter(|_| !is_written);
        let resource_of = GroupResource::parse(resource);
        let counting = async {
            match proof {
                Some(version) => keyward_operator::live::count_up_to(&cluster, &resource_of, version).await,
                None => keyward_operator::live::count(&cluster, &resource_of).await,
            }
        };
        let counted = match tokio::time::timeout(COUNT_TIMEOUT, counting).await {
            Ok(Ok(Some(count))) => Ok(count),
            Ok(Ok(None)) => Err("the API server does not serve this resource".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the API server did not answer within {} s", COUNT_TIMEOUT.as_secs())),
        };
        loss.counts.push((resource.clone(), counted));
    }
    loss.counts.iter().map(|(_, counted)| counted.as_ref().ok()).sum()
}

/// The migrations; none if they cannot be read. Without them nothing is proven, so every object counts.
async fn migrations(client: &kube::Client) -> Vec<EncryptionMigration> {
    match Api::<EncryptionMigration>::all(client.clone()).list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => {
            tracing::warn!(%error, "EncryptionMigrations cannot be read; every object is counted");
            Vec::new()
        }
    }
}

/// The resourceVersion from which on objects of this resource are stored under its write key, as recorded by
/// a migration to that key. It proves nothing if another key has written since.
fn proof<'a>(
    status: &ClusterEncryptionStatus,
    migration: &'a EncryptionMigration,
    resource: &str,
) -> Option<&'a str> {
    let (spec, seen) = (&migration.spec, migration.status.as_ref()?);
    let is_of_now = spec.resource == resource
        && spec.key_id.0 > 0
        && Some(seen.observed_generation) == migration.metadata.generation;
    let writes = |list: &Vec<String>| {
        let first = list.first().and_then(|first| first.split_once(':'));
        first.is_some_and(|(_, id)| id == spec.key_id.to_string())
    };
    let mut since = status.revisions.iter().filter(|revision| revision.n >= spec.since).peekable();
    let is_known = since.peek().is_some();
    let writes_since = since.all(|revision| revision.lists.get(resource).is_some_and(writes));
    seen.start_version.as_deref().filter(|_| is_of_now && is_known && writes_since)
}

/// Resources with objects that may be stored under this key, as far as the status shows.
fn loss(status: &ClusterEncryptionStatus, key: KeyId) -> Loss {
    let newest = status.revisions.iter().max_by_key(|revision| revision.n);
    let mut loss = Loss { is_unknown: newest.is_none(), ..Loss::default() };
    for (resource, providers) in newest.iter().flat_map(|revision| &revision.lists) {
        let at = providers
            .iter()
            .position(|name| name.split_once(':').is_some_and(|(_, id)| *id == key.to_string()));
        // A resource that the write key's secret records as migrated is stored under that key alone.
        let writer = providers.first().and_then(|name| name.split_once(':'));
        let writer =
            writer.and_then(|(_, id)| status.keys.iter().find(|known| known.key_id.to_string() == id));
        let claimed = writer.is_some_and(|writer| writer.migrated.contains(resource));
        match at {
            Some(0) => loss.written.push(resource.clone()),
            Some(_) if claimed => loss.clean.push(resource.clone()),
            Some(_) => loss.perhaps.push(resource.clone()),
            None => {}
        }
    }
    loss
}

/// Lists what is lost if this key is forgotten, as far as the status shows.
fn listing(status: &ClusterEncryptionStatus, key: KeyId, loss: &Loss) -> String {
    let mut text = String::new();
    match status.keys.iter().find(|known| known.key_id == key) {
        Some(known) => {
            let _ = write!(text, "key {key}: {}, {}", known.mode, known.role);
            for (name, value) in known.kek.iter().flatten() {
                let _ = write!(text, ", {name} {value}");
            }
            text.push('\n');
        }
        None => {
            let _ = writeln!(text, "key {key}: its secret is gone");
        }
    }
    let Loss { written, perhaps, clean, counts, is_unknown } = loss;
    if !written.is_empty() {
        let _ = writeln!(
            text,
            "  it is the write key of {}: what is stored under it becomes unreadable",
            written.join(", ")
        );
    }
    if !perhaps.is_empty() {
        let _ = writeln!(
            text,
            "  {} are not completely re-encrypted: what is still stored under it becomes unreadable",
            perhaps.join(", ")
        );
    }
    for (resource, counted) in counts {
        let _ = match counted {
            Ok(count) => {
                writeln!(
                    text,
                    "  {count} {resource} may still be stored under it: they are not proven to be under another key"
                )
            }
            Err(why) => writeln!(text, "  {resource} cannot be counted: {why}"),
        };
    }
    if !clean.is_empty() {
        let _ = writeln!(
            text,
            "  {} are recorded as stored under a newer key: while key {key} works, the operator verifies that before the key leaves; while it fails, that is not verified, and what is still stored under it becomes unreadable",
            clean.join(", ")
        );
    }
    if *is_unknown {
        text.push_str("  the status records no revision: it is not known what is stored under the key\n");
    } else if written.is_empty() && perhaps.is_empty() && clean.is_empty() {
        text.push_str("  the newest revision does not contain it: nothing that can be read now is lost\n");
    }
    text.push_str("  backups of etcd may still need it\n");
    text
}

/// The object in the cluster. An absent object is an error.
pub(crate) async fn cluster_encryption(client: &kube::Client) -> Result<ClusterEncryption> {
    let found = crate::live::current(client).await?;
    found.context("there is no ClusterEncryption/cluster, so there is nothing to change")
}

/// Patches the spec on condition that it is the spec that was read, because the command decided from it. A
/// status that was written meanwhile, as often happens in an outage, does not matter.
pub(crate) async fn write(client: &kube::Client, found: &ClusterEncryption, spec: Value) -> Result<()> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    let api = Api::<ClusterEncryption>::all(client.clone());
    let mut version = found.metadata.resource_version.clone();
    for _ in 0..WRITE_ATTEMPTS {
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
        match api.patch(names::CLUSTER, &params, &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("writing ClusterEncryption/cluster"),
        }
        let now = cluster_encryption(client).await?;
        let is_same =
            now.metadata.generation == found.metadata.generation && now.metadata.uid == found.metadata.uid;
        ensure!(
            is_same,
            "the spec of ClusterEncryption/cluster was changed meanwhile; review it, then run the command again"
        );
        version = now.metadata.resource_version;
    }
    bail!(
        "the status of ClusterEncryption/cluster changes too often to write its spec; run the command again"
    )
}

#[cfg(test)]
mod tests {
    use keyward_core::api::{
        ClusterEncryptionSpec, EncryptionMigrationSpec, EncryptionMigrationStatus, KeyStatus, RevisionStatus,
    };
    use keyward_core::ids::{ConfigHash, Mode, Revision};

    use super::*;

    fn key(id: u64, role: &str, migrated: &[&str]) -> KeyStatus {
        KeyStatus {
            key_id: KeyId(id),
            mode: Mode::Kms,
            role: role.into(),
            provider: None,
            kek: Some([("vaultKeyPath".to_owned(), format!("transit/keys/{id}"))].into()),
            remote_key_id: None,
            reason: String::new(),
            migrated: migrated.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn loss_is_listed_by_resource() {
        let lists = [
            ("configmaps".to_owned(), vec!["kms:2".to_owned(), "kms:1".to_owned(), "identity".to_owned()]),
            ("secrets".to_owned(), vec!["kms:2".to_owned(), "kms:1".to_owned(), "identity".to_owned()]),
        ];
        let revision =
            RevisionStatus { n: Revision(4), config_hash: ConfigHash::of(b"x"), lists: lists.into() };
        let status = ClusterEncryptionStatus {
            keys: vec![key(2, "write", &["secrets"]), key(1, "read", &[])],
            revisions: vec![revision],
            ..Default::default()
        };
        let expected = "key 1: KMS, read, vaultKeyPath transit/keys/1\n  configmaps are not completely re-encrypted: what is still stored under it becomes unreadable\n  secrets are recorded as stored under a newer key: while key 1 works, the operator verifies that before the key leaves; while it fails, that is not verified, and what is still stored under it becomes unreadable\n  backups of etcd may still need it\n";
        let listing = |id| listing(&status, KeyId(id), &loss(&status, KeyId(id)));
        assert_eq!(listing(1), expected);
        let mut counted = loss(&status, KeyId(1));
        counted.counts = vec![("configmaps".into(), Ok(8)), ("widgets".into(), Err("forbidden".into()))];
        let text = super::listing(&status, KeyId(1), &counted);
        assert!(text.contains("  8 configmaps may still be stored under it: they are not proven"), "{text}");
        assert!(text.contains("  widgets cannot be counted: forbidden\n"), "{text}");
        let text = listing(2);
        assert!(text.contains("it is the write key of configmaps, secrets: what is stored"), "{text}");
        let text = listing(3);
        assert!(text.contains("its secret is gone") && text.contains("nothing that can be read"), "{text}");
    }

    #[test]
    fn a_status_without_revisions_does_not_show_that_nothing_is_lost() {
        let status = ClusterEncryptionStatus { keys: vec![key(1, "write", &[])], ..Default::default() };
        let text = listing(&status, KeyId(1), &loss(&status, KeyId(1)));
        assert!(
            text.contains("it is not known what is stored") && !text.contains("nothing that can be read"),
            "{text}"
        );
    }

    fn request(id: u64) -> ForgetRequest {
        let requested_at = "2026-05-08T12:34:56Z".to_owned();
        ForgetRequest { key_id: KeyId(id), requested_at, ..Default::default() }
    }

    fn state(id: u64, phase: ForgetPhase, message: &str) -> ForgetStatus {
        let requested_at = request(id).requested_at;
        ForgetStatus { key_id: KeyId(id), requested_at, phase, message: message.into() }
    }

    fn cluster(secrets: &[&str], requests: &[ForgetRequest], forget: Vec<ForgetStatus>) -> ClusterEncryption {
        let list = secrets.iter().map(ToString::to_string).collect();
        let lists = [("widgets".to_owned(), vec!["kms:9".to_owned()]), ("secrets".to_owned(), list)];
        let revision =
            RevisionStatus { n: Revision(4), config_hash: ConfigHash::of(b"x"), lists: lists.into() };
        let spec = ClusterEncryptionSpec { forget: requests.to_vec(), ..Default::default() };
        let mut cluster = ClusterEncryption::new(names::CLUSTER, spec);
        let status = ClusterEncryptionStatus { revisions: vec![revision], forget, ..Default::default() };
        cluster.status = Some(status);
        cluster
    }

    #[test]
    fn write_key_of_keywards_own_objects_is_kept() {
        let of = |id, cluster: &ClusterEncryption| kept(cluster, KeyId(id)).unwrap_or_default();
        let plain = cluster(&["kms:2", "kms:1", "identity"], &[], Vec::new());
        let why = of(2, &plain);
        assert!(why.starts_with("key 2 is kept because it is the write key of secrets"), "{why}");
        assert!(why.contains("change spec.encryption") && why.contains("--accept-keyward-loss"), "{why}");
        assert_eq!(kept(&plain, KeyId(1)), None, "Keyward's own objects can be stored under key 2");
        assert_eq!(kept(&plain, KeyId(9)), None, "it writes nothing of Keyward's own");
        // The write key is to be forgotten too.
        let both = cluster(&["kms:2", "kms:1", "identity"], &[request(2)], Vec::new());
        assert!(of(1, &both).contains("stored under key 2, for which a forget request exists too"));
        let void = vec![state(2, ForgetPhase::Void, "key 2 works")];
        let over = cluster(&["kms:2", "kms:1", "identity"], &[request(2)], void);
        assert_eq!(kept(&over, KeyId(1)), None);
    }

    #[test]
    fn waiting_prints_each_new_message_and_ends_with_the_request() {
        let at = |phase, message: &str| cluster(&["kms:2"], &[request(1)], vec![state(1, phase, message)]);
        let is_news = |found: &ClusterEncryption, printed: &str| {
            news(request(1), printed.to_owned()).matches_object(Some(found))
        };
        let pending = at(ForgetPhase::Pending, "key 1 is kept");
        assert!(is_news(&pending, ""));
        assert!(!is_news(&pending, "pending: key 1 is kept"));
        assert!(is_news(&at(ForgetPhase::Pending, "key 1 fails"), "pending: key 1 is kept"));
        assert!(is_news(&at(ForgetPhase::Accepted, "key 1 is kept"), "pending: key 1 is kept"));
        let silent = cluster(&["kms:2"], &[request(1)], Vec::new());
        assert!(!is_news(&silent, "") && !ended(Some(&silent), &request(1)));
        for phase in [ForgetPhase::CarriedOut, ForgetPhase::Void] {
            assert!(ended(Some(&at(phase, "")), &request(1)));
        }
        assert!(!ended(Some(&pending), &request(1)));
        assert!(ended(None, &request(1)), "the object is gone");
    }

    #[test]
    fn migration_proves_where_objects_are_stored_while_its_key_writes() {
        let revision = |n: u64, writer: &str| RevisionStatus {
            n: Revision(n),
            config_hash: ConfigHash::of(b"x"),
            lists: [("secrets".to_owned(), vec![writer.to_owned(), "identity".to_owned()])].into(),
        };
        let status =
            |revisions: Vec<RevisionStatus>| ClusterEncryptionStatus { revisions, ..Default::default() };
        let migration = |key: u64, generation: i64| {
            let spec = EncryptionMigrationSpec {
                resource: "secrets".into(),
                key_id: KeyId(key),
                since: Revision(4),
                ..Default::default()
            };
            let mut migration = EncryptionMigration::new("encryption-migration-core-secrets", spec);
            migration.metadata.generation = Some(generation);
            migration.status = Some(EncryptionMigrationStatus {
                observed_generation: 3,
                start_version: Some("77".into()),
                ..Default::default()
            });
            migration
        };
        let now = status(vec![revision(3, "kms:1"), revision(4, "aescbc:2"), revision(5, "aescbc:2")]);
        assert_eq!(proof(&now, &migration(2, 3), "secrets"), Some("77"));
        assert_eq!(proof(&now, &migration(2, 3), "configmaps"), None, "another resource");
        assert_eq!(proof(&now, &migration(2, 4), "secrets"), None, "its status is about an earlier spec");
        assert_eq!(proof(&now, &migration(1, 3), "secrets"), None, "another key writes");
        let between = status(vec![revision(4, "aescbc:2"), revision(5, "kms:1"), revision(6, "aescbc:2")]);
        assert_eq!(proof(&between, &migration(2, 3), "secrets"), None, "another key wrote since");
        assert_eq!(proof(&status(Vec::new()), &migration(2, 3), "secrets"), None, "no revision is known");
    }
}
