//! Tokens into sequences of one length, and the file that holds them.

use record::{Context, Report};
use safetensors::{Dtype, tensor::TensorView};

/// Packs texts, one after another, into sequences of T + 1 tokens, of which T are predicted.
///
/// A sequence's last token is the first of the next, so every token of the text is predicted once.
pub struct Packer {
    length: usize,
    most: usize,
    flat: Vec<u32>,
    /// Whole sequences, each T + 1 tokens.
    pub sequences: Vec<Vec<u32>>,
}

impl Packer {
    /// For sequences that predict `length` tokens, at most `most` of them.
    pub fn new(length: usize, most: usize) -> Self {
        Packer { length, most, flat: Vec::new(), sequences: Vec::new() }
    }

    /// Whether no more tokens are needed.
    pub fn full(&self) -> bool {
        self.sequences.len() >= self.most
    }

    /// Append the tokens of a text.
    pub fn push(&mut self, tokens: &[u32]) {
        self.flat.extend_from_slice(tokens);
        let mut at = 0;
        while !self.full() && self.flat.len() - at > self.length {
            self.sequences.push(self.flat[at..=at + self.length].to_vec());
            at += self.length;
        }
        self.flat.drain(..at);
    }

    /// The rest that fills no sequence is left out; text too short for one is repeated until it fills one.
    pub fn finish(&mut self) {
        if self.sequences.is_empty() && !self.flat.is_empty() {
            let sequence = self.flat.iter().copied().cycle().take(self.length + 1).collect();
            self.sequences.push(sequence);
        }
        self.flat.clear();
    }

    /// Number of tokens that are predicted.
    pub fn tokens(&self) -> u64 {
        (self.sequences.len() * self.length) as u64
    }

    /// The file of the sequences: safetensors, `tokens (sequences, T + 1) I32`.
    ///
    /// # Errors
    /// When the tokens have no such form.
    pub fn bytes(&self) -> Result<Vec<u8>, Report> {
        let flat: Vec<u8> = self.sequences.iter().flatten().flat_map(|t| (*t as i32).to_le_bytes()).collect();
        let shape = vec![self.sequences.len(), self.length + 1];
        let view = TensorView::new(Dtype::I32, shape, &flat).data("the tokens")?;
        safetensors::serialize([("tokens", view)], None).data("the tokens")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_is_predicted_once_and_in_order(
            texts in proptest::collection::vec(proptest::collection::vec(0u32..9, 0..40), 1..10),
            length in 1usize..9,
        ) {
            let mut packer = Packer::new(length, usize::MAX);
            texts.iter().for_each(|t| packer.push(t));
            let flat: Vec<u32> = texts.concat();
            packer.finish();
            if flat.len() > length {
                let inputs: Vec<u32> = packer.sequences.iter().flat_map(|s| s[..length].to_vec()).collect();
                let targets: Vec<u32> = packer.sequences.iter().flat_map(|s| s[1..].to_vec()).collect();
                prop_assert_eq!(&inputs[..], &flat[..inputs.len()]);
                prop_assert_eq!(&targets[..], &flat[1..=targets.len()]);
                prop_assert!(flat.len() - targets.len() - 1 < length);
            } else {
                prop_assert_eq!(packer.sequences.len(), usize::from(!flat.is_empty()));
            }
            prop_assert!(packer.sequences.iter().all(|s| s.len() == length + 1));
        }
    }

    #[test]
    fn no_more_than_asked() {
        let mut packer = Packer::new(2, 3);
        packer.push(&[1; 100]);
        assert!(packer.full() && packer.tokens() == 6);
    }
}
