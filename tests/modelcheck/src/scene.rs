//! What can be said in one window over one head: every record that may be made, and every honest reader's word on each.
//!
//! These are the protocol's answers, asked once; a state asks for the same thousands of times.

use crate::{
    facts::{self, START, id, long, validator},
    node::Eyes,
    setup::Setup,
    state::{At, Delta, Last, Sight, Wrong},
};
use protocol::{
    Electorate, Head, Judged, Peers, Record, Seen,
    judge::Verdict,
    tally::{self, Votes},
};
use record::{Hash, Hotkey, Uid, Window};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock},
};

/// What a scene depends on.
pub type Key = (u8, [Delta; 2], Last);

/// One reader's answers.
#[derive(Debug)]
struct Reader {
    /// What it would propose.
    makes: Option<At>,
    /// Its word under the rules as they are, and under those with one broken; by who signed, and what.
    words: [Vec<(Verdict, Verdict)>; 3],
    /// Which deltas it fetches for the sake of each record, by who signed it.
    wants: [Vec<Vec<Hash>>; 3],
}

/// See the file.
#[derive(Debug)]
pub struct Scene {
    /// The last final record.
    pub head: Head,
    /// The window that is decided.
    pub window: Window,
    /// Whose votes count.
    pub electorate: Electorate,
    /// All that anybody can make or sign, in the order of their hashes.
    records: Vec<(Hash, Record)>,
    readers: HashMap<[Sight; 2], Reader>,
    outcomes: RwLock<HashMap<Ballots, (Last, Option<Wrong>)>>,
}

/// All votes, and what the two honest nodes have.
pub type Ballots = ([Option<At>; 3], [[Sight; 2]; 2]);

const SIGHTS: [Sight; 3] = [Sight::InTime, Sight::Late, Sight::Never];

impl Scene {
    /// Ask for everything.
    pub fn new(setup: &Setup, peers: &Peers, (window, deltas, last): &Key) -> Self {
        let head = last.head();
        let window = Window(START + u64::from(*window));
        let eyes = |sights: &[Sight; 2]| Eyes::new(setup, peers, &head, window, deltas, sights);
        let all = eyes(&[Sight::InTime; 2]);
        let (electorate, mut signed) = (all.electorate(), lies(setup, &all));
        let sights: Vec<[Sight; 2]> = SIGHTS.into_iter().flat_map(|one| SIGHTS.map(|two| [one, two])).collect();
        signed.extend(sights.iter().map(|sights| eyes(sights).make()));
        let records: BTreeMap<Hash, Record> = signed.into_iter().map(|record| (long(id(&record)), record)).collect();
        let records: Vec<(Hash, Record)> = records.into_iter().collect();
        let reader = |sights: &[Sight; 2]| {
            let eyes = eyes(sights);
            let words = |by: usize| {
                let word = |(_, record): &(Hash, Record)| {
                    (eyes.truth(record, validator(by)), eyes.judge(record, validator(by)))
                };
                records.iter().map(word).collect()
            };
            let words = [0, 1, 2].map(words);
            let wants = |words: &Vec<(Verdict, Verdict)>| {
                records.iter().zip(words).map(|((_, record), (_, verdict))| eyes.wants(record, verdict)).collect()
            };
            Reader { makes: find(&records, long(id(&eyes.make()))), wants: words.each_ref().map(wants), words }
        };
        let readers = sights.iter().map(|sights| (*sights, reader(sights))).collect();
        Scene { window, electorate, records, readers, head: head.clone(), outcomes: RwLock::default() }
    }

    /// The places of all records.
    pub fn all(&self) -> impl Iterator<Item = At> + use<> {
        0..self.records.len() as At
    }

    /// The hash of a record.
    pub fn hash(&self, at: At) -> Hash {
        self.records.get(usize::from(at)).map_or(long(0), |(hash, _)| *hash)
    }

    /// Where a record is.
    pub fn find(&self, hash: Hash) -> Option<At> {
        find(&self.records, hash)
    }

    /// A reader's word on a record that this one signed.
    pub fn judged(&self, at: At, by: Hotkey, verdict: Verdict) -> Judged {
        let listed = self.record(at).map_or(0, |record| record.accepted.len());
        Judged { record: self.hash(at), by, listed, verdict }
    }

    /// Votes as the chain has them.
    pub fn votes(&self, votes: &[Option<At>; 3]) -> Votes {
        // A vote of the window before still stands where nobody voted anew; it counts no more.
        let before = (Window(self.window.0.saturating_sub(1)), facts::RUN);
        let entry = |(n, vote): (usize, &Option<At>)| {
            let (window, record) = vote.map_or(before, |at| (self.window, self.hash(at)));
            (validator(n), window, record)
        };
        tally::votes(votes.iter().enumerate().map(entry), self.window)
    }

    /// What a record says.
    pub fn record(&self, at: At) -> Option<&Record> {
        self.records.get(usize::from(at)).map(|(_, record)| record)
    }

    /// The word of one that has these deltas on a record, under the rules in force.
    pub fn verdict(&self, sights: [Sight; 2], by: usize, at: At) -> Option<&Verdict> {
        self.readers.get(&sights)?.words.get(by)?.get(usize::from(at)).map(|(_, verdict)| verdict)
    }

    /// What one that has these deltas fetches for a record's sake.
    pub fn wants(&self, sights: [Sight; 2], by: usize, at: At) -> &[Hash] {
        let wants = || self.readers.get(&sights)?.wants.get(by)?.get(usize::from(at));
        wants().map_or(&[], Vec::as_slice)
    }

    /// Whether one that has these deltas would stand for a record by any signer, under the rules as they are.
    pub fn stands(&self, sights: [Sight; 2], at: At) -> bool {
        let Some(reader) = self.readers.get(&sights) else { return false };
        let word = |words: &Vec<(Verdict, Verdict)>| words.get(usize::from(at)).map(|(truth, _)| truth.clone());
        reader.words.iter().any(|words| word(words) == Some(Verdict::Good))
    }

    /// The outcome of these votes, computed once.
    pub fn once(&self, votes: Ballots, compute: impl FnOnce() -> (Last, Option<Wrong>)) -> (Last, Option<Wrong>) {
        if let Some(known) = self.outcomes.read().unwrap_or_else(PoisonError::into_inner).get(&votes) {
            return *known;
        }
        let outcome = compute();
        self.outcomes.write().unwrap_or_else(PoisonError::into_inner).insert(votes, outcome);
        outcome
    }

    /// What one that has these deltas proposes.
    pub fn makes(&self, sights: [Sight; 2]) -> Option<At> {
        self.readers.get(&sights)?.makes
    }
}

fn find(records: &[(Hash, Record)], hash: Hash) -> Option<At> {
    records.binary_search_by_key(&hash, |(hash, _)| *hash).ok().map(|at| at as At)
}

/// Each list that is otherwise as the rule has it, and each other lie once.
fn lies(setup: &Setup, all: &Eyes<'_>) -> Vec<Record> {
    let with = |mask: usize| {
        let listed = all.seen.iter().filter(|(hash, _)| mask >> facts::miner_of(**hash) & 1 == 1);
        let chosen: BTreeMap<Uid, (Hash, Seen)> = listed.map(|(hash, seen)| (seen.uid, (*hash, *seen))).collect();
        all.record(&chosen)
    };
    let mut records: Vec<Record> = (0..4).map(with).collect();
    let (fair, head) = (all.make(), all.head);
    // The first state again, as if nothing had been final since.
    if head.hash != facts::RUN {
        let root = facts::apply(facts::founding().root, &fair.accepted);
        records.push(Record { prev: facts::RUN, root, ..fair.clone() });
    }
    // The window to come.
    records.push(Record { window: Window(all.window.0 + 1), ..fair.clone() });
    // A state that nobody computed.
    records.push(Record { root: facts::long(7), ..fair.clone() });
    // Nobody but the liar votes from now on.
    let alone = fair.active.iter().filter(|member| member.hotkey == validator(setup.liar)).copied();
    records.push(Record { active: alone.collect(), ..fair.clone() });
    // Everybody's work counts for nothing.
    let mut scaled = fair.clone();
    scaled.accepted.iter_mut().for_each(|accepted| accepted.scale = 0.0);
    records.push(Record { root: facts::apply(head.root, &scaled.accepted), ..scaled });
    // Nothing is clipped.
    let mut unclipped = fair;
    unclipped.clip = Some(1000.0);
    unclipped.accepted.iter_mut().for_each(|accepted| accepted.scale = 1.0);
    records.push(Record { root: facts::apply(head.root, &unclipped.accepted), ..unclipped });
    records
}
