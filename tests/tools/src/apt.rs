//! Installs missing Debian packages for a step.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{in_path, progress};

/// Installs packages with apt, as root or with sudo without a password.
pub fn install(why: &str, packages: &[&str], log: &Path) -> Result<()> {
    let remedy = || format!("{why} needs these packages: apt-get install {}", packages.join(" "));
    for (step, arguments) in [("update", &[][..]), ("install", packages)] {
        let mut command = apt();
        command.arg(step);
        if step == "install" {
            command.args(["-y", "--no-install-recommends"]).args(arguments);
        }
        let title = match step {
            "update" => "updating apt's package lists".to_owned(),
            _ => format!("installing {} ({why})", packages.join(", ")),
        };
        progress::run(&title, command, log).with_context(remedy)?;
    }
    Ok(())
}

fn apt() -> Command {
    let root = in_path("id")
        .and_then(|id| Command::new(id).arg("-u").output().ok())
        .is_some_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.args(["-n", "apt-get"]);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
