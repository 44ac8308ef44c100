//! Commits to weights: by their hash, or timelocked; which of them wait, and when the chain opens them.

use crate::{
    answer::is_foreign,
    client::{AtBlock, Chain},
    epochs::Epochs,
    storage::{foreign, has},
    subnet::PALLET,
    timelock::Beacon,
    values::collect_bytes,
};
use record::{Hash, Hotkey, Report};
use std::cmp::Ordering;
use subxt::dynamic::{self, At, Value};

/// A commit to weights by their hash, as the chain keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The hash that was committed.
    pub hash: Hash,
    /// Block of the commit.
    pub block: u64,
    /// The epoch that it was committed in, where the chain counts them.
    pub epoch: Option<u64>,
    /// Whether it can be revealed.
    pub due: Due,
}

/// Whether a commit can be revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Not yet: from this block on, as far as is known.
    From(u64),
    /// In this epoch.
    Now,
    /// No more.
    Over,
}

/// A timelocked commit of this validator that the chain has not revealed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timelocked {
    /// Block of the commit.
    pub block: u64,
    /// The beacon's round that opens it.
    pub round: u64,
    /// The epoch that it was committed in.
    pub epoch: u64,
}

/// When a timelocked commit of this moment is revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The beacon's round that opens it.
    pub round: u64,
    /// The block from which the chain looks for that round.
    pub block: u64,
}

/// The form of timelocked commits that this suite writes.
pub const TIMELOCK_VERSION: u16 = 4;

/// The round is that of a moment so many blocks after the epoch, which must not be open before. Source:
/// bittensor-drand.
const SAFETY: u64 = 3;
/// The time of a block where the metadata does not tell it. Source: Subtensor's `MILLISECS_PER_BLOCK`.
const SLOT_MS: u64 = 12_000;
/// What can be the time of a block, in milliseconds: a development runtime may say 1 or 0.
const SLOTS_MS: std::ops::RangeInclusive<u64> = 20..=3_600_000;

/// What a chain has for timelocked commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timelock {
    /// The beacon whose signatures the chain takes.
    pub beacon: Beacon,
    /// The last round that it has.
    pub last_round: u64,
}

/// Whether a chain takes timelocked commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timelocking {
    /// It has no such thing.
    No,
    /// In the form that this suite writes.
    Yes(Timelock),
    /// In another form: what it is.
    Unknown(String),
}

impl Timelock {
    /// The round for a moment so many blocks after one whose clock is known, by the chain's nominal slot. The mean of
    /// the last blocks would not do: a few that are missed put it past the epoch of the reveal, and the weights are
    /// lost. When slots are missed later, the round is open some seconds before the reveal.
    fn round_after(&self, clock_ms: u64, blocks: u64, slot_ms: u64) -> u64 {
        let then = clock_ms as f64 / 1e3 + blocks as f64 * slot_ms as f64 / 1e3;
        // A round that is there already hides nothing, and the chain would refuse it.
        self.beacon.round_at(then).max(self.last_round.saturating_add(1))
    }
}

/// The nominal time of a block, by the chain's own constants.
fn slot_ms(at: &AtBlock) -> u64 {
    let constant = |pallet: &str, name: &str| at.constants().entry(dynamic::constant::<u64>(pallet, name)).ok();
    let told =
        [constant("Aura", "SlotDuration"), constant("Timestamp", "MinimumPeriod").map(|half| half.saturating_mul(2))];
    told.into_iter().flatten().find(|slot| SLOTS_MS.contains(slot)).unwrap_or(SLOT_MS)
}

impl Chain {
    /// When weights that are committed now are revealed: by the epochs of the newest block, and by the chain's own
    /// clock, so that this machine's may be wrong. `None` where the subnet has no epochs; the period is in epochs.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn moment_of_reveal(&self, reveal_period: u64, timelock: &Timelock) -> Result<Option<Moment>, Report> {
        let now = self.best()?;
        let head = self.block_hash(now)?;
        let head = head.ok_or_else(|| Report::again(format!("the node does not know block {now}")))?;
        let at = self.at(head)?;
        let Some(block) = self.epochs(&at)?.reveal(now, reveal_period) else { return Ok(None) };
        let blocks = block.saturating_add(SAFETY).saturating_sub(now);
        Ok(Some(Moment { round: timelock.round_after(self.time_ms(head)?, blocks, slot_ms(&at)), block }))
    }

    /// How the chain reckons the subnet's epochs, and where it stands.
    pub(crate) fn epochs(&self, at: &AtBlock) -> Result<Epochs, Report> {
        let tempo = u64::from(self.or_default::<u16>(at, "Tempo")?);
        if !has(at, "SubnetEpochIndex") {
            return Ok(Epochs::Counted { tempo, netuid: self.subnet.netuid.into() });
        }
        Ok(Epochs::Kept {
            last: self.or_default(at, "LastEpochBlock")?,
            pending: self.or_default(at, "PendingEpochAt")?,
            index: self.or_default(at, "SubnetEpochIndex")?,
            since: self.or_default(at, "BlocksSinceLastStep")?,
            tempo,
        })
    }

    /// Whether the chain takes timelocked commits. A form that is not known is no error here: who sets plain weights,
    /// or commits by a hash, needs none.
    pub(crate) fn timelocking(&self, at: &AtBlock) -> Result<Timelocking, Report> {
        if !has(at, "CommitRevealWeightsVersion") || at.metadata().pallet_by_name("Drand").is_none() {
            return Ok(Timelocking::No);
        }
        match self.beacon(at) {
            Err(report) if is_foreign(&report) => Ok(Timelocking::Unknown(report.error)),
            other => other,
        }
    }

    fn beacon(&self, at: &AtBlock) -> Result<Timelocking, Report> {
        let version: Value = self.item(at, PALLET, "CommitRevealWeightsVersion")?;
        let version = version.as_u128().unwrap_or(0);
        if version != u128::from(TIMELOCK_VERSION) {
            return Ok(Timelocking::Unknown(format!(
                "this chain takes timelocked commits of version {version}, this suite writes {TIMELOCK_VERSION}"
            )));
        }
        if !has(at, "TimelockedWeightCommits") {
            return Err(foreign(at, "TimelockedWeightCommits", "there is no such entry"));
        }
        let config: Value = self.item(at, "Drand", "BeaconConfig")?;
        let last_round: Value = self.item(at, "Drand", "LastStoredRound")?;
        let number = |name: &str| config.at(name).and_then(|n| n.as_u128()).and_then(|n| u32::try_from(n).ok());
        let mut public = Vec::new();
        let key = config.at("public_key");
        let found = key.and_then(|key| collect_bytes(std::slice::from_ref(key), &mut public));
        let (Some(()), Some(period), Some(genesis)) = (found, number("period"), number("genesis_time")) else {
            return Err(foreign(
                at,
                "Drand.BeaconConfig",
                "it lacks the key, the period or the time of its first round",
            ));
        };
        let last_round = last_round.as_u128().and_then(|round| u64::try_from(round).ok());
        let last_round = last_round.ok_or_else(|| foreign(at, "Drand.LastStoredRound", "it is no number"))?;
        Ok(Timelocking::Yes(Timelock { beacon: Beacon { public, period, genesis }, last_round }))
    }

    /// What a hotkey committed to by its hash and did not reveal, as of a block.
    pub(crate) fn pending(
        &self,
        at: &AtBlock,
        hotkey: Hotkey,
        now: u64,
        epochs: Epochs,
        period: u64,
    ) -> Result<Vec<Pending>, Report> {
        type Commits = Vec<([u8; 32], u64, u64, u64)>;
        if !has(at, "WeightCommits") {
            return Ok(Vec::new());
        }
        let address = dynamic::storage::<(u16, [u8; 32]), Commits>(PALLET, "WeightCommits");
        let commits = self.value(at, address, (self.index(), hotkey.0))?.unwrap_or_default();
        let next = now.saturating_add(1);
        Ok(commits
            .into_iter()
            // The chain keeps no more.
            .take(10)
            .map(|(hash, a, b, c)| {
                let (block, due) = match epochs {
                    // Epoch and block of the commit.
                    Epochs::Kept { .. } => {
                        let due = match epochs.number(next).cmp(&a.saturating_add(period)) {
                            Ordering::Less => Due::From(
                                epochs.reveal(now, a.saturating_add(period) - epochs.number(next)).unwrap_or(u64::MAX),
                            ),
                            Ordering::Equal => Due::Now,
                            Ordering::Greater => Due::Over,
                        };
                        (b, due)
                    }
                    // Block of the commit, first and last block of its reveal.
                    Epochs::Counted { .. } if next < b => (a, Due::From(b)),
                    Epochs::Counted { .. } => (a, if next <= c { Due::Now } else { Due::Over }),
                };
                let epoch = Some(a).filter(|_| matches!(epochs, Epochs::Kept { .. }));
                Pending { hash: Hash(hash), block, epoch, due }
            })
            .collect())
    }

    /// The timelocked commits of a hotkey that wait for their round, by the epoch of a block.
    pub(crate) fn timelocked(
        &self,
        at: &AtBlock,
        hotkey: Hotkey,
        epoch: u64,
        period: u64,
    ) -> Result<Vec<Timelocked>, Report> {
        type Commits = Vec<([u8; 32], u64, Vec<u8>, u64)>;
        let address = dynamic::storage::<(u16, u64), Commits>(PALLET, "TimelockedWeightCommits");
        let epochs = epoch.saturating_sub(period.min(100))..=epoch.saturating_add(1);
        let all = self.many(at, address, epochs.clone().map(|epoch| (self.index(), epoch)).collect())?;
        let each = epochs.zip(all).flat_map(|(epoch, commits)| commits.into_iter().flatten().map(move |c| (epoch, c)));
        let own = each.filter(|(_, (key, ..))| *key == hotkey.0);
        Ok(own.map(|(epoch, (_, block, _, round))| Timelocked { block, round, epoch }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_told_by_the_nominal_slot() {
        // drand's quicknet: round 1 at 1,692,803,367, one every 3 s.
        let beacon = Beacon { public: Vec::new(), period: 3, genesis: 1_692_803_367 };
        let timelock = Timelock { beacon, last_round: 1000 };
        let clock_ms = 1_692_803_367_000 + 3_000 * 5_000;
        // A tempo of 360 and three blocks of 12 s are 4,356 s, or 1,452 rounds, however many slots were missed before.
        assert_eq!(timelock.round_after(clock_ms, 363, 12_000), 5_000 + 1_452);
        assert_eq!(timelock.round_after(clock_ms, 363, 250), 5_000 + 30);
        // Never one that is there already.
        let late = Timelock { last_round: 9_000, ..timelock };
        assert_eq!(late.round_after(clock_ms, 363, 12_000), 9_001);
        assert_eq!(late.round_after(0, 0, 12_000), 9_001);
    }
}
