//! Keyward on a cluster that is in use: somebody reads and somebody writes all the while, and the status is listened
//! to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyward_core::ids::Revision;
use keyward_test_cluster::{Seen, wait_until};
use tokio::time::Instant;

use crate::encryption::Encryption;
use crate::evidence::evidence;
use crate::install::{Install, Keyward, SHORT_HISTORY};
use crate::load::{Contents, Load};
use crate::phase::Phase;
use crate::reader::{Away, Reader, Report};
use crate::said::Said;
use crate::status::Status;
use crate::writer::{Writer, Written};

/// From one get to the next.
const READ_PAUSE: Duration = Duration::from_millis(10);
/// From one write to the next.
const WRITE_PAUSE: Duration = Duration::from_millis(40);
/// Where the writer's objects are.
const WRITTEN: &str = "written";

/// Everything that runs.
pub struct InUse {
    /// Keyward.
    pub keyward: Keyward,
    /// What its status says.
    pub said: Said,
    load: Load,
    before: Contents,
    reader: Reader,
    writer: Writer,
}

impl InUse {
    /// Starts it, with so many objects and a short history in etcd.
    pub async fn start(mut install: Install, secrets: usize, configmaps: usize) -> Result<Self> {
        install.apiserver_args.push(SHORT_HISTORY.to_owned());
        Self::start_with_history(install, secrets, configmaps).await
    }

    /// The same with as long a history as the API servers keep by default.
    pub async fn start_with_history(install: Install, secrets: usize, configmaps: usize) -> Result<Self> {
        let keyward = Keyward::start(install).await?;
        let load = Load::create(&keyward.client, secrets, configmaps).await?;
        let before = load.contents().await?;
        let reader = Reader::start(&keyward.cluster, before.clone(), READ_PAUSE).await?;
        let writer = Writer::start(&keyward.cluster, WRITTEN, reader.away(), WRITE_PAUSE).await?;
        let said = Said::listen(keyward.client.clone());
        Ok(Self { keyward, said, load, before, reader, writer })
    }

    /// Asks for it, and waits until it is done under this key ([`Self::settled`]). Tells how long that took.
    pub async fn change(&self, to: Encryption, key: u64, patience: Duration) -> Result<Duration> {
        let began = Instant::now();
        self.keyward.apply(&to.spec(&self.keyward)).await?;
        self.settled(to, key, patience).await?;
        Ok(began.elapsed())
    }

    /// Waits until the change to this key is so far, or farther.
    pub async fn reached(&self, key: u64, phase: Phase, patience: Duration) -> Result<()> {
        wait_until(&format!("{phase:?}"), patience, async || {
            let now = Phase::of(&self.keyward, key).await?;
            Ok(Seen::when(now >= phase, format!("{now:?}; {}", self.keyward.last_words())))
        })
        .await
    }

    /// Fails unless every object says what it said, through this node's API server.
    pub async fn must_read_through(&self, node: usize) -> Result<()> {
        let client = self.keyward.cluster.client(node).await?;
        let now = Load::through(&client).contents().await?;
        let missed = self.before.iter().filter(|(name, content)| now.get(*name) != Some(content)).count();
        ensure!(missed == 0, "{missed} of {} objects are not what they were", self.before.len());
        Ok(())
    }

    /// Waits until a revision newer than `before` is loaded everywhere and nothing is under way, this key being the
    /// writer all the while: what was changed in place is in force on every node.
    pub async fn replaced(&self, before: Revision, key: u64, patience: Duration) -> Result<Status> {
        let what = format!("a revision above {before} to be in force everywhere");
        self.keyward
            .wait(&what, patience, |status| {
                let newer = status.newest_revision().is_some_and(|revision| revision > before);
                newer
                    && status.has_converged()
                    && status.is_idle()
                    && status.key(key).is_some_and(|key| key.role == "write" && key.migrated.len() == 2)
            })
            .await
    }

    /// Waits until this key holds everything, and looks: every value in etcd is under it, whoever wrote it, every
    /// object says what it said, the status says that it is done.
    pub async fn settled(&self, to: Encryption, key: u64, patience: Duration) -> Result<Status> {
        let status = self.keyward.wait_settled(key, patience).await?;
        let told = status.condition("Encrypted").map(|condition| condition.reason.as_str());
        ensure!(told == Some(to.completed()), "{to} under key {key}: {}", status.summary());
        let found = evidence(&self.keyward.cluster, &self.load, &self.before).await?;
        found.expect(|resource| to.prefix(key, resource)).with_context(|| format!("{to} under key {key}"))?;
        Ok(status)
    }

    /// Nodes whose API server the test takes away: nobody reads through them for now.
    #[must_use]
    pub fn away(&self) -> Away {
        self.reader.away()
    }

    /// Fails unless the status said all of these parts in one line, after `earlier`.
    pub fn must_have_said(&self, earlier: usize, parts: &[&str]) -> Result<()> {
        ensure!(
            self.said.heard_since(earlier, parts),
            "the status never said {parts:?}, but:{}",
            self.said.since(earlier)
        );
        Ok(())
    }

    /// Ends: not one read or write may have failed, and both did go on.
    pub async fn finish(self) -> Result<(Report, Written)> {
        let (read, written) = (self.reader.finish().await?, self.writer.finish().await?);
        ensure!(read.failures.is_empty(), "reads failed: {:?}", read.failures);
        ensure!(read.lists > 2 && read.gets > 200, "the reader did read: {read:?}");
        ensure!(written.failures.is_empty(), "writes failed: {:?}", written.failures);
        let enough = written.creates > 20 && written.updates > 50 && written.gets > 100 && written.lists > 2;
        ensure!(enough, "the writer did write: {written:?}");
        Ok((read, written))
    }
}
