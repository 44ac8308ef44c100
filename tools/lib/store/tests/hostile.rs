//! Buckets that answer without end: time and memory stay bounded, and the verdict is the status.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use store::{Bucket, Fault, Pool};

/// Serves every request with this head and then a body that never ends; the most that was taken by one request. What
/// lies in the sockets of the system counts too.
fn endless(head: &'static str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/bucket", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicU64::new(0));
    let counter = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counter) = (stream.unwrap(), counter.clone());
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 8192]);
                let mut taken = 0;
                let mut chunk = head.as_bytes().to_vec();
                while stream.write_all(&chunk).is_ok() {
                    taken += chunk.len() as u64;
                    counter.fetch_max(taken, Ordering::Relaxed);
                    chunk = vec![b'x'; 64 << 10];
                }
            });
        }
    });
    (address, taken)
}

const MOST: u64 = 16 << 20;

#[test]
fn an_endless_error_is_not_read_into_memory() {
    let pool = Pool::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (head, wanted) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n\r\n", Fault::Denied),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Fault::Missing),
    ] {
        let (address, taken) = endless(head);
        let bucket = Bucket::peer(&address, true).unwrap();
        let since = Instant::now();
        let got = pool.run(bucket.get("key", 1 << 30, &folder.path().join("got"))).unwrap_err();
        assert_eq!(got, wanted, "{head}");
        assert!(since.elapsed() < Duration::from_secs(20), "{head}");
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < MOST, "{head}: {taken} bytes were taken");
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let pool = Pool::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (elsewhere, taken) = endless("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd");
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let head = format!("HTTP/1.1 {status}\r\nLocation: {elsewhere}/key\r\nContent-Length: 0\r\n\r\n");
        let (address, _) = endless(head.leak());
        let bucket = Bucket::peer(&address, true).unwrap();
        assert!(pool.run(bucket.get("key", 1 << 20, &folder.path().join("got"))).is_err(), "{status}");
    }
    assert_eq!(taken.load(Ordering::Relaxed), 0, "nobody went there");
}

#[test]
fn a_download_that_is_given_up_leaves_nothing() {
    let pool = Pool::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/bucket", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        // Half of what was promised, and then nothing.
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 8192]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").unwrap();
        std::thread::sleep(Duration::from_secs(60));
    });
    let bucket = Bucket::peer(&address, true).unwrap();
    let got = pool.run(bucket.get_within("key", 1 << 20, &folder.path().join("got"), Duration::from_secs(1)));
    assert!(matches!(got, Err(Fault::Unreachable(_))), "{got:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_endless_list_is_not_read_into_memory() {
    let pool = Pool::new().unwrap();
    let (address, taken) = endless("HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n\r\n");
    let bucket = Bucket::peer(&address, true).unwrap();
    assert!(pool.run(bucket.folders("")).is_err());
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < MOST, "{taken} bytes were taken");
}

#[test]
fn an_object_without_end_stops_at_its_cap() {
    let pool = Pool::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (address, taken) = endless("HTTP/1.1 200 OK\r\n\r\n");
    let bucket = Bucket::peer(&address, true).unwrap();
    let path = folder.path().join("got");
    assert_eq!(pool.run(bucket.get("key", 1 << 20, &path)).unwrap_err(), Fault::TooLarge(1 << 20));
    assert!(taken.load(Ordering::Relaxed) < MOST);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of it");
}
