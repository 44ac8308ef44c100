//! Buckets, behind blocking calls: the own one is written with a key, peers' are read without any.
//!
//! A peer's address is hostile: it is reached without credentials, without redirects, and never on a private network
//! unless the run itself is on this machine. An object is bounded before it is read. tokio lives inside this
//! crate.

mod address;
mod bucket;

pub use address::Address;
pub use bucket::{Bucket, Fault, Fetched};

use record::{Code, Context, Report};
use std::{future::Future, time::Instant};

/// The own bucket and its key.
#[derive(clap::Args, Clone)]
pub struct OwnArgs {
    /// Address of the own bucket, such as https://ENDPOINT/BUCKET
    #[arg(long, env = "BZ_BUCKET", value_name = "URL", hide_env_values = true)]
    pub bucket: Option<String>,
    /// Region of the own bucket, where its provider asks for one
    #[arg(long, env = "BZ_REGION", value_name = "NAME", default_value = "us-east-1")]
    pub region: String,
}

impl OwnArgs {
    /// Where the own bucket is; `None` when nothing says it.
    ///
    /// # Errors
    /// Exit code 78 when it is no bucket's address, or holds a key.
    pub fn address(&self) -> Result<Option<Address>, Report> {
        let Some(text) = &self.bucket else { return Ok(None) };
        let address = Address::parse(text).map_err(|e| Report { code: Code::Config, ..e.at("BZ_BUCKET") })?;
        if address.read_key.is_some() {
            return Err(Report::config("BZ_BUCKET holds a key").hint("the own key is BZ_ACCESS_KEY and BZ_SECRET_KEY"));
        }
        Ok(Some(address))
    }

    /// The own bucket, to be written with the key in BZ_ACCESS_KEY and BZ_SECRET_KEY.
    ///
    /// # Errors
    /// Exit code 78 when it is not configured.
    pub fn open(&self) -> Result<Bucket, Report> {
        let missing = |name: &str| {
            Report::config(format!("{name} is not set"))
                .hint("the own bucket is BZ_BUCKET, its key BZ_ACCESS_KEY and BZ_SECRET_KEY; see .env.example")
        };
        let address = self.address()?.ok_or_else(|| missing("BZ_BUCKET"))?;
        let secret = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty()).ok_or_else(|| missing(name));
        Bucket::own(address, &self.region, secret("BZ_ACCESS_KEY")?, secret("BZ_SECRET_KEY")?)
    }
}

/// Wait before a bucket is looked at again.
pub async fn pause(time: std::time::Duration) {
    tokio::time::sleep(time).await;
}

/// Where many buckets are read side by side.
pub struct Pool {
    runtime: tokio::runtime::Runtime,
}

impl Pool {
    /// A pool of I/O threads.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self, Report> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .again("cannot start a runtime")?;
        Ok(Pool { runtime })
    }

    /// Run one piece of work to its end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The same until a moment, if there is one; `None` when it was not done by then, and is given up.
    pub fn run_until<T>(&self, until: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            match until {
                Some(until) => tokio::time::timeout_at(until.into(), work).await.ok(),
                None => Some(work.await),
            }
        })
    }

    /// Run all pieces of work side by side, and tell each result as soon as it is there; until all are done, or `stop`
    /// says so, which is asked several times a second. What is not done then is given up.
    ///
    /// # Errors
    /// What `stop` or `done` returns.
    pub fn each<T: Send + 'static>(
        &self,
        work: Vec<impl Future<Output = T> + Send + 'static>,
        mut stop: impl FnMut() -> Result<bool, Report>,
        mut done: impl FnMut(T) -> Result<(), Report>,
    ) -> Result<(), Report> {
        let mut set = tokio::task::JoinSet::new();
        for piece in work {
            set.spawn_on(piece, self.runtime.handle());
        }
        // Between two results no runtime is entered: `done` and `stop` may use one of their own.
        loop {
            let next = async { tokio::time::timeout(std::time::Duration::from_millis(200), set.join_next()).await };
            match self.runtime.block_on(next) {
                Ok(None) => return Ok(()),
                Ok(Some(result)) => {
                    if let Ok(value) = result {
                        done(value)?;
                    }
                }
                Err(_) => {
                    if stop()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Run all pieces of work side by side; the results in their order. One that panics is `None`: it costs no other
    /// its place.
    pub fn all<T: Send + 'static>(&self, work: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<Option<T>> {
        self.runtime.block_on(async {
            let handles: Vec<_> = work.into_iter().map(tokio::spawn).collect();
            let mut results = Vec::with_capacity(handles.len());
            for handle in handles {
                results.push(handle.await.ok());
            }
            results
        })
    }
}
