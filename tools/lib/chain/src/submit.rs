//! Calls that are signed and sent, and what the chain says of them, in words.

use crate::{client::Chain, neurons::RAO};
use record::{Context, Hash, Hotkey, Report};
use std::time::Duration;
use subxt::{
    SubstrateConfig,
    config::substrate::MultiSignature,
    dynamic::{self, At, Value},
    error::{DispatchError, TransactionEventsError, TransactionFinalizedSuccessError},
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

/// A chain makes a block every 12 s and finalizes a few later.
const FINAL_WITHIN: Duration = Duration::from_secs(180);

/// What an error of the chain means for a person, and what to do.
fn in_words(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "HotKeyNotRegisteredInSubNet" | "HotKeyNotRegisteredInNetwork" => {
            ("the hotkey is not registered in this subnet", "register it: bz-chain register")
        }
        "HotKeyAlreadyRegisteredInSubNet" => ("the hotkey is registered already", "nothing is to be done"),
        "NotEnoughBalanceToStake" | "NotEnoughBalanceToPaySwapHotKey" | "InsufficientBalance" => {
            ("the coldkey has too little TAO", "send it some; bz-localnet faucet on one machine")
        }
        "NeuronNoValidatorPermit" => {
            ("the hotkey has no validator permit", "permits go to the greatest stakes at each epoch: add stake")
        }
        "NotEnoughStakeToSetWeights" => ("the hotkey has too little stake to set weights", "add stake"),
        "SettingWeightsTooFast" => ("weights were set too short a time ago", "try again after the rate limit"),
        "CommitRevealEnabled" => {
            ("this subnet takes weights only by commit and reveal", "it was switched on meanwhile: run this again")
        }
        "CommitRevealDisabled" => ("this subnet takes plain weights", "it was switched off meanwhile: run this again"),
        "CommittingWeightsTooFast" => ("weights were committed too short a time ago", "try again after the rate limit"),
        "RevealTooEarly" => ("the time of the reveal has not come", "try again in the next epoch"),
        "ExpiredWeightCommit" => ("the time of the reveal is over", "commit again"),
        "NoWeightsCommitFound" | "InvalidRevealCommitHashNotMatch" => ("the chain has no such commit", "commit again"),
        "TooManyUnrevealedCommits" => ("ten commits wait for their reveal", "reveal them: run this in each epoch"),
        "IncorrectWeightVersionKey" => ("the subnet asks for a newer version key", "--version-key"),
        "DuplicateUids" => ("a uid is there twice", "bz-score fold writes each once"),
        "UidVecContainInvalidOne" => ("a uid does not exist in the subnet", "score the window again"),
        "WeightVecLengthIsLow" => ("too few peers have a weight", "the subnet's minimum is above that"),
        "MaxWeightExceeded" => ("one peer's share is above the subnet's maximum", "clip it"),
        "MechanismDoesNotExist" | "SubnetNotExists" | "NetworkDoesNotExist" => {
            ("there is no such subnet", "--netuid or BZ_NETUID")
        }
        "TooManyRegistrationsThisBlock" | "TooManyRegistrationsThisInterval" => {
            ("the subnet takes no more registrations at this moment", "try again in some blocks")
        }
        "AccountNotAllowedCommit" => ("only a registered hotkey may commit its bucket", "register it first"),
        "SpaceLimitExceeded" => ("too much was committed in this epoch", "try again in the next epoch"),
        _ => return None,
    })
}

impl Chain {
    /// Sign a call, send it, and wait until it is final and has succeeded; the extrinsic's hash.
    ///
    /// # Errors
    /// Exit code 1 when the chain refuses the call, 75 when it cannot be reached.
    pub fn submit(&self, pallet: &str, call: &str, args: Vec<Value>, signer: &Signer<'_>) -> Result<Hash, Report> {
        let what = format!("{pallet}.{call}");
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let payload = dynamic::transaction(pallet, call, args);
        let mut transactions = at.transactions();
        let signed = self.wait(&what, transactions.create_signed(&payload, signer, Default::default()))?;
        let hash = Hash(signed.hash().0);
        let sent = self.wait(&what, signed.submit_and_watch()).map_err(|mut report| {
            if report.error.contains("1010") || report.error.contains("Inability to pay") {
                report.error = format!("{what}: the account cannot pay for it");
                report.hints = vec!["fund it: bz-localnet faucet on one machine, btcli elsewhere".into()];
            }
            report
        })?;
        let done = self
            .runtime
            .block_on(async { tokio::time::timeout(FINAL_WITHIN, sent.wait_for_finalized_success()).await });
        match done {
            Ok(Ok(_)) => Ok(hash),
            Ok(Err(TransactionFinalizedSuccessError::SuccessError(TransactionEventsError::ExtrinsicFailed(error)))) => {
                Err(refused(&what, &error))
            }
            Ok(Err(error)) => Err(Report::again(format!("{what}: {error}"))
                .hint("whether it went in is not known: look at the chain before it is sent again")),
            Err(_) => Err(Report::again(format!("{what} was sent ({hash}) and is not final after 3 minutes"))
                .hint("look at the chain before it is sent again")),
        }
    }

    /// Register a hotkey by burning TAO of the coldkey that signs.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn register(&self, hotkey: Hotkey, coldkey: &Signer<'_>) -> Result<Hash, Report> {
        let args = vec![Value::u128(self.netuid.into()), Value::from_bytes(hotkey.0)];
        self.submit("SubtensorModule", "burned_register", args, coldkey)
    }

    /// Commit the address of the own bucket, in as many raw fields of 128 bytes as it needs.
    ///
    /// # Errors
    /// Exit code 2 when the address is longer than 384 bytes; as [`Chain::submit`].
    pub fn commit_bucket(&self, address: &str, hotkey: &Signer<'_>) -> Result<Hash, Report> {
        const FIELD: usize = 128;
        if address.is_empty() || address.len() > 3 * FIELD {
            return Err(Report::usage(format!("a bucket's address has 1 to 384 bytes, this one {}", address.len())));
        }
        let raw = |part: &[u8]| Value::unnamed_variant(format!("Raw{}", part.len()), [Value::from_bytes(part)]);
        let fields = Value::unnamed_composite(address.as_bytes().chunks(FIELD).map(raw));
        let info = Value::named_composite([("fields", Value::unnamed_composite([fields]))]);
        self.submit("Commitments", "set_commitment", vec![Value::u128(self.netuid.into()), info], hotkey)
    }

    /// What a registration burns now, in TAO.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn price(&self) -> Result<f64, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let rao: u64 = self.or_default(&at, "Burn")?;
        Ok(rao as f64 / RAO)
    }

    /// The free TAO of an account.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn balance(&self, account: Hotkey) -> Result<f64, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<([u8; 32],), Value>("System", "Account");
        let held = self.wait("the balance", async { at.storage().try_fetch(address, (account.0,)).await })?;
        let Some(held) = held else { return Ok(0.0) };
        let value = held.decode().again("the balance")?;
        let free = value.at("data").and_then(|data| data.at("free")).and_then(|free| free.as_u128());
        Ok(free.unwrap_or(0) as f64 / RAO)
    }

    /// The uid of a hotkey at the last finalized block, if it is registered.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn uid_of(&self, hotkey: Hotkey) -> Result<Option<u16>, Report> {
        let api = self.api()?;
        let at = self.wait("the last block", api.at_current_block())?;
        let address = dynamic::storage::<(u16, [u8; 32]), u16>("SubtensorModule", "Uids");
        let netuid = self.netuid;
        let value = self.wait("the uid", async { at.storage().try_fetch(address, (netuid, hotkey.0)).await })?;
        value.map(|v| v.decode().again("the uid")).transpose()
    }
}

fn refused(what: &str, error: &DispatchError) -> Report {
    if let DispatchError::Module(module) = error
        && let Ok(details) = module.details()
    {
        let name = details.variant.name.as_str();
        if let Some((words, hint)) = in_words(name) {
            return Report::no(format!("{what}: {words} ({name})")).hint(hint);
        }
        let docs = details.variant.docs.join(" ");
        return Report::no(format!("{what}: the chain refuses it: {name}. {}", docs.trim()));
    }
    Report::no(format!("{what}: the chain refuses it: {error}"))
}
