//! No process outlives the test, in every way that a test can end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails at the first error")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use common::alive;
use keyward_test_cluster::{Bao, Cluster, Seen, Tools, wait_until};

const SOON: Duration = Duration::from_secs(30);
const CHILD: &str = "KEYWARD_TEST_LIFETIME_CHILD";
const SIGN: &str = "folders: ";

/// Not a test by itself: the next test starts and kills it.
#[tokio::test]
async fn child() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let cluster = Cluster::builder().start().await?;
    let bao = Bao::start(&Tools::here()).await?;
    let kms = bao.log().parent().context("a folder")?;
    println!("\n{SIGN}{} {}", cluster.folder().display(), kms.display());
    std::future::pending().await
}

#[tokio::test]
async fn killing_the_test_ends_every_process_that_it_started() -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("its output")?;
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix(SIGN).map(str::to_owned));
    let folders: Vec<PathBuf> =
        line.context("the child did not start")?.split(' ').map(PathBuf::from).collect();
    for folder in &folders {
        assert!(!alive(folder).is_empty(), "{}", folder.display());
    }
    child.kill()?;
    child.wait()?;
    wait_until("the end of the processes that it started", SOON, async || {
        let left: Vec<_> = folders.iter().flat_map(|folder| alive(folder)).collect();
        Ok(Seen::when(left.is_empty(), left.join("\n")))
    })
    .await?;
    // The killed test cannot remove its folders; a later harness would do it.
    for folder in folders {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_process_beside_the_nodes_is_stopped_or_killed() -> Result<()> {
    let cluster = Cluster::builder().nodes(0).start().await?;
    let script = "trap 'echo stopped; exit 7' TERM; echo $WORD; while :; do sleep 0.05; done";
    let start =
        |name: &str| cluster.run_process(name, "/bin/sh".as_ref(), &["-c", script], &[("WORD", "running")]);
    let runs = async |process: &keyward_test_cluster::Process| {
        wait_until("its first output", SOON, async || {
            let output = process.output()?;
            Ok(Seen::when(output.contains("running"), output))
        })
        .await
    };
    let stopped = start("stopped")?;
    runs(&stopped).await?;
    let output = stopped.output_file().to_owned();
    assert_eq!(stopped.stop().and_then(|status| status.code()), Some(7));
    assert!(std::fs::read_to_string(output)?.contains("stopped"));

    let killed = start("killed")?;
    runs(&killed).await?;
    let pid = killed.pid().context("its pid")?;
    let output = killed.output_file().to_owned();
    assert!(std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?.contains("trap"));
    killed.kill9();
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    assert!(!std::fs::read_to_string(output)?.contains("stopped"));
    Ok(())
}
