//! Tokenizers: text to token ids and back, from a Hugging Face folder or from the vocabulary of a GGUF file.
//!
//! Encoding is done by the `tokenizers` library; text is made here, from a table of every token's bytes. A GGUF vocabulary becomes a
//! `tokenizer.json` value first, all but the lists of a byte-pair model, which are served as they are: they start ten times as fast.
//! Both doors lead through the same checks: the library panics on some malformed files and accepts ids that no embedding has.
//!
//! Reading order: [`Tokenizer`] here, `table` (bytes of tokens), `stream` (text), `library` (encoding), `gguf` (vocabularies), `files`
//! (settings).

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::beside::beside;
use crate::chat::ChatTemplate;
use serde::Deserialize;
use serde_json::Value;

mod error;
mod files;
mod gguf;
mod guard;
mod inspect;
mod library;
mod stream;
mod table;

pub use error::TokenizerError;
pub use gguf::GgufVocab;
pub use stream::TextStream;

use files::{Settings, TemplateSource};
use gguf::Lists;
use library::{Library, Steps};
use table::{Rules, TokenTable};

/// Letters of several scripts, digits, spaces, a byte that few vocabularies have, and text that looks like a special token.
const PROBE: &str = "The 12 rivers' \u{e9}\u{301} \u{6cb3}\u{6d41} \u{1f44d}\t\r\n\n  x<s>\u{10ffff}\0";

/// A loaded tokenizer. Cheap to share, never changes.
#[derive(Debug)]
pub struct Tokenizer {
    library: Library,
    table: Arc<TokenTable>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    special: Vec<(String, String)>,
    chat: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` of a model folder, with special tokens and chat template from `tokenizer_config.json` and
    /// `chat_template.jinja` where they exist; `None` when there is no `tokenizer.json`.
    ///
    /// `vocab_rows` is the number of rows of the embedding, which every id must be below. A chat template is not looked at until it
    /// is used.
    ///
    /// # Errors
    /// When a file cannot be read or is malformed, when an id has no embedding row, or when a named special token does not exist.
    pub fn from_dir(dir: &Path, vocab_rows: usize) -> Result<Option<Tokenizer>, TokenizerError> {
        let file = dir.join("tokenizer.json");
        let Some(json) = files::read_json(&file)? else { return Ok(None) };
        let mut tokenizer = Tokenizer::from_json(json, &file, vocab_rows)?;
        let settings = Settings::from_dir(dir)?;
        let config = dir.join("tokenizer_config.json");
        for (role, text) in settings.special {
            let id = tokenizer.token_id(&text);
            if id.is_none() && matches!(role, "bos_token" | "eos_token") {
                let vocab_size = tokenizer.vocab_size();
                return Err(TokenizerError::NotInVocabulary {
                    file: config,
                    field: role.to_owned(),
                    token: text,
                    vocab_size,
                });
            }
            match role {
                "bos_token" => tokenizer.bos = id,
                "eos_token" => tokenizer.eos = id,
                _ => {}
            }
            tokenizer.special.push((role.to_owned(), text));
        }
        tokenizer.chat = settings.template.map(|source| template(source, &tokenizer.special));
        Ok(Some(tokenizer))
    }

    /// Builds the tokenizer that `vocab`, read from the GGUF file `file`, describes.
    ///
    /// # Errors
    /// When the vocabulary is of a kind that is not supported, is malformed, or has more tokens than `vocab_rows`.
    pub fn from_gguf(vocab: GgufVocab, file: &Path, vocab_rows: usize) -> Result<Tokenizer, TokenizerError> {
        let described = gguf::describe(vocab, file, vocab_rows)?;
        let mut tokenizer = match described.lists {
            None => Tokenizer::from_json(described.json, file, vocab_rows)?,
            Some(lists) => Tokenizer::from_lists(lists, &described.json, file)?,
        };
        (tokenizer.bos, tokenizer.eos, tokenizer.eot) = (described.bos, described.eos, described.eot);
        tokenizer.special = described.special;
        tokenizer.chat = described.template.map(|source| template(source, &tokenizer.special));
        Ok(tokenizer)
    }

    /// Loads `json`, which has the shape of a `tokenizer.json`.
    fn from_json(mut json: Value, file: &Path, vocab_rows: usize) -> Result<Tokenizer, TokenizerError> {
        inspect::prepare(&mut json, file, vocab_rows)?;
        let rules = Rules::from_decoder(json.get("decoder"), file)?;
        let library = match built(file, || Library::deserialize(&json)) {
            Ok(library) => library,
            Err(error) => {
                inspect::explain(&json, file)?;
                return Err(error);
            }
        };
        let tokens = inspect::tokens(&library, &json, file, vocab_rows)?;
        let tokens = tokens.iter().map(|(id, text, special)| (*id, text.as_str(), *special));
        let table = TokenTable::new(tokens, rules);
        Tokenizer::probed(library, table, file)
    }

    /// Puts what `json` describes around the model of `lists`. Its regular expressions take as long as the merges.
    fn from_lists(lists: Lists, json: &Value, file: &Path) -> Result<Tokenizer, TokenizerError> {
        let around = || {
            let steps = built(file, || Steps::new(json))?;
            let special = lists.added.iter().filter(|t| t.special).map(|t| t.content.as_str()).collect::<HashSet<_>>();
            let tokens = lists.tokens().map(|(id, text)| (id, text, special.contains(text)));
            Ok((steps, TokenTable::new(tokens, Rules::from_decoder(json.get("decoder"), file)?)))
        };
        let (rules, around) = beside("nxd-merges", || lists.rules(file), around);
        let (steps, table) = around?;
        let (model, added) = lists.into_model(rules?);
        let library = built(file, || steps.around(model, added))?;
        Tokenizer::probed(library, table, file)
    }

    /// The tokenizer, which has encoded a first text.
    fn probed(library: Library, table: TokenTable, file: &Path) -> Result<Tokenizer, TokenizerError> {
        let table = Arc::new(table);
        let tokenizer = Tokenizer { library, table, bos: None, eos: None, eot: None, special: Vec::new(), chat: None };
        for add_special in [false, true] {
            tokenizer.encode(PROBE, add_special).map_err(|e| TokenizerError::Broken {
                file: file.to_owned(),
                stage: "encoding",
                reason: e.to_string(),
            })?;
        }
        Ok(tokenizer)
    }

    /// The ids of `text`; `add_special` adds what the model expects around a plain text, such as a BOS token. Special tokens that are
    /// written out in the text become their ids.
    ///
    /// # Errors
    /// When the library fails on this text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let failed = |reason| TokenizerError::Encode { reason };
        let encoding = guard::catch(|| self.library.encode_fast(text, add_special))
            .map_err(failed)?
            .map_err(|e| failed(e.to_string()))?;
        // A post-processor may name any number, also one that is no token.
        match encoding.get_ids().iter().find(|id| !self.table.is_known(**id)) {
            Some(id) => Err(failed(format!("it gives id {id}, which is not a token"))),
            None => Ok(encoding.get_ids().to_vec()),
        }
    }

    /// The text of `ids`, as transformers' `decode` gives it; ids that are no tokens add nothing.
    ///
    /// The same as the pieces of [`Tokenizer::stream`] put together, except that in a run of byte tokens which is not UTF-8 as a
    /// whole each byte is one U+FFFD. Text that a model generates is the streamed one, whoever asks for it.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        stream::decode(&self.table, ids, skip_special)
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream(&self, skip_special: bool) -> TextStream {
        TextStream::new(Arc::clone(&self.table), skip_special)
    }

    /// The bytes that a token adds to a text; empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// The id of a token by its exact text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    /// Whether the token is a control token, which text for people leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text. `generation_config.json` may name more.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that ends a turn, where a GGUF file names one.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// Special tokens as templates know them: (`bos_token`, text) and so on.
    pub fn special_tokens(&self) -> &[(String, String)] {
        &self.special
    }

    /// The model's own chat template, ready to render.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }
}

/// What the library builds of `file`; it refuses some files and panics on others.
fn built<T, E: fmt::Display>(file: &Path, build: impl FnOnce() -> Result<T, E>) -> Result<T, TokenizerError> {
    match guard::catch(build) {
        Ok(Ok(built)) => Ok(built),
        Ok(Err(e)) => Err(TokenizerError::Refused { file: file.to_owned(), reason: e.to_string() }),
        Err(reason) => Err(TokenizerError::Broken { file: file.to_owned(), stage: "loading", reason }),
    }
}

fn template(source: TemplateSource, special: &[(String, String)]) -> ChatTemplate {
    let template = ChatTemplate::new(source.text, source.origin, special.to_vec());
    match source.with_tools {
        Some(text) => template.with_tools(text),
        None => template,
    }
}

/// A field that is not as it must be.
fn field_error(file: &Path, field: impl Into<String>, found: impl Into<String>, expected: &str) -> TokenizerError {
    TokenizerError::Field {
        file: PathBuf::from(file),
        field: field.into(),
        found: found.into(),
        expected: expected.to_owned(),
    }
}
