//! Yuma consensus: from stake and weights to incentive and dividends.
//!
//! Source: Subtensor's `epoch_mechanism`, the bonds of Yuma 2 with a fixed moving average. In f64 where Subtensor
//! counts in 32.32 fixed point; stake is cut to that, since who may set weights hangs on it. Left out: liquid alpha,
//! Yuma 3's bonds, emission (nothing is minted here). What counts as stake is the caller's to reckon.

use serde::{Deserialize, Serialize};

/// A subnet at an epoch; n neurons, all vectors of length n.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Subnet {
    /// Stake, in any unit.
    pub stake: Vec<f64>,
    /// May set weights, as of the last epoch.
    pub permit: Vec<bool>,
    /// Has set weights lately enough.
    pub active: Vec<bool>,
    /// Block of the last weights.
    pub last_update: Vec<u64>,
    /// Block of the registration.
    pub registered: Vec<u64>,
    /// Block of the oldest commit that is not yet revealed; `u64::MAX` without one.
    pub committed: Vec<u64>,
    /// Bonds in whoever registered from this block on are those of the one before, and forgotten.
    pub bonds_since: u64,
    /// Row i: what validator i set, uid and weight, in any unit.
    pub weights: Vec<Vec<(usize, f64)>>,
    /// Row i: the bonds of validator i after the last epoch.
    pub bonds: Vec<Vec<(usize, f64)>>,
    /// Who may weigh itself: the subnet's owner.
    pub owner: Option<usize>,
    /// The majority, of the active stake, that agrees on a consensus weight.
    pub kappa: f64,
    /// Share of the new bonds in the moving average.
    pub alpha: f64,
    /// How far weights above the consensus are left out of the bonds, `0..1`.
    pub bonds_penalty: f64,
    /// Most validators.
    pub max_validators: usize,
}

/// What an epoch gives; vectors of length n.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Epoch {
    /// May set weights from now on.
    pub permit: Vec<bool>,
    /// The weight that a majority of stake gives at least.
    pub consensus: Vec<f64>,
    /// Share of a neuron's weights that is within consensus.
    pub trust: Vec<f64>,
    /// Share of a validator's weights that is within consensus.
    pub validator_trust: Vec<f64>,
    /// Share of the miners' emission.
    pub incentive: Vec<f64>,
    /// Share of the validators' emission.
    pub dividends: Vec<f64>,
    /// Bonds, each column's largest 1; of who may set weights.
    pub bonds: Vec<Vec<(usize, f64)>>,
}

/// A unit of the chain's fixed point is one of so many in 1.
const FIXED: f64 = 4_294_967_296.0;

/// A share as the chain keeps it, of 65535, cut twice. Source: Subtensor's `fixed_proportion_to_u16`.
pub fn stored(share: f64) -> u16 {
    ((share * FIXED).floor() / FIXED * 65535.0) as u16
}

fn normalize(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        values.iter_mut().for_each(|value| *value /= sum);
    }
}

fn normalize_columns(rows: &mut [Vec<f64>]) {
    for column in 0..rows.len() {
        let sum: f64 = rows.iter().map(|row| row[column]).sum();
        if sum > 0.0 {
            rows.iter_mut().for_each(|row| row[column] /= sum);
        }
    }
}

fn dense(rows: &[Vec<(usize, f64)>], n: usize) -> Vec<Vec<f64>> {
    let mut all = vec![vec![0.0; n]; n];
    for (row, sparse) in all.iter_mut().zip(rows) {
        for (column, value) in sparse.iter().filter(|(column, _)| *column < n) {
            row[*column] = *value;
        }
    }
    all
}

/// The least weight up to which more than `1 − kappa` of the stake lies: a share `kappa` gives at least that much.
fn weighted_median(stake: &[f64], weights: impl Iterator<Item = f64>, kappa: f64) -> f64 {
    let mut held: Vec<(f64, f64)> = weights.zip(stake.iter().copied()).filter(|(_, stake)| *stake > 0.0).collect();
    held.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = held.iter().map(|(_, stake)| stake).sum();
    let mut below = 0.0;
    for (weight, stake) in &held {
        below += stake / total;
        if below > 1.0 - kappa {
            return *weight;
        }
    }
    held.last().map_or(0.0, |(weight, _)| *weight)
}

/// The neurons with the most stake, none without; ties go to the higher uid.
fn top(stake: &[f64], most: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..stake.len()).filter(|i| stake[*i] > 0.0).collect();
    order.sort_by(|a, b| stake[*b].total_cmp(&stake[*a]).then(b.cmp(a)));
    let mut top = vec![false; stake.len()];
    order.into_iter().take(most).for_each(|i| top[i] = true);
    top
}

impl Epoch {
    /// Take in another mechanism's, one of so many that count the same. Incentive and bonds stay each mechanism's own.
    pub fn add(&mut self, other: Epoch, of: f64) {
        let add = |sum: &mut Vec<f64>, values: Vec<f64>| {
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value / of);
        };
        add(&mut self.consensus, other.consensus);
        add(&mut self.trust, other.trust);
        add(&mut self.validator_trust, other.validator_trust);
        add(&mut self.dividends, other.dividends);
        self.permit = other.permit;
    }
}

impl Subnet {
    /// One epoch.
    pub fn epoch(&self) -> Epoch {
        let n = self.stake.len();
        let mut stake = self.stake.clone();
        normalize(&mut stake);
        stake.iter_mut().for_each(|share| *share = (*share * FIXED).floor() / FIXED);
        let may = |permit: Vec<bool>| -> Vec<bool> {
            permit.into_iter().enumerate().map(|(i, permit)| permit || self.owner == Some(i)).collect()
        };
        let (permitted, permit) = (may(self.permit.clone()), may(top(&stake, self.max_validators)));
        let mut active: Vec<f64> =
            (0..n).map(|i| if permitted[i] && self.active[i] { stake[i] } else { 0.0 }).collect();
        normalize(&mut active);

        // Weights of validators, none for oneself, none for who registered after they were set.
        let mut weights = dense(&self.weights, n);
        for (i, row) in weights.iter_mut().enumerate() {
            for (j, weight) in row.iter_mut().enumerate() {
                let oneself = i == j && self.owner != Some(i);
                let before = self.last_update[i] <= self.registered[j] || self.committed[i] < self.registered[j];
                if !permitted[i] || oneself || before {
                    *weight = 0.0;
                }
            }
            normalize(row);
        }
        let by_stake =
            |rows: &[Vec<f64>]| -> Vec<f64> { (0..n).map(|j| (0..n).map(|i| rows[i][j] * active[i]).sum()).collect() };
        let before = by_stake(&weights);
        let consensus: Vec<f64> =
            (0..n).map(|j| weighted_median(&active, weights.iter().map(|row| row[j]), self.kappa)).collect();
        let clipped: Vec<Vec<f64>> =
            weights.iter().map(|row| row.iter().zip(&consensus).map(|(w, most)| w.min(*most)).collect()).collect();
        let validator_trust = clipped.iter().map(|row| row.iter().sum()).collect();
        let mut incentive = by_stake(&clipped);
        let trust = incentive.iter().zip(&before).map(|(r, p)| if *p > 0.0 { r / p } else { 0.0 }).collect();
        normalize(&mut incentive);

        let mut old = dense(&self.bonds, n);
        old.iter_mut()
            .flat_map(|row| row.iter_mut().zip(&self.registered))
            .filter(|(_, registered)| **registered >= self.bonds_since)
            .for_each(|(bond, _)| *bond = 0.0);
        normalize_columns(&mut old);
        let mut new: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let within = |j: usize| weights[i][j] + self.bonds_penalty * (clipped[i][j] - weights[i][j]);
                (0..n).map(|j| within(j) * active[i]).collect()
            })
            .collect();
        normalize_columns(&mut new);
        let mut bonds: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| self.alpha * new[i][j] + (1.0 - self.alpha) * old[i][j]).collect()).collect();
        normalize_columns(&mut bonds);
        let mut dividends: Vec<f64> =
            bonds.iter().map(|row| row.iter().zip(&incentive).map(|(b, r)| b * r).sum()).collect();
        normalize(&mut dividends);

        for j in 0..n {
            let most = bonds.iter().map(|row| row[j]).fold(0.0, f64::max);
            if most > 0.0 {
                bonds.iter_mut().for_each(|row| row[j] /= most);
            }
        }
        let sparse = |row: Vec<f64>| row.into_iter().enumerate().filter(|(_, bond)| *bond > 0.0).collect();
        let kept = |(row, permit): (Vec<f64>, &bool)| if *permit { sparse(row) } else { Vec::new() };
        let bonds = bonds.into_iter().zip(&permit).map(kept).collect();
        Epoch { permit, consensus, trust, validator_trust, incentive, dividends, bonds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three validators and two miners; the third validator lies.
    fn subnet() -> Subnet {
        let weights =
            vec![vec![(3, 0.5), (4, 0.5)], vec![(3, 0.5), (4, 0.5)], vec![(3, 0.0), (4, 1.0)], vec![], vec![]];
        Subnet {
            stake: vec![40.0, 35.0, 25.0, 0.0, 0.0],
            permit: vec![true, true, true, false, false],
            active: vec![true; 5],
            last_update: vec![10; 5],
            registered: vec![0; 5],
            committed: vec![u64::MAX; 5],
            bonds_since: 1,
            weights,
            bonds: vec![vec![]; 5],
            owner: None,
            kappa: 0.5,
            alpha: 0.1,
            bonds_penalty: 1.0,
            max_validators: 3,
        }
    }

    #[test]
    fn a_minority_of_stake_cannot_move_the_consensus() {
        let epoch = subnet().epoch();
        assert_eq!(epoch.consensus, [0.0, 0.0, 0.0, 0.5, 0.5]);
        assert_eq!(epoch.validator_trust[..3], [1.0, 1.0, 0.5]);
        // Miner 4: 0.5 of all stake; miner 3: 0.5 of 0.75.
        let sum = 0.5 + 0.375;
        assert!((epoch.incentive[4] - 0.5 / sum).abs() < 1e-9 && (epoch.incentive[3] - 0.375 / sum).abs() < 1e-9);
        assert!((epoch.trust[4] - 0.5 / 0.625).abs() < 1e-9);
        // The liar's bonds are in one miner only, at half of what it claimed.
        let share = epoch.dividends[2] / epoch.dividends.iter().sum::<f64>();
        assert!(share < 0.25 && share > 0.0, "{share}");
        assert_eq!(epoch.permit, [true, true, true, false, false]);
    }

    #[test]
    fn who_may_not_weigh_does_not_count() {
        let alone = |change: &dyn Fn(&mut Subnet)| {
            let mut subnet = subnet();
            change(&mut subnet);
            subnet.epoch()
        };
        let without_liar = |e: &Epoch| (e.incentive[3] - 0.5).abs() < 1e-9 && (e.incentive[4] - 0.5).abs() < 1e-9;
        assert!(without_liar(&alone(&|s| s.permit[2] = false)));
        assert!(without_liar(&alone(&|s| s.active[2] = false)));
        // Miner 3 was replaced after everybody had set weights: none of them is for the one who is there now.
        let replaced = alone(&|s| s.registered[3] = 10);
        assert_eq!((replaced.incentive[3], replaced.incentive[4]), (0.0, 1.0));
        let unrevealed = alone(&|s| {
            s.registered[3] = 5;
            s.committed = vec![4; 5];
        });
        assert_eq!((unrevealed.incentive[3], unrevealed.incentive[4]), (0.0, 1.0));
        // Nobody weighs itself, but for the owner.
        assert_eq!(alone(&|s| s.weights[0] = vec![(0, 1.0)]).validator_trust[0], 0.0);
        let owner = alone(&|s| {
            s.owner = Some(0);
            s.weights[0] = vec![(0, 1.0)];
            s.kappa = 0.3;
        });
        assert!(owner.validator_trust[0] > 0.9);
        assert_eq!(alone(&|s| s.max_validators = 1).permit, [true, false, false, false, false]);
        let nobody = alone(&|s| s.stake = vec![0.0; 5]);
        assert!(nobody.incentive.iter().chain(&nobody.dividends).all(|x| *x == 0.0));
    }

    #[test]
    fn bonds_move_slowly() {
        let mut subnet = subnet();
        let first = subnet.epoch();
        subnet.bonds = first.bonds.clone();
        subnet.weights[2] = vec![(3, 0.5), (4, 0.5)];
        let second = subnet.epoch();
        // Half of the incentive at its old bond of 1/4, half at a tenth of the new one.
        assert!((second.dividends[2] - (0.5 * 0.25 + 0.5 * 0.1 * 0.25)).abs() < 1e-9, "{second:?}");
        for _ in 0..200 {
            subnet.bonds = subnet.epoch().bonds;
        }
        assert!((subnet.epoch().dividends[2] - 0.25).abs() < 1e-6, "in the end dividends follow stake");
    }
}
