//! Processes that end with the harness: on drop, on panic, and on `kill -9` of the test.
//!
//! Each runs below `keyward-test-node`, the first process of a PID namespace, whose standard input this side holds:
//! when it ends, for whatever reason, that process ends and the kernel takes everything below it along.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::supervisor;

/// Beyond the grace that the inside has: then something is wrong and everything is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// A guarded process.
pub(crate) struct Guarded {
    stdin: Option<ChildStdin>,
    unshare: u32,
    exit: Arc<Exit>,
}

/// Where the end of a process is told.
#[derive(Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    told: Condvar,
}

impl Guarded {
    /// Starts `unshare … keyward-test-node …`, its output going to these files. Where `stdout` is none it is piped
    /// and given back.
    pub(crate) fn start(
        mut command: Command,
        stdout: Option<File>,
        stderr: File,
    ) -> Result<(Self, Option<std::process::ChildStdout>)> {
        command.stdin(Stdio::piped()).stderr(stderr);
        command.stdout(stdout.map_or_else(Stdio::piped, Stdio::from));
        // Ctrl-C in a terminal is for the harness, which then ends these in order.
        command.process_group(0);
        let mut child = command.spawn().context("starting a guarded process")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let exit = Arc::new(Exit::default());
        let guarded = Self { stdin, unshare: child.id(), exit: exit.clone() };
        thread::spawn(move || exit.watch(child));
        Ok((guarded, stdout))
    }

    /// The process id of `unshare`, whose namespaces can be entered.
    pub(crate) fn unshare(&self) -> u32 {
        self.unshare
    }

    /// The host's process id of what runs in there, once it was started and while it runs.
    pub(crate) fn program(&self) -> Option<u32> {
        let guard = *children_of(self.unshare).first()?;
        children_of(guard).first().copied()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.exit.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything inside to end, without waiting.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// SIGTERM inside, SIGKILL after its grace; returns when all of it is gone.
    pub(crate) fn stop(&mut self) {
        self.hang_up();
        self.wait();
    }

    /// SIGKILL inside at once; returns when all of it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = writeln!(stdin, "{}", supervisor::KILL);
            // Kept open until it is dead: its end would ask for SIGTERM.
            if self.exit.within(PATIENCE) {
                return;
            }
        }
        self.wait();
    }

    fn wait(&self) {
        if self.exit.within(PATIENCE) {
            return;
        }
        if let Some(pid) = i32::try_from(self.unshare).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.exit.within(PATIENCE);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Exit {
    fn watch(&self, mut child: Child) {
        let status = child.wait().ok();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        self.told.notify_all();
    }

    /// Whether it has ended before so much time went by.
    fn within(&self, time: Duration) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(status, time, |status| status.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}

/// Processes whose parent is this one, by the host's ids.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
        // The name, in parentheses, may hold anything; state and parent follow its end.
        let parent_of =
            |stat: String| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
        stat.ok().and_then(parent_of) == Some(parent)
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
