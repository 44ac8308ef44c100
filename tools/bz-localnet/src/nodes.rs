//! What a network has: nodes that join, their stake, what they are paid.

use crate::{Place, connect, print, root_wallet, running, store, subtensor};
use chain::{Call, Chain, Entry, Signer};
use record::{Context, Hotkey, Report, files};
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use subxt::dynamic::Value;
use wallet::WalletArgs;

/// A TAO has so many rao.
const RAO: f64 = 1e9;

/// A node's share of another's stake.
#[derive(Clone, Debug)]
pub struct Share {
    /// Whose it is: a node of this network, or an ss58 address.
    child: String,
    /// Of `u64::MAX`.
    proportion: u64,
}

impl std::str::FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (child, share) = text.split_once('=').ok_or("a child is NAME=SHARE, such as alice=0.25")?;
        let share: f64 = share.parse().map_err(|_| format!("{share:?} is no number"))?;
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("a share is 0 to 1, not {share}"));
        }
        // Cut to 32 bits, so that shares that sum up to 1 are no more than all.
        let proportion = (share * f64::from(u32::MAX)) as u64 * ((1 << 32) + 1);
        Ok(Share { child: child.into(), proportion })
    }
}

/// Have the root account pay. Each payment has a name, by which the chain knows it: however often it is asked for,
/// because an answer was lost or the node died, it is made once.
fn pay(chain: &Chain, to: Hotkey, tao: f64) -> Result<(), Report> {
    if !(1e-6..=1e6).contains(&tao) {
        return Err(Report::usage(format!("{tao} TAO: 0.000001 to 1000000")));
    }
    let mut name = [0u8; 32];
    getrandom::fill(&mut name).again("cannot name a payment")?;
    let bytes = |bytes: [u8; 32]| format!("0x{}", hex::encode(bytes));
    let ask = json!({"pay": {"name": bytes(name), "to": bytes(to.0), "rao": (tao * RAO) as u64}});
    let since = Instant::now();
    let mut unanswered = 0;
    while since.elapsed() < PAID_WITHIN {
        match chain.fault(&ask) {
            Ok(answer) if answer["paid"]["block"].as_u64().is_some() => return Ok(()),
            Ok(answer) => {
                if let Some(why) = answer["paid"]["refused"].as_str() {
                    return Err(Report::no(format!("{tao} TAO to {to}: {why}"))
                        .hint("a new network has a million: another --dir, or less"));
                }
            }
            Err(mut report) => {
                unanswered += 1;
                if unanswered == UNANSWERED {
                    report.code = record::Code::Again;
                    return Err(report.hint("whether it was paid is not known: bz-chain doctor shows the balance"));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Report::again(format!("{tao} TAO to {to} are in no block after {} s", PAID_WITHIN.as_secs()))
        .hint("they still may be: is the chain stalled? bz-localnet fault stall 0"))
}

/// How long a payment is waited for.
const PAID_WITHIN: Duration = Duration::from_secs(180);
/// So many times in all a payment goes without an answer.
const UNANSWERED: u32 = 20;
/// Nodes that join side by side.
const SIDE_BY_SIDE: usize = 32;

pub fn faucet(dir: &Path, to: Hotkey, tao: f64) -> Result<(), Report> {
    pay(&connect(&running(dir)?)?, to, tao)?;
    print("payment", vec![("to", json!(to.to_string())), ("tao", json!(tao))])
}

/// TAO that a node stakes when it joins.
#[derive(Clone, Copy)]
pub struct Stakes {
    /// In the subnet.
    pub subnet: f64,
    /// In the root network.
    pub root: f64,
}

pub fn amount(flag: &str, tao: f64) -> Result<f64, Report> {
    if (0.0..=1e6).contains(&tao) { Ok(tao) } else { Err(Report::usage(format!("{flag} {tao}: 0 to 1000000 TAO"))) }
}

/// Many nodes side by side; their settings one after another.
pub fn join_all(dir: &Path, name: &str, stakes: Stakes, count: u16) -> Result<(), Report> {
    let place = running(dir)?;
    let names: Vec<String> = (1..=count).map(|i| format!("{name}-{i}")).collect();
    let mut progress = record::progress::Progress::new(false, "joining", count.into(), "nodes");
    for some in names.chunks(SIDE_BY_SIDE) {
        std::thread::scope(|scope| {
            let place = &place;
            let joining: Vec<_> = some.iter().map(|name| scope.spawn(move || node(dir, place, name, stakes))).collect();
            joining.into_iter().try_for_each(|joined| {
                let settings = joined.join().map_err(|_| Report::again("a thread ended"))??;
                progress.advance(1, "");
                say(&format!("{settings}\n"))
            })
        })?;
    }
    Ok(())
}

pub fn join(dir: &Path, name: &str, stakes: Stakes) -> Result<(), Report> {
    say(&node(dir, &running(dir)?, name, stakes)?)
}

/// The wallet of a node of this network.
fn wallet_of(dir: &Path, name: &str) -> WalletArgs {
    WalletArgs { name: name.into(), ..root_wallet(dir) }
}

pub fn set_children(dir: &Path, name: &str, children: &[Share]) -> Result<(), Report> {
    let place = running(dir)?;
    let of = |name: &str| -> Result<WalletArgs, Report> {
        let wallet = wallet_of(dir, name);
        if wallet.hotkey_path().exists() {
            return Ok(wallet);
        }
        Err(Report::no(format!("no node {name:?} joined this network")).hint(format!("bz-localnet join {name}")))
    };
    let key = |share: &Share| -> Result<Hotkey, Report> {
        match share.child.parse() {
            Ok(key) => Ok(key),
            Err(_) => of(&share.child)?.public(),
        }
    };
    let parent = of(name)?;
    let pairs = children.iter().map(|share| -> Result<Value, Report> {
        let child = Value::from_bytes(key(share)?.0);
        Ok(Value::unnamed_composite([Value::u128(share.proportion.into()), child]))
    });
    let pairs = Value::unnamed_composite(pairs.collect::<Result<Vec<_>, Report>>()?);
    let (cold, hotkey) = (parent.open_coldkey()?, parent.public()?);
    let sign = |message: &[u8]| cold.sign(message);
    let args = vec![Value::from_bytes(hotkey.0), Value::u128(place.netuid.into()), pairs];
    let call = Call::new("SubtensorModule", "set_children", args);
    connect(&place)?.submit(&call, &Signer { account: cold.hotkey(), sign: &sign })?;
    print(
        "children",
        vec![
            ("hotkey", json!(hotkey.to_string())),
            ("children", children.iter().map(|share| json!([share.child, share.proportion])).collect()),
        ],
    )
}

fn say(text: &str) -> Result<(), Report> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Report::output(&e))
}

/// Make a node; its settings.
fn node(dir: &Path, place: &Place, name: &str, stakes: Stakes) -> Result<String, Report> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(3..=40).contains(&name.len()) || !name.chars().all(fits) || name == "root" {
        return Err(Report::usage(format!("{name:?}: a node's name is 3 to 40 of a-z 0-9 -, and not root")));
    }
    let wallet = wallet_of(dir, name);
    wallet.create()?;
    let (cold, hot) = (wallet.open_coldkey()?, wallet.open()?);
    let chain = connect(place)?;
    let sign_cold = |message: &[u8]| cold.sign(message);
    let cold_signer = Signer { account: cold.hotkey(), sign: &sign_cold };
    let sign_hot = |message: &[u8]| hot.sign(message);
    let hot_signer = Signer { account: hot.hotkey(), sign: &sign_hot };
    if chain.uid_of(hot.hotkey())?.is_none() {
        pay(&chain, cold.hotkey(), 1.0 + stakes.subnet + stakes.root)?;
        chain.submit(&Call::register(place.netuid, hot.hotkey()), &cold_signer)?;
        for (netuid, tao) in [(place.netuid, stakes.subnet), (subtensor::ROOT, stakes.root)] {
            if tao > 0.0 {
                let rao = Value::u128((tao * RAO) as u128);
                let args = vec![Value::from_bytes(hot.hotkey().0), Value::u128(netuid.into()), rao];
                chain.submit(&Call::new("SubtensorModule", "add_stake", args), &cold_signer)?;
            }
        }
    }
    files::create_dir(&dir.join("buckets").join(name))?;
    let (access, secret) = store::Keys::new(dir.join("keys.json")).of_bucket(name)?;
    let bucket = format!("{}/{name}", place.store);
    let entry = chain.entry_of(hot.hotkey())?;
    if entry.bucket.as_ref() != Some(&bucket) {
        let fields = Entry { bucket: Some(bucket.clone()), reason: None, ..entry }.fields()?;
        let call = Call::set_commitment(place.netuid, fields.iter().map(Vec::as_slice));
        chain.submit(&call, &hot_signer)?;
    }
    let wallets = std::fs::canonicalize(dir.join("wallets")).config("the wallets' folder")?;
    let settings = [
        ("BZ_NETWORK", place.chain.clone()),
        ("BZ_NETUID", place.netuid.to_string()),
        ("BT_WALLET_PATH", wallets.display().to_string()),
        ("BT_WALLET_NAME", name.to_string()),
        ("BT_WALLET_HOTKEY", "default".to_string()),
        ("BZ_BUCKET", bucket),
        ("BZ_ACCESS_KEY", access),
        ("BZ_SECRET_KEY", secret),
    ];
    Ok(settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect())
}
