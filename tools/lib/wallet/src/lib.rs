//! Bittensor's key files, and the signatures made with them.
//!
//! Secret keys are read here and nowhere else, and wiped when dropped. What this crate returns never holds one: no
//! error, record or log can show a key.

use record::{Context, Hotkey, Report, files};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, SecretKey};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Which wallet: Bittensor's own layout, `PATH/NAME/hotkeys/HOTKEY`.
#[derive(clap::Args, Clone, Debug)]
pub struct WalletArgs {
    /// Name of the wallet
    #[arg(long = "wallet", env = "BT_WALLET_NAME", value_name = "NAME", default_value = "default")]
    pub name: String,
    /// Name of the hotkey in the wallet
    #[arg(long, env = "BT_WALLET_HOTKEY", value_name = "HOTKEY", default_value = "default")]
    pub hotkey: String,
    /// Folder of the wallets [default: ~/.bittensor/wallets]
    #[arg(long, env = "BT_WALLET_PATH", value_name = "DIR")]
    pub wallet_path: Option<PathBuf>,
}

/// What is read of a key file; the secrets are wiped when dropped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    ss58_address: Option<String>,
    crypto_type: Option<u64>,
    #[serde(default, deserialize_with = "secret")]
    private_key: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    secret_seed: Option<Zeroizing<String>>,
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Option::<String>::deserialize(from).map(|text| text.map(Zeroizing::new))
}

/// A key that can sign.
pub struct Signer {
    pair: Keypair,
}

impl WalletArgs {
    /// The wallet's folder.
    pub fn folder(&self) -> PathBuf {
        let fallback = || {
            let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
            home.join(".bittensor").join("wallets")
        };
        self.wallet_path.clone().unwrap_or_else(fallback).join(&self.name)
    }

    /// The hotkey's file.
    pub fn hotkey_path(&self) -> PathBuf {
        self.folder().join("hotkeys").join(&self.hotkey)
    }

    /// The public hotkey: from `HOTKEYpub.txt` where there is one, so that a tool that only has to know who it is
    /// never opens a secret; otherwise from the public fields of the key file.
    ///
    /// # Errors
    /// Exit code 78 when there is no such wallet.
    pub fn public(&self) -> Result<Hotkey, Report> {
        let public = self.folder().join("hotkeys").join(format!("{}pub.txt", self.hotkey));
        let path = if public.exists() { public } else { self.hotkey_path() };
        let address = read_key(&path, self)?.ss58_address.unwrap_or_default();
        address.parse().config(format!("{}, its ss58Address", path.display()))
    }

    /// The hotkey, able to sign.
    ///
    /// # Errors
    /// Exit code 78 when it is absent, readable by others, or not an sr25519 key file.
    pub fn open(&self) -> Result<Signer, Report> {
        open(&self.hotkey_path(), self)
    }

    /// The coldkey, able to sign; only one that is not encrypted.
    ///
    /// # Errors
    /// As [`WalletArgs::open`].
    pub fn open_coldkey(&self) -> Result<Signer, Report> {
        open(&self.folder().join("coldkey"), self)
    }

    /// Make a wallet with a new coldkey and a new hotkey, both unencrypted; what is there already is kept.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> Result<(), Report> {
        let folder = self.folder();
        let coldkey = folder.join("coldkey");
        if !coldkey.exists() {
            let pair = new_pair();
            write_key(&coldkey, &pair)?;
            files::write_json(&folder.join("coldkeypub.txt"), &public_json(&pair))?;
        }
        if !self.hotkey_path().exists() {
            let pair = new_pair();
            write_key(&self.hotkey_path(), &pair)?;
            let public = folder.join("hotkeys").join(format!("{}pub.txt", self.hotkey));
            files::write_json(&public, &public_json(&pair))?;
        }
        Ok(())
    }
}

fn new_pair() -> Keypair {
    MiniSecretKey::generate().expand_to_keypair(ExpansionMode::Ed25519)
}

fn read_key(path: &Path, args: &WalletArgs) -> Result<KeyFile, Report> {
    let hint = format!(
        "the wallet is --wallet {} --hotkey {} under --wallet-path; `btcli wallet create` makes one",
        args.name, args.hotkey
    );
    if !path.exists() {
        return Err(Report::config(format!("there is no key file {}", path.display())).hint(hint));
    }
    let bytes = Zeroizing::new(files::read_capped(path, 1 << 16)?);
    if bytes.starts_with(b"$NACL") || bytes.starts_with(b"$ANSIBLE_VAULT") {
        return Err(Report::config(format!("{} is encrypted", path.display()))
            .hint("a hotkey is used without a person there: it has to be a plain key file, readable by you only"));
    }
    // The error of the parser would quote the file.
    serde_json::from_slice(&bytes)
        .map_err(|_| Report::config(format!("{} is not a Bittensor key file (JSON)", path.display())).hint(hint))
}

fn open(path: &Path, args: &WalletArgs) -> Result<Signer, Report> {
    no_core_dump();
    if let Ok(meta) = std::fs::metadata(path) {
        let mode = meta.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Report::config(format!("{} can be read by others (mode {:o})", path.display(), mode & 0o777))
                .hint(format!("chmod 600 {}", path.display())));
        }
    }
    let key = read_key(path, args)?;
    let wrong = |what: &str| Report::config(format!("{}: {what}", path.display()));
    if key.crypto_type.unwrap_or(1) != 1 {
        return Err(wrong("not an sr25519 key").hint("Bittensor's keys are sr25519, cryptoType 1"));
    }
    let digits = |field: &'_ Zeroizing<String>| Zeroizing::new(field.trim_start_matches("0x").to_string());
    let pair = if let Some(private) = key.private_key.as_ref().map(digits) {
        let mut bytes = Zeroizing::new([0u8; 64]);
        hex::decode_to_slice(private.as_str(), bytes.as_mut_slice())
            .map_err(|_| wrong("privateKey is not 64 bytes"))?;
        SecretKey::from_bytes(bytes.as_slice()).map_err(|_| wrong("privateKey is not an sr25519 key"))?.to_keypair()
    } else if let Some(seed) = key.secret_seed.as_ref().map(digits) {
        let mut bytes = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(seed.as_str(), bytes.as_mut_slice()).map_err(|_| wrong("secretSeed is not 32 bytes"))?;
        MiniSecretKey::from_bytes(bytes.as_slice())
            .map_err(|_| wrong("secretSeed is not a seed"))?
            .expand_to_keypair(ExpansionMode::Ed25519)
    } else {
        return Err(wrong("no privateKey and no secretSeed").hint("this is the public half: name the key file itself"));
    };
    let public = Hotkey(pair.public.to_bytes()).to_string();
    match key.ss58_address {
        Some(address) if address != public => Err(wrong("its private key is not that of its ss58Address")),
        _ => Ok(Signer { pair }),
    }
}

/// A process that holds a key leaves no core dump.
fn no_core_dump() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Where the system refuses, the key is used all the same: its limits are the operator's.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

fn public_json(pair: &Keypair) -> Value {
    let public = format!("0x{}", hex::encode(pair.public.to_bytes()));
    json!({
        "accountId": public,
        "publicKey": public,
        "ss58Address": Hotkey(pair.public.to_bytes()).to_string(),
        "cryptoType": 1,
    })
}

fn write_key(path: &Path, pair: &Keypair) -> Result<(), Report> {
    // The secret is put in by hand: a JSON value would leave copies behind.
    let public = public_json(pair).to_string();
    let secret = Zeroizing::new(hex::encode(*Zeroizing::new(pair.secret.to_bytes())));
    let text = Zeroizing::new(format!("{},\"privateKey\":\"0x{}\"}}", public.trim_end_matches('}'), secret.as_str()));
    if let Some(folder) = path.parent() {
        files::create_dir(folder)?;
    }
    // Never readable by others, not even for a moment.
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| files::io_report("write the key file", path, &e))
}

impl Signer {
    /// Who signs.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.pair.public.to_bytes())
    }

    /// An sr25519 signature in the context of every Substrate chain.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign_simple(b"substrate", message).to_bytes()
    }

    /// The same as 128 hexadecimal digits.
    pub fn sign_hex(&self, message: &[u8]) -> String {
        hex::encode(self.sign(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(path: &Path) -> WalletArgs {
        WalletArgs { name: "w".into(), hotkey: "h".into(), wallet_path: Some(path.into()) }
    }

    #[test]
    fn a_wallet_is_made_once_and_signs() {
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        wallet.create().unwrap();
        let key = wallet.open().unwrap().hotkey();
        wallet.create().unwrap();
        let signer = wallet.open().unwrap();
        assert_eq!((signer.hotkey(), wallet.public().unwrap()), (key, key));
        assert_ne!(wallet.open_coldkey().unwrap().hotkey(), key);
        let public = schnorrkel::PublicKey::from_bytes(&key.0).unwrap();
        let signature = schnorrkel::Signature::from_bytes(&signer.sign(b"m")).unwrap();
        assert!(public.verify_simple(b"substrate", b"m", &signature).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_said_without_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        assert!(wallet.open().err().unwrap().error.contains("there is no key file"));
        wallet.create().unwrap();
        let path = wallet.hotkey_path();
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = serde_json::from_str::<Value>(&text).unwrap()["privateKey"].as_str().unwrap().to_string();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("can be read by others"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (from, to) in [("\"cryptoType\":1", "\"cryptoType\":0"), ("0x", "0y"), ("{", "["), ("privateKey", "p")] {
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let report = wallet.open().err().unwrap();
            assert_eq!(report.code, record::Code::Config);
            assert!(!report.to_string().contains(&secret[10..30]), "{report}");
        }
        // Another wallet's private key under this address.
        let other = args(&folder.path().join("other"));
        other.create().unwrap();
        let theirs = std::fs::read_to_string(other.hotkey_path()).unwrap();
        let address = |t: &str| serde_json::from_str::<Value>(t).unwrap()["ss58Address"].as_str().unwrap().to_string();
        std::fs::write(&path, theirs.replace(&address(&theirs), &address(&text))).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("is not that of its"));
    }
}
