//! The protocol as a node follows it: the library's own functions, or with one rule broken on purpose.

use protocol::{
    Electorate, Head, Outcome, Peers, Record, Refusal, Rules,
    judge::{Lack, Verdict, View, judge},
    tally::{Votes, support, tally},
};
use record::{Hash, Hotkey, Window};

/// One of the reasons for which a record gets no vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// [`Refusal::Run`].
    Run,
    /// [`Refusal::Window`].
    Window,
    /// [`Refusal::Prev`].
    Prev,
    /// [`Refusal::Reveal`].
    Reveal,
    /// [`Refusal::Proposer`].
    Proposer,
    /// [`Refusal::Order`].
    Order,
    /// [`Refusal::Stranger`].
    Stranger,
    /// [`Refusal::Barred`].
    Barred,
    /// [`Refusal::Weight`].
    Weight,
    /// [`Refusal::Scale`].
    Scale,
    /// [`Refusal::Clip`].
    Clip,
    /// [`Refusal::Omission`].
    Omission,
    /// [`Refusal::Active`].
    Active,
    /// [`Refusal::Root`].
    Root,
}

impl Check {
    /// Which one a refusal is.
    pub fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Run => Check::Run,
            Refusal::Window => Check::Window,
            Refusal::Prev => Check::Prev,
            Refusal::Reveal => Check::Reveal,
            Refusal::Proposer => Check::Proposer,
            Refusal::Order => Check::Order,
            Refusal::Stranger(_) => Check::Stranger,
            Refusal::Barred(..) => Check::Barred,
            Refusal::Weight(_) => Check::Weight,
            Refusal::Scale(_) => Check::Scale,
            Refusal::Clip => Check::Clip,
            Refusal::Omission(..) => Check::Omission,
            Refusal::Active => Check::Active,
            Refusal::Root => Check::Root,
        }
    }
}

/// A rule that all honest nodes break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A voter overlooks one reason against a record.
    Skip(Check),
    /// The record with the most stake behind it is final, however little that is.
    Plurality,
    /// A vote is for the first proposal that came, whatever it says.
    FirstSeen,
    /// A miner trains from the newest record that it has seen, final or not.
    OwnBase,
    /// The founders vote for ever.
    FrozenActive,
    /// Dead members are waited for without end.
    NeverOpen,
    /// Votes are read before the tally block is final.
    EarlyTally,
    /// What is committed to is read when the delta comes.
    LateCommitments,
    /// Everybody proposes at once.
    OutOfTurn,
    /// What came too late has to enter as well.
    LateIsDue,
    /// A vote is changed whenever another record looks better.
    Restless,
    /// Half of the stake is enough, without one more.
    Half,
    /// A newcomer believes the record that one validator names.
    TrustOne,
    /// A newcomer also hears entries of old, whose owners are gone.
    HearDead,
    /// Nobody proposes a second time.
    OneTurn,
    /// At the last call votes go to the most stake, not to the longest list.
    MostStake,
    /// Who has nothing to vote for does not show that it is there.
    NoShow,
    /// Who voted for another record than the final one counts as missing.
    OutvotedOut,
}

/// All of them, with a name each.
pub const MUTATIONS: [(&str, Mutation); 31] = [
    ("run", Mutation::Skip(Check::Run)),
    ("window", Mutation::Skip(Check::Window)),
    ("prev", Mutation::Skip(Check::Prev)),
    ("reveal", Mutation::Skip(Check::Reveal)),
    ("proposer", Mutation::Skip(Check::Proposer)),
    ("order", Mutation::Skip(Check::Order)),
    ("stranger", Mutation::Skip(Check::Stranger)),
    ("barred", Mutation::Skip(Check::Barred)),
    ("weight", Mutation::Skip(Check::Weight)),
    ("scale", Mutation::Skip(Check::Scale)),
    ("clip", Mutation::Skip(Check::Clip)),
    ("omission", Mutation::Skip(Check::Omission)),
    ("active", Mutation::Skip(Check::Active)),
    ("root", Mutation::Skip(Check::Root)),
    ("plurality", Mutation::Plurality),
    ("half", Mutation::Half),
    ("first-seen", Mutation::FirstSeen),
    ("own-base", Mutation::OwnBase),
    ("frozen-active", Mutation::FrozenActive),
    ("never-open", Mutation::NeverOpen),
    ("early-tally", Mutation::EarlyTally),
    ("late-commitments", Mutation::LateCommitments),
    ("out-of-turn", Mutation::OutOfTurn),
    ("late-is-due", Mutation::LateIsDue),
    ("restless", Mutation::Restless),
    ("trust-one", Mutation::TrustOne),
    ("hear-dead", Mutation::HearDead),
    ("one-turn", Mutation::OneTurn),
    ("most-stake", Mutation::MostStake),
    ("no-show", Mutation::NoShow),
    ("outvoted-out", Mutation::OutvotedOut),
];

/// What a node goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(pub Option<Mutation>);

impl Policy {
    /// Whether this rule is broken.
    pub fn breaks(self, mutation: Mutation) -> bool {
        self.0 == Some(mutation)
    }

    /// [`protocol::judge`].
    pub fn judge(self, record: &Record, by: Hotkey, view: &View<'_>, computed: Option<Hash>) -> Verdict {
        if self.breaks(Mutation::FirstSeen) {
            return Verdict::Good;
        }
        let verdict = judge(record, by, view, computed);
        let (Some(Mutation::Skip(skipped)), Verdict::Bad(refusals)) = (self.0, &verdict) else { return verdict };
        let rest: Vec<_> = refusals.iter().copied().filter(|refusal| Check::of(refusal) != skipped).collect();
        if !rest.is_empty() {
            return Verdict::Bad(rest);
        }
        let lacking = record.accepted.iter().map(|accepted| accepted.blake3);
        let lacking: Vec<_> = lacking.filter(|delta| !view.seen.contains_key(delta)).collect();
        match computed {
            _ if !lacking.is_empty() => Verdict::Lacks(Lack::Deltas(lacking)),
            None => Verdict::Lacks(Lack::State),
            Some(_) => Verdict::Good,
        }
    }

    /// [`Head::next_active`].
    pub fn next_active(self, head: &Head, founding: &Head, rules: &Rules) -> Option<Vec<protocol::Member>> {
        if self.breaks(Mutation::FrozenActive) { Some(founding.active.clone()) } else { head.next_active(rules) }
    }

    /// [`Head::electorate`].
    pub fn electorate(
        self,
        head: &Head,
        founding: &Head,
        window: Window,
        peers: &Peers,
        rules: &Rules,
    ) -> Option<Electorate> {
        match self.0 {
            Some(Mutation::FrozenActive) => founding.electorate(Window(founding.window.0 + 1), peers, rules),
            Some(Mutation::NeverOpen) => head.electorate(window, peers, &Rules { open_windows: u64::MAX, ..*rules }),
            _ => head.electorate(window, peers, rules),
        }
    }

    /// [`protocol::tally()`].
    pub fn tally(self, electorate: &Electorate, votes: &Votes) -> Outcome {
        let enough = |stake: u128| match self.0 {
            Some(Mutation::Plurality) => stake > 0,
            Some(Mutation::Half) => stake * 2 >= electorate.total(),
            _ => false,
        };
        let most = support(electorate, votes).into_iter().max_by_key(|(_, stake)| *stake);
        match (tally(electorate, votes), most) {
            (Outcome::None, Some((record, stake))) if enough(stake) => Outcome::Final(record),
            (outcome, _) => outcome,
        }
    }
}
