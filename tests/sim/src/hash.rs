//! Fingerprints of states: 128 bits, so that no run is long enough for two different states to count as one.

use std::collections::HashMap;

const A: u64 = 0x9E37_79B9_7F4A_7C15;
const B: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// Collects the parts of a state. Names of which only equality counts (salts, digests, key checks) are
/// numbered in the order of their first use, so that states that differ only in such names are one.
#[derive(Debug)]
pub(crate) struct Print {
    a: u64,
    b: u64,
    names: HashMap<u64, u64>,
}

impl Print {
    pub(crate) fn new() -> Self {
        Self { a: A, b: B, names: HashMap::new() }
    }

    pub(crate) fn put(&mut self, value: u64) {
        let fold = |state: u64, by: u64| {
            let wide = u128::from(state ^ value).wrapping_mul(u128::from(by));
            #[allow(clippy::cast_possible_truncation)] // both halves are used
            let folded = (wide as u64) ^ ((wide >> 64) as u64);
            folded.rotate_left(23).wrapping_add(by)
        };
        self.a = fold(self.a, A | 1);
        self.b = fold(self.b.rotate_left(17) ^ self.a, B | 1);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.put(of_bytes(text.as_bytes()));
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.put(u64::from(flag));
    }

    pub(crate) fn len(&mut self, len: usize) {
        self.put(len as u64);
    }

    /// Something with a hash of its own.
    pub(crate) fn hash(&mut self, value: &impl std::hash::Hash) {
        let mut hasher = Plain(B);
        value.hash(&mut hasher);
        self.put(std::hash::Hasher::finish(&hasher));
    }

    /// A name of which only equality counts.
    pub(crate) fn name(&mut self, bytes: &[u8]) {
        let next = self.names.len() as u64;
        let number = *self.names.entry(of_bytes(bytes)).or_insert(next);
        self.put(number);
    }

    /// The number of a name; a name without a number is after all others.
    pub(crate) fn number(&self, bytes: &[u8]) -> u64 {
        self.names.get(&of_bytes(bytes)).copied().unwrap_or(u64::MAX)
    }

    pub(crate) fn done(&self) -> u128 {
        (u128::from(self.a) << 64) | u128::from(self.b)
    }
}

struct Plain(u64);

impl std::hash::Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = of_bytes(bytes) ^ self.0.rotate_left(29).wrapping_mul(A);
    }
}

/// A hash of these bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> u64 {
    let mut state = A ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let wide = u128::from(state ^ u64::from_le_bytes(word)).wrapping_mul(u128::from(B));
        #[allow(clippy::cast_possible_truncation)] // both halves are used
        let folded = (wide as u64) ^ ((wide >> 64) as u64);
        state = folded.wrapping_add(A);
    }
    state
}
