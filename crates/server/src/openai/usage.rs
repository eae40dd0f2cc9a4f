//! How many tokens a request took.

use serde::Serialize;
use utoipa::ToSchema;

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Tokens of all prompts.
    pub(super) prompt_tokens: usize,
    /// Tokens of prompts and completions.
    pub(super) total_tokens: usize,
    /// Tokens of all completions, those that ended them included.
    pub(super) completion_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize) -> Usage {
        Usage { prompt_tokens, total_tokens: prompt_tokens + completion_tokens, completion_tokens }
    }
}
