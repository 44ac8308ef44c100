//! Upload to the own bucket what the stream has of ours: commitment, delta, state.
//!
//! Objects: `{run}/{window}/{hotkey}/commit.json`, `…/delta.safetensors`; a validator's also `{run}/hparams.json`,
//! `{run}/deltas/{blake3}`, `{run}/{window}/state.json`, the record last, so that who reads it finds what it names. A
//! validator also mirrors the states of others that it follows.

use record::{
    Hash, Hotkey, Report, Stream, Uid, Window,
    cli::{Common, DryRun},
    files,
    records::{Commit, Delta, Push, State},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
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
}

const HELP: &str = "\
The own bucket is BZ_BUCKET, its key BZ_ACCESS_KEY and BZ_SECRET_KEY (see .env.example). What is there already is not
sent again. The input has to be closed by an `end`: half a stream is not published.

Examples:
  bz-train < pages | bz-delta commit | bz-push > commit
  bz-window --wait reveal < commit | bz-delta make | bz-push > receipt
  bz-push --dry-run < receipt | jq -r 'select(.type==\"push\").url'      what would be sent, and where?

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
    let (_, run) = args.common.run(&inputs)?;
    let own = args.wallet.public()?;
    let mut sends: Vec<Object> = Vec::new();
    let commits: Vec<Commit> = inputs.all()?;
    if let Some(commit) = commits.iter().rfind(|c| c.hotkey == own)
        && let Some(path) = &commit.path
    {
        let key = format!("{run}/{}/{own}/commit.json", commit.window);
        sends.push((commit.window, Some(commit.uid), key, path.clone()));
    }
    let deltas: Vec<Delta> = inputs.all()?;
    if let Some(delta) = deltas.iter().rfind(|d| d.hotkey == own && d.status == "ok")
        && let Some(path) = &delta.path
    {
        let key = format!("{run}/{}/{own}/delta.safetensors", delta.window);
        sends.push((delta.window, Some(delta.uid), key, path.clone()));
    }
    // Every state that was made or followed here. Ours are published; those of others are mirrored, by who has nothing else
    // to send: a network whose publisher goes away keeps what it published.
    let states: Vec<State> = inputs.all()?;
    let alone = sends.is_empty();
    for state in states.iter().filter(|s| s.path.is_some() && s.by.is_some()) {
        if state.by == Some(own) {
            for before in unpublished(&args, run, own, state)? {
                sends.extend(state_objects(&args.common, run, &before, &deltas)?);
            }
            sends.extend(state_objects(&args.common, run, state, &deltas)?);
        } else if alone {
            // What was removed since is mirrored by others.
            sends.extend(state_objects(&args.common, run, state, &deltas).unwrap_or_default());
        }
    }
    if sends.is_empty() && states.is_empty() {
        return Err(Report::data(format!("the input has nothing of {own} to send"))
            .hint("it sends the wallet's own commitment, delta or state: --wallet, --hotkey"));
    }
    let target = if args.dry.dry_run { None } else { Some((Pool::new()?, args.own.open()?)) };
    for (window, uid, key, path) in sends {
        let (bytes, blake3) = files::digest(&path)?;
        let started = Instant::now();
        let uploaded = match &target {
            Some((pool, bucket)) => send(pool, bucket, &key, &path)?,
            None => false,
        };
        let url = match &target {
            Some((_, bucket)) => bucket.address.url(&key),
            None => format!("{}/{key}", args.own.bucket.as_deref().unwrap_or("BZ_BUCKET")),
        };
        let wall_s = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        stream.emit(&Push { window, uid, url, bytes, blake3, wall_s, uploaded })?;
    }
    Ok(())
}

/// One object to send: of which window, whose, under which key, from which file.
type Object = (Window, Option<Uid>, String, PathBuf);

fn send(pool: &Pool, bucket: &Bucket, key: &str, path: &Path) -> Result<bool, Report> {
    pool.run(bucket.put(key, path))
}

/// Our states before one of ours that were made here and never reached the bucket, oldest first: without them nobody
/// gets from what is published to the new one.
fn unpublished(args: &Args, run: Hash, own: Hotkey, state: &State) -> Result<Vec<State>, Report> {
    let mut missing = Vec::new();
    if args.dry.dry_run {
        return Ok(missing);
    }
    let (pool, bucket) = (Pool::new()?, args.own.open()?);
    let mut base = state.prev_window;
    while let Some(window) = base {
        let dir = args.common.home().state(window);
        let Ok(mut before) = files::read_json::<State>(&dir.join("state.json")) else { break };
        if before.by != Some(own)
            || before.run != run
            || pool.run(bucket.has(&format!("{run}/{window}/state.json"))) != Ok(false)
        {
            break;
        }
        base = before.prev_window;
        before.path = Some(dir);
        missing.push(before);
    }
    missing.reverse();
    Ok(missing)
}

fn state_objects(common: &Common, run: Hash, state: &State, deltas: &[Delta]) -> Result<Vec<Object>, Report> {
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
    let record = record.ok_or_else(|| Report::data("the `state` record names no directory"))?;
    objects.push((state.window, None, format!("{run}/{}/state.json", state.window), record));
    Ok(objects)
}
