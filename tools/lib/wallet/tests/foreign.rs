//! A wallet that this crate did not write: `foreign/` is as PyPI's bittensor-wallet 4.1.1 leaves it after
//!
//! ```python
//! wallet = Wallet(name="foreign", hotkey="default", path=FOLDER)
//! wallet.regenerate_coldkey(mnemonic=PHRASE, coldkey_password="correct horse battery staple")
//! wallet.regenerate_hotkey(mnemonic=PHRASE, use_password=False)
//! ```
//!
//! with the phrase of Substrate's own examples, which everybody knows. The signature is `wallet.hotkey.sign(MESSAGE)`.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use wallet::WalletArgs;

const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";
const MESSAGE: &[u8] = b"a message of the other side";
const SIGNATURE: &str = "2497bdf2ed183793d4174bf316db8ea84d094116c57a06a3540ed3f066ede164\
                         860f6db6c4c1b77741403986cf37d58d5b5c22a6740ebd396a96c35b7340ff8b";

fn private(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_files_of_the_wallet_library_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("foreign");
    fs::create_dir_all(place.join("hotkeys")).unwrap();
    private(&place.join("coldkey"), include_bytes!("foreign/coldkey"));
    private(&place.join("coldkeypub.txt"), include_bytes!("foreign/coldkeypub.txt"));
    private(&place.join("hotkeys/default"), include_bytes!("foreign/hotkey"));
    let password = folder.path().join("password");
    private(&password, b"correct horse battery staple\n");
    let wallet = WalletArgs {
        name: "foreign".into(),
        hotkey: "default".into(),
        wallet_path: Some(folder.path().into()),
        password_file: Some(password.clone()),
    };
    assert_eq!(wallet.public_coldkey().unwrap().to_string(), ADDRESS);
    let cold = wallet.open_coldkey().unwrap();
    let hot = wallet.open().unwrap();
    for signer in [&cold, &hot] {
        assert_eq!(signer.hotkey().to_string(), ADDRESS);
        let public = schnorrkel::PublicKey::from_bytes(&signer.hotkey().0).unwrap();
        // What the library signs and what is signed here is the same to who checks it.
        for signature in [hex::decode(SIGNATURE).unwrap(), signer.sign(MESSAGE).to_vec()] {
            let signature = schnorrkel::Signature::from_bytes(&signature).unwrap();
            assert!(public.verify_simple(b"substrate", MESSAGE, &signature).is_ok());
        }
    }
    // An older wallet has no public half beside its hotkey.
    assert!(wallet.public().is_err());
    assert_eq!(wallet.write_public().unwrap().to_string(), ADDRESS);
    assert_eq!(wallet.public().unwrap().to_string(), ADDRESS);

    private(&password, b"correct horse battery stapler");
    assert!(wallet.open_coldkey().err().unwrap().error.contains("this is not its password"));
    // One bit of what was sealed.
    private(&password, b"correct horse battery staple");
    let mut sealed = include_bytes!("foreign/coldkey").to_vec();
    *sealed.last_mut().unwrap() ^= 1;
    private(&place.join("coldkey"), &sealed);
    assert!(wallet.open_coldkey().is_err());
}
