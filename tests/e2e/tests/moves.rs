//! Every move from one encryption to another, on a cluster that is in use: no read and no write fails,
//! nothing is lost, and after each move every value in etcd is under the new key, also the writer's newest
//! ones.
//!
//! `KEYWARD_TEST_MOVES=N` makes only the first N moves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use keyward_core::ids::Mode;
use keyward_test_e2e::{Encryption, InUse, Install};

const PATIENCE: Duration = Duration::from_mins(2);
/// Plain text first, as in a new cluster. Then the KMS, so that a shorter run has the most important moves.
const ALL: [Encryption; 5] = [
    Encryption::NONE,
    Encryption::Transit("a"),
    Encryption::Transit("b"),
    Encryption::Local(Mode::Aescbc),
    Encryption::Local(Mode::Aesgcm),
];

/// A circuit from the first one back to it that has every move between two of them exactly once.
fn circuit(all: &[Encryption]) -> Vec<Encryption> {
    let pairs =
        all.iter().enumerate().flat_map(|(at, from)| all.iter().skip(at + 1).map(move |to| [*from, *to]));
    pairs.flatten().chain(all.first().copied()).collect()
}

#[test]
fn the_circuit_has_every_move_once() {
    let circuit = circuit(&ALL);
    let mut moves: Vec<(String, String)> =
        circuit.windows(2).map(|pair| (pair[0].to_string(), pair[1].to_string())).collect();
    assert!(moves.iter().all(|(from, to)| from != to), "{moves:?}");
    moves.sort();
    moves.dedup();
    assert_eq!(moves.len(), ALL.len() * (ALL.len() - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_move_keeps_everything_readable_and_ends_under_the_new_key() -> Result<()> {
    let most: usize = match std::env::var("KEYWARD_TEST_MOVES") {
        Ok(most) => most.parse().context("KEYWARD_TEST_MOVES")?,
        Err(_) => usize::MAX,
    };
    let circuit = circuit(&ALL);
    let cluster = InUse::start(Install::default(), 200, 60).await?;
    let began = Instant::now();
    for (key, pair) in (1..).zip(circuit.windows(2).take(most)) {
        let took = cluster.change(pair[1], key, PATIENCE).await;
        let took = took.with_context(|| format!("{} → {}, key {key}", pair[0], pair[1]))?;
        println!("key {key:>2}: {:>8} → {:<8} {:>5.1} s", pair[0], pair[1], took.as_secs_f64());
    }
    let (read, written) = cluster.finish().await?;
    println!("no failures in {:.0} s: {read:?}, {written:?}", began.elapsed().as_secs_f64());
    Ok(())
}
