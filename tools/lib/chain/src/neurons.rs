//! The neurons of a subnet at one block: one consistent view, since all of it is read at the same block hash.
//!
//! Source of names and types: pallet-subtensor's storage, and pallet-commitments.

use crate::{
    calls::storage_index,
    client::{AtBlock, Chain, PAGE},
};
use record::{Context, Hash, Hotkey, Report, Uid, records::Peer};
use serde_json::Value;
use std::collections::BTreeMap;
use subxt::{dynamic, ext::scale_decode::DecodeAsType, rpcs::client::rpc_params, storage::Address};

pub(crate) const PALLET: &str = "SubtensorModule";
/// Stake is kept in units of 1e-9.
pub(crate) const RAO: f64 = 1e9;
/// The longest bucket address that is read.
const BUCKET_CAP: usize = 1024;

/// Whether this chain has an entry of SubtensorModule.
pub(crate) fn has(at: &AtBlock, entry: &str) -> bool {
    let metadata = at.metadata();
    let storage = metadata.pallet_by_name(PALLET).and_then(|p| p.storage());
    storage.is_some_and(|s| s.entry_by_name(entry).is_some())
}

impl Chain {
    /// One value of SubtensorModule under a netuid, `None` where it is not set.
    pub(crate) fn of_subnet<T: DecodeAsType + 'static>(&self, at: &AtBlock, entry: &str) -> Result<Option<T>, Report> {
        let address = dynamic::storage::<(u16,), T>(PALLET, entry);
        let netuid = self.subnet.netuid;
        let value = self.wait(entry, async { at.storage().try_fetch(address, (netuid,)).await })?;
        value.map(|v| v.decode().again(entry)).transpose()
    }

    /// One value of SubtensorModule under a mechanism of the subnet.
    pub(crate) fn of_mechanism<T: DecodeAsType + 'static>(
        &self,
        at: &AtBlock,
        entry: &str,
    ) -> Result<Option<T>, Report> {
        let address = dynamic::storage::<(u16,), T>(PALLET, entry);
        let value = self.wait(entry, async { at.storage().try_fetch(address, (self.index(),)).await })?;
        value.map(|v| v.decode().again(entry)).transpose()
    }

    /// Where the weights of the subnet's mechanism are kept.
    pub(crate) fn index(&self) -> u16 {
        storage_index(self.subnet.netuid, self.subnet.mechanism)
    }

    /// The neurons of the subnet as of a block; `own` marks the wallet's.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet.
    pub fn peers(&self, block: Hash, own: Option<Hotkey>) -> Result<Vec<Peer>, Report> {
        let at = self.at(block)?;
        if self.of_subnet::<bool>(&at, "NetworksAdded")? != Some(true) {
            return Err(Report::config(format!("there is no subnet {} on this chain", self.subnet.netuid))
                .hint("--netuid or BZ_NETUID"));
        }
        // Newer chains keep no trust of miners.
        let share = |entry| -> Result<Vec<u16>, Report> {
            Ok(if has(&at, entry) { self.of_subnet(&at, entry)?.unwrap_or_default() } else { Vec::new() })
        };
        let (dividends, trust) = (share("Dividends")?, share("Trust")?);
        let incentive: Vec<u16> = self.of_mechanism(&at, "Incentive")?.unwrap_or_default();
        let permit: Vec<bool> = self.of_subnet(&at, "ValidatorPermit")?.unwrap_or_default();
        let last_update: Vec<u64> = self.of_mechanism(&at, "LastUpdate")?.unwrap_or_default();
        let hotkeys = self.hotkeys(&at)?;
        let buckets = self.buckets(&at)?;
        let keys: Vec<Hotkey> = hotkeys.values().copied().collect();
        let netuid = self.subnet.netuid;
        let of_hotkey = dynamic::storage::<([u8; 32], u16), u64>(PALLET, "TotalHotkeyAlpha");
        let stakes = self.many(&at, of_hotkey, keys.iter().map(|key| (key.0, netuid)).collect())?;
        let owner = dynamic::storage::<([u8; 32],), [u8; 32]>(PALLET, "Owner");
        let owners = self.many(&at, owner, keys.iter().map(|key| (key.0,)).collect())?;
        let block = dynamic::storage::<(u16, u16), u64>(PALLET, "BlockAtRegistration");
        let registered = self.many(&at, block, hotkeys.keys().map(|uid| (netuid, *uid)).collect())?;
        let part = |shares: &[u16], place: usize| f64::from(shares.get(place).copied().unwrap_or(0)) / 65535.0;
        let all = hotkeys.into_iter().enumerate().map(|(order, (uid, hotkey))| {
            let place = usize::from(uid);
            Peer {
                uid: Uid(uid),
                hotkey,
                coldkey: owners.get(order).copied().flatten().map(Hotkey),
                bucket: buckets.get(&hotkey).cloned(),
                stake: stakes.get(order).copied().flatten().unwrap_or(0) as f64 / RAO,
                incentive: part(&incentive, place),
                trust: part(&trust, place),
                dividends: part(&dividends, place),
                permit: permit.get(place).copied().unwrap_or(false),
                last_update: last_update.get(place).copied().unwrap_or(0),
                registered: registered.get(order).copied().flatten().unwrap_or(0),
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
        let netuid = self.subnet.netuid;
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

    /// Values of a map at many keys, some hundred in a request; `None` where the chain keeps none.
    pub(crate) fn many<A: Address>(
        &self,
        at: &AtBlock,
        address: A,
        keys: Vec<A::KeyParts>,
    ) -> Result<Vec<Option<A::Value>>, Report> {
        let entry = address.entry_name().to_string();
        let entry = entry.as_str();
        let held = at.storage().entry(address).again(entry)?;
        let keys: Vec<String> = keys
            .into_iter()
            .map(|key| held.fetch_key(key).map(|bytes| format!("0x{}", hex::encode(bytes))).again(entry))
            .collect::<Result<_, _>>()?;
        let metadata = at.metadata();
        let kind = metadata.pallet_by_name(PALLET).and_then(|p| p.storage()).and_then(|s| s.entry_by_name(entry));
        let kind = kind.map(|e| e.value_ty()).ok_or_else(|| Report::again(format!("the chain has no {entry}")))?;
        let wrong = || Report::again(format!("{entry}: the node answers with something else"));
        let mut found = BTreeMap::new();
        for some in keys.chunks(PAGE as usize) {
            let answer = self.request("state_queryStorageAt", rpc_params![some, Hash(at.block_hash().0)])?;
            let changes = answer.pointer("/0/changes").and_then(Value::as_array).ok_or_else(wrong)?;
            for change in changes {
                if let (Some(key), Some(value)) = (change[0].as_str(), change[1].as_str()) {
                    let bytes = hex::decode(value.trim_start_matches("0x")).map_err(|_| wrong())?;
                    found.insert(key.to_string(), bytes);
                }
            }
        }
        let decode = |bytes: &Vec<u8>| A::Value::decode_as_type(&mut &bytes[..], kind, metadata.types()).again(entry);
        keys.iter().map(|key| found.get(key).map(decode).transpose()).collect()
    }

    /// What each hotkey has committed as its bucket's address.
    fn buckets(&self, at: &AtBlock) -> Result<BTreeMap<Hotkey, String>, Report> {
        let address = dynamic::storage::<(u16, [u8; 32]), dynamic::Value>("Commitments", "CommitmentOf");
        let netuid = self.subnet.netuid;
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

/// The bytes of all `RawN` fields anywhere inside a commitment, one after another, as text.
fn raw_text(value: &dynamic::Value) -> Option<String> {
    let mut bytes = Vec::new();
    raw_fields(value, &mut bytes)?;
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

fn raw_fields(value: &dynamic::Value, bytes: &mut Vec<u8>) -> Option<()> {
    use subxt::ext::scale_value::{Composite, ValueDef};
    let values = |composite: &Composite<()>| composite.values().cloned().collect::<Vec<_>>();
    match &value.value {
        ValueDef::Variant(variant) if variant.name.starts_with("Raw") || variant.name == "BigRaw" => {
            collect_bytes(&values(&variant.values), bytes)
        }
        ValueDef::Variant(variant) => values(&variant.values).iter().try_for_each(|v| raw_fields(v, bytes)),
        ValueDef::Composite(composite) => values(composite).iter().try_for_each(|v| raw_fields(v, bytes)),
        _ => Some(()),
    }
}

pub(crate) fn collect_bytes(values: &[dynamic::Value], bytes: &mut Vec<u8>) -> Option<()> {
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
