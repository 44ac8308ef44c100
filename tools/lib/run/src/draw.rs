//! The network's dice: a permutation of `0..n` that everybody can compute from a block hash, and nobody before it.

use record::Hash;

/// A keyed permutation of `0..n`; any single value costs O(1), whatever `n` is.
///
/// A Feistel network of eight rounds over the next even number of bits, with keyed BLAKE3 as round function, walked
/// until it lands inside `0..n` (at most four tries on average).
/// Source: Luby and Rackoff 1988; cycle walking by Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
#[derive(Clone, Debug)]
pub struct Permutation {
    key: [u8; 32],
    n: u64,
    half_bits: u32,
}

const ROUNDS: u8 = 8;

impl Permutation {
    /// The permutation of `0..n` for one purpose (`domain`), one run and one block hash.
    pub fn new(domain: &'static str, run: Hash, hash: Hash, n: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(domain);
        hasher.update(&run.0).update(&hash.0);
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Permutation { key: *hasher.finalize().as_bytes(), n, half_bits: bits.div_ceil(2).max(1) }
    }

    fn round(&self, round: u8, half: u64) -> u64 {
        let mut input = [round; 9];
        input[1..].copy_from_slice(&half.to_le_bytes());
        let digest = blake3::keyed_hash(&self.key, &input);
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) & ((1 << self.half_bits) - 1)
    }

    /// Where `index` goes; `None` unless `index < n`.
    pub fn at(&self, index: u64) -> Option<u64> {
        if index >= self.n {
            return None;
        }
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & ((1 << self.half_bits) - 1));
            for round in 0..ROUNDS {
                (left, right) = (right, left ^ self.round(round, right));
            }
            value = left << self.half_bits | right;
            if value < self.n {
                return Some(value);
            }
        }
    }

    /// The first `count` values (all, when there are fewer), in ascending order.
    pub fn draw(&self, count: u64) -> Vec<u64> {
        let mut drawn: Vec<u64> = (0..count.min(self.n)).filter_map(|i| self.at(i)).collect();
        drawn.sort_unstable();
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_permutation(n in 1u64..3000, seed: [u8; 32]) {
            let all = Permutation::new("test", Hash([0; 32]), Hash(seed), n);
            prop_assert_eq!(all.draw(n), (0..n).collect::<Vec<_>>());
            prop_assert_eq!(all.at(n), None);
        }

        #[test]
        fn any_size_ends(n in 1u64.., seed: [u8; 32]) {
            let all = Permutation::new("test", Hash([0; 32]), Hash(seed), n);
            prop_assert!(all.at(n - 1).unwrap() < n);
        }
    }

    #[test]
    fn another_key_domain_or_run_draws_others() {
        let of = |domain, run, hash| Permutation::new(domain, Hash([run; 32]), Hash([hash; 32]), 1 << 20).draw(64);
        let drawn = of("a", 1, 1);
        for other in [of("b", 1, 1), of("a", 2, 1), of("a", 1, 2)] {
            assert!(drawn.iter().filter(|x| other.contains(x)).count() < 3);
        }
    }

    #[test]
    fn values_are_spread_evenly() {
        // Chi-squared over 64 cells of 64 expected; 63 degrees of freedom, 1e-6 tail near 135.
        let drawn = Permutation::new("test", Hash([3; 32]), Hash([4; 32]), 1 << 18).draw(4096);
        let mut cells = [0f64; 64];
        drawn.iter().for_each(|x| cells[(x >> 12) as usize] += 1.0);
        let chi2: f64 = cells.iter().map(|c| (c - 64.0).powi(2) / 64.0).sum();
        assert!(chi2 < 135.0, "{chi2}");
    }
}
