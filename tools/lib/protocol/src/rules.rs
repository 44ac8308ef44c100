//! What a run chooses.

/// The numbers that a run chooses for its agreement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Of the deltas that a voter saw good and in time, the share that a record may leave out, rounded down.
    pub omission: f64,
    /// A member that has not voted for so many final records in a row is active no more (K).
    pub inactive_records: u32,
    /// After so many windows without a final record every permit that votes counts (M).
    pub open_windows: u64,
    /// Clip each delta to the median norm of the list.
    pub clip_to_median: bool,
    /// Whether a delta counts by its peer's incentive on the chain.
    pub weigh_by_incentive: bool,
}
