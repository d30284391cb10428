//! Counts individual tests, from the result lines of test programs.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::iter::Sum;
use std::ops::AddAssign;
use std::process::{Command, Stdio};

use keyward_test_tools::progress;

/// Numbers of tests that passed, failed and were ignored.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests marked `#[ignore]`, and examples that are not compiled: nothing shows whether they pass.
    pub(crate) ignored: u64,
}

impl Tally {
    /// A program that ended without a result line counts as one failed test.
    pub(crate) fn one_failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// CI counts an ignored test as a failed test.
    pub(crate) fn with_ignored_as_failed(self) -> Self {
        Self { failed: self.failed + self.ignored, ignored: 0, ..self }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut total, tally| {
            total += tally;
            total
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // First, because a run must end with the other two numbers.
        if self.ignored > 0 {
            write!(f, "{} ignored, ", self.ignored)?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs a test program, copies its output to `shown` line by line, and counts its tests.
pub(crate) fn of(command: Command, shown: &mut impl Write) -> Tally {
    match stream(command, shown) {
        Ok((tally, true)) => tally,
        Ok((mut tally, false)) => {
            if tally.failed == 0 {
                tally += Tally::one_failure();
            }
            tally
        }
        Err(error) => {
            progress::say(&format!("error: {error}"));
            Tally::one_failure()
        }
    }
}

fn stream(mut command: Command, shown: &mut impl Write) -> std::io::Result<(Tally, bool)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            if let Some(result) = result_line(&String::from_utf8_lossy(&line)) {
                tally += result;
            }
        }
    }
    Ok((tally, child.wait()?.success()))
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; …`, or the last line of our own programs: `5 passed, 0
/// failed`.
fn result_line(line: &str) -> Option<Tally> {
    let Some((_, rest)) = line.split_once("test result: ") else {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        return Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()?, ignored: 0 });
    };
    let count = |word: &str| {
        let before = rest.split_once(word)?.0.trim_end();
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(Tally { passed: count("passed;")?, failed: count("failed;")?, ignored: count("ignored;")? })
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
    fn result_lines_are_added_up() {
        let line =
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Tally { passed: 5, failed: 0, ignored: 1 }));
        let script = format!("echo '{line}'; echo '{}'; exit 101", line.replace("0 failed", "2 failed"));
        let mut shown = Vec::new();
        assert_eq!(of(shell(&script), &mut shown), Tally { passed: 10, failed: 2, ignored: 2 });
        assert!(shown.starts_with(line.as_bytes()), "output is shown line by line");
        assert_eq!(result_line("7 passed, 1 failed"), Some(Tally { passed: 7, failed: 1, ignored: 0 }));
        assert_eq!(result_line("test plan::tests::passed ... ok"), None);
    }

    #[test]
    fn program_that_dies_without_a_result_counts_as_one_failure() {
        assert_eq!(of(shell("kill -9 $$"), &mut std::io::sink()), Tally::one_failure());
        assert_eq!(of(Command::new("/nonexistent/program"), &mut std::io::sink()), Tally::one_failure());
    }

    #[test]
    fn last_line_has_the_form_that_ci_reads() {
        let tally = Tally { passed: 12, failed: 1, ignored: 0 };
        assert_eq!(tally.to_string(), "12 passed, 1 failed");
        assert_eq!(Tally { ignored: 3, ..tally }.to_string(), "3 ignored, 12 passed, 1 failed");
    }

    #[test]
    fn ignored_tests_count_as_failed_if_nothing_may_be_ignored() {
        let tally = Tally { passed: 12, failed: 1, ignored: 3 };
        assert_eq!(tally.with_ignored_as_failed(), Tally { passed: 12, failed: 4, ignored: 0 });
    }
}
