//! Calls that are signed and sent, and what the chain says of them, in words.

use crate::{
    answer::{number_of, plain, prefixed},
    calls::Call,
    client::Chain,
    storage::foreign,
    subnet::{PALLET, RAO},
};
use record::{Hash, Hotkey, Report};
use std::time::Duration;
use subxt::{
    SubstrateConfig,
    config::{DefaultExtrinsicParamsBuilder, substrate::MultiSignature},
    dynamic::{self, At, Value},
    error::{DispatchError, TransactionEventsError, TransactionFinalizedSuccessError},
    rpcs::client::rpc_params,
    utils::AccountId32,
};

/// Who signs, and how; the secret stays with the caller.
pub struct Signer<'a> {
    /// The public key.
    pub account: Hotkey,
    /// An sr25519 signature over these bytes.
    pub sign: &'a (dyn Fn(&[u8]) -> [u8; 64] + Sync),
}

impl subxt::transactions::Signer<SubstrateConfig> for Signer<'_> {
    fn account_id(&self) -> AccountId32 {
        AccountId32(self.account.0)
    }
    fn sign(&self, payload: &[u8]) -> MultiSignature {
        MultiSignature::Sr25519((self.sign)(payload))
    }
}

/// A call that is final and has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Hash of the extrinsic.
    pub tx: Hash,
    /// The final block that it is in; `None` where the node that knew it is gone.
    pub block: Option<u64>,
}

/// A transaction that came into no block within so many never will.
const GOOD_FOR: u64 = 64;
/// Stands in a hint where a call may be in the chain although there is no [`Sent`].
const NOT_KNOWN: &str = "whether it went in is not known";
/// The pool's code for what it has already.
const ON_ITS_WAY: u16 = 1013;
/// A chain makes a block every 12 s and finalizes a few later.
const FINAL_WITHIN: Duration = Duration::from_secs(180);

/// What an error of the chain means for a person, what to do, and whether the same command may do later.
struct Words(&'static str, &'static str, bool);

/// Not before something is changed.
const NO: bool = false;
/// Later.
const LATER: bool = true;

/// The errors of the calls that this suite makes. Source: Subtensor's `Error`, of pallet-subtensor and
/// pallet-commitments.
fn in_words(name: &str) -> Option<Words> {
    let words = |what, hint, later| Some(Words(what, hint, later));
    match name {
        "HotKeyNotRegisteredInSubNet" | "HotKeyNotRegisteredInNetwork" => {
            words("the hotkey is not registered in this subnet", "register it: bz-chain register", NO)
        }
        "HotKeyAlreadyRegisteredInSubNet" => words("the hotkey is registered already", "nothing is to be done", NO),
        "HotKeyAccountNotExists" => words("the chain does not know the hotkey", "register it: bz-chain register", NO),
        "NonAssociatedColdKey" => words("the hotkey belongs to another coldkey", "sign with its own: --wallet", NO),
        "NotEnoughBalanceToStake" | "NotEnoughBalanceToPaySwapHotKey" | "InsufficientBalance" => {
            words("the coldkey has too little TAO", "send it some; bz-localnet faucet on one machine", NO)
        }
        "RegistrationPriceLimitExceeded" => words(
            "a place costs more than the limit meanwhile",
            "the price falls while nobody registers: try again later, or raise --limit",
            LATER,
        ),
        "RegistrationNotPermittedOnRootSubnet" => {
            words("the root network has no such places", "--netuid or BZ_NETUID", NO)
        }
        "ColdkeySwapAnnounced" | "ColdkeySwapDisputed" => {
            words("the coldkey is about to be swapped", "nothing can be signed until that is over", LATER)
        }
        "UnexpectedUnreserveLeftover" => words("the chain could not give back a deposit", "try again later", LATER),
        "SubNetRegistrationDisabled" => words("the subnet takes no registrations", "its owner can allow them", NO),
        "NoNeuronIdAvailable" => words("the subnet is full", "a place comes free when a neuron is replaced", LATER),
        "NeuronNoValidatorPermit" => words(
            "the hotkey has no validator permit",
            "permits go to the greatest stakes at each epoch: add stake, then wait for the next one",
            NO,
        ),
        "NotEnoughStakeToSetWeights" => words("the hotkey has too little stake to set weights", "add stake", NO),
        "SettingWeightsTooFast" => {
            words("weights were set too short a time ago", "try again after the rate limit", LATER)
        }
        "CommitRevealEnabled" => words(
            "this subnet takes weights only by commit and reveal",
            "it was switched on meanwhile: run this again",
            LATER,
        ),
        "CommitRevealDisabled" => {
            words("this subnet takes plain weights", "it was switched off meanwhile: run this again", LATER)
        }
        "CommittingWeightsTooFast" => {
            words("weights were committed too short a time ago", "try again after the rate limit", LATER)
        }
        "RevealTooEarly" => words("the time of the reveal has not come", "try again in the next epoch", LATER),
        "ExpiredWeightCommit" => words("the time of the reveal is over", "commit again", NO),
        "NoWeightsCommitFound" | "InvalidRevealCommitHashNotMatch" => {
            words("the chain has no such commit", "commit again", NO)
        }
        "TooManyUnrevealedCommits" => {
            words("ten commits wait for their reveal", "they end with their epoch: try again in the next one", LATER)
        }
        "IncorrectCommitRevealVersion" => words(
            "the chain takes timelocked commits of another version",
            "--commit hash, or a newer bz-setweights",
            NO,
        ),
        "InvalidRevealRound" => {
            words("the round of the commit is over already", "run this again: it takes a later one", LATER)
        }
        "IncorrectWeightVersionKey" => words(
            "the subnet asks for a newer version key",
            "fold.version_key in the run's hparams.json says which: take the run's newest",
            NO,
        ),
        "WeightVecNotEqualSize" | "InputLengthsUnequal" => {
            words("there are not as many weights as uids", "bz-score fold writes as many", NO)
        }
        "DuplicateUids" => words("a uid is there twice", "bz-score fold writes each once", NO),
        "UidVecContainInvalidOne" | "UidsLengthExceedUidsInSubNet" => {
            words("a uid does not exist in the subnet", "score the window again", NO)
        }
        "WeightVecLengthIsLow" => words("too few peers have a weight", "the subnet's minimum is above that", NO),
        "MaxWeightExceeded" => words("one peer's share is above the subnet's maximum", "clip it", NO),
        "CanNotSetRootNetworkWeights" => words("the root network takes no weights", "--netuid or BZ_NETUID", NO),
        "MechanismDoesNotExist"
        | "SubnetNotExists"
        | "SubNetworkDoesNotExist"
        | "NetworkDoesNotExist"
        | "SubnetDoesNotExist" => {
            words("there is no such subnet, or mechanism of it", "--netuid or BZ_NETUID, --mechanism", NO)
        }
        "TooManyRegistrationsThisBlock" | "TooManyRegistrationsThisInterval" => {
            words("the subnet takes no more registrations at this moment", "try again in some blocks", LATER)
        }
        "AccountNotAllowedCommit" => words("only a registered hotkey may commit its bucket", "register it first", NO),
        "TooManyFieldsInCommitmentInfo" => words(
            "the bucket's address is too long for this chain",
            "each field takes 128 bytes: a shorter address fits into one",
            NO,
        ),
        "SpaceLimitExceeded" => words("too much was committed in this epoch", "try again in the next epoch", LATER),
        "CallDisabled" | "DisabledTemporarily" | "AdminActionProhibitedDuringWeightsWindow" => {
            words("the chain does not take this call at present", "try again in some blocks", LATER)
        }
        _ => None,
    }
}

/// Why Subtensor does not take a transaction into the pool. Source: its `CustomTransactionError`.
fn custom_words(number: u8) -> Words {
    match number {
        0 => Words("the coldkey is about to be swapped", "wait until the swap is over", NO),
        1 => Words("the stake is too small for this", "add stake", NO),
        2 => Words("the account has too little TAO", "send it some; bz-localnet faucet on one machine", NO),
        3 => Words("there is no such subnet", "--netuid or BZ_NETUID", NO),
        4 => Words("the chain does not know the hotkey", "register it: bz-chain register", NO),
        5 => Words("less is staked than is to be taken", "take less", NO),
        6 => Words("this was done too short a time ago", "try again after the rate limit", LATER),
        7 | 8 => Words("the price moved too far", "try again, or with a greater limit", LATER),
        9 => Words("the subnet forbids transfers of its stake", "its owner can allow them", NO),
        10 | 19 => Words("the hotkey is not registered", "register it: bz-chain register", NO),
        11 | 13 => Words("an address that was served is none", "look at it", NO),
        12 => Words("an address was served too short a time ago", "try again in some minutes", LATER),
        15 => Words("the round of the commit is over", "run this again: it takes a later one", LATER),
        16 => Words("the chain has no such commit", "commit again", NO),
        17 => Words("the time of the reveal has not come, or is over", "run this again in the next epoch", LATER),
        18 => Words("there are not as many weights as uids", "bz-score fold writes as many", NO),
        21 => Words("the coldkey's swap is disputed", "nothing can be signed until that is settled", NO),
        25 => Words("the hotkey belongs to another coldkey", "sign with its own: --wallet", NO),
        _ => Words("the chain refuses it, for a reason of its own", "look at bz-chain doctor", NO),
    }
}

/// What the texts of an invalid transaction (1010) mean. Source: `sp_runtime::transaction_validity`.
const INVALID: [(&str, Words); 8] = [
    (
        "Inability to pay",
        Words("the account cannot pay for it", "fund it: bz-localnet faucet on one machine, btcli elsewhere", NO),
    ),
    (
        "outdated",
        Words("another transaction of this key came first", "the same command looks at the chain again", LATER),
    ),
    (
        "bad signature",
        Words(
            "the node does not believe the signature",
            "is it another chain, or was it upgraded? run this again",
            LATER,
        ),
    ),
    ("ancient birth", Words("it was signed too long ago", "run this again", LATER)),
    ("exhaust", Words("the block is full", "try again in a block", LATER)),
    ("in the future", Words("another transaction of this key is missing before it", "try again in a block", LATER)),
    ("call is not expected", Words("the chain takes no such call from this key now", "look at bz-chain doctor", NO)),
    ("signing address", Words("the chain does not take this key's kind", "Bittensor's keys are sr25519", NO)),
];

/// Why a node did not take a transaction: the code of its answer, and what follows from that. `None` for every other
/// error.
/// Source: `sc-rpc-api`'s `author/error.rs`.
fn pool_words(error: &str) -> Option<(u16, Words)> {
    let at = error.rfind("(1")? + 1;
    let code: u16 = error.get(at..at + 4)?.parse().ok()?;
    let custom = error.split("Custom error: ").nth(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u8>().unwrap_or(u8::MAX)
    });
    let words = match code {
        1010 | 1011 if custom.is_some() => custom_words(custom.unwrap_or(u8::MAX)),
        1010 => INVALID.into_iter().find(|(part, _)| error.contains(part)).map_or(
            Words("the chain holds it to be invalid", "is this suite older than the chain? see bz-chain doctor", NO),
            |(_, words)| words,
        ),
        1000..=1002 | 1011 => Words("the node cannot check it", "try again, or by another node", LATER),
        1012 => Words(
            "the node has seen it and refused it a moment ago",
            "try again in half an hour, or by another node",
            LATER,
        ),
        1013 => Words("it is on its way already", "wait for its block", LATER),
        1014 => Words("another transaction of this key is on its way", "wait for its block", LATER),
        1016 => Words("the node's pool is full", "try again in a block, or by another node", LATER),
        1015 | 1018..=1021 => Words("the node's pool does not take it now", "try again, or by another node", LATER),
        _ => return None,
    };
    Some((code, words))
}

fn say(what: &str, Words(words, hint, later): Words, name: &str) -> Report {
    let text = format!("{what}: {words} ({name})");
    if later { Report::again(text).hint(hint) } else { Report::no(text).hint(hint) }
}

fn not_taken(what: &str, mut report: Report) -> Report {
    match pool_words(&report.error) {
        Some((code, words)) => {
            // Before it stand the call and the address of the node.
            let reason = report.error.split_once(": ").map_or(report.error.as_str(), |(_, reason)| reason);
            let reason = reason.trim().trim_end_matches(&format!("({code})")).trim_end();
            let said = say(what, words, &format!("pool code {code}; the node: {reason}"));
            if code == ON_ITS_WAY { said.hint(format!("{NOT_KNOWN} yet: bz-chain doctor shows it")) } else { said }
        }
        None => {
            report.hints.push(format!("{NOT_KNOWN}: the same command looks before it signs again"));
            report
        }
    }
}

impl Chain {
    /// Sign a call, send it, and wait until it is final and has succeeded.
    ///
    /// # Errors
    /// Exit code 1 when the chain refuses the call, 75 when it cannot be reached, or refuses it for now.
    pub fn submit(&self, call: &Call, signer: &Signer<'_>) -> Result<Sent, Report> {
        self.submit_as(call, signer, None)
    }

    /// Whether the call of which an error of [`Chain::submit`] tells may be in the chain, or come into it.
    pub fn may_be_in(report: &Report) -> bool {
        report.hints.iter().any(|hint| hint.starts_with(NOT_KNOWN))
    }

    /// The same with a nonce of the caller's; see [`Chain::turn`] for keys with which several tools sign.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn submit_as(&self, call: &Call, signer: &Signer<'_>, nonce: Option<u64>) -> Result<Sent, Report> {
        let what = format!("{}.{}", call.pallet, call.name);
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        call.bytes(&at.metadata())?;
        let payload = call.payload();
        let mut transactions = at.transactions();
        let params = DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new();
        let params = params.mortal(GOOD_FOR);
        let params = if let Some(nonce) = nonce { params.nonce(nonce) } else { params };
        let signed = self.wait(&what, transactions.create_signed(&payload, signer, params.build()))?;
        let tx = Hash(signed.hash().0);
        let sent = self.wait(&what, signed.submit_and_watch()).map_err(|report| not_taken(&what, report))?;
        let final_within = async {
            let included = sent.wait_for_finalized().await?;
            let block = Hash(included.block_hash().0);
            included.wait_for_success().await.map(|_| block).map_err(TransactionFinalizedSuccessError::from)
        };
        let done = self.runtime.block_on(async { tokio::time::timeout(FINAL_WITHIN, final_within).await });
        let unknown = |report: Report| {
            report
                .hint(format!("{NOT_KNOWN}: bz-chain doctor shows it"))
                .hint("the same command looks before it signs again")
        };
        match done {
            Ok(Ok(hash)) => {
                // That it is in is known: what cannot be asked now does not change that.
                let header = self.request("chain_getHeader", rpc_params![prefixed(hash)]).ok();
                Ok(Sent { tx, block: header.as_ref().and_then(number_of) })
            }
            Ok(Err(TransactionFinalizedSuccessError::SuccessError(TransactionEventsError::ExtrinsicFailed(error)))) => {
                Err(refused(&what, &error))
            }
            Ok(Err(error)) => Err(unknown(Report::again(format!("{what} ({tx}): {}", plain(error))))),
            Err(_) => Err(unknown(Report::again(format!("{what} was sent ({tx}) and is not final after 3 minutes")))),
        }
    }

    /// The next nonce of an account.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn nonce(&self, account: Hotkey) -> Result<u64, Report> {
        let answer = self.request("system_accountNextIndex", rpc_params![account])?;
        answer.as_u64().ok_or_else(|| Report::again("the node knows no nonce"))
    }

    /// The bytes of a call on this chain.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when it has no such call.
    pub fn call_bytes(&self, call: &Call) -> Result<Vec<u8>, Report> {
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        call.bytes(&at.metadata())
    }

    /// What a registration burns now, in TAO.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet.
    pub fn price(&self) -> Result<f64, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        self.exists(&at)?;
        let rao: u64 = self.or_default(&at, "Burn")?;
        Ok(rao as f64 / RAO)
    }

    /// The call that registers a hotkey for at most so many TAO. The chain itself holds the limit, in the very block
    /// that takes the place: a price that was asked for before holds nothing.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when the chain cannot hold a limit.
    pub fn register_call(&self, hotkey: Hotkey, limit: f64) -> Result<Call, Report> {
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        let held = Call::register_limit(self.subnet.netuid, hotkey, (limit * RAO).round() as u64);
        if !held.is_known(&at.metadata()) {
            return Err(foreign(
                &at,
                "SubtensorModule.register_limit",
                "there is no such call: it cannot hold a limit",
            )
            .hint("nothing was burned; btcli registers at whatever a place costs"));
        }
        Ok(held)
    }

    /// The free TAO of an account.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn balance(&self, account: Hotkey) -> Result<f64, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<([u8; 32],), Value>("System", "Account");
        let Some(value) = self.value(&at, address, (account.0,))? else { return Ok(0.0) };
        let free = value.at("data").and_then(|data| data.at("free")).and_then(|free| free.as_u128());
        let free = free.ok_or_else(|| foreign(&at, "System.Account", "it has no data.free"))?;
        Ok(free as f64 / RAO)
    }

    /// The uid of a hotkey at the last finalized block, if it is registered.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn uid_of(&self, hotkey: Hotkey) -> Result<Option<u16>, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<(u16, [u8; 32]), u16>(PALLET, "Uids");
        self.value(&at, address, (self.subnet.netuid, hotkey.0))
    }
}

fn refused(what: &str, error: &DispatchError) -> Report {
    const HINT: &str = "the chain's own documentation says more; bz-chain doctor shows how this wallet stands";
    match error {
        DispatchError::Module(module) => match module.details() {
            Ok(details) => {
                let name = details.variant.name.as_str();
                if let Some(words) = in_words(name) {
                    return say(what, words, name);
                }
                let docs = details.variant.docs.join(" ");
                Report::no(format!("{what}: the chain refuses it: {name}. {}", docs.trim())).hint(HINT)
            }
            Err(_) => {
                Report::no(format!("{what}: the chain refuses it, for a reason that it does not name")).hint(HINT)
            }
        },
        DispatchError::Token(_) => say(
            what,
            Words("the account has too little TAO", "send it some; bz-localnet faucet on one machine", NO),
            "Token",
        ),
        DispatchError::BadOrigin => {
            say(what, Words("this key may not make this call", "look at bz-chain doctor", NO), "BadOrigin")
        }
        other => Report::no(format!("{what}: the chain refuses it: {other}")).hint(HINT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Code;

    #[test]
    fn what_the_pool_says_is_in_words_and_in_its_own() {
        let said = |error: &str| not_taken("SubtensorModule.set_weights", Report::again(error));
        let report = said("x, from wss://n.example.org: Invalid Transaction: Transaction call is not expected (1010)");
        assert_eq!(report.code, Code::No);
        assert!(report.error.contains("the chain takes no such call"), "{report}");
        assert!(
            report.error.contains("pool code 1010; the node: Invalid Transaction: Transaction call is not expected"),
            "{report}"
        );
        // A reason that is not known is all the more wanted.
        let report = said("x, from ws://127.0.0.1:9944: Invalid Transaction: moon in the wrong house (1010)");
        assert!(report.error.contains("the node: Invalid Transaction: moon in the wrong house"), "{report}");
        let report = said("x, from ws://127.0.0.1:9944: Invalid Transaction: Custom error: 6 (1010)");
        assert!(report.code == Code::Again && report.error.contains("too short a time ago"), "{report}");
        assert!(report.error.contains("Custom error: 6"), "{report}");
        let report = said("x, from ws://127.0.0.1:9944: the connection is closed");
        assert!(report.code == Code::Again && report.hints.iter().any(|hint| hint.contains("not known")), "{report}");
        assert!(Chain::may_be_in(&report), "{report}");
        let on_its_way = said("x, from ws://127.0.0.1:9944: Transaction is already imported (1013)");
        assert!(Chain::may_be_in(&on_its_way), "{on_its_way}");
        let refused = said("x, from ws://127.0.0.1:9944: Invalid Transaction: Custom error: 6 (1010)");
        assert!(!Chain::may_be_in(&refused), "{refused}");
    }

    #[test]
    fn every_name_of_a_missing_subnet_has_its_sentence() {
        for name in ["SubNetworkDoesNotExist", "SubnetNotExists", "MechanismDoesNotExist", "SubnetDoesNotExist"] {
            assert!(in_words(name).is_some_and(|words| words.0.contains("no such subnet")), "{name}");
        }
        assert!(in_words("NoSuchError").is_none());
    }
}
