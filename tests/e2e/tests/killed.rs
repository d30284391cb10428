//! The operator is killed at random moments of KMS → KMS changes, on a cluster that is in use. The result is
//! the same as without kills: only the newest key writes, everything is stored under it, no unrequested key
//! exists, and no read and no write has failed.
//!
//! `KEYWARD_TEST_KILLS=N` sets the number of kills, `KEYWARD_TEST_SEED=S` repeats the moments of an earlier
//! run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install, Phase};
use kube::ResourceExt as _;
use kube::api::ListParams;

const PATIENCE: Duration = Duration::from_mins(2);
const KILLS: usize = 8;
/// The maximum number of kills in one change.
const AT_MOST: usize = 4;
/// The maximum time between a phase and a kill.
const LATEST: Duration = Duration::from_millis(1200);

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_operator_do_not_alter_the_result_of_a_change() -> Result<()> {
    let seed = setting("KEYWARD_TEST_SEED", RandomState::new().build_hasher().finish())?;
    let kills = setting("KEYWARD_TEST_KILLS", KILLS)?;
    println!("KEYWARD_TEST_SEED={seed} KEYWARD_TEST_KILLS={kills}");
    let mut random = Random(seed);
    // A short Lease, so that the next operator leads soon, and a slow migration that can be interrupted.
    let operator_args =
        ["--lease-duration", "2s", "--migration-concurrency", "1"].map(str::to_owned).to_vec();
    let mut cluster = InUse::start(Install { operator_args, ..Install::default() }, 300, 60).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    let began = Instant::now();
    let (mut key, mut killed, mut deck) = (1, 0, Vec::new());
    while killed < kills {
        key += 1;
        let to = Encryption::Transit(if key % 2 == 0 { "b" } else { "a" });
        let mut moments = Vec::new();
        while moments.len() < AT_MOST.min(kills - killed) {
            if deck.is_empty() {
                deck = random.shuffled(&Phase::ALL);
            }
            moments.extend(deck.pop().map(|phase| (phase, random.below(LATEST))));
        }
        moments.sort();
        cluster.keyward.apply(&to.spec(&cluster.keyward)).await?;
        for (phase, later) in moments {
            cluster.reached(key, phase, PATIENCE).await.with_context(|| format!("{to}, key {key}"))?;
            // Not a wait for a condition: the kill is at a random moment.
            tokio::time::sleep(later).await;
            let now = Phase::of(&cluster.keyward, key).await?;
            killed += 1;
            println!("kill {killed:>2}: key {key}, {:>4} ms after {phase:?}; {now:?}", later.as_millis());
            cluster.keyward.crash_operator().await?;
            leads(&cluster).await?;
        }
        let status = cluster.settled(to, key, PATIENCE).await?;
        let lists: Vec<_> = status.newest_lists().collect();
        let written_by = format!("kms:{key}");
        let sole = lists.iter().all(|list| list.first() == Some(&written_by));
        ensure!(lists.len() == 2 && sole, "{written_by} writes everything: {lists:?}");
        let status = status.0.status.context("a status")?;
        ensure!(status.highest_key_id == KeyId(key), "one key for each change: {}", status.highest_key_id);
        let secrets = cluster.keyward.secrets().list(&ListParams::default()).await?;
        let unrequested = names::key_secret(names::KUBE_APISERVER, KeyId(key + 1));
        ensure!(secrets.iter().all(|one| one.name_any() != unrequested), "{unrequested} was not requested");
    }
    let (read, written) = cluster.finish().await?;
    let changes = key - 1;
    println!(
        "{killed} kills in {changes} changes, {:.0} s: {read:?}, {written:?}",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until the new operator is the leader: a kill before that interrupts nothing.
async fn leads(cluster: &InUse) -> Result<()> {
    wait_until("the new operator to be the leader", PATIENCE, async || {
        let log = cluster.keyward.operator_log()?;
        Ok(Seen::when(log.contains("this operator is the leader"), log))
    })
    .await
}

fn setting<T: FromStr<Err: Debug + std::error::Error + Send + Sync + 'static>>(
    name: &str,
    default: T,
) -> Result<T> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// SplitMix64: the same seed gives the same moments on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.next() % u64::try_from(most.as_millis()).unwrap())
    }

    fn shuffled<T: Copy>(&mut self, all: &[T]) -> Vec<T> {
        let mut keyed: Vec<(u64, T)> = all.iter().map(|one| (self.next(), *one)).collect();
        keyed.sort_by_key(|(random, _)| *random);
        keyed.into_iter().map(|(_, one)| one).collect()
    }
}
