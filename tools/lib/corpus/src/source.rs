//! Data sources: a folder of text, and the manifest that names what is in it.
//!
//! A source is a row space: the rows of its parts, one after another, parts in the order of their names. The manifest
//! holds the hash of every part, so that all nodes of a run know that they read the same text.

use crate::{format::Format, text};
use record::{Hash, Report, files};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// The manifest's file name in the source's folder.
pub const MANIFEST: &str = "manifest.json";

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
                .hint(format!("bz-pages index --data {} makes it", folder.display()))
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
            // A manifest comes from outside.
            if !Path::new(&part.path).components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(Report::data(format!("the manifest names {:?}, which is outside its folder", part.path)));
            }
            if part.format == Format::Text && part.rows != text::rows(part.bytes) {
                return Err(Report::data(format!(
                    "the manifest gives {:?} {} rows in {} bytes",
                    part.path, part.rows, part.bytes
                )));
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
            part.format.read(&path, &self.manifest.field, local..local + here, &mut texts)?;
            if (texts.len() - before) as u64 != here {
                return Err(Report::data(format!("{} has fewer rows than its manifest says", path.display())));
            }
            row += here;
        }
        Ok(texts)
    }
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
    fn every_table_holds_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<String> = (0..57).map(|i| format!("row {i} \u{e9}")).collect();
        let lines: String = rows.iter().map(|r| serde_json::json!({"n": 1, "body": r}).to_string() + "\n").collect();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.jsonl"), &lines).unwrap();
        std::fs::write(path("b.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
        let columns: Vec<Option<&str>> = rows.iter().map(|row| Some(row.as_str())).collect();
        crate::parquet::tests::write(&path("c.parquet"), &columns);
        let file = std::fs::File::create(path("d.json.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(lines.as_bytes()).unwrap();
        packed.finish().unwrap();
        std::fs::write(path("e.ndjson"), &lines).unwrap();
        std::fs::write(path("f.json"), &lines).unwrap();
        let manifest = Manifest::index(folder.path(), "s", "body").unwrap();
        assert_eq!(manifest.parts.iter().map(|p| p.rows).collect::<Vec<_>>(), [57; 6]);
        files::write_json(&folder.path().join(MANIFEST), &manifest).unwrap();
        let source = Source::open(folder.path(), None).unwrap();
        let all = source.read(0, 6 * 57).unwrap();
        assert_eq!(all, vec![rows.clone(); 6].concat());
        assert_eq!(source.read(57 + 57 + 18, 25).unwrap(), rows[18..43], "across row groups");
        assert_eq!(source.read(55, 4).unwrap(), [&rows[55..], &rows[..2]].concat(), "across parts");
        assert!(Manifest::index(folder.path(), "s", "absent").is_err());
    }

    /// A run that was founded when any file was text goes on.
    #[test]
    fn a_manifest_says_how_a_part_is_read_whatever_its_name_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json.gz"), b"caf\xe9").unwrap();
        let parts = r#"[{"path":"a.json.gz","format":"text","rows":1,"bytes":4,"blake3":"HASH"}]"#;
        let parts = parts.replace("HASH", blake3::hash(b"caf\xe9").to_hex().as_str());
        let manifest = format!(r#"{{"v":1,"source":"s","field":"text","parts":{parts}}}"#);
        std::fs::write(folder.path().join(MANIFEST), &manifest).unwrap();
        let hash: Hash = blake3::hash(manifest.as_bytes()).into();
        let source = Source::open(folder.path(), Some(hash)).unwrap();
        assert_eq!(source.read(0, 1).unwrap(), ["caf\u{fffd}"]);
    }

    #[test]
    fn a_manifest_whose_rows_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (rows, bytes) in [(u64::MAX, 1), (2, 4096), (0, 1), (1, 4097)] {
            let part = Part { path: "a.txt".into(), format: Format::Text, rows, bytes, blake3: Hash([0; 32]) };
            let manifest = Manifest { v: 1, source: "s".into(), field: "text".into(), parts: vec![part] };
            files::write_json(&folder.path().join(MANIFEST), &manifest).unwrap();
            assert!(Source::open(folder.path(), None).err().unwrap().error.contains("rows in"), "{rows} of {bytes}");
        }
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
