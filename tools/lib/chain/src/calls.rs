//! The calls that this suite makes, by name and in the metadata's own types: signed elsewhere, or only shown.

use crate::{
    subnet::{PALLET, Subnet},
    timelock::Payload,
    weights::Sealed,
};
use record::{Hash, Hotkey, Report, Uid};
use subxt::{
    dynamic::{self, Value},
    ext::{codec::Encode, frame_decode::extrinsics::encode_call_data},
    metadata::Metadata,
    transactions::DynamicPayload,
};

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its pallet.
    pub pallet: &'static str,
    /// Its name.
    pub name: String,
    args: Vec<Value>,
    /// What its bytes have to begin with, whatever a node's metadata says: pallet and call, and of what a coldkey signs
    /// all. A node that lies about an index has us sign another call than the one that is named.
    begins: Vec<u8>,
}

/// The calls of this suite by pallet and number. Source: Subtensor's `construct_runtime!` and `call_index`, spec 365 to
/// 425.
const INDICES: [(&str, &str, [u8; 2]); 11] = [
    (PALLET, "set_weights", [7, 0]),
    (PALLET, "burned_register", [7, 7]),
    (PALLET, "commit_weights", [7, 96]),
    (PALLET, "reveal_weights", [7, 97]),
    (PALLET, "commit_timelocked_weights", [7, 113]),
    (PALLET, "commit_mechanism_weights", [7, 115]),
    (PALLET, "reveal_mechanism_weights", [7, 116]),
    (PALLET, "commit_timelocked_mechanism_weights", [7, 118]),
    (PALLET, "set_mechanism_weights", [7, 119]),
    (PALLET, "register_limit", [7, 134]),
    ("Commitments", "set_commitment", [18, 0]),
];

fn list(items: &[u16]) -> Value {
    Value::unnamed_composite(items.iter().map(|item| Value::u128((*item).into())))
}

impl Call {
    /// Any call, for chains that have more.
    pub fn new(pallet: &'static str, name: impl Into<String>, args: Vec<Value>) -> Self {
        let name = name.into();
        let known = INDICES.iter().find(|(of, call, _)| *of == pallet && *call == name);
        let begins = known.map_or_else(Vec::new, |(.., index)| index.to_vec());
        Call { pallet, name, args, begins }
    }

    pub(crate) fn payload(&self) -> DynamicPayload<Vec<Value>> {
        dynamic::transaction(self.pallet, self.name.clone(), self.args.clone())
    }

    /// The call's bytes on a chain of this metadata.
    ///
    /// # Errors
    /// Exit code 78 when the chain has no such call, it takes other arguments, or it has another number than
    /// Subtensor's.
    pub fn bytes(&self, metadata: &Metadata) -> Result<Vec<u8>, Report> {
        let bytes = encode_call_data(self.pallet, &self.name, &self.args, metadata, metadata.types()).map_err(|e| {
            Report::config(format!("{}.{}: {e}", self.pallet, self.name)).hint("this chain takes no such call")
        })?;
        self.is_itself(&bytes)?;
        Ok(bytes)
    }

    /// That these bytes are this call.
    fn is_itself(&self, bytes: &[u8]) -> Result<(), Report> {
        // Two bytes are the call's number alone, more are all of it.
        let itself = bytes.starts_with(&self.begins) && (self.begins.len() <= 2 || bytes.len() == self.begins.len());
        if itself {
            return Ok(());
        }
        let (ours, theirs) = (hex::encode(&self.begins), hex::encode(bytes.get(..self.begins.len()).unwrap_or(bytes)));
        Err(Report::config(format!(
            "{}.{}: the node's metadata makes it 0x{theirs}, on Bittensor it is 0x{ours}: nothing is signed",
            self.pallet, self.name
        ))
        .hint("the node lies, or the chain was changed: ask another node, or take a newer version of this suite"))
    }

    /// A call about the weights of a subnet; `named` is what its mechanisms have in place of it.
    fn about(subnet: Subnet, plain: &str, named: &str, rest: Vec<Value>) -> Self {
        let mut args = vec![Value::u128(subnet.netuid.into())];
        if subnet.mechanism > 0 {
            args.push(Value::u128(subnet.mechanism.into()));
        }
        args.extend(rest);
        Call::new(PALLET, if subnet.mechanism > 0 { named } else { plain }, args)
    }

    /// Plain weights.
    pub fn set_weights(subnet: Subnet, uids: &[Uid], values: &[u16], version_key: u64) -> Self {
        let uids: Vec<u16> = uids.iter().map(|uid| uid.0).collect();
        let rest = vec![list(&uids), list(values), Value::u128(version_key.into())];
        Call::about(subnet, "set_weights", "set_mechanism_weights", rest)
    }

    /// Commit to weights by their hash.
    pub fn commit_weights(subnet: Subnet, hash: Hash) -> Self {
        Call::about(subnet, "commit_weights", "commit_mechanism_weights", vec![Value::from_bytes(hash.0)])
    }

    /// Reveal what was committed to by its hash.
    pub fn reveal_weights(subnet: Subnet, sealed: &Sealed) -> Self {
        let rest =
            vec![list(&sealed.uids), list(&sealed.values), list(&sealed.salt), Value::u128(sealed.version_key.into())];
        Call::about(subnet, "reveal_weights", "reveal_mechanism_weights", rest)
    }

    /// Commit to weights that the chain reveals at a round of its beacon; see [`Payload`].
    pub fn commit_timelocked(subnet: Subnet, sealed: &[u8], round: u64, version: u16) -> Self {
        let rest = vec![Value::from_bytes(sealed), Value::u128(round.into()), Value::u128(version.into())];
        Call::about(subnet, "commit_timelocked_weights", "commit_timelocked_mechanism_weights", rest)
    }

    /// Register a hotkey by burning TAO of the coldkey that signs, whatever a place costs: for a chain of one machine.
    pub fn register(netuid: u16, hotkey: Hotkey) -> Self {
        let args = vec![Value::u128(netuid.into()), Value::from_bytes(hotkey.0)];
        Call::new(PALLET, "burned_register", args).with(&(netuid, hotkey.0).encode())
    }

    /// The call with these bytes behind its number, and no others.
    fn with(mut self, args: &[u8]) -> Self {
        self.begins.extend_from_slice(args);
        self
    }

    /// The same, if a place costs no more than `limit` rao in the very block that takes it. Chains from spec 423 on
    /// have it.
    pub fn register_limit(netuid: u16, hotkey: Hotkey, limit: u64) -> Self {
        let args = vec![Value::u128(netuid.into()), Value::from_bytes(hotkey.0), Value::u128(limit.into())];
        Call::new(PALLET, "register_limit", args).with(&(netuid, hotkey.0, limit).encode())
    }

    /// Whether a chain of this metadata has the call.
    pub(crate) fn is_known(&self, metadata: &Metadata) -> bool {
        metadata.pallet_by_name(self.pallet).and_then(|pallet| pallet.call_variant_by_name(&self.name)).is_some()
    }

    /// Set the own entry to these raw fields, whatever was there; see [`crate::commitments::Entry::fields`].
    pub fn set_commitment<'a>(netuid: u16, fields: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let raw = |part: &[u8]| Value::unnamed_variant(format!("Raw{}", part.len()), [Value::from_bytes(part)]);
        let fields = Value::unnamed_composite(fields.into_iter().map(raw));
        let info = Value::named_composite([("fields", Value::unnamed_composite([fields]))]);
        Call::new("Commitments", "set_commitment", vec![Value::u128(netuid.into()), info])
    }
}

/// What a timelocked commit seals.
pub fn payload(hotkey: Hotkey, uids: &[Uid], values: &[u16], version_key: u64) -> Payload {
    Payload { hotkey, uids: uids.iter().map(|uid| uid.0).collect(), values: values.to_vec(), version_key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_under_another_number_is_not_signed() {
        let call = Call::register_limit(3, Hotkey([9; 32]), 500);
        let good = [&[7, 134, 3, 0][..], &[9; 32], &500u64.to_le_bytes()].concat();
        call.is_itself(&good).unwrap();
        // Another call, another hotkey, another limit, something behind it.
        for (place, byte) in [(1, 71), (0, 5), (4, 8), (36, 0)] {
            let mut wrong = good.clone();
            wrong[place] = byte;
            let report = call.is_itself(&wrong).unwrap_err();
            assert!(report.code == record::Code::Config && report.error.contains("nothing is signed"), "{report}");
        }
        assert!(call.is_itself(&[&good[..], &[0]].concat()).is_err());
        assert!(call.is_itself(&good[..10]).is_err() && call.is_itself(&[]).is_err());
        // Of what a hotkey signs the number is held.
        let weights = Call::set_weights(Subnet { netuid: 1, mechanism: 0 }, &[Uid(0)], &[1], 0);
        assert!(weights.is_itself(&[7, 0, 1, 0, 4]).is_ok() && weights.is_itself(&[7, 1, 1, 0, 4]).is_err());
        let bucket = Call::set_commitment(1, [&b"https://s3.example.org/m7"[..]]);
        assert!(bucket.is_itself(&[18, 0, 1]).is_ok() && bucket.is_itself(&[18, 1, 1]).is_err());
        // Calls that this suite does not know by number are for chains of one machine.
        assert!(Call::new("Sudo", "sudo", Vec::new()).is_itself(&[12, 0]).is_ok());
    }
}
