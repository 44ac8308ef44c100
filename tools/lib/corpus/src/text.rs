//! Files of plain text: rows of 4,096 bytes, which end at a character's border.

use record::{Report, files};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

/// A row, in bytes.
const ROW: u64 = 4096;
/// What is looked at at once, in bytes.
const BLOCK: usize = 1 << 20;

/// Number of rows in so many bytes.
pub(crate) fn rows(bytes: u64) -> u64 {
    bytes.div_ceil(ROW)
}

/// Number of rows of a file, all of which is UTF-8.
pub(crate) fn count(path: &Path) -> Result<u64, Report> {
    let refused = |e: io::Error| files::io_report("read", path, &e);
    let file = File::open(path).map_err(refused)?;
    let bytes = file.metadata().map_err(refused)?.len();
    match not_utf8(file, BLOCK).map_err(refused)? {
        None => Ok(rows(bytes)),
        Some(at) => Err(Report::data(format!("{} is no text: its byte {at} is not UTF-8", path.display()))
            .hint("write it anew in UTF-8, such as with: iconv -f latin1 -t utf-8 FILE")
            .hint("or move it out of the folder, or put a dot before its name: what is hidden is not looked at")),
    }
}

/// The place of the first byte that belongs to no character; `block` bytes, at least 4, are looked at at once.
fn not_utf8(mut input: impl Read, block: usize) -> io::Result<Option<u64>> {
    let mut bytes = vec![0; block];
    // `held` bytes of a character that began in the block before; `before` bytes are known to be good.
    let (mut held, mut before) = (0, 0u64);
    loop {
        let read = input.read(&mut bytes[held..])?;
        let filled = held + read;
        match std::str::from_utf8(&bytes[..filled]) {
            Ok(_) if read == 0 => return Ok(None),
            Ok(_) => {
                before += filled as u64;
                held = 0;
            }
            Err(e) if e.error_len().is_none() && read > 0 => {
                bytes.copy_within(e.valid_up_to()..filled, 0);
                before += e.valid_up_to() as u64;
                held = filled - e.valid_up_to();
            }
            Err(e) => return Ok(Some(before + e.valid_up_to() as u64)),
        }
    }
}

/// Append rows: text from the first character at or after a row's start up to the first one at or after its end.
///
/// What is not UTF-8 is replaced, as it always was: runs have been founded on such text.
pub(crate) fn read(path: &Path, rows: Range<u64>, texts: &mut Vec<String>) -> Result<(), Report> {
    let report = |e: io::Error| files::io_report("read", path, &e);
    let mut file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
    let size = file.metadata().map_err(report)?.len();
    // A character has at most four bytes.
    let from = rows.start.saturating_mul(ROW);
    let to = rows.end.saturating_mul(ROW).saturating_add(4).min(size);
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    file.seek(SeekFrom::Start(from)).map_err(report)?;
    file.read_exact(&mut bytes).map_err(report)?;
    let border = |at: usize| {
        let continues = |b: &u8| *b & 0xC0 == 0x80;
        let rest = bytes.get(at..).unwrap_or_default();
        (at + rest.iter().take(3).take_while(|b| continues(b)).count()).min(bytes.len())
    };
    for index in 0..rows.end - rows.start {
        let start = if rows.start + index == 0 { 0 } else { border((index * ROW) as usize) };
        let end = border((((index + 1) * ROW) as usize).min(bytes.len()));
        texts.push(String::from_utf8_lossy(&bytes[start.min(end)..end]).into_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_judged_as_if_they_were_looked_at_at_once(
            pieces in proptest::collection::vec(prop_oneof!["[a-zé🦀]{0,4}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..2)], 0..12),
            block in 4usize..9,
        ) {
            let bytes = pieces.concat();
            let whole = std::str::from_utf8(&bytes).err().map(|e| e.valid_up_to() as u64);
            prop_assert_eq!(not_utf8(&bytes[..], block).unwrap(), whole);
        }
    }

    #[test]
    fn what_is_not_utf8_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1.txt");
        for (before, bytes) in [(5, &b"\xe9t\xe9"[..]), (BLOCK - 1, b"\xc3x"), (7000, b"\xc3"), (0, b"\xff\xfet\0")] {
            std::fs::write(&path, [&vec![b'a'; before][..], bytes].concat()).unwrap();
            let report = count(&path).unwrap_err();
            assert_eq!(report.code, record::Code::Data);
            let named = format!("latin1.txt is no text: its byte {before} is not UTF-8");
            assert!(report.error.contains(&named) && !report.hints.is_empty(), "{report}");
        }
        // A character over the border of two blocks is one.
        std::fs::write(&path, [&vec![b'a'; BLOCK - 1][..], "é".as_bytes()].concat()).unwrap();
        assert_eq!(count(&path).unwrap(), 257);
    }
}
