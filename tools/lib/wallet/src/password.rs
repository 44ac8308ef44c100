//! Encrypted key files, and where their password comes from: a file, a descriptor, or a person at a terminal.
//!
//! Source: `decrypt_keyfile_data` of bittensor-wallet: `$NACL`, a nonce of 24 bytes, and a NaCl secretbox whose key is
//! argon2i of the password, with libsodium's SENSITIVE limits and one salt for all.

use crate::secret;
use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::{
    XSalsa20Poly1305,
    aead::{Aead, KeyInit},
};
use record::{Report, files};
use std::{io::IsTerminal, os::unix::fs::PermissionsExt, path::Path};
use zeroize::Zeroizing;

const MARK: &[u8] = b"$NACL";
const NONCE: usize = 24;
const SALT: [u8; 16] = *b"\x13\x71\x83\xdf\xf1\x5a\x09\xbc\x9c\x90\xb5\x51\x87\x39\xe9\xb1";
/// KiB, passes, lanes.
const COST: (u32, u32, u32) = (512 * 1024, 8, 1);
/// The longest password that a file may hold, in bytes.
const LONGEST: usize = 4096;

/// What is encrypted, and by whom.
pub(crate) enum Form {
    /// Nothing is.
    Plain,
    /// As bittensor-wallet does today.
    Nacl,
    /// As the Python package of long ago did.
    Old(&'static str),
}

pub(crate) fn form(bytes: &[u8]) -> Form {
    match bytes {
        _ if bytes.starts_with(MARK) => Form::Nacl,
        _ if bytes.starts_with(b"$ANSIBLE_VAULT") => Form::Old("Ansible Vault"),
        _ if bytes.starts_with(b"gAAAAA") => Form::Old("Fernet"),
        _ => Form::Plain,
    }
}

fn key_of(password: &[u8]) -> Result<Zeroizing<[u8; 32]>, argon2::Error> {
    let (memory, passes, lanes) = COST;
    let mut key = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2i, Version::V0x13, Params::new(memory, passes, lanes, Some(32))?).hash_password_into(
        password,
        &SALT,
        key.as_mut_slice(),
    )?;
    Ok(key)
}

/// The key file in the clear. `path` is only named.
fn decrypt(bytes: &[u8], path: &Path, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, Report> {
    let broken = || Report::config(format!("{} is cut short", path.display()));
    let (nonce, sealed) = bytes.get(MARK.len()..).and_then(|rest| rest.split_at_checked(NONCE)).ok_or_else(broken)?;
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| broken())?;
    let key = key_of(password)
        .map_err(|e| Report::config(format!("{}: the password cannot be used: {e}", path.display())))?;
    XSalsa20Poly1305::new(&(*key).into())
        .decrypt(&nonce.into(), sealed)
        .map(Zeroizing::new)
        .map_err(|_| Report::config(format!("{}: this is not its password", path.display())))
}

/// An encrypted key file in the clear, by the password that `file` holds, or else a person types.
pub(crate) fn clear(bytes: &[u8], path: &Path, file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Report> {
    decrypt(bytes, path, &ask(path, file)?)
}

/// The password of a key file: from `file` where one is named, else from a person.
fn ask(path: &Path, file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Report> {
    if let Some(file) = file {
        return of_file(file);
    }
    let how = "--password-file FILE; a descriptor is /dev/fd/N";
    if !std::io::stderr().is_terminal() {
        return Err(Report::config(format!(
            "{} is encrypted, and nobody is here to type its password",
            path.display()
        ))
        .hint(how));
    }
    let prompt = format!("password of {}: ", path.display());
    let typed = rpassword::prompt_password(prompt).map(|typed| Zeroizing::new(typed.into_bytes()));
    typed.map_err(|e| Report::config(format!("no password can be typed here: {e}")).hint(how))
}

fn of_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Report> {
    let fault = |e: &std::io::Error| files::io_report("read the password from", path, e);
    let mut file = std::fs::File::open(path).map_err(|e| fault(&e))?;
    let meta = file.metadata().map_err(|e| fault(&e))?;
    if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
        return Err(Report::config(format!("{} can be read by others", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let read = secret::read(&mut file, LONGEST).map_err(|e| fault(&e))?;
    let mut text = read.ok_or_else(|| Report::config(format!("{} is too long for a password", path.display())))?;
    // The newline of an editor or of echo is no part of it.
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let length = line.strip_suffix(b"\r").unwrap_or(line).len();
    text.truncate(length);
    Ok(text)
}

/// The form that is read, for the tests.
#[cfg(test)]
pub(crate) fn seal(clear: &[u8], password: &str) -> Vec<u8> {
    let nonce = [5u8; NONCE];
    let sealed =
        XSalsa20Poly1305::new(&(*key_of(password.as_bytes()).unwrap()).into()).encrypt(&nonce.into(), clear).unwrap();
    [MARK, &nonce, &sealed].concat()
}
