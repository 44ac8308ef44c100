//! A lying validator: each lie changes one thing in what an honest one would say, and says it first.

use crate::{
    chain::SLOT,
    dice::{mix, name},
    node::Delta,
    scenario::{LIES, Lie},
    world::{Event, World, hotkey, root},
};
use protocol::{
    Member, Record, Seen, Standing,
    enter::{choose, list},
    judge::Verdict,
};
use record::{Hash, Uid, Window};

impl World {
    fn lie_of(&self, node: usize, window: Window, lie: Lie) -> Lie {
        let draw = mix(self.scenario.seed ^ window.0 << 8 ^ node as u64);
        if lie == Lie::Mixed { LIES[(draw % LIES.len() as u64) as usize] } else { lie }
    }

    /// What a liar does in the time of voting, at each slot.
    pub fn lie(&mut self, node: usize, window: Window, lie: Lie, best: u64) {
        let lie = self.lie_of(node, window, lie);
        self.wake(node, SLOT);
        if lie == Lie::Silent {
            return;
        }
        let turn = self.turn(window);
        let from = if lie == Lie::Late { turn.last_call.saturating_sub(2) } else { turn.propose };
        if best >= from && !self.nodes[node].memory.making && lie != Lie::Garbage {
            self.nodes[node].memory.making = true;
            self.push(1, node, Event::Made(window));
        }
        let own = self.nodes[node].disk.entry.vote.filter(|(of, _)| *of == window).map(|(_, record)| record);
        let good = self.nodes[node].memory.judged.iter().find(|judged| judged.verdict == Verdict::Good);
        let good = good.map(|judged| judged.record);
        let lied = self.lies.get(&window).copied();
        let garbage = Hash(name(7, mix(window.0)));
        let wanted = match lie {
            Lie::Garbage => Some(garbage),
            Lie::Turncoat if best >= turn.last_call => lied.filter(|lied| Some(*lied) != own).or(Some(garbage)),
            Lie::Turncoat => good.or(lied),
            _ => lied.or(good),
        };
        if let Some(wanted) = wanted
            && own.is_none_or(|own| own != wanted && (lie != Lie::Turncoat || best >= turn.last_call))
        {
            self.cast(node, window, wanted);
        }
    }

    /// A lie is made, and shown.
    pub fn lie_is_made(&mut self, node: usize, window: Window, lie: Lie) {
        let lie = self.lie_of(node, window, lie);
        let Some(honest) = self.honest_record(node, window) else { return };
        let mut shown = u32::MAX;
        let mut by = node;
        let record = match lie {
            Lie::Uncommitted | Lie::Invalid | Lie::OmitOne | Lie::OmitMany | Lie::Empty => {
                self.other_list(node, window, lie, honest)
            }
            Lie::Equivocate => {
                // Two good records: a bit of the readers' numbers says who gets which.
                shown = if self.dice.per_mille(500) { 0x5555_5555 } else { 0x3333_3333 };
                let other = self.other_file(node, honest.clone(), u32::MAX);
                let id = self.new_record(other, node);
                self.propose(node, window, id, node, !shown);
                honest
            }
            Lie::Unavailable => {
                let half = self.dice.bits() as u32;
                self.other_file(node, honest, half)
            }
            Lie::Outsider => {
                by = self.scenario.validators.len();
                self.other_file(node, honest, u32::MAX)
            }
            _ => self.change(node, window, lie, honest),
        };
        let id = self.new_record(record, by);
        self.propose(node, window, id, by, shown);
        self.lies.entry(window).or_insert(self.records[id].hash);
    }

    /// A record with another list, by the rule for that list.
    fn other_list(&mut self, node: usize, window: Window, lie: Lie, mut record: Record) -> Record {
        let peers = self.peers_at(window);
        let Some(head) = self.nodes[node].disk.ledger.before(window).cloned() else { return record };
        let mut chosen = choose(&self.nodes[node].memory.seen, &peers);
        match lie {
            Lie::Empty => chosen.clear(),
            Lie::OmitOne => {
                let at = self.dice.index(chosen.len());
                if let Some(uid) = chosen.keys().nth(at).copied() {
                    chosen.remove(&uid);
                }
            }
            Lie::OmitMany => {
                let parity = self.dice.below(2);
                chosen.retain(|uid, _| u64::from(uid.0) % 2 == parity);
            }
            _ => {
                let bad = self.nodes[node]
                    .memory
                    .seen
                    .iter()
                    .find(|(_, seen)| lie == Lie::Invalid && matches!(seen.standing, Standing::Barred(_)));
                let (hash, seen) = match bad {
                    Some((hash, seen)) => (*hash, *seen),
                    None => self.own_delta(node, window, head.hash),
                };
                chosen.insert(seen.uid, (hash, seen));
            }
        }
        let list = list(&chosen, &peers, head.clip, &self.scenario.rules);
        record.accepted = list.accepted;
        record.clip = list.clip;
        record.root = root(head.root, &record);
        record
    }

    /// A delta of the liar's own hotkey that nobody committed to; it shows it to all.
    fn own_delta(&mut self, node: usize, window: Window, base: Hash) -> (Hash, Seen) {
        let base = self.nodes[node].memory.base.unwrap_or(base);
        let id = self.new_delta(Delta {
            hash: Hash([0; 32]),
            owner: node,
            window,
            commitment: Hash([0; 32]),
            base,
            valid: true,
            norm: 1.0,
            cheat: true,
            shown: u32::MAX,
            held: 1 << node,
            due: 0,
            sent: false,
        });
        let standing = Standing::Due;
        (self.deltas[id].hash, Seen { uid: Uid(node as u16), hotkey: hotkey(node), norm: 1.0, standing })
    }

    /// The same record with another file of one peer's work, as a peer can sign it twice; the liar shows it to these.
    fn other_file(&mut self, node: usize, mut record: Record, shown: u32) -> Record {
        let at = self.dice.index(record.accepted.len());
        let found = record.accepted.get(at).and_then(|accepted| self.delta_of(&accepted.blake3));
        if let Some(delta) = found {
            let copy = Delta { shown, held: 1 << node, due: 0, sent: false, ..self.deltas[delta].clone() };
            let copy = self.new_delta(copy);
            record.accepted[at].blake3 = self.deltas[copy].hash;
            self.lead(node, &mut record);
        }
        record
    }

    /// Give a record the state that its list leads to.
    fn lead(&self, node: usize, record: &mut Record) {
        if let Some(head) = self.nodes[node].disk.ledger.before(record.window) {
            record.root = root(head.root, record);
        }
    }

    /// A record in which one field is another one.
    fn change(&mut self, node: usize, window: Window, lie: Lie, mut record: Record) -> Record {
        let count = record.accepted.len();
        let at = self.dice.index(count);
        let coin = self.dice.per_mille(500);
        let other = Hash(name(9, self.dice.bits()));
        match lie {
            Lie::Rollback | Lie::RollbackState => {
                let old = self.oracle.old_head(window, self.dice.bits());
                record.prev = old.0;
                if lie == Lie::RollbackState {
                    record.root = root(old.1, &record);
                }
            }
            Lie::OtherWindow if coin => record.window.0 = record.window.0.saturating_sub(1),
            Lie::OtherWindow => record.window.0 += 1 + self.dice.below(5000),
            Lie::Run => record.run = other,
            Lie::Reveal => record.reveal = other,
            Lie::Root => record.root = other,
            Lie::Clip => record.clip = if coin { None } else { Some(record.clip.unwrap_or(1.0) * 2.0) },
            Lie::Active if coin => record.active = vec![Member { hotkey: hotkey(node), missed: 0 }],
            Lie::Active => match record.active.last_mut() {
                Some(member) => member.missed += 1,
                None => record.active.push(Member { hotkey: hotkey(node), missed: 0 }),
            },
            Lie::Scale | Lie::Weight | Lie::Order | Lie::Stranger if count > 0 => {
                let accepted = &mut record.accepted[at];
                match lie {
                    Lie::Scale => accepted.scale = if accepted.scale < 1.0 { 1.0 } else { 0.0 },
                    Lie::Weight => accepted.weight_u16 = if coin { 1 } else { accepted.weight_u16 ^ 2 },
                    Lie::Stranger if coin => accepted.hotkey = hotkey(node),
                    Lie::Stranger => accepted.hotkey.0[0] ^= 1,
                    _ if coin && count > 1 => record.accepted.swap(0, 1),
                    _ => record.accepted.extend(record.accepted.last().cloned()),
                }
                self.lead(node, &mut record);
            }
            _ => {}
        }
        record
    }
}
