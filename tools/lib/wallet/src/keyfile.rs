//! What is in a key file, in each of the forms that Bittensor's wallet libraries write.
//!
//! Source: `serialized_keypair_to_keyfile_data` and its reverse in bittensor-wallet 4 and bittensor-core 0.1, and the
//! keyfile of the older Python package.

use record::{Hotkey, Report};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, SecretKey};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use subxt_signer::{SecretUri, sr25519};
use zeroize::Zeroizing;

/// The fields of a key file that are read. The secrets are what stands in the file itself: nothing copies them. Which
/// of them are there depends on what the key was made from: a mnemonic, a seed, a URI. Older libraries write null for
/// what is not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    ss58_address: Option<String>,
    crypto_type: Option<Value>,
    #[serde(borrow)]
    private_key: Option<&'a RawValue>,
    #[serde(borrow)]
    secret_seed: Option<&'a RawValue>,
    #[serde(borrow)]
    secret_phrase: Option<&'a RawValue>,
}

/// The public half of a key, as `coldkeypub.txt` and `HOTKEYpub.txt` hold it; a secret that stands beside it is passed
/// over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Public {
    ss58_address: String,
}

/// The address that the public half of a key gives.
pub(crate) fn address(bytes: &[u8]) -> Result<Hotkey, Report> {
    // The error of the parser would quote the file.
    let public: Public = serde_json::from_slice(bytes).map_err(|_| Report::config("not the public half of a key"))?;
    public.ss58_address.parse().map_err(|e| Report::config(format!("its ss58Address: {e}")))
}

/// A key that can sign.
pub(crate) enum Pair {
    /// From its private key or seed.
    Plain(Keypair),
    /// From a mnemonic or a URI, perhaps by derivation.
    Derived(sr25519::Keypair),
}

impl Pair {
    pub(crate) fn public(&self) -> Hotkey {
        match self {
            Pair::Plain(pair) => Hotkey(pair.public.to_bytes()),
            Pair::Derived(pair) => Hotkey(pair.public_key().0),
        }
    }
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Pair::Plain(pair) => pair.sign_simple(b"substrate", message).to_bytes(),
            Pair::Derived(pair) => pair.sign(message).0,
        }
    }
}

/// The key that a file holds, if it is the one of the file's address. What is wrong with it is said without a word of
/// it.
pub(crate) fn pair(bytes: &[u8]) -> Result<Pair, Report> {
    let none = || Report::config("not a Bittensor key file");
    let text = std::str::from_utf8(bytes).map_err(|_| none())?.trim();
    if text.is_empty() {
        return Err(none());
    }
    // An older form: a seed, a private key, a mnemonic or a URI, and nothing else.
    if !text.starts_with('{') {
        return from_text(text);
    }
    // The error of the parser would quote the file.
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|_| none())?;
    if !fields.crypto_type.as_ref().is_none_or(is_sr25519) {
        return Err(Report::config("not an sr25519 key").hint("Bittensor's keys are sr25519, cryptoType 1"));
    }
    let pair = if let Some(private) = secret("privateKey", fields.private_key)? {
        from_digits(private).ok_or_else(|| Report::config("privateKey is not an sr25519 key"))?
    } else if let Some(seed) = secret("secretSeed", fields.secret_seed)? {
        from_digits(seed).ok_or_else(|| Report::config("secretSeed is not a seed"))?
    } else if let Some(phrase) = secret("secretPhrase", fields.secret_phrase)? {
        from_uri(phrase).ok_or_else(|| Report::config("secretPhrase is not a mnemonic"))?
    } else {
        return Err(Report::config("no privateKey, no secretSeed and no secretPhrase")
            .hint("this is the public half: name the key file itself"));
    };
    match &fields.ss58_address {
        Some(address) if *address != pair.public().to_string() => {
            Err(Report::config("its private key is not that of its ss58Address"))
        }
        _ => Ok(pair),
    }
}

/// A number, or its digits as text.
fn is_sr25519(kind: &Value) -> bool {
    match kind {
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(digits) => digits == "1",
        _ => false,
    }
}

/// What a field says, if anything. One that is written with escapes is refused: it would have to be copied to be read,
/// and no library writes it so.
fn secret<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<Option<&'a str>, Report> {
    let Some(raw) = raw else { return Ok(None) };
    match raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some("") => Ok(None),
        Some(text) if !text.contains('\\') => Ok(Some(text)),
        _ => Err(Report::config(format!("{name} is not plain text"))),
    }
}

fn from_text(text: &str) -> Result<Pair, Report> {
    from_digits(text)
        .or_else(|| from_uri(text))
        .ok_or_else(|| Report::config("neither JSON, nor a seed, nor a mnemonic, nor a URI"))
}

/// 32 bytes are a seed, 64 a private key, with or without 0x.
fn from_digits(digits: &str) -> Option<Pair> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut room = Zeroizing::new([0u8; 64]);
    let bytes = room.get_mut(..digits.len() / 2)?;
    hex::decode_to_slice(digits, bytes).ok()?;
    let pair = match bytes.len() {
        32 => MiniSecretKey::from_bytes(bytes).ok()?.expand_to_keypair(ExpansionMode::Ed25519),
        64 => SecretKey::from_bytes(bytes).ok()?.to_keypair(),
        _ => return None,
    };
    Some(Pair::Plain(pair))
}

/// A mnemonic, with a path and a password or without: `WORDS//hard/soft///password`, `//Alice`.
fn from_uri(text: &str) -> Option<Pair> {
    let uri: SecretUri = text.parse().ok()?;
    sr25519::Keypair::from_uri(&uri).ok().map(Pair::Derived)
}
