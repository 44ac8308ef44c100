//! Headers of safetensors files: read without believing them, and written in one form.
//!
//! JSON has many forms for one value, and parsers differ on what they make of the odd ones (a name twice, spaces where
//! none belong). A file that crosses the network has exactly the form that [`write`] gives its tensors; [`check`] names
//! what is otherwise.

use record::{Context, Report};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    marker::PhantomData,
};

/// The largest header that is read, in bytes; a header names tensors, it does not hold them.
pub(crate) const CAP: u64 = 4 << 20;

/// The name of the file's free metadata among those of its tensors.
const METADATA: &str = "__metadata__";

/// What a header says: the tensors in the order of their bytes, the free metadata in its own.
pub(crate) struct Header {
    pub(crate) tensors: Vec<(String, TensorInfo)>,
    pub(crate) metadata: Vec<(String, String)>,
}

/// The fields of a JSON object in their order; no name stands twice.
struct Fields<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Fields<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
            type Value = Fields<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<V>, A::Error> {
                let (mut fields, mut seen) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("{name:?} stands there twice")));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}

impl Header {
    /// Read the JSON of a header, in any form but with a name twice, of a file that has so many bytes after it.
    ///
    /// # Errors
    /// Exit code 65 when it is no such JSON, or its tensors overlap, leave gaps or are not what their shapes say.
    pub(crate) fn read(json: &[u8], bytes: usize) -> Result<Self, Report> {
        let wrong = "the header";
        let fields: Fields<&RawValue> = serde_json::from_slice(json).data(wrong)?;
        let mut header = Header { tensors: Vec::with_capacity(fields.0.len()), metadata: Vec::new() };
        for (name, value) in fields.0 {
            if name == METADATA {
                header.metadata = serde_json::from_str::<Fields<String>>(value.get()).data("the metadata")?.0;
            } else {
                let info = serde_json::from_str::<TensorInfo>(value.get()).data(format!("the header's {name:?}"))?;
                header.tensors.push((name, info));
            }
        }
        header.tensors.sort_by_key(|(_, info)| info.data_offsets);
        let covered = Metadata::new(None, header.tensors.clone()).data(wrong)?.data_len();
        if covered != bytes {
            return Err(Report::data(format!("the header tells of {covered} bytes after it, there are {bytes}")));
        }
        Ok(header)
    }
}

/// The order of tensors in a file: wider types first, those of one width as the `safetensors` crate has them, then by
/// name.
pub(crate) fn order(a: (Dtype, &str), b: (Dtype, &str)) -> std::cmp::Ordering {
    b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

/// The header of tensors that lie in this order (name, type, shape, bytes), its length before it.
pub(crate) fn write(
    tensors: impl Iterator<Item = (String, Dtype, Vec<usize>, usize)>,
    metadata: (&str, String),
) -> Result<Vec<u8>, Report> {
    let mut offset = 0;
    let infos = tensors.map(|(name, dtype, shape, bytes)| {
        let start = offset;
        offset += bytes;
        (name, TensorInfo { dtype, shape, data_offsets: (start, offset) })
    });
    // One key only: with more, the order in the file would be that of a hash map.
    let metadata = HashMap::from([(metadata.0.to_string(), metadata.1)]);
    let meta = Metadata::new(Some(metadata), infos.collect()).data("the tensors have no header")?;
    let mut json = serde_json::to_vec(&meta).data("the header has no JSON form")?;
    // Tensors start at a multiple of 8 bytes, as the format asks.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}

/// That these bytes, the length first, are what [`write`] gives the tensors and the metadata that were read from them.
///
/// # Errors
/// Exit code 65 with what is otherwise.
pub(crate) fn check(found: &[u8], header: &Header) -> Result<(), Report> {
    let [(key, value)] = &header.metadata[..] else {
        return Err(Report::data(format!("the metadata has {} keys, expected one", header.metadata.len())));
    };
    let mut sorted: Vec<&(String, TensorInfo)> = header.tensors.iter().collect();
    sorted.sort_by(|a, b| order((a.1.dtype, &a.0), (b.1.dtype, &b.0)));
    let named = sorted.iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        (name.clone(), info.dtype, info.shape.clone(), end - start)
    });
    let only = write(named, (key, value.clone()))?;
    if only == found {
        return Ok(());
    }
    let moved = sorted.iter().zip(&header.tensors).find(|(sorted, lies)| sorted.0 != lies.0);
    Err(Report::data(match moved {
        Some((sorted, lies)) => {
            format!("tensor {} lies before {}: wider types come first, then it goes by name", lies.0, sorted.0)
        }
        None => otherwise(found, &only),
    }))
}

/// In what a header differs from the only one of its tensors.
fn otherwise(found: &[u8], only: &[u8]) -> String {
    let json = found.get(8..).unwrap_or_default();
    if json.first() != Some(&b'{') {
        return "the header does not begin with {".into();
    }
    let text = json.iter().rposition(|byte| *byte == b'}').map_or(0, |end| end + 1);
    let padding = json.get(text..).unwrap_or_default();
    if padding.iter().any(|byte| *byte != b' ') {
        return "the header is padded by something else than spaces".into();
    }
    if padding.len() != text.next_multiple_of(8) - text {
        return format!("the header is padded by {} spaces, not to the next multiple of 8 bytes", padding.len());
    }
    let at = found.iter().zip(only).skip(8).position(|(found, only)| found != only);
    format!("the header is not in its only form from byte {} on", at.unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "boltzmann";

    fn of(tensors: &[(&str, Dtype, usize)], value: &str) -> Vec<u8> {
        let width = |dtype: Dtype| dtype.bitsize() / 8;
        let all = tensors.iter().map(|(name, d, n)| (name.to_string(), *d, vec![*n], n * width(*d)));
        write(all, (KEY, value.to_string())).unwrap()
    }

    /// Whether a header is the only one of its tensors; the reason where it is not.
    fn only(json: &str, bytes: usize) -> Result<(), String> {
        let mut found = (json.len() as u64).to_le_bytes().to_vec();
        found.extend_from_slice(json.as_bytes());
        Header::read(json.as_bytes(), bytes).and_then(|header| check(&found, &header)).map_err(|e| e.error)
    }

    #[test]
    fn every_other_form_of_a_header_is_named() {
        let good = of(&[("a", Dtype::F32, 2), ("b", Dtype::U8, 3)], "{\"v\":1}");
        let good = std::str::from_utf8(&good[8..]).unwrap();
        let text = good.trim_end();
        assert_eq!(only(good, 11), Ok(()));
        let padded = |text: String| {
            let width = text.len().next_multiple_of(8);
            format!("{text:width$}")
        };
        let a = "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
        let b = "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}";
        let meta = "\"__metadata__\":{\"boltzmann\":\"{\\\"v\\\":1}\"}";
        assert_eq!(padded(format!("{{{meta},{a},{b}}}")), good);
        let other = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            padded(text.replacen(from, to, 1))
        };
        let long = |by: &str| format!("{text}{}", by.repeat(16 - text.len() % 8));
        let twice = "stands there twice";
        let form = "is not in its only form";
        for (header, reason) in [
            (padded(format!("{{{meta},{a},{a},{b}}}")), twice),
            (padded(format!("{{{meta},{a},{b},\"b\":null}}")), twice),
            (padded(format!("{{{meta},{meta},{a},{b}}}")), twice),
            (other("{\"boltzmann\":\"", "{\"boltzmann\":\"x\",\"boltzmann\":\""), twice),
            (other("\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"dtype\":\"F32\""), "duplicate field"),
            (other("{\"boltzmann\":\"", "{\"more\":\"\",\"boltzmann\":\""), "has 2 keys"),
            (padded(format!("{{{a},{b}}}")), "has 0 keys"),
            (padded(format!("{{\"__metadata__\":null,{a},{b}}}")), "the metadata"),
            (long(" "), "padded by"),
            (long("\t"), "something else than spaces"),
            (long("\n"), "something else than spaces"),
            (padded(format!(" {text}")), "does not begin with {"),
            (padded(format!("\t{text}")), "does not begin with {"),
            (padded(format!("{{{a},{b},{meta}}}")), form),
            (padded(format!("{{{meta},{b},{a}}}")), form),
            (other(":[2]", ": [2]"), form),
            (other("\"a\"", "\"\\u0061\""), form),
            (other("\"dtype\":\"F32\",\"shape\":[2]", "\"shape\":[2],\"dtype\":\"F32\""), form),
            (other("\"shape\":[2]", "\"shape\":[2],\"more\":1"), form),
            (other(a, "\"a\":[\"F32\",[2],[0,8]]"), form),
            (other("[2]", "[2.0]"), "invalid type"),
            (other("[0,8]", "[0,8,8]"), "the header's \"a\""),
            (other("[8,11]", "[7,11]"), "the header"),
            (other("[3]", "[18446744073709551615]"), "the header"),
            (other("[3]", "[18446744073709551616]"), "the header's \"b\""),
            (other("\"F32\"", "\"F16\""), "the header"),
            ("[]      ".into(), "the header"),
            ("nonsense".into(), "the header"),
            (String::new(), "the header"),
        ] {
            let error = only(&header, 11).expect_err(&header);
            assert!(error.contains(reason), "{header}: {error:?} does not say {reason:?}");
        }
        if text.len() != good.len() {
            assert!(only(text, 11).unwrap_err().contains("padded by 0 spaces"));
        }
        assert!(only(good, 12).unwrap_err().contains("tells of 11 bytes"));
        assert!(only(good, 10).unwrap_err().contains("tells of 11 bytes"));
        // The same tensors, one behind the other.
        let swapped = of(&[("b", Dtype::U8, 3), ("a", Dtype::F32, 2)], "{\"v\":1}");
        let error = only(std::str::from_utf8(&swapped[8..]).unwrap(), 11).unwrap_err();
        assert!(error.contains("tensor b lies before a"), "{error}");
    }

    #[test]
    fn a_header_that_is_not_padded_is_named() {
        // A value that is a character longer each time: of eight headers seven need padding.
        let mut seen = 0;
        for more in 0..8 {
            let good = of(&[("a", Dtype::U8, 1)], &"x".repeat(more));
            let good = std::str::from_utf8(&good[8..]).unwrap();
            let text = good.trim_end();
            assert_eq!(only(good, 1), Ok(()));
            if text.len() < good.len() {
                assert!(only(text, 1).unwrap_err().contains("padded by 0 spaces"));
                seen += 1;
            }
        }
        assert_eq!(seen, 7);
    }

    proptest! {
        #[test]
        fn what_is_written_is_taken_and_no_byte_of_it_can_be_another(
            names in proptest::collection::btree_map("[a-z.\u{e9}\"\\\\\n]{1,6}", (0usize..4, 0usize..5), 0..6),
            value in "[ -~\u{e9}\n]{0,20}", at: usize, other: u8,
        ) {
            let types = [Dtype::U8, Dtype::BF16, Dtype::U32, Dtype::F32];
            let mut tensors: Vec<_> = names.iter().map(|(name, (d, n))| (name.as_str(), types[*d], *n)).collect();
            tensors.sort_by(|a, b| order((a.1, a.0), (b.1, b.0)));
            let bytes: usize = tensors.iter().map(|(_, d, n)| n * d.bitsize() / 8).sum();
            let mut header = of(&tensors, &value);
            let read = Header::read(&header[8..], bytes).unwrap();
            prop_assert!(check(&header, &read).is_ok());
            prop_assert_eq!(&read.metadata, &[(KEY.to_string(), value)]);
            // With another byte it is refused, or it is the only form of other tensors.
            let at = 8 + at % (header.len() - 8);
            header[at] = other;
            if let Ok(read) = Header::read(&header[8..], bytes) && check(&header, &read).is_ok() {
                let named = read.tensors.iter().map(|(name, info)| {
                    let (start, end) = info.data_offsets;
                    (name.clone(), info.dtype, info.shape.clone(), end - start)
                });
                let (key, value) = &read.metadata[0];
                prop_assert_eq!(write(named, (key, value.clone())).unwrap(), header);
            }
        }
    }
}
