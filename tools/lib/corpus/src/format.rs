//! Which files are read, as their names tell, and how the rows of each are found.
//!
//! A name that tells no format below is never read as text: an image or an archive would train as noise.

use crate::{
    jsonl::{self, Packing},
    parquet, text,
};
use record::Report;
use serde::{Deserialize, Serialize};
use std::{ops::Range, path::Path};

/// How a part's rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text in UTF-8, in rows of 4,096 bytes.
    Text,
    /// A JSON object a line, its text in one field.
    Jsonl,
    /// The same, compressed with zstd.
    Zst,
    /// The same, compressed with gzip.
    Gz,
    /// A column of strings.
    Parquet,
}

/// What ends the name of a file of JSON lines, before `.gz` or `.zst` where it is compressed.
const LINES: [&str; 3] = ["json", "jsonl", "ndjson"];

/// What ends the name of a file of text: prose, markup, sources, settings. Tables (`.csv`) are none: their text would
/// be cut out of its columns.
#[rustfmt::skip]
const TEXT: &[&str] = &[
    "adoc", "bib", "log", "markdown", "md", "mdx", "org", "rst", "srt", "tex", "text", "txt", "vtt",
    "css", "htm", "html", "less", "scss", "svelte", "vue", "xhtml", "xml",
    "ada", "adb", "ads", "asm", "awk", "bash", "bat", "c", "cc", "cjs", "cl", "clj", "cljs", "cpp", "cs", "cu",
    "cuh", "cxx", "d", "dart", "el", "elm", "erl", "ex", "exs", "f", "f90", "f95", "fish", "for", "fs", "fsx", "go",
    "groovy", "h", "hh", "hpp", "hrl", "hs", "hxx", "java", "jl", "js", "jsx", "kt", "kts", "lean", "lisp", "lua",
    "m", "mjs", "ml", "mli", "mm", "nim", "nix", "pas", "php", "pl", "pm", "ps1", "py", "pyi", "pyx", "r", "rb",
    "rkt", "rs", "s", "scala", "scm", "sh", "sol", "sql", "sv", "swift", "tcl", "ts", "tsx", "v", "vb", "vhd",
    "vhdl", "vim", "vy", "zig", "zsh",
    "bazel", "bzl", "cfg", "cmake", "conf", "diff", "gradle", "graphql", "ini", "mk", "patch", "properties",
    "proto", "tf", "thrift", "toml", "yaml", "yml",
];

impl Format {
    /// What is known, for a person.
    pub const KNOWN: &'static str = "known are .parquet; lines of JSON as .jsonl, .ndjson or .json, alone or with .gz \
        or .zst behind it; and text as .txt, .md, .html, .rs, .py and what else ends the names of sources";

    /// The format that the end of a file's name tells, in capitals or not.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (stem, end) = name.rsplit_once('.')?;
        let inner = stem.rsplit_once('.').map(|(_, inner)| inner);
        match end {
            "parquet" => Some(Format::Parquet),
            "gz" => inner.is_some_and(|inner| LINES.contains(&inner)).then_some(Format::Gz),
            "zst" => inner.is_some_and(|inner| LINES.contains(&inner)).then_some(Format::Zst),
            _ if LINES.contains(&end) => Some(Format::Jsonl),
            _ => TEXT.contains(&end).then_some(Format::Text),
        }
    }

    /// Whether its text is one field of each row.
    pub fn is_table(self) -> bool {
        self != Format::Text
    }

    /// Number of the file's rows, of which every one was looked at (of Parquet the first).
    ///
    /// # Errors
    /// Exit code 65 where it does not hold what its name says.
    pub(crate) fn count(self, path: &Path, field: &str) -> Result<u64, Report> {
        match self {
            Format::Text => text::count(path),
            Format::Jsonl => jsonl::count(path, Packing::Plain, field),
            Format::Zst => jsonl::count(path, Packing::Zstd, field),
            Format::Gz => jsonl::count(path, Packing::Gzip, field),
            Format::Parquet => parquet::count(path, field),
        }
    }

    /// Append rows of a file; fewer where it ends before.
    ///
    /// # Errors
    /// As [`Format::count`].
    pub(crate) fn read(
        self,
        path: &Path,
        field: &str,
        rows: Range<u64>,
        texts: &mut Vec<String>,
    ) -> Result<(), Report> {
        match self {
            Format::Text => text::read(path, rows, texts),
            Format::Jsonl => jsonl::read(path, Packing::Plain, field, rows, texts),
            Format::Zst => jsonl::read(path, Packing::Zstd, field, rows, texts),
            Format::Gz => jsonl::read(path, Packing::Gzip, field, rows, texts),
            Format::Parquet => parquet::read(path, field, rows, texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_tells_the_format_and_nothing_unknown_is_text() {
        for (names, format) in [
            (&["a.txt", "A.TXT", "b.rs", "notes.v2.md", "x.y.html", "Makefile.mk"][..], Some(Format::Text)),
            (&["a.jsonl", "a.ndjson", "a.json", "A.JSONL"], Some(Format::Jsonl)),
            (&["a.jsonl.gz", "a.ndjson.gz", "a.json.gz", "a.b.JSON.GZ"], Some(Format::Gz)),
            (&["a.jsonl.zst", "a.ndjson.zst", "a.json.zst"], Some(Format::Zst)),
            (&["train-00000-of-00001.parquet"], Some(Format::Parquet)),
            (
                &["a.png", "a.jpg", "a", "LICENSE", "a.csv", "a.gz", "a.txt.gz", "json.gz", "a.tar.gz", "a.zip", "a."],
                None,
            ),
            (&["a.bin", "a.safetensors", "a.arrow", "a.jsonl.bz2", "a.zst", "a.svg", "txt", "a.pdf"], None),
        ] {
            for name in names {
                assert_eq!(Format::of(name), format, "{name}");
            }
        }
    }

    #[test]
    fn no_end_stands_for_two_formats() {
        let ends = || TEXT.iter().chain(&LINES).chain(&["parquet", "gz", "zst"]);
        assert_eq!(ends().collect::<std::collections::BTreeSet<_>>().len(), ends().count());
        assert!(ends().all(|end| *end == end.to_ascii_lowercase()));
    }
}
