//! The miner's side: commit to the own update, then reveal what was drawn.

use ::run::{Hparams, Settings as _};
use record::{
    Hash, Report, Stream, Window,
    cli::{Common, Make, check_file, note},
    files,
    records::{Commit, Delta, Peer, Role, Status, Train, WindowRecord},
    stream::Inputs,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
};
use wallet::{Signer, WalletArgs};
use wire::{
    Layout,
    codec::{self, Content, Left, Payload},
    commit::{self, Binding},
    delta,
    tensors::Update,
};

struct Own {
    hparams: Hparams,
    run: Hash,
    window: WindowRecord,
    train: Train,
    layout: Layout,
    signer: Signer,
}

fn own(common: &Common, wallet: &WalletArgs, inputs: &Inputs) -> Result<Own, Report> {
    let (hparams, run) = common.run(inputs)?;
    let window = inputs.window()?;
    let trains = inputs.latest(window.window, |t: &Train| (t.window, (t.role, t.uid)))?;
    let train = trains.into_iter().find(|((role, _), _)| *role == Role::Own).map(|(_, train)| train);
    let train = train.ok_or_else(|| {
        Report::data(format!("the input has no own `train` record of window {}", window.window))
            .hint("bz-pages | bz-train")
    })?;
    if train.status != Status::Ok {
        return Err(Report::no(format!("the update is {}: {}", train.status, train.reason.unwrap_or_default()))
            .hint("nothing is sent this window; lower inner.lr if it stays so"));
    }
    let signer = wallet.open()?;
    // A peer's record says whose uid this is; the pages were that uid's.
    let peers: Vec<Peer> = inputs.all()?;
    if let Some(peer) = peers.iter().find(|peer| peer.uid == train.uid)
        && peer.hotkey != signer.hotkey()
    {
        return Err(Report::config(format!("uid {} is {}, the wallet is {}", train.uid, peer.hotkey, signer.hotkey()))
            .hint("train with the wallet that is registered: --wallet, --hotkey"));
    }
    let layout = Layout::new(&hparams.model);
    Ok(Own { hparams, run, window, train, layout, signer })
}

impl Own {
    fn update(&self) -> Result<(PathBuf, Update), Report> {
        let path = self.train.path.as_ref().ok_or_else(|| {
            Report::data("the `train` record names no file").hint("bz-train makes the update: pass its stream whole")
        })?;
        // A record made by hand may leave the hash out.
        if let Some(hash) = self.train.blake3 {
            check_file(path, self.train.bytes, hash)?;
        }
        Ok((path.clone(), Update::open(path, &self.layout)?))
    }

    /// What is sent of the update: tiles of it, or a choice of its values with what earlier windows left. What is not chosen is
    /// put into `left`, if that is asked for.
    fn made(&self, common: &Common, mut left: Option<&mut Left>) -> Result<Made, Report> {
        let (_, update) = self.update()?;
        if !self.hparams.codec.is_sparse() {
            return Ok(Made::Update(update));
        }
        let before = common.home().feedback_of(self.window.window);
        let before = before.map(|path| Left::open(&path, &self.layout, self.run)).transpose()?;
        let keep = |values: &[f32]| left.as_mut().map_or(Ok(()), |left| left.push(values));
        Ok(Made::Payload(codec::choose(&update, before.as_ref(), &self.layout, &self.hparams.codec, keep)?))
    }

    /// What is left for the next window, beside what was left for this one: a stage that is run again gives the same.
    fn left(&self, common: &Common, dry_run: bool) -> Result<Option<Left>, Report> {
        let path = common.home().feedback(self.next());
        (self.hparams.codec.is_sparse() && !dry_run).then(|| Left::begin(&path, &self.layout, self.run)).transpose()
    }

    /// The window that begins with what this one leaves.
    fn next(&self) -> Window {
        Window(self.window.window.0.saturating_add(1))
    }

    fn binding(&self, root: Hash) -> Binding {
        Binding {
            run: self.run,
            window: self.window.window,
            hotkey: self.signer.hotkey(),
            base: self.train.base,
            pages: self.train.pages,
            root,
        }
    }
}

enum Made {
    Update(Update),
    Payload(Payload),
}

impl Made {
    fn content(&self) -> Content<'_> {
        match self {
            Made::Update(update) => Content::Tiles(update),
            Made::Payload(payload) => Content::Sparse(payload),
        }
    }
}

/// Only what is revealed was sent: a window that ends after its commitment leaves what was left before it.
fn keep(left: Option<Left>, common: &Common, own: &Own) -> Result<(), Report> {
    let Some(left) = left else { return Ok(()) };
    left.finish()?;
    common.home().prune_feedback(own.window.window)
}

/// Two processes that make the same at once would sign it twice: the second waits, and finds what the first has made.
fn turn(how: &Make, path: &Path) -> Result<Option<File>, Report> {
    (!how.dry_run()).then(|| files::turn(files::folder_of(path))).transpose()
}

/// `bz-delta commit`.
pub(crate) fn commit(common: &Common, wallet: &WalletArgs, how: &Make, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let own = own(common, wallet, &inputs)?;
    let made = own.made(common, None)?;
    let root = made.content().root(&own.layout, &own.hparams.codec)?;
    let commitment = own.binding(root).commitment(&own.hparams.codec);
    let folder = || common.home().window(own.window.window);
    let path = how.output.file(1, || folder().join("commit.json"))?;
    let _turn = turn(how, &path)?;
    // A stage that is run again keeps its signature, so that what was uploaded stays as it is.
    if path.exists()
        && !how.force()
        && let Ok(before) = files::read_json::<Commit>(&path)
        && before.commitment == commitment
        && before.hotkey == own.signer.hotkey()
    {
        return stream.emit(&Commit { path: Some(path), ..before });
    }
    let mut made = Commit {
        window: own.window.window,
        run: own.run,
        uid: own.train.uid,
        hotkey: own.signer.hotkey(),
        commitment,
        signature: String::new(),
        path: None,
        status: None,
        reason: None,
        block: None,
        unseen: false,
    };
    made.signature = own.signer.sign_hex(&commit::commit_message(&made)?);
    if !how.dry_run() {
        files::write_json(&path, &made)?;
    }
    stream.emit(&Commit { path: Some(path), ..made })
}

/// `bz-delta make`.
pub(crate) fn make(common: &Common, wallet: &WalletArgs, how: &Make, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let own = own(common, wallet, &inputs)?;
    let reveal = own.window.reveal.ok_or_else(|| {
        Report::no(format!("window {} is not over: which tiles to reveal is not drawn", own.window.window))
            .hint("bz-window --wait reveal")
    })?;
    let folder = || common.home().window(own.window.window);
    let path = how.output.file(1, || folder().join("delta.safetensors"))?;
    let _turn = turn(how, &path)?;
    let expected = delta::Expected {
        run: own.run,
        window: own.window.window,
        uid: own.train.uid,
        hotkey: own.signer.hotkey(),
        base: own.train.base,
        codec: own.hparams.codec.clone(),
        commitment: None,
        reveal,
    };
    let done = path.exists() && !how.force() && delta::Delta::open(&path, &own.layout, &expected).is_ok();
    if !done {
        let mut left = own.left(common, how.dry_run())?;
        let made = own.made(common, left.as_mut())?;
        let root = made.content().root(&own.layout, &own.hparams.codec)?;
        if let Some(before) = inputs.last::<Commit>()?
            && own.binding(root).commitment(&own.hparams.codec) != before.commitment
        {
            return Err(Report::data("the update is not the one that was committed to")
                .hint("it was trained again since: nothing can be revealed this window"));
        }
        let sign = |message: &[u8]| own.signer.sign(message);
        if how.dry_run() {
            note("bz-delta", format!("{} would be written", path.display()));
            return Ok(());
        }
        let which = (own.train.uid, &own.hparams.codec, reveal);
        delta::make(&path, made.content(), &own.layout, &own.binding(root), which, sign)?;
        keep(left, common, &own)?;
    } else if own.hparams.codec.is_sparse() && !how.dry_run() && !common.home().feedback(own.next()).exists() {
        // It was killed between the two.
        let mut left = own.left(common, false)?;
        own.made(common, left.as_mut())?;
        keep(left, common, &own)?;
    }
    let (bytes, blake3) = files::digest(&path)?;
    stream.emit(&Delta {
        window: own.window.window,
        uid: own.train.uid,
        hotkey: own.signer.hotkey(),
        path: Some(path),
        bytes,
        blake3: Some(blake3),
        codec: Some(own.hparams.codec.name.name().into()),
        base: Some(own.train.base),
        status: Status::Ok,
        reason: None,
        unseen: false,
    })
}
