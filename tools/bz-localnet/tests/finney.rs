//! The local chain beside Bittensor's main net: same names, indices, hashers, types and defaults.
//!
//! The main net's metadata comes with the crate `bittensor-rs`, which would bring a second Substrate if it were a
//! dependency: it is looked for where cargo keeps what it has fetched, and nothing is fetched here. Without it a part
//! is skipped, and said to be. `cargo info bittensor-rs@0.1.1` fetches it, once.
#![allow(clippy::unwrap_used, clippy::panic)]

use bz_localnet::runtime::Runtime;
use chain::{Call, Subnet, weights::Sealed};
use codec::Encode;
use record::{Hash, Hotkey, Uid};
use scale_info::form::PortableForm;
use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, path::PathBuf};
use subxt::metadata::Metadata;

fn find() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let sources = std::fs::read_dir(home.join("registry/src")).ok()?;
    let mut paths = sources.map(|source| source.unwrap().path().join("bittensor-rs-0.1.1/metadata/finney.scale"));
    paths.find(|path| path.exists())
}

/// The main net's metadata; without it, what is skipped is said on the terminal itself, since cargo keeps a test's
/// words.
fn finney(skipped: &str) -> Option<Metadata> {
    let Some(path) = find() else {
        let text =
            format!("finney: skipped: {skipped}. The main net's metadata is not here: cargo info bittensor-rs@0.1.1\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    };
    Some(Metadata::decode_from(&std::fs::read(path).unwrap()).unwrap())
}

fn ours() -> Metadata {
    Metadata::decode_from(&Vec::<u8>::from(Runtime::metadata())).unwrap()
}

/// How a type is encoded: a struct of one field is that field.
fn shape(metadata: &Metadata, id: u32) -> String {
    let kind = serde_json::to_value(&metadata.types().resolve(id).unwrap().type_def).unwrap();
    let (name, def) = kind.as_object().unwrap().iter().next().unwrap();
    let of = |value: &serde_json::Value| shape(metadata, u32::try_from(value.as_u64().unwrap()).unwrap());
    let fields = |def: &serde_json::Value| -> Vec<String> {
        def["fields"].as_array().into_iter().flatten().map(|field| of(&field["type"])).collect()
    };
    match name.as_str() {
        "composite" => match &fields(def)[..] {
            [one] => one.clone(),
            many => format!("({})", many.join(",")),
        },
        "variant" => {
            let mut all = String::from("<");
            for variant in def["variants"].as_array().into_iter().flatten() {
                let index = variant["index"].as_u64().unwrap_or(0);
                // Kinds of commitments that hold no address, and keys of a newer Substrate.
                if [
                    "BlakeTwo256",
                    "Sha256",
                    "Keccak256",
                    "ShaThree256",
                    "TimelockEncrypted",
                    "ResetBondsFlag",
                    "BigRaw",
                    "Eth",
                ]
                .contains(&variant["name"].as_str().unwrap())
                {
                    continue;
                }
                write!(all, "{}={index}({})", variant["name"].as_str().unwrap(), fields(variant).join(",")).unwrap();
            }
            all + ">"
        }
        "sequence" => format!("[{}]", of(&def["type"])),
        "array" => format!("[{};{}]", of(&def["type"]), def["len"]),
        "tuple" => format!("({})", def.as_array().unwrap().iter().map(of).collect::<Vec<_>>().join(",")),
        "compact" => format!("compact {}", of(&def["type"])),
        _ => def.to_string(),
    }
}

/// What later versions of Subtensor have (spec 423 and on), and those of today's main net do.
const LATER: [&str; 7] = [
    "SubnetEpochConsensus",
    "LastEpochBlock",
    "PendingEpochAt",
    "SubnetEpochIndex",
    "InvalidRevealRound",
    "register_limit",
    "RegistrationPriceLimitExceeded",
];

/// Everything that a pallet says of itself: what it is, how it is encoded.
fn told(metadata: &Metadata, pallet: &str) -> BTreeMap<String, String> {
    let pallet = metadata.pallet_by_name(pallet).unwrap();
    let mut all = BTreeMap::from([("index".to_string(), pallet.call_index().to_string())]);
    for entry in pallet.storage().into_iter().flat_map(|storage| storage.entries()) {
        let keys = entry.keys().map(|key| format!("{:?} {}", key.hasher, shape(metadata, key.key_id)));
        let keys: Vec<String> = keys.collect();
        // The beacon of a local chain is its own.
        let default = entry.default_value().filter(|_| entry.name() != "BeaconConfig");
        let told = format!("{keys:?} -> {} default {default:?}", shape(metadata, entry.value_ty()));
        all.insert(format!("storage {}", entry.name()), told);
    }
    for (kind, variants) in
        [("call", pallet.call_variants()), ("event", pallet.event_variants()), ("error", pallet.error_variants())]
    {
        for variant in variants.into_iter().flatten() {
            let field = |f: &scale_info::Field<PortableForm>| {
                format!("{}: {}", f.name.clone().unwrap_or_default(), shape(metadata, f.ty.id))
            };
            let fields: Vec<String> = variant.fields.iter().map(field).collect();
            all.insert(format!("{kind} {}", variant.name), format!("{} {fields:?}", variant.index));
        }
    }
    all
}

#[test]
fn the_local_chain_is_laid_out_as_the_main_net() {
    let Some(finney) = finney("that the local chain is laid out as the main net") else { return };
    let ours = ours();
    for pallet in ["SubtensorModule", "Commitments", "AdminUtils", "Drand", "Timestamp"] {
        let theirs = told(&finney, pallet);
        for (what, told) in told(&ours, pallet) {
            if LATER.iter().any(|later| what.ends_with(later)) {
                continue;
            }
            let other = theirs.get(&what).map_or("nothing of that name", String::as_str);
            assert_eq!(told, other, "{pallet}, {what}: here, and on the main net");
        }
    }
}

#[test]
fn every_call_is_encoded_as_the_main_net_takes_it() {
    // The local chain's encoding is held against bytes by hand wherever this runs.
    let (finney, ours) = (finney("that the main net takes these calls as well"), ours());
    let (whole, third) = (Subnet { netuid: 3, mechanism: 0 }, Subnet { netuid: 3, mechanism: 2 });
    let (uids, values, salt, key) = (vec![1u16, 258], vec![65535u16, 7], vec![9u16, 1], 5u64);
    let places = [Uid(1), Uid(258)];
    let sealed = Sealed { uids: uids.clone(), values: values.clone(), salt: salt.clone(), version_key: key };
    let (blob, account) = (vec![6u8; 300], [8u8; 32]);
    let bucket = format!("https://{}", "b".repeat(200));
    let raw = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap() + 1][..], bytes].concat();
    let fields = [raw(&bucket.as_bytes()[..128]), raw(&bucket.as_bytes()[128..])].concat();
    // By hand: pallet, call, then SCALE. Two fields are a vector of compact length 2.
    let all: Vec<(Call, Vec<u8>)> = vec![
        (Call::set_weights(whole, &places, &values, key), (7u8, 0u8, 3u16, &uids, &values, key).encode()),
        (Call::set_weights(third, &places, &values, key), (7u8, 119u8, 3u16, 2u8, &uids, &values, key).encode()),
        (Call::commit_weights(whole, Hash([4; 32])), (7u8, 96u8, 3u16, [4u8; 32]).encode()),
        (Call::commit_weights(third, Hash([4; 32])), (7u8, 115u8, 3u16, 2u8, [4u8; 32]).encode()),
        (Call::reveal_weights(whole, &sealed), (7u8, 97u8, 3u16, &uids, &values, &salt, key).encode()),
        (Call::reveal_weights(third, &sealed), (7u8, 116u8, 3u16, 2u8, &uids, &values, &salt, key).encode()),
        (Call::commit_timelocked(whole, &blob, 77, 4), (7u8, 113u8, 3u16, &blob, 77u64, 4u16).encode()),
        (Call::commit_timelocked(third, &blob, 77, 4), (7u8, 118u8, 3u16, 2u8, &blob, 77u64, 4u16).encode()),
        (Call::register(3, Hotkey(account)), (7u8, 7u8, 3u16, account).encode()),
        (
            Call::set_commitment(3, bucket.as_bytes().chunks(128)),
            [(18u8, 0u8, 3u16).encode(), vec![8], fields].concat(),
        ),
    ];
    for (call, by_hand) in all {
        for (chain, metadata) in finney.iter().map(|of| ("the main net", of)).chain([("the local chain", &ours)]) {
            assert_eq!(hex::encode(call.bytes(metadata).unwrap()), hex::encode(&by_hand), "{} on {chain}", call.name);
        }
    }
    let limited = Call::register_limit(3, Hotkey(account), 500).bytes(&ours).unwrap();
    assert_eq!(limited, (7u8, 134u8, 3u16, account, 500u64).encode());
    let unknown = Call::new("SubtensorModule", "no_such_call", Vec::new()).bytes(&ours).unwrap_err();
    assert!(unknown.error.contains("no_such_call"), "{unknown}");
}
