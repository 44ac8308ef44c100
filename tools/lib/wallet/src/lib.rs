//! Bittensor's key files, and the signatures made with them.
//!
//! Secret keys are read here and nowhere else, and wiped when dropped. What this crate returns never holds one: no
//! error, record or log can show a key. Who only has to know whose wallet it is reads the public half: no key file is
//! opened for that.

mod keyfile;
mod password;
mod secret;

use keyfile::Pair;
use password::Form;
use record::{Hotkey, Report, files};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use serde_json::{Value, json};
use std::{
    fs::File,
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
    /// Where the password of an encrypted key is read, a file or /dev/fd/N [default: typed]
    #[arg(long, env = "BZ_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// A key that can sign.
pub struct Signer {
    pair: Pair,
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

    /// The public hotkey, from `HOTKEYpub.txt` alone: no key file is opened.
    ///
    /// # Errors
    /// Exit code 78 when there is no such wallet, or nothing beside its hotkey tells whose it is.
    pub fn public(&self) -> Result<Hotkey, Report> {
        self.public_of(&self.public_path(), &self.hotkey_path(), "`bz-chain whoami` opens the key once, and writes it")
    }

    /// The public coldkey, in the same way from `coldkeypub.txt`.
    ///
    /// # Errors
    /// As [`WalletArgs::public`].
    pub fn public_coldkey(&self) -> Result<Hotkey, Report> {
        let (public, secret) = (self.folder().join("coldkeypub.txt"), self.folder().join("coldkey"));
        self.public_of(&public, &secret, "`btcli wallet regen-coldkeypub` writes it")
    }

    /// `how` says what writes the public half.
    fn public_of(&self, public: &Path, secret: &Path, how: &str) -> Result<Hotkey, Report> {
        if !public.exists() {
            if !secret.exists() {
                return Err(self.absent(secret));
            }
            return Err(Report::config(format!(
                "there is no {}, which tells whose key {} is",
                public.display(),
                secret.display()
            ))
            .hint(how));
        }
        let bytes = files::read_capped(public, KEY_CAP as u64)?;
        keyfile::address(&bytes).map_err(|e| e.at(public.display()).hint(format!("remove it; {how}")))
    }

    /// The public hotkey for a tool that may open keys: where nothing tells it, the key is opened, and its public half
    /// written beside it.
    ///
    /// # Errors
    /// As [`WalletArgs::public`] and [`WalletArgs::open`], or when the file system refuses.
    pub fn write_public(&self) -> Result<Hotkey, Report> {
        let path = self.public_path();
        if path.exists() {
            return self.public();
        }
        let key = self.open()?.hotkey();
        files::write_json(&path, &public_json(key))?;
        Ok(key)
    }

    /// The public coldkey for a tool that may open it; and the coldkey, where nothing else tells whose it is: so its
    /// password is asked for once, and never in vain.
    ///
    /// # Errors
    /// As [`WalletArgs::public`] and [`WalletArgs::open_coldkey`].
    pub fn account(&self) -> Result<(Hotkey, Option<Signer>), Report> {
        if self.folder().join("coldkeypub.txt").exists() {
            return Ok((self.public_coldkey()?, None));
        }
        let signer = self.open_coldkey()?;
        Ok((signer.hotkey(), Some(signer)))
    }

    fn public_path(&self) -> PathBuf {
        self.folder().join("hotkeys").join(format!("{}pub.txt", self.hotkey))
    }

    /// The hotkey, able to sign.
    ///
    /// # Errors
    /// Exit code 78 when it is absent, readable by others, or not an sr25519 key file.
    pub fn open(&self) -> Result<Signer, Report> {
        self.open_file(&self.hotkey_path(), &self.public_path())
    }

    /// The coldkey, able to sign.
    ///
    /// # Errors
    /// As [`WalletArgs::open`].
    pub fn open_coldkey(&self) -> Result<Signer, Report> {
        self.open_file(&self.folder().join("coldkey"), &self.folder().join("coldkeypub.txt"))
    }

    /// Make a wallet with a new coldkey and a new hotkey, both unencrypted; what is there already is kept.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> Result<(), Report> {
        let cold = (self.folder().join("coldkey"), self.folder().join("coldkeypub.txt"));
        for (secret, public) in [cold, (self.hotkey_path(), self.public_path())] {
            let key = match (secret.exists(), public.exists()) {
                (true, true) => continue,
                // A process was killed between the two.
                (true, false) => self.open_file(&secret, &public)?.hotkey(),
                (false, _) => {
                    let pair = new_pair();
                    write_key(&secret, &pair)?;
                    Hotkey(pair.public.to_bytes())
                }
            };
            files::write_json(&public, &public_json(key))?;
        }
        Ok(())
    }
}

/// The most that a key file holds, in bytes.
const KEY_CAP: usize = 1 << 16;

fn new_pair() -> Keypair {
    MiniSecretKey::generate().expand_to_keypair(ExpansionMode::Ed25519)
}

impl WalletArgs {
    fn how(&self) -> String {
        format!(
            "the wallet is --wallet {} --hotkey {} under --wallet-path; `btcli wallet create` makes one",
            self.name, self.hotkey
        )
    }

    fn absent(&self, path: &Path) -> Report {
        Report::config(format!("there is no key file {}", path.display())).hint(self.how())
    }

    /// The key in a file. What the file held, and the password, are wiped before this returns.
    fn pair_in(&self, path: &Path) -> Result<Pair, Report> {
        if !path.exists() {
            return Err(self.absent(path));
        }
        no_core_dump();
        let mut file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
        let bytes = secret::read(&mut file, KEY_CAP).map_err(|e| files::io_report("read", path, &e))?;
        let bytes = bytes
            .ok_or_else(|| Report::config(format!("{} is too long for a key file", path.display())).hint(self.how()))?;
        let clear = match password::form(&bytes) {
            Form::Plain => bytes,
            Form::Nacl => password::clear(&bytes, path, self.password_file.as_deref())?,
            Form::Old(form) => {
                return Err(Report::config(format!("{} is encrypted in an old form, {form}", path.display()))
                    .hint("`btcli wallet regen-coldkey` or `regen-hotkey` writes it in the form of today"));
            }
        };
        keyfile::pair(&clear).map_err(|e| {
            let e = e.at(path.display());
            if e.hints.is_empty() { e.hint(self.how()) } else { e }
        })
    }

    fn open_file(&self, path: &Path, public: &Path) -> Result<Signer, Report> {
        if let Ok(meta) = std::fs::metadata(path) {
            let mode = meta.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(Report::config(format!(
                    "{} can be read by others (mode {:o})",
                    path.display(),
                    mode & 0o777
                ))
                .hint(format!("chmod 600 {}", path.display())));
            }
        }
        let pair = self.pair_in(path)?;
        // What is signed for one key and by another is lost without a word.
        let anew = "`btcli wallet regen-hotkeypub` or `regen-coldkeypub` writes it anew";
        if public.exists() && self.public_of(public, path, anew)? != pair.public() {
            return Err(Report::config(format!("{} is not the address of {}", public.display(), path.display()))
                .hint(format!("one of them is of another key: {anew}")));
        }
        Ok(Signer { pair })
    }
}

/// A process that holds a key leaves no core dump.
fn no_core_dump() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Where the system refuses, the key is used all the same: its limits are the operator's. A core that goes to a
    // program is not held by the limit, but by the second.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

fn public_json(key: Hotkey) -> Value {
    let public = format!("0x{}", hex::encode(key.0));
    json!({"accountId": public, "publicKey": public, "ss58Address": key.to_string(), "cryptoType": 1})
}

fn write_key(path: &Path, pair: &Keypair) -> Result<(), Report> {
    let key = Zeroizing::new(pair.secret.to_bytes());
    let mut digits = Zeroizing::new([0u8; 128]);
    hex::encode_to_slice(key.as_slice(), digits.as_mut_slice())
        .map_err(|e| Report::new(record::Code::Bug, format!("a key of a wrong length: {e}")))?;
    let public = public_json(Hotkey(pair.public.to_bytes())).to_string();
    if let Some(folder) = path.parent() {
        files::create_dir(folder)?;
    }
    // Never readable by others, not even for a moment; and piece by piece, so that no text is put together of it.
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let head = format!("{},\"privateKey\":\"0x", public.trim_end_matches('}'));
        for piece in [head.as_bytes(), digits.as_slice(), b"\"}"] {
            file.write_all(piece)?;
        }
        file.sync_all()
    };
    write().map_err(|e| files::io_report("write the key file", path, &e))
}

impl Signer {
    /// Who signs.
    pub fn hotkey(&self) -> Hotkey {
        self.pair.public()
    }

    /// An sr25519 signature in the context of every Substrate chain.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(message)
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
        WalletArgs { name: "w".into(), hotkey: "h".into(), wallet_path: Some(path.into()), password_file: None }
    }

    #[test]
    fn a_wallet_is_made_once_and_signs() {
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        wallet.create().unwrap();
        let key = wallet.open().unwrap().hotkey();
        assert_eq!(wallet.open_coldkey().unwrap().hotkey(), wallet.public_coldkey().unwrap());
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
        // Another wallet's key file, beside this one's address.
        std::fs::write(&path, &theirs).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("is not the address of"));
    }

    #[test]
    fn who_it_is_is_told_without_a_look_at_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        assert!(wallet.public().unwrap_err().error.contains("there is no key file"));
        wallet.create().unwrap();
        let (key, cold) = (wallet.public().unwrap(), wallet.public_coldkey().unwrap());
        let (hot, path) = (wallet.hotkey_path(), wallet.public_path());
        // Whatever stands in the key files, they are not looked at.
        let cold_path = wallet.folder().join("coldkey");
        let (kept, kept_cold) = (std::fs::read(&hot).unwrap(), std::fs::read(&cold_path).unwrap());
        std::fs::write(&hot, "$NACL").unwrap();
        std::fs::write(&cold_path, "").unwrap();
        assert_eq!((wallet.public().unwrap(), wallet.public_coldkey().unwrap()), (key, cold));
        std::fs::write(&hot, &kept).unwrap();
        std::fs::write(&cold_path, kept_cold).unwrap();
        // A key file that is there, tells its address in the clear and could be read is not asked.
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(wallet.folder().join("coldkeypub.txt")).unwrap();
        for report in [wallet.public().unwrap_err(), wallet.public_coldkey().unwrap_err()] {
            assert_eq!(report.code, record::Code::Config);
            assert!(report.error.contains("there is no") && report.error.contains("tells whose key"), "{report}");
        }
        assert!(wallet.public().unwrap_err().to_string().contains("bz-chain whoami"));
        let (account, opened) = wallet.account().unwrap();
        assert_eq!((account, opened.unwrap().hotkey()), (cold, cold));
        // What may open it writes it, once; so does what was killed before it could.
        assert_eq!((wallet.write_public().unwrap(), wallet.public().unwrap()), (key, key));
        std::fs::set_permissions(&hot, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(wallet.write_public().unwrap(), key, "no key is opened where the public half is there");
        wallet.create().unwrap();
        assert_eq!(wallet.public_coldkey().unwrap(), cold);
        let (account, opened) = wallet.account().unwrap();
        assert!(account == cold && opened.is_none());
        for content in ["", "{}", "[]", "{\"ss58Address\":\"5x\"}", "{\"ss58Address\":7}"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(wallet.public().unwrap_err().code, record::Code::Config, "{content}");
        }
    }

    /// The forms of the wallet libraries, of one key that everybody knows: `subkey inspect //Alice`.
    #[test]
    fn a_key_is_read_in_every_form() {
        const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
        const SEED: &str = "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e";
        const ROOT: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";
        const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        wallet.create().unwrap();
        let path = wallet.hotkey_path();
        std::fs::remove_file(wallet.folder().join("hotkeys/hpub.txt")).unwrap();
        let pair =
            MiniSecretKey::from_bytes(&hex::decode(SEED).unwrap()).unwrap().expand_to_keypair(ExpansionMode::Ed25519);
        let private = hex::encode(pair.secret.to_bytes());
        let cases = [
            (
                json!({"ss58Address": ROOT, "secretPhrase": PHRASE, "privateKey": null, "secretSeed": null})
                    .to_string(),
                ROOT,
            ),
            (json!({"ss58Address": ROOT, "secretSeed": format!("0x{SEED}"), "cryptoType": "1"}).to_string(), ROOT),
            (json!({"ss58Address": ROOT, "privateKey": private, "cryptoType": 1}).to_string(), ROOT),
            (json!({"secretSeed": SEED}).to_string(), ROOT),
            (format!("0x{SEED}\n"), ROOT),
            (SEED.to_string(), ROOT),
            (private, ROOT),
            (PHRASE.to_string(), ROOT),
            (format!("{PHRASE}//Alice"), ALICE),
            ("//Alice".to_string(), ALICE),
        ];
        for (content, address) in cases {
            std::fs::write(&path, content).unwrap();
            let signer = wallet.open().unwrap();
            assert_eq!(signer.hotkey().to_string(), address);
            let public = schnorrkel::PublicKey::from_bytes(&signer.hotkey().0).unwrap();
            let signature = schnorrkel::Signature::from_bytes(&signer.sign(b"m")).unwrap();
            assert!(public.verify_simple(b"substrate", b"m", &signature).is_ok());
        }
        let escaped = format!("{{\"secretSeed\":\"\\u0066{}\"}}", &SEED[1..]);
        let number = "{\"secretSeed\":7}";
        for content in [
            "",
            "\n",
            "0x12",
            "bottom drive",
            &PHRASE.to_uppercase(),
            "{\"secretPhrase\":\"x\"}",
            "{}",
            &escaped,
            number,
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(wallet.open().err().unwrap().code, record::Code::Config, "{content}");
        }
    }

    #[test]
    fn a_process_that_holds_a_key_leaves_no_core() {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, setrlimit};
        // On most systems the limit is 0 to begin with; in this process it may be already.
        let most = getrlimit(Resource::Core).maximum;
        let _ = setrlimit(Resource::Core, Rlimit { current: most.or(Some(1 << 20)), maximum: most });
        let folder = tempfile::tempdir().unwrap();
        let wallet = args(folder.path());
        wallet.create().unwrap();
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        wallet.open().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }

    #[test]
    fn an_encrypted_key_asks_for_its_password() {
        let folder = tempfile::tempdir().unwrap();
        let mut wallet = args(folder.path());
        wallet.create().unwrap();
        let (path, word) = (wallet.hotkey_path(), folder.path().join("password"));
        let key = wallet.public().unwrap();
        // Who it is is told without the password, as long as the public half is there.
        let public = std::fs::read(wallet.public_path()).unwrap();
        let clear = std::fs::read(&path).unwrap();
        // The library's own form, written with the password "a password".
        let sealed = password::seal(&clear, "a password");
        std::fs::write(&path, &sealed).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("nobody is here to type"));
        std::fs::write(&word, "a password\n").unwrap();
        wallet.password_file = Some(word.clone());
        std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("can be read by others"));
        std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, &sealed[..20]).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("cut short"));
        std::fs::write(&path, &sealed).unwrap();
        let wrong = folder.path().join("wrong");
        std::fs::write(&wrong, "another").unwrap();
        std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
        wallet.password_file = Some(wrong);
        let report = wallet.open().err().unwrap();
        assert!(report.error.contains("not its password") && !report.to_string().contains("another"), "{report}");
        wallet.password_file = Some(word.clone());
        assert_eq!(wallet.open().unwrap().hotkey(), key);
        assert_eq!(wallet.public().unwrap(), key);
        std::fs::remove_file(wallet.public_path()).unwrap();
        assert_eq!(wallet.write_public().unwrap(), key);
        let written: Value = serde_json::from_slice(&std::fs::read(wallet.public_path()).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_slice::<Value>(&public).unwrap());
        // Neither the key nor the password is kept in the process.
        std::fs::remove_file(&word).unwrap();
        assert!(wallet.open().err().unwrap().error.contains("password"));
        for (old, form) in [("$ANSIBLE_VAULT;1.1;AES256\n31", "Ansible"), ("gAAAAABk", "Fernet")] {
            std::fs::write(&path, old).unwrap();
            assert!(wallet.open().err().unwrap().error.contains(form));
        }
    }
}
