//! How much a hotkey may still commit: the chain counts the bytes of a subnet's epoch, and fields.

use crate::{
    answer::is_foreign,
    client::{AtBlock, Chain},
    commitments::FIELD,
    entries::COMMITMENTS,
};
use record::{Hotkey, Report};
use subxt::{
    dynamic::{self, At, Value},
    ext::scale_type_resolver::{TypeResolver, visitor},
};

/// What a chain has that does not tell it. Source: Subtensor's `DefaultMaxSpace` and `MaxFields`.
const SPACE: u64 = 3100;
/// See [`SPACE`].
const FIELDS: usize = 3;
/// A call counts as so many bytes at least. Source: `min_used_space` of pallet-commitments' `set_commitment`.
const CALL: u64 = 100;

/// What the chain takes of a hotkey, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in an epoch.
    pub space: u64,
    /// Bytes that are used of them.
    pub used: u64,
    /// The most fields of an entry.
    pub fields: usize,
    /// The most bytes of a field.
    pub field: usize,
    /// The block from which all of it is there again, where the subnet has epochs.
    pub renewed_at: Option<u64>,
}

impl Room {
    /// Bytes that are left in this epoch.
    pub fn left(&self) -> u64 {
        self.space.saturating_sub(self.used)
    }

    /// How many bytes a call with these fields counts.
    pub fn counts(fields: &[Vec<u8>]) -> u64 {
        let bytes: usize = fields.iter().map(Vec::len).sum();
        (bytes as u64).max(CALL)
    }

    /// That the chain will take these fields.
    ///
    /// # Errors
    /// Exit code 1 when it never will, 75 when it will in the next epoch.
    pub fn fits(&self, fields: &[Vec<u8>]) -> Result<(), Report> {
        let counts = Room::counts(fields);
        if fields.len() > self.fields || fields.iter().any(|field| field.len() > self.field) {
            let (bytes, room) = (fields.iter().map(Vec::len).sum::<usize>(), self.fields * self.field);
            return Err(Report::no(format!(
                "the entry has {bytes} bytes in {} fields, this chain takes {} of {} bytes, {room} in all",
                fields.len(),
                self.fields,
                self.field
            ))
            .hint("commitments and votes need a field beside the bucket's address: a shorter name, or a key of fewer characters"));
        }
        if counts > self.space {
            return Err(Report::no(format!(
                "the entry counts {counts} bytes, this chain takes {} an epoch",
                self.space
            ))
            .hint("a bucket of a shorter name needs fewer"));
        }
        if counts <= self.left() {
            return Ok(());
        }
        let from = self.renewed_at.map_or_else(
            || "the subnet has no epochs: its owner sets the tempo".into(),
            |block| format!("from block {block} on there is room again"),
        );
        Err(Report::again(format!(
            "too much was committed in this epoch: the call counts {counts} bytes, {} of {} are left",
            self.left(),
            self.space
        ))
        .hint(from))
    }
}

impl Chain {
    /// What the chain takes of a hotkey in its next block.
    ///
    /// # Errors
    /// Exit code 75 when the node does not answer, 78 when the chain has another form.
    pub fn room(&self, hotkey: Hotkey) -> Result<Room, Report> {
        let at = self.wait("the last block", self.api()?.at_current_block())?;
        self.exists(&at)?;
        let space = known(self.item::<u32>(&at, COMMITMENTS, "MaxSpace"))?.map_or(SPACE, u64::from);
        let address = dynamic::storage::<(u16, [u8; 32]), Value>(COMMITMENTS, "UsedSpaceOf");
        let usage = known(self.value(&at, address, (self.subnet.netuid, hotkey.0)))?.flatten();
        let number = |name: &str| {
            let number = usage.as_ref().and_then(|usage| usage.at(name)).and_then(|number| number.as_u128());
            number.map(|number| u64::try_from(number).unwrap_or(u64::MAX))
        };
        let epochs = self.epochs(&at)?;
        let next = at.block_number().max(self.best_of_node()?).saturating_add(1);
        // An epoch that is due in the next block may be counted before the call, or after it.
        let epoch = epochs.number(next).saturating_sub(epochs.due(next).into());
        let is_of_now = number("last_epoch").is_some_and(|last| last >= epoch);
        let used = number("used_space").filter(|_| is_of_now).unwrap_or(0);
        let fields = at.constants().entry(dynamic::constant::<u32>(COMMITMENTS, "MaxFields"));
        let fields = fields.map_or(FIELDS, |fields| fields as usize);
        let renewed_at = epochs.next(next.saturating_sub(1)).map(|block| block.saturating_add(1));
        Ok(Room { space, used, fields, field: longest_raw(&at).unwrap_or(FIELD), renewed_at })
    }
}

/// What a chain has; `None` where it has no such thing.
fn known<T>(read: Result<T, Report>) -> Result<Option<T>, Report> {
    match read {
        Err(report) if is_foreign(&report) => Ok(None),
        other => other.map(Some),
    }
}

/// The greatest `RawN` of pallet-commitments' fields.
fn longest_raw(at: &AtBlock) -> Option<usize> {
    let metadata = at.metadata();
    let types = metadata.types();
    let longest = |id: u32| {
        let visitor = visitor::new((), |(), _| None).visit_variant(|(), mut path, variants| {
            let is_theirs = Iterator::any(&mut path, |part| part == "pallet_commitments");
            let lengths = variants.filter_map(|variant| variant.name.strip_prefix("Raw")?.parse::<usize>().ok());
            lengths.filter(|_| is_theirs).max()
        });
        types.resolve_type(id, visitor).ok().flatten()
    };
    types.types.iter().filter_map(|kind| longest(kind.id)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Code;

    fn room() -> Room {
        Room { space: 3100, used: 2900, fields: 3, field: 128, renewed_at: Some(721) }
    }

    #[test]
    fn a_call_counts_its_bytes_and_a_hundred_at_least() {
        assert_eq!(Room::counts(&[]), 100);
        assert_eq!(Room::counts(&[vec![0; 40], vec![0; 60]]), 100);
        assert_eq!(Room::counts(&[vec![0; 40], vec![0; 61]]), 101);
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_is_left() {
        let of = |fields: &[usize]| room().fits(&fields.iter().map(|length| vec![b'x'; *length]).collect::<Vec<_>>());
        assert_eq!(room().left(), 200);
        assert!(of(&[80, 114]).is_ok() && of(&[]).is_ok() && of(&[86, 114]).is_ok());
        let report = of(&[87, 114]).unwrap_err();
        assert_eq!(report.code, Code::Again);
        assert!(report.error.contains("counts 201 bytes, 200 of 3100 are left"), "{report}");
        assert!(report.hints.iter().any(|hint| hint.contains("block 721")), "{report}");
        // What no epoch takes is no matter of time.
        for wrong in [&[129][..], &[1, 1, 1, 1]] {
            assert_eq!(of(wrong).unwrap_err().code, Code::No, "{wrong:?}");
        }
        let small = Room { space: 150, used: 0, ..room() };
        assert_eq!(small.fits(&[vec![0; 100], vec![0; 51]]).unwrap_err().code, Code::No);
        let spent = Room { space: 100, used: 900, renewed_at: None, ..room() };
        assert!(spent.left() == 0 && spent.fits(&[]).unwrap_err().code == Code::Again);
    }
}
