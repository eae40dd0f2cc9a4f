//! Merge rules from the scores of a SentencePiece BPE vocabulary.
//!
//! SentencePiece joins the two neighbours whose union has the best score. `tokenizers` joins by rank of the pair, so every way to cut
//! a piece into two pieces becomes a rule, ranked by the piece's score.
//! Source: transformers `convert_slow_tokenizer.py`, `generate_merges`; llama.cpp `llm_tokenizer_spm`.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::TOKENS;
use crate::tokenizer::{TokenizerError, field_error};

/// Work grows with the square of a piece's length; the longest pieces of real vocabularies have about 100 bytes.
const MAX_PIECE_BYTES: usize = 1024;

/// All rules, best score first; within a piece, by the ids of the parts.
pub(super) fn merges(
    tokens: &[String],
    scores: &[f32],
    is_piece: impl Fn(usize) -> bool,
    ids: &HashMap<&str, u32>,
    file: &Path,
) -> Result<Vec<Value>, TokenizerError> {
    let mut rules: Vec<(f32, u32, u32, &str, &str)> = Vec::new();
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate().filter(|(id, _)| is_piece(*id)) {
        if token.len() > MAX_PIECE_BYTES {
            let found = format!("a token of {} bytes", token.len());
            let expected = format!("at most {MAX_PIECE_BYTES} bytes");
            return Err(field_error(file, format!("{TOKENS}[{id}]"), found, &expected));
        }
        for (at, _) in token.char_indices().skip(1) {
            let Some((left, right)) = token.split_at_checked(at) else { continue };
            let piece = |part: &str| ids.get(part).copied().filter(|id| is_piece(*id as usize));
            if let (Some(left_id), Some(right_id)) = (piece(left), piece(right)) {
                rules.push((*score, left_id, right_id, left, right));
            }
        }
    }
    rules.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    Ok(rules.into_iter().map(|(_, _, _, left, right)| json!([left, right])).collect())
}
