//! The node: what a start goes on from, and whom its RPC serves.
#![allow(clippy::unwrap_used, clippy::panic)]

use bz_localnet::{blocks::Blocks, rpc};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

const ROOT: [u8; 32] = [7; 32];

#[test]
fn a_start_goes_on_from_the_last_state_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let hashes: Vec<_> = {
        let mut blocks = Blocks::open(folder.path(), &ROOT).unwrap();
        for _ in 0..800 {
            blocks.make().unwrap();
        }
        (0..=800).map(|number| blocks.hash(number).unwrap()).collect()
    };
    let log = folder.path().join("blocks.jsonl");
    assert!(folder.path().join("state").exists(), "the state of block 512 was kept when block 767 was made");
    let again = || Blocks::open(folder.path(), &ROOT);
    let all = |blocks: &Blocks| (0..=blocks.last()).map(|number| blocks.hash(number).unwrap()).collect::<Vec<_>>();
    let blocks = again().unwrap();
    assert_eq!(all(&blocks), hashes);
    assert!(blocks.state(800 - 255).is_some(), "as many states as before");
    drop(blocks);

    // The blocks before that state are not run again: they can be away.
    let lines = std::fs::read_to_string(&log).unwrap();
    let of = |from: usize| lines.lines().skip(from).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(&log, of(300)).unwrap();
    let mut blocks = again().unwrap();
    assert_eq!((blocks.last(), blocks.hash(800), blocks.hash(301)), (800, Some(hashes[800]), Some(hashes[301])));
    assert_eq!((blocks.hash(0), blocks.hash(300)), (Some(hashes[0]), None));
    assert_eq!((blocks.find(Some(hashes[512])), blocks.find(Some(hashes[5]))), (Some(512), None));
    assert_eq!(blocks.make().unwrap(), 801);
    drop(blocks);
    assert_eq!(again().unwrap().last(), 801);

    // Nor is one that was cut short by a kill: nobody was told of it.
    let cut = |text: &str| std::fs::write(&log, text).unwrap();
    cut(&lines[..lines.len() - 7]);
    assert_eq!(again().unwrap().last(), 799);
    // What is wrong is not taken, and not thrown away either.
    let wrong = [
        of(600),
        lines.lines().take(400).map(|line| format!("{line}\n")).collect(),
        lines.replacen("\"header\"", "\"other\"", 1),
        lines.lines().enumerate().filter(|(at, _)| *at != 700).map(|(_, line)| format!("{line}\n")).collect(),
    ];
    for text in wrong {
        cut(&text);
        let refused = again().map(drop).unwrap_err();
        assert_eq!(refused.code, record::Code::Data, "{refused}");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), text);
    }
}

/// Ask over HTTP; the status line and the body.
fn ask(address: SocketAddr, headers: &str, method: &str, params: &Value) -> (String, Value) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}");
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_string(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_web_page_drives_the_chain_and_a_hash_begins_with_0x() {
    let folder = tempfile::tempdir().unwrap();
    let node = Arc::new(rpc::Node::new(Blocks::open(folder.path(), &ROOT).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, _running) = jsonrpsee::server::stop_channel();
    tokio::spawn(rpc::serve(listener, rpc::module(node.clone()).unwrap(), stop));
    let asking = tokio::task::spawn_blocking(move || {
        let own = format!("Host: {address}\r\n");
        let make = |headers: &str| ask(address, headers, "dev_newBlock", &json!([{"count": 1}]));
        assert_eq!(make(&own).1["result"], 1);
        for headers in [
            format!("{own}Origin: https://example.org\r\n"),
            format!("{own}Origin: null\r\n"),
            format!("Host: example.org:{}\r\n", address.port()),
        ] {
            let (status, answer) = make(&headers);
            assert!(status.contains(" 403 ") && answer["result"].is_null(), "{headers} {status} {answer}");
        }
        // A page of this machine's own.
        assert_eq!(make(&format!("{own}Origin: http://localhost:3000\r\n")).1["result"], 2, "and no block before");

        let hash = ask(address, &own, "chain_getBlockHash", &json!([1])).1["result"].clone();
        let hash = hash.as_str().unwrap();
        let header = |hash: &str| ask(address, &own, "chain_getHeader", &json!([hash])).1;
        assert_eq!(header(hash)["result"]["number"], "0x1");
        for wrong in [&hash[2..], "0x", "", &hash[..64], "0xzz"] {
            assert_eq!(header(wrong)["error"]["code"], -32602, "{wrong}");
        }
        let storage = ask(address, &own, "state_queryStorageAt", &json!([["0x00"], &hash[2..]])).1;
        assert_eq!(storage["error"]["code"], -32602, "{storage}");
        // A fault is done as it is asked for, or not at all.
        for wrong in [
            json!({"stall_s": 100_000}),
            json!({"stall_s": -1}),
            json!({"refuse": 1.5}),
            json!({"fork": 0}),
            json!({"stal_s": 1}),
            json!({"refuse": 1, "stall_s": "9"}),
        ] {
            let answer = ask(address, &own, "dev_fault", &json!([wrong])).1;
            assert_eq!(answer["error"]["code"], -32602, "{wrong} {answer}");
        }
        assert_eq!(ask(address, &own, "dev_newBlock", &json!([{"count": 20_000}])).1["error"]["code"], -32602);

        // A payment that is asked for twice is made once, and one beyond the account is not made.
        let pay = |name: &str, rao: u64| {
            let pay =
                json!({"name": format!("0x{}", name.repeat(32)), "to": format!("0x{}", "22".repeat(32)), "rao": rao});
            ask(address, &own, "dev_fault", &json!([{"pay": pay}])).1["result"]["paid"].clone()
        };
        assert_eq!((pay("01", 5_000), pay("01", 5_000)), (json!({"block": null}), json!({"block": null})));
        assert_eq!(make(&own).1["result"], 3);
        assert_eq!((pay("01", 5_000), pay("01", 5_000)), (json!({"block": 3}), json!({"block": 3})));
        assert!(pay("02", u64::MAX)["refused"].as_str().unwrap().contains("TAO left"));
        assert_eq!(make(&own).1["result"], 4);
    });
    asking.await.unwrap();
    assert!(node.runs(), "no stall was begun");
    let named = |extrinsic: &&Vec<u8>| extrinsic.windows(32).any(|part| part == [1; 32]);
    let paid = |block: usize| node.blocks().history.get(block).unwrap().extrinsics.iter().filter(named).count();
    assert_eq!((paid(3), paid(4)), (1, 0));
}
