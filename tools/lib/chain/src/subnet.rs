//! Which subnet, and where its pallet keeps what belongs to it.

/// The pallet of subnets, neurons, stake and weights.
pub(crate) const PALLET: &str = "SubtensorModule";
/// Stake is kept in units of 1e-9.
pub(crate) const RAO: f64 = 1e9;

/// Subnets are at most so many: the weights of mechanism m of a subnet are kept under m · 4096 + netuid.
/// Source: Subtensor's `get_mechanism_storage_index`.
const SUBNETS: u16 = 4096;

/// Which weights: those of a subnet, or of one of its mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub netuid: u16,
    /// 0 where it has one only.
    pub mechanism: u8,
}

impl Subnet {
    /// Where a mechanism's weights, bonds, updates and incentive are kept.
    pub fn storage_index(self) -> u16 {
        u16::from(self.mechanism).saturating_mul(SUBNETS).saturating_add(self.netuid)
    }
}
