//! What can be wrong with a tokenizer's files, and what cannot be encoded.

use std::path::PathBuf;

/// A tokenizer that cannot be loaded, or a text that it cannot encode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file is there but cannot be read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not a regular file, or larger than any real one.
    #[error("{}: {found}; expected a regular file of at most {limit_bytes} bytes", file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
        /// What it is.
        found: String,
        /// The largest size that is read.
        limit_bytes: u64,
    },
    /// A file is not JSON.
    #[error("{}: not valid JSON", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A field has a value that it may not have.
    #[error("{}: `{field}` is {found}; expected {expected}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The field's path inside it.
        field: String,
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },
    /// The `tokenizers` library refuses the file.
    #[error("{}: the tokenizer cannot be built: {reason}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// The library's words.
        reason: String,
    },
    /// Loading or a first encoding broke inside the library.
    #[error("{}: the tokenizer is malformed: {stage} a probe text failed: {reason}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// `loading` or `encoding`.
        stage: &'static str,
        /// The library's words.
        reason: String,
    },
    /// A token's id has no row in the embedding.
    #[error("{}: token `{token}` has id {id}, the embedding has {rows} rows; use the tokenizer that came with these weights", file.display())]
    IdOutOfRange {
        /// The file.
        file: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u64,
        /// Rows of the embedding.
        rows: usize,
    },
    /// Two tokens share an id, or one text has two ids.
    #[error("{}: tokens {first} and {second} clash: {what}", file.display())]
    Duplicate {
        /// The file.
        file: PathBuf,
        /// One of the two.
        first: String,
        /// The other.
        second: String,
        /// What they share.
        what: &'static str,
    },
    /// A token that must exist is not in the vocabulary.
    #[error("{}: `{field}` is `{token}`, which is not in the vocabulary of {vocab_size} tokens", file.display())]
    NotInVocabulary {
        /// The file.
        file: PathBuf,
        /// The field that names the token.
        field: String,
        /// The token.
        token: String,
        /// Tokens that there are.
        vocab_size: usize,
    },
    /// A merge rule that cannot be applied.
    #[error("{}: `{field}[{index}]` is `{merge}`: {reason}", file.display())]
    Merge {
        /// The file.
        file: PathBuf,
        /// The field that holds the merges.
        field: &'static str,
        /// Place in the list.
        index: usize,
        /// The rule.
        merge: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An array of the vocabulary has the wrong length.
    #[error("{}: `{field}` has {found} entries; expected {expected}", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// The array.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits.
        expected: String,
    },
    /// A special token's id is outside the vocabulary.
    #[error("{}: `{field}` is {id}, out of range for a vocabulary of {vocab_size} tokens", file.display())]
    SpecialId {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        id: u32,
        /// Tokens that there are.
        vocab_size: usize,
    },
    /// A text that the tokenizer cannot encode.
    #[error("the text cannot be encoded: {reason}")]
    Encode {
        /// The library's words.
        reason: String,
    },
}
