//! Text into tokens: a Hugging Face `tokenizer.json`, or plain bytes.

use record::{Context, Hash, Report, files};
use std::path::Path;
use tokenizers::Tokenizer;

/// A tokenizer and its end of text.
pub enum Tokens {
    /// A byte is its own token; 256 ends a text.
    Bytes,
    /// A `tokenizer.json`, and the token that ends a text.
    File(Box<Tokenizer>, u32),
}

/// End of text where tokens are bytes.
pub const BYTE_END: u32 = 256;

impl Tokens {
    /// The run's tokenizer: bytes where hparams name none.
    ///
    /// # Errors
    /// Exit code 78 when the file is not the run's, or has no end-of-text token.
    pub fn open(path: Option<&Path>, expected: Option<Hash>) -> Result<Self, Report> {
        let Some(expected) = expected else { return Ok(Tokens::Bytes) };
        let path = path.ok_or_else(|| {
            Report::config("the run has a tokenizer, and none was named")
                .hint("--tokenizer FILE, BZ_TOKENIZER, or tokenizer.json in the node's folder")
        })?;
        let (_, found) = files::digest(path)
            .map_err(|e| e.hint("put the run's tokenizer.json into the node's folder, or name it with --tokenizer"))?;
        if found != expected {
            return Err(Report::config(format!("{} is {found}, the run's tokenizer is {expected}", path.display()))
                .hint("get the run's own tokenizer.json"));
        }
        Self::from_file(path)
    }

    /// Any `tokenizer.json`.
    ///
    /// # Errors
    /// Exit code 78 when it is not one.
    pub fn from_file(path: &Path) -> Result<Self, Report> {
        let bytes = files::read_capped(path, 256 << 20)?;
        let tokenizer = Tokenizer::from_bytes(&bytes).config(path.display())?;
        let names = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]"];
        let end = names.iter().find_map(|name| tokenizer.token_to_id(name)).ok_or_else(|| {
            Report::config(format!("{} has no end-of-text token", path.display())).hint(format!("one of {names:?}"))
        })?;
        Ok(Tokens::File(Box::new(tokenizer), end))
    }

    /// One more than the greatest token.
    pub fn vocab_size(&self) -> u64 {
        match self {
            Tokens::Bytes => u64::from(BYTE_END) + 1,
            Tokens::File(tokenizer, end) => (tokenizer.get_vocab_size(true) as u64).max(u64::from(*end) + 1),
        }
    }

    /// The tokens of a text, and its end.
    ///
    /// # Errors
    /// Exit code 65 when the tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Report> {
        match self {
            Tokens::Bytes => Ok(text.bytes().map(u32::from).chain([BYTE_END]).collect()),
            Tokens::File(tokenizer, end) => {
                let encoding =
                    tokenizer.encode_fast(text, false).map_err(|e| Report::data(format!("tokenizer: {e}")))?;
                Ok(encoding.get_ids().iter().copied().chain([*end]).collect())
            }
        }
    }
}
