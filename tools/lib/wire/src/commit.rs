//! Blinded commitments and the signed bytes of everything that a node publishes.

use record::{
    Context, Hash, Hotkey, Report, Window,
    records::{Commit, State},
};
use run::hparams::Codec;
use serde::Serialize;
use serde_json::Value;

/// What an update is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The run.
    pub run: Hash,
    /// The window.
    pub window: Window,
    /// Whose.
    pub hotkey: Hotkey,
    /// Root of the state that it was trained from.
    pub base: Hash,
    /// Hash of its pages, see [`record::records::Pages::hash`].
    pub pages: Hash,
    /// Root of the tree over its tiles.
    pub root: Hash,
}

impl Binding {
    /// `derive_key("boltzmann commit v1", run ‖ window u64-LE ‖ hotkey ‖ base ‖ pages ‖ blake3(RFC 8785 JSON of the
    /// codec) ‖ root)`. All parts have a fixed length. Nobody who does not know the root can say what it binds, and
    /// nobody can use it under another hotkey.
    pub fn commitment(&self, codec: &Codec) -> Hash {
        let codec = blake3::hash(&serde_json_canonicalizer::to_vec(codec).unwrap_or_default());
        let mut hasher = blake3::Hasher::new_derive_key("boltzmann commit v1");
        hasher.update(&self.run.0).update(&self.window.0.to_le_bytes()).update(&self.hotkey.0);
        hasher.update(&self.base.0).update(&self.pages.0).update(codec.as_bytes()).update(&self.root.0);
        hasher.finalize().into()
    }
}

/// Domain of a signature: what kind of thing was signed.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// A commitment.
    Commit,
    /// The metadata of a delta file.
    Delta,
    /// A state record.
    State,
}

/// The bytes that are signed: the domain's name, a newline, and the RFC 8785 JSON of the value.
///
/// # Errors
/// Exit code 101 when the value has no JSON form.
pub fn signed_bytes<T: Serialize>(domain: Domain, value: &T) -> Result<Vec<u8>, Report> {
    let name = match domain {
        Domain::Commit => "boltzmann commit v1\n",
        Domain::Delta => "boltzmann delta v1\n",
        Domain::State => "boltzmann state v1\n",
    };
    let mut bytes = name.as_bytes().to_vec();
    let json = serde_json_canonicalizer::to_vec(value).map_err(|e| Report::new(record::Code::Bug, e))?;
    bytes.extend(json);
    Ok(bytes)
}

/// Check an sr25519 signature, given as 128 hexadecimal digits in lower case: it has no second form.
///
/// # Errors
/// Exit code 65 when it is not this key's.
pub fn verify(hotkey: Hotkey, message: &[u8], signature: &str) -> Result<(), Report> {
    let mut bytes = [0; 64];
    let decoded = hex::decode_to_slice(signature, &mut bytes);
    if decoded.is_err() || signature.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return Err(Report::data("a signature is 128 hexadecimal digits in lower case"));
    }
    let wrong = |e| Report::data(format!("the signature is not {hotkey}'s: {e}"));
    let key = schnorrkel::PublicKey::from_bytes(&hotkey.0).map_err(wrong)?;
    let signature = schnorrkel::Signature::from_bytes(&bytes).map_err(wrong)?;
    // The context of every Substrate chain, so that a wallet's own `sign` makes these signatures.
    key.verify_simple(b"substrate", message, &signature).map_err(wrong)
}

fn without(value: &impl Serialize, fields: &[&str]) -> Result<Value, Report> {
    // By way of the text that stands in its file: an f32 made a `Value` at once is another number with serde_json's
    // `arbitrary_precision` than without it, and a signature must not depend on what else was built.
    let text = serde_json::to_string(value).data("a record has no JSON form")?;
    let mut value: Value = serde_json::from_str(&text).data("a record has no JSON form")?;
    if let Some(map) = value.as_object_mut() {
        fields.iter().for_each(|field| {
            map.remove(*field);
        });
    }
    Ok(value)
}

/// The bytes of a commitment that are signed.
///
/// # Errors
/// As [`signed_bytes`].
pub fn commit_message(commit: &Commit) -> Result<Vec<u8>, Report> {
    signed_bytes(Domain::Commit, &without(commit, &["signature", "path", "status", "reason", "block", "unseen"])?)
}

/// The bytes of a state record that are signed.
///
/// # Errors
/// As [`signed_bytes`].
pub fn state_message(state: &State) -> Result<Vec<u8>, Report> {
    signed_bytes(Domain::State, &without(state, &["signature", "path"])?)
}

/// A name for a state record: the hash of what is signed.
///
/// # Errors
/// As [`signed_bytes`].
pub fn state_id(state: &State) -> Result<Hash, Report> {
    Ok(blake3::hash(&state_message(state)?).into())
}

/// Check a state record's signature.
///
/// # Errors
/// Exit code 65 when it is not signed, or not by whom it says.
pub fn verify_state(state: &State) -> Result<Hotkey, Report> {
    match (state.by, &state.signature) {
        (Some(by), Some(signature)) => verify(by, &state_message(state)?, signature).map(|()| by),
        _ => Err(Report::data("the state record is not signed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Uid, records::Accepted};
    use run::hparams::{CodecName, Quantization};

    #[test]
    fn every_part_changes_the_commitment() {
        let (name, values) = (CodecName::Slice, Quantization::F32);
        let codec = Codec { name, compression: 4, values, k: None, decay: None };
        let h = |b| Hash([b; 32]);
        let good =
            Binding { run: h(1), window: Window(2), hotkey: Hotkey([3; 32]), base: h(4), pages: h(5), root: h(6) };
        let mut seen = std::collections::BTreeSet::from([good.commitment(&codec)]);
        for other in [
            Binding { run: h(9), ..good },
            Binding { window: Window(9), ..good },
            Binding { hotkey: Hotkey([9; 32]), ..good },
            Binding { base: h(9), ..good },
            Binding { pages: h(9), ..good },
            Binding { root: h(9), ..good },
        ] {
            assert!(seen.insert(other.commitment(&codec)));
        }
        assert!(seen.insert(good.commitment(&Codec { compression: 5, ..codec })));
    }

    #[test]
    fn a_signature_holds_for_its_key_message_and_domain_only() {
        let pair = schnorrkel::MiniSecretKey::from_bytes(&[7; 32])
            .unwrap()
            .expand_to_keypair(schnorrkel::ExpansionMode::Ed25519);
        let key = Hotkey(pair.public.to_bytes());
        let message = signed_bytes(Domain::Commit, &1).unwrap();
        let signature = hex::encode(pair.sign_simple(b"substrate", &message).to_bytes());
        assert!(verify(key, &message, &signature).is_ok());
        assert!(verify(key, &signed_bytes(Domain::State, &1).unwrap(), &signature).is_err());
        assert!(verify(Hotkey([7; 32]), &message, &signature).is_err());
        for wrong in ["", "00", &"0".repeat(128), &"f".repeat(128), "zz"] {
            assert!(verify(key, &message, wrong).is_err(), "{wrong}");
        }
        let upper = verify(key, &message, &signature.to_uppercase()).err().unwrap();
        assert!(upper.error.contains("lower case"), "{upper}");
    }

    #[test]
    fn a_scale_is_signed_as_it_stands_in_the_file() {
        let hotkey = Hotkey([3; 32]);
        let entry = |uid, scale| Accepted { uid: Uid(uid), hotkey, blake3: Hash([4; 32]), weight_u16: 9, scale };
        let state = State {
            window: Window(8),
            run: Hash([1; 32]),
            root: Hash([2; 32]),
            prev: None,
            prev_window: Some(Window(7)),
            path: Some("/somewhere".into()),
            accepted: vec![entry(1, 0.1), entry(2, 1.0), entry(3, 1.0 / 3.0)],
            reveal: None,
            by: Some(hotkey),
            signature: Some("00".into()),
        };
        let message = String::from_utf8(state_message(&state).unwrap()).unwrap();
        let json = message.strip_prefix("boltzmann state v1\n").unwrap();
        for scale in ["\"scale\":0.1,", "\"scale\":1,", "\"scale\":0.33333334,"] {
            assert!(json.contains(scale), "{json}");
        }
        assert!(!["\"path\"", "\"signature\"", "\"type\""].iter().any(|key| json.contains(key)), "{json}");
        // What a reader of the file signs for is the same.
        let back: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(state_message(&back).unwrap(), message.as_bytes());
    }
}
