//! The printed output, also stored in a file of the cluster's folder, so that the search for secrets reads it
//! like any other log.

use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// The file's name.
pub(crate) const FILE: &str = "transcript.log";

/// Everything printed so far. Clones share it.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// Text from before the file existed.
    early: String,
    file: Option<File>,
}

impl Transcript {
    /// Stores the output in this folder, including everything that was printed before.
    pub fn keep_in(&self, folder: &Path) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder.join(FILE);
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        file.write_all(std::mem::take(&mut kept.early).as_bytes())?;
        kept.file = Some(file);
        Ok(())
    }

    /// Prints one or several lines on standard output.
    pub fn say(&self, text: impl Display) {
        let text = text.to_string();
        self.keep(&text);
        println!("{text}");
    }

    /// The same on standard error.
    pub fn say_error(&self, text: impl Display) {
        let text = text.to_string();
        self.keep(&text);
        eprintln!("{text}");
    }

    fn keep(&self, text: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut kept.file {
            // The search must find the marker in this file, so a failed write does not stay unnoticed.
            Some(file) => drop(writeln!(file, "{text}")),
            None => {
                kept.early.push_str(text);
                kept.early.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_from_before_the_folder_existed_are_kept() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("keyward-transcript-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let transcript = Transcript::default();
        transcript.say("one");
        transcript.keep_in(&folder)?;
        transcript.clone().say_error("two\nthree");
        let kept = std::fs::read_to_string(folder.join(FILE))?;
        std::fs::remove_dir_all(&folder)?;
        assert_eq!(kept, "one\ntwo\nthree\n");
        Ok(())
    }
}
