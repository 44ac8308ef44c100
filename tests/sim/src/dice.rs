//! Chance from a seed: the same draws in the same order, on every machine.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// A stream of draws.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed; each use of a seed has a stream of its own.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Dice(rng)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 where there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a remainder is below 2⁻⁴⁰ for every n in use here.
        if n == 0 { 0 } else { self.bits() % n }
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so many times of a thousand.
    pub fn per_mille(&mut self, p: u64) -> bool {
        self.below(1000) < p
    }

    /// An index of a list with `n` elements.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }
}

/// A good mix of a number: 64 bits of it. Source: SplitMix64, Steele et al. 2014.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 32 bytes that hold a number and a kind, and look like a hash.
pub fn name(kind: u64, n: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    let first = mix(kind.wrapping_mul(0x1_0000_0001).wrapping_add(n));
    for (at, word) in [first, mix(first), kind, n].into_iter().enumerate() {
        bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// The number in a name of this kind.
pub fn number(kind: u64, bytes: &[u8; 32]) -> Option<u64> {
    let (_, tail) = bytes.split_at(24);
    let n = u64::from_be_bytes(tail.try_into().ok()?);
    (*bytes == name(kind, n)).then_some(n)
}
