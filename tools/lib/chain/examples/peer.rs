//! A line in, a line out: what scripts/peer_chain.py holds against the Python SDK and drand's own library.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use chain::{
    Subnet,
    calls::payload,
    epochs::Epochs,
    timelock::{Beacon, open},
    weights::{Sealed, quantise},
};
use record::{Hotkey, Uid};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Quantise { uids: Vec<u16>, weights: Vec<f64>, max_share: u16, own: Option<u16> },
    Seal { public: String, round: u64, content: String },
    Payload { hotkey: Hotkey, uids: Vec<u16>, values: Vec<u16>, version_key: u64 },
    Open { sealed: String, signature: String },
    Reveal { last: u64, pending: u64, index: u64, since: u64, tempo: u64, now: u64, period: u64 },
    Commitment { hotkey: Hotkey, netuid: u16, mechanism: u8, sealed: Sealed },
}

fn main() {
    for line in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&line.unwrap()).unwrap() {
            Ask::Quantise { uids, weights, max_share, own } => {
                let uids: Vec<Uid> = uids.into_iter().map(Uid).collect();
                json!(quantise(&uids, &weights, max_share, own.map(Uid)))
            }
            Ask::Seal { public, round, content } => {
                let beacon = Beacon { public: hex::decode(public).unwrap(), period: 3, genesis: 0 };
                json!(hex::encode(beacon.seal(round, &hex::decode(content).unwrap()).unwrap()))
            }
            Ask::Payload { hotkey, uids, values, version_key } => {
                let uids: Vec<Uid> = uids.into_iter().map(Uid).collect();
                json!(hex::encode(payload(hotkey, &uids, &values, version_key).bytes()))
            }
            Ask::Open { sealed, signature } => {
                json!(open(&hex::decode(sealed).unwrap(), &hex::decode(signature).unwrap()).map(hex::encode))
            }
            Ask::Reveal { last, pending, index, since, tempo, now, period } => {
                json!(Epochs::Kept { last, pending, index, since, tempo }.reveal(now, period))
            }
            Ask::Commitment { hotkey, netuid, mechanism, sealed } => {
                json!(sealed.hash(hotkey, Subnet { netuid, mechanism }))
            }
        };
        println!("{answer}");
    }
}
