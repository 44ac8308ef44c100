//! One bucket: put, get with a cap and a resume, list.

use crate::address::{Address, may_connect};
use aws_credential_types::Credentials;
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, Region, ResponseChecksumValidation, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextMut,
        retry::{ClassifyRetry, RetryAction, RetryConfig},
        timeout::TimeoutConfig,
    },
    error::{BoxError, SdkError},
    operation::{
        get_object::GetObjectError,
        put_object::{PutObjectError, PutObjectOutput},
    },
    primitives::{ByteStream, SdkBody},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    dns::{DnsFuture, ResolveDns, ResolveDnsError},
    interceptors::context::InterceptorContext,
    orchestrator::Metadata,
};
use http_body_util::Limited;
use record::{Hash, Report, files};
use std::{
    error::Error,
    fs::File,
    io::{ErrorKind, Seek, Write},
    net::IpAddr,
    path::Path,
    time::Duration,
};

/// Attempts at one request that breaks off, is slow or is answered with 5xx: half a minute.
const ATTEMPTS: u32 = 6;
/// Pauses between the attempts to reach an own bucket where nobody listens, or whose name is unknown: two seconds in
/// all.
const PAUSES: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1200)];
/// A name is looked up within this time.
const LOOKUP_WITHIN: Duration = Duration::from_secs(3);
/// Breaks in one body that are resumed.
const RESUMES: u32 = 8;
/// Slowest transfer that is waited for, bytes a second, after the first minute.
const SLOWEST: u64 = 64 << 10;
/// A small question is answered within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Upload buffer: small ones cost four times the CPU.
const BUFFER: usize = 1 << 20;

/// One bucket.
#[derive(Clone)]
pub struct Bucket {
    client: Client,
    /// Where it is.
    pub address: Address,
}

/// Why an object could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It is larger than may be read.
    TooLarge(u64),
    /// The bucket says no.
    Denied,
    /// The bucket cannot be reached, or breaks off.
    Unreachable(String),
    /// Our own disk.
    Disk(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Missing => f.write_str("not there (404)"),
            Fault::TooLarge(cap) => write!(f, "larger than {cap} bytes"),
            Fault::Denied => f.write_str("access denied (403)"),
            Fault::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Fault::Disk(why) => f.write_str(why),
        }
    }
}

/// An object that was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: Hash,
    /// When the bucket says that it was written, milliseconds since 1970.
    pub modified_ms: Option<i64>,
}

/// Resolves names, and drops every address to which we may not be sent.
#[derive(Clone, Debug)]
struct Resolver {
    may: fn(IpAddr) -> bool,
}

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        let may = self.may;
        DnsFuture::new(async move {
            let found = tokio::time::timeout(LOOKUP_WITHIN, tokio::net::lookup_host((name, 0))).await;
            let found = found
                .map_err(|_| ResolveDnsError::new(std::io::Error::other(format!("{name} is not found in time"))))?
                .map_err(ResolveDnsError::new)?;
            let allowed: Vec<_> = found.map(|a| a.ip()).filter(|ip| may(*ip)).collect();
            if allowed.is_empty() {
                return Err(ResolveDnsError::new(std::io::Error::other(format!("{name} has no public address"))));
            }
            Ok(allowed)
        })
    }
}

/// Whether no connection was made at all: nobody listens there, no way leads there, or the name is unknown.
fn unconnected(error: &(dyn Error + 'static)) -> bool {
    use ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        let absent = |io: &std::io::Error| {
            matches!(
                io.kind(),
                AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable
            )
        };
        if error.is::<ResolveDnsError>() || io.is_some_and(absent) {
            return true;
        }
        // What an error of the system wraps is not its source.
        next = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    false
}

fn refused<E>(error: &SdkError<E>) -> bool {
    let SdkError::DispatchFailure(failure) = error else { return false };
    failure.as_connector_error().is_some_and(|error| unconnected(error))
}

/// Leaves a bucket that cannot be reached to [`reached`]: the client would try for half a minute.
#[derive(Debug)]
struct Unconnected;

impl ClassifyRetry for Unconnected {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(|error| error.as_connector_error());
        match error {
            Some(error) if unconnected(error) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }
    fn name(&self) -> &'static str {
        "Unconnected"
    }
}

/// A request to the own bucket, tried again a few times while nobody is there.
async fn reached<T, E, F: Future<Output = Result<T, SdkError<E>>>>(request: impl Fn() -> F) -> Result<T, SdkError<E>> {
    for pause in PAUSES {
        match request().await {
            Err(error) if refused(&error) => tokio::time::sleep(pause).await,
            result => return result,
        }
    }
    request().await
}

/// Bounds what a peer's bucket makes us hold in memory: of an error its status is enough, a list has a cap. What an
/// object holds goes to a file, under a cap of its own.
#[derive(Debug)]
struct SmallAnswers;

/// A list of a thousand keys of a thousand bytes fits.
const LIST_CAP: usize = 2 << 20;

impl Intercept for SmallAnswers {
    fn name(&self) -> &'static str {
        "SmallAnswers"
    }
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let object = config.load::<Metadata>().is_some_and(|m| m.name() == "GetObject");
        let answer = context.response_mut();
        if !answer.status().is_success() {
            *answer.body_mut() = SdkBody::empty();
        } else if !object {
            let body = std::mem::replace(answer.body_mut(), SdkBody::taken());
            *answer.body_mut() = SdkBody::from_body_1_x(Limited::new(body, LIST_CAP));
        }
        Ok(())
    }
}

fn config(address: &Address, region: &str) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .region(Region::new(region.to_string()))
        .endpoint_url(&address.endpoint)
        .force_path_style(true)
        // What is fetched is checked by its own hash and signature; a peer's idea of a checksum adds nothing.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .read_timeout(Duration::from_secs(30))
                .build(),
        )
}

fn why<E>(error: &SdkError<E>) -> String {
    match error {
        SdkError::TimeoutError(_) => "no answer in time".into(),
        SdkError::DispatchFailure(failure) => {
            let mut text = "no connection".to_string();
            let mut source = failure.as_connector_error().and_then(Error::source);
            while let Some(inner) = source {
                text = inner.to_string();
                source = inner.source();
            }
            text
        }
        SdkError::ServiceError(service) => format!("status {}", service.raw().status().as_u16()),
        SdkError::ResponseError(response) => format!("a wrong answer, status {}", response.raw().status().as_u16()),
        _ => "the request could not be made".into(),
    }
}

fn status<E>(error: &SdkError<E>) -> u16 {
    error.raw_response().map_or(0, |r| r.status().as_u16())
}

fn fault<E>(error: &SdkError<E>) -> Fault {
    match status(error) {
        404 => Fault::Missing,
        401 | 403 => Fault::Denied,
        _ => Fault::Unreachable(why(error)),
    }
}

impl Bucket {
    /// The own bucket, with its key.
    ///
    /// # Errors
    /// Never; the key is tried when it is used.
    pub fn own(address: Address, region: &str, access: String, secret: String) -> Result<Self, Report> {
        // The own bucket may be anywhere.
        let resolver = Resolver { may: |_| true };
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_with_resolver(resolver);
        let credentials = Credentials::new(access, secret, None, None, "boltzmann");
        let config = config(&address, region).http_client(http).retry_classifier(Unconnected);
        let config = config.credentials_provider(credentials).build();
        Ok(Bucket { client: Client::from_conf(config), address })
    }

    /// A peer's bucket: no credentials but those that it published itself, no private network unless `local`.
    ///
    /// # Errors
    /// Exit code 65 when the address is none, or points where it may not.
    pub fn peer(text: &str, local: bool) -> Result<Self, Report> {
        let address = Address::parse(text)?;
        address.allow(local)?;
        let may: fn(IpAddr) -> bool = if local { |ip| may_connect(ip, true) } else { |ip| may_connect(ip, false) };
        let http =
            Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_with_resolver(Resolver { may });
        let config = config(&address, "us-east-1").http_client(http).interceptor(SmallAnswers);
        let config = match &address.read_key {
            Some(key) => {
                config.credentials_provider(Credentials::new(&key.id, &key.secret, None, None, "published by the peer"))
            }
            None => config.allow_no_auth(),
        };
        let config = config.build();
        Ok(Bucket { client: Client::from_conf(config), address })
    }

    /// Upload a file, unless the same is there already; whether it was sent. A bucket that breaks off or is overloaded
    /// is tried for half a minute, one where nobody listens for two seconds, one whose name is not found for eleven at
    /// most.
    ///
    /// # Errors
    /// Exit code 78 when the bucket refuses the key, 75 when it cannot be reached.
    pub async fn put(&self, key: &str, path: &Path) -> Result<bool, Report> {
        let (bytes, blake3) = files::digest(path)?;
        let head = || self.client.head_object().bucket(&self.address.bucket).key(key).send();
        match tokio::time::timeout(ANSWER_WITHIN, reached(head)).await {
            Ok(Ok(head))
                if head.content_length() == Some(bytes as i64)
                    && head.metadata().and_then(|m| m.get("blake3")) == Some(&blake3.to_string()) =>
            {
                return Ok(false);
            }
            Ok(Err(error)) if refused(&error) => return Err(self.unwritten(key, &error)),
            // What it does not answer to a question it may take all the same.
            _ => {}
        }
        let send = || self.send(key, path, bytes, blake3);
        reached(send).await.map(|_| true).map_err(|error| self.unwritten(key, &error))
    }

    async fn send(
        &self,
        key: &str,
        path: &Path,
        bytes: u64,
        blake3: Hash,
    ) -> Result<PutObjectOutput, SdkError<PutObjectError>> {
        let body = ByteStream::read_from().path(path).buffer_size(BUFFER).build().await;
        let body = match body {
            Ok(body) => body,
            Err(error) => return Err(SdkError::construction_failure(error)),
        };
        let request = self
            .client
            .put_object()
            .bucket(&self.address.bucket)
            .key(key)
            .metadata("blake3", blake3.to_string())
            .body(body);
        // The read timeout runs from the first byte sent: a large file on a thin line takes long.
        let patient = TimeoutConfig::builder().read_timeout(Duration::from_secs(30 + bytes / SLOWEST)).build();
        let patient = aws_sdk_s3::Config::builder().timeout_config(patient);
        request.customize().config_override(patient).send().await
    }

    /// Why an object was not written, and what to do.
    fn unwritten<E>(&self, key: &str, error: &SdkError<E>) -> Report {
        let url = self.address.url(key);
        match status(error) {
            401 | 403 => Report::config(format!("cannot write {url}: access denied ({})", status(error)))
                .hint("the key in BZ_ACCESS_KEY and BZ_SECRET_KEY has to be one that writes this bucket"),
            404 => Report::config(format!("cannot write {url}: there is no such bucket (404)"))
                .hint("create it, or correct BZ_BUCKET"),
            _ if refused(error) => Report::again(format!("cannot write {url}: {}", why(error)))
                .hint("is BZ_BUCKET right? where nobody answers is tried for seconds only: run the same command again"),
            _ => Report::again(format!("cannot write {url}: {}", why(error)))
                .hint("the bucket may be down: the same command sends it again"),
        }
    }

    /// Fetch an object of at most `cap` bytes into a file, which appears only when it is whole.
    ///
    /// # Errors
    /// Why it could not be had.
    pub async fn get(&self, key: &str, cap: u64, path: &Path) -> Result<Fetched, Fault> {
        self.get_within(key, cap, path, Duration::from_secs(60 + cap / SLOWEST)).await
    }

    /// The same, given up after `limit`.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn get_within(&self, key: &str, cap: u64, path: &Path, limit: Duration) -> Result<Fetched, Fault> {
        match tokio::time::timeout(limit, self.get_whole(key, cap, path)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Unreachable(format!("not done after {} s", limit.as_secs()))),
        }
    }

    async fn get_whole(&self, key: &str, cap: u64, path: &Path) -> Result<Fetched, Fault> {
        let disk = |e: std::io::Error| Fault::Disk(files::io_report("write", path, &e).to_string());
        // Given up or broken, what is left of a download is of no use: it goes with the value.
        let mut part = files::part_beside(path).map_err(|report| Fault::Disk(report.to_string()))?;
        let fetched = self.download(key, cap, part.as_file_mut(), &disk).await?;
        files::persist(part, path, 0o644).map_err(disk)?;
        Ok(fetched)
    }

    async fn download(
        &self,
        key: &str,
        cap: u64,
        file: &mut File,
        disk: &impl Fn(std::io::Error) -> Fault,
    ) -> Result<Fetched, Fault> {
        let (mut done, mut etag, mut breaks) = (0u64, None::<String>, 0);
        let mut hasher = blake3::Hasher::new();
        loop {
            let mut request = self.client.get_object().bucket(&self.address.bucket).key(key);
            if done > 0 {
                // The same object, from where it broke off.
                request = request.range(format!("bytes={done}-")).set_if_match(etag.clone());
            }
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(SdkError::ServiceError(e)) if matches!(e.err(), GetObjectError::NoSuchKey(_)) => {
                    return Err(Fault::Missing);
                }
                Err(error) if status(&error) == 412 && done > 0 => {
                    // It was replaced meanwhile: from the start.
                    (done, etag) = (0, None);
                    hasher = blake3::Hasher::new();
                    file.set_len(0).and_then(|()| file.rewind()).map_err(disk)?;
                    breaks += 1;
                    if breaks > RESUMES {
                        return Err(Fault::Unreachable("it changes while it is read".into()));
                    }
                    continue;
                }
                Err(error) => return Err(fault(&error)),
            };
            let length = answer.content_length().and_then(|l| u64::try_from(l).ok());
            let whole = length.map(|l| l.saturating_add(done));
            if whole.is_some_and(|whole| whole > cap) {
                return Err(Fault::TooLarge(cap));
            }
            etag = etag.or(answer.e_tag().map(str::to_string));
            let modified_ms = answer.last_modified().and_then(|t| t.to_millis().ok());
            let mut body = answer.body;
            let broken = loop {
                match body.next().await {
                    Some(Ok(chunk)) => {
                        done += chunk.len() as u64;
                        if done > cap {
                            return Err(Fault::TooLarge(cap));
                        }
                        hasher.update(&chunk);
                        file.write_all(&chunk).map_err(disk)?;
                    }
                    Some(Err(error)) => break Some(error.to_string()),
                    None if whole.is_some_and(|whole| whole != done) => break Some("the body is cut short".into()),
                    None => break None,
                }
            };
            let Some(broken) = broken else {
                return Ok(Fetched { bytes: done, blake3: hasher.finalize().into(), modified_ms });
            };
            breaks += 1;
            if breaks > RESUMES {
                return Err(Fault::Unreachable(broken));
            }
            tokio::time::sleep(Duration::from_millis(100 << breaks.min(5))).await;
        }
    }

    /// The folders directly under a prefix, at most a thousand.
    ///
    /// # Errors
    /// Why they could not be listed.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let request = self.client.list_objects_v2().bucket(&self.address.bucket).prefix(prefix).delimiter("/");
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        let answer = answer.map_err(|_| Fault::Unreachable("no answer in time".into()))?.map_err(|e| fault(&e))?;
        let names = answer.common_prefixes().iter().filter_map(|p| p.prefix());
        Ok(names.map(|p| p.trim_end_matches('/').to_string()).collect())
    }

    /// Whether an object could be fetched, asked as those who fetch ask: nothing of it is read. A store that may not
    /// say what is absent denies it.
    ///
    /// # Errors
    /// When the bucket says no, or does not answer.
    pub async fn offers(&self, key: &str) -> Result<bool, Fault> {
        let request = self.client.get_object().bucket(&self.address.bucket).key(key);
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        match answer.map_err(|_| Fault::Unreachable("no answer in time".into()))? {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == 404 => Ok(false),
            Err(error) => Err(fault(&error)),
        }
    }

    /// Whether the bucket lets this key write: a small object is put, and removed again where it lets that, too.
    ///
    /// # Errors
    /// When the bucket is not there, or does not answer.
    pub async fn lets_write(&self, key: &str) -> Result<bool, Fault> {
        let body = ByteStream::from_static(b"a trial, to be removed\n");
        let request = self.client.put_object().bucket(&self.address.bucket).key(key).body(body);
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        match answer.map_err(|_| Fault::Unreachable("no answer in time".into()))? {
            Ok(_) => {
                // That it writes is known; a bucket that does not let it remove anything keeps a small object.
                let request = self.client.delete_object().bucket(&self.address.bucket).key(key);
                let _ = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
                Ok(true)
            }
            // Denied, or a store that only reads.
            Err(error) if matches!(status(&error), 401 | 403 | 405 | 501) => Ok(false),
            Err(error) => Err(fault(&error)),
        }
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub async fn has(&self, key: &str) -> Result<bool, Fault> {
        let request = self.client.head_object().bucket(&self.address.bucket).key(key);
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        match answer.map_err(|_| Fault::Unreachable("no answer in time".into()))? {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == 404 => Ok(false),
            Err(error) => Err(fault(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::error::ConnectorError;
    use std::io;

    #[test]
    fn nobody_there_is_told_from_what_breaks_off() {
        let of = |kind: ErrorKind| ConnectorError::io(io::Error::from(kind).into());
        for (error, absent) in [
            (of(ErrorKind::ConnectionRefused), true),
            (of(ErrorKind::NetworkUnreachable), true),
            (ConnectorError::io(ResolveDnsError::new("no such name").into()), true),
            // As a connector for TLS wraps it.
            (ConnectorError::io(io::Error::other(ResolveDnsError::new("no such name")).into()), true),
            (of(ErrorKind::ConnectionReset), false),
            (of(ErrorKind::TimedOut), false),
            (of(ErrorKind::UnexpectedEof), false),
            (ConnectorError::timeout(io::Error::from(ErrorKind::TimedOut).into()), false),
        ] {
            assert_eq!(unconnected(&error), absent, "{error:?}");
        }
    }
}
