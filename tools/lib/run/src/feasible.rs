//! Whether a run can meet its own clock: bytes against links, work against devices, pages against steps, calls against
//! the chain's limits.
//!
//! Plain arithmetic over hparams and what is assumed of machines and chain; it measures nothing. Of a window's time a
//! stage may plan with four fifths.

mod assumptions;
mod delta;

pub use assumptions::Assumptions;
pub use delta::delta_bytes;

use crate::Hparams;
use record::records::Record;
use serde::{Deserialize, Serialize};

/// What a stage may plan with, of the time or the tokens that there are: links stall, and texts differ in length.
const PLANNED: f64 = 0.8;
/// Bytes that a commitment takes of an epoch's room at least. Source: Subtensor's pallet `commitments`.
const LEAST_COMMITMENT_BYTES: u64 = 100;
/// Tokens of a run whose tokens are bytes: 256 and the end of a text.
const BYTE_TOKENS: u64 = 257;
/// `bz-pull` gives the way to a state this part of a window, and so many seconds at least.
const FOLLOW_PART: u64 = 8;
const FOLLOW_LEAST_S: f64 = 10.0;

/// One line of arithmetic, and its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was reckoned.
    pub name: String,
    /// `ok` where what is needed is no more than what is available, else `infeasible`.
    pub status: String,
    /// What is needed.
    pub needed: f64,
    /// What is available.
    pub available: f64,
    /// Of both.
    pub unit: String,
    /// How it was reckoned.
    pub reckoned: String,
    /// What to change, where it is infeasible.
    pub change: Option<String>,
}

impl Record for Finding {
    const TYPE: &'static str = "check";
}

impl Finding {
    fn new(name: &str, (needed, available, unit): (f64, f64, &str), reckoned: String, change: String) -> Self {
        // What is written is what is compared.
        let [needed, available] = [needed, available].map(|value| (value * 1e3).round() / 1e3);
        let ok = needed <= available;
        Finding {
            name: name.into(),
            status: if ok { "ok" } else { "infeasible" }.into(),
            needed,
            available,
            unit: unit.into(),
            reckoned,
            change: (!ok).then_some(change),
        }
    }

    /// Whether the run can do it.
    pub fn ok(&self) -> bool {
        self.status == "ok"
    }
}

/// All that can be reckoned of a run before it begins.
pub fn check(hparams: &Hparams, assumed: &Assumptions) -> Vec<Finding> {
    let run = Reckoning::new(hparams, assumed);
    vec![
        run.clock(),
        run.upload(),
        run.download(),
        run.state(),
        run.follow(),
        run.train(),
        run.pages(),
        run.commitments(),
        run.weights(),
        run.activity(),
    ]
}

struct Reckoning<'a> {
    hparams: &'a Hparams,
    assumed: &'a Assumptions,
    miners: u64,
    delta_bytes: f64,
    /// Tokens that the pages of a window hold.
    page_tokens: f64,
    /// Tokens that its steps take.
    step_tokens: f64,
    /// What a window's steps take.
    train_s: f64,
}

impl<'a> Reckoning<'a> {
    fn new(hparams: &'a Hparams, assumed: &'a Assumptions) -> Self {
        let (data, inner) = (&hparams.data, &hparams.inner);
        let bytes_are_tokens = data.tokenizer.is_none() && hparams.model.vocab_size <= BYTE_TOKENS;
        let row_tokens = if bytes_are_tokens { assumed.row_bytes } else { assumed.row_bytes / assumed.token_bytes };
        let page_tokens = (data.pages_per_window * data.rows_per_page) as f64 * row_tokens;
        let step_tokens = match inner.batch {
            Some(batch) => inner.steps as f64 * batch as f64 * data.sequence_length as f64,
            None => page_tokens,
        };
        Reckoning {
            hparams,
            assumed,
            miners: assumed.miners.unwrap_or(data.max_uids).min(data.max_uids),
            delta_bytes: delta_bytes(&hparams.model, &hparams.codec) as f64,
            page_tokens,
            step_tokens,
            train_s: step_tokens * hparams.model.flop_per_token(data.sequence_length) as f64 / assumed.flop_per_s,
        }
    }

    fn seconds(&self, blocks: u64) -> f64 {
        blocks as f64 * self.assumed.block_s
    }

    /// Blocks in whose planned part so many seconds fit.
    fn blocks(&self, seconds: f64) -> u64 {
        (seconds / PLANNED / self.assumed.block_s).ceil() as u64
    }

    /// From the deadline of the deltas to the state.
    fn state_blocks(&self) -> u64 {
        let clock = &self.hparams.clock;
        clock.state_offset.saturating_sub(clock.deadline_offset)
    }

    fn all_bytes(&self) -> f64 {
        self.miners as f64 * self.delta_bytes
    }

    fn all_deltas(&self) -> String {
        format!("{} deltas of {} are {}", self.miners, size(self.delta_bytes), size(self.all_bytes()))
    }

    fn clock(&self) -> Finding {
        let clock = &self.hparams.clock;
        let gaps = [
            (clock.deadline_offset, "clock.deadline_offset"),
            (self.state_blocks(), "clock.state_offset"),
            (clock.commit_offset.saturating_sub(clock.state_offset), "clock.commit_offset"),
            (clock.blocks.saturating_sub(clock.commit_offset), "clock.blocks"),
        ];
        let (shortest, field) = gaps.into_iter().min().unwrap_or_default();
        let (needed, final_after) = (self.assumed.finality_blocks + 1, self.assumed.finality_blocks);
        let reckoned = format!(
            "a window is {} blocks, {} s: the deltas of the one before are due after {} s, its state after {} s, \
             commitments are fetched from {} s on; the shortest of these steps is {shortest} blocks, and a block is \
             final after {final_after}",
            clock.blocks,
            self.seconds(clock.blocks),
            self.seconds(clock.deadline_offset),
            self.seconds(clock.state_offset),
            self.seconds(clock.commit_offset),
        );
        let change = format!("{field} at least {} later", needed.saturating_sub(shortest));
        Finding::new("clock", (needed as f64, shortest as f64, "blocks"), reckoned, change)
    }

    fn upload(&self) -> Finding {
        let (clock, assumed) = (&self.hparams.clock, self.assumed);
        let needed = self.delta_bytes / assumed.miner_up_bytes_per_s;
        let blocks = clock.deadline_offset.saturating_sub(assumed.finality_blocks);
        let reckoned = format!(
            "a miner sends {} at {}; from the draw's finality to the deadline are {blocks} blocks, {} s",
            size(self.delta_bytes),
            rate(assumed.miner_up_bytes_per_s),
            self.seconds(blocks),
        );
        let change = format!(
            "clock.deadline_offset {} or more, or a smaller delta: codec, model",
            self.blocks(needed).saturating_add(assumed.finality_blocks)
        );
        Finding::new("upload", (needed, PLANNED * self.seconds(blocks), "s"), reckoned, change)
    }

    fn download(&self) -> Finding {
        let needed = self.all_bytes() / self.assumed.validator_bytes_per_s;
        let blocks = self.state_blocks();
        let reckoned = format!(
            "a validator fetches: {}, at {}; bz-pull takes half of the {blocks} blocks, {} s, from the deadline to the \
             state",
            self.all_deltas(),
            rate(self.assumed.validator_bytes_per_s),
            self.seconds(blocks),
        );
        let offset = self.hparams.clock.deadline_offset.saturating_add(self.blocks(2.0 * needed));
        let change = format!("clock.state_offset {offset} or more, or smaller deltas: codec, model, data.max_uids");
        Finding::new("download", (needed, PLANNED * self.seconds(blocks) / 2.0, "s"), reckoned, change)
    }

    fn state(&self) -> Finding {
        let bytes_s = self.all_bytes() / self.assumed.validator_bytes_per_s;
        let audits = self.hparams.score.sample.min(self.miners);
        let needed = 2.0 * bytes_s + audits as f64 * self.train_s;
        let blocks = self.state_blocks();
        let reckoned = format!(
            "a validator fetches the deltas in {bytes_s:.1} s, trains {audits} audits of {:.1} s, and publishes the \
             deltas with the state in {bytes_s:.1} s; from the deadline to the state are {blocks} blocks, {} s",
            self.train_s,
            self.seconds(blocks),
        );
        let offset = self.hparams.clock.deadline_offset.saturating_add(self.blocks(needed));
        let change = format!("clock.state_offset {offset} or more, smaller deltas, or fewer audits (score.sample)");
        Finding::new("state", (needed, PLANNED * self.seconds(blocks), "s"), reckoned, change)
    }

    fn follow_s(&self) -> f64 {
        self.all_bytes() / self.assumed.miner_down_bytes_per_s
    }

    fn follow(&self) -> Finding {
        let (blocks, needed) = (self.hparams.clock.blocks / FOLLOW_PART, self.follow_s());
        let reckoned = format!(
            "a miner fetches what made the state: {}, at {}; bz-pull takes an eighth of a window, {blocks} blocks, \
             {} s",
            self.all_deltas(),
            rate(self.assumed.miner_down_bytes_per_s),
            self.seconds(blocks),
        );
        let least = self.blocks(needed).saturating_mul(FOLLOW_PART);
        let change = format!("clock.blocks {least} or more, or smaller deltas: codec, model, data.max_uids");
        let available = PLANNED * self.seconds(blocks).max(FOLLOW_LEAST_S);
        Finding::new("follow", (needed, available, "s"), reckoned, change)
    }

    fn train(&self) -> Finding {
        let (clock, fetch_s) = (&self.hparams.clock, self.follow_s());
        let blocks = clock.blocks.saturating_sub(clock.state_offset);
        let reckoned = format!(
            "a miner fetches what made the state in {fetch_s:.1} s, and trains {:.0} tokens in {:.1} s at {:.1} \
             TFLOP/s; from the state to the window's end are {blocks} blocks, {} s",
            self.step_tokens,
            self.train_s,
            self.assumed.flop_per_s / 1e12,
            self.seconds(blocks),
        );
        let needed = fetch_s + self.train_s;
        let least = clock.state_offset.saturating_add(self.blocks(needed));
        let change =
            format!("clock.blocks {least} or more, smaller deltas, or fewer tokens (inner.steps, inner.batch)");
        Finding::new("train", (needed, PLANNED * self.seconds(blocks), "s"), reckoned, change)
    }

    fn pages(&self) -> Finding {
        let (data, inner) = (&self.hparams.data, &self.hparams.inner);
        // A sequence's targets end one token behind its inputs. Without a batch each step takes what there is, one
        // sequence at least.
        let needed = 1.0 + inner.batch.map_or((inner.steps * data.sequence_length) as f64, |_| self.step_tokens);
        let available = PLANNED * self.page_tokens;
        let page_tokens = self.page_tokens / data.pages_per_window as f64;
        let source_rows = (data.max_uids + 1) * data.pages_per_window * data.rows_per_page;
        let reckoned = format!(
            "{} steps of {} sequences of {} tokens; {} pages of {} rows hold some {:.0} tokens; the source has at \
             least {source_rows} rows",
            inner.steps,
            inner.batch.map_or("at least one".into(), |batch| batch.to_string()),
            data.sequence_length,
            data.pages_per_window,
            data.rows_per_page,
            self.page_tokens,
        );
        let pages = (needed / PLANNED / page_tokens).ceil();
        let change =
            format!("data.pages_per_window {pages} or more, else the same text is trained on again in a window");
        Finding::new("pages", (needed, available, "tokens"), reckoned, change)
    }

    fn commitments(&self) -> Finding {
        let assumed = self.assumed;
        let each = assumed.commitments_per_window * assumed.commitment_bytes.max(LEAST_COMMITMENT_BYTES);
        let windows = assumed.tempo_blocks.div_ceil(self.hparams.clock.blocks);
        let room = assumed.commitment_room_bytes;
        let reckoned = format!(
            "an epoch of {} blocks has {windows} windows of {} commitments of {} bytes; the chain takes {room} \
             bytes of a hotkey",
            assumed.tempo_blocks, assumed.commitments_per_window, assumed.commitment_bytes,
        );
        let least = assumed.tempo_blocks.div_ceil((room / each.max(1)).max(1));
        let change = format!("clock.blocks {least} or more");
        Finding::new("commitments", ((windows * each) as f64, room as f64, "bytes"), reckoned, change)
    }

    /// From one set of weights to the next: an epoch, and where windows are longer, a window.
    fn weights_blocks(&self) -> u64 {
        self.assumed.tempo_blocks.max(self.hparams.clock.blocks)
    }

    fn weights(&self) -> Finding {
        let (blocks, limit) = (self.weights_blocks(), self.assumed.weights_rate_limit_blocks);
        let reckoned = format!("weights are set once in {blocks} blocks; the chain takes them once in {limit}");
        let change = format!("clock.blocks {limit} or more");
        Finding::new("weights", (limit as f64, blocks as f64, "blocks"), reckoned, change)
    }

    fn activity(&self) -> Finding {
        let (blocks, cutoff) = (self.weights_blocks(), self.assumed.activity_cutoff_blocks);
        let reckoned =
            format!("weights are {blocks} blocks old before new ones come; the chain counts them for {cutoff}");
        Finding::new(
            "activity",
            (blocks as f64, cutoff as f64, "blocks"),
            reckoned,
            format!("clock.blocks {cutoff} or less"),
        )
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        1e9.. => format!("{:.1} GB", bytes / 1e9),
        1e6.. => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} KB", bytes / 1e3),
    }
}

fn rate(bytes_per_s: f64) -> String {
    format!("{:.0} Mbit/s", bytes_per_s * 8.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};

    fn preset(name: &str) -> Hparams {
        Hparams::load(&presets().join(format!("{name}.json"))).unwrap()
    }

    fn presets() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../pipelines/hparams")
    }

    fn failing(hparams: &Hparams, assumed: &Assumptions) -> Vec<String> {
        check(hparams, assumed).into_iter().filter(|finding| !finding.ok()).map(|finding| finding.name).collect()
    }

    #[test]
    fn every_preset_can_meet_its_own_clock() {
        let mut seen = 0;
        for entry in std::fs::read_dir(presets()).unwrap() {
            let path = entry.unwrap().path();
            let hparams = Hparams::load(&path).unwrap();
            // The demo's eight miners are on one machine; all others are for the main net, every uid taken.
            let assumed = if hparams.name == "demo" { Assumptions::loopback(8) } else { Assumptions::default() };
            for finding in check(&hparams, &assumed) {
                assert!(finding.ok(), "{}: {finding:?}", path.display());
            }
            seen += 1;
        }
        assert!(seen >= 6);
    }

    #[test]
    fn a_run_that_cannot_is_told_which_number_to_change() {
        let assumed = Assumptions::default();
        // What the presets were before they were reckoned.
        let mut pages = preset("124m");
        pages.data.pages_per_window = 3;
        assert_eq!(failing(&pages, &assumed), ["pages"]);
        let mut dense = preset("boltzmann");
        dense.codec = preset("bistro").codec;
        assert_eq!(failing(&dense, &assumed), ["upload", "download", "state", "follow", "train"]);
        let mut clock = preset("boltzmann");
        (clock.clock.blocks, clock.clock.state_offset, clock.clock.commit_offset) = (50, 16, 44);
        assert_eq!(failing(&clock, &assumed), ["download", "state"]);
        // What is said to change is enough, and one less is not.
        let found = check(&clock, &assumed).into_iter().find(|finding| finding.name == "state").unwrap();
        let words = found.change.unwrap();
        let offset: u64 = words.split(' ').nth(1).unwrap().parse().unwrap();
        clock.clock.state_offset = offset;
        assert!(!failing(&clock, &assumed).contains(&"state".to_string()), "{words}");
        clock.clock.state_offset = offset - 1;
        assert!(failing(&clock, &assumed).contains(&"state".to_string()), "{words}");
        // Short windows: too many commitments in an epoch, too little time in all.
        let mut short = preset("tiny");
        short.clock.blocks = 24;
        (short.clock.commit_offset, short.clock.state_offset) = (20, 12);
        assert_eq!(failing(&short, &assumed), ["commitments"]);
        short.clock.state_offset = 18;
        assert_eq!(failing(&short, &assumed), ["clock", "commitments"]);
        let mut long = preset("tiny");
        long.clock.blocks = 5001;
        assert_eq!(failing(&long, &assumed), ["activity"]);
        let often = Assumptions { tempo_blocks: 50, ..assumed.clone() };
        assert_eq!(failing(&preset("tiny"), &often), ["weights"]);
        let slow = Assumptions { flop_per_s: 1e9, ..assumed };
        assert_eq!(failing(&preset("124m"), &slow), ["state", "train"]);
    }

    #[test]
    fn a_finding_is_a_record_that_is_read_back() {
        for finding in check(&preset("350m"), &Assumptions { flop_per_s: 1e9, ..Assumptions::default() }) {
            let line = record::stream::line_of(&finding).unwrap();
            assert!(line.starts_with(r#"{"type":"check","name":""#), "{line}");
            assert_eq!(serde_json::from_str::<Finding>(&line).unwrap(), finding);
            assert_eq!(finding.change.is_none(), finding.ok());
        }
    }

    proptest! {
        #[test]
        fn the_verdict_is_the_comparison_and_more_miners_or_slower_links_help_nobody(
            miners in 1u64..300, speed in 0.01f64..10.0, state in 9u64..40, blocks in 46u64..400,
        ) {
            let mut hparams = preset("350m");
            (hparams.clock.state_offset, hparams.clock.blocks) = (state, blocks);
            hparams.clock.commit_offset = blocks - 4;
            let mut assumed = Assumptions { miners: Some(miners), ..Assumptions::default() };
            assumed.validator_bytes_per_s *= speed;
            let findings = check(&hparams, &assumed);
            prop_assert!(findings.iter().all(|f| f.ok() == (f.needed <= f.available) && f.needed.is_finite()));
            assumed.validator_bytes_per_s *= 0.5;
            assumed.miners = Some(miners + 10);
            let worse = check(&hparams, &assumed);
            prop_assert!(findings.iter().zip(&worse).all(|(before, after)| before.ok() || !after.ok()));
        }
    }
}
