//! Upload to the own bucket what the stream has of ours: commitment, delta, state.
//!
//! Objects: `{run}/{window}/{hotkey}/commit.json`, `…/delta.safetensors`; a validator's also `{run}/hparams.json`,
//! `{run}/deltas/{blake3}`, `{run}/{window}/state.json`, the record last, so that who reads it finds what it names.
//! With `--mirror` it sends the states of others too: a network whose publisher goes away keeps what it published.

use record::{
    Hash, Hotkey, Report, Stream, Uid, Window,
    cli::{Common, DryRun, note},
    files,
    progress::Progress,
    records::{Commit, Delta, Push, State, Status},
    stream::Inputs,
};
use run::Settings as _;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use store::{Bucket, OwnArgs, Pool};
use wallet::WalletArgs;

/// Upload to the own bucket.
#[derive(clap::Parser)]
#[command(name = "bz-push", version, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    dry: DryRun,
    #[command(flatten)]
    own: OwnArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    /// Send what others signed too: the states that were followed, and their deltas
    #[arg(long)]
    mirror: bool,
    /// Give up after so much time, with 75; what was sent by then stays [default: no end but that of each object]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    within: Option<u64>,
}

const HELP: &str = "\
The own bucket is BZ_BUCKET, its key BZ_ACCESS_KEY and BZ_SECRET_KEY (see .env.example). What is there already is not
sent again. The input has to be closed by an `end`: half a stream is not published.

Examples:
  bz-train < pages | bz-delta commit | bz-push > commit
  bz-window --wait reveal < commit | bz-delta make | bz-push > receipt
  bz-push --mirror --within 60 < state                 what was followed, for a minute at most
  bz-push -n < receipt | jq -r 'select(.type==\"push\").url'   what would be sent, and where?

Exit codes: 75 the bucket cannot be reached (two seconds where nobody listens, half a minute where it is overloaded), or
--within is over.
See also: bz-pull, bz-delta";

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    if !inputs.closed && !args.dry.dry_run {
        return Err(Report::data("the input is not closed by an `end`: the stage before did not finish")
            .hint("look at its error; --dry-run shows what would be sent"));
    }
    let until = args.within.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let (_, run) = args.common.run(&inputs)?;
    let sender = Sender { own: args.wallet.public()?, run, until, args: &args };
    // What is wrong with the address is said before anything is sent, and by a dry run as well.
    let address = args.own.address()?;
    let target = if args.dry.dry_run { None } else { Some((Pool::new()?, args.own.open()?)) };
    // A dry run asks the bucket too, what it has of ours already, where it can: that changes nothing there.
    let asked = if args.dry.dry_run { args.own.open().ok().zip(Pool::new().ok()) } else { None };
    let asked = asked.map(|(bucket, pool)| (pool, bucket));
    let sends = sender.objects(&inputs, target.as_ref().or(asked.as_ref()))?;
    let mut progress = Progress::new(args.common.quiet, stream.tool(), sends.len() as u64, "objects");
    for (place, (window, uid, key, path)) in sends.iter().enumerate() {
        let (bytes, blake3) = files::digest(path)?;
        let started = Instant::now();
        let uploaded = match &target {
            Some((pool, bucket)) => pool
                .run_until(until, bucket.put(key, path))
                .unwrap_or_else(|| Err(sender.over(&format!("{place} of {} objects are there", sends.len()))))?,
            None => false,
        };
        // Never the setting as it stands: it may hold what nobody has to see.
        let url = address.as_ref().map_or_else(|| format!("BZ_BUCKET/{key}"), |address| address.url(key));
        let wall_s = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        progress.advance(1, key);
        let what = match (uploaded, args.dry.dry_run) {
            (true, _) => "sent",
            (false, true) => "would be sent",
            (false, false) => "there already",
        };
        args.common.say(stream.tool(), format!("{url}: {what}"));
        stream.emit(&Push { window: *window, uid: *uid, url, bytes, blake3, wall_s, uploaded })?;
    }
    Ok(())
}

/// One object to send: of which window, whose, under which key, from which file.
type Object = (Window, Option<Uid>, String, PathBuf);

/// What finds the objects of a stream.
struct Sender<'a> {
    args: &'a Args,
    own: Hotkey,
    run: Hash,
    until: Option<Instant>,
}

impl Sender<'_> {
    /// All that the input has of ours to send, and with `--mirror` of others, in the order in which it is sent.
    fn objects(&self, inputs: &Inputs, target: Option<&(Pool, Bucket)>) -> Result<Vec<Object>, Report> {
        let (own, run) = (self.own, self.run);
        let mut sends: Vec<Object> = Vec::new();
        let commits: Vec<Commit> = inputs.all()?;
        if let Some(commit) = commits.iter().rfind(|c| c.hotkey == own)
            && let Some(path) = &commit.path
        {
            let key = format!("{run}/{}/{own}/commit.json", commit.window);
            sends.push((commit.window, Some(commit.uid), key, path.clone()));
        }
        let deltas: Vec<Delta> = inputs.all()?;
        if let Some(delta) = deltas.iter().rfind(|d| d.hotkey == own && d.status == Status::Ok)
            && let Some(path) = &delta.path
        {
            let key = format!("{run}/{}/{own}/delta.safetensors", delta.window);
            sends.push((delta.window, Some(delta.uid), key, path.clone()));
        }
        // Every state that was made or followed here.
        let states: Vec<State> = inputs.all()?;
        for state in states.iter().filter(|s| s.path.is_some() && s.by.is_some()) {
            if state.by == Some(own) {
                for before in self.unpublished(state, target)? {
                    sends.extend(self.state_objects(&before, &deltas)?);
                }
                sends.extend(self.state_objects(state, &deltas)?);
            } else if self.args.mirror {
                // What was removed here since is mirrored by others.
                match self.state_objects(state, &deltas) {
                    Ok(objects) => sends.extend(objects),
                    Err(why) => self.args.common.say("bz-push", format!("window {} is left out: {why}", state.window)),
                }
            }
        }
        if sends.is_empty() && states.is_empty() {
            return Err(Report::data(format!("the input has nothing of {own} to send"))
                .hint("it sends the wallet's own commitment, delta or state: --wallet, --hotkey"));
        }
        Ok(sends)
    }

    fn not_asked(&self, why: impl std::fmt::Display) {
        if !self.args.common.quiet {
            let what = "earlier states that it may lack are not listed";
            note("bz-push", format!("the bucket is not asked what it has ({why}): {what}"));
        }
    }

    fn over(&self, what: &str) -> Report {
        Report::again(format!("not done within {} s: {what}", self.args.within.unwrap_or_default()))
            .hint("the same command goes on from there")
    }

    /// Our states before one of ours that were made here and never reached the bucket, oldest first: without them
    /// nobody gets from what is published to the new one. Where the bucket cannot be asked, which only a dry run goes on
    /// with, it is said that these are not known.
    fn unpublished(&self, state: &State, target: Option<&(Pool, Bucket)>) -> Result<Vec<State>, Report> {
        let mut missing = Vec::new();
        let mut base = state.prev_window;
        while let Some(window) = base {
            let dir = self.args.common.home().state(window);
            let Ok(mut before) = files::read_json::<State>(&dir.join("state.json")) else { break };
            if before.by != Some(self.own) || before.run != self.run {
                break;
            }
            let Some((pool, bucket)) = target else {
                self.not_asked("it has no address or key here");
                break;
            };
            let key = format!("{}/{window}/state.json", self.run);
            let there = pool.run_until(self.until, bucket.has(&key)).ok_or_else(|| self.over("nothing is sent"))?;
            if self.args.dry.dry_run
                && let Err(fault) = &there
            {
                self.not_asked(fault);
            }
            if there != Ok(false) {
                break;
            }
            base = before.prev_window;
            before.path = Some(dir);
            missing.push(before);
        }
        missing.reverse();
        Ok(missing)
    }

    fn state_objects(&self, state: &State, deltas: &[Delta]) -> Result<Vec<Object>, Report> {
        let (common, run) = (&self.args.common, self.run);
        let mut objects = vec![(state.window, None, format!("{run}/hparams.json"), common.hparams_path())];
        for entry in &state.accepted {
            let path = deltas.iter().rfind(|d| d.blake3 == Some(entry.blake3)).and_then(|d| d.path.clone());
            // A state that was made before a kill is published from what was fetched for it.
            let places = state.prev_window.map(|w| common.home().window(w)).map(|dir| {
                [
                    dir.join("fetched").join(format!("{}.delta.safetensors", entry.hotkey)),
                    dir.join("accepted").join(format!("{}.safetensors", entry.blake3)),
                ]
            });
            let same = |path: &PathBuf| files::digest(path).is_ok_and(|(_, hash)| hash == entry.blake3);
            let path = path.or_else(|| places.into_iter().flatten().find(same));
            let path = path.ok_or_else(|| {
                Report::data(format!("the delta of uid {} ({}) is not in the input", entry.uid, entry.blake3))
                    .hint("a state is published with the deltas that made it: push the stream of bz-state apply")
            })?;
            objects.push((state.window, Some(entry.uid), format!("{run}/deltas/{}", entry.blake3), path));
        }
        let record = state.path.as_ref().map(|dir| dir.join("state.json"));
        let record = record.ok_or_else(|| {
            Report::data("the `state` record names no directory").hint("push the stream of bz-state apply")
        })?;
        objects.push((state.window, None, format!("{run}/{}/state.json", state.window), record));
        Ok(objects)
    }
}
