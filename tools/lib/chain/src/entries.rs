//! The entries of a subnet's hotkeys at one block, read of the nodes or of what a follower wrote down: who has which
//! bucket, who committed to what, who votes for what. Everybody who reads them at a finalized block sees the same.

use crate::{
    agreed::Told,
    answer::prefixed,
    client::{AtBlock, Chain, PAGE},
    commitments::Entry,
    storage::foreign,
    values::raw_fields,
};
use record::{Hash, Hotkey, Report};
use run::Hparams;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use subxt::{
    dynamic::{self, Value},
    ext::scale_decode::DecodeAsType,
    rpcs::client::rpc_params,
};

pub(crate) const COMMITMENTS: &str = "Commitments";
const ENTRY: &str = "CommitmentOf";
/// An endless list is none of a chain's: hotkeys that were replaced keep their entries, so that there may be more than
/// the subnet has places.
const ENTRIES: usize = 1 << 16;
/// Nor are endless bytes: of one entry, and of all.
const ENTRY_BYTES: usize = 16 << 10;
/// See [`ENTRY_BYTES`].
const ALL_BYTES: usize = 64 << 20;

/// The blocks at which a window's entries count: that of its commitments, and that of its tally.
pub fn entry_blocks(hparams: &Hparams, window: record::Window) -> [u64; 2] {
    let moments = hparams.moments(window);
    [moments.commit, moments.state]
}

impl Chain {
    /// The entries of all hotkeys of the subnet as of a block, of this number and hash. They come from the facts where a
    /// follower has them, and else of the nodes, which have to agree.
    ///
    /// # Errors
    /// Exit code 75 when no node answers, they do not agree, or neither a follower nor a node has kept that block's
    /// state; 78 when there is no such subnet, or the chain keeps what this suite does not read.
    pub fn entries_at(&self, number: u64, block: Hash) -> Result<BTreeMap<Hotkey, Entry>, Report> {
        if let Some(entries) = self.facts.as_ref().and_then(|facts| facts.entries(number, block)) {
            return Ok(entries);
        }
        match self.told_of(number, block, || self.entries(block)) {
            Ok(Told::Same(entries)) => Ok(entries),
            Ok(Told::Differ(one, other)) => {
                Err(Report::again(format!("{one} and {other} tell other entries of block {number}"))
                    .hint("one of them lies, or reads another chain: leave it out of --network"))
            }
            Err(report) if Chain::forgotten(&report) => Err(Report::again(format!(
                "the entries of block {number} cannot be read any more: no node that was asked has kept its state ({})",
                report.error
            ))
            .hint(
                "a node keeps the states of 256 blocks, an archive node all of them: --network names one beside others",
            )
            .hint("bz-window --follow writes down those of each window at their time")),
            Err(report) => Err(report),
        }
    }

    /// The entry of one hotkey as of the last finalized block that the node has.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when the chain keeps what this suite does not read.
    pub fn entry_of(&self, hotkey: Hotkey) -> Result<Entry, Report> {
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        self.exists(&at)?;
        let address = dynamic::storage::<(u16, [u8; 32]), Value>(COMMITMENTS, ENTRY);
        let value = self.value(&at, address, (self.subnet.netuid, hotkey.0))?;
        Ok(value.as_ref().map(read_value).unwrap_or_default())
    }

    /// The entries of all hotkeys as one node tells them. A subnet that is not there has none, and is an error: an empty
    /// answer is never that of a node that has forgotten.
    pub(crate) fn entries(&self, block: Hash) -> Result<BTreeMap<Hotkey, Entry>, Report> {
        let at = self.at(block)?;
        self.exists(&at)?;
        self.entries_in(&at)
    }

    /// The same where the subnet is known to be there.
    pub(crate) fn entries_in(&self, at: &AtBlock) -> Result<BTreeMap<Hotkey, Entry>, Report> {
        let netuid = self.subnet.netuid;
        let address = dynamic::storage::<(u16, [u8; 32]), Value>(COMMITMENTS, ENTRY);
        let entry = at.storage().entry(address).map_err(|e| foreign(at, ENTRY, e))?;
        let prefix = entry.iter_key((netuid,)).map_err(|e| foreign(at, ENTRY, e))?;
        let metadata = at.metadata();
        let kind = metadata.pallet_by_name(COMMITMENTS).and_then(|pallet| pallet.storage());
        let kind = kind.and_then(|storage| storage.entry_by_name(ENTRY)).map(|entry| entry.value_ty());
        let kind = kind.ok_or_else(|| foreign(at, ENTRY, "there is no such entry"))?;
        let block = Hash(at.block_hash().0);
        let (mut found, mut bytes, mut last) = (BTreeMap::new(), 0, None::<Vec<u8>>);
        loop {
            let keys = self.keys_page(block, &prefix, last.as_deref())?;
            let Some(newest) = keys.last().cloned() else { return Ok(found) };
            let texts: Vec<String> = keys.iter().map(|key| format!("0x{}", hex::encode(key))).collect();
            let mut values = self.raw_values(block, &texts).map_err(|e| e.at(ENTRY))?;
            for (key, text) in keys.iter().zip(&texts) {
                let hotkey = Hotkey(*key.last_chunk().ok_or_else(|| strange("a key that is too short"))?);
                let own = entry.fetch_key((netuid, hotkey.0)).map_err(|e| foreign(at, ENTRY, e))?;
                let value = values.remove(text).flatten().filter(|value| value.len() <= ENTRY_BYTES);
                let (true, Some(value)) = (own == *key, value) else {
                    return Err(strange("a key that is none, or has no value, or a great one"));
                };
                bytes += value.len();
                if found.len() == ENTRIES || bytes > ALL_BYTES {
                    return Err(strange("more entries than there can be"));
                }
                let mut rest = value.as_slice();
                let decoded = Value::decode_as_type(&mut rest, kind, metadata.types());
                let decoded = decoded.map_err(|e| foreign(at, ENTRY, e))?;
                if !rest.is_empty() {
                    return Err(foreign(at, ENTRY, format!("{} bytes stand behind an entry", rest.len())));
                }
                found.insert(hotkey, read_value(&decoded));
            }
            last = Some(newest);
        }
    }

    /// The next keys behind one.
    fn keys_page(&self, block: Hash, prefix: &[u8], last: Option<&[u8]>) -> Result<Vec<Vec<u8>>, Report> {
        let text = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
        let params = rpc_params![text(prefix), PAGE, last.map(text), prefixed(block)];
        let answer = self.request("state_getKeysPaged", params)?;
        page(&answer, prefix, last).ok_or_else(|| strange("keys that are not those that were asked for"))
    }
}

fn strange(what: &str) -> Report {
    Report::again(format!("{ENTRY}: the node answers with {what}")).hint("--network takes several nodes")
}

/// The keys of a page: no more than were asked for, under the prefix, each behind the one before, so that a node that
/// repeats itself is no endless list.
fn page(answer: &Json, prefix: &[u8], last: Option<&[u8]>) -> Option<Vec<Vec<u8>>> {
    let keys = answer.as_array().filter(|keys| keys.len() <= PAGE as usize)?;
    let mut found: Vec<Vec<u8>> = Vec::with_capacity(keys.len());
    for key in keys {
        let key = hex::decode(key.as_str()?.strip_prefix("0x")?).ok()?;
        let before = found.last().map(Vec::as_slice).or(last);
        if !key.starts_with(prefix) || key.len() > prefix.len() + 64 || before.is_some_and(|before| before >= &key[..])
        {
            return None;
        }
        found.push(key);
    }
    Some(found)
}

/// One neuron's odd entry is its own affair: the reason says what it is.
fn read_value(value: &Value) -> Entry {
    let mut fields = Vec::new();
    match raw_fields(value, &mut fields) {
        Some(()) => Entry::read(&fields),
        None => Entry { reason: Some("a field is longer than 1,024 bytes".into()), ..Entry::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_lists_keys_without_end_is_not_believed() {
        let of = |answer: Json, last: Option<&[u8]>| page(&answer, &[0xab, 1], last);
        assert_eq!(of(json!(["0xab0101", "0xab0102"]), None), Some(vec![vec![0xab, 1, 1], vec![0xab, 1, 2]]));
        assert_eq!(of(json!([]), Some(&[0xab, 1, 2])), Some(Vec::new()));
        let behind: &[u8] = &[0xab, 1, 2];
        assert!(of(json!(["0xab0103"]), Some(behind)).is_some());
        for wrong in [
            json!(["0xab0102"]),
            json!(["0xab0101"]),
            json!(["0xab0103", "0xab0103"]),
            json!(["0xab0104", "0xab0103"]),
            json!(["0xac0103"]),
            json!(["ab0103"]),
            json!(["0xzz"]),
            json!([7]),
            json!({"0": "0xab0103"}),
            json!(null),
            json!([format!("0xab01{}", "00".repeat(65))]),
        ] {
            assert_eq!(of(wrong.clone(), Some(behind)), None, "{wrong}");
        }
        let many = |count: u32| json!((0..count).map(|n| format!("0xab01{n:08x}")).collect::<Vec<_>>());
        assert_eq!(of(many(PAGE), None).unwrap().len(), PAGE as usize);
        assert_eq!(of(many(PAGE + 1), None), None, "more than were asked for");
    }
}
