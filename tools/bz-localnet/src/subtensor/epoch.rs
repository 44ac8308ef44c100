//! Epochs: when they are, and what is reckoned in one.

use super::{pallet::*, storage_index};
use crate::yuma;
use sp_runtime::traits::SaturatedConversion;

/// An epoch runs after so many blocks, whatever the tempo is. Source: Subtensor's `MAX_TEMPO`.
const MAX_TEMPO: u64 = 50_400;

/// How a subnet's epochs stand at a block. Written for this chain alone: what clients reckon is held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Block of the last epoch.
    pub last: u64,
    /// An epoch that the subnet's owner asked for, 0 for none.
    pub pending: u64,
    /// Number of epochs so far.
    pub index: u64,
    /// Blocks since the last epoch that went through.
    pub since: u64,
    /// Blocks between two; 0 for a subnet without.
    pub tempo: u64,
}

impl Schedule {
    /// Whether an epoch runs in a block, by the state before it. Source: Subtensor's `should_run_epoch`.
    pub fn due(&self, block: u64) -> bool {
        if self.tempo == 0 {
            return false;
        }
        let asked = self.pending > 0 && self.pending <= block;
        asked || self.since > MAX_TEMPO || block.saturating_sub(self.last) >= self.tempo
    }

    /// The epoch that what happens in a block belongs to. Source: Subtensor's `current_epoch_with_lookahead`.
    pub fn number(&self, block: u64) -> u64 {
        if self.due(block) { self.index.saturating_add(1) } else { self.index }
    }

    /// The next block with an epoch after `now`, by the state after it; `None` where the subnet has none.
    /// Source: Subtensor's `get_next_epoch_start_block`.
    pub fn next(&self, now: u64) -> Option<u64> {
        let planned = self.last.saturating_add(self.tempo);
        let first = if self.pending > 0 { planned.min(self.pending) } else { planned };
        (self.tempo > 0).then(|| first.max(now.saturating_add(1)))
    }
}

impl<T: Config> Pallet<T> {
    pub(crate) fn block() -> u64 {
        frame_system::Pallet::<T>::block_number().saturated_into()
    }

    pub(crate) fn schedule(netuid: u16) -> Schedule {
        Schedule {
            last: LastEpochBlock::<T>::get(netuid),
            pending: PendingEpochAt::<T>::get(netuid),
            index: SubnetEpochIndex::<T>::get(netuid),
            since: BlocksSinceLastStep::<T>::get(netuid),
            tempo: Tempo::<T>::get(netuid).into(),
        }
    }

    pub(super) fn epoch_now(netuid: u16) -> u64 {
        Self::schedule(netuid).number(Self::block())
    }

    /// What each block begins with.
    pub(super) fn begin_block(block: u64) {
        // Reveals come first: what they set counts in the epoch of this block.
        for (netuid, _) in NetworksAdded::<T>::iter() {
            Self::reveal_timelocked(netuid, block);
        }
        for (netuid, _) in NetworksAdded::<T>::iter() {
            if Self::schedule(netuid).due(block) {
                Self::run_epoch(netuid);
                LastMechansimStepBlock::<T>::insert(netuid, block);
                BlocksSinceLastStep::<T>::insert(netuid, 0);
                LastEpochBlock::<T>::insert(netuid, block);
                PendingEpochAt::<T>::remove(netuid);
                SubnetEpochIndex::<T>::mutate(netuid, |index| *index += 1);
            } else {
                BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks += 1);
            }
        }
    }

    /// Yuma consensus for each mechanism, with what the chain keeps.
    fn run_epoch(netuid: u16) {
        let n = SubnetworkN::<T>::get(netuid);
        let mechanisms = MechanismCountCurrent::<T>::get(netuid).max(1);
        let mut sum = yuma::Epoch::default();
        let mut active = vec![false; n.into()];
        for mechanism in 0..mechanisms {
            let index = storage_index(netuid, mechanism);
            let subnet = Self::subnet(netuid, index);
            active.iter_mut().zip(&subnet.active).for_each(|(active, now)| *active |= now);
            let epoch = subnet.epoch();
            Incentive::<T>::insert(index, stored(&epoch.incentive));
            for (uid, row) in (0..n).zip(&epoch.bonds) {
                let row: Vec<(u16, u16)> = row.iter().map(|(to, bond)| (*to as u16, yuma::stored(*bond))).collect();
                Bonds::<T>::insert(index, uid, row);
            }
            sum.add(epoch, f64::from(mechanisms));
        }
        Active::<T>::insert(netuid, active);
        ValidatorPermit::<T>::insert(netuid, sum.permit);
        Consensus::<T>::insert(netuid, stored(&sum.consensus));
        Trust::<T>::insert(netuid, stored(&sum.trust));
        ValidatorTrust::<T>::insert(netuid, stored(&sum.validator_trust));
        Dividends::<T>::insert(netuid, stored(&sum.dividends));
    }

    /// One mechanism of a subnet, as consensus looks at it now.
    fn subnet(netuid: u16, index: u16) -> yuma::Subnet {
        let all = || 0..SubnetworkN::<T>::get(netuid);
        let owner = Self::owner_uid(netuid);
        let threshold = StakeThreshold::<T>::get();
        // Stake below the threshold does not count, but for the owner's.
        let stake = |uid: u16| {
            let held = Self::stake_of(&Keys::<T>::get(netuid, uid), netuid);
            if held.total() >= threshold || owner == Some(uid) { held.exact() } else { 0.0 }
        };
        let rows = |rows: &dyn Fn(u16) -> Vec<(u16, u16)>| -> Vec<Vec<(usize, f64)>> {
            let row = |uid: u16| rows(uid).into_iter().map(|(to, w)| (usize::from(to), f64::from(w))).collect();
            all().map(row).collect()
        };
        let cutoff = u64::from(ActivityCutoff::<T>::get(netuid));
        let last_update = LastUpdate::<T>::get(index);
        let last_step = LastMechansimStepBlock::<T>::get(netuid);
        let tempo_ago = Self::block().saturating_sub(Tempo::<T>::get(netuid).into());
        yuma::Subnet {
            stake: all().map(stake).collect(),
            permit: ValidatorPermit::<T>::get(netuid),
            active: last_update.iter().map(|last| last + cutoff >= Self::block()).collect(),
            last_update,
            registered: all().map(|uid| BlockAtRegistration::<T>::get(netuid, uid)).collect(),
            committed: Self::oldest_commits(netuid, index),
            bonds_since: if last_step == 0 { tempo_ago } else { last_step + 1 },
            weights: rows(&|uid| Weights::<T>::get(index, uid)),
            bonds: rows(&|uid| Bonds::<T>::get(index, uid)),
            owner: owner.map(usize::from),
            kappa: f64::from(Kappa::<T>::get(netuid)) / 65535.0,
            alpha: 1.0 - BondsMovingAverage::<T>::get(netuid) as f64 / 1e6,
            bonds_penalty: f64::from(BondsPenalty::<T>::get(netuid)) / 65535.0,
            max_validators: usize::from(MaxAllowedValidators::<T>::get(netuid)),
        }
    }
}

fn stored(values: &[f64]) -> Vec<u16> {
    values.iter().map(|value| yuma::stored(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures from Subtensor's rule itself, not from the client's reckoning.
    #[test]
    fn an_epoch_runs_a_tempo_after_the_last_one() {
        let main_net = Schedule { last: 1000, pending: 0, index: 41, since: 12, tempo: 360 };
        assert!(!main_net.due(1359) && main_net.due(1360) && main_net.due(1500));
        assert_eq!((main_net.number(1359), main_net.number(1360)), (41, 42));
        assert_eq!(
            (main_net.next(1000), main_net.next(1359), main_net.next(1400)),
            (Some(1360), Some(1360), Some(1401))
        );
        // The owner asks for one.
        let asked = Schedule { pending: 1100, ..main_net };
        assert!(!asked.due(1099) && asked.due(1100));
        assert_eq!((asked.next(1050), asked.next(1100)), (Some(1100), Some(1101)));
        // An epoch that never goes through is tried again after the longest tempo.
        let stuck = Schedule { since: 50_400, tempo: 65_535, ..main_net };
        assert!(!stuck.due(1001) && Schedule { since: 50_401, ..stuck }.due(1001));
        // Without a tempo a subnet has none.
        let none = Schedule { pending: 5, since: 60_000, tempo: 0, ..main_net };
        assert!(!none.due(9_999_999) && none.next(5).is_none() && none.number(9_999_999) == 41);
    }
}
