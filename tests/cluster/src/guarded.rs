//! Processes that end with the harness: on drop, on panic, and on `kill -9` of the test.
//!
//! Each runs below `keyward-test-node`, the first process of a PID namespace. The harness has the other end
//! of that process's standard input. When the harness ends, for any reason, the process exits, and the kernel
//! kills everything below it.

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

/// More than any grace period inside. After this time something is wrong, and everything is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// A guarded process.
pub(crate) struct Guarded {
    stdin: Option<ChildStdin>,
    unshare: u32,
    exit: Arc<Exit>,
}

/// The exit status of a process, and the signal that it is set.
#[derive(Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    exited: Condvar,
}

impl Guarded {
    /// Starts `unshare … keyward-test-node …` with its output in these files. Without a file for `stdout`,
    /// returns a pipe.
    pub(crate) fn start(
        mut command: Command,
        stdout: Option<File>,
        stderr: File,
    ) -> Result<(Self, Option<std::process::ChildStdout>)> {
        command.stdin(Stdio::piped()).stderr(stderr);
        command.stdout(stdout.map_or_else(Stdio::piped, Stdio::from));
        // Only the harness gets Ctrl-C of a terminal; it then stops these processes.
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

    /// The process id, on the host, of the program inside; only while the program runs.
    pub(crate) fn program(&self) -> Option<u32> {
        let guard = *children_of(self.unshare).first()?;
        children_of(guard).first().copied()
    }

    /// Its exit status, once it has exited.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.exit.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything inside to stop, without waiting.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Sends SIGTERM inside, and SIGKILL after the grace period; returns when every process has exited.
    pub(crate) fn stop(&mut self) {
        self.hang_up();
        self.wait();
    }

    /// Sends SIGKILL inside at once; returns when every process has exited.
    pub(crate) fn kill(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = writeln!(stdin, "{}", supervisor::KILL);
            // Stays open until the process is dead: the end of the input would request SIGTERM.
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
        self.exited.notify_all();
    }

    /// Whether it exits within this time.
    fn within(&self, time: Duration) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.exited.wait_timeout_while(status, time, |status| status.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}

/// The processes whose parent is this one, by their ids on the host.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
        // The name, in parentheses, may contain any character; state and parent follow it.
        let parent_of =
            |stat: String| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
        stat.ok().and_then(parent_of) == Some(parent)
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
