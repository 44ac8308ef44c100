//! The validator's side: every byte of what was pulled is checked, and one bad peer costs no other its place.

use record::{
    Code, Hash, Report, Stream,
    cli::Common,
    files,
    records::{Commit, Delta, Status},
};
use run::Settings as _;
use wire::{Layout, delta, state};

/// `bz-delta check`.
pub(crate) fn check(common: &Common, stream: &mut Stream<'_>) -> Result<(), Report> {
    let inputs = stream.read()?;
    let (hparams, run) = common.run(&inputs)?;
    let window = inputs.window()?;
    let reveal = window.reveal.ok_or_else(|| {
        Report::no(format!("window {} is not over: there is nothing to check yet", window.window))
            .hint("bz-window --wait deadline")
    })?;
    let base: Hash = state::record_of(&common.home().state(window.window))?.root;
    let layout = Layout::new(&hparams.model);
    let commits = inputs.latest(window.window, |c: &Commit| (c.window, c.hotkey))?;
    let deltas = inputs.latest(window.window, |d: &Delta| (d.window, d.uid))?;
    for (_, mut pulled) in deltas {
        if pulled.status != Status::Ok {
            continue;
        }
        let committed = commits.get(&pulled.hotkey).filter(|c| c.status == Some(Status::Ok));
        let result = match (&pulled.path, committed) {
            (None, _) => Err(Report::data("the record names no file")),
            (_, None) => Err(Report::data("it was not committed to in time")),
            (Some(path), Some(commit)) => {
                // What was fetched and is gone since is no fault of the peer either.
                std::fs::metadata(path).map_err(|e| files::io_report("read", path, &e))?;
                let expected = delta::Expected {
                    run,
                    window: window.window,
                    uid: pulled.uid,
                    hotkey: pulled.hotkey,
                    base,
                    codec: hparams.codec.clone(),
                    commitment: Some(commit.commitment),
                    reveal,
                };
                wire::contain(|| delta::Delta::open(path, &layout, &expected))
            }
        };
        match result {
            Ok(checked) => {
                pulled.codec = Some(checked.meta.codec.name.name().into());
                pulled.base = Some(checked.meta.base);
            }
            // Our own disk or memory is no fault of the peer. A panic of ours over its bytes is: no other's bytes bring it out.
            Err(report) if matches!(report.code, Code::Again | Code::Config) => return Err(report),
            Err(report) => {
                pulled.status = Status::Invalid;
                pulled.reason = Some(report.error);
            }
        }
        stream.emit(&pulled)?;
    }
    Ok(())
}
