//! Say on the chain where the bucket is, after it was tried as others will: without any key of ours, and with the
//! one in the address, which must not write.

use crate::{Own, records::Committed};
use chain::{Entry, Signer};
use record::{Report, Stream, cli::DryRun};
use std::hash::{BuildHasher, Hasher, RandomState};
use store::{Address, Bucket, Fault, Pool};

/// What `bz-chain bucket` takes.
#[derive(clap::Args)]
pub(crate) struct BucketArgs {
    /// Where it is, at most 384 bytes
    #[arg(env = "BZ_BUCKET")]
    address: String,
    /// The address holds a key that only reads, and everybody may see it
    #[arg(long)]
    with_key: bool,
    /// Commit it though others cannot read it at this moment
    #[arg(long)]
    untried: bool,
    #[command(flatten)]
    dry: DryRun,
}

/// What may be wrong with an address that everybody will see, before anybody is asked.
fn fit_to_publish(text: &str, with_key: bool, own_keys: &[String]) -> Result<Address, Report> {
    let address = Address::parse(text)?;
    // A key stands before the @, or is the whole of Templar's 128 characters; a host and a bucket have neither.
    let templar = text.len() == 128 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let key = text.rsplit_once('@').map(|(key, _)| key).or(templar.then_some(text));
    if key.is_some_and(|key| own_keys.iter().any(|own| key.contains(own.as_str()))) {
        return Err(Report::config("the address holds the key that writes the bucket: everybody could write it")
            .hint("commit it without a key: https://ENDPOINT/BUCKET")
            .hint("or with a read-only key of the same bucket, and --with-key"));
    }
    if key.is_some() && !with_key {
        return Err(Report::usage("the address holds a key, which everybody will see")
            .hint("--with-key commits it, if all that this key can do is read this bucket"));
    }
    Ok(address)
}

/// The name of an object that nobody has.
fn nobodys() -> String {
    // The system draws what a hash table's hashes begin with.
    let drawn = || RandomState::new().build_hasher().finish();
    format!("bz-chain-trial-{:016x}{:016x}", drawn(), drawn())
}

/// What others see of the bucket: whether they may read objects, and why they cannot list it, where they cannot.
fn seen(pool: &Pool, bucket: &Bucket) -> Result<Option<Fault>, Fault> {
    pool.run(bucket.offers(&nobodys()))?;
    match pool.run(bucket.folders("")) {
        Ok(_) => Ok(None),
        // In a bucket that is not there is no object, too.
        Err(Fault::Missing) => Err(Fault::Missing),
        Err(fault) => Ok(Some(fault)),
    }
}

/// That the key in an address, which everybody will see, does not write.
fn only_reads(pool: &Pool, bucket: &Bucket, shown: &str) -> Result<(), Report> {
    match pool.run(bucket.lets_write(&nobodys())) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Report::config(format!("the key in the address writes {shown}: everybody could write it"))
            .hint(
                "make a key that may only read this bucket (s3:GetObject, s3:ListBucket), or commit it without a key",
            )),
        Err(fault) => {
            Err(Report::again(format!("whether the key in the address writes {shown} is not known: {fault}"))
                .hint("is the address right, and the store up?"))
        }
    }
}

/// What to do about a bucket that others cannot read.
fn unreadable(shown: &str, fault: &Fault) -> Report {
    let text = format!("others cannot read {shown}: {fault}");
    let report = match fault {
        Fault::Unreachable(_) | Fault::Disk(_) => Report::again(text),
        Fault::Denied | Fault::Missing | Fault::TooLarge(_) => Report::no(text),
    };
    let report = match fault {
        Fault::Denied => {
            report.hint("let everybody read and list it (s3:GetObject, s3:ListBucket), or add a read-only key")
        }
        Fault::Missing => report.hint("is the name right, and the bucket made?"),
        Fault::Unreachable(_) | Fault::Disk(_) | Fault::TooLarge(_) => {
            report.hint("is the address right, and the store up?")
        }
    };
    report.hint("--untried commits it all the same")
}

pub(crate) fn run(args: &BucketArgs, node: &Own<'_>, stream: &mut Stream<'_>) -> Result<(), Report> {
    let (chain, hotkey) = (&node.chain, node.hotkey);
    let own = ["BZ_ACCESS_KEY", "BZ_SECRET_KEY"].into_iter().filter_map(|name| std::env::var(name).ok());
    let own: Vec<String> = own.filter(|key| !key.is_empty()).collect();
    let address = fit_to_publish(&args.address, args.with_key, &own)?;
    let shown = format!("{}/{}", address.endpoint, address.bucket);
    node.must_be_registered("bucket")?;
    // What the entry says beside the address stays.
    let entry = || -> Result<Entry, Report> {
        Ok(Entry { bucket: Some(args.address.clone()), reason: None, ..chain.entry_of(hotkey)? })
    };
    let call = node.call(&entry()?)?;
    let (pool, bucket) = (Pool::new()?, Bucket::peer(&args.address, chain.is_localnet()?)?);
    let note = |text: String| record::cli::note("bz-chain", text);
    let (readable, there) = match seen(&pool, &bucket) {
        Ok(None) => (true, true),
        Ok(Some(fault)) => {
            note(format!("others can read {shown}, and cannot list it: {fault}; s3:ListBucket lets them"));
            (true, true)
        }
        Err(fault) if args.untried => {
            note(format!("others cannot read {shown}: {fault}"));
            (false, !matches!(fault, Fault::Missing | Fault::Unreachable(_)))
        }
        Err(fault) => return Err(unreadable(&shown, &fault)),
    };
    match (address.has_key(), args.dry.dry_run) {
        (false, _) => {}
        (true, true) => note("a dry run does not try whether the key in the address writes".into()),
        (true, false) if there => only_reads(&pool, &bucket, &shown)?,
        (true, false) => note("whether the key in the address writes was not tried".into()),
    }
    let mut record = Committed {
        hotkey,
        netuid: chain.subnet.netuid,
        bucket: shown,
        readable: Some(readable),
        submitted: false,
        tx: None,
        block: None,
        call: None,
        call_bytes: None,
        reason: None,
    };
    if chain.entry_of(hotkey)?.bucket.as_deref() == Some(args.address.as_str()) {
        record.reason = Some("it is committed already".into());
        return stream.emit(&record);
    }
    if args.dry.dry_run {
        (record.call, record.call_bytes) = crate::shown(chain, &call)?;
        record.reason = Some("dry run".into());
        return stream.emit(&record);
    }
    let signer = node.wallet.open()?;
    let sign = |message: &[u8]| signer.sign(message);
    let turn = chain.turn(&node.home, hotkey)?;
    let call = node.call(&entry()?)?;
    let sent = turn.submit(&call, &Signer { account: signer.hotkey(), sign: &sign })?;
    (record.submitted, record.tx, record.block) = (true, Some(sent.tx), sent.block);
    stream.emit(&record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Code;

    #[test]
    fn what_everybody_sees_is_looked_at_first() {
        let own = ["KEYTHATWRITES".to_string(), "itssecret".to_string()];
        let code = |text: &str, with_key: bool| fit_to_publish(text, with_key, &own).err().map(|report| report.code);
        assert_eq!(code("https://s3.example.org/miner7", false), None);
        assert_eq!(code("miner-7", false), None);
        // A bucket may be called like its key, as those of bz-localnet are.
        assert_eq!(code("https://s3.example.org/itssecret", false), None);
        for typo in ["https//s3.example.org/miner7", "https://s3.example.org", "s3.example.org/miner7", "x", ""] {
            assert_eq!(code(typo, false), Some(Code::Data), "{typo}");
        }
        let keyed = "https://ID:SECRET@s3.example.org/miner7";
        assert_eq!((code(keyed, false), code(keyed, true)), (Some(Code::Usage), None));
        let templar = format!("{}{}{}", "0a".repeat(16), "1b".repeat(16), "2c".repeat(32));
        assert_eq!((code(&templar, false), code(&templar, true)), (Some(Code::Usage), None));
        for write in ["https://KEYTHATWRITES:x@s3.example.org/miner7", "https://x:itssecret@s3.example.org/miner7"] {
            let report = fit_to_publish(write, true, &own).unwrap_err();
            assert!(report.code == Code::Config && !report.to_string().contains("itssecret"), "{report}");
        }
    }

    #[test]
    fn what_others_see_is_said() {
        let text = |fault: &Fault| unreadable("https://s3.example.org/m7", fault).to_string();
        assert!(text(&Fault::Denied).contains("s3:ListBucket") && text(&Fault::Missing).contains("the name right"));
        assert_eq!(unreadable("x", &Fault::Denied).code, Code::No);
        assert_eq!(unreadable("x", &Fault::Unreachable("refused".into())).code, Code::Again);
    }
}
