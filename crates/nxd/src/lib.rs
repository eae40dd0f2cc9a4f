//! LLM inference: load a model, generate text, or take the layer you need.
