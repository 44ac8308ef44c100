//! How the values of whole tiles lie in a file: f32, or rounded to half of its bytes.

use crate::tile::TILE;
use record::Report;
use run::hparams::Quantization;
use safetensors::Dtype;

/// The type of a file's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// Rounded to nearest, ties to even.
    Bf16,
    /// Rounded to nearest, ties to even.
    F16,
}

impl Precision {
    /// That of a codec.
    ///
    /// # Errors
    /// Exit code 65 where its values are no numbers of their own.
    pub fn of(values: Quantization) -> Result<Self, Report> {
        match values {
            Quantization::F32 => Ok(Precision::F32),
            Quantization::Bf16 => Ok(Precision::Bf16),
            Quantization::F16 => Ok(Precision::F16),
            Quantization::Sign | Quantization::Q2 | Quantization::Q4 | Quantization::Q8 => {
                Err(Report::data(format!("whole tiles are not sent as {values}")))
            }
        }
    }

    /// Its name in a safetensors file.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::BF16,
            Precision::F16 => Dtype::F16,
        }
    }

    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// The values as they will be sent: what is committed is what can be revealed to the bit.
    pub(crate) fn quantise(self, tile: &mut [f32; TILE]) {
        match self {
            Precision::F32 => {}
            Precision::Bf16 => tile.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
            Precision::F16 => tile.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
        }
    }

    /// The bytes of values.
    pub(crate) fn encode(self, values: impl Iterator<Item = f32>, out: &mut Vec<u8>) {
        match self {
            Precision::F32 => values.for_each(|v| out.extend(v.to_le_bytes())),
            Precision::Bf16 => values.for_each(|v| out.extend(half::bf16::from_f32(v).to_le_bytes())),
            Precision::F16 => values.for_each(|v| out.extend(half::f16::from_f32(v).to_le_bytes())),
        }
    }

    /// The values of bytes.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        let two = |widen: fn([u8; 2]) -> f32, out: &mut [f32]| {
            out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(value, b)| *value = widen(*b));
        };
        match self {
            Precision::F32 => {
                out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(value, b)| *value = f32::from_le_bytes(*b));
            }
            Precision::Bf16 => two(|b| half::bf16::from_le_bytes(b).to_f32(), out),
            Precision::F16 => two(|b| half::f16::from_le_bytes(b).to_f32(), out),
        }
    }
}
