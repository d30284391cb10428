//! The cache of compiled modules: its files are executable code.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

struct Setup {
    root: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("modules")).unwrap();
        put(&root.path().join("modules"), "acme.wasm", &Forge::sound("Acme", "acme"));
        Self { root }
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn start(&self) {
        let options = Options { limits: small(), cache: Some(self.cache()) };
        let engine = Engine::open(&self.root.path().join("modules"), options).unwrap();
        evaluate(&engine, &acme("a")).unwrap();
    }

    /// The compiled modules.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.cache()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The only compiled module.
    fn file(&self) -> PathBuf {
        let [file] = self.files().try_into().unwrap();
        file
    }

    /// Whether the module is cached: starts an engine without time to compile.
    fn is_cached(&self) -> bool {
        let limits = Limits { compile_time: Duration::ZERO, ..small() };
        let options = Options { limits, cache: Some(self.cache()) };
        let engine = Engine::open(&self.root.path().join("modules"), options).unwrap();
        evaluate(&engine, &acme("a")).is_ok()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_module_is_compiled_once() {
    let setup = Setup::new();
    setup.start();
    assert_eq!((mode(&setup.cache()), mode(&setup.file())), (0o700, 0o600));
    assert!(setup.is_cached());
}

#[test]
fn another_module_or_other_settings_are_compiled_again() {
    let setup = Setup::new();
    setup.start();
    let limits = Limits { memory_bytes: 8 << 20, ..small() };
    let options = Options { limits, cache: Some(setup.cache()) };
    Engine::open(&setup.root.path().join("modules"), options).unwrap();
    put(&setup.root.path().join("modules"), "acme.wasm", &Forge::sound("Acme", "other"));
    assert!(!setup.is_cached());
}

#[test]
fn a_changed_file_is_not_loaded() {
    let setup = Setup::new();
    setup.start();
    let mut bytes = std::fs::read(setup.file()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(setup.file(), &bytes).unwrap();
    assert!(!setup.is_cached());
    std::fs::write(setup.file(), &bytes[..last]).unwrap();
    assert!(!setup.is_cached());
    std::fs::write(setup.file(), b"").unwrap();
    assert!(!setup.is_cached());
    setup.start();
    assert!(setup.is_cached(), "written again");
}

#[test]
fn a_folder_that_others_can_write_to_is_not_used() {
    for bad in [0o777, 0o770, 0o701, 0o1777] {
        let setup = Setup::new();
        setup.start();
        chmod(&setup.cache(), bad);
        assert!(!setup.is_cached(), "{bad:o}");
        setup.start();
        chmod(&setup.cache(), 0o700);
        assert!(setup.is_cached());
    }
}

#[test]
fn a_file_that_others_can_write_to_or_a_link_is_not_used() {
    let setup = Setup::new();
    setup.start();
    chmod(&setup.file(), 0o666);
    assert!(!setup.is_cached());
    chmod(&setup.file(), 0o600);
    let elsewhere = setup.root.path().join("elsewhere");
    std::fs::rename(setup.file(), &elsewhere).unwrap();
    let name = Setup::new();
    name.start();
    symlink(&elsewhere, setup.cache().join(name.file().file_name().unwrap())).unwrap();
    assert!(!setup.is_cached());
}

#[test]
fn a_folder_behind_a_link_or_of_another_user_is_not_used() {
    let setup = Setup::new();
    setup.start();
    let real = setup.root.path().join("real");
    std::fs::rename(setup.cache(), &real).unwrap();
    symlink(&real, setup.cache()).unwrap();
    assert!(!setup.is_cached());

    // Only root can change the owner of a folder.
    if rustix::process::geteuid().is_root() {
        std::fs::remove_file(setup.cache()).unwrap();
        std::fs::rename(&real, setup.cache()).unwrap();
        assert!(setup.is_cached());
        std::os::unix::fs::chown(setup.cache(), Some(65_534), None).unwrap();
        assert!(!setup.is_cached());
    }
}

#[test]
fn old_modules_are_removed() {
    let setup = Setup::new();
    setup.start();
    for i in 0..40 {
        std::fs::write(setup.cache().join(format!("{i}.compiled")), b"old").unwrap();
    }
    put(
        &setup.root.path().join("modules"),
        "acme.wasm",
        &Forge::sound("Acme", "acme").answering("requirements", json!([])),
    );
    setup.start();
    assert_eq!(setup.files().len(), 32);
}
