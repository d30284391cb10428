//! Namespaces, made with `unshare` and `nsenter` of util-linux: as root, or as root of a user namespace.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// How this machine makes namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// With the permissions of this process.
    Root,
    /// In a user namespace, where this process's user is root and the only user.
    UserNamespace,
}

/// Kills what is inside when `unshare` itself is killed.
const PID: [&str; 3] = ["--pid", "--fork", "--kill-child"];
const NODE: [&str; 3] = ["--mount", "--uts", "--mount-proc"];
const USER: [&str; 2] = ["--user", "--map-root-user"];

impl Isolation {
    /// The first way that works on this machine.
    pub(crate) fn detect() -> Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let ways = if root { vec![Self::Root, Self::UserNamespace] } else { vec![Self::UserNamespace] };
        let mut errors = Vec::new();
        for way in ways {
            let mut probe = way.unshare(true);
            let output =
                probe.arg("true").output().context("starting unshare; apt-get install util-linux")?;
            if output.status.success() {
                return Ok(way);
            }
            errors.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        bail!(
            "test nodes need mount, UTS and PID namespaces, and this machine allows none ({}); run as root outside of \
             a container, run in a privileged container, or allow unprivileged user namespaces",
            errors.join("; ")
        )
    }

    /// `unshare` with a PID namespace and, for a node, mount and UTS namespaces. The caller appends the
    /// program.
    pub(crate) fn unshare(self, node: bool) -> Command {
        let mut command = Command::new("unshare");
        if self == Self::UserNamespace {
            command.args(USER);
        }
        command.args(PID);
        if node {
            command.args(NODE);
        }
        command
    }

    /// `nsenter` into the namespaces of this `unshare` process. The caller appends the program.
    pub(crate) fn enter(self, unshare: u32) -> Command {
        let namespaces = format!("/proc/{unshare}/ns");
        let mut command = Command::new("nsenter");
        if self == Self::UserNamespace {
            command.arg(format!("--user={namespaces}/user")).arg("--preserve-credentials");
        }
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--uts={namespaces}/uts"))
            // unshare itself stays outside the PID namespace: it is for its children.
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg("--wdns=/");
        command
    }
}
