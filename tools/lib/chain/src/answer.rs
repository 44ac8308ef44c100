//! What a node says: the values in its answers, and its errors in words, with the exit code that each deserves.

use record::{Code, Hash, Report};
use serde_json::Value;
use std::fmt::Display;

pub(crate) fn hash_of(value: &Value) -> Option<Hash> {
    value.as_str()?.parse().ok()
}

/// A hash as every node reads it; some answer to one without `0x` with nothing.
pub(crate) fn prefixed(hash: Hash) -> String {
    format!("0x{hash}")
}

pub(crate) fn number_of(header: &Value) -> Option<u64> {
    u64::from_str_radix(header.get("number")?.as_str()?.trim_start_matches("0x"), 16).ok()
}

/// The bytes that a node answers with.
pub(crate) fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?.strip_prefix("0x")?).ok()
}

/// An error of the client's layers without the name of every layer.
pub(crate) fn plain(error: impl Display) -> String {
    error.to_string().replace("RPC error: ", "").replace("client error: ", "")
}

pub(crate) fn unreachable(url: &str, error: impl Display) -> Report {
    Report::again(format!("cannot reach the chain at {url}: {}", plain(error)))
        .hint("is the node up, and the address right? --network or BZ_NETWORK names it")
        .hint("for one machine: bz-localnet status")
}

/// Stands in what is said of a node that has another first block than was known.
const OF_ANOTHER_CHAIN: &str = "is another chain: its first block is";

/// What is wrong with a node of another chain.
pub(crate) fn another_chain(node: &str, first: Hash, genesis: Hash) -> String {
    format!("{node} {OF_ANOTHER_CHAIN} {first}, not {genesis}")
}

/// What stands before all that a node said, and all that befell a connection, in an error of the client's layers.
const OF_A_NODE: [&str; 2] = ["User error: ", "RPC error: "];
/// The hint of an error that is none of a node: our own reading of what it sent has failed.
const READ_HERE: &str = "bz-chain doctor shows what can be read of this chain";

/// A question that came to nothing, and whether the node or its connection is at fault, or what was made of its answer.
/// A node that has become another chain stays one: nothing that was read before holds there.
pub(crate) fn failed(what: &str, url: &str, error: impl Display) -> Report {
    let error = error.to_string();
    if error.contains(OF_ANOTHER_CHAIN) {
        return Report::config(format!("{what}: {}", plain(error).replace("User error: ", "")))
            .hint("another chain stands at that address now: --network or BZ_NETWORK names the run's own")
            .hint("where the chain was founded anew, remove the folder chain/ in BZ_HOME, and found the run again");
    }
    let of_a_node = OF_A_NODE.iter().any(|words| error.contains(words));
    let hint = if of_a_node { "a node that is behind or was restarted answers again later" } else { READ_HERE };
    Report::again(format!("{what}, from {url}: {}", plain(error))).hint(hint)
}

/// Stands in what is said of a chain that has something in a form that is not known.
pub(crate) const OF_SPEC: &str = "the chain is spec";

/// Whether an error says that: of what was read with the metadata of another runtime, or of a chain that this suite does
/// not know.
pub(crate) fn is_foreign(report: &Report) -> bool {
    report.code == Code::Config && report.error.contains(OF_SPEC)
}

/// Whether an error says that bytes of the chain are not what the metadata says, or not what this suite reads: entries
/// that are gone or have other keys or another type. Only what our own layers say counts: a node, or a gateway before
/// it, may say anything.
pub(crate) fn undecodable(report: &Report) -> bool {
    const WORDS: [&str; 8] = [
        "decod",
        "unable to convert",
        "is not supported",
        "Error at ",
        "not found in pallet",
        "Can't find storage value",
        "Wrong number of key parts",
        "Cannot encode storage key",
    ];
    is_foreign(report)
        || report.code == Code::Again
            && report.hints.iter().any(|hint| hint == READ_HERE)
            && WORDS.iter().any(|words| report.error.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use subxt::{
        error::{BackendError, DecodeError, StorageError, StorageKeyError, StorageValueError},
        rpcs::{Error, UserError},
    };

    /// The words are those of other crates: this holds them against what these say.
    #[test]
    fn what_does_not_decode_is_told_from_what_does_not_answer() {
        let of = |error: &dyn Display| failed("Keys", "wss://node.example.org", error);
        let said = |message: &str| Error::User(UserError { code: -32603, message: message.into(), data: None });
        let broken = || Error::Client("cannot decode the answer".into());
        let pallet = || "SubtensorModule".to_string();
        let out_of_range =
            DecodeError::new(subxt::ext::scale_decode::error::ErrorKind::NumberOutOfRange { value: "70000".into() });
        for report in [
            of(&StorageValueError::LeftoverBytes { bytes: vec![1] }),
            of(&StorageKeyError::LeftoverBytes { bytes: vec![1] }),
            of(&out_of_range),
            of(&StorageError::StorageEntryNotFound { pallet_name: pallet(), entry_name: "Keys".into() }),
            of(&StorageError::PalletNameNotFound(pallet())),
            of(&StorageError::WrongNumberOfKeyPartsProvidedForFetching { expected: 2, got: 1 }),
            of(&StorageError::WrongNumberOfKeyPartsProvidedForIterating { max_expected: 2, got: 3 }),
        ] {
            assert!(undecodable(&report), "{report}");
        }
        for report in [
            of(&"the background task closed; restart required"),
            of(&"State already discarded for block 7 (4003)"),
            of(&"no answer"),
            // What a gateway says is not what the chain has, whatever its words are.
            of(&said("cannot decode the upstream's answer: Error at block 7")),
            of(&StorageError::CannotFetchValue(BackendError::from(said("decoding failed")))),
            of(&broken()),
            of(&StorageError::StreamFailure(BackendError::from(broken()))),
            Report::data("cannot decode a file"),
        ] {
            assert!(!undecodable(&report), "{report}");
        }
    }

    #[test]
    fn a_node_that_became_another_chain_is_not_asked_again() {
        let message = another_chain("ws://127.0.0.1:9944", Hash([1; 32]), Hash([2; 32]));
        let error = || Error::User(UserError { code: 0, message: message.clone(), data: None });
        for report in [
            failed("chain_getHeader", "ws://127.0.0.1:9944", error()),
            failed("Keys", "ws://127.0.0.1:9944", StorageError::CannotFetchValue(BackendError::from(error()))),
        ] {
            assert!(report.code == Code::Config && !report.hints.is_empty(), "{report}");
            assert!(report.error.contains(&message), "{report}");
        }
        assert_eq!(failed("chain_getHeader", "ws://127.0.0.1:9944", "no answer").code, Code::Again);
    }
}
