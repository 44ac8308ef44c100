//! Which of its kernels a process uses: one set for each level of x86-64.

use crate::shim;
use record::{Code, Report};

/// A level of x86-64 that there are kernels for, from the least to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// SSE4.2.
    V2,
    /// AVX2.
    V3,
    /// AVX-512.
    V4,
    /// AVX-512 with products in bf16.
    V4Bf16,
}

impl Level {
    /// All of them, in the order of `csrc/levels.h`.
    pub const ALL: [Level; 4] = [Level::V2, Level::V3, Level::V4, Level::V4Bf16];

    /// Its name in `BZ_CPU_LEVEL`.
    pub fn name(self) -> &'static str {
        match self {
            Level::V2 => "v2",
            Level::V3 => "v3",
            Level::V4 => "v4",
            Level::V4Bf16 => "v4-bf16",
        }
    }

    /// Whether this machine has it.
    pub fn here(self) -> bool {
        shim::cpu_has(self as i32)
    }

    /// The one in use: the best of this machine, or the one that `BZ_CPU_LEVEL` asks for.
    ///
    /// # Errors
    /// Exit code 78 when that is unknown, or this machine lacks it.
    pub fn chosen() -> Result<Self, Report> {
        let place = shim::cpu_level().map_err(|report| {
            let here: Vec<_> = Self::ALL.into_iter().filter(|level| level.here()).map(Level::name).collect();
            let error = report.error.trim_start_matches("libtorch: ").to_string();
            Report::config(error).hint(format!("unset BZ_CPU_LEVEL, or take one of {}", here.join(", ")))
        })?;
        let found = usize::try_from(place).ok().and_then(|place| Self::ALL.get(place).copied());
        found.ok_or_else(|| Report::new(Code::Bug, format!("the shim's level {place} is none")))
    }
}
