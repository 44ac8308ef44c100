//! What is assumed of a run's machines and of its chain.

/// What is assumed of the machines and of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// Miners; absent: as many as the run has uids.
    pub miners: Option<u64>,
    /// A miner's link, up.
    pub miner_up_bytes_per_s: f64,
    /// A miner's link, down.
    pub miner_down_bytes_per_s: f64,
    /// A validator's link, either way.
    pub validator_bytes_per_s: f64,
    /// What a node's device does of training.
    pub flop_per_s: f64,
    /// A row of the text: a document of a web crawl, or 4,096 bytes of a file.
    pub row_bytes: f64,
    /// A token of a tokenizer.
    pub token_bytes: f64,
    /// Time of a block.
    pub block_s: f64,
    /// So many blocks later a block is final.
    pub finality_blocks: u64,
    /// An epoch.
    pub tempo_blocks: u64,
    /// What a node commits to at once: a bucket's address of 64 bytes and a field of 113.
    pub commitment_bytes: u64,
    /// Commitments of a validator in a window.
    pub commitments_per_window: u64,
    /// Room for a hotkey's commitments in an epoch.
    pub commitment_room_bytes: u64,
    /// From a validator's weights to its next ones.
    pub weights_rate_limit_blocks: u64,
    /// A validator whose weights are older does not count.
    pub activity_cutoff_blocks: u64,
}

impl Default for Assumptions {
    /// A miner at 100 Mbit/s up and 1 Gbit/s down, a validator at 1 Gbit/s both ways, a GPU that trains at a tenth of
    /// an H100's peak; Bittensor's main net.
    fn default() -> Self {
        Assumptions {
            miners: None,
            miner_up_bytes_per_s: 12.5e6,
            miner_down_bytes_per_s: 125e6,
            validator_bytes_per_s: 125e6,
            flop_per_s: 1e14,
            row_bytes: 4096.0,
            token_bytes: 4.0,
            block_s: 12.0,
            finality_blocks: 3,
            tempo_blocks: 360,
            commitment_bytes: 177,
            commitments_per_window: 2,
            commitment_room_bytes: 3100,
            weights_rate_limit_blocks: 100,
            activity_cutoff_blocks: 5000,
        }
    }
}

impl Assumptions {
    /// The names that [`Assumptions::set`] takes, and in which units.
    pub const NAMES: &'static str =
        "miners, up, down and validator (Mbit/s), tflops, row (bytes), block (s), finality, tempo and rate (blocks)";

    /// `bz-localnet`'s: so many miners, all on one machine's processor, half a second a block.
    pub fn loopback(miners: u64) -> Self {
        Assumptions {
            miners: Some(miners),
            miner_up_bytes_per_s: 1e9,
            miner_down_bytes_per_s: 1e9,
            validator_bytes_per_s: 1e9,
            flop_per_s: 1e11,
            block_s: 0.5,
            tempo_blocks: 5,
            weights_rate_limit_blocks: 8,
            ..Assumptions::default()
        }
    }

    /// Assume something else.
    ///
    /// # Errors
    /// In words, where the name is unknown or the value cannot be.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        if !(1e-6..=1e15).contains(&value) {
            return Err(format!("{name}={value}: a number from 1e-6 to 1e15"));
        }
        let per_s = value * 1e6 / 8.0;
        let whole = || match value as u64 {
            0 => Err(format!("{name}={value}: at least 1")),
            whole => Ok(whole),
        };
        match name {
            "miners" => self.miners = Some(whole()?),
            "up" => self.miner_up_bytes_per_s = per_s,
            "down" => self.miner_down_bytes_per_s = per_s,
            "validator" => self.validator_bytes_per_s = per_s,
            "tflops" => self.flop_per_s = value * 1e12,
            "row" => self.row_bytes = value,
            "block" => self.block_s = value,
            "finality" => self.finality_blocks = whole()?,
            "tempo" => self.tempo_blocks = whole()?,
            "rate" => self.weights_rate_limit_blocks = whole()?,
            _ => return Err(format!("{name}: not known; {}", Self::NAMES)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_told_can_be_set_and_no_other() {
        let names = "miners up down validator tflops row block finality tempo rate";
        for name in names.split(' ') {
            assert!(Assumptions::NAMES.contains(name), "{name}");
            let mut assumed = Assumptions::default();
            assumed.set(name, 7.0).unwrap();
            assert_ne!(assumed, Assumptions::default(), "{name}");
            for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(assumed.set(name, wrong).is_err(), "{name}={wrong}");
            }
        }
        assert!(Assumptions::default().set("miners", 0.5).unwrap_err().contains("at least 1"));
        assert!(Assumptions::default().set("hope", 1.0).unwrap_err().contains("miners"));
    }
}
