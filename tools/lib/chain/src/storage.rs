//! Reading the chain's storage by what its own metadata says of an entry: its keys, its type, its default.
//!
//! What cannot be asked for now is exit code 75. What a chain has in a form that this suite does not know stays so
//! until one of the two is upgraded: exit code 78, with the version of the chain's runtime.

use crate::{
    answer::{OF_SPEC, prefixed},
    client::{AtBlock, Chain, PAGE},
    subnet::PALLET,
};
use record::{Context, Hash, Report};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Display};
use subxt::{dynamic, ext::scale_decode::DecodeAsType, rpcs::client::rpc_params, storage::Address};

/// The versions of Subtensor's runtime whose storage this suite reads: the first with `WeightsMinStake`, the last that
/// was read.
const KNOWN: (u32, u32) = (212, 425);

/// This chain has something in a form that is not known.
pub(crate) fn foreign(at: &AtBlock, what: &str, why: impl Display) -> Report {
    let (first, last) = KNOWN;
    let spec = at.spec_version();
    Report::config(format!("{what}: {OF_SPEC} {spec}, this suite knows {first} to {last}; {why}"))
        .hint("a newer version of this suite knows newer chains; bz-chain doctor shows what can be read")
}

/// How many keys an entry of SubtensorModule has on this chain; `None` where there is no such entry.
pub(crate) fn keys_of(at: &AtBlock, entry: &str) -> Option<usize> {
    let metadata = at.metadata();
    let storage = metadata.pallet_by_name(PALLET).and_then(|p| p.storage());
    storage.and_then(|s| s.entry_by_name(entry)).map(|e| e.keys().len())
}

/// Whether this chain has an entry of SubtensorModule.
pub(crate) fn has(at: &AtBlock, entry: &str) -> bool {
    keys_of(at, entry).is_some()
}

impl Chain {
    fn fetch<A: Address>(
        &self,
        at: &AtBlock,
        address: A,
        keys: A::KeyParts,
        default: bool,
    ) -> Result<Option<A::Value>, Report>
    where
        A::KeyParts: Clone,
    {
        let name = address.entry_name().to_string();
        let entry = at.storage().entry(address).map_err(|e| foreign(at, &name, e))?;
        // Keys of another number or type are no trouble of the node's.
        entry.fetch_key(keys.clone()).map_err(|e| foreign(at, &name, e))?;
        let value = self.wait(&name, async { entry.try_fetch(keys).await })?;
        let value = if default { value.or_else(|| entry.default_value()) } else { value };
        value.map(|v| v.decode().map_err(|e| foreign(at, &name, e))).transpose()
    }

    /// A value, `None` where it is not set.
    pub(crate) fn value<A: Address>(
        &self,
        at: &AtBlock,
        address: A,
        keys: A::KeyParts,
    ) -> Result<Option<A::Value>, Report>
    where
        A::KeyParts: Clone,
    {
        self.fetch(at, address, keys, false)
    }

    /// A value, or the chain's own default where none was set.
    pub(crate) fn value_or_default<A: Address>(
        &self,
        at: &AtBlock,
        address: A,
        keys: A::KeyParts,
    ) -> Result<A::Value, Report>
    where
        A::KeyParts: Clone,
    {
        let name = address.entry_name().to_string();
        let value = self.fetch(at, address, keys, true)?;
        value.ok_or_else(|| foreign(at, &name, "it is not set and has no default"))
    }

    /// One value of SubtensorModule under a netuid, `None` where it is not set.
    pub(crate) fn of_subnet<T: DecodeAsType + 'static>(&self, at: &AtBlock, entry: &str) -> Result<Option<T>, Report> {
        self.value(at, dynamic::storage::<(u16,), T>(PALLET, entry), (self.subnet.netuid,))
    }

    /// One value of SubtensorModule under a mechanism of the subnet.
    pub(crate) fn of_mechanism<T: DecodeAsType + 'static>(
        &self,
        at: &AtBlock,
        entry: &str,
    ) -> Result<Option<T>, Report> {
        self.value(at, dynamic::storage::<(u16,), T>(PALLET, entry), (self.index(),))
    }

    /// A value of the subnet, or the chain's own default where none was set.
    pub(crate) fn or_default<T: DecodeAsType + 'static>(&self, at: &AtBlock, entry: &str) -> Result<T, Report> {
        self.value_or_default(at, dynamic::storage::<(u16,), T>(PALLET, entry), (self.subnet.netuid,))
    }

    /// A value that the chain has once, or its default.
    pub(crate) fn item<T: DecodeAsType + 'static>(&self, at: &AtBlock, pallet: &str, entry: &str) -> Result<T, Report> {
        self.value_or_default(at, dynamic::storage::<(), T>(pallet, entry), ())
    }

    /// Where the weights of the subnet's mechanism are kept.
    pub(crate) fn index(&self) -> u16 {
        self.subnet.storage_index()
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
        let held = at.storage().entry(address).map_err(|e| foreign(at, entry, e))?;
        let keys: Vec<String> = keys
            .into_iter()
            .map(|key| held.fetch_key(key).map(|bytes| format!("0x{}", hex::encode(bytes))))
            .collect::<Result<_, _>>()
            .map_err(|e| foreign(at, entry, e))?;
        let metadata = at.metadata();
        let kind = metadata.pallet_by_name(PALLET).and_then(|p| p.storage()).and_then(|s| s.entry_by_name(entry));
        let kind = kind.map(|e| e.value_ty()).ok_or_else(|| foreign(at, entry, "there is no such entry"))?;
        let mut found = BTreeMap::new();
        for some in keys.chunks(PAGE as usize) {
            found.append(&mut self.raw_values(Hash(at.block_hash().0), some).map_err(|e| e.at(entry))?);
        }
        let decode = |bytes: &Vec<u8>| {
            A::Value::decode_as_type(&mut &bytes[..], kind, metadata.types()).map_err(|e| foreign(at, entry, e))
        };
        keys.iter().map(|key| found.get(key).and_then(Option::as_ref).map(decode).transpose()).collect()
    }

    /// The bytes at some keys. An answer that leaves one out is not believed: a node says of each key what is there.
    pub(crate) fn raw_values(&self, block: Hash, keys: &[String]) -> Result<BTreeMap<String, Option<Vec<u8>>>, Report> {
        let answer = self.request("state_queryStorageAt", rpc_params![keys, prefixed(block)])?;
        answered(&answer, keys)
    }

    /// That there is such a subnet, and such a mechanism of it.
    ///
    /// # Errors
    /// Exit code 78 when there is not.
    pub(crate) fn exists(&self, at: &AtBlock) -> Result<(), Report> {
        let (netuid, mechanism) = (self.subnet.netuid, self.subnet.mechanism);
        if self.of_subnet::<bool>(at, "NetworksAdded")? != Some(true) {
            return Err(
                Report::config(format!("there is no subnet {netuid} on this chain")).hint("--netuid or BZ_NETUID")
            );
        }
        if mechanism == 0 {
            return Ok(());
        }
        let count: u8 =
            if has(at, "MechanismCountCurrent") { self.or_default(at, "MechanismCountCurrent")? } else { 1 };
        if mechanism >= count {
            return Err(Report::config(format!("subnet {netuid} has no mechanism {mechanism}, it has {count}"))
                .hint("--mechanism counts from 0"));
        }
        Ok(())
    }

    /// That there is such a subnet, and such a mechanism of it, now.
    ///
    /// # Errors
    /// Exit code 78 when there is not, 75 when the node does not answer.
    pub fn must_exist(&self) -> Result<(), Report> {
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        self.exists(&at)
    }
}

/// What a node says of each key: nothing there, or these bytes.
fn answered(answer: &Value, keys: &[String]) -> Result<BTreeMap<String, Option<Vec<u8>>>, Report> {
    let wrong = || Report::again("the node answers with something else").hint("--network takes several nodes");
    let changes = answer.pointer("/0/changes").and_then(Value::as_array).ok_or_else(wrong)?;
    let mut found = BTreeMap::new();
    for change in changes {
        let key = change.get(0).and_then(Value::as_str).ok_or_else(wrong)?;
        let bytes = match change.get(1) {
            Some(Value::String(value)) => {
                Some(hex::decode(value.strip_prefix("0x").unwrap_or(value)).again("what the node answers")?)
            }
            Some(Value::Null) => None,
            _ => return Err(wrong()),
        };
        found.insert(key.to_string(), bytes);
    }
    let missing = keys.iter().filter(|key| !found.contains_key(*key)).count();
    if missing > 0 {
        return Err(Report::again(format!("the node answers for {} of {} keys", keys.len() - missing, keys.len()))
            .hint("--network takes several nodes"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Code;
    use serde_json::json;

    #[test]
    fn a_node_that_answers_with_nothing_is_not_believed() {
        let keys = ["0x01".to_string(), "0x02".to_string()];
        let whole = json!([{"block": "0x00", "changes": [["0x01", "0x0aff"], ["0x02", null]]}]);
        let found = answered(&whole, &keys).unwrap();
        assert_eq!(found["0x01"].as_deref(), Some(&[10, 255][..]));
        assert_eq!(found["0x02"], None);
        for nothing in [
            json!([]),
            json!(null),
            json!([{"block": "0x00", "changes": []}]),
            json!([{"block": "0x00", "changes": [["0x01", "0x0aff"]]}]),
            json!([{"block": "0x00", "changes": [["0x01", 7], ["0x02", null]]}]),
            json!([{"block": "0x00", "changes": [["0x01", "0xzz"], ["0x02", null]]}]),
        ] {
            assert_eq!(answered(&nothing, &keys).unwrap_err().code, Code::Again, "{nothing}");
        }
    }

    #[test]
    fn a_hash_goes_out_with_its_prefix() {
        assert_eq!(prefixed(Hash([0xab; 32])), format!("0x{}", "ab".repeat(32)));
    }
}
