//! Which pages a uid has in a window; fetch them, tokenize them, pack them.

use corpus::{Manifest, Source, Tokens, pages, source};
use record::{
    Hash, Report, Stream, Uid, Window,
    cli::{Common, DryRun, Force, Make, Shard, check_file, note, print_record},
    files,
    records::{Delta, Pages, Peer, Role, Status, WindowRecord},
    stream::Inputs,
};
use run::Settings as _;
use run::{Hparams, Permutation};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which pages a uid has in a window; fetch, tokenize and pack them.
#[derive(clap::Parser)]
#[command(name = "bz-pages", version, args_conflicts_with_subcommands = true, after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    make: Make,
    #[command(subcommand)]
    command: Option<Action>,
    /// Whose pages
    #[arg(long, default_value = "own", value_parser = record::cli::word::<Role>())]
    role: Role,
    /// The uid [default: that of the wallet]
    #[arg(long)]
    uid: Option<Uid>,
    /// With --role audit: so many peers, drawn by the end block's hash [default: the run's]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// With --role given: which pages of the source
    #[arg(long, value_name = "I,J,…", value_delimiter = ',', required_if_eq("role", "given"))]
    page: Vec<u64>,
    /// Folder of the text
    #[arg(long, env = "BZ_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The run's tokenizer.json [default: the one in the node's folder]
    #[arg(long, env = "BZ_TOKENIZER", value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Take only part I of N of the records (audit)
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

const HELP: &str = "\
Sources: a folder of Parquet, JSON lines (.jsonl .ndjson .json, each also .gz or .zst), or text in UTF-8 by its ending
(.txt .md .rs …). What is not known is refused by name; hidden files are left out, and a README.md beside tables is.
`index` writes its manifest.json, whose hash is the run's data.manifest; one of other text is replaced by --force alone.

Roles: own (the wallet's, or --uid's), audit (of peers whose delta is ok), random (nobody's own, the same for all),
given (--page, from any source: held-out text).

Examples:
  bz-pages index --data ~/text --name mytext         write manifest.json and print its hash
  bz-window --window 120 --wait start | bz-pages | bz-train
  bz-pages --role audit --sample 8 < pulled | bz-train | bz-score --rule cosine
  bz-window | bz-pages --role given --page 0,1,2 --data ~/heldout | bz-eval
  echo '{\"type\":\"window\",…}' | bz-pages --uid 3 | jq -c 'select(.type==\"pages\") | .pages[]'

See also: bz-window, bz-train, bz-eval";

#[derive(clap::Subcommand)]
enum Action {
    /// Look at every file of a source and write its manifest
    Index {
        /// The source's name
        #[arg(long, default_value = "text")]
        name: String,
        /// Field or column of the text in JSON lines and Parquet
        #[arg(long, default_value = "text")]
        field: String,
        /// Folder of the text
        #[arg(long, env = "BZ_DATA", value_name = "DIR")]
        data: PathBuf,
        #[command(flatten)]
        dry: DryRun,
        #[command(flatten)]
        force: Force,
    },
}

/// Run the tool.
///
/// # Errors
/// What failed, for a person.
pub fn run(args: Args, stream: &mut Stream<'_>) -> Result<(), Report> {
    if let Some(Action::Index { name, field, data, dry, force }) = &args.command {
        return index(data, (name, field), *dry, *force);
    }
    let inputs = stream.read()?;
    let hparams = args.common.hparams()?;
    let window = inputs.window()?;
    let run = window.run;
    let folder = args.data.clone().ok_or_else(|| {
        Report::config("no folder of text was named").hint("--data DIR, or BZ_DATA; bz-pages index prepares it")
    })?;
    // Held-out text is any source; what is trained on is the run's own.
    let expected = if args.role == Role::Given { None } else { hparams.data.manifest };
    if args.role != Role::Given && hparams.data.manifest.is_none() {
        return Err(Report::config("data.manifest in hparams.json is null: the run does not say which text it is on")
            .hint("bz-pages index prints the hash that belongs there"));
    }
    let source = Source::open(&folder, expected)?;
    let home_tokenizer = args.common.home().0.join("tokenizer.json");
    let tokenizer = args.tokenizer.clone().or_else(|| home_tokenizer.exists().then_some(home_tokenizer));
    let tokens = Tokens::open(tokenizer.as_deref(), hparams.data.tokenizer)?;
    if tokens.vocab_size() > hparams.model.vocab_size {
        return Err(Report::config(format!(
            "the tokenizer has {} tokens, the model {}",
            tokens.vocab_size(),
            hparams.model.vocab_size
        )));
    }
    let work = Work { args: &args, hparams: &hparams, window: &window, run, source: &source, tokens: &tokens };
    match args.role {
        Role::Given => work.write(stream, Uid(0), &args.page, 1),
        Role::Random => {
            let reveal = work.reveal()?;
            let drawn = pages::random(&source, &hparams.data, run, work.seed()?, reveal)?;
            work.write(stream, Uid(0), &drawn, 1)
        }
        Role::Own => {
            let uid = match args.uid {
                Some(uid) => uid,
                None => own_uid(&inputs)?,
            };
            let own = pages::own(&source, &hparams.data, run, work.seed()?, uid)?;
            work.write(stream, uid, &own, 1)
        }
        Role::Audit => {
            let takes = |place: usize| args.shard.is_none_or(|shard| shard.takes(place));
            let drawn = work.audited(&inputs)?.into_iter().enumerate();
            let uids: Vec<Uid> = drawn.filter(|(place, _)| takes(*place)).map(|(_, uid)| uid).collect();
            for uid in &uids {
                let own = pages::own(&source, &hparams.data, run, work.seed()?, *uid)?;
                work.write(stream, *uid, &own, uids.len())?;
            }
            Ok(())
        }
    }
}

/// `bz-pages index`: the manifest of a folder, which is written where it changes something.
fn index(data: &Path, (name, field): (&str, &str), dry: DryRun, force: Force) -> Result<(), Report> {
    let manifest = Manifest::index(data, name, field)?;
    let (path, hash) = (data.join(source::MANIFEST), manifest.hash());
    let before = files::read_json::<Manifest>(&path).ok();
    if let Some(before) = before.as_ref().filter(|before| before.hash() != hash) {
        let (old, source) = (before.hash(), &before.source);
        if !force.force {
            return Err(Report::config(format!(
                "{} is the manifest {old} of {source}, now it is {hash}",
                path.display()
            ))
            .hint("a run that was founded with it reads its text by that hash: get that text again")
            .hint("where the text was changed on purpose: --force, and the new hash in the run's hparams.json"));
        }
        note("bz-pages", format!("the manifest {old} of {source} is replaced"));
    }
    // One that cannot be read names no text, and is written anew.
    if !dry.dry_run && (before.is_none_or(|before| before.hash() != hash) || force.force) {
        files::write_atomic(&path, |f| std::io::Write::write_all(f, &manifest.bytes()))?;
    }
    let rows: u64 = manifest.parts.iter().map(|p| p.rows).sum();
    note("bz-pages", format!("{} files, {rows} rows", manifest.parts.len()));
    let found = serde_json::json!({"source": name, "manifest": hash, "parts": manifest.parts.len(), "rows": rows});
    print_record("manifest", &found)
}

fn own_uid(inputs: &Inputs) -> Result<Uid, Report> {
    let peers = inputs.all::<Peer>()?;
    let own = peers.iter().find(|peer| peer.own).map(|peer| peer.uid);
    own.ok_or_else(|| {
        Report::config("the wallet is no peer of this window, so it has no pages")
            .hint("it has to be registered before the window starts: bz-chain register")
            .hint("--uid N makes the pages of any uid")
    })
}

struct Work<'a> {
    args: &'a Args,
    hparams: &'a Hparams,
    window: &'a WindowRecord,
    run: Hash,
    source: &'a Source,
    tokens: &'a Tokens,
}

impl Work<'_> {
    fn seed(&self) -> Result<Hash, Report> {
        self.window.seed.ok_or_else(|| {
            Report::no(format!("window {} has not started: its pages are not known", self.window.window))
                .hint("bz-window --wait start")
        })
    }

    fn reveal(&self) -> Result<Hash, Report> {
        self.window.reveal.ok_or_else(|| {
            Report::no(format!("window {} is not over: nobody knows this draw", self.window.window))
                .hint("bz-window --wait reveal")
        })
    }

    /// The uids to audit, drawn by the end block's hash from all uids, and of these the first whose delta is ok: the order
    /// is fixed by the draw, so nobody moves it by withholding a delta.
    fn audited(&self, inputs: &Inputs) -> Result<Vec<Uid>, Report> {
        let deltas = inputs.latest(self.window.window, |d: &Delta| (d.window, d.uid))?;
        let sample = self.args.sample.unwrap_or(self.hparams.score.sample);
        let all = self.hparams.data.max_uids;
        let order = Permutation::new("boltzmann audit v1", self.run, self.reveal()?, all);
        let drawn = (0..all).filter_map(|place| order.at(place)).map(|uid| Uid(uid as u16));
        let ok = drawn.filter(|uid| deltas.get(uid).is_some_and(|d| d.status == Status::Ok));
        let mut uids: Vec<Uid> = ok.take(sample as usize).collect();
        uids.sort_unstable();
        Ok(uids)
    }

    /// Sequences that the inner steps can use.
    fn most(&self) -> usize {
        self.hparams.inner.batch.map_or(usize::MAX, |batch| (batch * self.hparams.inner.steps) as usize)
    }

    /// The pages of one uid, of `count` that are asked for: fetched, packed and written, unless that was done.
    fn write(&self, stream: &mut Stream<'_>, uid: Uid, pages: &[u64], count: usize) -> Result<(), Report> {
        let role = self.args.role;
        let folder = || self.args.common.home().window(self.window.window);
        let path = self.args.make.output.file(count, || folder().join(format!("pages-{role}-{uid}.safetensors")))?;
        let asked = Asked {
            run: self.run,
            window: self.window.window,
            uid,
            role,
            drawn: pages.to_vec(),
            source: self.source.manifest.hash(),
            tokenizer: self.hparams.data.tokenizer,
            most: self.most() as u64,
        };
        let kept = files::record_beside(&path);
        if !self.args.make.force()
            && let Some(done) = finished(&kept, &path, &asked)
        {
            return stream.emit(&done);
        }
        let (refs, packer) = pages::fetch(self.source, &self.hparams.data, self.tokens, pages, self.most())?;
        if packer.sequences.is_empty() {
            return Err(Report::data(format!("the pages of uid {uid} hold no text")).hint("use larger pages"));
        }
        let packed = packer.bytes()?;
        let made = Pages {
            window: self.window.window,
            uid,
            role,
            pages: refs,
            path: path.clone(),
            bytes: packed.len() as u64,
            blake3: blake3::hash(&packed).into(),
            tokens: packer.tokens(),
        };
        if !self.args.make.dry_run() {
            files::write_atomic(&path, |file| std::io::Write::write_all(file, &packed))?;
            files::write_json(&kept, &Made { asked, made: made.clone() })?;
        }
        stream.emit(&made)
    }
}

/// What was asked for: the same again gives the same bytes.
#[derive(Serialize, Deserialize, PartialEq)]
struct Asked {
    run: Hash,
    window: Window,
    uid: Uid,
    role: Role,
    drawn: Vec<u64>,
    source: Hash,
    tokenizer: Option<Hash>,
    most: u64,
}

/// What lies beside the file of the pages.
#[derive(Serialize, Deserialize)]
struct Made {
    asked: Asked,
    made: Pages,
}

/// The record of pages that are there already, whole. One that cannot be read is as good as none.
fn finished(kept: &Path, path: &Path, asked: &Asked) -> Option<Pages> {
    let made: Made = files::read_json(kept).ok()?;
    let same = made.asked == *asked && made.made.path == path;
    (same && check_file(path, made.made.bytes, made.made.blake3).is_ok()).then_some(made.made)
}
