//! Files of JSON lines, plain or compressed: a row is the string in one field of a line's object, or nothing where that
//! is null.

use record::{Report, files};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};
use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    ops::Range,
    path::{Path, PathBuf},
};

/// The longest line that is read, in bytes: a small file that was compressed can hold a line that fills the memory.
const ROW_CAP: u64 = 64 << 20;
/// So many names of fields are told where the one that was asked for is absent.
const NAMES: usize = 8;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// It is not.
    Plain,
    /// Members of gzip, one after another.
    Gzip,
    /// Frames of zstd, one after another.
    Zstd,
}

/// The lines of a file, of which none can fill the memory.
struct Lines {
    input: Box<dyn BufRead>,
    path: PathBuf,
}

impl Lines {
    fn open(path: &Path, packing: Packing) -> Result<Self, Report> {
        let file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
        let inside: Box<dyn Read> = match packing {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(zstd::Decoder::new(file).map_err(|e| files::io_report("read", path, &e))?),
        };
        Ok(Lines { input: Box::new(BufReader::with_capacity(1 << 18, inside)), path: path.into() })
    }

    fn damaged(&self, error: &std::io::Error) -> Report {
        Report::data(format!("{}: {error}", self.path.display()))
            .hint("it is damaged or cut short: get the file again, and index the source anew")
    }

    fn too_long(&self) -> Report {
        Report::data(format!("{} has a row of over {ROW_CAP} bytes", self.path.display()))
            .hint("a row is one text: split it")
    }

    /// The next line into `line`; false at the end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, Report> {
        line.clear();
        let read = (&mut self.input).take(ROW_CAP).read_until(b'\n', line);
        let read = read.map_err(|e| self.damaged(&e))?;
        if read as u64 == ROW_CAP { Err(self.too_long()) } else { Ok(read > 0) }
    }

    /// Pass over one line without keeping it.
    fn skip_row(&mut self) -> Result<bool, Report> {
        let skipped = (&mut self.input).take(ROW_CAP).skip_until(b'\n');
        let skipped = skipped.map_err(|e| self.damaged(&e))?;
        if skipped as u64 == ROW_CAP { Err(self.too_long()) } else { Ok(skipped > 0) }
    }
}

/// Number of rows; each is looked at, so that a run is not founded on one that cannot be read.
pub(crate) fn count(path: &Path, packing: Packing, field: &str) -> Result<u64, Report> {
    let mut lines = Lines::open(path, packing)?;
    let (mut line, mut rows) = (Vec::new(), 0);
    while lines.next(&mut line)? {
        text_of(&line, field).map_err(|e| e.at(place(path, rows)))?;
        rows += 1;
    }
    Ok(rows)
}

/// Append rows; fewer where the file ends before.
pub(crate) fn read(
    path: &Path,
    packing: Packing,
    field: &str,
    rows: Range<u64>,
    texts: &mut Vec<String>,
) -> Result<(), Report> {
    let mut lines = Lines::open(path, packing)?;
    for _ in 0..rows.start {
        if !lines.skip_row()? {
            return Ok(());
        }
    }
    let mut line = Vec::new();
    for row in rows {
        if !lines.next(&mut line)? {
            return Ok(());
        }
        texts.push(text_of(&line, field).map_err(|e| e.at(place(path, row)))?);
    }
    Ok(())
}

/// Whether the first line is a whole JSON object: a `.json` file may as well be one object over many lines, or a list.
///
/// # Errors
/// As [`count`], where it cannot be unpacked.
pub(crate) fn is_lines(path: &Path, packing: Packing) -> Result<bool, Report> {
    let mut line = Vec::new();
    if !Lines::open(path, packing)?.next(&mut line)? {
        return Ok(true);
    }
    let object = line.trim_ascii_start().starts_with(b"{");
    Ok(object && serde_json::from_slice::<IgnoredAny>(&line).is_ok())
}

fn place(path: &Path, row: u64) -> String {
    format!("{}, row {row}", path.display())
}

/// The text of one line.
fn text_of(line: &[u8], field: &str) -> Result<String, Report> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let found = Row { field }.deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|e| Report::data(e).hint("a row is a JSON object on a line of its own"))?;
    found.text.ok_or_else(|| {
        Report::data(format!("no string `{field}`, only {:?}", found.names))
            .hint("bz-pages index --field NAME says which field holds the text")
    })
}

/// Reads one field of an object and keeps nothing of the others, whatever they hold.
struct Row<'a> {
    field: &'a str,
}

/// What a line has.
struct Found {
    /// The last field of that name, as other readers take it; a null is an empty text.
    text: Option<String>,
    /// Names of the first other fields.
    names: Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found { text: None, names: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if name == self.field {
                let text: Option<String> =
                    map.next_value().map_err(|e| A::Error::custom(format_args!("`{}`: {e}", self.field)))?;
                found.text = Some(text.unwrap_or_default());
            } else {
                map.next_value::<IgnoredAny>()?;
                if found.names.len() < NAMES {
                    found.names.push(name);
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    proptest! {
        #[test]
        fn the_same_rows_come_out_of_each_packing_and_any_of_them_alone(
            rows in proptest::collection::vec(proptest::option::of(any::<String>()), 1..12),
            other in any::<String>(),
            from in 0usize..12,
            length in 0usize..12,
        ) {
            let line = |row: &Option<String>| serde_json::json!({"a": [1, {"t": 2}], "t": row, "z": other}).to_string();
            let lines: String = rows.iter().map(|row| line(row) + "\n").collect();
            let texts: Vec<String> = rows.iter().map(|row| row.clone().unwrap_or_default()).collect();
            let (from, to) = (from.min(rows.len()), (from + length).min(rows.len()));
            let half = lines.find('\n').unwrap() + 1;
            let packed = [
                (Packing::Plain, lines.clone().into_bytes()),
                // Two members, two frames: what tools that work side by side write.
                (Packing::Gzip, [gz(&lines.as_bytes()[..half]), gz(&lines.as_bytes()[half..])].concat()),
                (Packing::Zstd, [zst(&lines.as_bytes()[..half]), zst(&lines.as_bytes()[half..])].concat()),
            ];
            for (packing, bytes) in packed {
                let file = file(&bytes);
                prop_assert_eq!(count(file.path(), packing, "t").unwrap(), rows.len() as u64);
                prop_assert!(is_lines(file.path(), packing).unwrap());
                let mut some = Vec::new();
                read(file.path(), packing, "t", from as u64..to as u64, &mut some).unwrap();
                prop_assert_eq!(&some[..], &texts[from.min(to)..to]);
            }
        }
    }

    #[test]
    fn what_is_no_row_is_refused_with_its_place() {
        let good = r#"{"t":"x"}"#;
        for (line, named) in [
            ("", "EOF"),
            ("[1]", "a JSON object"),
            ("\"t\"", "a JSON object"),
            (r#"{"t":"x""#, "EOF"),
            (r#"{"t":"x"} {"t":"y"}"#, "trailing characters"),
            (r#"{"t":3}"#, "`t`: invalid type"),
            (r#"{"t":["x"]}"#, "`t`: invalid type"),
            (r#"{"b":"x","c":[{"t":"y"}]}"#, r#"no string `t`, only ["b", "c"]"#),
            ("{\"t\":\"\u{0}\"}", "control character"),
        ] {
            let file = file(format!("{good}\n{line}\n{good}\n").as_bytes());
            let report = count(file.path(), Packing::Plain, "t").unwrap_err();
            assert!(report.error.contains("row 1") && report.error.contains(named), "{line}: {report}");
            assert_eq!(report.code, record::Code::Data);
            let mut texts = Vec::new();
            let again = read(file.path(), Packing::Plain, "t", 1..3, &mut texts).unwrap_err();
            assert_eq!(again.error, report.error);
            assert!(texts.is_empty());
        }
        let bytes = file(b"{\"t\":\"\xff\"}\n");
        assert!(count(bytes.path(), Packing::Plain, "t").is_err());
    }

    #[test]
    fn the_last_of_two_fields_of_a_name_counts() {
        assert_eq!(text_of(br#"{"t":"a","t":"b"}"#, "t").unwrap(), "b");
        assert_eq!(text_of(br#"{"t":"a","t":null}"#, "t").unwrap(), "");
    }

    #[test]
    fn a_file_that_is_cut_short_is_refused() {
        // Some megabytes, so that half of the packed file holds whole blocks.
        let lines: String = (0..80_000).map(|i| format!("{{\"t\":\"row {i} {}\"}}\n", i * 7919 % 104_729)).collect();
        for (packing, bytes) in [(Packing::Gzip, gz(lines.as_bytes())), (Packing::Zstd, zst(lines.as_bytes()))] {
            assert_eq!(count(file(&bytes).path(), packing, "t").unwrap(), 80_000);
            let cut = file(&bytes[..bytes.len() / 2]);
            let report = count(cut.path(), packing, "t").unwrap_err();
            assert!(
                report.code == record::Code::Data && report.hints[0].contains("cut short"),
                "{packing:?}: {report}"
            );
            // The head of the file alone is still read.
            let mut texts = Vec::new();
            read(cut.path(), packing, "t", 0..2, &mut texts).unwrap();
            assert_eq!(texts.len(), 2);
        }
        // What is no gzip at all.
        assert_eq!(count(file(lines.as_bytes()).path(), Packing::Gzip, "t").unwrap_err().code, record::Code::Data);
        // The last eight bytes of a member are its checksum and its length.
        let mut bytes = gz(lines.as_bytes());
        let end = bytes.len() - 8;
        bytes[end] ^= 1;
        assert!(count(file(&bytes).path(), Packing::Gzip, "t").is_err());
    }

    #[test]
    fn a_line_that_would_fill_the_memory_is_refused() {
        // 65 MiB of one letter in 300 KB.
        let line = [&b"{\"t\":\""[..], &vec![b'a'; 65 << 20][..], b"\"}\n"].concat();
        let bomb = file(&gz(&line));
        assert!(bomb.path().metadata().unwrap().len() < 1 << 20);
        let refused = |result: Result<u64, Report>| {
            let report = result.unwrap_err();
            assert!(report.code == record::Code::Data && report.error.contains("a row of over 67108864"), "{report}");
        };
        refused(count(bomb.path(), Packing::Gzip, "t"));
        // Also where it is passed over.
        refused(read(bomb.path(), Packing::Gzip, "t", 1..2, &mut Vec::new()).map(|()| 0));
    }

    #[test]
    fn json_over_many_lines_is_not_json_lines() {
        for (text, lines) in [
            ("{\n  \"default\": {\"features\": {}}\n}\n", false),
            ("[{\"t\":\"x\"}]\n", false),
            ("3\n", false),
            ("{\"t\":\"x\"}\n{\"t\":\"y\"}\n", true),
            ("  {\"t\":\"x\"}", true),
            ("", true),
        ] {
            assert_eq!(is_lines(file(text.as_bytes()).path(), Packing::Plain).unwrap(), lines, "{text}");
        }
    }
}
