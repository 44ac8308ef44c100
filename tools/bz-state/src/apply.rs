//! The next state: by our own decision, which we sign, or by a published one, of which we check every byte.

use ::run::{Hparams, Settings as _};
use protocol::enter;
use record::{
    Code, Hash, Report, Stream, Window,
    cli::Common,
    files,
    records::{Accept, Accepted, Delta, State},
    stream::Inputs,
};
use std::{cell::RefCell, fs::File, path::PathBuf};
use wallet::{Signer, WalletArgs};
use wire::{
    Layout, commit,
    delta::{Delta as Opened, Expected},
    outer::{self, Entry, Values},
    state,
};

/// How states are made here.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    /// Say what would be made, and write nothing.
    pub dry_run: bool,
    /// Look at every byte of what is there, and make it again where it is damaged.
    pub force: bool,
    /// So many states stay.
    pub keep: usize,
}

struct States<'a> {
    common: &'a Common,
    hparams: Hparams,
    layout: Layout,
    run: Hash,
    mode: Mode,
    /// The state that was made last: the next one is made from it, and a dry run has it nowhere else.
    held: RefCell<Option<(State, Values)>>,
    /// One process at a time makes states: two would sign the same one twice.
    _turn: Option<File>,
}

/// `bz-state apply`.
pub(crate) fn apply(common: &Common, wallet: &WalletArgs, mode: Mode, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let states = States::new(common, mode, &inputs)?;
    let window = inputs.window()?;
    if let Some(accept) = inputs.last::<Accept>()? {
        let state = states.decide(&accept, wallet, &inputs, window.reveal)?;
        stream.emit(&state)?;
    } else {
        let published: Vec<State> = inputs.all()?;
        states.follow_all(&published, stream)?;
        if published.is_empty() {
            stream.emit(&states.present(window.window)?)?;
        }
    }
    states.prune()
}

/// `bz-state carry`.
pub(crate) fn carry(common: &Common, wallet: &WalletArgs, mode: Mode, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let states = States::new(common, mode, &inputs)?;
    let window = inputs.window()?.window;
    // What others published meanwhile comes first: a validator that was away does not roll the network back.
    states.follow_all(&inputs.all::<State>()?, stream)?;
    if let Ok(here) = states.present(window) {
        return stream.emit(&here);
    }
    let newest = common.home().states().into_iter().rfind(|w| *w < window && state::record_of(&states.dir(*w)).is_ok());
    let held = states.held.borrow().as_ref().map(|(state, _)| state.window);
    let base = newest.max(held).unwrap_or(states.hparams.start_window);
    let (before, root, values) = states.made(base, window, &[], None, &|_| None)?;
    let record = states.signed(&before, window, root, &[], None, &wallet.open()?)?;
    stream.emit(&states.save(base, values, &record)?)
}

impl<'a> States<'a> {
    fn new(common: &'a Common, mode: Mode, inputs: &Inputs) -> Result<Self, Report> {
        let (hparams, run) = common.run(inputs)?;
        let layout = Layout::new(&hparams.model);
        let mut turn = None;
        if !mode.dry_run {
            crate::remember(common, &inputs.need("bz-window")?)?;
            turn = Some(files::turn(files::folder_of(&common.home().state(hparams.start_window)))?);
        }
        Ok(States { common, hparams, layout, run, mode, held: RefCell::default(), _turn: turn })
    }

    fn dir(&self, window: Window) -> PathBuf {
        self.common.home().state(window)
    }

    /// Remove old states, and what killed processes left.
    fn prune(&self) -> Result<(), Report> {
        if self.mode.dry_run {
            return Ok(());
        }
        self.common.home().sweep()?;
        state::prune(&self.common.home(), self.mode.keep)
    }

    /// The record of a state that is here; with --force, of one whose every byte is what its record says.
    fn here(&self, window: Window) -> Result<State, Report> {
        let held = self.held.borrow();
        if let Some((state, _)) = held.as_ref().filter(|(state, _)| state.window == window) {
            return Ok(state.clone());
        }
        if self.mode.force {
            return Ok(crate::checked(&self.dir(window), &self.hparams, &self.layout, self.run)?.0);
        }
        state::record_of(&self.dir(window))
    }

    /// The state of a window that is here already; the first one is made.
    fn present(&self, window: Window) -> Result<State, Report> {
        if window != self.hparams.start_window {
            return self.here(window).map_err(|e| e.hint("bz-pull --state fetches what leads to it"));
        }
        if self.mode.dry_run && self.here(window).is_err() {
            let (values, state) = crate::first_state(&self.hparams, self.run, None)?;
            *self.held.borrow_mut() = Some((state.clone(), values));
            return Ok(state);
        }
        let again = self.mode.force && self.here(window).is_err();
        crate::init(self.common, &self.hparams, self.run, None, &self.dir(window), again)
    }

    /// The next state from our own `accept` record, signed.
    fn decide(
        &self,
        accept: &Accept,
        wallet: &WalletArgs,
        inputs: &Inputs,
        reveal: Option<Hash>,
    ) -> Result<State, Report> {
        let next = Window(accept.window.0.saturating_add(1));
        let mut signed = None;
        if let Ok(before) = state::record_of(&self.dir(next)).or_else(|_| self.here(next))
            && before.by == Some(wallet.public()?)
        {
            // Never two records by one signer for one window: what is damaged is made again as it was signed.
            if !self.mode.force || self.here(next).is_ok() {
                return Ok(before);
            }
            if before.accepted != accept.accepted {
                let error =
                    format!("the state of window {next} that this wallet signed has another list than the input");
                return Err(Report::no(error).hint("--force makes it again from the scores that it was made of"));
            }
            signed = Some(before);
        }
        let deltas = inputs.latest(accept.window, |d: &Delta| (d.window, d.uid))?;
        let path_of = |entry: &Accepted| {
            deltas.get(&entry.uid).filter(|d| d.blake3 == Some(entry.blake3)).and_then(|d| d.path.clone())
        };
        let (base, root, values) = self.made(accept.window, next, &accept.accepted, reveal, &path_of)?;
        let record = match signed {
            Some(record) if record.root == root && commit::verify_state(&record).is_ok() => {
                State { path: None, ..record }
            }
            Some(record) if record.root == root => {
                self.signed(&base, next, root, &accept.accepted, reveal, &wallet.open()?)?
            }
            Some(record) => {
                return Err(Report::data(format!("the deltas give root {root}, its record says {}", record.root))
                    .hint("a delta of that list was changed since"));
            }
            None => self.signed(&base, next, root, &accept.accepted, reveal, &wallet.open()?)?,
        };
        self.save(accept.window, values, &record)
    }

    /// Published states, oldest first; a long way does not fill the disk.
    fn follow_all(&self, published: &[State], stream: &mut Stream<'_>) -> Result<(), Report> {
        for (place, record) in published.iter().enumerate() {
            stream.emit(&self.follow(record, place + 1 == published.len())?)?;
            self.prune()?;
        }
        Ok(())
    }

    /// The next state as somebody else published it. A record that is false is noted, so that it is passed over when the
    /// stage runs again. `last`: no other record is built on this one.
    fn follow(&self, record: &State, last: bool) -> Result<State, Report> {
        commit::verify_state(record)?;
        if record.run != self.run {
            return Err(Report::data(format!("the published state of window {} is of another run", record.window)));
        }
        if let Ok(here) = self.here(record.window) {
            if here.root == record.root {
                return Ok(here);
            }
            // What the network has gone on from is followed all the same.
            if last && here.by == record.by && here.run == record.run {
                let why = format!("it signed two states of this window: {} and {}", here.root, record.root);
                return Err(self.refuse(record, &Report::no(why)));
            }
        }
        let start = self.hparams.start_window;
        let base = record.prev_window.filter(|base| *base >= start && *base < record.window);
        let (Some(prev), Some(base)) = (record.prev, base) else {
            return Err(self.refuse(record, &Report::data("it has no predecessor in the run")));
        };
        let here = self.present(base)?;
        if here.root != prev {
            if base == start {
                return Err(self.refuse(record, &Report::no(format!("the first state is {}, not {prev}", here.root))));
            }
            return Err(Report::again(format!(
                "the published state of window {} is not made from ours",
                record.window
            ))
            .hint("bz-pull --state fetches the chain of states back to the last common one"));
        }
        let (before, values) = self.load(base)?;
        let folder = self.common.home().window(base).join("accepted");
        let path_of = |entry: &Accepted| Some(folder.join(format!("{}.safetensors", entry.blake3)));
        let files = self.files(&record.accepted, &path_of)?;
        // From here on every byte is the publisher's own.
        let made = self.opened(&files, &before, record.reveal).and_then(|deltas| {
            self.clipped(&deltas)?;
            self.next(base, record.window, values, &deltas)
        });
        match made {
            Ok((root, values)) if root == record.root => {
                self.save(base, values, &State { path: None, ..record.clone() })
            }
            Ok((root, _)) => Err(self.refuse(record, &Report::no(format!("the accepted deltas give root {root}")))),
            // What was fetched and went away, and a panic of ours, say nothing of the record.
            Err(why) if files.iter().any(|(path, _)| !path.exists()) => Err(Report::again(why.error)),
            Err(why) if why.code == Code::Bug => Err(Report::again(why.error).hint("please report it")),
            Err(why) if matches!(why.code, Code::No | Code::Data) => Err(self.refuse(record, &why)),
            Err(why) => Err(why),
        }
    }

    /// That no delta moves the state further than the median one, where the run says so.
    fn clipped(&self, deltas: &[(Opened, &Accepted)]) -> Result<(), Report> {
        if !self.hparams.accept.clip_to_median {
            return Ok(());
        }
        let clip = enter::clip(deltas.iter().map(|(delta, _)| delta.norm()), None);
        let mut rule = deltas.iter().map(|(delta, entry)| (entry, enter::scale(delta.norm(), clip)));
        // A norm in another order of summation differs in its last digits.
        let over = rule.find(|(entry, most)| entry.scale > most * (1.0 + 1e-5));
        match over {
            Some((entry, most)) => {
                Err(Report::no(format!("uid {} counts by {}, the median norm allows {most}", entry.uid, entry.scale)))
            }
            None => Ok(()),
        }
    }

    /// Note that a record is false.
    fn refuse(&self, record: &State, why: &Report) -> Report {
        let (by, id) = match (record.by, commit::state_id(record)) {
            (Some(by), Ok(id)) => (by, id),
            (None, _) => return Report::data("a state record without a signer"),
            (_, Err(report)) => return report,
        };
        let path = self.common.home().refused(record.window, by, id);
        let error =
            format!("the state of window {} that {by} signed ({}) is false: {}", record.window, record.root, why.error);
        if self.mode.dry_run {
            return Report::no(error);
        }
        let noted = files::write_json(&path, &serde_json::json!({"record": record, "reason": why.error}));
        noted.err().unwrap_or_else(|| {
            Report::again(error)
                .hint("noted beside the window's records: the same command goes on to the next validator")
        })
    }

    /// The next state's root and values from a list of our own, and the record that it is made from.
    fn made(
        &self,
        base: Window,
        next: Window,
        accepted: &[Accepted],
        reveal: Option<Hash>,
        path_of: &dyn Fn(&Accepted) -> Option<PathBuf>,
    ) -> Result<(State, Hash, Values), Report> {
        let (before, values) = self.load(base)?;
        let files = self.files(accepted, path_of)?;
        let deltas = self.opened(&files, &before, reveal)?;
        let (root, values) = self.next(base, next, values, &deltas)?;
        Ok((before, root, values))
    }

    /// The record of a state of our own.
    fn signed(
        &self,
        before: &State,
        next: Window,
        root: Hash,
        accepted: &[Accepted],
        reveal: Option<Hash>,
        signer: &Signer,
    ) -> Result<State, Report> {
        let mut record = State {
            window: next,
            run: self.run,
            root,
            prev: Some(before.root),
            prev_window: Some(before.window),
            path: None,
            accepted: accepted.to_vec(),
            reveal,
            by: Some(signer.hotkey()),
            signature: None,
        };
        record.signature = Some(signer.sign_hex(&commit::state_message(&record)?));
        Ok(record)
    }

    /// A state that is here; the first state is made from the seed, wherever it is asked for first.
    fn load(&self, base: Window) -> Result<(State, Values), Report> {
        self.present(base)?;
        if let Some(held) = self.held.take().filter(|(state, _)| state.window == base) {
            return Ok(held);
        }
        state::load_checked(&self.dir(base), &self.hparams, &self.layout, self.run)
    }

    /// The files of a list's deltas, each of the accepted content.
    fn files<'d>(
        &self,
        accepted: &'d [Accepted],
        path_of: &dyn Fn(&Accepted) -> Option<PathBuf>,
    ) -> Result<Vec<(PathBuf, &'d Accepted)>, Report> {
        let found = accepted.iter().map(|entry| {
            let path = path_of(entry).ok_or_else(|| {
                Report::data(format!("the delta of uid {} ({}) is not here", entry.uid, entry.blake3))
                    .hint("bz-pull fetches it")
            })?;
            let (_, hash) = files::digest(&path)?;
            if hash != entry.blake3 {
                return Err(Report::data(format!("{} is not the delta that was accepted", path.display()))
                    .hint("bz-pull fetches it again"));
            }
            Ok((path, entry))
        });
        found.collect()
    }

    /// Every delta of a list, checked.
    fn opened<'d>(
        &self,
        files: &'d [(PathBuf, &'d Accepted)],
        before: &State,
        reveal: Option<Hash>,
    ) -> Result<Vec<(Opened, &'d Accepted)>, Report> {
        if !files.is_sorted_by(|(_, a), (_, b)| a.uid < b.uid) {
            return Err(Report::data("the accepted list is not in the order of uids"));
        }
        let deltas = files.iter().map(|(path, entry)| {
            if !(entry.scale.is_finite() && (0.0..=1.0).contains(&entry.scale)) {
                return Err(Report::data(format!("uid {}: scale {} is not in 0..1", entry.uid, entry.scale)));
            }
            let expected = Expected {
                run: self.run,
                window: before.window,
                uid: entry.uid,
                hotkey: entry.hotkey,
                base: before.root,
                codec: self.hparams.codec.clone(),
                commitment: None,
                reveal: reveal.ok_or_else(|| Report::data("the end block's hash of the window is not known"))?,
            };
            let delta = wire::contain(|| Opened::open(path, &self.layout, &expected))
                .map_err(|e| e.at(format!("the delta of uid {}", entry.uid)))?;
            Ok((delta, *entry))
        });
        deltas.collect()
    }

    /// The next state's root and values.
    fn next(
        &self,
        base: Window,
        next: Window,
        mut values: Values,
        deltas: &[(Opened, &Accepted)],
    ) -> Result<(Hash, Values), Report> {
        let entries: Vec<Entry<'_>> =
            deltas.iter().map(|(delta, entry)| Entry { delta, weight: entry.weight_u16, scale: entry.scale }).collect();
        let lr = outer::learning_rate(&self.hparams.outer, self.hparams.start_window, base);
        outer::apply(&mut values, &self.layout, &self.hparams.outer, lr, &entries)?;
        Ok((state::root(&self.layout, &values, self.run, next), values))
    }

    /// Keep a state and its record.
    fn save(&self, base: Window, values: Values, record: &State) -> Result<State, Report> {
        if self.mode.dry_run {
            *self.held.borrow_mut() = Some((record.clone(), values));
            return Ok(record.clone());
        }
        let tokenizer = self.dir(base).join("tokenizer.json");
        let tokenizer = tokenizer.exists().then_some(tokenizer.as_path());
        let dir = self.dir(record.window);
        state::save(&dir, &self.hparams, &self.layout, &values, record, tokenizer)?;
        let saved = state::record_of(&dir)?;
        // The next record of a long way is made from these values, without reading them again.
        *self.held.borrow_mut() = Some((saved.clone(), values));
        Ok(saved)
    }
}
