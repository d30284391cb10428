//! Runs a process that cannot outlive the harness. The guard is the first process of a PID namespace: when it
//! exits, the kernel kills everything below it. It exits at the end of its standard input.

use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A line on standard input that requests SIGKILL at once. The end of the input requests SIGTERM and, after
/// the grace period, SIGKILL.
pub(crate) const KILL: &str = "kill";

enum Event {
    Exited(std::io::Result<ExitStatus>),
    Kill,
    HungUp,
}

/// Runs a command until it exits or standard input ends. Returns the command's exit code.
pub fn guard(grace: Duration, program: &str, arguments: &[String]) -> Result<ExitCode> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let pid = Pid::from_child(&child);
    let (events, happened) = mpsc::channel();
    let asked = events.clone();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == KILL {
                let _ = asked.send(Event::Kill);
            }
        }
        let _ = asked.send(Event::HungUp);
    });
    thread::spawn(move || events.send(Event::Exited(child.wait())));

    loop {
        match happened.recv().context("all watchers ended")? {
            Event::Exited(status) => {
                return Ok(code(status.with_context(|| format!("waiting for {program}"))?));
            }
            // Both signals fail only if the process has just exited, which the next event reports.
            Event::Kill => {
                let _ = kill_process(pid, Signal::KILL);
            }
            Event::HungUp => {
                let _ = kill_process(pid, Signal::TERM);
                return Ok(match happened.recv_timeout(grace) {
                    Ok(Event::Exited(Ok(status))) => code(status),
                    // The exit of this process kills: the kernel ends a PID namespace with its first process.
                    _ => ExitCode::FAILURE,
                });
            }
        }
    }
}

/// As a shell reports it: 128 plus the signal's number for a process that a signal ended.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn code(status: ExitStatus) -> ExitCode {
    ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(u8::MAX))
}
