//! Stake as the chain weighs it in a subnet: its permits, its consensus and its least stake for weights go by this
//! number, and so do our own orders.
//!
//! It is the hotkey's alpha, and its TAO on the root network at the chain's rate; of both what it lends to its children
//! is taken off, and what its parents lend to it added.
//! Source: Subtensor's `get_stake_weights_for_hotkey_on_subnet`, and the two functions that it adds up.

use crate::{
    client::{AtBlock, Chain},
    storage::{foreign, has, keys_of},
    subnet::PALLET,
};
use record::{Hotkey, Report};
use std::collections::{BTreeMap, BTreeSet};
use subxt::dynamic;

/// Bits behind the point, as the chain reckons shares.
const BITS: u32 = 32;
/// The subnet where TAO is staked.
const ROOT: u16 = 0;
/// Shares, and whose: of a hotkey's parents, or of its children.
type Family = Vec<(u64, [u8; 32])>;

/// A share of 2^64 − 1 with 32 bits behind the point.
fn share(part: u64) -> u128 {
    (u128::from(part) << BITS) / u128::from(u64::MAX)
}

fn whole(fixed: u128) -> u64 {
    u64::try_from(fixed >> BITS).unwrap_or(u64::MAX)
}

/// What is left of `own` when the children have their shares, with the shares of what each parent holds.
/// Source: Subtensor's `get_inherited_for_hotkey_on_subnet` and `get_tao_inherited_for_hotkey_on_subnet`.
fn inherited(own: u64, children: impl Iterator<Item = u64>, parents: impl Iterator<Item = (u64, u64)>) -> u64 {
    let part = |held: u64, of: u64| u128::from(held) * share(of);
    let lent = children.map(|of| part(own, of)).fold(0, u128::saturating_add);
    let borrowed = parents.map(|(held, of)| part(held, of)).fold(0, u128::saturating_add);
    whole((u128::from(own) << BITS).saturating_sub(lent).saturating_add(borrowed))
}

/// Alpha and TAO as one number.
fn weighed(alpha: u64, tao: u64, rate: u64) -> u64 {
    whole((u128::from(alpha) << BITS).saturating_add(u128::from(tao) * share(rate)))
}

impl Chain {
    /// What each of these hotkeys weighs in the subnet, in units of 1e-9.
    pub(crate) fn stakes(&self, at: &AtBlock, hotkeys: &[Hotkey]) -> Result<Vec<u64>, Report> {
        let (parents, children) = (self.families(at, "ParentKeys", hotkeys)?, self.families(at, "ChildKeys", hotkeys)?);
        let mut keys: BTreeSet<[u8; 32]> = hotkeys.iter().map(|key| key.0).collect();
        keys.extend(parents.iter().flatten().map(|(_, key)| *key));
        let keys: Vec<[u8; 32]> = keys.into_iter().collect();
        let alpha = self.held(at, self.subnet.netuid, &keys)?;
        let tao = self.held(at, ROOT, &keys)?;
        let rate = self.tao_weight(at)?;
        let stake = |hotkey: &Hotkey, parents: &Family, children: &Family| {
            let of = |held: &BTreeMap<[u8; 32], u64>| {
                let holds = |key: &[u8; 32]| held.get(key).copied().unwrap_or(0);
                let lent = children.iter().map(|(part, _)| *part);
                inherited(holds(&hotkey.0), lent, parents.iter().map(|(part, key)| (holds(key), *part)))
            };
            weighed(of(&alpha), of(&tao), rate)
        };
        let each = hotkeys.iter().zip(parents.iter().zip(&children));
        Ok(each.map(|(hotkey, (parents, children))| stake(hotkey, parents, children)).collect())
    }

    fn families(&self, at: &AtBlock, entry: &str, hotkeys: &[Hotkey]) -> Result<Vec<Family>, Report> {
        if !has(at, entry) {
            return Ok(vec![Family::new(); hotkeys.len()]);
        }
        let address = dynamic::storage::<([u8; 32], u16), Family>(PALLET, entry);
        let found = self.many(at, address, hotkeys.iter().map(|key| (key.0, self.subnet.netuid)).collect())?;
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// What is staked on each of these hotkeys in one subnet. Before alpha (spec 233) there was one stake in TAO for
    /// all subnets.
    fn held(&self, at: &AtBlock, netuid: u16, keys: &[[u8; 32]]) -> Result<BTreeMap<[u8; 32], u64>, Report> {
        let found = if has(at, "TotalHotkeyAlpha") {
            let address = dynamic::storage::<([u8; 32], u16), u64>(PALLET, "TotalHotkeyAlpha");
            self.many(at, address, keys.iter().map(|key| (*key, netuid)).collect())?
        } else if netuid == ROOT {
            Vec::new()
        } else {
            let address = dynamic::storage::<([u8; 32],), u64>(PALLET, "TotalHotkeyStake");
            self.many(at, address, keys.iter().map(|key| (*key,)).collect())?
        };
        Ok(keys.iter().copied().zip(found.into_iter().map(Option::unwrap_or_default)).collect())
    }

    /// What a TAO on the root network counts, of 2^64 − 1. The first chains with alpha kept it by subnet.
    fn tao_weight(&self, at: &AtBlock) -> Result<u64, Report> {
        match keys_of(at, "TaoWeight") {
            None => Ok(0),
            Some(0) => self.item(at, PALLET, "TaoWeight"),
            Some(1) => self.or_default(at, "TaoWeight"),
            Some(keys) => Err(foreign(at, "TaoWeight", format!("it has {keys} keys"))),
        }
    }

    /// The least stake that may set weights, in units of 1e-9. Up to spec 212 it had another name.
    pub(crate) fn threshold(&self, at: &AtBlock) -> Result<u64, Report> {
        let names = ["StakeThreshold", "WeightsMinStake"];
        match names.into_iter().find(|name| has(at, name)) {
            Some(name) => self.item(at, PALLET, name),
            None => Err(foreign(at, "StakeThreshold", "there is no such entry")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = u64::MAX / 2;

    #[test]
    fn stake_is_alpha_and_tao_less_what_is_lent() {
        let none = || std::iter::empty::<u64>();
        assert_eq!(inherited(100, none(), std::iter::empty()), 100);
        assert_eq!(inherited(1_000_000_007, [u64::MAX].into_iter(), std::iter::empty()), 0, "all of it is lent");
        // The chain cuts a half at 32 bits: 2^31 − 1 of 2^32, so that a little more than half stays, and is rounded
        // down.
        assert_eq!(inherited(1_000_000_000, [HALF].into_iter(), std::iter::empty()), 500_000_000);
        assert_eq!(inherited(0, none(), [(1_000_000_000, u64::MAX), (300, 0)].into_iter()), 1_000_000_000);
        assert_eq!(inherited(5, [u64::MAX, u64::MAX].into_iter(), [(7, u64::MAX)].into_iter()), 7, "never below 0");
        assert_eq!(weighed(10, 1_000_000_000, 0), 10);
        assert_eq!(weighed(10, 1_000_000_000, u64::MAX), 1_000_000_010);
        // The main net's rate, 0.18 of 2^64: 180 TAO of 1000 count.
        assert_eq!(weighed(0, 1_000_000_000_000, 3_320_413_933_267_719_290) / 1_000_000, 180_000 - 1);
        assert_eq!(weighed(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(inherited(u64::MAX, none(), [(u64::MAX, u64::MAX)].into_iter()), u64::MAX);
    }
}
