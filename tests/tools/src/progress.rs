//! Shows long steps: a spinner with the elapsed time on a terminal, plain lines otherwise.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write, pipe};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A step that ends sooner, because it had nothing to do, prints no line.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval at which a running step prints a line if there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Number of output lines that the error of a failed command repeats. The log has all lines.
const TAIL: usize = 25;

/// Prints one line on standard error, directly, so that a test's output capture cannot hide a wait of
/// minutes.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A duration for people: `4.2 s`, `4 min 05 s`.
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

/// Runs a command as one named step. Its output goes to `log`. If it fails, the error has the last lines.
pub fn run(title: &str, command: Command, log: &Path) -> Result<()> {
    run_within(title, command, log, None)
}

/// Like [`run`], but kills a command that takes longer than `limit`, which is a failure.
pub fn run_within(title: &str, mut command: Command, log: &Path, limit: Option<Duration>) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut sink = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let (reader, writer) = pipe().context("making a pipe")?;
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let started = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("starting `{program}` ({title}); is it installed?"))?;
    // The command has the other end of the pipe. Reading would never end while it is open.
    drop(command);

    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });

    let mut display = Display::start(title);
    let mut output = Vec::new();
    let mut expired = false;
    loop {
        match received.recv_timeout(PATIENCE) {
            Ok(line) => {
                writeln!(sink, "{line}").with_context(|| format!("writing {}", log.display()))?;
                display.line(&line);
                output.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        display.tick(started, output.last());
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            expired = true;
            child.kill().with_context(|| format!("stopping `{program}`"))?;
            break;
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{program}`"))?;
    display.end(started, status.success() && !expired);
    if expired {
        bail!("{title}: `{program}` did not end within {}", spoken(started.elapsed()));
    }
    check(title, &program, status, &output, log)
}

fn check(title: &str, program: &str, status: ExitStatus, output: &[String], log: &Path) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let tail = output.get(output.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n  ");
    bail!("{title}: `{program}` failed ({status}); all of its output is in {}\n  {tail}", log.display())
}

/// The display of a running step.
enum Display {
    Spinner(ProgressBar),
    Lines { title: String, printed: Option<Instant> },
}

impl Display {
    fn start(title: &str) -> Self {
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style).with_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            Self::Spinner(bar)
        } else {
            Self::Lines { title: title.to_owned(), printed: None }
        }
    }

    fn line(&self, line: &str) {
        if let Self::Spinner(bar) = self {
            bar.set_message(line.trim().to_owned());
        }
    }

    fn tick(&mut self, started: Instant, last: Option<&String>) {
        let Self::Lines { title, printed } = self else { return };
        match printed {
            None if started.elapsed() >= PATIENCE => say(&format!("{title} …")),
            Some(printed) if printed.elapsed() >= HEARTBEAT => {
                let last = last.map_or("", |line| line.trim());
                say(&format!("{title}: {} so far; {last}", spoken(started.elapsed())));
            }
            _ => return,
        }
        *printed = Some(Instant::now());
    }

    fn end(self, started: Instant, succeeded: bool) {
        let took = spoken(started.elapsed());
        let (title, shown) = match self {
            Self::Spinner(bar) => {
                bar.finish_and_clear();
                (bar.prefix(), started.elapsed() >= PATIENCE)
            }
            Self::Lines { title, printed } => (title, printed.is_some()),
        };
        match (succeeded, shown) {
            (true, true) => say(&format!("{title}: done in {took}")),
            (true, false) => {}
            (false, _) => say(&format!("{title}: failed after {took}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failed_step_repeats_the_end_of_its_output_and_names_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("step.log");
        let error = run("making it", shell("echo one; echo two >&2; exit 3"), &log).unwrap_err().to_string();
        assert!(error.starts_with("making it: `sh` failed"), "{error}");
        assert!(error.contains("one\n  two"), "{error}");
        assert!(error.contains("step.log"), "{error}");
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn step_that_exceeds_its_limit_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let endless = shell("while :; do echo tick; done");
        let limit = Some(Duration::from_millis(50));
        let error =
            run_within("endless", endless, &folder.path().join("log"), limit).unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
    }

    #[test]
    fn durations_are_shown_with_the_precision_that_people_need() {
        assert_eq!(spoken(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(spoken(Duration::from_secs(245)), "4 min 05 s");
    }
}
