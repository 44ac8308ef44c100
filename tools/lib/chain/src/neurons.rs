//! The neurons of a subnet at one block: one consistent view, since all of it is read at the same block hash.
//!
//! Source of names and types: pallet-subtensor's storage, and pallet-commitments.

use crate::{
    client::{AtBlock, Chain},
    storage::{foreign, has},
    subnet::{PALLET, RAO},
};
use record::{Hash, Hotkey, Report, Uid, records::Peer};
use std::collections::BTreeMap;
use subxt::dynamic;

/// A uid is a u16: an endless list is none of a chain's.
const NEURONS: usize = 1 << 16;

impl Chain {
    /// The neurons of the subnet as of a block, of this number and hash; `own` marks the wallet's. They come from the
    /// facts where a follower has them: then an old block's are known although the node has forgotten its state.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet, or the chain keeps what this suite
    /// does not read.
    pub fn peers_at(&self, number: u64, block: Hash, own: Option<Hotkey>) -> Result<Vec<Peer>, Report> {
        if let Some(mut peers) = self.facts.as_ref().and_then(|facts| facts.peers(number, block)) {
            peers.iter_mut().for_each(|peer| peer.own = own == Some(peer.hotkey));
            return Ok(peers);
        }
        self.decoded(block, || self.peers(block, own))
    }

    /// Who had which uid at a block, of this number and hash; `None` when neither a follower nor the node has kept it.
    ///
    /// # Errors
    /// As [`Chain::peers_at`].
    pub fn members_at(&self, number: u64, block: Hash) -> Result<Option<BTreeMap<u16, Hotkey>>, Report> {
        match self.facts.as_ref().and_then(|facts| facts.peers(number, block)) {
            Some(peers) => Ok(Some(peers.into_iter().map(|peer| (peer.uid.0, peer.hotkey)).collect())),
            None => self.decoded(block, || self.members(block)),
        }
    }

    /// The neurons of the subnet as of a block; `own` marks the wallet's.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when there is no such subnet, or the chain has another form.
    pub fn peers(&self, block: Hash, own: Option<Hotkey>) -> Result<Vec<Peer>, Report> {
        let at = self.at(block)?;
        self.exists(&at)?;
        // Newer chains keep no trust of miners.
        let share = |entry| -> Result<Vec<u16>, Report> {
            Ok(if has(&at, entry) { self.of_subnet(&at, entry)?.unwrap_or_default() } else { Vec::new() })
        };
        let (dividends, trust) = (share("Dividends")?, share("Trust")?);
        let incentive: Vec<u16> = self.of_mechanism(&at, "Incentive")?.unwrap_or_default();
        let permit: Vec<bool> = self.of_subnet(&at, "ValidatorPermit")?.unwrap_or_default();
        let last_update: Vec<u64> = self.of_mechanism(&at, "LastUpdate")?.unwrap_or_default();
        let hotkeys = self.hotkeys(&at)?;
        let mut entries = self.entries_in(&at)?;
        let keys: Vec<Hotkey> = hotkeys.values().copied().collect();
        let netuid = self.subnet.netuid;
        let stakes = self.stakes(&at, &keys)?;
        let owner = dynamic::storage::<([u8; 32],), [u8; 32]>(PALLET, "Owner");
        let owners = self.many(&at, owner, keys.iter().map(|key| (key.0,)).collect())?;
        let block = dynamic::storage::<(u16, u16), u64>(PALLET, "BlockAtRegistration");
        let registered = self.many(&at, block, hotkeys.keys().map(|uid| (netuid, *uid)).collect())?;
        let part = |shares: &[u16], place: usize| f64::from(shares.get(place).copied().unwrap_or(0)) / 65535.0;
        let all = hotkeys.into_iter().enumerate().map(|(order, (uid, hotkey))| {
            let place = usize::from(uid);
            Peer {
                uid: Uid(uid),
                hotkey,
                coldkey: owners.get(order).copied().flatten().map(Hotkey),
                bucket: entries.remove(&hotkey).and_then(|entry| entry.bucket),
                stake: stakes.get(order).copied().unwrap_or(0) as f64 / RAO,
                incentive: part(&incentive, place),
                trust: part(&trust, place),
                dividends: part(&dividends, place),
                permit: permit.get(place).copied().unwrap_or(false),
                last_update: last_update.get(place).copied().unwrap_or(0),
                registered: registered.get(order).copied().flatten().unwrap_or(0),
                own: own == Some(hotkey),
            }
        });
        Ok(all.collect())
    }

    /// Who had which uid at a block; `None` when the node keeps that block's state no longer.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer.
    pub fn members(&self, block: Hash) -> Result<Option<BTreeMap<u16, Hotkey>>, Report> {
        match self.at(block).and_then(|at| self.hotkeys(&at)) {
            Ok(found) => Ok(Some(found)),
            Err(report) if Chain::forgotten(&report) => Ok(None),
            Err(report) => Err(report),
        }
    }

    pub(crate) fn hotkeys(&self, at: &AtBlock) -> Result<BTreeMap<u16, Hotkey>, Report> {
        let address = dynamic::storage::<(u16, u16), [u8; 32]>(PALLET, "Keys");
        let entry = at.storage().entry(address).map_err(|e| foreign(at, "Keys", e))?;
        let netuid = self.subnet.netuid;
        entry.iter_key((netuid,)).map_err(|e| foreign(at, "Keys", e))?;
        let all = self.wait("the subnet's keys", async {
            let mut all = Vec::new();
            let mut entries = entry.iter((netuid,)).await.map_err(|e| e.to_string())?;
            while let Some(entry) = entries.next().await {
                if all.len() == NEURONS {
                    return Err(String::from("more neurons than there can be"));
                }
                all.push(entry.map_err(|e| e.to_string())?);
            }
            Ok::<_, String>(all)
        })?;
        let mut found = BTreeMap::new();
        for entry in &all {
            let (_, uid) = entry.key().and_then(|key| key.decode()).map_err(|e| foreign(at, "Keys", e))?;
            let hotkey = entry.value().decode().map_err(|e| foreign(at, "Keys", e))?;
            found.insert(uid, Hotkey(hotkey));
        }
        Ok(found)
    }
}
