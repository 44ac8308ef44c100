//! The neurons of a subnet at one block: one consistent view, since all of it is read at the same block hash.
//!
//! Source of names and types: pallet-subtensor's storage, and pallet-commitments.

use crate::client::{AtBlock, Chain};
use record::{Context, Hash, Hotkey, Report, Uid, records::Peer};
use std::collections::BTreeMap;
use subxt::{dynamic, ext::scale_decode::DecodeAsType};

const PALLET: &str = "SubtensorModule";
/// Stake is kept in units of 1e-9.
const RAO: f64 = 1e9;
/// The longest bucket address that is read.
const BUCKET_CAP: usize = 1024;

impl Chain {
    /// One value of SubtensorModule under a netuid, `None` where it is not set.
    pub(crate) fn of_subnet<T: DecodeAsType + 'static>(&self, at: &AtBlock, entry: &str) -> Result<Option<T>, Report> {
        let address = dynamic::storage::<(u16,), T>(PALLET, entry);
        let netuid = self.netuid;
        let value = self.wait(entry, async { at.storage().try_fetch(address, (netuid,)).await })?;
        value.map(|v| v.decode().again(entry)).transpose()
    }

    /// The neurons of the subnet as of a block; `own` marks the wallet's.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet.
    pub fn peers(&self, block: Hash, own: Option<Hotkey>) -> Result<Vec<Peer>, Report> {
        let at = self.at(block)?;
        if self.of_subnet::<bool>(&at, "NetworksAdded")? != Some(true) {
            return Err(Report::config(format!("there is no subnet {} on this chain", self.netuid))
                .hint("--netuid or BZ_NETUID"));
        }
        let incentive: Vec<u16> = self.of_subnet(&at, "Incentive")?.unwrap_or_default();
        let permit: Vec<bool> = self.of_subnet(&at, "ValidatorPermit")?.unwrap_or_default();
        let last_update: Vec<u64> = self.of_subnet(&at, "LastUpdate")?.unwrap_or_default();
        let hotkeys = self.hotkeys(&at)?;
        let buckets = self.buckets(&at)?;
        let stakes = self.stakes(&at, hotkeys.values())?;
        let all = hotkeys.into_iter().map(|(uid, hotkey)| {
            let place = uid as usize;
            Peer {
                uid: Uid(uid),
                hotkey,
                bucket: buckets.get(&hotkey).cloned(),
                stake: stakes.get(&hotkey).copied().unwrap_or(0) as f64 / RAO,
                incentive: f64::from(incentive.get(place).copied().unwrap_or(0)) / 65535.0,
                permit: permit.get(place).copied().unwrap_or(false),
                last_update: last_update.get(place).copied().unwrap_or(0),
                own: own == Some(hotkey),
            }
        });
        Ok(all.collect())
    }

    /// Who had which uid at a block; `None` when the node keeps that block's state no longer.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn members(&self, block: Hash) -> Result<Option<BTreeMap<u16, Hotkey>>, Report> {
        match self.at(block).and_then(|at| self.hotkeys(&at)) {
            Ok(found) => Ok(Some(found)),
            Err(report) if Chain::forgotten(&report) => Ok(None),
            Err(report) => Err(report),
        }
    }

    pub(crate) fn hotkeys(&self, at: &AtBlock) -> Result<BTreeMap<u16, Hotkey>, Report> {
        let address = dynamic::storage::<(u16, u16), [u8; 32]>(PALLET, "Keys");
        let netuid = self.netuid;
        self.wait("the subnet's keys", async {
            let mut found = BTreeMap::new();
            let mut entries = at.storage().iter(address, (netuid,)).await.map_err(|e| e.to_string())?;
            while let Some(entry) = entries.next().await {
                let entry = entry.map_err(|e| e.to_string())?;
                let (_, uid) = entry.key().and_then(|k| k.decode()).map_err(|e| e.to_string())?;
                let key = entry.value().decode().map_err(|e| e.to_string())?;
                found.insert(uid, Hotkey(key));
            }
            Ok::<_, String>(found)
        })
    }

    /// Stake of each hotkey in the subnet's own token, in units of 1e-9.
    fn stakes<'a>(
        &self,
        at: &AtBlock,
        hotkeys: impl Iterator<Item = &'a Hotkey>,
    ) -> Result<BTreeMap<Hotkey, u64>, Report> {
        let netuid = self.netuid;
        let mut stakes = BTreeMap::new();
        for hotkey in hotkeys {
            let address = dynamic::storage::<([u8; 32], u16), u64>(PALLET, "TotalHotkeyAlpha");
            let value = self.wait("a stake", async { at.storage().try_fetch(address, (hotkey.0, netuid)).await })?;
            stakes.insert(*hotkey, value.map(|v| v.decode().again("a stake")).transpose()?.unwrap_or(0));
        }
        Ok(stakes)
    }

    /// What each hotkey has committed as its bucket's address.
    fn buckets(&self, at: &AtBlock) -> Result<BTreeMap<Hotkey, String>, Report> {
        let address = dynamic::storage::<(u16, [u8; 32]), dynamic::Value>("Commitments", "CommitmentOf");
        let netuid = self.netuid;
        self.wait("the bucket commitments", async {
            let mut found = BTreeMap::new();
            let mut entries = at.storage().iter(address, (netuid,)).await.map_err(|e| e.to_string())?;
            while let Some(entry) = entries.next().await {
                let entry = entry.map_err(|e| e.to_string())?;
                let (_, hotkey) = entry.key().and_then(|k| k.decode()).map_err(|e| e.to_string())?;
                // One neuron's odd commitment is its own affair.
                if let Ok(value) = entry.value().decode()
                    && let Some(text) = raw_text(&value)
                {
                    found.insert(Hotkey(hotkey), text);
                }
            }
            Ok::<_, String>(found)
        })
    }
}

/// The bytes of the first `RawN` field anywhere inside a commitment, as text.
fn raw_text(value: &dynamic::Value) -> Option<String> {
    use subxt::ext::scale_value::{Composite, ValueDef};
    let values = |composite: &Composite<()>| composite.values().cloned().collect::<Vec<_>>();
    match &value.value {
        ValueDef::Variant(variant) if variant.name.starts_with("Raw") || variant.name == "BigRaw" => {
            let mut bytes = Vec::new();
            collect_bytes(&values(&variant.values), &mut bytes)?;
            String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
        }
        ValueDef::Variant(variant) => values(&variant.values).iter().find_map(raw_text),
        ValueDef::Composite(composite) => values(composite).iter().find_map(raw_text),
        _ => None,
    }
}

fn collect_bytes(values: &[dynamic::Value], bytes: &mut Vec<u8>) -> Option<()> {
    use subxt::ext::scale_value::{Primitive, ValueDef};
    for value in values {
        match &value.value {
            ValueDef::Primitive(Primitive::U128(byte)) if bytes.len() < BUCKET_CAP => {
                bytes.push(u8::try_from(*byte).ok()?);
            }
            ValueDef::Composite(inner) => {
                collect_bytes(&inner.values().cloned().collect::<Vec<_>>(), bytes)?;
            }
            _ => return None,
        }
    }
    Some(())
}
