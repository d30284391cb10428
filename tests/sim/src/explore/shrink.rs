//! Shortens a failing way by leaving out steps.

use super::{Way, replay};
use crate::mutants::Mutant;

/// Leaves out steps, larger pieces first, while the same invariant is still violated.
pub fn shrink(way: &Way, mutant: Option<Mutant>, rule: &str) -> Way {
    let fails = |way: &Way| replay(way, mutant, |_, _| ()).is_some_and(|violation| violation.rule == rule);
    let mut best = way.clone();
    let mut piece = (best.steps.len() / 2).max(1);
    loop {
        let mut at = 0;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + piece).min(best.steps.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += piece;
            }
        }
        if piece == 1 {
            return best;
        }
        piece /= 2;
    }
}
