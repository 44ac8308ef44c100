//! Buckets that answer without end, late, with errors or not at all: time and memory stay bounded, and the verdict is
//! the status.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use store::{Address, Bucket, Fault, Pool};

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

/// Answers each request with the next of these, the last one for ever; the methods of the requests.
fn answering(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/bucket", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    std::thread::spawn(move || {
        for (place, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |digits| digits.trim().parse().unwrap());
            let _ = stream.read_exact(&mut vec![0; length]);
            log.lock().unwrap().push(head.split(' ').next().unwrap().into());
            let _ = stream.write_all(answers[place.min(answers.len() - 1)].as_bytes());
            // What is closed with something unread takes the answer with it.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    (address, asked)
}

fn answer(status: &str, rest: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{rest}\r\n")
}

fn own(address: &str) -> Bucket {
    Bucket::own(Address::parse(address).unwrap(), "us-east-1", "id".into(), "secret".into()).unwrap()
}

#[test]
fn a_bucket_where_nobody_listens_is_given_up_within_seconds() {
    let pool = Pool::new().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let since = Instant::now();
    let report = pool.run(own(&format!("http://127.0.0.1:{port}/bucket")).put("key", file.path())).unwrap_err();
    let took = since.elapsed();
    assert_eq!(report.code, record::Code::Again);
    assert!(report.error.contains("Connection refused") && !report.hints.is_empty(), "{report}");
    // Tried more than once, and not for long.
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_bucket_that_is_overloaded_is_tried_again_and_what_is_there_is_not_sent() {
    let pool = Pool::new().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"an object").unwrap();
    let empty = "Content-Length: 0\r\n";
    let (address, asked) = answering(vec![
        answer("404 Not Found", empty),
        answer("503 Slow Down", empty),
        answer("200 OK", "ETag: \"1\"\r\nContent-Length: 0\r\n"),
    ]);
    assert!(pool.run(own(&address).put("key", file.path())).unwrap());
    assert_eq!(*asked.lock().unwrap(), ["head", "put", "put"]);
    let hash = blake3::hash(b"an object").to_hex();
    let there = format!("Content-Length: 9\r\nx-amz-meta-blake3: {hash}\r\n");
    let (address, asked) = answering(vec![answer("200 OK", &there)]);
    assert!(!pool.run(own(&address).put("key", file.path())).unwrap());
    assert_eq!(*asked.lock().unwrap(), ["head"]);
}

#[test]
fn an_upload_ends_when_its_time_is_over() {
    let pool = Pool::new().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    // Connections are taken by the system, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bucket = own(&format!("http://{}/bucket", listener.local_addr().unwrap()));
    let since = Instant::now();
    let until = Some(since + Duration::from_millis(500));
    assert!(pool.run_until(until, bucket.put("key", file.path())).is_none());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(pool.run_until(None, async { 7 }), Some(7));
}

#[test]
fn what_a_killed_download_left_goes_with_the_next_one() {
    let pool = Pool::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".part-got-1"), "of one that was killed").unwrap();
    let (address, _) = answering(vec![answer("200 OK", "Content-Length: 4\r\n\r\nabcd")]);
    let bucket = Bucket::peer(&address, true).unwrap();
    pool.run(bucket.get("key", 1 << 20, &folder.path().join("got"))).unwrap();
    let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["got"]);
}
