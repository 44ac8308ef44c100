//! Data sources: a folder of text, `.jsonl`, `.jsonl.zst`, `.parquet`, and the manifest that names what is in them.
//!
//! A source is a row space: the rows of its parts, one after another, parts in the order of their names. The manifest
//! holds the hash of every part, so that all nodes of a run know that they read the same text.

use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::RowAccessor,
    schema::types::Type,
};
use record::{Context, Hash, Report, files};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A row of a plain text file, in bytes; rows end at a character's border.
const TEXT_ROW: u64 = 4096;
/// The longest row of a `.jsonl` file that is read, in bytes.
const ROW_CAP: u64 = 64 << 20;

/// How a part's rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text in rows of 4,096 bytes.
    Text,
    /// A JSON object a line, its text in one field.
    Jsonl,
    /// The same, compressed with zstd.
    Zst,
    /// A column of strings.
    Parquet,
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its path inside the source's folder.
    pub path: String,
    /// How its rows are found.
    pub format: Format,
    /// Number of its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: Hash,
}

/// What is in a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form: 1.
    pub v: u32,
    /// The source's name.
    pub source: String,
    /// The field or column that holds the text.
    pub field: String,
    /// Its files, by path.
    pub parts: Vec<Part>,
}

/// A source that can be read: a folder and its manifest.
pub struct Source {
    folder: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// `ends[i]`: rows in parts `0..=i`.
    ends: Vec<u64>,
}

fn format_of(path: &Path) -> Format {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    match () {
        () if name.ends_with(".jsonl") => Format::Jsonl,
        () if name.ends_with(".jsonl.zst") => Format::Zst,
        () if name.ends_with(".parquet") => Format::Parquet,
        () => Format::Text,
    }
}

impl Manifest {
    /// The manifest's own hash, which hparams hold: BLAKE3 of its JSON as [`Manifest::bytes`] writes it.
    pub fn hash(&self) -> Hash {
        blake3::hash(&self.bytes()).into()
    }

    /// Its one JSON form.
    pub fn bytes(&self) -> Vec<u8> {
        // Strings and numbers only: a JSON form always exists.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Look at every file of a folder.
    ///
    /// # Errors
    /// Exit code 65 at a file that does not hold what its name says.
    pub fn index(folder: &Path, source: &str, field: &str) -> Result<Self, Report> {
        let mut paths = Vec::new();
        for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
            let entry = entry
                .data(format!("cannot walk {}", folder.display()))
                .map_err(|e| e.hint("--data or BZ_DATA names the folder of the text"))?;
            let hidden = entry.file_name().to_str().is_none_or(|n| n.starts_with('.'));
            if entry.file_type().is_file() && !hidden && entry.file_name() != MANIFEST {
                paths.push(entry.into_path());
            }
        }
        let mut parts = Vec::with_capacity(paths.len());
        for path in paths {
            let (bytes, blake3) = files::digest(&path)?;
            let format = format_of(&path);
            let rows = count(&path, format, bytes, field).map_err(|e| e.at(path.display()))?;
            let inside = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            if rows > 0 {
                parts.push(Part { path: inside, format, rows, bytes, blake3 });
            }
        }
        parts.sort_by(|a, b| a.path.cmp(&b.path));
        if parts.is_empty() {
            return Err(Report::data(format!("there is no text under {}", folder.display()))
                .hint("a source is a folder with .txt, .rs, .md, …, .jsonl, .jsonl.zst or .parquet files"));
        }
        Ok(Manifest { v: 1, source: source.into(), field: field.into(), parts })
    }
}

/// The manifest's file name in the source's folder.
pub const MANIFEST: &str = "manifest.json";

fn count(path: &Path, format: Format, bytes: u64, field: &str) -> Result<u64, Report> {
    match format {
        Format::Text => Ok(bytes.div_ceil(TEXT_ROW)),
        Format::Jsonl | Format::Zst => {
            let mut lines = Lines::open(path, format)?;
            let mut rows = 0;
            while lines.skip_row()? {
                rows += 1;
            }
            Ok(rows)
        }
        Format::Parquet => {
            let reader = open_parquet(path)?;
            column(&reader, field)?;
            Ok(reader.metadata().file_metadata().num_rows().max(0) as u64)
        }
    }
}

impl Source {
    /// Open a folder by its manifest.
    ///
    /// # Errors
    /// Exit code 78 when the folder is not the one that `expected` names.
    pub fn open(folder: &Path, expected: Option<Hash>) -> Result<Self, Report> {
        let path = folder.join(MANIFEST);
        if !path.exists() {
            return Err(Report::config(format!("{} has no {MANIFEST}", folder.display()))
                .hint(format!("bz-pages index {} makes it", folder.display()))
                .hint("the folder is --data or BZ_DATA"));
        }
        let manifest: Manifest = files::read_json(&path)?;
        let hash = manifest.hash();
        match expected {
            Some(expected) if expected != hash => {
                return Err(Report::config(format!("{} is text {hash}, the run's is {expected}", folder.display()))
                    .hint("get the run's own text, or point --data at it"));
            }
            _ => {}
        }
        let mut total = 0u64;
        let mut ends = Vec::with_capacity(manifest.parts.len());
        for part in &manifest.parts {
            // A path in a manifest comes from outside.
            let inside = Path::new(&part.path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside {
                return Err(Report::data(format!("the manifest names {:?}, which is outside its folder", part.path)));
            }
            total = total.checked_add(part.rows).ok_or_else(|| Report::data("the manifest's rows overflow"))?;
            ends.push(total);
        }
        Ok(Source { folder: folder.to_path_buf(), manifest, ends })
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where a row of the whole source lies: its part, and its row there.
    pub fn locate(&self, row: u64) -> Option<(usize, u64)> {
        let part = self.ends.partition_point(|end| *end <= row);
        let start = if part == 0 { 0 } else { *self.ends.get(part - 1)? };
        (part < self.ends.len()).then(|| (part, row - start))
    }

    /// Read rows that follow each other.
    ///
    /// # Errors
    /// Exit code 65 when the text is not what its manifest says.
    pub fn read(&self, first: u64, rows: u64) -> Result<Vec<String>, Report> {
        let mut texts = Vec::new();
        let (mut row, end) = (first, first.saturating_add(rows).min(self.rows()));
        while row < end {
            let Some((index, local)) = self.locate(row) else { break };
            let part = &self.manifest.parts[index];
            let here = (part.rows - local).min(end - row);
            let path = self.folder.join(&part.path);
            let size = std::fs::metadata(&path).map_err(|e| files::io_report("open", &path, &e))?.len();
            if size != part.bytes {
                return Err(Report::data(format!(
                    "{} has {size} bytes, its manifest says {}",
                    path.display(),
                    part.bytes
                ))
                .hint("the file was changed since: get the run's own text again"));
            }
            let before = texts.len();
            match part.format {
                Format::Text => read_text(&path, local, here, size, &mut texts)?,
                Format::Jsonl | Format::Zst => {
                    read_lines(&path, part.format, &self.manifest.field, local, here, &mut texts)?;
                }
                Format::Parquet => read_parquet(&path, &self.manifest.field, local, here, &mut texts)?,
            }
            if (texts.len() - before) as u64 != here {
                return Err(Report::data(format!("{} has fewer rows than its manifest says", path.display())));
            }
            row += here;
        }
        Ok(texts)
    }
}

/// Text from the first character at or after `start` up to the first character at or after `end`.
fn read_text(path: &Path, row: u64, rows: u64, size: u64, texts: &mut Vec<String>) -> Result<(), Report> {
    let report = |e: std::io::Error| files::io_report("read", path, &e);
    let mut file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
    // A character has at most four bytes.
    let (from, to) = (row * TEXT_ROW, ((row + rows) * TEXT_ROW + 4).min(size));
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    file.seek(SeekFrom::Start(from)).map_err(report)?;
    file.read_exact(&mut bytes).map_err(report)?;
    let border = |at: usize| {
        let continues = |b: &u8| *b & 0xC0 == 0x80;
        let rest = bytes.get(at..).unwrap_or_default();
        (at + rest.iter().take(3).take_while(|b| continues(b)).count()).min(bytes.len())
    };
    for index in 0..rows {
        let start = if row + index == 0 { 0 } else { border((index * TEXT_ROW) as usize) };
        let end = border((((index + 1) * TEXT_ROW) as usize).min(bytes.len()));
        texts.push(String::from_utf8_lossy(&bytes[start.min(end)..end]).into_owned());
    }
    Ok(())
}

/// The lines of a `.jsonl` file, compressed or not, of which none can fill the memory.
struct Lines {
    input: Box<dyn BufRead>,
    path: PathBuf,
}

impl Lines {
    fn open(path: &Path, format: Format) -> Result<Self, Report> {
        let file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
        let input: Box<dyn BufRead> = if format == Format::Zst {
            let decoder = zstd::Decoder::new(file).map_err(|e| files::io_report("read", path, &e))?;
            Box::new(BufReader::with_capacity(1 << 18, decoder))
        } else {
            Box::new(BufReader::with_capacity(1 << 18, file))
        };
        Ok(Lines { input, path: path.into() })
    }

    /// The next line into `line`; false at the end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, Report> {
        line.clear();
        let read = (&mut self.input)
            .take(ROW_CAP)
            .read_until(b'\n', line)
            .map_err(|e| Report::data(format!("{}: {e}", self.path.display())))?;
        if read as u64 == ROW_CAP {
            return Err(Report::data(format!("{} has a row of over {ROW_CAP} bytes", self.path.display())));
        }
        Ok(read > 0)
    }

    /// Pass over one line without keeping it.
    fn skip_row(&mut self) -> Result<bool, Report> {
        let skipped =
            self.input.skip_until(b'\n').map_err(|e| Report::data(format!("{}: {e}", self.path.display())))?;
        Ok(skipped > 0)
    }
}

fn read_lines(
    path: &Path,
    format: Format,
    field: &str,
    row: u64,
    rows: u64,
    texts: &mut Vec<String>,
) -> Result<(), Report> {
    let mut lines = Lines::open(path, format)?;
    for _ in 0..row {
        if !lines.skip_row()? {
            return Ok(());
        }
    }
    let mut line = Vec::new();
    for index in row..row + rows {
        if !lines.next(&mut line)? {
            return Ok(());
        }
        let place = || format!("{}, row {index}", path.display());
        let value: serde_json::Value = serde_json::from_slice(&line).data(place())?;
        let text = value.get(field).and_then(|t| t.as_str());
        texts.push(text.ok_or_else(|| Report::data(format!("{}: no string `{field}`", place())))?.to_string());
    }
    Ok(())
}

fn open_parquet(path: &Path) -> Result<SerializedFileReader<File>, Report> {
    let file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
    SerializedFileReader::new(file).data(path.display())
}

/// The schema of the one column that holds the text.
fn column(reader: &SerializedFileReader<File>, field: &str) -> Result<Type, Report> {
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<_> = schema.get_fields().iter().filter(|f| f.name() == field).cloned().collect();
    if fields.is_empty() {
        let names: Vec<_> = schema.get_fields().iter().map(|f| f.name().to_string()).collect();
        return Err(Report::data(format!("there is no column `{field}`, only {names:?}")));
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().data("the parquet schema")
}

fn read_parquet(path: &Path, field: &str, row: u64, rows: u64, texts: &mut Vec<String>) -> Result<(), Report> {
    let reader = open_parquet(path)?;
    let schema = column(&reader, field)?;
    let (mut start, mut left) = (0u64, rows);
    for index in 0..reader.num_row_groups() {
        let group = reader.get_row_group(index).data(path.display())?;
        let here = group.metadata().num_rows().max(0) as u64;
        if row < start + here && left > 0 {
            let skip = row.saturating_sub(start);
            let iter = group.get_row_iter(Some(schema.clone())).data(path.display())?;
            for found in iter.skip(skip as usize).take(left as usize) {
                let found = found.data(path.display())?;
                texts.push(found.get_string(0).data(format!("{}, column `{field}`", path.display()))?.clone());
                left -= 1;
            }
        }
        start += here;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn text_is_cut_at_characters_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        // Two-byte and four-byte characters, so that rows end inside some.
        let a: String = (0..3000).map(|i| if i % 3 == 0 { "é" } else { "🦀x" }).collect();
        let b = "tail".to_string();
        std::fs::write(folder.path().join("a.txt"), &a).unwrap();
        std::fs::write(folder.path().join("b.md"), &b).unwrap();
        std::fs::write(folder.path().join("empty.md"), "").unwrap();
        let manifest = Manifest::index(folder.path(), "s", "text").unwrap();
        files::write_json(&folder.path().join(MANIFEST), &manifest).unwrap();
        assert_eq!(Manifest::index(folder.path(), "s", "text").unwrap(), manifest, "the manifest is not a part");
        let source = Source::open(folder.path(), Some(manifest.hash())).unwrap();
        let all = source.read(0, source.rows()).unwrap();
        assert_eq!(all.concat(), format!("{a}{b}"));
        let one_by_one: Vec<String> = (0..source.rows()).flat_map(|r| source.read(r, 1).unwrap()).collect();
        assert_eq!(one_by_one, all, "any row can be read alone");
        assert!(Source::open(folder.path(), Some(Hash([0; 32]))).is_err());
        std::fs::write(folder.path().join("b.md"), "changed").unwrap();
        assert!(source.read(source.rows() - 1, 1).unwrap_err().error.contains("manifest says"));
    }

    #[test]
    fn jsonl_zst_and_parquet_hold_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<String> = (0..57).map(|i| format!("row {i} \u{e9}")).collect();
        let lines: String = rows.iter().map(|r| serde_json::json!({"n": 1, "body": r}).to_string() + "\n").collect();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        file("a.jsonl").write_all(lines.as_bytes()).unwrap();
        file("b.jsonl.zst").write_all(&zstd::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
        let schema =
            parquet::schema::parser::parse_message_type("message m { REQUIRED INT32 n; REQUIRED BINARY body (UTF8); }")
                .unwrap();
        let mut writer = parquet::file::writer::SerializedFileWriter::new(
            file("c.parquet"),
            std::sync::Arc::new(schema),
            Default::default(),
        )
        .unwrap();
        for chunk in rows.chunks(20) {
            let mut group = writer.next_row_group().unwrap();
            let mut n = group.next_column().unwrap().unwrap();
            n.typed::<parquet::data_type::Int32Type>().write_batch(&vec![1; chunk.len()], None, None).unwrap();
            n.close().unwrap();
            let mut body = group.next_column().unwrap().unwrap();
            let values: Vec<_> = chunk.iter().map(|r| r.as_str().into()).collect();
            body.typed::<parquet::data_type::ByteArrayType>().write_batch(&values, None, None).unwrap();
            body.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        let manifest = Manifest::index(folder.path(), "s", "body").unwrap();
        assert_eq!(manifest.parts.iter().map(|p| p.rows).collect::<Vec<_>>(), [57, 57, 57]);
        files::write_json(&folder.path().join(MANIFEST), &manifest).unwrap();
        let source = Source::open(folder.path(), None).unwrap();
        let all = source.read(0, 171).unwrap();
        assert_eq!(all, [rows.clone(), rows.clone(), rows.clone()].concat());
        assert_eq!(source.read(57 + 57 + 18, 25).unwrap(), rows[18..43], "across row groups");
        assert_eq!(source.read(55, 4).unwrap(), [&rows[55..], &rows[..2]].concat(), "across parts");
        assert!(Manifest::index(folder.path(), "s", "absent").is_err());
    }

    #[test]
    fn a_manifest_cannot_name_a_file_outside() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/../../x"] {
            let part = Part { path: path.into(), format: Format::Text, rows: 1, bytes: 1, blake3: Hash([0; 32]) };
            let manifest = Manifest { v: 1, source: "s".into(), field: "text".into(), parts: vec![part] };
            files::write_json(&folder.path().join(MANIFEST), &manifest).unwrap();
            assert!(Source::open(folder.path(), None).err().unwrap().error.contains("outside"), "{path}");
        }
    }
}
