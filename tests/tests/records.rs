//! Every record is read back from its own JSON, with the features that the whole workspace is built with: the local chain's
//! dependencies once changed how every tool read numbers (`arbitrary_precision`), and a finished window was lost by it.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use record::{
    Hash, Hotkey, Stream, Uid, Window,
    records::{
        Accept, Accepted, Commit, Delta, EntryRecord, Eval, OnChain, PageRef, Pages, Peer, Pull, Push, Record, Role,
        Run, Score, State, Status, Train, Vote, Weights, WindowRecord,
    },
    stream,
};

/// What records are made of.
#[derive(Clone, Debug)]
struct Values {
    window: Window,
    uid: Uid,
    hash: Hash,
    key: Hotkey,
    integer: u64,
    float: f64,
    small: f32,
    word: String,
    status: Status,
    role: Role,
    there: bool,
}

fn values() -> impl Strategy<Value = Values> {
    let numbers = (any::<u64>(), any::<u16>(), any::<u64>(), proptest::num::f64::NORMAL | proptest::num::f64::ZERO);
    let small = proptest::num::f32::NORMAL | proptest::num::f32::ZERO;
    (numbers, small, any::<[u8; 32]>(), any::<String>(), any::<bool>()).prop_map(
        |((window, uid, integer, float), small, bytes, word, there)| Values {
            status: Status::ALL[usize::from(bytes[0]) % Status::ALL.len()],
            role: Role::ALL[usize::from(bytes[1]) % Role::ALL.len()],
            window: Window(window),
            uid: Uid(uid),
            hash: Hash(bytes),
            key: Hotkey(bytes),
            integer,
            float,
            small,
            word,
            there,
        },
    )
}

impl Values {
    fn maybe<T>(&self, value: T) -> Option<T> {
        self.there.then_some(value)
    }
    fn word(&self) -> String {
        self.word.clone()
    }
}

/// What a tool writes, another reads: the same fields with the same values.
fn same<R: Record>(record: &R) {
    let line = stream::line_of(record).unwrap();
    assert!(line.starts_with(&format!("{{\"type\":\"{}\"", R::TYPE)), "{line}");
    let mut stream = Stream::new("test", "1", Some(Box::new(line.as_bytes())), Box::new(std::io::sink()));
    let read: R = stream.read().unwrap().need("this test").unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(stream::line_of(&read).unwrap(), line);
}

proptest! {
    #[test]
    fn every_record_is_read_back(v in values()) {
        same(&Run { run: v.hash, genesis: v.hash, netuid: v.uid.0, path: v.word().into(), local: v.there });
        same(&WindowRecord {
            window: v.window, run: v.hash, start_block: v.integer, commit_block: v.integer, end_block: v.integer,
            deadline_block: v.integer, state_block: v.integer, block: v.integer, finality_blocks: v.integer,
            seed: v.maybe(v.hash), reveal: v.maybe(v.hash), deadline_ms: v.maybe(v.integer),
        });
        same(&Peer {
            uid: v.uid, hotkey: v.key, coldkey: v.maybe(v.key), bucket: v.maybe(v.word()), stake: v.float, incentive: v.float,
            trust: v.float, dividends: v.float, permit: v.there, last_update: v.integer, registered: v.integer, own: v.there,
        });
        let page = PageRef { source: v.word(), part: v.word(), row: v.integer, rows: v.integer, blake3: v.hash };
        same(&Pages {
            window: v.window, uid: v.uid, role: v.role, pages: vec![page; 2], path: v.word().into(), bytes: v.integer,
            blake3: v.hash, tokens: v.integer,
        });
        let entry = Accepted { uid: v.uid, hotkey: v.key, blake3: v.hash, weight_u16: v.uid.0, scale: v.small };
        same(&Accept { window: v.window, accepted: vec![entry.clone(); 2], norm_median: v.float });
        same(&State {
            window: v.window, run: v.hash, root: v.hash, prev: v.maybe(v.hash), prev_window: v.maybe(v.window),
            path: v.maybe(v.word().into()), accepted: vec![entry], reveal: v.maybe(v.hash), by: v.maybe(v.key),
            signature: v.maybe(v.word()),
        });
        same(&Train {
            window: v.window, uid: v.uid, role: v.role, path: v.maybe(v.word().into()), bytes: v.integer,
            blake3: v.maybe(v.hash), base: v.hash, pages: v.hash, steps: v.integer, tokens: v.integer,
            loss_before: v.maybe(v.float), loss_after: v.maybe(v.float), tokens_per_s: v.float, cpu_s: v.float,
            device: v.word(), status: v.status, reason: v.maybe(v.word()), device_reason: v.maybe(v.word()),
            micro_batch: v.integer, checkpoint: v.there, load_s: v.float, data_s: v.float, evaluate_s: v.float,
            forward_backward_s: v.float, optimizer_s: v.float, write_s: v.float, model_flop_per_s: v.float,
            peak_share: v.maybe(v.float), peak_memory_bytes: v.integer,
        });
        same(&Commit {
            window: v.window, run: v.hash, uid: v.uid, hotkey: v.key, commitment: v.hash, signature: v.word(),
            path: v.maybe(v.word().into()), status: v.maybe(v.status), reason: v.maybe(v.word()), block: v.maybe(v.integer),
            unseen: v.there,
        });
        same(&Delta {
            window: v.window, uid: v.uid, hotkey: v.key, path: v.maybe(v.word().into()), bytes: v.integer,
            blake3: v.maybe(v.hash), codec: v.maybe(v.word()), base: v.maybe(v.hash), status: v.status,
            reason: v.maybe(v.word()), unseen: v.there,
        });
        same(&Push {
            window: v.window, uid: v.maybe(v.uid), url: v.word(), bytes: v.integer, blake3: v.hash, wall_s: v.float,
            uploaded: v.there,
        });
        same(&Pull { window: v.window, uid: v.uid, url: v.word(), bytes: v.integer, blake3: v.hash, wall_s: v.float });
        same(&Eval {
            window: v.window, uid: v.uid, role: v.role, loss_before: v.maybe(v.float), loss_after: v.maybe(v.float),
            tokens: v.integer, status: v.status,
        });
        same(&Score {
            window: v.window, uid: v.uid, hotkey: v.key, rule: v.word(), dot: v.maybe(v.float), norm: v.maybe(v.float),
            norm_ref: v.maybe(v.float), numel: v.integer, raw: v.maybe(v.float), score: v.maybe(v.float),
            reason: v.maybe(v.word()),
        });
        same(&Weights {
            window: v.window, uids: vec![v.uid; 2], hotkeys: vec![v.key; 2], weights: vec![v.float; 2],
            values_u16: vec![v.uid.0; 2], submitted: v.there, tx: v.maybe(v.hash), block: v.maybe(v.integer),
            call: v.maybe(v.word()), call_bytes: v.maybe(v.word()), reason: v.maybe(v.word()),
        });
        same(&Vote {
            window: v.window, record: v.maybe(v.hash), last: v.maybe(v.hash), reason: v.maybe(v.word()),
        });
        same(&OnChain {
            window: v.window, hotkey: v.key, commitment: v.maybe(v.hash), vote: v.maybe(v.hash), last: v.maybe(v.hash),
            by_block: v.integer, status: v.word(), submitted: v.there, tx: v.maybe(v.hash), block: v.maybe(v.integer),
            call: v.maybe(v.word()), call_bytes: v.maybe(v.word()), reason: v.maybe(v.word()),
        });
        same(&EntryRecord {
            block: v.integer, hotkey: v.key, bucket: v.maybe(v.word()), commitment_window: v.maybe(v.window),
            commitment: v.maybe(v.hash), vote_window: v.maybe(v.window), vote: v.maybe(v.hash), last: v.maybe(v.hash),
            reason: v.maybe(v.word()),
        });
    }
}
