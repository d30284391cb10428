//! Keyward on a cluster that is in use: a reader and a writer run the whole time, and the history of the
//! status is recorded.

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

/// The time between two gets.
const READ_PAUSE: Duration = Duration::from_millis(10);
/// The time between two writes.
const WRITE_PAUSE: Duration = Duration::from_millis(40);
/// The namespace of the writer's objects.
const WRITTEN: &str = "written";

/// The cluster with reader and writer.
pub struct InUse {
    /// Keyward.
    pub keyward: Keyward,
    /// The history of its status.
    pub said: Said,
    load: Load,
    before: Contents,
    reader: Reader,
    writer: Writer,
}

impl InUse {
    /// Starts it with these numbers of objects and a short history in etcd.
    pub async fn start(mut install: Install, secrets: usize, configmaps: usize) -> Result<Self> {
        install.apiserver_args.push(SHORT_HISTORY.to_owned());
        Self::start_with_history(install, secrets, configmaps).await
    }

    /// The same with a history in etcd as long as the API servers keep by default.
    pub async fn start_with_history(install: Install, secrets: usize, configmaps: usize) -> Result<Self> {
        let keyward = Keyward::start(install).await?;
        let load = Load::create(&keyward.client, secrets, configmaps).await?;
        let before = load.contents().await?;
        let reader = Reader::start(&keyward.cluster, before.clone(), READ_PAUSE).await?;
        let writer = Writer::start(&keyward.cluster, WRITTEN, reader.away(), WRITE_PAUSE).await?;
        let said = Said::listen(keyward.client.clone());
        Ok(Self { keyward, said, load, before, reader, writer })
    }

    /// Requests this encryption, and waits until the change is complete under this key ([`Self::settled`]).
    /// Returns the time that it took.
    pub async fn change(&self, to: Encryption, key: u64, patience: Duration) -> Result<Duration> {
        let began = Instant::now();
        self.keyward.apply(&to.spec(&self.keyward)).await?;
        self.settled(to, key, patience).await?;
        Ok(began.elapsed())
    }

    /// Waits until the change to this key has reached this phase, or a later one.
    pub async fn reached(&self, key: u64, phase: Phase, patience: Duration) -> Result<()> {
        wait_until(&format!("{phase:?}"), patience, async || {
            let now = Phase::of(&self.keyward, key).await?;
            Ok(Seen::when(now >= phase, format!("{now:?}; {}", self.keyward.operator_log_tail())))
        })
        .await
    }

    /// Fails unless every object, read through this node's API server, is unchanged.
    pub async fn must_read_through(&self, node: usize) -> Result<()> {
        let client = self.keyward.cluster.client(node).await?;
        let now = Load::through(&client).contents().await?;
        let missed = self.before.iter().filter(|(name, content)| now.get(*name) != Some(content)).count();
        ensure!(missed == 0, "{missed} of {} objects have changed", self.before.len());
        Ok(())
    }

    /// Waits until a change in place is complete on every node: a revision newer than `before` is loaded
    /// everywhere, this key is still the write key, and nothing is in progress.
    pub async fn replaced(&self, before: Revision, key: u64, patience: Duration) -> Result<Status> {
        let what = format!("a revision above {before} to be loaded everywhere");
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

    /// Waits until everything is stored under this key, and checks it: every value in etcd is under the key,
    /// also those of the writer; every object is unchanged; the status reports that the change is complete.
    pub async fn settled(&self, to: Encryption, key: u64, patience: Duration) -> Result<Status> {
        let status = self.keyward.wait_settled(key, patience).await?;
        let reason = status.condition("Encrypted").map(|condition| condition.reason.as_str());
        ensure!(reason == Some(to.completed()), "{to} under key {key}: {}", status.summary());
        let found = evidence(&self.keyward.cluster, &self.load, &self.before).await?;
        found.expect(|resource| to.prefix(key, resource)).with_context(|| format!("{to} under key {key}"))?;
        Ok(status)
    }

    /// Nodes whose API server the test has stopped: the reader does not use them.
    #[must_use]
    pub fn away(&self) -> Away {
        self.reader.away()
    }

    /// Fails unless one line of the status after `earlier` contains all of these parts.
    pub fn must_have_said(&self, earlier: usize, parts: &[&str]) -> Result<()> {
        ensure!(
            self.said.heard_since(earlier, parts),
            "no line of the status contains {parts:?}:{}",
            self.said.since(earlier)
        );
        Ok(())
    }

    /// Stops. Fails if any read or write failed, or if reader or writer did not run.
    pub async fn finish(self) -> Result<(Report, Written)> {
        let (read, written) = (self.reader.finish().await?, self.writer.finish().await?);
        ensure!(read.failures.is_empty(), "reads failed: {:?}", read.failures);
        ensure!(read.lists > 2 && read.gets > 200, "the reader must have read: {read:?}");
        ensure!(written.failures.is_empty(), "writes failed: {:?}", written.failures);
        let enough = written.creates > 20 && written.updates > 50 && written.gets > 100 && written.lists > 2;
        ensure!(enough, "the writer must have written: {written:?}");
        Ok((read, written))
    }
}
