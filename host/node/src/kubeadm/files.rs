//! The files on the node's disk that `prepare` reads and changes.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use keyward_core::formats::encryption_config::REVISION_ZERO;
use keyward_core::ids::ConfigHash;

use super::{Refusal, defines_api_server};
use crate::disk::{atomic, has_memory, knows};
use crate::error::AgentError;
use crate::paths::Paths;

/// The largest manifest that the kubelet reads.
const LARGEST: u64 = 10 << 20;

/// The file at the path of the API server's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// No file.
    Nothing,
    /// Revision 0, byte for byte.
    RevisionZero,
    /// A configuration that this node's agent installed, or has observed as loaded.
    Ours,
    /// Another file.
    Foreign,
}

/// The files of one node.
#[derive(Clone, Debug)]
pub struct Files {
    paths: Paths,
}

impl Files {
    /// The files of the node with these paths.
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// The API server's manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.paths.manifests().join("kube-apiserver.yaml")
    }

    /// The folder of previous versions. It is outside of the folder of manifests, where the kubelet would
    /// start them.
    pub fn backups(&self) -> PathBuf {
        self.paths.backups()
    }

    /// The file that the API server must read.
    pub fn config_path(&self) -> PathBuf {
        self.paths.config()
    }

    /// The manifest's text. `None` if there is none.
    pub fn manifest(&self) -> Result<Option<String>, AgentError> {
        let path = self.manifest_path();
        let bytes = atomic::read(&path)?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_| AgentError::Corrupt { path, why: "it is not UTF-8".to_owned() })
    }

    /// Other files in the folder of manifests that define or may define kube-apiserver. The kubelet reads
    /// each regular file whose name does not begin with a dot, with any extension, and follows links
    /// (kubernetes: manifest-folder).
    pub fn other_definitions(&self) -> Result<Vec<Refusal>, AgentError> {
        let (folder, own) = (self.paths.manifests(), self.manifest_path());
        let list = || -> std::io::Result<Vec<PathBuf>> {
            fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect()
        };
        let mut paths = list().map_err(AgentError::io("listing", &folder))?;
        paths.retain(|path| {
            *path != own && path.file_name().is_some_and(|name| !name.as_bytes().starts_with(b"."))
        });
        paths.sort_unstable();
        Ok(paths.iter().filter_map(|path| other_definition(path)).collect())
    }

    /// The file that the API server would read.
    pub fn installed(&self) -> Result<Installed, AgentError> {
        let Some(bytes) = atomic::read(&self.paths.config())? else { return Ok(Installed::Nothing) };
        if bytes == REVISION_ZERO.as_bytes() {
            return Ok(Installed::RevisionZero);
        }
        let ours = knows(&self.paths, &ConfigHash::of(&bytes))?;
        Ok(if ours { Installed::Ours } else { Installed::Foreign })
    }

    /// Whether an agent has ever run on this node.
    pub fn has_state(&self) -> bool {
        has_memory(&self.paths)
    }

    /// Installs revision 0.
    pub fn install_revision_zero(&self) -> Result<(), AgentError> {
        let path = self.paths.config();
        if let Some(folder) = path.parent() {
            atomic::private_folder(folder)?;
        }
        atomic::write(&path, REVISION_ZERO.as_bytes(), None)
    }

    /// Stores a previous version. The same text is stored once.
    pub fn keep(&self, name: &str, text: &str) -> Result<PathBuf, AgentError> {
        let hash = ConfigHash::of(text.as_bytes());
        let digits: String = hash.0.trim_start_matches("sha256:").chars().take(12).collect();
        let path = self.backups().join(format!("{name}.{digits}"));
        atomic::private_folder(&self.backups())?;
        atomic::write(&path, text.as_bytes(), None)?;
        Ok(path)
    }

    /// Replaces the manifest as a whole or not at all.
    pub fn replace_manifest(&self, text: &str) -> Result<(), AgentError> {
        atomic::write(&self.manifest_path(), text.as_bytes(), None)
    }
}

fn other_definition(path: &Path) -> Option<Refusal> {
    let name = path.display().to_string();
    let unknown = |why: String| Some(Refusal::Neighbour { path: name.clone(), why });
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return None,
        Ok(_) => {}
        // The file was removed meanwhile, or a link has no target: the kubelet finds no file either.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return unknown(error.to_string()),
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => return unknown(error.to_string()),
        // The kubelet refuses a larger file.
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > LARGEST) => return None,
        Ok(_) => {}
    }
    match defines_api_server(&bytes) {
        Err(why) => unknown(why),
        Ok(true) => Some(Refusal::SecondDefinition { path: name }),
        Ok(false) => None,
    }
}
