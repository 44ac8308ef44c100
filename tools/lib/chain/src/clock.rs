//! The clock: finalized blocks, their numbers, hashes and times, and the wait for one of them. All of it comes from a
//! follower on this machine while one runs, and from the nodes else.

use crate::{
    answer::{bytes_of, hash_of, number_of, prefixed, unreachable},
    client::Chain,
    facts::Head,
    link::BEHIND,
};
use record::{Code, Hash, Report};
use serde_json::Value;
use std::time::{Duration, Instant};
use subxt::{
    ext::{
        codec::{Compact, Decode},
        frame_decode::storage::encode_storage_key_prefix,
    },
    rpcs::client::rpc_params,
};

/// A node without a block for this long is left for another, where there is one.
pub(crate) const STALE: Duration = Duration::from_secs(45);
/// A chain may be slow; one without a block for this long stands.
const STANDS: Duration = Duration::from_secs(90);
/// How often a follower's last block is looked at by who waits for it.
const LOOK: Duration = Duration::from_millis(100);

impl Chain {
    /// The number of the last finalized block.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn finalized(&self) -> Result<u64, Report> {
        match self.followed() {
            Some(head) => Ok(head.number),
            None => self.finalized_of_node(),
        }
    }

    /// What a follower on this machine says at this moment, if one runs.
    fn followed(&self) -> Option<Head> {
        self.facts.as_ref()?.live()
    }

    pub(crate) fn finalized_of_node(&self) -> Result<u64, Report> {
        let head = self.request("chain_getFinalizedHead", rpc_params![])?;
        let header = self.request("chain_getHeader", rpc_params![head])?;
        number_of(&header).ok_or_else(|| unreachable(&self.url, "its last header has no number"))
    }

    /// The number of the newest block, final or not.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn best(&self) -> Result<u64, Report> {
        match self.followed() {
            Some(head) => Ok(head.best),
            None => self.best_of_node(),
        }
    }

    pub(crate) fn best_of_node(&self) -> Result<u64, Report> {
        let header = self.request("chain_getHeader", rpc_params![])?;
        number_of(&header).ok_or_else(|| unreachable(&self.url, "its last header has no number"))
    }

    /// Whether this is a chain of this machine, made by bz-localnet: then buckets are on loopback. A node of a public
    /// network that happens to run here is none.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn is_localnet(&self) -> Result<bool, Report> {
        match self.followed() {
            Some(head) => Ok(head.local),
            None => Ok(self.on_loopback && self.request("system_name", rpc_params![])? == "bz-localnet"),
        }
    }

    /// The hash of a finalized block, `None` while it is not there.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn block_hash(&self, number: u64) -> Result<Option<Hash>, Report> {
        match self.facts.as_ref().and_then(|facts| facts.block(number)) {
            Some(block) => Ok(Some(block.hash)),
            None => Ok(hash_of(&self.request("chain_getBlockHash", rpc_params![number])?)),
        }
    }

    /// The hash of a finalized block on which the nodes agree: what is drawn from it is drawn once. No node may have
    /// another, and more than half of those whose chain goes on have it: one that says it is far ahead of the only
    /// other is not believed. A follower wrote down what they agreed on.
    ///
    /// # Errors
    /// Exit code 75 when the nodes disagree, or none answers.
    pub fn agreed_hash(&self, number: u64) -> Result<Option<Hash>, Report> {
        if let Some(block) = self.facts.as_ref().and_then(|facts| facts.block(number)) {
            return Ok(Some(block.hash));
        }
        let ours = hash_of(&self.request("chain_getBlockHash", rpc_params![number])?);
        if self.link.nodes() > 1 && ours.is_some() {
            self.others_agree(number, ours)?;
        }
        Ok(ours)
    }

    /// The hashes of finalized blocks on which the nodes agree, asked for at once.
    ///
    /// # Errors
    /// As [`Chain::agreed_hash`]; and when a block is not there.
    pub(crate) fn agreed_hashes(&self, numbers: &[u64]) -> Result<Vec<Hash>, Report> {
        self.node()?;
        let all = self.until_stopped(self.link.all_hashes_of(numbers))?;
        let each = numbers.iter().enumerate().map(|(place, number)| {
            let mut told = all.iter().flatten().map(|hashes| hashes.get(place).copied().flatten());
            match told.next() {
                Some(Some(hash)) if told.all(|other| other == Some(hash)) => Ok(hash),
                // One of them has none, or another.
                _ => self
                    .agreed_hash(*number)?
                    .ok_or_else(|| unreachable(&self.url, format!("it does not know block {number}"))),
            }
        });
        each.collect()
    }

    fn others_agree(&self, number: u64, ours: Option<Hash>) -> Result<(), Report> {
        let since = Instant::now();
        let mut first: Option<Vec<Option<u64>>> = None;
        loop {
            let all = self.until_stopped(self.link.all_hashes(number))?;
            if let Some(other) = all.iter().flatten().flatten().find(|hash| Some(**hash) != ours) {
                let ours = ours.map_or_else(String::new, |hash| hash.to_string());
                return Err(Report::again(format!(
                    "the nodes of {} disagree about block {number}: {ours}, {other}",
                    self.url
                ))
                .hint("one of them is on a fork, or lies: leave it out of --network"));
            }
            let have = all.iter().flatten().flatten().count();
            let stands = |node: &usize| self.standing.get().is_some_and(|standing| standing.contains(node));
            let without: Vec<usize> = (0..all.len()).filter(|node| all[*node] == Some(None) && !stands(node)).collect();
            if have > without.len() {
                return Ok(());
            }
            // They are a moment behind, or stand still; or they are the honest ones.
            let heads = self.until_stopped(self.link.all_finalized())?;
            let first = first.get_or_insert_with(|| heads.clone());
            let goes_on = |node: &&usize| heads[**node].zip(first[**node]).is_some_and(|(now, then)| now > then);
            let far = |node: &&usize| heads[**node].is_some_and(|head| head.saturating_add(BEHIND) < number);
            let moving = without.iter().filter(goes_on);
            let waited = since.elapsed() >= STALE;
            if have <= moving.clone().filter(|node| waited || far(node)).count() {
                return Err(Report::again(format!(
                    "of the nodes of {}, {have} have block {number}, {} do not, and their chain goes on",
                    self.url,
                    moving.count()
                ))
                .hint("one of them is behind, or lies about its head: leave it out of --network, or name a third"));
            }
            if waited {
                let _ = self.standing.set(without);
                return Ok(());
            }
            self.pause(Duration::from_millis(300))?;
        }
    }

    /// Wait until a block is finalized; its hash. Survives a node that restarts, and a follower that ends. Every block
    /// from the last finalized one on is told to `tick`, none left out, whatever the node leaves out.
    ///
    /// # Errors
    /// Exit code 75 when the node stays away, or makes no blocks; 78 when it became another chain.
    pub fn wait_for(&self, number: u64, mut tick: impl FnMut(u64)) -> Result<Hash, Report> {
        let mut seen = self.finalized()?;
        tick(seen);
        let mut moved = Instant::now();
        while seen < number {
            let more = |last: u64| {
                if last > seen {
                    (seen + 1..=last.min(number)).for_each(&mut tick);
                    (seen, moved) = (last, Instant::now());
                }
                seen < number
            };
            let is_followed = self.followed().is_some();
            let waited = if is_followed { self.watch(more) } else { self.heads(more) };
            if let Err(report) = waited {
                if moved.elapsed() >= STANDS || report.code == Code::Config {
                    return Err(report);
                }
                if !is_followed && self.link.nodes() > 1 && moved.elapsed() >= STALE {
                    self.link.leave("makes no blocks");
                }
                // The subscription broke off: the next one begins at the block that is final then.
                self.pause(Duration::from_millis(300))?;
            }
        }
        self.block_hash(number)?.ok_or_else(|| unreachable(&self.url, format!("it does not know block {number}")))
    }

    /// Tell the number of a follower's last block until `more` says no, or nobody follows any more.
    fn watch(&self, mut more: impl FnMut(u64) -> bool) -> Result<(), Report> {
        let (mut last, mut moved) = (0, Instant::now());
        while let Some(head) = self.followed() {
            if head.number != last {
                (last, moved) = (head.number, Instant::now());
            }
            if !more(head.number) {
                return Ok(());
            }
            if moved.elapsed() >= STANDS {
                return Err(unreachable(&self.url, format!("no block for {} s", STANDS.as_secs())));
            }
            self.pause(LOOK)?;
        }
        Ok(())
    }

    /// Tell each finalized block's number, as a node says it, until `more` says no.
    fn heads(&self, mut more: impl FnMut(u64) -> bool) -> Result<(), Report> {
        let method = "chain_subscribeFinalizedHeads";
        let node = self.node()?;
        let subscribed = node.subscribe::<Value>(method, rpc_params![], "chain_unsubscribeFinalizedHeads");
        let mut heads = self.wait(method, subscribed)?;
        // What became final before the subscription began.
        let mut number = self.finalized_of_node()?;
        while more(number) {
            let patience = if self.link.nodes() > 1 { STALE } else { STANDS };
            let next = self.until_stopped(async { tokio::time::timeout(patience, heads.next()).await })?;
            number = match next {
                Ok(Some(Ok(header))) => number_of(&header).unwrap_or(number),
                Ok(Some(Err(error))) => return Err(unreachable(&self.url, error)),
                Ok(None) => return Err(unreachable(&self.url, "it closed the subscription")),
                Err(_) => return Err(unreachable(&self.url, format!("no block for {} s", patience.as_secs()))),
            };
        }
        Ok(())
    }

    /// The chain's clock at a block, milliseconds since 1970.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, or keeps neither the block's state nor the block;
    /// [`Chain::forgotten`] tells the two apart.
    pub fn time_ms(&self, block: Hash) -> Result<u64, Report> {
        if let Some(time_ms) = self.facts.as_ref().and_then(|facts| facts.time_ms(block)) {
            return Ok(time_ms);
        }
        match self.request("state_getStorage", rpc_params![clock_key(), prefixed(block)]) {
            Ok(value) => clock_of(&value).ok_or_else(|| Report::again(format!("block {block} has no time"))),
            // A node keeps the states of some hundred blocks, and their contents for long.
            Err(report) if Chain::forgotten(&report) => self.time_of_content(block)?.ok_or(report),
            Err(report) => Err(report),
        }
    }

    /// The time that a block's author put into it.
    fn time_of_content(&self, block: Hash) -> Result<Option<u64>, Report> {
        let content = self.request("chain_getBlock", rpc_params![prefixed(block)])?;
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        let metadata = at.metadata();
        let pallet = metadata.pallet_by_name("Timestamp");
        let call = pallet.and_then(|pallet| Some([pallet.call_index(), pallet.call_variant_by_name("set")?.index]));
        let extrinsics = content.pointer("/block/extrinsics").and_then(Value::as_array);
        let (Some(call), Some(extrinsics)) = (call, extrinsics) else { return Ok(None) };
        Ok(extrinsics.iter().filter_map(bytes_of).find_map(|extrinsic| set_time(&extrinsic, call)))
    }
}

/// Where the chain keeps its clock.
pub(crate) fn clock_key() -> String {
    format!("0x{}", hex::encode(encode_storage_key_prefix("Timestamp", "Now")))
}

/// Milliseconds, as the chain keeps them: a u64.
pub(crate) fn clock_of(value: &Value) -> Option<u64> {
    Some(u64::from_le_bytes(bytes_of(value)?.try_into().ok()?))
}

/// The time in a `Timestamp.set` without signature: its length, the form's version, pallet and call, and the time.
/// Source: Substrate's form of extrinsics, versions 4 and 5.
fn set_time(extrinsic: &[u8], call: [u8; 2]) -> Option<u64> {
    let mut rest = extrinsic;
    let length = Compact::<u32>::decode(&mut rest).ok()?.0;
    let (head, mut time) = rest.split_at_checked(3)?;
    if u64::from(length) != rest.len() as u64 || ![4, 5].contains(head.first()?) || head.get(1..)? != call {
        return None;
    }
    let time_ms = Compact::<u64>::decode(&mut time).ok()?.0;
    time.is_empty().then_some(time_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use subxt::ext::codec::Encode;

    #[test]
    fn the_clock_is_where_every_chain_of_this_kind_has_it() {
        // Source: the well-known key of Timestamp.Now.
        assert_eq!(clock_key(), "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb");
        assert_eq!(clock_of(&"0x0102000000000000".into()), Some(513));
        for wrong in ["0x01020000000000", "0x010200000000000000", "0102000000000000", "0xzz", ""] {
            assert_eq!(clock_of(&wrong.into()), None, "{wrong}");
        }
        assert_eq!(clock_of(&Value::Null), None);
    }

    #[test]
    fn a_blocks_own_time_is_read_from_its_content_and_from_nothing_else() {
        let of = |head: &[u8], time: u64| {
            let mut body = head.to_vec();
            Compact(time).encode_to(&mut body);
            let mut extrinsic = Compact(body.len() as u32).encode();
            extrinsic.extend(body);
            extrinsic
        };
        let good = of(&[4, 2, 0], 1_700_000_000_123);
        assert_eq!(set_time(&good, [2, 0]), Some(1_700_000_000_123));
        assert_eq!(set_time(&of(&[5, 2, 0], 7), [2, 0]), Some(7));
        // Another call, a signature, a byte too many, one too few.
        assert_eq!(set_time(&good, [2, 1]), None);
        assert_eq!(set_time(&of(&[0x84, 2, 0], 7), [2, 0]), None);
        let mut long = good.clone();
        long.push(0);
        assert_eq!(set_time(&long, [2, 0]), None);
        for length in 0..good.len() {
            assert_eq!(set_time(&good[..length], [2, 0]), None, "{length}");
        }
        // The length may be right and the time not.
        assert_eq!(set_time(&[4 << 2, 4, 2, 0, 3], [2, 0]), None);
    }
}
