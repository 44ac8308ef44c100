//! What is in a key file, in each of the forms that Bittensor's wallet libraries write.
//!
//! Source: `serialized_keypair_to_keyfile_data` and its reverse in bittensor-wallet 4 and bittensor-core 0.1, and the keyfile of
//! the older Python package.

use record::{Hotkey, Report};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, SecretKey};
use serde::Deserialize;
use subxt_signer::{SecretUri, sr25519};
use zeroize::Zeroizing;

/// The fields of a key file that are read; the secrets are wiped when dropped. Which of them are there depends on what the
/// key was made from: a mnemonic, a seed, a URI. Older libraries write null for what is not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    ss58_address: Option<String>,
    #[serde(default, deserialize_with = "number")]
    crypto_type: Option<u64>,
    #[serde(default, deserialize_with = "secret")]
    private_key: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    secret_seed: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    secret_phrase: Option<Zeroizing<String>>,
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Option::<String>::deserialize(from).map(|text| text.map(Zeroizing::new).filter(|text| !text.is_empty()))
}

/// A number, or its digits as text.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(match Option::<Either>::deserialize(from)? {
        Some(Either::Number(number)) => Some(number),
        Some(Either::Text(text)) => Some(text.parse().unwrap_or(u64::MAX)),
        None => None,
    })
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

/// What a key file holds. What is wrong with it is said without a word of it.
pub(crate) enum KeyFile {
    /// The form of today.
    Json(Box<Content>),
    /// A seed, a private key, a mnemonic or a URI, and nothing else.
    Text(Zeroizing<String>),
}

/// See [`Fields`].
pub(crate) struct Content(Fields);

impl KeyFile {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Report> {
        let none = || Report::config("not a Bittensor key file");
        let text = std::str::from_utf8(bytes).map_err(|_| none())?.trim();
        if !text.starts_with('{') {
            return if text.is_empty() { Err(none()) } else { Ok(KeyFile::Text(Zeroizing::new(text.into()))) };
        }
        // The error of the parser would quote the file.
        let fields: Fields = serde_json::from_str(text).map_err(|_| none())?;
        Ok(KeyFile::Json(Box::new(Content(fields))))
    }

    /// The address that the file gives itself.
    pub(crate) fn address(&self) -> Option<&str> {
        match self {
            KeyFile::Json(content) => content.0.ss58_address.as_deref(),
            KeyFile::Text(_) => None,
        }
    }

    /// The key, if the file holds it, and it is the one of the file's address.
    pub(crate) fn pair(&self) -> Result<Pair, Report> {
        let fields = match self {
            KeyFile::Text(text) => return from_text(text),
            KeyFile::Json(content) => &content.0,
        };
        if fields.crypto_type.unwrap_or(1) != 1 {
            return Err(Report::config("not an sr25519 key").hint("Bittensor's keys are sr25519, cryptoType 1"));
        }
        let pair = if let Some(private) = &fields.private_key {
            from_digits(private).ok_or_else(|| Report::config("privateKey is not an sr25519 key"))?
        } else if let Some(seed) = &fields.secret_seed {
            from_digits(seed).ok_or_else(|| Report::config("secretSeed is not a seed"))?
        } else if let Some(phrase) = &fields.secret_phrase {
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
}

fn from_text(text: &str) -> Result<Pair, Report> {
    from_digits(text)
        .or_else(|| from_uri(text))
        .ok_or_else(|| Report::config("neither JSON, nor a seed, nor a mnemonic, nor a URI"))
}

/// 32 bytes are a seed, 64 a private key, with or without 0x.
fn from_digits(digits: &str) -> Option<Pair> {
    let bytes = Zeroizing::new(hex::decode(digits.trim_start_matches("0x")).ok()?);
    let pair = match bytes.len() {
        32 => MiniSecretKey::from_bytes(&bytes).ok()?.expand_to_keypair(ExpansionMode::Ed25519),
        64 => SecretKey::from_bytes(&bytes).ok()?.to_keypair(),
        _ => return None,
    };
    Some(Pair::Plain(pair))
}

/// A mnemonic, with a path and a password or without: `WORDS//hard/soft///password`, `//Alice`.
fn from_uri(text: &str) -> Option<Pair> {
    let uri: SecretUri = text.parse().ok()?;
    sr25519::Keypair::from_uri(&uri).ok().map(Pair::Derived)
}
