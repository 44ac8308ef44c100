//! A panic over one peer's bytes ends with that peer. Alone in its process: a panic hook is the process's.
#![allow(clippy::unwrap_used, clippy::panic)]

use rayon::prelude::*;
use record::{Code, Report};
use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering},
};
use wire::contain;

static PRINTED: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_panic_over_one_peers_bytes_is_a_quiet_error() {
    panic::set_hook(Box::new(|_| {
        PRINTED.fetch_add(1, Ordering::SeqCst);
    }));
    // What does not panic comes back as it is.
    assert_eq!(contain(|| Ok(7)).unwrap(), 7);
    assert_eq!(contain::<()>(|| Err(Report::no("not yet"))).err().unwrap().code, Code::No);
    let bytes: Vec<usize> = vec![1, 2, 300];
    let work = |at: usize| contain(|| Ok(bytes[at]));
    let report = work(3).err().unwrap();
    assert_eq!(report.code, Code::Bug);
    for words in ["a bug of this program", "index out of bounds", "(contain.rs:"] {
        assert!(report.error.contains(words), "{report}");
    }
    assert_eq!(work(2).unwrap(), 300, "the next peer");
    // From a thread of rayon's, and one inside another.
    let wide = contain(|| Ok((0..64usize).into_par_iter().map(|at| bytes[at]).sum::<usize>()));
    assert!(wide.err().unwrap().error.contains("index out of bounds"));
    let nested = contain(|| {
        assert!(work(3).is_err());
        panic!("{} more", 1)
    });
    let nested: Result<(), Report> = nested;
    assert!(nested.err().unwrap().error.contains("1 more (contain.rs:"));
    assert_eq!(PRINTED.load(Ordering::SeqCst), 0);
    // Outside nothing changes.
    assert!(panic::catch_unwind(|| panic!("ours")).is_err());
    assert_eq!(PRINTED.load(Ordering::SeqCst), 1);
    let _ = panic::take_hook();
}
