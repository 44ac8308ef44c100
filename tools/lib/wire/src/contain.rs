//! A panic over one peer's bytes is that peer's, not the process's.
//!
//! No bytes make a decoder panic that we know of; where some do, a validator must not lose its window to the peer that
//! found them.

use crate::threads::have_threads;
use record::{Code, Report};
use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    path::Path,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

thread_local! {
    /// How many calls of [`contain`] this thread is in.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// How many calls of [`contain`] there are in all: rayon's workers do their work in threads of their own.
static ANYWHERE: AtomicUsize = AtomicUsize::new(0);

/// Where the last panic was that the hook kept quiet about: file and line.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Do some work over the bytes of one peer. When it panics, nothing is printed and the panic ends here.
///
/// A panic that is not unwound (`panic = "abort"`, no stack, no memory) ends the process all the same.
///
/// # Errors
/// What the work returns; exit code 101 when it panics, with the panic's message and place, and that it is a bug of
/// ours; 75 when this machine starts no threads for it.
pub fn contain<T>(work: impl FnOnce() -> Result<T, Report>) -> Result<T, Report> {
    // Without threads the work would panic, whoever's bytes they are.
    have_threads()?;
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| if is_contained() { keep(info) } else { before(info) }));
    });
    let inside = Inside::begin();
    // Whatever the work had half done is dropped with it: it is one peer's.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    drop(inside);
    result.unwrap_or_else(|panic| {
        let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let error = format!("a bug of this program, which its bytes bring out: {} ({place})", message(&*panic));
        Err(Report::new(Code::Bug, error)
            .hint("the other peers are none the worse; please keep that file, and report it"))
    })
}

/// Counts a call for as long as it lasts.
struct Inside;

impl Inside {
    fn begin() -> Self {
        HERE.set(HERE.get() + 1);
        ANYWHERE.fetch_add(1, Ordering::SeqCst);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        HERE.set(HERE.get() - 1);
        ANYWHERE.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_contained() -> bool {
    HERE.get() > 0 || rayon::current_thread_index().is_some() && ANYWHERE.load(Ordering::SeqCst) > 0
}

/// Keep the place of a panic for the one that catches it: no more of the path than the file, since reasons are
/// published.
fn keep(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|at| {
        let file = Path::new(at.file()).file_name().unwrap_or_default();
        format!("{}:{}", file.display(), at.line())
    });
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
