//! What is voted on: one step of the model.

use ::record::{Hash, Hotkey, Window, records::Accepted};

/// One whose vote counts from this record on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Who.
    pub hotkey: Hotkey,
    /// So many final records in a row, up to the one before this, had no vote of it.
    pub missed: u32,
}

/// The record of a step: what entered the model after a window, and to what state it led.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The run.
    pub run: Hash,
    /// The window whose deltas entered.
    pub window: Window,
    /// Hash of the final record before it; of the run itself for the first.
    pub prev: Hash,
    /// Hash of the draw block: which tiles its deltas carry.
    pub reveal: Hash,
    /// What entered, in the order of uids.
    pub accepted: Vec<Accepted>,
    /// The norm that deltas are clipped to; nothing has entered so far where absent.
    pub clip: Option<f64>,
    /// Root of the state that it led to.
    pub root: Hash,
    /// Whose votes count in the windows after it, in the order of hotkeys.
    pub active: Vec<Member>,
}
