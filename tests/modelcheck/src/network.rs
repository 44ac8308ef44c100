//! What may happen next, and what it leads to.

use crate::{
    facts::{self, START, validator},
    outcome,
    scene::{Key, Scene},
    setup::{Broken, Setup},
    state::{At, CALL, Deaf, Delta, Last, Node, Phase, Sight, State, Wrong},
};
use protocol::{
    Head, Judged, Lag, Ledger, Outcome, Peers, Proposal, Record,
    judge::Verdict,
    propose,
    turn::{Ballot, Turn},
    vote,
};
use record::Window;
use stateright::{Model, Property};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

const TURN: Turn = Turn { propose: 100, grace: 10, again: 120, last_call: 140 };

/// The small network.
#[derive(Debug)]
pub struct Network {
    setup: Setup,
    peers: Peers,
    honest: [usize; 2],
    scenes: RwLock<HashMap<Key, Arc<Scene>>>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The commit block is final.
    Commit([Delta; 2]),
    /// A node has fetched.
    Fetch([Sight; 2]),
    /// An honest node does its part, after the liar has shown it some records, and voted so.
    Act {
        /// Which node.
        node: usize,
        /// What the liar shows it: a bit for each record.
        shown: u32,
        /// The liar's vote as it stands then.
        liar: Option<At>,
    },
    /// The turn is over; at the last call the liar's vote is this one.
    Next(Option<At>),
    /// The votes in the newest block are as they were in the final one.
    Reorganise([bool; 2]),
    /// A node does not reach the other one.
    Deafen(usize, Deaf),
    /// A node dies, with all that was in memory.
    Crash(usize),
    /// It comes back.
    Restart(usize),
    /// A node reads the votes before they are final.
    Hasty(usize, Option<At>),
    /// The tally block is final, and the liar's vote in it is this one.
    Tally(Option<At>),
}

impl Network {
    /// Of a configuration.
    pub fn new(setup: Setup) -> Self {
        let mut honest = (0..3).filter(|n| *n != setup.liar);
        let honest = [honest.next().unwrap_or(0), honest.next().unwrap_or(0)];
        Network { peers: facts::peers(&setup), honest, setup, scenes: RwLock::default() }
    }

    fn scene(&self, state: &State) -> Arc<Scene> {
        let key = (state.window, state.deltas, state.head);
        if let Some(scene) = self.scenes.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return scene.clone();
        }
        let scene = Arc::new(Scene::new(&self.setup, &self.peers, &key));
        self.scenes.write().unwrap_or_else(PoisonError::into_inner).insert(key, scene.clone());
        scene
    }

    fn faultless(&self, state: &State) -> bool {
        state.window + 1 >= self.setup.windows
    }

    /// The records that a node would not hold for bad, if the liar signed them.
    fn credible<'a>(&self, scene: &'a Scene, node: &Node) -> impl Iterator<Item = At> + use<'a> {
        let (sights, liar) = (node.sights, self.setup.liar);
        let bad = move |at: At| scene.verdict(sights, liar, at).is_none_or(|word| matches!(word, Verdict::Bad(_)));
        scene.all().filter(move |at| !bad(*at))
    }

    /// What a node holds, with what the other one's bucket has: its proposals, and what it voted for.
    fn look_around(&self, scene: &Scene, state: &mut State, n: usize) -> Vec<Judged> {
        let peer = self.honest[1 - n];
        let kept = |at: At| state.votes[1 - n] == Some(at) && self.setup.broken != Some(Broken::NothingKept);
        let other = state.nodes[1 - n].held;
        let node = &mut state.nodes[n];
        let reachable = |by: usize, at: At| by == peer || kept(at);
        if node.deaf == Deaf::No {
            for (by, at) in other.iter().filter(|(by, at)| reachable(*by, *at)) {
                node.held.insert(by, at);
            }
            // A delta that it lacks lies with the other honest node, if that one proposed the record or votes for it.
            for (by, at) in node.held.iter().filter(|(by, at)| reachable(*by, *at)) {
                let wants = scene.wants(node.sights, by, at);
                wants.iter().for_each(|delta| node.sights[facts::miner_of(*delta)] = Sight::Late);
            }
        }
        let mut judged = Vec::new();
        for (by, at) in node.held.iter() {
            match scene.verdict(node.sights, by, at) {
                // What is bad stays bad, and decides nothing.
                None | Some(Verdict::Bad(_)) => node.held.remove(by, at),
                Some(verdict) => {
                    judged.push(scene.judged(at, validator(by), verdict.clone()));
                }
            }
        }
        judged
    }

    /// An honest node looks around, proposes and votes.
    fn act(&self, state: &mut State, n: usize, shown: u32, liar: Option<At>) {
        let Phase::Slot(slot) = state.phase else { return };
        let scene = self.scene(state);
        let me = self.honest[n];
        bits(shown).for_each(|at| state.nodes[n].held.insert(self.setup.liar, at));
        let mut judged = self.look_around(&scene, state, n);
        let electorate = &scene.electorate;
        let block = TURN.propose + TURN.grace * u64::from(slot);
        let sights = state.nodes[n].sights;
        let makes = scene.makes(sights);
        let listable = makes.and_then(|at| scene.record(at)).map_or(0, |record| record.accepted.len());
        let there = scene.votes(&self.all_votes(&state.votes, liar));
        if propose(validator(me), block, &TURN, electorate, (&there, &judged), listable) == Proposal::Make
            && let Some(at) = makes
        {
            if !scene.stands(sights, at) {
                state.wrong = Some(Wrong::OwnProposal);
            }
            state.nodes[n].held.insert(me, at);
            judged.push(scene.judged(at, validator(me), Verdict::Good));
        }
        // At the last call all look at one block, which is final; a first vote looks at whatever is there.
        let (seen, liar) = match slot {
            CALL if self.setup.broken != Some(Broken::CallOfOwnMoment) => (state.settled, state.call),
            _ => (state.votes, liar),
        };
        let votes = scene.votes(&self.all_votes(&seen, liar));
        let ballot = vote(block, &TURN, state.votes[n].map(|at| scene.hash(at)), electorate, &votes, &judged);
        if let Ballot::Cast(record) = ballot {
            state.votes[n] = scene.find(record);
        }
        state.nodes[n].acted = true;
    }

    fn all_votes(&self, honest: &[Option<At>; 2], liar: Option<At>) -> [Option<At>; 3] {
        let mut votes = [None; 3];
        votes[self.setup.liar] = liar;
        votes[self.honest[0]] = honest[0];
        votes[self.honest[1]] = honest[1];
        votes
    }

    /// What the ledgers of both honest nodes say after the votes, whether they run or will only read them later: the
    /// votes are history by then.
    fn outcome(&self, scene: &Scene, state: &State, votes: &[Option<At>; 3]) -> (Last, Option<Wrong>) {
        let (head, window) = (&scene.head, scene.window);
        let mut wrong = None;
        let ledgers = [0, 1].map(|n| {
            let node = &state.nodes[n];
            let mut heard: BTreeSet<usize> = node.held.iter().map(|(by, _)| by).collect();
            heard.insert(self.honest[n]);
            let heard: Vec<usize> = heard.into_iter().collect();
            let read = &node.hasty.unwrap_or(*votes);
            let (outcome, electorate) = outcome::read(&self.setup, &self.peers, scene, read, &heard);
            let mut next = None;
            if let Outcome::Final(hash) = outcome
                && let Some(record) = scene.find(hash).and_then(|at| scene.record(at))
            {
                wrong = wrong.or(self.wrong(scene, state, record, votes));
                next = Some(Head::after(record, hash, &scene.votes(read), &electorate, &self.peers));
            }
            let first = if head.hash == facts::RUN { Ledger::new } else { Ledger::resume };
            let mut ledger = first(head.clone());
            for over in head.window.0 + 1..window.0 {
                ledger.tell(Window(over), None);
            }
            // A record of another window, which a broken rule let pass, is noted nowhere.
            ledger.tell(window, next);
            ledger
        });
        let [one, two] = &ledgers;
        let same_base = |ahead: u64, lag: Lag| {
            let window = Window(window.0 + ahead);
            one.base(window, lag) == two.base(window, lag)
        };
        if one != two || ![(1, Lag::Zero), (1, Lag::One), (2, Lag::One)].iter().all(|(n, lag)| same_base(*n, *lag)) {
            wrong = wrong.or(Some(Wrong::Split));
        }
        (one.newest().map_or(state.head, Last::of), wrong)
    }

    /// The tally block is final, and the next window begins.
    fn tally(&self, state: &mut State, liar: Option<At>) {
        let scene = self.scene(state);
        let votes = self.all_votes(&state.votes, liar);
        // What is heard and what is hasty are read by broken rules alone.
        let (head, wrong) = match self.setup.broken {
            None => scene.once((votes, state.nodes.map(|node| node.sights)), || self.outcome(&scene, state, &votes)),
            Some(_) => self.outcome(&scene, state, &votes),
        };
        (state.head, state.wrong) = (head, state.wrong.or(wrong));
        let up = state.window + 2 >= self.setup.windows;
        state.window += 1;
        state.phase = if state.window == self.setup.windows { Phase::Done } else { Phase::Commit };
        state.deltas = [Delta::Good; 2];
        state.nodes = [0, 1].map(|n| Node::begin(up || state.nodes[n].up));
        (state.votes, state.settled, state.call) = ([None; 2], [None; 2], None);
    }

    /// What is wrong with a final record.
    fn wrong(&self, scene: &Scene, state: &State, record: &Record, votes: &[Option<At>; 3]) -> Option<Wrong> {
        if record.prev != scene.head.hash || record.window != scene.window {
            return Some(Wrong::Rollback);
        }
        let bad = |m: usize| state.deltas.get(m) != Some(&Delta::Good);
        if record.accepted.iter().any(|accepted| bad(facts::miner_of(accepted.blake3))) {
            return Some(Wrong::Entered);
        }
        let (electorate, at) = (&scene.electorate, scene.find(facts::long(facts::id(record)))?);
        let stake = |n: usize| u128::from(electorate.stake(validator(n)));
        let stands = |n: &usize| votes[self.honest[*n]] == Some(at) && scene.stands(state.nodes[*n].sights, at);
        let judged: u128 = [0, 1].iter().filter(|n| stands(n)).map(|n| stake(self.honest[*n])).sum();
        ((judged + stake(self.setup.liar)) * 2 <= electorate.total()).then_some(Wrong::Unjudged)
    }
}

fn bits(mask: u32) -> impl Iterator<Item = At> {
    (0..32).filter(move |at| mask >> at & 1 == 1)
}

/// All subsets; of many records, which only a broken rule lets pass, those of at most two: a counterexample needs no
/// more.
fn subsets(of: u32) -> Vec<u32> {
    let most = if of.count_ones() > 4 { 2 } else { of.count_ones() };
    let mut all = vec![0];
    let mut subset = of;
    while subset != 0 {
        if subset.count_ones() <= most {
            all.push(subset);
        }
        subset = (subset - 1) & of;
    }
    all
}

impl Network {
    fn slot_steps(&self, state: &State, slot: u8, steps: &mut Vec<Step>) {
        let scene = self.scene(state);
        let mut relevant: BTreeSet<At> = state.nodes.iter().flat_map(|node| self.credible(&scene, node)).collect();
        relevant.extend(state.nodes.iter().flat_map(|node| node.held.iter().map(|(_, at)| at)));
        for n in (0..2).filter(|n| state.nodes[*n].up && !state.nodes[*n].acted) {
            self.act_steps(&scene, state, (slot, n), &relevant, steps);
        }
        if state.nodes.iter().all(|node| node.acted || !node.up) {
            steps.push(if slot == CALL { Step::Tally(None) } else { Step::Next(None) });
            if slot == CALL {
                steps.extend(scene.all().map(|at| Step::Tally(Some(at))));
                if self.setup.broken == Some(Broken::Unfinal) {
                    let hasty = (0..2).filter(|n| state.nodes[*n].up && state.nodes[*n].hasty.is_none());
                    steps.extend(hasty.map(|n| Step::Hasty(n, None)));
                }
            } else if slot + 1 == CALL {
                steps.extend(relevant.iter().map(|id| Step::Next(Some(*id))));
            }
        }
        let changed = [0, 1].map(|n| state.votes[n] != state.settled[n]);
        if state.reorgs > 0 && !self.faultless(state) {
            let which = [[true, false], [false, true], [true, true]];
            let possible = which.into_iter().filter(|which| (0..2).all(|n| changed[n] || !which[n]));
            steps.extend(possible.map(Step::Reorganise));
        }
        if state.faults > 0 && !self.faultless(state) {
            for n in (0..2).filter(|n| state.nodes[*n].up && !state.nodes[*n].acted && state.nodes[*n].deaf == Deaf::No)
            {
                steps.extend([Step::Deafen(n, Deaf::Slot), Step::Deafen(n, Deaf::Window)]);
            }
        }
    }

    /// The parts that a node may play, each with what the liar does just before.
    fn act_steps(
        &self,
        scene: &Scene,
        state: &State,
        (slot, node): (u8, usize),
        relevant: &BTreeSet<At>,
        steps: &mut Vec<Step>,
    ) {
        let (held, call) = (&state.nodes[node].held, slot == CALL);
        let own_moment = self.setup.broken == Some(Broken::CallOfOwnMoment);
        // From here on votes decide whether anybody proposes once more.
        let again = TURN.propose + TURN.grace * u64::from(slot) >= TURN.again;
        let signed = |at: At| held.contains(self.setup.liar, at);
        // One that has voted decides nothing before the last call: what the liar shows it now, it may as well show
        // then.
        let deaf = self.setup.reduced && state.votes[node].is_some() && !call;
        let credible = self.credible(scene, &state.nodes[node]);
        let new = credible.filter(|at| !deaf && !signed(*at)).fold(0, |new, at| new | 1 << at);
        for shown in subsets(new) {
            steps.push(Step::Act { node, shown, liar: None });
            if deaf && again {
                // More than half for a record keeps everybody from a second proposal.
                let votes: BTreeSet<At> = state.votes.iter().flatten().copied().collect();
                steps.extend(votes.into_iter().map(|at| Step::Act { node, shown, liar: Some(at) }));
            }
            if deaf || (call && !own_moment) {
                continue;
            }
            // Votes decide a first vote only between records of one signer.
            let matters = |at: At| {
                let voted = again && state.votes.contains(&Some(at));
                !self.setup.reduced || own_moment || voted || signed(at) || shown >> at & 1 == 1
            };
            let votes = relevant.iter().filter(|at| matters(**at));
            steps.extend(votes.map(|at| Step::Act { node, shown, liar: Some(*at) }));
        }
    }

    fn commit_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let second: &[Delta] = match self.setup.hostile_miner {
            true => &[Delta::Good, Delta::Uncommitted, Delta::Invalid],
            false => &[Delta::Good],
        };
        for delta in second {
            steps.push(Step::Commit([Delta::Good, *delta]));
            if state.reorgs > 0 && !self.faultless(state) {
                steps.push(Step::Commit([Delta::Uncommitted, *delta]));
            }
        }
    }

    fn fetch_steps(&self, state: &State, n: u8, steps: &mut Vec<Step>) {
        if !state.nodes[usize::from(n)].up {
            // Whenever it comes back, it comes after the deadline.
            return steps.push(Step::Fetch([Sight::Late; 2]));
        }
        let all = [Sight::InTime, Sight::Late, Sight::Never];
        for sights in all.into_iter().flat_map(|one| all.map(|two| [one, two])) {
            let faults = sights.iter().filter(|sight| **sight != Sight::InTime).count();
            if faults == 0 || (faults <= usize::from(state.faults) && !self.faultless(state)) {
                steps.push(Step::Fetch(sights));
            }
        }
    }
}

impl Model for Network {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            window: 0,
            phase: Phase::Commit,
            deltas: [Delta::Good; 2],
            nodes: [Node::begin(true), Node::begin(true)],
            votes: [None; 2],
            settled: [None; 2],
            call: None,
            head: Last::of(&facts::founding()),
            faults: self.setup.faults,
            reorgs: self.setup.reorgs,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.wrong.is_some() {
            return;
        }
        match state.phase {
            Phase::Commit => self.commit_steps(state, steps),
            Phase::Fetch(n) => self.fetch_steps(state, n, steps),
            Phase::Slot(slot) => self.slot_steps(state, slot, steps),
            Phase::Done => return,
        }
        for n in 0..2 {
            if !state.nodes[n].up {
                steps.push(Step::Restart(n));
            } else if state.faults > 0 && !self.faultless(state) {
                steps.push(Step::Crash(n));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = *last;
        match step {
            Step::Commit(deltas) => {
                if deltas[0] != Delta::Good {
                    state.reorgs -= 1;
                }
                state.deltas = deltas;
                state.phase = Phase::Fetch(0);
            }
            Step::Fetch(sights) => {
                let Phase::Fetch(n) = state.phase else { return None };
                let node = &mut state.nodes[usize::from(n)];
                if node.up {
                    state.faults -= sights.iter().filter(|sight| **sight != Sight::InTime).count() as u8;
                }
                node.sights = sights;
                state.phase = if n == 0 { Phase::Fetch(1) } else { Phase::Slot(0) };
            }
            Step::Act { node, shown, liar } => self.act(&mut state, node, shown, liar),
            Step::Next(liar) => {
                let Phase::Slot(slot) = state.phase else { return None };
                state.phase = Phase::Slot(slot + 1);
                state.settled = state.votes;
                state.call = liar;
                for node in &mut state.nodes {
                    node.acted = false;
                    if node.deaf == Deaf::Slot {
                        node.deaf = Deaf::No;
                    }
                }
            }
            Step::Reorganise(which) => {
                state.reorgs -= 1;
                (0..2).filter(|n| which[*n]).for_each(|n| state.votes[n] = state.settled[n]);
            }
            Step::Deafen(n, deaf) => {
                state.faults -= 1;
                state.nodes[n].deaf = deaf;
            }
            Step::Crash(n) => {
                state.faults -= 1;
                let vote = state.votes[n];
                let node = &mut state.nodes[n];
                node.up = false;
                node.deaf = Deaf::No;
                // On its disk: what it proposed, and what it voted for.
                let me = self.honest[n];
                let lost = node.held.iter().filter(|(by, at)| *by != me && Some(*at) != vote);
                lost.for_each(|(by, at)| node.held.remove(by, at));
            }
            Step::Restart(n) => state.nodes[n].up = true,
            Step::Hasty(n, liar) => state.nodes[n].hasty = Some(self.all_votes(&state.votes, liar)),
            Step::Tally(liar) => self.tally(&mut state, liar),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no two honest nodes hold different outcomes", |_, state: &State| {
                state.wrong != Some(Wrong::Split)
            }),
            Property::always("honest stake stands behind every final record", |_, state: &State| {
                state.wrong != Some(Wrong::Unjudged)
            }),
            Property::always("nothing enters that is barred", |_, state: &State| state.wrong != Some(Wrong::Entered)),
            Property::always("every final record follows the last", |_, state: &State| {
                state.wrong != Some(Wrong::Rollback)
            }),
            Property::always("who proposes stands for it", |_, state: &State| state.wrong != Some(Wrong::OwnProposal)),
            Property::always("the model moves once faults end", |network: &Network, state: &State| {
                let last = START + u64::from(network.setup.windows) - 1;
                state.wrong.is_some() || state.phase != Phase::Done || state.head.window() == Window(last)
            }),
        ];
        // That the search sees what it is made for.
        if self.setup.broken.is_none() {
            properties.push(Property::sometimes("a vote of the liar counts", |network: &Network, state: &State| {
                state.head.window().0 >= START && state.head.has_vote_of(network.setup.liar)
            }));
        }
        // Without faults only the first in turn can bring it about.
        if self.setup.broken.is_none() && (self.setup.liar == 0 || (self.setup.windows > 1 && self.setup.faults > 0)) {
            properties.push(Property::sometimes("the honest votes differ", |_, state: &State| {
                state.votes[0].is_some() && state.votes[1].is_some() && state.votes[0] != state.votes[1]
            }));
        }
        properties
    }
}
