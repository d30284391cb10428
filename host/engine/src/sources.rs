//! The folder of modules: `--providers` or `KEYWARD_PROVIDERS`, else the first that exists of `providers` beside the
//! program, `providers` one level higher, and the folder of an installed package (provider-abi: loading).

use std::path::{Path, PathBuf};

use crate::error::EngineError;

/// The folder of an installed package.
const SYSTEM: &str = "/usr/share/keyward/providers";

/// The inputs of the search. The binary reads them from the command line and the environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// `--providers`.
    pub flag: Option<&'a str>,
    /// `KEYWARD_PROVIDERS`.
    pub environment: Option<&'a str>,
    /// The running program's file.
    pub executable: Option<&'a Path>,
}

/// The folder to load modules from. A folder that is named explicitly must exist: another one would have other modules
/// than intended.
pub fn locate(search: Search<'_>) -> Result<PathBuf, EngineError> {
    if let Some(named) = search.flag.or(search.environment).filter(|named| !named.is_empty()) {
        if named.contains("://") {
            return Err(EngineError::UnsupportedSource { source_name: named.to_owned() });
        }
        let path = PathBuf::from(named);
        return match std::fs::read_dir(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(EngineError::Directory { path, source }),
        };
    }
    let beside = search.executable.and_then(Path::parent).map(|folder| {
        let up = folder.parent().unwrap_or(folder);
        [folder.join("providers"), up.join("providers")]
    });
    let searched: Vec<PathBuf> = beside.into_iter().flatten().chain([PathBuf::from(SYSTEM)]).collect();
    searched.iter().find(|path| path.is_dir()).cloned().ok_or(EngineError::NoDirectory { searched })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_folder_that_exists_is_used() {
        let root = tempfile::tempdir().unwrap();
        let exe = root.path().join("bin/keyward");
        std::fs::create_dir_all(root.path().join("providers")).unwrap();
        let search = Search { executable: Some(&exe), ..Search::default() };
        assert_eq!(locate(search).unwrap(), root.path().join("providers"));
        std::fs::create_dir_all(root.path().join("bin/providers")).unwrap();
        assert_eq!(locate(search).unwrap(), root.path().join("bin/providers"));

        let named = root.path().join("mine");
        std::fs::create_dir(&named).unwrap();
        let search = Search { environment: named.to_str(), ..search };
        assert_eq!(locate(search).unwrap(), named);
        let search = Search { flag: root.path().to_str(), ..search };
        assert_eq!(locate(search).unwrap(), root.path());
    }

    #[test]
    fn folder_that_is_named_must_exist() {
        let error = locate(Search { flag: Some("/nowhere/at/all"), ..Search::default() }).unwrap_err();
        assert!(matches!(error, EngineError::Directory { .. }), "{error}");
        let error = locate(Search { flag: Some("oci://example.com/x@sha256:0"), ..Search::default() });
        assert!(matches!(error, Err(EngineError::UnsupportedSource { .. })));
    }
}
