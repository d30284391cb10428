use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward_core::SecretBytes;
use keyward_core::api::PluginSettings;
use keyward_core::formats::encryption_config::{EncryptionConfiguration, REVISION_ZERO};
use keyward_core::formats::revision::{AcceptedPlugin, PluginRecord, RevisionContent};
use keyward_core::ids::{ConfigHash, KeyId, Revision};
use keyward_core::node::{Instance, Observed, Policy, Refused, Step, Unread};
use keyward_core::provider::{Container, KeyRef, Part, Plugin, ReferenceKind};
use serde_json::json;

use super::*;
use crate::error::AgentError;

fn record(image: &str) -> PluginRecord {
    let secret = KeyRef { kind: ReferenceKind::Secret, name: "login".into(), key: "id".into() };
    let container = Container {
        command: Vec::new(),
        args: vec![vec![Part::Path(secret.clone())], vec![Part::Host("port:health".into())]],
        env: Vec::new(),
        files: Vec::new(),
        ports: vec!["health".into()],
        health: None,
        cpu_request_millis: 10,
        memory_request_mib: 32,
        settings: BTreeMap::new(),
    };
    PluginRecord {
        kms: json!({"type": "Acme"}),
        referenced: [(secret, SecretBytes::new(b"s3cr3t".to_vec()))].into(),
        accepted: Some(AcceptedPlugin {
            image: Some(image.to_owned()),
            template: Plugin::Managed(container),
            settings: PluginSettings::default(),
            module_digest: None,
        }),
        salt: Some(SecretBytes::new(b"salt".to_vec())),
    }
}

/// A revision with plugin data. Its configuration does not matter to the disk.
fn content(image: &str) -> Arc<RevisionContent> {
    let config = EncryptionConfiguration::decode(REVISION_ZERO.as_bytes()).unwrap();
    let mut content = RevisionContent::new(config, [(KeyId(1), record(image))].into());
    let text = String::from_utf8(content.bytes.expose().to_vec()).unwrap();
    content.bytes = SecretBytes::new(text.replace("secrets", image).into_bytes());
    content.config = EncryptionConfiguration::decode(content.bytes.expose()).unwrap();
    Arc::new(content)
}

fn instance(image: &str) -> Instance {
    Instance::new(KeyId(1), &record(image).digest(KeyId(1)).unwrap())
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn paths(&self) -> Paths {
        Paths::with_sockets(self.folder.path(), self.folder.path().join("run"))
    }

    fn open(&self) -> Disk {
        let owner =
            Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        Disk::open("cp-1", self.paths(), owner).unwrap()
    }

    /// Every file below the folder.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>, root: &Path) {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found, root);
                } else {
                    found.push(entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found, self.folder.path());
        found.sort_unstable();
        found
    }
}

fn observed(disk: &Disk, target: Option<&Arc<RevisionContent>>) -> Observed {
    Observed {
        policy: Policy::default(),
        spec: None,
        absence: None,
        target: target.map(|content| Ok(Arc::clone(content))),
        candidate: None,
        server: Err(Unread { why: "not asked".into(), answers: false }),
        disk: disk.look().unwrap().disk,
        probes: BTreeMap::new(),
        file_age: Duration::ZERO,
        unneeded: BTreeMap::new(),
        failed_step: None,
        credential_expires: None,
    }
}

fn act(disk: &Disk, target: Option<&Arc<RevisionContent>>, steps: &[Step]) {
    for step in steps {
        // Each step can be repeated.
        for _ in 0..2 {
            disk.act(step, &observed(disk, target)).unwrap_or_else(|error| panic!("{step}: {error}"));
        }
    }
}

fn install(n: u64, content: &RevisionContent) -> Step {
    Step::InstallConfiguration { revision: Revision(n), hash: content.hash() }
}

fn write_pod(instance: &Instance) -> Step {
    Step::WritePod { instance: instance.clone(), trial: false }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_instance_is_created_and_removed_step_by_step() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let before = place.files();
    let (content, one) = (content("one"), instance("one"));
    let seen = || disk.look().unwrap().disk.instances.get(&one).cloned().unwrap_or_default();

    act(&disk, Some(&content), &[Step::WriteFiles(one.clone())]);
    assert!(seen().files && !seen().folder && !seen().pod);
    assert_eq!(seen().digest, record("one").digest(KeyId(1)));
    let file = paths.plugin(&one).join("secret-login_id");
    assert_eq!(fs::read(&file).unwrap(), b"s3cr3t");
    assert_eq!((mode(&file), mode(&paths.plugin(&one)), mode(&paths.plugins())), (0o600, 0o700, 0o711));

    act(&disk, Some(&content), &[Step::MakeFolder(one.clone()), write_pod(&one)]);
    assert!(seen().files && seen().folder && seen().pod && !seen().listening);
    assert_eq!(mode(&paths.socket_folder(&one)), 0o700);
    assert_eq!(mode(&paths.manifest(&one)), 0o600);
    let manifest = fs::read_to_string(paths.manifest(&one)).unwrap();
    assert!(manifest.contains(&file.to_string_lossy().into_owned()) && !manifest.contains("s3cr3t"));

    // A changed file is found and written again.
    fs::write(&file, b"S3CR3T").unwrap();
    assert!(!seen().files);
    let port = |text: &str| text.lines().find(|line| line.contains("containerPort")).unwrap().to_owned();
    act(&disk, Some(&content), &[Step::WriteFiles(one.clone()), write_pod(&one)]);
    assert!(seen().files);
    assert_eq!(port(&fs::read_to_string(paths.manifest(&one)).unwrap()), port(&manifest), "ports stay");

    let _listener = UnixListener::bind(paths.socket(&one)).unwrap();
    act(&disk, None, &[Step::RemovePod(one.clone())]);
    assert!(seen().listening && !seen().pod);
    act(&disk, None, &[Step::RemoveFiles(one.clone())]);
    assert_eq!(disk.look().unwrap().disk.instances, BTreeMap::new());
    assert_eq!(place.files(), before);
    assert!(!paths.key_folder(KeyId(1)).exists());
}

#[test]
fn edited_files_and_manifests_are_found_and_written_again() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let (content, one) = (content("one"), instance("one"));
    let seen = || disk.look().unwrap().disk.instances[&one].clone();
    let written = [Step::WriteFiles(one.clone()), write_pod(&one)];
    act(&disk, Some(&content), &written);
    let (file, manifest) = (paths.plugin(&one).join("secret-login_id"), paths.manifest(&one));
    let good = [fs::read(&file).unwrap(), fs::read(&manifest).unwrap()];
    assert!((seen().files, seen().edited, seen().repairs) == (true, false, 0), "{:?}", seen());

    let edits: [(&str, &dyn Fn()); 4] = [
        ("other bytes", &|| fs::write(&file, b"S3CR3T").unwrap()),
        ("another mode", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap()),
        ("no file", &|| fs::remove_file(&file).unwrap()),
        ("a link", &|| {
            fs::rename(&file, place.folder.path().join("moved")).unwrap();
            std::os::unix::fs::symlink(place.folder.path().join("moved"), &file).unwrap();
        }),
    ];
    for (repairs, (what, edit)) in (1..).zip(edits) {
        edit();
        assert!(!seen().files && !seen().edited, "{what}");
        act(&disk, Some(&content), &[Step::WriteFiles(one.clone())]);
        assert!(seen().files && seen().repairs == repairs, "{what}: {:?}", seen());
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (good[0].clone(), 0o600), "{what}");
    }

    // By its name an edited manifest is Keyward's. Its content is not used.
    let text = String::from_utf8(good[1].clone()).unwrap();
    let edits = [text.replace("one", "two"), text.replace("plugin-digest", "x"), "not: [a pod".to_owned()];
    for (repairs, edited) in (5..).zip(edits) {
        fs::write(&manifest, edited).unwrap();
        assert!(seen().edited && seen().pod && !seen().trial, "{:?}", seen());
        act(&disk, Some(&content), &[write_pod(&one)]);
        assert!(!seen().edited && seen().repairs == repairs, "{:?}", seen());
        assert_eq!(fs::read(&manifest).unwrap(), good[1]);
    }
    // A restarted agent finds the same. An edited instance that is not needed any more is removed.
    fs::write(&manifest, "").unwrap();
    drop(disk);
    let disk = place.open();
    let found = disk.look().unwrap().disk.instances[&one].clone();
    assert!(found.edited && found.repairs == 7, "{found:?}");
    act(&disk, None, &[Step::RemovePod(one.clone()), Step::RemoveFiles(one.clone())]);
    assert_eq!(disk.look().unwrap().disk.instances, BTreeMap::new());
}

#[test]
fn starts_of_a_trial_are_counted_until_it_stays() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let (content, one) = (content("one"), instance("one"));
    let trial = Step::WritePod { instance: one.clone(), trial: true };
    let seen = || disk.look().unwrap().disk.instances[&one].clone();
    let manifest = || fs::read_to_string(paths.manifest(&one)).unwrap();
    act(&disk, Some(&content), &[Step::WriteFiles(one.clone())]);
    let mut manifests = Vec::new();
    for tries in 1..4 {
        disk.act(&trial, &observed(&disk, Some(&content))).unwrap();
        assert!(seen().trial && seen().tries == tries && manifest().contains("restartPolicy: Never"));
        manifests.push(manifest());
        // Writing the files again does not reset the count.
        act(&disk, Some(&content), &[Step::WriteFiles(one.clone())]);
        assert_eq!(seen().tries, tries);
    }
    manifests.dedup();
    assert_eq!(manifests.len(), 3, "each is another pod for the kubelet");
    act(&disk, Some(&content), &[Step::RemovePod(one.clone())]);
    assert!(!seen().trial && seen().tries == 3);
    act(&disk, Some(&content), &[write_pod(&one)]);
    assert!(!seen().trial && seen().tries == 0 && manifest().contains("restartPolicy: Always"));
}

#[test]
fn a_socket_with_a_full_backlog_is_not_waited_for() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let place = Place::new();
    let socket = place.folder.path().join("kms.sock");
    assert!(!look::is_listening(&socket), "no socket");
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    assert!(!look::is_listening(&socket), "bound, and not listening");
    rustix::net::listen(&listener, 0).unwrap();
    // Far more than the backlog: a blocking connect would wait for ever. Closed connections stay in the
    // backlog.
    for _ in 0..100 {
        assert!(look::is_listening(&socket));
    }
    drop(listener);
    assert!(!look::is_listening(&socket), "a socket file without a listener");
}

#[test]
fn the_owner_of_a_linked_folder_is_not_changed() {
    let place = Place::new();
    let (theirs, link) = (place.folder.path().join("theirs"), place.folder.path().join("link"));
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::symlink(&theirs, &link).unwrap();
    let root = rustix::process::geteuid().is_root();
    let owner = Owner::here();
    let refused = atomic::owned_folder(&link, owner, atomic::Lasting::Yes).unwrap_err();
    assert!(matches!(&refused, AgentError::Io { doing: "changing the owner of", .. }), "{refused}");
    let uid = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::symlink_metadata(path).unwrap());
    assert_eq!(uid(&theirs), rustix::process::geteuid().as_raw());
    // The owner of a folder and of a file is set.
    atomic::owned_folder(&theirs, owner, atomic::Lasting::Yes).unwrap();
    atomic::write(&theirs.join("file"), b"x", Some(owner)).unwrap();
    assert_eq!((uid(&theirs), uid(&theirs.join("file"))), (owner.uid, owner.uid), "as root: {root}");
}

#[test]
fn the_loaded_configuration_is_recorded() {
    let place = Place::new();
    let disk = place.open();
    let hash = ConfigHash::of(b"a");
    act(&disk, None, &[Step::RecordLoaded(hash.clone())]);
    assert_eq!(disk.look().unwrap().disk.loaded, Some(hash));
}

#[test]
fn two_instances_of_a_key_have_different_ports() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    for image in ["one", "two"] {
        act(&disk, Some(&content(image)), &[Step::WriteFiles(instance(image)), write_pod(&instance(image))]);
    }
    let ports = ["one", "two"].map(|image| {
        let manifest = fs::read_to_string(paths.manifest(&instance(image))).unwrap();
        manifest.lines().find(|line| line.contains("containerPort")).unwrap().to_owned()
    });
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn a_link_is_replaced_by_a_rename_and_its_record_survives_a_reboot() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let link = paths.link(KeyId(1));
    for image in ["one", "two"] {
        let instance = instance(image);
        act(&disk, None, &[Step::MakeFolder(instance.clone())]);
        act(&disk, None, &[Step::SwitchLink { key_id: KeyId(1), instance: instance.clone() }]);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&instance.link_target()));
        let look = disk.look().unwrap().disk;
        assert_eq!(look.links, [(KeyId(1), instance.generation.clone())].into());
        assert_eq!(look.serving, look.links);
    }
    fs::remove_dir_all(paths.sockets()).unwrap();
    let look = disk.look().unwrap().disk;
    assert_eq!((look.links.len(), look.serving.len()), (0, 1));
    act(&disk, None, &[Step::RemoveLink(KeyId(1))]);
    assert_eq!(disk.look().unwrap().disk.serving.len(), 0);
}

#[test]
fn a_replaced_configuration_can_be_restored() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let foreign = b"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: []\n";
    fs::create_dir_all(paths.config().parent().unwrap()).unwrap();
    fs::write(paths.config(), foreign).unwrap();
    // The old file stays open: otherwise another file could get its inode.
    let mut before = fs::File::open(paths.config()).unwrap();

    let content = content("one");
    act(&disk, Some(&content), &[Step::KeepRevision(Revision(1))]);
    act(&disk, None, &[install(1, &content)]);
    assert_eq!(fs::read(paths.config()).unwrap(), content.bytes.expose());
    let mut old = Vec::new();
    before.read_to_end(&mut old).unwrap();
    assert_eq!(old, foreign, "a new file, not new bytes in the old one");
    assert_eq!(mode(&paths.config()), 0o600);
    let look = disk.look().unwrap().disk;
    assert_eq!(look.file.map(|file| file.hash), Some(content.hash()));
    assert_eq!(look.revisions, [(Revision(1), Arc::clone(&content))].into());

    let refused = Refused { revision: Revision(1), hash: content.hash(), attempts: 3 };
    let hash = ConfigHash::of(foreign);
    act(&disk, None, &[Step::PutBack { hash: hash.clone(), refused: Some(refused) }]);
    assert_eq!(fs::read(paths.config()).unwrap(), foreign);
    let refusal = disk.look().unwrap().with_refusal_age(|_| Duration::from_secs(7)).refusal.unwrap();
    assert_eq!((refusal.revision, refusal.attempts, refusal.elapsed.as_secs()), (Revision(1), 3, 7));

    // Revision 0 is built in. A stored revision is found by its hash.
    let zero = ConfigHash::of(REVISION_ZERO.as_bytes());
    act(&disk, None, &[Step::PutBack { hash: zero.clone(), refused: None }]);
    assert_eq!(fs::read(paths.config()).unwrap(), REVISION_ZERO.as_bytes());
    act(&disk, None, &[Step::PutBack { hash: content.hash(), refused: None }, Step::ForgetRefusal]);
    assert_eq!(fs::read(paths.config()).unwrap(), content.bytes.expose());
    assert_eq!(disk.look().unwrap().with_refusal_age(|_| Duration::ZERO).refusal, None);

    act(&disk, None, &[Step::ForgetConfiguration(hash.clone()), Step::ForgetRevision(Revision(1))]);
    let unknown = disk.act(&Step::PutBack { hash, refused: None }, &observed(&disk, None));
    assert!(matches!(unknown, Err(AgentError::Gone { .. })), "{unknown:?}");
    assert!(disk.act(&install(1, &content), &observed(&disk, None)).is_err());
}

#[test]
fn only_the_newest_copies_of_edited_files_are_kept() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    fs::create_dir_all(paths.config().parent().unwrap()).unwrap();
    // The clock was ahead: a new copy looks older than the earlier ones.
    let ahead = SystemTime::now() + Duration::from_hours(1);
    let edited: Vec<[u8; 1]> = (0..7).map(|n| [n]).collect();
    for (n, text) in (0..).zip(&edited) {
        let hash = ConfigHash::of(text);
        fs::write(paths.config(), text).unwrap();
        act(&disk, None, &[Step::PutAside(hash.clone())]);
        assert_eq!(fs::read(paths.edited_file(&hash)).unwrap(), text);
        let copy = fs::File::options().write(true).open(paths.edited_file(&hash)).unwrap();
        copy.set_modified(ahead + Duration::from_secs(n)).unwrap();
        fs::write(paths.edited().join("theirs.txt"), "theirs").unwrap();
    }
    let kept: BTreeSet<ConfigHash> = edited.iter().skip(2).map(|text| ConfigHash::of(text)).collect();
    assert_eq!(disk.look().unwrap().disk.aside, kept);
    assert!(paths.edited().join("theirs.txt").exists());
}

#[test]
fn the_high_water_mark_never_falls() {
    let place = Place::new();
    let disk = place.open();
    act(&disk, None, &[Step::RecordHighWater(KeyId(7)), Step::RecordHighWater(KeyId(3))]);
    assert_eq!(disk.look().unwrap().disk.highest_key_id, KeyId(7));
}

#[test]
fn only_one_agent_can_open_the_disk() {
    let place = Place::new();
    let disk = place.open();
    let owner = disk.owner;
    assert!(matches!(Disk::open("cp-1", place.paths(), owner), Err(AgentError::Locked { .. })));
    drop(disk);
    assert!(Disk::open("cp-1", place.paths(), owner).is_ok());
}

#[test]
fn leftovers_of_a_killed_agent_are_removed() {
    let place = Place::new();
    let paths = place.paths();
    drop(place.open());
    let folders = [
        paths.state(),
        paths.revisions(),
        paths.edited(),
        paths.manifests(),
        paths.config().parent().unwrap().to_owned(),
        paths.plugin(&instance("one")),
        paths.key_folder(KeyId(1)),
    ];
    for folder in &folders {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(".half.json.keyward-new"), "half").unwrap();
        fs::write(folder.join(".theirs"), "whole").unwrap();
    }
    // Only unfinished files are removed.
    let _disk = place.open();
    for folder in &folders {
        assert!(!folder.join(".half.json.keyward-new").exists(), "{}", folder.display());
        assert!(folder.join(".theirs").exists());
    }
}

#[test]
fn an_unreadable_revision_or_instance_is_written_again_and_unreadable_memory_is_an_error() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    let content = content("one");
    act(&disk, Some(&content), &[Step::KeepRevision(Revision(1)), Step::WriteFiles(instance("one"))]);
    // A revision or an instance is written again. The agent's memory is not guessed.
    fs::write(paths.revision(Revision(1)), "{").unwrap();
    fs::write(paths.instance(&instance("one")), "{").unwrap();
    fs::write(paths.configuration(&ConfigHash::of(b"a")), "b").unwrap();
    fs::create_dir_all(paths.manifests()).unwrap();
    fs::write(paths.manifests().join("keyward-kms-1-01234567.yaml"), "kind: Pod\n").unwrap();
    let look = disk.look().unwrap().disk;
    assert_eq!((look.revisions.len(), look.configurations.len()), (0, 0));
    assert_eq!(look.instances.len(), 1);
    assert!(!look.instances[&instance("one")].files);
    act(&disk, Some(&content), &[Step::KeepRevision(Revision(1)), Step::WriteFiles(instance("one"))]);
    assert!(disk.look().unwrap().disk.instances[&instance("one")].files);

    fs::write(paths.memory(), "{\"highestKeyID\": \"s3cr3t\"}").unwrap();
    let error = disk.look().unwrap_err();
    assert!(matches!(error, AgentError::Corrupt { .. }));
    assert!(!error.to_string().contains("s3cr3t"));
}

/// The memory has the highest key number and the instance to which each key's link leads.
#[test]
fn a_corrupt_memory_is_restored_from_its_copy_without_loss() {
    let place = Place::new();
    let (disk, paths) = (place.open(), place.paths());
    act(
        &disk,
        None,
        &[Step::RecordHighWater(KeyId(7)), Step::RecordDrift(Revision(3)), Step::RecordHighWater(KeyId(8))],
    );
    let whole = fs::read(paths.memory()).unwrap();
    for corrupt in ["{", "", "{\"highestKeyID\": \"s3cr3t\"}", "null"] {
        fs::write(paths.memory(), corrupt).unwrap();
        // Nothing is changed without the lock.
        let owner = Owner { uid: 0, gid: 0 };
        let seen = UnlockedDisk::new("cp-1", paths.clone(), owner).look().unwrap();
        assert_eq!((seen.highest_key_id, seen.drift), (KeyId(8), Some(Revision(3))), "{corrupt}");
        assert_eq!(fs::read_to_string(paths.memory()).unwrap(), corrupt);

        let seen = disk.look().unwrap().disk;
        assert_eq!((seen.highest_key_id, seen.drift), (KeyId(8), Some(Revision(3))), "{corrupt}");
        assert_eq!(fs::read(paths.memory()).unwrap(), whole);
        assert_eq!(fs::read_to_string(paths.memory_lost()).unwrap(), corrupt);
    }
    fs::remove_file(paths.memory()).unwrap();
    assert_eq!(disk.look().unwrap().disk.highest_key_id, KeyId(8));
    // A copy that cannot be understood is an error, also if state.json is absent.
    fs::remove_file(paths.memory()).unwrap();
    fs::write(paths.memory_copy(), "{").unwrap();
    assert!(matches!(disk.look().unwrap_err(), AgentError::Corrupt { .. }));
    fs::write(paths.memory(), "{").unwrap();
    assert!(matches!(disk.look().unwrap_err(), AgentError::Corrupt { .. }));
}
