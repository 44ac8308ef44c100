//! The hparams that a command line names, held against the stream's own run.

use crate::Hparams;
use record::{Hash, Inputs, Report, cli::Common, records::Run};

/// What [`Common`] says of the run.
pub trait Settings {
    /// What the run agrees on.
    ///
    /// # Errors
    /// Exit code 78 when the file is absent or wrong.
    fn hparams(&self) -> Result<Hparams, Report>;

    /// The hparams, checked against the stream's `run` record where there is one; with the run's hash.
    ///
    /// # Errors
    /// Exit code 78 when they disagree: the file was changed, or belongs to another network.
    fn run(&self, inputs: &Inputs) -> Result<(Hparams, Hash), Report>;
}

impl Settings for Common {
    fn hparams(&self) -> Result<Hparams, Report> {
        Hparams::load(&self.hparams_path())
    }

    fn run(&self, inputs: &Inputs) -> Result<(Hparams, Hash), Report> {
        let hparams = self.hparams()?;
        let run: Run = inputs.need("bz-window --window W")?;
        let own = hparams.run(run.genesis, run.netuid);
        if own != run.run {
            return Err(Report::config(format!(
                "{} gives run {own}, the stream is of run {}",
                self.hparams_path().display(),
                run.run
            ))
            .hint("every node of a run has the same hparams.json: fetch the run's own, or name it with --hparams"));
        }
        Ok((hparams, own))
    }
}
