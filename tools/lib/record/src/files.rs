//! Files that appear whole or not at all, and where a node keeps its own.

use crate::{Code, Context, Hash, Hotkey, Report, Window};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The folder of one node, `$BZ_HOME`.
#[derive(Clone, Debug)]
pub struct Home(pub PathBuf);

impl Home {
    /// The folder of one window's records and files.
    pub fn window(&self, window: Window) -> PathBuf {
        self.0.join("windows").join(window.to_string())
    }
    /// The directory of the state that a window trains from.
    pub fn state(&self, window: Window) -> PathBuf {
        self.0.join("states").join(window.to_string())
    }
    /// Where it is noted that a published record of a window's state, of this signer and this hash, is false, and why.
    pub fn refused(&self, window: Window, signer: Hotkey, record: Hash) -> PathBuf {
        self.window(window).join(format!("refused-{signer}-{record}.json"))
    }
    /// Whose records of a window's state were refused, one entry a record.
    pub fn refusals(&self, window: Window) -> Vec<Hotkey> {
        let names = std::fs::read_dir(self.window(window)).into_iter().flatten().flatten();
        let signer = |name: &str| name.strip_prefix("refused-")?.split('-').next()?.parse().ok();
        names.filter_map(|entry| signer(entry.file_name().to_str()?)).collect()
    }

    /// What a sparse codec left for a window.
    pub fn feedback(&self, window: Window) -> PathBuf {
        self.0.join("feedback").join(format!("{window}.safetensors"))
    }

    /// What it left last, up to a window: a miner may miss some.
    pub fn feedback_of(&self, window: Window) -> Option<PathBuf> {
        self.feedbacks().into_iter().filter(|kept| *kept <= window).max().map(|kept| self.feedback(kept))
    }

    /// Remove what no window from this one on begins with: the last one before it is kept, for a window that is run again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn prune_feedback(&self, window: Window) -> Result<(), Report> {
        let mut old: Vec<Window> = self.feedbacks().into_iter().filter(|kept| *kept <= window).collect();
        old.sort_unstable();
        old.pop();
        for kept in old {
            let path = self.feedback(kept);
            std::fs::remove_file(&path).map_err(|e| io_report("remove", &path, &e))?;
        }
        Ok(())
    }

    fn feedbacks(&self) -> Vec<Window> {
        let entries = std::fs::read_dir(self.0.join("feedback")).into_iter().flatten().flatten();
        let window = |entry: std::fs::DirEntry| {
            entry.file_name().to_str()?.strip_suffix(".safetensors")?.parse().ok().map(Window)
        };
        entries.filter_map(window).collect()
    }

    /// Remove what processes that were killed had begun to write: in the states, what sparse codecs left, and the last windows, older
    /// ones having been swept in their time.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn sweep(&self) -> Result<(), Report> {
        let states = self.states().into_iter().map(|window| self.state(window));
        let windows = self.windows().into_iter().rev().take(16).map(|window| self.window(window));
        let fetched = |folder: PathBuf| [folder.join("fetched"), folder.join("accepted"), folder];
        let folders = windows.flat_map(fetched).chain(states).chain([self.0.join("feedback"), self.0.clone()]);
        folders.filter(|folder| folder.is_dir()).try_for_each(|folder| sweep(&folder))
    }

    /// The `run` record that this folder was last used with: what hparams alone do not say.
    pub fn run(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// What the run agrees on.
    pub fn hparams(&self) -> PathBuf {
        self.0.join("hparams.json")
    }
    /// The windows whose state is here, oldest first.
    pub fn states(&self) -> Vec<Window> {
        numbered(&self.0.join("states"))
    }
    /// The windows that have a folder here, oldest first.
    pub fn windows(&self) -> Vec<Window> {
        numbered(&self.0.join("windows"))
    }
}

fn numbered(folder: &Path) -> Vec<Window> {
    let mut found: Vec<Window> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// An error of the file system in words, with the exit code that it deserves.
pub fn io_report(what: &str, path: &Path, error: &io::Error) -> Report {
    let text = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Report::data(text).hint("check the path, or run the stage that makes this file"),
        io::ErrorKind::PermissionDenied => {
            Report::config(text).hint("check the owner and the mode of the file and its folder")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Report::config(text).hint("that file system is mounted read-only: name a place that can be written")
        }
        io::ErrorKind::IsADirectory => Report::data(text).hint("a folder stands where the file belongs"),
        io::ErrorKind::NotADirectory => Report::data(text).hint("a file stands where a folder belongs"),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
            Report::data(text).hint("something else stands there: move it away")
        }
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => Report::data(text).hint("check the path"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Report::again(text).hint("free some space on that disk; nothing that was finished is lost")
        }
        _ => Report::again(text),
    }
}

/// Make a folder, and see that files can be written there: what stands against it is known before others are asked for
/// what would be kept in it.
///
/// # Errors
/// When the file system refuses.
pub fn writable_dir(path: &Path) -> Result<(), Report> {
    part_beside(&path.join("x")).map(drop)
}

/// Open a file to map it: a folder opens as well, and is told only here.
///
/// # Errors
/// When the file system refuses, or it is a folder.
pub fn open_file(path: &Path) -> Result<File, Report> {
    let file = File::open(path).map_err(|e| io_report("open", path, &e))?;
    match file.metadata() {
        Ok(meta) if meta.is_dir() => Err(io_report("open", path, &io::ErrorKind::IsADirectory.into())),
        _ => Ok(file),
    }
}

/// Make a folder and those above it.
///
/// # Errors
/// When the file system refuses.
pub fn create_dir(path: &Path) -> Result<(), Report> {
    std::fs::create_dir_all(path).map_err(|e| io_report("create the folder", path, &e))
}

/// Write a file beside its place, sync it, and rename it there: a reader sees the old one or the new one.
///
/// # Errors
/// When the file system refuses, or what `fill` returns.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Report> {
    // A temporary file is for its owner only; what is finished has the mode of any other file.
    write_mode(path, 0o644, fill)
}

/// The same for what writes to a path by itself.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_at(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Report> {
    let part = part_beside(path)?;
    fill(part.path()).and_then(|()| persist(part, path, 0o644)).map_err(|e| io_report("write", path, &e))
}

/// A temporary file beside this place, locked for as long as it is written; [`sweep`] removes it if its process is killed.
///
/// # Errors
/// When the file system refuses.
pub fn part_beside(path: &Path) -> Result<tempfile::NamedTempFile, Report> {
    let refused = |e: io::Error| io_report("write", path, &e);
    let folder = folder_of(path);
    create_dir(folder)?;
    sweep(folder)?;
    let prefix = format!("{PART}{}-", path.file_name().unwrap_or_default().display());
    loop {
        let part = tempfile::Builder::new().prefix(&prefix).tempfile_in(folder).map_err(refused)?;
        // Where a file system has no locks, nothing is swept either.
        let _ = part.as_file().lock();
        // Another process may have swept it away before it was locked.
        if part.as_file().metadata().map_err(refused)?.nlink() > 0 {
            return Ok(part);
        }
    }
}

/// How the names of files begin that are being written.
const PART: &str = ".part-";

/// Remove what processes that were killed had begun to write in a folder: nobody holds the lock of such a file.
///
/// # Errors
/// When the file system refuses.
pub fn sweep(folder: &Path) -> Result<(), Report> {
    for entry in std::fs::read_dir(folder).map_err(|e| io_report("read", folder, &e))?.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PART.as_bytes()) {
            continue;
        }
        // What cannot be opened was finished or removed meanwhile, or is no file.
        let Ok(part) = File::open(entry.path()) else { continue };
        if part.try_lock().is_ok() {
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_report("remove", &entry.path(), &e)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A file that is written piece by piece, and is at its place when it is finished.
pub struct Pending {
    file: io::BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
}

impl Pending {
    /// Begin beside its place.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(path: &Path) -> Result<Self, Report> {
        let file = part_beside(path)?;
        Ok(Pending { file: io::BufWriter::with_capacity(1 << 20, file), path: path.into() })
    }

    /// Write the next piece.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Report> {
        self.file.write_all(bytes).map_err(|e| io_report("write", &self.path, &e))
    }

    /// Put it to its place.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), Report> {
        let finished = self.file.into_inner().map_err(|e| e.into_error());
        finished.and_then(|file| persist(file, &self.path, 0o644)).map_err(|e| io_report("write", &self.path, &e))
    }
}

fn write_mode(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Report> {
    let mut part = part_beside(path)?;
    fill(part.as_file_mut()).and_then(|()| persist(part, path, mode)).map_err(|e| io_report("write", path, &e))
}

/// Put what was written beside its place to its place, with this mode, so that it survives a loss of power.
///
/// # Errors
/// When the file system refuses.
pub fn persist(part: tempfile::NamedTempFile, path: &Path, mode: u32) -> io::Result<()> {
    part.as_file().sync_all()?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    part.as_file().set_permissions(mode)?;
    let folder = folder_of(path);
    part.persist(path).map_err(|e| e.error)?;
    // The rename itself must survive a loss of power.
    File::open(folder)?.sync_all()
}

/// Write a value as one JSON file, atomically.
///
/// # Errors
/// When the file system refuses.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Report> {
    let mut bytes = serde_json::to_vec_pretty(value).data("a value has no JSON form")?;
    bytes.push(b'\n');
    write_atomic(path, |file| file.write_all(&bytes))
}

/// The same for what only its owner may read.
///
/// # Errors
/// When the file system refuses.
pub fn write_private_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Report> {
    let bytes = serde_json::to_vec(value).data("a value has no JSON form")?;
    write_mode(path, 0o600, |file| file.write_all(&bytes))
}

/// Read a whole file of at most `cap` bytes.
///
/// # Errors
/// When it is absent, larger, or the file system refuses.
pub fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, Report> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| io_report("open", path, &e))?;
    file.take(cap + 1).read_to_end(&mut bytes).map_err(|e| io_report("read", path, &e))?;
    if bytes.len() as u64 > cap {
        return Err(Report::data(format!("{} is larger than {cap} bytes", path.display())));
    }
    Ok(bytes)
}

/// Read one JSON file of at most 64 MiB.
///
/// # Errors
/// As [`read_capped`], or when it is not the JSON of a `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Report> {
    serde_json::from_slice(&read_capped(path, 64 << 20)?).data(path.display())
}

/// The size and the BLAKE3 hash of a file; it is read in pieces, so that a large one takes little memory.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> Result<(u64, Hash), Report> {
    let refused = |e: io::Error| io_report("read", path, &e);
    let mut file = File::open(path).map_err(refused)?;
    let length = file.metadata().map_err(refused)?.len();
    let mut piece = vec![0; length.clamp(1, 16 << 20) as usize];
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = file.read(&mut piece).map_err(refused)?;
        if read == 0 {
            return Ok((hasher.count(), hasher.finalize().into()));
        }
        hasher.update_rayon(piece.get(..read).unwrap_or_default());
    }
}

/// What lies beside a file and tells of it: `a.safetensors.json`. All of the file's name stands in it, so that no two files
/// have one, and no file is its own.
pub fn record_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// How long a process waits for another one that makes something in the same folder.
const TURN_WITHIN: Duration = Duration::from_secs(600);

/// Wait for the turn to make something in a folder, which ends with the value: what is signed there is signed once, and
/// whoever comes second finds it made. The lock is that of the folder itself, so that nothing is written for it.
///
/// # Errors
/// Exit code 75 when another process holds it for ten minutes; when the folder cannot be made.
pub fn turn(folder: &Path) -> Result<File, Report> {
    create_dir(folder)?;
    let held = File::open(folder).map_err(|e| io_report("open", folder, &e))?;
    let since = Instant::now();
    loop {
        match held.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) if since.elapsed() < TURN_WITHIN => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let error = format!("another process makes something in {} and does not end", folder.display());
                return Err(Report::again(error).hint("wait for it to finish, or stop it"));
            }
            // Where a file system has no locks, nobody waits.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => return Ok(held),
        }
    }
}

/// The folder that a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Take the lock of a folder, so that two processes do not do the same work at once; it ends with the value.
///
/// # Errors
/// Exit code 75 when another process holds it.
pub fn lock(path: &Path) -> Result<File, Report> {
    // Not `File::create`: a lock that is taken again leaves the folder as it was.
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|e| io_report("create", path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Report::new(Code::Again, format!("another process holds {}", path.display()))
                .hint("wait for it to finish, or stop it"))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(io_report("lock", path, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let failed = write_atomic(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().code, Code::Again);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn what_was_begun_is_there_when_it_is_finished_and_is_not_left_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.safetensors");
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        std::fs::write(folder.path().join(".part-1.safetensors-x"), "of one that was killed").unwrap();
        std::fs::write(folder.path().join(".part-y"), "of another, for another place").unwrap();
        let mut given_up = Pending::begin(&path).unwrap();
        assert_eq!(count(), 1, "what nobody writes any more is gone");
        let other = Pending::begin(&folder.path().join("2")).unwrap();
        assert_eq!(count(), 2, "what somebody else writes is not");
        given_up.push(b"a").unwrap();
        drop((given_up, other));
        assert_eq!(count(), 0);
        let mut file = Pending::begin(&path).unwrap();
        file.push(b"a").unwrap();
        file.push(b"b").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ab");
    }

    #[test]
    fn what_is_in_the_way_is_named_and_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path().join("dir"), folder.path().join("file"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&file, "x").unwrap();
        for path in [dir.clone(), file.join("x")] {
            let report = write_atomic(&path, |f| f.write_all(b"a")).unwrap_err();
            assert!(report.code == Code::Data && !report.hints.is_empty(), "{report}");
        }
        assert_eq!(read_capped(&dir, 10).unwrap_err().code, Code::Data);
        assert_eq!(read_capped(&file.join("x"), 10).unwrap_err().code, Code::Data);
    }

    #[test]
    fn what_lies_beside_a_file_is_never_the_file() {
        assert_eq!(record_beside(Path::new("w/x.safetensors")), Path::new("w/x.safetensors.json"));
        assert_eq!(record_beside(Path::new("x.json")), Path::new("x.json.json"));
    }

    #[test]
    fn one_at_a_time_has_its_turn_in_a_folder_and_nothing_is_left_there() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        let count = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = turn(&folder).unwrap();
                    assert_eq!(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "nobody else is in it");
                    std::thread::sleep(Duration::from_millis(5));
                    count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        // Files are written there meanwhile: who fetches needs no turn.
        let _turn = turn(&folder).unwrap();
        write_atomic(&folder.join("x"), |f| f.write_all(b"x")).unwrap();
    }

    #[test]
    fn a_long_files_hash_is_that_of_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for length in [0, 1, (16 << 20) - 1, 16 << 20, (16 << 20) + 5] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(digest(&path).unwrap(), (length as u64, blake3::hash(&bytes).into()));
        }
    }

    #[test]
    fn a_file_over_its_cap_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [0; 11]).unwrap();
        assert!(read_capped(&path, 11).is_ok());
        assert_eq!(read_capped(&path, 10).unwrap_err().code, Code::Data);
    }
}
