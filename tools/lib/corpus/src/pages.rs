//! Which pages a uid has in a window, and what is in them.
//!
//! A page is `rows_per_page` rows that follow each other. The pages of a window are the values of one keyed permutation
//! of all pages under the start block's hash: uid u owns the places `u·P .. (u+1)·P`, so no two uids share one, and one
//! uid costs O(1). The random pages come from the places beyond those of all uids, drawn by the end block's hash, so
//! they meet no own page.

use crate::{pack::Packer, source::Source, tokens::Tokens};
use record::{Hash, Report, Uid, records::PageRef};
use run::{Permutation, hparams::Data};

/// Number of whole pages in a source.
pub fn count(source: &Source, data: &Data) -> u64 {
    source.rows() / data.rows_per_page
}

fn window_order(source: &Source, data: &Data, run: Hash, seed: Hash) -> Result<Permutation, Report> {
    let pages = count(source, data);
    let needed = data.max_uids.saturating_mul(data.pages_per_window).saturating_add(data.pages_per_window);
    if pages < needed {
        return Err(Report::config(format!(
            "the source {} has {pages} pages, {needed} are needed for {} uids",
            source.manifest.source, data.max_uids
        ))
        .hint("use more text, fewer rows in a page (data.rows_per_page), or fewer uids (data.max_uids)"));
    }
    Ok(Permutation::new("boltzmann own pages v1", run, seed, pages))
}

/// The pages of one uid in a window, from its start block's hash.
///
/// # Errors
/// Exit code 78 when the source is too small for the subnet; 65 when there can be no such uid.
pub fn own(source: &Source, data: &Data, run: Hash, seed: Hash, uid: Uid) -> Result<Vec<u64>, Report> {
    if u64::from(uid.0) >= data.max_uids {
        return Err(Report::data(format!("uid {uid}: the run has {} uids", data.max_uids)));
    }
    let order = window_order(source, data, run, seed)?;
    let first = u64::from(uid.0) * data.pages_per_window;
    Ok((first..first + data.pages_per_window).filter_map(|place| order.at(place)).collect())
}

/// The random pages of a window, the same for all, from its end block's hash; none is anybody's own page.
///
/// # Errors
/// As [`own`].
pub fn random(source: &Source, data: &Data, run: Hash, seed: Hash, reveal: Hash) -> Result<Vec<u64>, Report> {
    let order = window_order(source, data, run, seed)?;
    let owned = data.max_uids * data.pages_per_window;
    let free = Permutation::new("boltzmann random pages v1", run, reveal, count(source, data) - owned);
    let places = (0..data.pages_per_window).filter_map(|index| free.at(index));
    Ok(places.filter_map(|place| order.at(owned + place)).collect())
}

/// Read pages, tell what they are, and pack their tokens.
///
/// # Errors
/// Exit code 65 when the text is not what its manifest says.
pub fn fetch(
    source: &Source,
    data: &Data,
    tokens: &Tokens,
    pages: &[u64],
    most: usize,
) -> Result<(Vec<PageRef>, Packer), Report> {
    let mut packer = Packer::new(data.sequence_length as usize, most);
    let mut refs = Vec::with_capacity(pages.len());
    for page in pages {
        let first = page.saturating_mul(data.rows_per_page);
        let (part, row) = source
            .locate(first)
            .ok_or_else(|| Report::data(format!("page {page}: the source has {} pages", count(source, data))))?;
        let texts = source.read(first, data.rows_per_page)?;
        let mut hasher = blake3::Hasher::new();
        for text in &texts {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            if !packer.full() {
                packer.push(&tokens.encode(text)?);
            }
        }
        refs.push(PageRef {
            source: source.manifest.source.clone(),
            part: source.manifest.parts[part].path.clone(),
            row,
            rows: texts.len() as u64,
            blake3: hasher.finalize().into(),
        });
    }
    packer.finish();
    Ok((refs, packer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{MANIFEST, Manifest};
    use std::collections::BTreeSet;

    fn source(folder: &std::path::Path) -> Source {
        std::fs::write(folder.join("a.txt"), vec![b'a'; 4096 * 1000]).unwrap();
        let manifest = Manifest::index(folder, "s", "text").unwrap();
        record::files::write_json(&folder.join(MANIFEST), &manifest).unwrap();
        Source::open(folder, None).unwrap()
    }

    #[test]
    fn pages_are_disjoint_within_a_window_and_differ_between_windows() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let data = Data {
            source: "s".into(),
            manifest: None,
            tokenizer: None,
            sequence_length: 8,
            rows_per_page: 2,
            pages_per_window: 3,
            max_uids: 100,
        };
        let (run, seed, reveal) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]));
        let mut seen = BTreeSet::new();
        for uid in 0..100 {
            for page in own(&source, &data, run, seed, Uid(uid)).unwrap() {
                assert!(page < 500 && seen.insert(page), "uid {uid} shares page {page}");
            }
        }
        let drawn = random(&source, &data, run, seed, reveal).unwrap();
        assert_eq!(drawn.len(), 3);
        assert!(drawn.iter().all(|page| seen.insert(*page)), "random pages are nobody's own");
        assert_ne!(drawn, random(&source, &data, run, seed, Hash([4; 32])).unwrap());
        assert_ne!(own(&source, &data, run, seed, Uid(5)).unwrap(), own(&source, &data, run, reveal, Uid(5)).unwrap());
        assert!(own(&source, &data, run, seed, Uid(100)).is_err());
        let large = Data { max_uids: 167, ..data };
        assert!(own(&source, &large, run, seed, Uid(0)).unwrap_err().error.contains("500 pages"));
    }
}
