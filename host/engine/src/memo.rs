//! A cache of results. Evaluations are deterministic, and the operator requests the same ones in each reconcile pass.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// A bounded map with two generations. When the newer one is full it becomes the older one, and entries of the older
/// one that were not used are dropped. So entries in use stay, without an order of entries.
pub(crate) struct Memo<K, V> {
    generations: Mutex<Generations<K, V>>,
    capacity: usize,
}

struct Generations<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Clone> Memo<K, V> {
    /// Holds at most twice `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        let generations = Generations { newer: HashMap::new(), older: HashMap::new() };
        Self { generations: Mutex::new(generations), capacity }
    }

    /// The cached value for `key`, or that of `make`, which also decides whether it is cached. Two threads at the
    /// same time may both call `make`.
    pub(crate) fn get_or(&self, key: &K, make: impl FnOnce() -> (V, bool)) -> V {
        if let Some(value) = self.get(key) {
            return value;
        }
        let (value, lasting) = make();
        if lasting {
            self.put(key.clone(), value.clone());
        }
        value
    }

    fn get(&self, key: &K) -> Option<V> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = generations.newer.get(key) {
            return Some(value.clone());
        }
        let (key, value) = generations.older.remove_entry(key)?;
        generations.put(key, value.clone(), self.capacity);
        Some(value)
    }

    fn put(&self, key: K, value: V) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).put(key, value, self.capacity);
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn put(&mut self, key: K, value: V, capacity: usize) {
        if self.newer.len() >= capacity {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_entries_stay_and_others_are_dropped() {
        let memo = Memo::new(4);
        for i in 0..1000 {
            memo.get_or(&-1, || (-1, true));
            memo.get_or(&i, || (i, true));
        }
        assert_eq!(memo.get_or(&-1, || (0, true)), -1, "used all the time");
        assert_eq!(memo.get_or(&1, || (0, true)), 0, "dropped long ago");
        let generations = memo.generations.lock().unwrap();
        assert!(generations.newer.len() + generations.older.len() <= 8);
    }

    #[test]
    fn value_that_may_change_is_made_again() {
        let memo = Memo::new(4);
        assert_eq!(memo.get_or(&1, || (1, false)), 1);
        assert_eq!(memo.get_or(&1, || (2, true)), 2);
        assert_eq!(memo.get_or(&1, || (3, true)), 2);
    }
}
