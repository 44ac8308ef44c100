//! All that happens, one line each, and a hash over it: two runs with the same hash were the same.

use record::Hash;
use std::io::Write;

const CONTEXT: &str = "boltzmann simulator trace v1";

/// What has happened so far.
pub struct Trace {
    sum: Hash,
    waiting: Vec<u8>,
    events: u64,
    out: Option<Box<dyn Write>>,
}

impl Trace {
    /// An empty trace, which prints its lines where that is wanted.
    pub fn new(out: Option<Box<dyn Write>>) -> Self {
        Trace { sum: Hash([0; 32]), waiting: Vec::with_capacity(1 << 13), events: 0, out }
    }

    /// Note something that a node did or met, with two numbers that say more.
    pub fn note(&mut self, now: u64, what: &'static str, node: usize, of: [u64; 2]) {
        self.events += 1;
        self.waiting.extend_from_slice(what.as_bytes());
        for number in [now, node as u64, of[0], of[1]] {
            self.waiting.extend_from_slice(&number.to_le_bytes());
        }
        if self.waiting.len() >= 1 << 12 {
            self.fold();
        }
        if let Some(out) = &mut self.out
            && writeln!(out, "{now:>8} s  node {node:<4} {what:<12} {:<20} {}", of[0], of[1]).is_err()
        {
            self.out = None;
        }
    }

    fn fold(&mut self) {
        self.waiting.extend_from_slice(&self.sum.0);
        self.sum = Hash::derive(CONTEXT, &self.waiting);
        self.waiting.clear();
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all of it.
    pub fn sum(&mut self) -> Hash {
        self.fold();
        self.sum
    }
}
