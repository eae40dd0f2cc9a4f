//! Log-probabilities as clients know them: the shape of completions, that of chat, and vLLM's for prompts.

use nxd_engine::TokenLogprob;
use nxd_models::Model;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// JSON has no infinity; this is what vLLM writes for a probability of zero.
const LEAST: f32 = -9999.0;

/// How tokens are written.
#[derive(Clone)]
pub(super) struct Spelling {
    pub(super) model: Arc<Model>,
    /// As `token_id:N`, for clients that need to tell all tokens apart.
    pub(super) as_ids: bool,
}

/// An object whose fields keep the order of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ordered<T>(pub(super) Vec<(String, T)>);

/// Log-probabilities of a completion: lists with one entry a token.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, ToSchema)]
pub(super) struct CompletionLogprobs {
    /// Where each token begins in the text, in characters.
    pub(super) text_offset: Vec<usize>,
    /// Log-probability of each token; null for the first one of a prompt.
    pub(super) token_logprobs: Vec<Option<f32>>,
    /// The tokens.
    pub(super) tokens: Vec<String>,
    /// The most likely tokens and the one that is there.
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    pub(super) top_logprobs: Vec<Option<Ordered<f32>>>,
}

/// Log-probabilities of a chat's reply.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    /// One entry a token.
    pub(super) content: Vec<TokenEntry>,
}

/// A token of a reply.
#[derive(Clone, Debug, PartialEq, serde::Serialize, ToSchema)]
pub(super) struct TokenEntry {
    #[serde(flatten)]
    pub(super) token: TopEntry,
    /// The most likely tokens, best first.
    pub(super) top_logprobs: Vec<TopEntry>,
}

/// A token and its log-probability.
#[derive(Clone, Debug, PartialEq, serde::Serialize, ToSchema)]
pub(super) struct TopEntry {
    /// Its text; a broken character is U+FFFD.
    pub(super) token: String,
    /// Its log-probability.
    pub(super) logprob: f32,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// A token of a prompt.
#[derive(Clone, Debug, PartialEq, serde::Serialize, ToSchema)]
pub(super) struct PromptEntry {
    /// Its log-probability.
    pub(super) logprob: f32,
    /// Its place among all tokens, from 1; null below those that are reported.
    pub(super) rank: Option<usize>,
    /// Its text.
    pub(super) decoded_token: String,
}

impl Spelling {
    fn bytes(&self, id: u32) -> &[u8] {
        self.model.tokenizer().map_or(&[], |tokenizer| tokenizer.token_bytes(id))
    }

    fn token(&self, id: u32) -> String {
        if self.as_ids { format!("token_id:{id}") } else { String::from_utf8_lossy(self.bytes(id)).into_owned() }
    }

    fn entry(&self, scored: TokenLogprob) -> TopEntry {
        let bytes = self.bytes(scored.id).to_vec();
        TopEntry { token: self.token(scored.id), logprob: finite(scored.logprob), bytes }
    }
}

impl CompletionLogprobs {
    /// Adds a token, of which nothing is known when `scored` is empty. `offset` is where it begins; returns where it ends.
    pub(super) fn push(&mut self, spelling: &Spelling, token: u32, scored: &[TokenLogprob], offset: usize) -> usize {
        let own = scored.iter().find(|entry| entry.id == token).map(|entry| finite(entry.logprob));
        let top = scored.iter().map(|entry| (spelling.token(entry.id), finite(entry.logprob))).collect();
        let text = spelling.token(token);
        let end = offset + text.chars().count();
        self.text_offset.push(offset);
        self.token_logprobs.push(own);
        self.tokens.push(text);
        self.top_logprobs.push((!scored.is_empty()).then_some(Ordered(top)));
        end
    }

    /// Adds the tokens of a prompt; returns where they end.
    pub(super) fn push_prompt(
        &mut self,
        spelling: &Spelling,
        prompt: &[u32],
        scored: &[Vec<TokenLogprob>],
        mut offset: usize,
    ) -> usize {
        // Nothing stands before the first token, so nothing is known of it.
        let scored = std::iter::once(&[][..]).chain(scored.iter().map(Vec::as_slice));
        for (&token, scored) in prompt.iter().zip(scored) {
            offset = self.push(spelling, token, scored, offset);
        }
        offset
    }
}

impl ChatLogprobs {
    /// Adds a token with the `top` most likely ones.
    pub(super) fn push(&mut self, spelling: &Spelling, token: u32, scored: &[TokenLogprob], top: usize) {
        let own = scored.iter().find(|entry| entry.id == token).copied();
        let token = spelling.entry(own.unwrap_or(TokenLogprob { id: token, logprob: LEAST }));
        let top_logprobs = scored.iter().take(top).map(|&entry| spelling.entry(entry)).collect();
        self.content.push(TokenEntry { token, top_logprobs });
    }
}

/// vLLM's `prompt_logprobs`: null for the first token, then an object by token id for each.
pub(super) fn of_prompt(
    spelling: &Spelling,
    scored: &[Vec<TokenLogprob>],
    top: usize,
) -> Vec<Option<Ordered<PromptEntry>>> {
    let entry = |(index, scored): (usize, &TokenLogprob)| {
        let rank = (index < top).then_some(index + 1);
        let decoded_token = String::from_utf8_lossy(spelling.bytes(scored.id)).into_owned();
        (scored.id.to_string(), PromptEntry { logprob: finite(scored.logprob), rank, decoded_token })
    };
    let later = scored.iter().map(|scored| Some(Ordered(scored.iter().enumerate().map(entry).collect())));
    std::iter::once(None).chain(later).collect()
}

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST)
}
