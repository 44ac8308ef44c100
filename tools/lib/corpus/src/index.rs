//! A source's manifest, made by looking at every file of its folder.
//!
//! Links are followed: the hub's cache is made of them. What is hidden is not looked at; what is neither hidden nor
//! known is refused by name, since a run cannot take back what its first manifest took in.

use crate::{
    format::Format,
    jsonl::{self, Packing},
    source::{MANIFEST, Manifest, Part},
};
use record::{Report, files};
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// So many of the files that are refused are named.
const NAMED: usize = 5;
/// What describes a data set on the hub, beside its tables.
const CARD: &str = "README.md";
const HIDE: &str = "move them out of the folder, or put a dot before their names: what is hidden is not looked at";

impl Manifest {
    /// Look at every file of a folder.
    ///
    /// # Errors
    /// Exit code 78 when there is no such folder, 65 at files that are no known text, at a file that does not hold what
    /// its name says, at links that lead nowhere or back.
    pub fn index(folder: &Path, source: &str, field: &str) -> Result<Self, Report> {
        let mut found = walk(folder)?;
        // The hub has a card beside every data set. It is text, but none of the data set's.
        if found.iter().any(|file| file.format.is_table())
            && let Some(at) = found.iter().position(|file| file.inside == CARD)
        {
            found.remove(at);
            let told = "describes the data set and is left out; in a folder of its own it would be text";
            record::cli::warn(format!("{} {told}", folder.join(CARD).display()));
        }
        let mut parts = Vec::with_capacity(found.len());
        for File { path, inside, format } in found {
            let (bytes, blake3) = files::digest(&path)?;
            let rows = format.count(&path, field)?;
            if rows > 0 {
                parts.push(Part { path: inside, format, rows, bytes, blake3 });
            }
        }
        parts.sort_by(|a, b| a.path.cmp(&b.path));
        if parts.is_empty() {
            return Err(Report::data(format!("there is no text under {}", folder.display()))
                .hint(format!("a source is a folder of text; {}", Format::KNOWN)));
        }
        Ok(Manifest { v: 1, source: source.into(), field: field.into(), parts })
    }
}

/// A file whose format is known.
struct File {
    path: PathBuf,
    /// Its path inside the source's folder.
    inside: String,
    format: Format,
}

/// The files of a folder, all of which are known.
fn walk(folder: &Path) -> Result<Vec<File>, Report> {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    let hidden = |entry: &DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
    // Who names a place that is not there is told as at every other setting.
    if !folder.exists() && !folder.is_symlink() {
        return Err(Report::config(format!("there is no folder {}", folder.display()))
            .hint("--data or BZ_DATA names the folder of the text"));
    }
    let entries = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| !hidden(entry)) {
        let entry = entry.map_err(|e| walk_failed(folder, &e))?;
        if entry.depth() == 0 && !entry.file_type().is_dir() {
            return Err(Report::data(format!("{} is a file, and a source is a folder", folder.display()))
                .hint("--data or BZ_DATA names the folder of the text"));
        }
        if entry.file_type().is_dir() || entry.file_name() == MANIFEST {
            continue;
        }
        let inside = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        match known(&entry, inside)? {
            Ok((inside, format)) => found.push(File { path: entry.into_path(), inside, format }),
            Err(why) => refused.push(format!("{inside:?}{why}")),
        }
    }
    if refused.is_empty() { Ok(found) } else { Err(unknown(folder, &refused)) }
}

/// A file's path and format, or what is to be said behind its name.
fn known(entry: &DirEntry, inside: &Path) -> Result<Result<(String, Format), &'static str>, Report> {
    let (Some(name), Some(inside)) = (entry.file_name().to_str(), inside.to_str()) else {
        return Ok(Err(" (its name is not UTF-8)"));
    };
    if !entry.file_type().is_file() {
        return Ok(Err(" (neither file nor folder)"));
    }
    let Some(format) = Format::of(name) else { return Ok(Err("")) };
    // What ends with `jsonl` says that it is lines; of what ends with `json` most is not.
    let lower = name.to_ascii_lowercase();
    let packing = match format {
        Format::Jsonl if lower.ends_with(".json") => Some(Packing::Plain),
        Format::Gz if lower.ends_with(".json.gz") => Some(Packing::Gzip),
        Format::Zst if lower.ends_with(".json.zst") => Some(Packing::Zstd),
        Format::Jsonl | Format::Gz | Format::Zst | Format::Text | Format::Parquet => None,
    };
    match packing {
        Some(packing) if !jsonl::is_lines(entry.path(), packing)? => Ok(Err(" (JSON, but not an object a line)")),
        Some(_) | None => Ok(Ok((inside.to_string(), format))),
    }
}

fn unknown(folder: &Path, refused: &[String]) -> Report {
    let (first, count) = (refused.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "), refused.len());
    let more = if count > NAMED { format!(", and {} more", count - NAMED) } else { String::new() };
    let files = if count == 1 { "1 file".to_string() } else { format!("{count} files") };
    Report::data(format!("{files} under {} cannot be read as text: {first}{more}", folder.display()))
        .hint(Format::KNOWN)
        .hint(HIDE)
}

fn walk_failed(folder: &Path, error: &walkdir::Error) -> Report {
    let path = error.path().unwrap_or(folder);
    if let Some(above) = error.loop_ancestor() {
        return Report::data(format!(
            "the link {} leads back to {}, which it lies in",
            path.display(),
            above.display()
        ))
        .hint("remove the link, or put a dot before its name: the folder would have no end");
    }
    let report = Report::data(format!("cannot walk {}: {error}", folder.display()));
    if path.is_symlink() && !path.exists() {
        report.hint(format!("{} is a link that leads nowhere: get the file, or remove the link", path.display()))
    } else {
        report.hint("--data or BZ_DATA names the folder of the text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;
    use std::os::unix::{ffi::OsStrExt, fs::symlink};

    /// A folder with these files, and folders for them.
    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn index(folder: &tempfile::TempDir) -> Result<Manifest, Report> {
        Manifest::index(folder.path(), "s", "t")
    }

    fn paths(manifest: &Manifest) -> Vec<&str> {
        manifest.parts.iter().map(|part| part.path.as_str()).collect()
    }

    #[test]
    fn the_manifest_of_what_was_always_read_stays_the_same_to_the_byte() {
        let (text, lines) = ("é".repeat(2100), "{\"t\":\"x\"}\n{\"t\":\"y\"}\n");
        let packed = zstd::encode_all(lines.as_bytes(), 1).unwrap();
        let source = folder(&[
            ("sub/b.rs", text.as_bytes()),
            ("a.jsonl", lines.as_bytes()),
            ("c.jsonl.zst", &packed),
            ("sub.md", b"short"),
            ("empty.txt", b""),
            (".hidden", b"\xff"),
            ("sub/.gitattributes", b"*.parquet"),
            ("manifest.json", b"{}"),
        ]);
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex();
        let part = |path: &str, format: &str, rows: u64, bytes: &[u8]| {
            let (size, hash) = (bytes.len(), hash(bytes));
            format!(r#"{{"path":"{path}","format":"{format}","rows":{rows},"bytes":{size},"blake3":"{hash}"}}"#)
        };
        let expected = format!(
            r#"{{"v":1,"source":"s","field":"t","parts":[{},{},{},{}]}}"#,
            part("a.jsonl", "jsonl", 2, lines.as_bytes()),
            part("c.jsonl.zst", "zst", 2, &packed),
            part("sub.md", "text", 1, b"short"),
            part("sub/b.rs", "text", 2, text.as_bytes()),
        );
        let manifest = index(&source).unwrap();
        assert_eq!(String::from_utf8(manifest.bytes()).unwrap(), expected);
        let named: record::Hash = blake3::hash(expected.as_bytes()).into();
        assert_eq!(manifest.hash(), named);
    }

    #[test]
    fn a_folder_of_images_is_refused_with_names_and_their_number() {
        let names: Vec<String> = (0..300).map(|i| format!("cats/{i:03}.png")).collect();
        let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"\x89PNG\r\n"[..])).collect();
        files.push(("labels.txt", b"cat"));
        let report = index(&folder(&files)).unwrap_err();
        assert_eq!(report.code, record::Code::Data);
        assert!(report.error.starts_with("300 files under "), "{report}");
        assert!(report.error.contains(r#""cats/000.png", "cats/001.png""#) && report.error.ends_with("and 295 more"));
        assert!(!report.error.contains("labels"), "{report}");
        assert!(report.hints[0].contains(".jsonl") && report.hints[1].contains("put a dot"));
    }

    #[test]
    fn what_is_no_text_is_named_one_by_one() {
        let good = ("a.txt", &b"text"[..]);
        for (name, bytes, said) in [
            ("archive.tar.gz", &b"\x1f\x8b"[..], r#""archive.tar.gz""#),
            ("LICENSE", b"MIT", r#""LICENSE""#),
            (
                "dataset_infos.json",
                b"{\n \"default\": {}\n}",
                r#""dataset_infos.json" (JSON, but not an object a line)"#,
            ),
            ("all.json", b"[{\"t\":\"x\"}]", r#""all.json" (JSON"#),
            ("deep/er/table.csv", b"t\nx\n", r#""deep/er/table.csv""#),
        ] {
            let report = index(&folder(&[good, (name, bytes)])).unwrap_err();
            assert!(report.error.starts_with("1 file under ") && report.error.contains(said), "{name}: {report}");
        }
        let with_name = folder(&[good]);
        let odd = with_name.path().join(std::ffi::OsStr::from_bytes(b"od\xff.txt"));
        std::fs::write(odd, "text").unwrap();
        assert!(index(&with_name).unwrap_err().error.contains("its name is not UTF-8"));
        let with_socket = folder(&[good]);
        let _socket = std::os::unix::net::UnixListener::bind(with_socket.path().join("a.jsonl")).unwrap();
        assert!(index(&with_socket).unwrap_err().error.contains("\"a.jsonl\" (neither file nor folder)"));
    }

    #[test]
    fn a_file_that_does_not_hold_what_its_name_says_is_named() {
        for (name, bytes, said) in [
            ("a.txt", &b"caf\xe9"[..], "byte 3 is not UTF-8"),
            ("a.jsonl", b"{\"t\":\"x\"}\nnonsense\n", "a.jsonl, row 1: "),
            ("a.jsonl", b"{\"body\":\"x\"}\n", r#"no string `t`, only ["body"]"#),
            ("a.jsonl.gz", b"{\"t\":\"x\"}\n", "gzip"),
            ("a.parquet", b"PAR1", "a.parquet: "),
        ] {
            let report = index(&folder(&[(name, bytes)])).unwrap_err();
            assert!(report.code == record::Code::Data && report.error.contains(said), "{name}: {report}");
            assert!(!report.hints.is_empty(), "{name}: {report}");
        }
        let report = Manifest::index(Path::new("nowhere"), "s", "t").unwrap_err();
        assert!(report.code == record::Code::Config && report.error.contains("no folder nowhere"), "{report}");
        let file = folder(&[("a.txt", b"x")]);
        let report = Manifest::index(&file.path().join("a.txt"), "s", "t").unwrap_err();
        assert!(report.error.contains("a source is a folder"), "{report}");
        assert!(index(&folder(&[(".a.txt", b"x")])).unwrap_err().error.contains("there is no text"));
    }

    /// What `hf download` makes: a snapshot of links to files that are named by their hashes.
    #[test]
    fn the_hubs_cache_is_read_through_its_links_and_its_card_is_left_out() {
        let cache = folder(&[
            ("blobs/1", b"---\nlicense: odc-by\n---\n# A card"),
            ("blobs/2", b"*.parquet filter=lfs"),
            ("blobs/4", b"{\"t\":\"last\"}\n"),
            ("snapshots/main/docs/README.md", b"# no card"),
        ]);
        crate::parquet::tests::write(&cache.path().join("blobs/3"), &[Some("first"), None]);
        let snapshot = cache.path().join("snapshots/main");
        std::fs::create_dir(snapshot.join("data")).unwrap();
        for (blob, name) in [("../../blobs/1", "README.md"), ("../../blobs/2", ".gitattributes")] {
            symlink(blob, snapshot.join(name)).unwrap();
        }
        symlink("../../../blobs/3", snapshot.join("data/00.parquet")).unwrap();
        symlink("../../../blobs/4", snapshot.join("data/01.json")).unwrap();
        let report = Manifest::index(&snapshot, "s", "body").unwrap_err();
        assert!(report.error.contains("01.json, row 0: no string `body`"), "{report}");
        std::fs::write(cache.path().join("blobs/4"), "{\"body\":\"last\"}\n").unwrap();
        let manifest = Manifest::index(&snapshot, "s", "body").unwrap();
        assert_eq!(paths(&manifest), ["data/00.parquet", "data/01.json", "docs/README.md"]);
        files::write_json(&snapshot.join(MANIFEST), &manifest).unwrap();
        let source = Source::open(&snapshot, Some(manifest.hash())).unwrap();
        assert_eq!(source.read(0, 4).unwrap(), ["first", "", "last", "# no card"]);
        // Where all is text, it is text.
        assert_eq!(paths(&index(&folder(&[("README.md", b"x"), ("a.rs", b"y")])).unwrap()), ["README.md", "a.rs"]);
    }

    #[test]
    fn links_that_lead_back_or_nowhere_are_refused_and_those_that_lead_out_are_followed() {
        let outside = folder(&[("x/b.txt", b"outside")]);
        let source = folder(&[("sub/a.txt", b"inside")]);
        symlink(outside.path().join("x"), source.path().join("out")).unwrap();
        assert_eq!(paths(&index(&source).unwrap()), ["out/b.txt", "sub/a.txt"]);
        let back = source.path().join("sub/back");
        symlink("..", &back).unwrap();
        let report = index(&source).unwrap_err();
        assert!(report.code == record::Code::Data && report.error.contains("sub/back leads back to"), "{report}");
        std::fs::remove_file(&back).unwrap();
        // A loop through a folder outside.
        symlink(source.path(), outside.path().join("x/round")).unwrap();
        assert!(index(&source).unwrap_err().error.contains("leads back to"));
        std::fs::remove_file(outside.path().join("x/round")).unwrap();
        // A link to itself, and one to nothing.
        for target in ["loop.txt", "gone.txt"] {
            let link = source.path().join("loop.txt");
            symlink(target, &link).unwrap();
            let report = index(&source).unwrap_err();
            assert!(report.code == record::Code::Data && report.hints[0].contains("loop.txt"), "{report}");
            std::fs::remove_file(&link).unwrap();
        }
    }
}
