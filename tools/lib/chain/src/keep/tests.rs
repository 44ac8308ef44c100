//! The writer of the facts, with the reader beside it.

use super::*;
use crate::{
    client::Chain,
    facts::{Facts, folder, whole_lines},
    network::ChainArgs,
};
use proptest::prelude::*;
use record::{Home, Hotkey, Uid};
use std::time::Duration;

fn args() -> ChainArgs {
    ChainArgs { network: vec!["ws://127.0.0.1:9".into()], netuid: 3, mechanism: 0 }
}

fn identity() -> Identity {
    let nodes = args().digest().unwrap();
    Identity { genesis: Hash([9; 32]), netuid: 3, mechanism: 0, nodes, local: true }
}

fn block(number: u64) -> Block {
    let time_ms = (!number.is_multiple_of(7)).then_some(number * 12_000);
    Block { number, hash: record::Hash::derive("test", &number.to_le_bytes()), time_ms }
}

fn blocks(numbers: std::ops::Range<u64>) -> Vec<Block> {
    numbers.map(block).collect()
}

fn begin(home: &Home) -> Keeper {
    Keeper::begin(&folder(home), identity()).unwrap()
}

fn now(last: u64) -> Now {
    Now { spec: 7, last: block(last), best: last + 2 }
}

#[test]
fn what_is_written_is_read_while_somebody_writes_and_after() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    assert!(Facts::of(&args(), &home).unwrap().is_none(), "nothing is there");
    let mut keeper = begin(&home);
    let facts = Facts::of(&args(), &home).unwrap().unwrap();
    assert!(facts.live().is_none(), "it has not caught up");
    keeper.append(&blocks(1000..1030)).unwrap();
    keeper.head(now(1029)).unwrap();
    let head = facts.live().unwrap();
    assert_eq!((head.number, head.hash, head.best, head.spec, head.local), (1029, block(1029).hash, 1031, 7, true));
    for number in 1000..1030 {
        assert_eq!(facts.block(number), Some(block(number)), "over the border of two files");
        assert_eq!(facts.time_ms(block(number).hash), block(number).time_ms);
    }
    assert_eq!((facts.block(999), facts.block(1030), facts.time_ms(Hash([1; 32]))), (None, None, None));
    drop(keeper);
    assert!(facts.live().is_none(), "nobody writes any more");
    assert_eq!(facts.block(1005), Some(block(1005)), "what is final stays");
    // Other nodes, another subnet, another mechanism: not ours.
    let other = |change: fn(&mut ChainArgs)| {
        let mut other = args();
        change(&mut other);
        Facts::of(&other, &home).unwrap().is_none()
    };
    assert!(other(|args| args.network = vec!["ws://127.0.0.1:10".into()]));
    assert!(other(|args| args.netuid = 4));
    assert!(other(|args| args.mechanism = 1));
}

/// Nobody listens at the node's address: what is answered comes from the facts.
#[test]
fn with_a_follower_no_node_is_asked() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    assert_eq!(Chain::open(&args(), &home).err().unwrap().code, Code::Again, "it has not caught up");
    keeper.append(&blocks(50..61)).unwrap();
    keeper.peers(50, block(50).hash, Vec::new()).unwrap();
    keeper.head(now(60)).unwrap();
    let chain = Chain::open(&args(), &home).unwrap();
    assert_eq!((chain.genesis, chain.finalized().unwrap(), chain.best().unwrap()), (Hash([9; 32]), 60, 62));
    assert!(chain.is_localnet().unwrap());
    assert_eq!(chain.block_hash(55).unwrap(), Some(block(55).hash));
    assert_eq!(chain.agreed_hash(55).unwrap(), Some(block(55).hash));
    assert_eq!(chain.time_ms(block(55).hash).unwrap(), 55 * 12_000);
    assert!(chain.peers_at(50, block(50).hash, None).unwrap().is_empty());
    assert!(chain.members_at(50, block(50).hash).unwrap().unwrap().is_empty());
    // A block that comes while it is waited for.
    let mut told = Vec::new();
    std::thread::scope(|scope| {
        let keeper = &mut keeper;
        scope.spawn(move || {
            for number in 61..65 {
                std::thread::sleep(Duration::from_millis(30));
                keeper.append(&[block(number)]).unwrap();
                keeper.head(now(number)).unwrap();
            }
        });
        assert_eq!(chain.wait_for(63, |number| told.push(number)).unwrap(), block(63).hash);
    });
    assert_eq!(told, [60, 61, 62, 63]);
    // The follower ends: the node is asked, and is not there. What is final stays.
    drop(keeper);
    assert_eq!(chain.finalized().unwrap_err().code, Code::Again);
    assert_eq!(chain.block_hash(64).unwrap(), Some(block(64).hash));
}

#[test]
fn facts_of_another_chain_do_not_pass_for_a_public_one() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let finney = ChainArgs { network: vec!["finney".into()], ..args() };
    let identity = Identity { nodes: finney.digest().unwrap(), ..identity() };
    let mut keeper = Keeper::begin(&folder(&home), identity).unwrap();
    keeper.append(&blocks(5..6)).unwrap();
    keeper.head(now(5)).unwrap();
    let report = Chain::open(&finney, &home).err().unwrap();
    assert_eq!(report.code, Code::Config);
    for genesis in [identity.genesis, finney.pinned().unwrap().unwrap().1] {
        assert!(report.error.contains(&genesis.to_string()), "{report}");
    }
}

#[test]
fn a_head_of_long_ago_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    keeper.append(&blocks(5..6)).unwrap();
    let facts = Facts::of(&args(), &home).unwrap().unwrap();
    keeper.write_head(now(5), now_ms() - 60_000).unwrap();
    assert!(facts.live().is_none());
    keeper.write_head(now(5), now_ms() + 60_000).unwrap();
    assert!(facts.live().is_none(), "nor one of a clock that was set back");
    keeper.head(now(5)).unwrap();
    assert!(facts.live().is_some());
}

#[test]
fn after_a_kill_it_goes_on_after_the_last_whole_line() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    keeper.append(&blocks(2040..2051)).unwrap();
    drop(keeper);
    let path = blocks_path(&folder(&home), 2);
    let whole = std::fs::read(&path).unwrap();
    let (kept, length) = whole_lines(&whole);
    assert_eq!((kept.len(), length), (3, whole.len()));
    // Cut at every byte of the last line; filled with zeros, as a file system may after a loss of power.
    let line = whole.len() / 3;
    for cut in 1..line {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let facts = Facts::of(&args(), &home).unwrap().unwrap();
        assert_eq!((facts.block(2049), facts.block(2050)), (Some(block(2049)), None));
        let mut keeper = begin(&home);
        assert_eq!(keeper.last(), Some(block(2049)), "cut by {cut}");
        keeper.append(&blocks(2050..2052)).unwrap();
        drop(keeper);
        assert_eq!(std::fs::read(&path).unwrap()[..whole.len()], whole[..]);
        std::fs::write(&path, &whole).unwrap();
    }
    let mut zeros = whole.clone();
    zeros.resize(whole.len() + 4096, 0);
    std::fs::write(&path, &zeros).unwrap();
    drop(begin(&home));
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    // A file in which nothing is whole goes; the one before it counts.
    std::fs::write(&path, &whole[..10]).unwrap();
    std::fs::write(folder(&home).join("peers/.part-x"), "half").unwrap();
    let keeper = begin(&home);
    assert_eq!(keeper.last(), Some(block(2047)));
    assert!(!path.exists() && !folder(&home).join("peers/.part-x").exists());
}

#[test]
fn a_write_that_fails_leaves_no_half_line_before_the_next() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    keeper.append(&blocks(1..4)).unwrap();
    // As a full disk leaves it: one line whole that was not counted, one half.
    let path = blocks_path(&folder(&home), 0);
    let mut left = std::fs::read(&path).unwrap();
    left.extend(serde_json::to_vec(&block(4)).unwrap());
    left.extend(b"\n{\"number\":5,\"ha");
    std::fs::write(&path, left).unwrap();
    keeper.open = None;
    keeper.append(&blocks(4..7)).unwrap();
    assert_eq!(read_blocks(&path).unwrap().0, blocks(1..7));
}

#[test]
fn one_follower_a_folder_and_one_chain() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let keeper = begin(&home);
    assert_eq!(Keeper::begin(&folder(&home), identity()).unwrap_err().code, Code::Again);
    drop(keeper);
    let before = std::fs::read(head_path(&folder(&home))).unwrap();
    for other in [
        Identity { genesis: Hash([8; 32]), ..identity() },
        Identity { netuid: 4, ..identity() },
        Identity { mechanism: 1, ..identity() },
    ] {
        let report = Keeper::begin(&folder(&home), other).unwrap_err();
        assert_eq!(report.code, Code::Config);
        assert!(report.error.contains(&identity().genesis.to_string()), "{report}");
        assert!(report.error.contains(&other.genesis.to_string()), "{report}");
    }
    assert_eq!(std::fs::read(head_path(&folder(&home))).unwrap(), before);
    drop(begin(&home));
}

#[test]
fn what_other_nodes_told_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    keeper.append(&blocks(40..50)).unwrap();
    keeper.peers(40, block(40).hash, Vec::new()).unwrap();
    keeper.head(now(49)).unwrap();
    drop(keeper);
    assert_eq!(begin(&home).last(), Some(block(49)), "the same nodes told it");
    let others = Identity { nodes: Hash([1; 32]), ..identity() };
    let keeper = Keeper::begin(&folder(&home), others).unwrap();
    assert!(keeper.last().is_none() && !keeper.has_peers(40));
    assert!(keeper.block(45).unwrap().is_none() && !peers_path(&folder(&home), 40).exists());
    drop(keeper);
    // Nor do they come back with the nodes.
    assert_eq!(begin(&home).last(), None);
}

#[test]
fn what_is_old_goes_and_what_is_within_the_bounds_stays() {
    let root = tempfile::tempdir().unwrap();
    let home = Home(root.path().into());
    let mut keeper = begin(&home);
    // A block in each of the first files, peers at some of them, then the last one, far on.
    let last = BLOCKS + 5 * SEGMENT;
    for segment in 0..7 {
        keeper.append(&[block(segment * SEGMENT + 1)]).unwrap();
        keeper.peers(segment * SEGMENT, Hash([1; 32]), Vec::new()).unwrap();
    }
    keeper.append(&[block(last)]).unwrap();
    keeper.prune(24).unwrap();
    let found = |name: &str, ending: &str| numbered(&folder(&home).join(name), ending);
    assert_eq!(found("blocks", ".jsonl"), [5, 6, last / SEGMENT]);
    assert_eq!(found("peers", ".json"), [5 * SEGMENT, 6 * SEGMENT]);
    // Long windows keep more blocks; short ones no more peers than so many.
    keeper.prune(BLOCKS).unwrap();
    assert_eq!(found("blocks", ".jsonl").len(), 3);
    for number in 0..PEERS as u64 + 3 {
        std::fs::write(peers_path(&folder(&home), last + number), "{}").unwrap();
        keeper.peers.insert(last + number);
    }
    keeper.prune(4).unwrap();
    let kept = found("peers", ".json");
    assert_eq!((kept.len(), kept[0], *kept.last().unwrap()), (PEERS, last + 3, last + PEERS as u64 + 2));
    // What a follower that starts again finds is what is left.
    drop(keeper);
    let keeper = begin(&home);
    assert!(keeper.has_peers(last + 3) && !keeper.has_peers(last + 2));
    assert_eq!(keeper.block(5 * SEGMENT + 1).unwrap(), Some(block(5 * SEGMENT + 1)));
    assert_eq!(keeper.block(4 * SEGMENT + 1).unwrap(), None);
    for spec in [5, 6, 7] {
        keeper.metadata(spec, b"x").unwrap();
    }
    assert_eq!(found("metadata", ".scale"), [6, 7]);
    keeper.metadata(7, b"y").unwrap();
    assert_eq!(found("metadata", ".scale"), [6, 7]);
}

fn peer() -> impl Strategy<Value = Peer> {
    // Whatever a number's digits are, the same bits come back.
    let share = || (0..=u16::MAX).prop_map(|share| f64::from(share) / 65535.0);
    let stake = any::<u64>().prop_map(|rao| rao as f64 / 1e9);
    let text = prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
    let keys = (any::<[u8; 32]>(), prop::option::of(any::<[u8; 32]>()), prop::option::of(text));
    let rest = (any::<u16>(), any::<bool>(), any::<u64>(), any::<u64>());
    ((stake, share(), share(), share()), keys, rest).prop_map(|(numbers, keys, rest)| {
        let (stake, incentive, trust, dividends) = numbers;
        let (hotkey, coldkey, bucket) = (Hotkey(keys.0), keys.1.map(Hotkey), keys.2);
        let (uid, permit, last_update, registered) = rest;
        serde_json::from_value(serde_json::json!({
            "uid": Uid(uid), "hotkey": hotkey, "coldkey": coldkey, "bucket": bucket, "stake": stake,
            "incentive": incentive, "trust": trust, "dividends": dividends, "permit": permit,
            "last_update": last_update, "registered": registered, "self": false,
        }))
        .unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn peers_come_back_to_the_bit(peers in prop::collection::vec(peer(), 0..20), number in any::<u64>()) {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        keeper.peers(number, block(1).hash, peers.clone()).unwrap();
        let facts = Facts::of(&args(), &home).unwrap().unwrap();
        prop_assert_eq!(facts.peers(number, Hash([0; 32])), None);
        prop_assert_eq!(facts.peers(number, block(1).hash), Some(peers));
    }

    #[test]
    fn blocks_come_back_whatever_their_gaps(steps in prop::collection::vec(1u64..3000, 1..40)) {
        let root = tempfile::tempdir().unwrap();
        let home = Home(root.path().into());
        let mut keeper = begin(&home);
        let numbers = steps.iter().scan(0u64, |number, step| { *number += step; Some(*number) });
        let all: Vec<Block> = numbers.map(block).collect();
        for some in all.chunks(7) {
            keeper.append(some).unwrap();
        }
        let facts = Facts::of(&args(), &home).unwrap().unwrap();
        for block in &all {
            prop_assert_eq!(facts.block(block.number), Some(*block));
            let next = facts.block(block.number + 1);
            prop_assert_eq!(next, all.iter().find(|other| other.number == block.number + 1).copied());
        }
        drop(keeper);
        prop_assert_eq!(begin(&home).last(), all.last().copied());
    }

    #[test]
    fn foreign_bytes_are_no_blocks(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (blocks, length) = whole_lines(&bytes);
        prop_assert!(length <= bytes.len());
        prop_assert!(blocks.windows(2).all(|two| two[0].number < two[1].number));
    }
}
