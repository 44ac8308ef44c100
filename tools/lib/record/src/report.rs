//! What a person reads when something is wrong, and the exit code that a script reads.

use std::{fmt, io};

/// The exit codes of every tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The answer is no: one named thing failed its check, not yet, too late for this window.
    No = 1,
    /// A wrong command line.
    Usage = 2,
    /// Bad data in a file or a record.
    Data = 65,
    /// A network or a service is not there at this moment: the same command may work later.
    Again = 75,
    /// Configuration or wallet.
    Config = 78,
    /// A defect of the tool.
    Bug = 101,
}

/// An error for a person: what failed, on what, and what to do about it.
#[derive(Debug)]
pub struct Report {
    /// The exit code.
    pub code: Code,
    /// What failed, on what.
    pub error: String,
    /// What to do, a line each.
    pub hints: Vec<String>,
    /// The reader of our output went away: not an error.
    pub closed_pipe: bool,
}

/// Longest text of an error, in characters.
const LONGEST: usize = 1000;

/// An error often quotes what came from outside: it stays short, on one line, and sends no control codes to a terminal.
fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        clipped.push('…');
    }
    clipped
}

impl Report {
    /// A report without a hint yet.
    pub fn new(code: Code, error: impl fmt::Display) -> Self {
        Report { code, error: clip(&error.to_string()), hints: Vec::new(), closed_pipe: false }
    }
    /// Exit code 1.
    pub fn no(error: impl fmt::Display) -> Self {
        Self::new(Code::No, error)
    }
    /// Exit code 2.
    pub fn usage(error: impl fmt::Display) -> Self {
        Self::new(Code::Usage, error)
    }
    /// Exit code 65.
    pub fn data(error: impl fmt::Display) -> Self {
        Self::new(Code::Data, error)
    }
    /// Exit code 75.
    pub fn again(error: impl fmt::Display) -> Self {
        Self::new(Code::Again, error)
    }
    /// Exit code 78.
    pub fn config(error: impl fmt::Display) -> Self {
        Self::new(Code::Config, error)
    }
    /// Add what to do about it.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }
    /// Add what to do about it, where nobody nearer to it has said so.
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hints.is_empty() { self.hint(hint) } else { self }
    }
    /// Put where it happened before what happened, unless that names it already.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let place = place.to_string();
        if !names(&self.error, &place) {
            self.error = format!("{place}: {}", self.error);
        }
        self
    }
    /// What to do when nobody has said more: every error ends with something to do.
    pub(crate) fn with_a_hint(self) -> Self {
        match self.code {
            Code::Data => self.or_hint("it is damaged, or of something else: the stage that makes it makes it again"),
            Code::Again => self.or_hint("the same command may work later"),
            Code::Config => self.or_hint("look at the tool's --help, at .env.example, and at the run's hparams.json"),
            Code::Bug => self.or_hint("this is a defect of the tool: please report it, with this line"),
            // What is no here has its reason in it; a wrong command line shows the usage.
            Code::No | Code::Usage => self,
        }
    }
    /// An error of writing the output stream; a closed pipe downstream is no error.
    pub fn output(error: &io::Error) -> Self {
        let mut report = Self::again(format!("cannot write the output stream: {error}"))
            .hint("is there room where the output goes? the same command may be run again");
        report.closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Report {}

/// Whether a text names a place: what follows there is no more of its name.
fn names(text: &str, place: &str) -> bool {
    !place.is_empty()
        && text.match_indices(place).any(|(at, _)| {
            let after = text.get(at + place.len()..).and_then(|rest| rest.chars().next());
            after.is_none_or(|c| !c.is_alphanumeric() && !"/._-".contains(c))
        })
}

/// Turns the error of a library or of the system into a [`Report`] that says what was being done.
pub trait Context<T> {
    /// Bad data, exit code 65.
    fn data(self, what: impl fmt::Display) -> Result<T, Report>;
    /// Configuration or wallet, exit code 78.
    fn config(self, what: impl fmt::Display) -> Result<T, Report>;
    /// Something outside is not there now, exit code 75.
    fn again(self, what: impl fmt::Display) -> Result<T, Report>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn data(self, what: impl fmt::Display) -> Result<T, Report> {
        self.map_err(|e| Report::data(format!("{what}: {e}")))
    }
    fn config(self, what: impl fmt::Display) -> Result<T, Report> {
        self.map_err(|e| Report::config(format!("{what}: {e}")))
    }
    fn again(self, what: impl fmt::Display) -> Result<T, Report> {
        self.map_err(|e| Report::again(format!("{what}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once() {
        let at = |error: &str, place: &str| Report::data(error).at(place).error;
        assert_eq!(at("/a/x.st is cut short", "/a/x.st"), "/a/x.st is cut short");
        assert_eq!(at("cannot open /a/x.st: no", "/a/x.st"), "cannot open /a/x.st: no");
        assert_eq!(at("tensor a is missing", "/a/x.st"), "/a/x.st: tensor a is missing");
        assert_eq!(at("/a/x.st.json is empty", "/a/x.st"), "/a/x.st: /a/x.st.json is empty");
        assert_eq!(at("uid 12 is unknown", "uid 1"), "uid 1: uid 12 is unknown");
    }

    #[test]
    fn every_error_that_can_be_mended_ends_with_what_to_do() {
        for code in [Code::Data, Code::Again, Code::Config, Code::Bug] {
            assert_eq!(Report::new(code, "x").with_a_hint().hints.len(), 1, "{code:?}");
            assert_eq!(Report::new(code, "x").hint("do").with_a_hint().hints, ["do"], "{code:?}");
        }
    }

    #[test]
    fn what_is_quoted_from_outside_stays_short_and_plain() {
        let report = Report::data(format!("unknown field `\u{1b}[2J\n{}`", "A".repeat(4 << 20)));
        assert!(report.error.chars().count() <= LONGEST + 1);
        assert!(!report.error.chars().any(char::is_control));
    }
}
