//! What the subnet is set to, by its owner or by root.

use crate::{Place, connect, print, root_wallet, running, runtime, subtensor};
use chain::{Call, Chain, Signer};
use codec::Encode;
use record::{Report, files};
use serde_json::json;
use std::path::Path;
use subxt::dynamic::Value;

/// Make the subnet at the first start: short epochs, small minimums; weights by commit and reveal, as everywhere.
pub fn set_up_subnet(dir: &Path, place: &Place) -> Result<(), Report> {
    let done = dir.join("subnet.json");
    if done.exists() {
        return Ok(());
    }
    let chain = connect(place)?;
    let root = root_wallet(dir);
    let (cold, hot) = (root.open_coldkey()?, root.open()?.hotkey());
    let sign = |message: &[u8]| cold.sign(message);
    let signer = Signer { account: cold.hotkey(), sign: &sign };
    if chain.uid_of(hot)?.is_none() {
        let call = Call::new("SubtensorModule", "register_network", vec![Value::from_bytes(hot.0)]);
        chain.submit(&call, &signer)?;
    }
    let settings = [
        ("weights_set_rate_limit", Value::u128(8)),
        ("min_allowed_weights", Value::u128(1)),
        ("tempo", Value::u128(5)),
        ("max_allowed_uids", Value::u128(256)),
    ];
    for (name, value) in settings {
        sudo_set(&chain, name, value, &signer)?;
    }
    files::write_json(&done, &json!({"netuid": place.netuid}))
}

fn sudo_set(chain: &Chain, name: &str, value: Value, signer: &Signer<'_>) -> Result<(), Report> {
    let mut args = vec![Value::u128(chain.subnet.netuid.into()), value];
    // Two are the whole chain's.
    if ["stake_threshold", "commit_reveal_version"].contains(&name) {
        args.remove(0);
    }
    let inner = Value::unnamed_variant(format!("sudo_set_{name}"), args);
    let call = Value::unnamed_variant("AdminUtils", [inner]);
    chain.submit(&Call::new("Sudo", "sudo", vec![call]), signer).map(drop)
}

/// What stake in the root network counts: the chain has no call for it, so root writes it where it is kept.
fn set_tao_weight(chain: &Chain, weight: u64, signer: &Signer<'_>) -> Result<(), Report> {
    let key = Value::from_bytes(subtensor::TaoWeight::<runtime::Runtime>::hashed_key());
    let item = Value::unnamed_composite([key, Value::from_bytes(weight.encode())]);
    let inner = Value::unnamed_variant("set_storage", [Value::unnamed_composite([item])]);
    let call = Value::unnamed_variant("System", [inner]);
    chain.submit(&Call::new("Sudo", "sudo", vec![call]), signer).map(drop)
}

pub fn set(dir: &Path, name: &str, value: &str) -> Result<(), Report> {
    let parsed = match value {
        "true" => Value::bool(true),
        "false" => Value::bool(false),
        number => Value::u128(
            number
                .parse()
                .map_err(|_| Report::usage(format!("{number:?} is no value")).hint("a number, true or false"))?,
        ),
    };
    let place = running(dir)?;
    let chain = connect(&place)?;
    let cold = root_wallet(dir).open_coldkey()?;
    let sign = |message: &[u8]| cold.sign(message);
    let signer = Signer { account: cold.hotkey(), sign: &sign };
    if name == "max_space" {
        let inner = Value::unnamed_variant("set_max_space", [parsed]);
        let call = Value::unnamed_variant("Commitments", [inner]);
        chain.submit(&Call::new("Sudo", "sudo", vec![call]), &signer)?;
    } else if name == "tao_weight" {
        let weight = value.parse().map_err(|_| Report::usage(format!("tao_weight {value}: 0 to {}", u64::MAX)))?;
        set_tao_weight(&chain, weight, &signer)?;
    } else {
        sudo_set(&chain, name, parsed, &signer).map_err(|e| e.hint("bz-chain hyperparameters prints what there is"))?;
    }
    print("setting", vec![("set", json!(name)), ("value", json!(value))])
}
