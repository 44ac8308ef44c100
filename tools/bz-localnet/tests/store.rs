//! The bucket store as a client sees it: who writes what, and conditional writes that race.
#![allow(clippy::unwrap_used, clippy::panic)]

use aws_sdk_s3::{
    Client, Config,
    config::{Credentials, Region},
    primitives::ByteStream,
};
use bz_localnet::store::{self, Keys};

async fn start(folder: &std::path::Path, keys: Keys) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = store::service(&folder.join("buckets"), keys).unwrap();
    tokio::spawn(store::serve(listener, service));
    address
}

fn client(address: &str, key: Option<(String, String)>) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new("us-east-1"))
        .endpoint_url(address)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    let config = match key {
        Some((access, secret)) => config.credentials_provider(Credentials::new(access, secret, None, None, "test")),
        None => config.allow_no_auth(),
    };
    Client::from_conf(config.build())
}

fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    value: u8,
) -> aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder {
    client.put_object().bucket(bucket).key(key).body(ByteStream::from(vec![value; 100_000]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_writes_only_its_own_bucket_and_everybody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new(folder.path().join("keys.json"));
    let address = start(folder.path(), keys.clone()).await;
    for bucket in ["aaa", "bbb"] {
        std::fs::create_dir_all(folder.path().join("buckets").join(bucket)).unwrap();
    }
    // A key that is made while the store runs counts at once.
    let a = client(&address, Some(keys.of_bucket("aaa").unwrap()));
    let b = client(&address, Some(keys.of_bucket("bbb").unwrap()));
    let nobody = client(&address, None);
    let (access, _) = keys.of_bucket("aaa").unwrap();
    let forger = client(&address, Some((access, "0".repeat(32))));
    put(&a, "aaa", "k/x", 1).send().await.unwrap();
    let status = |code: Option<u16>| code.unwrap_or(0);
    for (who, bucket) in [(&b, "aaa"), (&a, "bbb"), (&nobody, "aaa"), (&forger, "aaa")] {
        let error = put(who, bucket, "k/x", 9).send().await.unwrap_err();
        assert_eq!(status(error.raw_response().map(|r| r.status().as_u16())), 403, "{bucket}");
        assert!(who.delete_object().bucket(bucket).key("k/x").send().await.is_err());
    }
    for who in [&a, &b, &nobody] {
        let body = who.get_object().bucket("aaa").key("k/x").send().await.unwrap().body.collect().await.unwrap();
        assert_eq!(body.to_vec(), vec![1; 100_000]);
    }
    assert!(nobody.get_object().bucket("aaa").key("absent").send().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_their_owners_and_no_web_page_reads() {
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let keys = Keys::new(path.clone());
    let made = keys.of_bucket("aaa").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(keys.of_bucket("aaa").unwrap(), made);
    let address = start(folder.path(), keys.clone()).await;
    let address = address.strip_prefix("http://").unwrap().to_string();
    let asking = tokio::task::spawn_blocking(move || {
        let status = |headers: &str| {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            stream.write_all(format!("GET /aaa/x HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.split(' ').nth(1).unwrap().to_string()
        };
        assert_eq!(status(&format!("Host: {address}\r\n")), "404");
        assert_eq!(status(&format!("Host: {address}\r\nOrigin: https://example.org\r\n")), "403");
        assert_eq!(status("Host: example.org\r\n"), "403");
    });
    asking.await.unwrap();
    // A file that cannot be read is not written anew: the keys in it are somebody's.
    std::fs::write(&path, "{").unwrap();
    assert!(keys.of_bucket("bbb").is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"{");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixteen_racing_creators_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new(folder.path().join("keys.json"));
    let address = start(folder.path(), keys.clone()).await;
    std::fs::create_dir_all(folder.path().join("buckets/aaa")).unwrap();
    let a = client(&address, Some(keys.of_bucket("aaa").unwrap()));
    for round in 0..5 {
        let key = format!("race/{round}");
        let tasks: Vec<_> = (0..16).map(|i| tokio::spawn(put(&a, "aaa", &key, i).if_none_match("*").send())).collect();
        let mut winners = 0;
        for task in tasks {
            winners += usize::from(task.await.unwrap().is_ok());
        }
        assert_eq!(winners, 1, "round {round}");
    }
}
