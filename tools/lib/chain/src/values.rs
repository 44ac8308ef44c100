//! Bytes inside of values whose type the chain's metadata alone tells.

use subxt::{
    dynamic::Value,
    ext::scale_value::{Composite, Primitive, ValueDef},
};

/// The longest run of bytes that is taken out of a value.
const BYTES_CAP: usize = 1024;

/// Append the bytes of lists of numbers, however deep they lie; `None` where there is something else, or too much.
pub(crate) fn collect_bytes(values: &[Value], bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        match &value.value {
            ValueDef::Primitive(Primitive::U128(byte)) if bytes.len() < BYTES_CAP => {
                bytes.push(u8::try_from(*byte).ok()?);
            }
            ValueDef::Composite(inner) => collect_bytes(&children(inner), bytes)?,
            _ => return None,
        }
    }
    Some(())
}

/// The bytes of all `RawN` fields anywhere inside a commitment, one after another; other kinds are left out.
pub(crate) fn raw_fields(value: &Value, fields: &mut Vec<Vec<u8>>) -> Option<()> {
    match &value.value {
        ValueDef::Variant(variant) if variant.name.starts_with("Raw") || variant.name == "BigRaw" => {
            let mut bytes = Vec::new();
            collect_bytes(&children(&variant.values), &mut bytes)?;
            fields.push(bytes);
            Some(())
        }
        ValueDef::Variant(variant) => children(&variant.values).iter().try_for_each(|value| raw_fields(value, fields)),
        ValueDef::Composite(inner) => children(inner).iter().try_for_each(|value| raw_fields(value, fields)),
        _ => Some(()),
    }
}

fn children(composite: &Composite<()>) -> Vec<Value> {
    composite.values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_fields_are_found_and_others_are_left() {
        let raw = |bytes: &[u8]| Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)]);
        let other = Value::unnamed_variant("BlakeTwo256", [Value::from_bytes([7; 32])]);
        let of = |all: Vec<Value>| {
            let info = Value::named_composite([("fields", Value::unnamed_composite([Value::unnamed_composite(all)]))]);
            let value =
                Value::named_composite([("deposit", Value::u128(0)), ("block", Value::u128(9)), ("info", info)]);
            let mut fields = Vec::new();
            raw_fields(&value, &mut fields).map(|()| fields)
        };
        assert_eq!(of(vec![raw(b"ab"), other, raw(b""), raw(&[1, 2])]).unwrap(), [&b"ab"[..], b"", &[1, 2]]);
        let big = |length: usize| vec![Value::unnamed_variant("BigRaw", [Value::from_bytes(vec![b'x'; length])])];
        assert_eq!(of(big(BYTES_CAP)).unwrap()[0].len(), BYTES_CAP);
        assert_eq!(of(big(BYTES_CAP + 1)), None);
        assert_eq!(of(Vec::new()).unwrap(), Vec::<Vec<u8>>::new());
    }
}
