//! Secrets are read into room that is there from the start, and wiped when dropped: a buffer that grows leaves copies
//! behind.

use std::io::{self, Read};
use zeroize::Zeroizing;

/// All that `from` holds, at most `cap` bytes; `None` when it is more.
pub(crate) fn read(from: &mut impl Read, cap: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut room = Zeroizing::new(vec![0u8; cap + 1]);
    let mut filled = 0;
    while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if filled > cap {
        return Ok(None);
    }
    room.truncate(filled);
    Ok(Some(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, as a pipe may, and breaks in between.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let one = into.len().min(1);
            self.0.read(&mut into[..one])
        }
    }

    #[test]
    fn the_room_is_there_from_the_start_and_has_an_end() {
        let got = read(&mut Slow(b"a secret", false), 100).unwrap().unwrap();
        assert_eq!((got.as_slice(), got.capacity()), (&b"a secret"[..], 101));
        assert_eq!(read(&mut &b"12345"[..], 5).unwrap().unwrap().as_slice(), b"12345");
        assert!(read(&mut &b"123456"[..], 5).unwrap().is_none());
        assert!(read(&mut &b""[..], 5).unwrap().unwrap().is_empty());
    }
}
