//! How an update is sent: a file for each codec, and beneath them what they share.
//!
//! Floors: bits < select < transform < group < sparse < form < slice < dense < topk < dct

mod bits;
mod dct;
mod dense;
mod form;
pub mod group;
mod select;
mod slice;
mod sparse;
mod topk;
mod transform;

pub use form::Content;
pub(crate) use form::{Claim, Draw, Form, Reader, Sent};
pub use sparse::{Left, Payload};

use crate::{layout::Layout, tensors::Update};
use record::{Hash, Report};
use run::hparams::{Codec, CodecName};

/// The codec of a run, or the one that a file names.
///
/// # Errors
/// Exit code 65 where its parameters are not those of any.
pub(crate) fn form_of(codec: &Codec) -> Result<Box<dyn Form>, Report> {
    Ok(match codec.name {
        CodecName::Slice => Box::new(slice::Slice::of(codec)?),
        CodecName::Dense => Box::new(dense::Dense::of(codec)?),
        CodecName::Topk => Box::new(topk::Topk::of(codec)?),
        CodecName::Dct => Box::new(dct::Dct::of(codec)?),
    })
}

impl Content<'_> {
    /// What is committed to.
    ///
    /// # Errors
    /// Exit code 65 when the update is wrong or not finite, or is none that this codec sends.
    pub fn root(&self, layout: &Layout, codec: &Codec) -> Result<Hash, Report> {
        form_of(codec)?.root(*self, layout)
    }
}

/// Choose what is sent of an update, with the part of what earlier windows left that the codec still counts. What is not sent goes
/// to `keep`, some values at a time, in the order of the layout's tensors.
///
/// # Errors
/// Exit code 65 when a value is not finite, 78 when the codec sends no choice of values; what `keep` returns.
pub fn choose(
    update: &Update,
    left: Option<&Update>,
    layout: &Layout,
    codec: &Codec,
    keep: impl FnMut(&[f32]) -> Result<(), Report>,
) -> Result<Payload, Report> {
    let plan = form_of(codec)?.plan();
    let plan = plan.ok_or_else(|| Report::config(format!("the codec {} sends no choice of values", codec.name)))?;
    let left = left.map(|left| (left, codec.decay.unwrap_or(0.0) as f32));
    Payload::new(update, left, layout, plan, keep)
}

/// Whether a file of this codec tells which tiles it carries; of `slice` only the window's end block does.
///
/// # Errors
/// As [`choose`].
pub(crate) fn tells_its_tiles(codec: &Codec) -> Result<bool, Report> {
    Ok(form_of(codec)?.tells_its_tiles())
}

/// No delta of this codec is larger, in bytes; one whose parameters are not those of any has none.
pub(crate) fn size_cap(layout: &Layout, codec: &Codec) -> u64 {
    form_of(codec).map_or(0, |form| form.size_cap(layout))
}
