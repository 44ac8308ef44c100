//! The next state: by our own decision, which we sign, or by a published one, of which we check every byte.

use record::{
    Hash, Hparams, Report, Stream, Window,
    cli::Common,
    records::{Accept, Accepted, Delta, State},
    stream::Inputs,
};
use std::path::PathBuf;
use wallet::{Signer, WalletArgs};
use wire::{
    Layout, commit,
    delta::{self, Expected},
    outer::{self, Entry},
    state,
};

struct Maker<'a> {
    common: &'a Common,
    hparams: Hparams,
    layout: Layout,
    run: Hash,
}

/// `bz-state apply`.
pub(crate) fn apply(common: &Common, wallet: &WalletArgs, keep: usize, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let (hparams, run) = common.run(&inputs)?;
    let layout = Layout::new(&hparams.model);
    let maker = Maker { common, hparams, layout, run };
    let window = inputs.window()?;
    if let Some(accept) = inputs.last::<Accept>()? {
        let state = maker.decide(&accept, wallet, &inputs, window.reveal)?;
        stream.emit(&state)?;
    } else {
        let published: Vec<State> = inputs.all()?;
        for record in &published {
            stream.emit(&maker.follow(record)?)?;
        }
        if published.is_empty() {
            stream.emit(&maker.present(window.window)?)?;
        }
    }
    state::prune(&common.home(), keep)
}

/// `bz-state carry`.
pub(crate) fn carry(common: &Common, wallet: &WalletArgs, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let (hparams, run) = common.run(&inputs)?;
    let layout = Layout::new(&hparams.model);
    let window = inputs.window()?.window;
    let maker = Maker { common, hparams, layout, run };
    // What others published meanwhile comes first: a validator that was away does not roll the network back.
    for record in inputs.all::<State>()? {
        stream.emit(&maker.follow(&record)?)?;
    }
    if let Ok(here) = maker.present(window) {
        return stream.emit(&here);
    }
    let newest = common.home().states().into_iter().rfind(|w| *w < window && state::record_of(&maker.dir(*w)).is_ok());
    let base = newest.unwrap_or(maker.hparams.start_window);
    let signer = wallet.open()?;
    let made = maker.make(base, window, &[], None, &|_| None, |record| sign(record, &signer))?;
    stream.emit(&made)
}

fn sign(mut record: State, signer: &Signer) -> Result<State, Report> {
    record.by = Some(signer.hotkey());
    record.signature = Some(signer.sign_hex(&commit::state_message(&record)?));
    Ok(record)
}

impl Maker<'_> {
    fn dir(&self, window: Window) -> PathBuf {
        self.common.home().state(window)
    }

    /// The state of a window that is here already; the first one is made.
    fn present(&self, window: Window) -> Result<State, Report> {
        if window == self.hparams.start_window {
            return crate::init(self.common, self.run);
        }
        state::record_of(&self.dir(window)).map_err(|e| e.hint("bz-pull --state fetches what leads to it"))
    }

    /// The next state from our own `accept` record, signed.
    fn decide(
        &self,
        accept: &Accept,
        wallet: &WalletArgs,
        inputs: &Inputs,
        reveal: Option<Hash>,
    ) -> Result<State, Report> {
        let next = Window(accept.window.0 + 1);
        if let Ok(before) = state::record_of(&self.dir(next))
            && before.by == Some(wallet.public()?)
        {
            // Never two records by one signer for one window.
            return Ok(before);
        }
        let deltas = inputs.latest(accept.window, |d: &Delta| (d.window, d.uid))?;
        let path_of = |entry: &Accepted| {
            deltas.get(&entry.uid).filter(|d| d.blake3 == Some(entry.blake3)).and_then(|d| d.path.clone())
        };
        let signer = wallet.open()?;
        self.make(accept.window, next, &accept.accepted, reveal, &path_of, |record| sign(record, &signer))
    }

    /// The next state as somebody else published it.
    fn follow(&self, record: &State) -> Result<State, Report> {
        commit::verify_state(record)?;
        if let Ok(here) = state::record_of(&self.dir(record.window)) {
            if here.root == record.root {
                return Ok(here);
            }
            if here.by == record.by && here.run == record.run {
                return Err(Report::no(format!(
                    "{} signed two states of window {}: {} and {}",
                    record.by.map_or(String::new(), |by| by.to_string()),
                    record.window,
                    here.root,
                    record.root
                ))
                .hint("the one that was seen first stays; a publisher that does this is not to be followed"));
            }
        }
        let (Some(prev), Some(base)) = (record.prev, record.prev_window) else {
            return Err(Report::data(format!("the published state of window {} has no predecessor", record.window)));
        };
        if base >= record.window || record.run != self.run {
            return Err(Report::data(format!(
                "the published state of window {} is of another run or order",
                record.window
            )));
        }
        let here = self.present(base)?;
        if here.root != prev {
            return Err(Report::no(format!("the published state of window {} is not made from ours", record.window))
                .hint("bz-pull --state fetches the chain of states back to the last common one"));
        }
        let folder = self.common.home().window(base).join("accepted");
        let path_of = |entry: &Accepted| Some(folder.join(format!("{}.safetensors", entry.blake3)));
        let keep = |made: State| {
            if made.root != record.root {
                return Err(Report::no(format!(
                    "window {}: the accepted deltas give root {}, {} published {}",
                    record.window,
                    made.root,
                    record.by.map_or(String::new(), |by| by.to_string()),
                    record.root
                ))
                .hint("its publisher is wrong, or runs another version; wait for the next validator"));
            }
            Ok(State { path: None, ..record.clone() })
        };
        self.make(base, record.window, &record.accepted, record.reveal, &path_of, keep)
    }

    fn make(
        &self,
        base: Window,
        next: Window,
        accepted: &[Accepted],
        reveal: Option<Hash>,
        path_of: &dyn Fn(&Accepted) -> Option<PathBuf>,
        finish: impl FnOnce(State) -> Result<State, Report>,
    ) -> Result<State, Report> {
        // The first state is made from the seed, wherever it is asked for first.
        self.present(base)?;
        let (before, mut values) = state::load_checked(&self.dir(base), &self.hparams, &self.layout, self.run)?;
        if !accepted.is_sorted_by(|a, b| a.uid < b.uid) {
            return Err(Report::data("the accepted list is not in the order of uids"));
        }
        let mut opened = Vec::with_capacity(accepted.len());
        for entry in accepted {
            let fits = entry.scale.is_finite() && (0.0..=1.0).contains(&entry.scale);
            if !fits {
                return Err(Report::data(format!("uid {}: scale {} is not in 0..1", entry.uid, entry.scale)));
            }
            let path = path_of(entry).ok_or_else(|| {
                Report::data(format!("the delta of uid {} ({}) is not here", entry.uid, entry.blake3))
                    .hint("bz-pull fetches it")
            })?;
            let (_, hash) = record::files::digest(&path)?;
            if hash != entry.blake3 {
                return Err(Report::data(format!("{} is not the delta that was accepted", path.display())));
            }
            let expected = Expected {
                run: self.run,
                window: base,
                uid: entry.uid,
                hotkey: entry.hotkey,
                base: before.root,
                codec: self.hparams.codec.clone(),
                commitment: None,
                reveal: reveal.ok_or_else(|| Report::data("the end block's hash of the window is not known"))?,
            };
            let delta = delta::Delta::open(&path, &self.layout, &expected)
                .map_err(|e| e.at(format!("the delta of uid {}", entry.uid)))?;
            opened.push((delta, entry));
        }
        let entries: Vec<Entry<'_>> =
            opened.iter().map(|(delta, entry)| Entry { delta, weight: entry.weight_u16, scale: entry.scale }).collect();
        let lr = outer::learning_rate(&self.hparams.outer, self.hparams.start_window, base);
        outer::apply(&mut values, &self.layout, &self.hparams.outer, lr, &entries)?;
        let record = finish(State {
            window: next,
            run: self.run,
            root: state::root(&self.layout, &values, self.run, next),
            prev: Some(before.root),
            prev_window: Some(base),
            path: None,
            accepted: accepted.to_vec(),
            reveal,
            by: None,
            signature: None,
        })?;
        let tokenizer = self.dir(base).join("tokenizer.json");
        let tokenizer = tokenizer.exists().then_some(tokenizer.as_path());
        state::save(&self.dir(next), &self.hparams, &self.layout, &values, &record, tokenizer)?;
        state::record_of(&self.dir(next))
    }
}
