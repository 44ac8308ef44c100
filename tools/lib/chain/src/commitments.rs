//! What a hotkey says of itself in its entry of the Commitments pallet: where its bucket is, to which update it has
//! committed, for which record it votes. The bytes stand in lib/wire/FORMAT.md, under "The entry on the chain".
//!
//! Anybody writes what it likes into its own entry: reading ends, takes no more than what has this form to the byte,
//! and says for people why there is no more.

use record::{Hash, Report, Window};
use serde::{Deserialize, Serialize};

/// The most bytes of one field. Source: Subtensor's `Data`, `Raw0` to `Raw128`.
pub const FIELD: usize = 128;
/// The longest bucket address that is read.
const BUCKET_CAP: usize = 1024;
/// The form of the compact field that this suite reads and writes.
pub const FORM: u8 = 1;
/// A field whose first byte is below this is no part of an address: no address has such a character.
const PRINTABLE: u8 = 0x20;
/// Which parts follow, in this order.
const COMMITMENT: u8 = 1;
/// See [`COMMITMENT`].
const VOTE: u8 = 2;
/// See [`COMMITMENT`].
const LAST: u8 = 4;

/// A hotkey's entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The address of its bucket. Hostile.
    pub bucket: Option<String>,
    /// To which update it has committed, in which window.
    pub commitment: Option<(Window, Hash)>,
    /// The record that it votes for, in which window.
    pub vote: Option<(Window, Hash)>,
    /// Hash of the last record that it holds for final.
    pub last: Option<Hash>,
    /// Why nothing but the address is read, where something else is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Entry {
    /// The entry that these fields make, whatever they are: the address is what stands before the first field that
    /// begins with a control character, and that field is the compact one, if it is the last.
    pub fn read(fields: &[Vec<u8>]) -> Self {
        let is_compact = |field: &Vec<u8>| field.first().is_some_and(|first| *first < PRINTABLE);
        let place = fields.iter().position(is_compact).unwrap_or(fields.len());
        let (address, rest) = fields.split_at(place);
        let parts = match rest {
            [] => Ok(Entry::default()),
            [field] => read_compact(field),
            [_, ..] => Err(format!("{} fields stand behind the compact one, which is the last", rest.len() - 1)),
        };
        let bucket = String::from_utf8(address.concat()).ok();
        let bucket = bucket.filter(|text| !text.is_empty() && text.len() <= BUCKET_CAP);
        let parts = parts.unwrap_or_else(|reason| Entry { reason: Some(reason), ..Entry::default() });
        Entry { bucket, ..parts }
    }

    /// The fields of this entry: the address in as many as it needs, and the compact one.
    ///
    /// # Errors
    /// Exit code 65 when the address is none that is read again.
    pub fn fields(&self) -> Result<Vec<Vec<u8>>, Report> {
        let address = self.bucket.iter().flat_map(|bucket| bucket.as_bytes().chunks(FIELD));
        let mut fields: Vec<Vec<u8>> = address.map(<[u8]>::to_vec).collect();
        fields.extend(self.compact());
        let kept = Entry { reason: None, ..self.clone() };
        if Entry::read(&fields) == kept {
            return Ok(fields);
        }
        Err(Report::data("the bucket's address cannot be written: it is empty, too long, or has control characters")
            .hint("bz-chain bucket ADDRESS commits another one"))
    }

    /// The compact field; `None` where there is no part of it.
    fn compact(&self) -> Option<Vec<u8>> {
        let (mut flags, mut parts) = (0, Vec::new());
        for (flag, part) in [(COMMITMENT, self.commitment), (VOTE, self.vote)] {
            if let Some((window, hash)) = part {
                flags |= flag;
                parts.extend(window.0.to_le_bytes());
                parts.extend(hash.0);
            }
        }
        if let Some(last) = self.last {
            flags |= LAST;
            parts.extend(last.0);
        }
        (flags != 0).then(|| [&[FORM, flags][..], &parts].concat())
    }

    /// The same with a commitment in place of an older one.
    ///
    /// # Errors
    /// The window of a commitment that is there and is later.
    pub fn with_commitment(&self, window: Window, commitment: Hash) -> Result<Self, Window> {
        match self.commitment {
            Some((later, _)) if later > window => Err(later),
            _ => Ok(Entry { commitment: Some((window, commitment)), reason: None, ..self.clone() }),
        }
    }

    /// The same with a vote in place of an older one, or without one of this window where it votes for nothing; and
    /// with another last record, where one is given.
    ///
    /// # Errors
    /// The window of a vote that is there and is later.
    pub fn with_vote(&self, window: Window, vote: Option<Hash>, last: Option<Hash>) -> Result<Self, Window> {
        let vote = match (self.vote, vote) {
            (Some((later, _)), _) if later > window => return Err(later),
            (_, Some(vote)) => Some((window, vote)),
            (Some((same, _)), None) if same == window => None,
            (before, None) => before,
        };
        Ok(Entry { vote, last: last.or(self.last), reason: None, ..self.clone() })
    }
}

/// The parts of a compact field.
fn read_compact(field: &[u8]) -> Result<Entry, String> {
    let [form, rest @ ..] = field else { return Err("the compact field is empty".into()) };
    if *form != FORM {
        return Err(format!("the compact field has form {form}, this suite reads {FORM}"));
    }
    let Some((flags, mut rest)) = rest.split_first() else {
        return Err("the compact field ends after its form".into());
    };
    if *flags == 0 || flags & !(COMMITMENT | VOTE | LAST) != 0 {
        return Err(format!("the compact field has flags {flags:#04x}, which name no parts, or unknown ones"));
    }
    let (length, cut) = (field.len(), || format!("the compact field of {} bytes ends in the middle", field.len()));
    let mut entry = Entry::default();
    if flags & COMMITMENT != 0 {
        entry.commitment = Some(take_of_window(&mut rest).ok_or_else(cut)?);
    }
    if flags & VOTE != 0 {
        entry.vote = Some(take_of_window(&mut rest).ok_or_else(cut)?);
    }
    if flags & LAST != 0 {
        entry.last = Some(take_hash(&mut rest).ok_or_else(cut)?);
    }
    if rest.is_empty() {
        return Ok(entry);
    }
    Err(format!("the compact field of {length} bytes has {} behind its parts", rest.len()))
}

fn take_hash(rest: &mut &[u8]) -> Option<Hash> {
    let (hash, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(Hash(*hash))
}

fn take_of_window(rest: &mut &[u8]) -> Option<(Window, Hash)> {
    let (window, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some((Window(u64::from_le_bytes(*window)), take_hash(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole() -> Entry {
        Entry {
            bucket: Some("https://s3.example.org/miner7".into()),
            commitment: Some((Window(258), Hash([1; 32]))),
            vote: Some((Window(257), Hash([2; 32]))),
            last: Some(Hash([3; 32])),
            reason: None,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let fields = whole().fields().unwrap();
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[0], b"https://s3.example.org/miner7");
        let compact = [&[1, 7, 2, 1, 0, 0, 0, 0, 0, 0][..], &[1; 32], &[1, 1, 0, 0, 0, 0, 0, 0], &[2; 32], &[3; 32]];
        assert_eq!(fields[1], compact.concat());
        assert!(fields[1].len() == 114 && fields[1].len() <= FIELD);
        assert_eq!(Entry::read(&fields), whole());
    }

    #[test]
    fn old_entries_and_those_of_others_read_as_they_did() {
        let bucket = |fields: &[&[u8]]| {
            let fields: Vec<Vec<u8>> = fields.iter().map(|field| field.to_vec()).collect();
            let entry = Entry::read(&fields);
            assert_eq!((entry.commitment, entry.vote, entry.last), (None, None, None));
            (entry.bucket, entry.reason.is_some())
        };
        let some = |text: &str| (Some(text.to_string()), false);
        assert_eq!(bucket(&[]), (None, false));
        assert_eq!(bucket(&[b""]), (None, false));
        assert_eq!(bucket(&[b"miner-7"]), some("miner-7"));
        assert_eq!(bucket(&[&[b'a'; 128], &[b'b'; 128], b"c"]), some(&("a".repeat(128) + &"b".repeat(128) + "c")));
        // Another subnet's bytes that are no text.
        assert_eq!(bucket(&[b"model", &[0xff, 0xfe]]), (None, false));
        assert_eq!(bucket(&[&[b'x'; 1025]]), (None, false));
        // Forms to come, and garbage: the address is read all the same, and the reason is there for people.
        let address: &[u8] = b"https://s3.example.org/m";
        for garbage in [&[2, 1][..], &[1], &[1, 0], &[1, 8], &[1, 255], &[0; 128], &[1; 128], &[1, 4, 9], &[31]] {
            assert_eq!(bucket(&[address, garbage]), (Some("https://s3.example.org/m".into()), true), "{garbage:?}");
            assert_eq!(bucket(&[garbage]), (None, true), "{garbage:?}");
        }
        let compact = whole().compact().unwrap();
        assert_eq!(bucket(&[address, &compact, b"more"]), (Some("https://s3.example.org/m".into()), true));
        assert_eq!(bucket(&[&compact, address]), (None, true), "the address stands first");
        assert!(bucket(&[address, &compact, &compact]).1);
    }

    #[test]
    fn a_later_window_is_not_overwritten() {
        let entry = whole();
        assert_eq!(entry.with_commitment(Window(257), Hash([9; 32])), Err(Window(258)));
        assert_eq!(entry.with_vote(Window(256), Some(Hash([9; 32])), None), Err(Window(257)));
        assert_eq!(entry.with_vote(Window(256), None, Some(Hash([9; 32]))), Err(Window(257)));
        // One part changes, all others stay.
        let next = entry.with_commitment(Window(258), Hash([9; 32])).unwrap();
        assert_eq!(next, Entry { commitment: Some((Window(258), Hash([9; 32]))), ..whole() });
        let next = entry.with_vote(Window(300), Some(Hash([9; 32])), None).unwrap();
        assert_eq!(next, Entry { vote: Some((Window(300), Hash([9; 32]))), ..whole() });
        // Who stands for nothing takes back what it said of this window, and nothing else.
        assert_eq!(entry.with_vote(Window(257), None, None).unwrap(), Entry { vote: None, ..whole() });
        let next = entry.with_vote(Window(258), None, Some(Hash([8; 32]))).unwrap();
        assert_eq!(next, Entry { last: Some(Hash([8; 32])), ..whole() });
        // What is written has no reason why it was not read.
        let odd = Entry { reason: Some("form 7".into()), ..Entry::default() };
        assert_eq!(odd.with_commitment(Window(0), Hash([1; 32])).unwrap().reason, None);
    }

    #[test]
    fn an_address_that_would_be_read_otherwise_is_not_written() {
        let of = |bucket: &str| Entry { bucket: Some(bucket.into()), ..whole() }.fields();
        assert!(of("https://s3.example.org/m").is_ok());
        assert_eq!(of(&"é".repeat(100)).unwrap().len(), 3, "a letter may lie in two fields");
        for wrong in ["", "\u{1}x", &("a".repeat(128) + "\nb"), &"a".repeat(1025)] {
            assert_eq!(of(wrong).unwrap_err().code, record::Code::Data, "{wrong:?}");
        }
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let part = || prop::option::of((any::<u64>(), any::<[u8; 32]>()));
        let bucket = prop::option::of("[ -~é√]{1,300}");
        (bucket, part(), part(), prop::option::of(any::<[u8; 32]>())).prop_map(|(bucket, commitment, vote, last)| {
            let of = |part: Option<(u64, [u8; 32])>| part.map(|(window, hash)| (Window(window), Hash(hash)));
            Entry { bucket, commitment: of(commitment), vote: of(vote), last: last.map(Hash), reason: None }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entry in entry()) {
            let fields = entry.fields().unwrap();
            prop_assert!(fields.iter().all(|field| (1..=FIELD).contains(&field.len())));
            prop_assert_eq!(Entry::read(&fields), entry);
        }

        #[test]
        fn what_is_read_is_written_so(flags in 0u8..10, form in 0u8..3, rest in prop::collection::vec(any::<u8>(), 0..127)) {
            let field = [&[form, flags][..], &rest].concat();
            let entry = Entry::read(std::slice::from_ref(&field));
            // One form for each meaning: whatever is read is written as it was, and whatever is not has a reason.
            prop_assert_eq!(entry.compact().is_some(), entry.reason.is_none());
            if let Some(compact) = entry.compact() {
                prop_assert_eq!(compact, field);
            }
        }

        #[test]
        fn a_byte_more_or_less_is_another_thing(entry in entry(), byte in any::<u8>(), cut in 1usize..114) {
            let Some(compact) = entry.compact() else { return Ok(()) };
            let none = |field: Vec<u8>| {
                let read = Entry::read(&[field]);
                read.compact().is_none() && read.reason.is_some()
            };
            prop_assert!(none([&compact[..], &[byte]].concat()));
            prop_assert!(none(compact[..cut.min(compact.len() - 1)].to_vec()));
        }

        #[test]
        fn any_fields_are_read(fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let entry = Entry::read(&fields);
            prop_assert!(entry.reason.is_none() || entry.compact().is_none());
        }
    }
}
