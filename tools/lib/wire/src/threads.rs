//! The CPU threads of all that is done here.

use record::Report;
use std::{error::Error, fmt::Display, sync::LazyLock};

/// Use so many CPU threads; the results are the same with any number.
///
/// # Errors
/// Exit code 2 when threads were used already, 75 when the machine starts none.
pub fn threads(count: usize) -> Result<(), Report> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count.max(1));
    pool.build_global().map_err(|error| match error.source() {
        Some(why) => no_threads(why),
        None => Report::usage(format!("--threads {count}: {error}")),
    })
}

/// The threads of all that is done here, if they were not started yet.
///
/// # Errors
/// Exit code 75 when the machine starts none.
pub(crate) fn have_threads() -> Result<(), Report> {
    static REFUSED: LazyLock<Option<String>> = LazyLock::new(|| {
        let refused = rayon::ThreadPoolBuilder::new().build_global().err()?;
        // None where they were started before.
        refused.source().map(ToString::to_string)
    });
    REFUSED.as_ref().map_or(Ok(()), |why| Err(no_threads(why)))
}

fn no_threads(why: impl Display) -> Report {
    Report::again(format!("this machine starts no threads: {why}"))
        .hint("its limits on processes or memory are reached: ulimit -a")
}
