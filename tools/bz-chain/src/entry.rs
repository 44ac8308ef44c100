//! What the own entry on the chain says beside the bucket's address: to which update a miner has committed, for which
//! record a validator votes; and what the entries of all say.

use crate::Own;
use chain::{Call, Chain, Entry, Signer, entry_blocks};
use record::{
    Hash, Hotkey, Report, Stream, Window,
    cli::{Common, DryRun},
    records::{Commit, EntryRecord, OnChain, Vote},
};
use run::{Hparams, Settings as _};

/// What `bz-chain commit` takes.
#[derive(clap::Args)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    dry: DryRun,
}

/// What `bz-chain vote` takes.
#[derive(clap::Args)]
pub(crate) struct VoteArgs {
    /// The window [default: that of the `vote` record of the input]
    #[arg(long, value_name = "W")]
    window: Option<Window>,
    /// Hash of the record that it stands for [default: none]
    #[arg(long, value_name = "HASH", requires = "window")]
    record: Option<Hash>,
    /// Hash of the last record that is final
    #[arg(long, value_name = "HASH", requires = "window")]
    last: Option<Hash>,
    #[command(flatten)]
    dry: DryRun,
}

/// What `bz-chain entries` takes.
#[derive(clap::Args)]
pub(crate) struct EntriesArgs {
    /// As they were at this block [default: the last finalized one]
    #[arg(long, value_name = "N")]
    block: Option<u64>,
}

/// What is to be set.
#[derive(Clone, Copy, Debug)]
enum Part {
    Commitment { commitment: Hash, run: Hash },
    Vote { record: Option<Hash>, last: Option<Hash> },
}

/// A change of the own entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    window: Window,
    part: Part,
    dry: bool,
}

/// What follows from an entry as it is.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It says so already.
    There,
    /// It is to say this.
    Set(Entry),
    /// It will not say so: the status and the reason.
    No(&'static str, String),
}

impl Change {
    /// The commitment of the input.
    pub(crate) fn commitment(args: &CommitArgs, own: Hotkey, stream: &mut Stream<'_>) -> Result<Self, Report> {
        let inputs = stream.read()?;
        is_closed(inputs.closed, args.dry)?;
        // Those that were fetched are others', and have a status.
        let is_own = |commit: &Commit| commit.hotkey == own && commit.status.is_none();
        let commit = inputs.all::<Commit>()?.into_iter().rfind(is_own).ok_or_else(|| {
            Report::data(format!("the input has no `commit` record of {own}"))
                .hint("it comes from bz-delta commit; --wallet and --hotkey say whose it is")
        })?;
        let part = Part::Commitment { commitment: commit.commitment, run: commit.run };
        Ok(Change { window: commit.window, part, dry: args.dry.dry_run })
    }

    /// The vote of the arguments, or of the input.
    pub(crate) fn vote(args: &VoteArgs, stream: &mut Stream<'_>) -> Result<Self, Report> {
        if let Some(window) = args.window {
            let part = Part::Vote { record: args.record, last: args.last };
            return Ok(Change { window, part, dry: args.dry.dry_run });
        }
        let inputs = stream.read()?;
        is_closed(inputs.closed, args.dry)?;
        let Vote { window, record, last, .. } =
            inputs.need("who checked the proposals; or name --window and --record")?;
        Ok(Change { window, part: Part::Vote { record, last }, dry: args.dry.dry_run })
    }

    /// The block at which it counts.
    fn by_block(&self, hparams: &Hparams) -> u64 {
        let [commit, tally] = entry_blocks(hparams, self.window);
        if matches!(self.part, Part::Commitment { .. }) { commit } else { tally }
    }

    fn record(&self, hotkey: Hotkey, by_block: u64) -> OnChain {
        let (commitment, vote, last) = match self.part {
            Part::Commitment { commitment, .. } => (Some(commitment), None, None),
            Part::Vote { record, last } => (None, record, last),
        };
        OnChain {
            window: self.window,
            hotkey,
            commitment,
            vote,
            last,
            by_block,
            status: String::new(),
            submitted: false,
            tx: None,
            block: None,
            call: None,
            call_bytes: None,
            reason: None,
        }
    }

    /// What to do about an entry, when the newest block is this one.
    fn next(&self, entry: &Entry, newest: u64, by_block: u64) -> Next {
        let (what, changed) = match self.part {
            Part::Commitment { commitment, .. } => ("commitment", entry.with_commitment(self.window, commitment)),
            Part::Vote { record, last } => ("vote", entry.with_vote(self.window, record, last)),
        };
        match changed {
            Err(later) => Next::No("older", format!("the chain has a {what} of window {later}, after {}", self.window)),
            Ok(changed) if changed == (Entry { reason: None, ..entry.clone() }) => Next::There,
            // The next block is the first that can have it.
            Ok(_) if newest >= by_block => {
                Next::No("late", format!("what is in block {by_block} counts, and it is block {newest}: too late"))
            }
            Ok(changed) => Next::Set(changed),
        }
    }
}

fn is_closed(closed: bool, dry: DryRun) -> Result<(), Report> {
    if closed || dry.dry_run {
        return Ok(());
    }
    Err(Report::data("the input is not closed by an `end`: the stage before did not finish")
        .hint("look at its error; --dry-run shows what would be sent"))
}

impl Own<'_> {
    /// The call that makes the own entry this one, if the chain takes it.
    pub(crate) fn call(&self, entry: &Entry) -> Result<Call, Report> {
        let fields = entry.fields()?;
        self.chain.room(self.hotkey)?.fits(&fields)?;
        Ok(Call::set_commitment(self.chain.subnet.netuid, fields.iter().map(Vec::as_slice)))
    }

    /// Who is not in the subnet has no entry.
    pub(crate) fn must_be_registered(&self, what: &str) -> Result<(), Report> {
        if self.chain.uid_of(self.hotkey)?.is_some() {
            return Ok(());
        }
        Err(Report::no(format!("the hotkey {} is not registered: it may commit no {what}", self.hotkey))
            .hint("register it first: bz-chain register"))
    }

    /// Change the own entry, once, and in time.
    pub(crate) fn set(&self, change: &Change, common: &Common, stream: &mut Stream<'_>) -> Result<(), Report> {
        let hparams = common.hparams()?;
        if let Part::Commitment { run, .. } = change.part {
            let own = hparams.run(self.chain.genesis, self.chain.subnet.netuid);
            if run != own {
                return Err(Report::config(format!("the commitment is of run {run}, this node's is {own}"))
                    .hint("hparams.json, --netuid and --network name the run"));
            }
        }
        self.must_be_registered(if matches!(change.part, Part::Vote { .. }) { "vote" } else { "update" })?;
        let by_block = change.by_block(&hparams);
        let mut record = change.record(self.hotkey, by_block);
        let next = |chain: &Chain| -> Result<Next, Report> {
            Ok(change.next(&chain.entry_of(self.hotkey)?, chain.best()?, by_block))
        };
        // Nobody waits for its turn in vain.
        let mut wanted = next(&self.chain)?;
        let mut turn = None;
        if matches!(wanted, Next::Set(_)) && !change.dry {
            turn = Some(self.chain.turn(&self.home, self.hotkey)?);
            wanted = next(&self.chain)?;
        }
        let entry = match wanted {
            Next::There => {
                (record.status, record.reason) = ("ok".into(), Some("the chain says so already".into()));
                return stream.emit(&record);
            }
            Next::No(status, reason) => {
                return ends(record, status, Report::no(reason).hint("nothing was sent"), stream);
            }
            Next::Set(entry) => entry,
        };
        if entry.bucket.is_none() {
            record::cli::note("bz-chain", "no bucket's address is on the chain: others find nothing; bz-chain bucket");
        }
        let call = match self.call(&entry) {
            Ok(call) => call,
            Err(report) => return ends(record, "full", report, stream),
        };
        let Some(turn) = turn else {
            (record.call, record.call_bytes) = crate::shown(&self.chain, &call)?;
            (record.status, record.reason) = ("dry-run".into(), Some("dry run".into()));
            return stream.emit(&record);
        };
        let signer = self.wallet.open()?;
        let sign = |message: &[u8]| signer.sign(message);
        let sent = turn.submit(&call, &Signer { account: signer.hotkey(), sign: &sign })?;
        (record.submitted, record.tx, record.block) = (true, Some(sent.tx), sent.block);
        if let Some(block) = sent.block.filter(|block| *block > by_block) {
            let report = Report::no(format!("it came into block {block}, and what is in block {by_block} counts"));
            return ends(record, "late", report.hint("send it earlier: blocks may be full"), stream);
        }
        record.status = "ok".into();
        stream.emit(&record)
    }
}

/// What was asked is said: the stream is whole, whatever the answer is.
fn ends(mut record: OnChain, status: &str, report: Report, stream: &mut Stream<'_>) -> Result<(), Report> {
    (record.status, record.reason) = (status.into(), Some(report.error.clone()));
    stream.emit(&record)?;
    stream.end()?;
    Err(report)
}

/// The entries of all at a block.
pub(crate) fn entries(args: &EntriesArgs, chain: &Chain, stream: &mut Stream<'_>) -> Result<(), Report> {
    let last = chain.finalized()?;
    let block = args.block.unwrap_or(last);
    if block > last {
        return Err(Report::again(format!("block {block} is not final yet, block {last} is"))
            .hint("bz-window --wait waits for the moments of a window"));
    }
    let hash = chain.agreed_hash(block)?;
    let hash = hash.ok_or_else(|| Report::again(format!("the node does not know block {block}")))?;
    chain.entries_at(block, hash)?.into_iter().try_for_each(|(hotkey, entry)| {
        let Entry { bucket, commitment, vote, last, reason } = entry;
        stream.emit(&EntryRecord {
            block,
            hotkey,
            bucket,
            commitment_window: commitment.map(|(window, _)| window),
            commitment: commitment.map(|(_, hash)| hash),
            vote_window: vote.map(|(window, _)| window),
            vote: vote.map(|(_, hash)| hash),
            last,
            reason,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            bucket: Some("https://s3.example.org/m".into()),
            commitment: Some((Window(7), Hash([1; 32]))),
            vote: Some((Window(6), Hash([2; 32]))),
            last: Some(Hash([3; 32])),
            reason: None,
        }
    }

    fn commitment(window: u64, hash: u8) -> Change {
        let part = Part::Commitment { commitment: Hash([hash; 32]), run: Hash([0; 32]) };
        Change { window: Window(window), part, dry: false }
    }

    fn vote(window: u64, record: Option<u8>, last: Option<u8>) -> Change {
        let of = |byte: Option<u8>| byte.map(|byte| Hash([byte; 32]));
        Change { window: Window(window), part: Part::Vote { record: of(record), last: of(last) }, dry: false }
    }

    #[test]
    fn what_is_there_is_not_sent_again_at_any_time() {
        for change in [commitment(7, 1), vote(6, Some(2), None), vote(6, Some(2), Some(3)), vote(9, None, None)] {
            assert_eq!(change.next(&entry(), 500, 100), Next::There, "{change:?}");
        }
    }

    #[test]
    fn the_last_block_that_can_have_it_is_the_one_that_counts() {
        let next = |newest: u64| commitment(8, 9).next(&entry(), newest, 100);
        assert!(matches!(next(99), Next::Set(_)), "the next block is block 100");
        for newest in [100, 101, 5000] {
            assert!(matches!(next(newest), Next::No("late", _)), "{newest}");
        }
        // It does not matter any more when, where a later window is there.
        assert!(matches!(commitment(6, 9).next(&entry(), 1, 100), Next::No("older", _)));
        assert!(matches!(vote(5, Some(9), None).next(&entry(), 1, 100), Next::No("older", _)));
    }

    #[test]
    fn one_part_is_set_and_all_others_are_kept() {
        let next = |change: Change| match change.next(&entry(), 1, 100) {
            Next::Set(entry) => entry,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(commitment(8, 9)), Entry { commitment: Some((Window(8), Hash([9; 32]))), ..entry() });
        assert_eq!(next(commitment(7, 9)), Entry { commitment: Some((Window(7), Hash([9; 32]))), ..entry() });
        let voted = Entry { vote: Some((Window(7), Hash([9; 32]))), last: Some(Hash([8; 32])), ..entry() };
        assert_eq!(next(vote(7, Some(9), Some(8))), voted);
        assert_eq!(next(vote(6, None, None)), Entry { vote: None, ..entry() });
    }
}
