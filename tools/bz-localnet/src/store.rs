//! The bucket store: S3 on loopback, where each key writes only its own bucket and everybody reads.

use crate::guard;
use record::{Context, Report, files};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    path::S3Path,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One key: what it opens.
#[derive(Clone, Serialize, Deserialize)]
pub struct Key {
    /// The secret half.
    pub secret: String,
    /// The one bucket that it writes.
    pub bucket: String,
}

/// The keys of a store, by access key; read anew at each use, so that a key made while it runs counts at once.
#[derive(Clone)]
pub struct Keys {
    path: PathBuf,
}

impl Keys {
    /// The keys in a file.
    pub fn new(path: PathBuf) -> Self {
        Keys { path }
    }

    /// All of them; none where the file cannot be read: then nobody writes.
    fn all(&self) -> BTreeMap<String, Key> {
        files::read_json(&self.path).unwrap_or_default()
    }

    /// The key that writes a bucket, made when there is none; access key and secret.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn of_bucket(&self, bucket: &str) -> Result<(String, String), Report> {
        // Nodes join side by side: each waits for the one before it.
        let path = self.path.with_extension("lock");
        let lock = std::fs::File::create(&path).map_err(|e| files::io_report("create", &path, &e))?;
        lock.lock().map_err(|e| files::io_report("lock", &path, &e))?;
        // A file that is there and cannot be read is not written anew: the keys in it are of nodes that joined.
        let mut all: BTreeMap<String, Key> =
            if self.path.exists() { files::read_json(&self.path)? } else { BTreeMap::new() };
        if let Some((access, key)) = all.iter().find(|(_, key)| key.bucket == bucket) {
            return Ok((access.clone(), key.secret.clone()));
        }
        let (mut name, mut secret) = ([0u8; 10], [0u8; 16]);
        getrandom::fill(&mut name).again("cannot draw a key")?;
        getrandom::fill(&mut secret).again("cannot draw a key")?;
        let (access, secret) = (format!("BZ{}", hex::encode_upper(name)), hex::encode(secret));
        all.insert(access.clone(), Key { secret: secret.clone(), bucket: bucket.to_string() });
        files::write_private_json(&self.path, &all)?;
        Ok((access, secret))
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let key = self.all().remove(access_key);
        key.map(|key| key.secret.into()).ok_or_else(|| s3_error!(InvalidAccessKeyId, "no such key"))
    }
}

#[async_trait::async_trait]
impl S3Access for Keys {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let name = context.s3_op().name();
        let reads = ["Get", "Head", "List"].iter().any(|kind| name.starts_with(kind)) && name != "ListBuckets";
        if reads {
            return Ok(());
        }
        let bucket = match context.s3_path() {
            S3Path::Root => return Err(s3_error!(AccessDenied, "not a bucket")),
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => bucket.to_string(),
        };
        let key = context.credentials().and_then(|c| self.all().remove(&c.access_key));
        if key.is_some_and(|key| key.bucket == bucket) {
            Ok(())
        } else {
            Err(s3_error!(AccessDenied, "this key does not write this bucket"))
        }
    }
}

/// The service over a folder.
///
/// # Errors
/// When the folder cannot be opened.
pub fn service(folder: &Path, keys: Keys) -> Result<S3Service, Report> {
    files::create_dir(folder)?;
    let store = s3s_fs::FileSystem::new(folder).map_err(|e| Report::config(format!("{}: {e:?}", folder.display())))?;
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(keys.clone());
    builder.set_access(keys);
    Ok(builder.build())
}

/// Serve connections for ever.
///
/// Writes under a condition are serialised by their key: two that race would both find the place empty. Plain writes
/// are left alone, so that one stalled upload does not block the next.
pub async fn serve(listener: tokio::net::TcpListener, service: S3Service) {
    let locks: Arc<Vec<tokio::sync::Mutex<()>>> = Arc::new((0..1024).map(|_| Default::default()).collect());
    let server = Arc::new(hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new()));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        // Small answers at once.
        let _ = socket.set_nodelay(true);
        let (service, locks, server) = (service.clone(), locks.clone(), server.clone());
        tokio::spawn(async move {
            let handler = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (service, locks) = (service.clone(), locks.clone());
                async move {
                    let headers = request.headers();
                    if let Some(why) = guard::refusal(headers, request.uri()) {
                        let mut refused = hyper::Response::new(s3s::Body::from(why.to_string()));
                        *refused.status_mut() = hyper::StatusCode::FORBIDDEN;
                        return Ok(refused);
                    }
                    let conditional = headers.contains_key("if-none-match") || headers.contains_key("if-match");
                    let writes = ["PUT", "POST"].contains(&request.method().as_str());
                    let _held = if conditional && writes {
                        let mut hasher = DefaultHasher::new();
                        request.uri().path().hash(&mut hasher);
                        let place = (hasher.finish() % locks.len() as u64) as usize;
                        match locks.get(place) {
                            Some(lock) => Some(lock.lock().await),
                            None => None,
                        }
                    } else {
                        None
                    };
                    service.call(request.map(s3s::Body::from)).await
                }
            });
            // A connection that breaks is its client's affair.
            let _ = server.serve_connection(hyper_util::rt::TokioIo::new(socket), handler).await;
        });
    }
}
