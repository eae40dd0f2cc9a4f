"""Tiny configurations, one for each family of docs/models.md: what departs from the defaults of transformers' configuration class.

Each exercises what is special about its family. Windows and chunks are shorter than the longest prompt, and sizes that several things could be
mistaken for differ from each other.
"""

VOCABULARY = dict(vocab_size=320, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = dict(
    VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512,
)

LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=64
)
YARN = dict(rope_theta=10000.0, rope_type="yarn", factor=8.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64)
LOCAL, GLOBAL = "sliding_attention", "full_attention"


class Family:
    """`base` and `fields` are given to the configuration class of `model_type`; `architecture` goes into config.json."""

    def __init__(self, architecture, model_type, features, base=SIZES, **fields):
        self.architecture, self.model_type, self.features = architecture, model_type, features
        self.fields = {**base, **fields}


FAMILIES = {
    "cohere": Family(
        "CohereForCausalLM", "cohere", "parallel attention and MLP, rope in neighbouring pairs, norms on query and key heads, tied",
        use_qk_norm=True, logit_scale=0.25,
    ),
    "cohere2": Family(
        "Cohere2ForCausalLM", "cohere2", "three window layers with rope to one full layer without, parallel blocks, tied",
        num_hidden_layers=4, sliding_window=16, logit_scale=0.25, layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL],
    ),
    "dbrx": Family(
        "DbrxForCausalLM", "dbrx", "fused and clipped Wqkv, stacked experts, LayerNorm without bias, top 2 of 4",
        base=VOCABULARY, d_model=64, n_heads=4, n_layers=2, max_seq_len=512, resid_pdrop=0.0, emb_pdrop=0.0,
        attn_config=dict(clip_qkv=0.8, kv_n_heads=2, rope_theta=500000.0),
        ffn_config=dict(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2, ffn_act_fn={"name": "silu"}, hidden_size=64),
    ),
    "deepseek": Family(
        "DeepseekV3ForCausalLM", "deepseek_v3", "latent attention, sigmoid router with a correction bias and groups, a shared expert, yarn",
        num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=24,
        first_k_dense_replace=1, moe_intermediate_size=40, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2,
        num_experts_per_tok=3, norm_topk_prob=True, routed_scaling_factor=2.5,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "exaone4": Family(
        "Exaone4ForCausalLM", "exaone4", "norms after attention and MLP, windows with rope in three layers, a full layer without",
        num_hidden_layers=4, head_dim=32, sliding_window=16, sliding_window_pattern="LLLG", layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL],
        rope_parameters=LLAMA3, tie_word_embeddings=True,
    ),
    "gemma": Family(
        "GemmaForCausalLM", "gemma", "norms of 1 + w, scaled embeddings, tanh GELU, one KV head, tied", num_key_value_heads=1, head_dim=32
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", "gemma2", "a window in every second layer, capped scores and logits, four norms a layer, tied",
        head_dim=32, query_pre_attn_scalar=48, sliding_window=16, attn_logit_softcapping=5.0, final_logit_softcapping=6.0,
        layer_types=[LOCAL, GLOBAL],
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM", "gemma3_text", "two local layers to a global one, a rotary base of each kind, norms on query and key heads",
        num_hidden_layers=3, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, layer_types=[LOCAL, LOCAL, GLOBAL],
        rope_parameters={
            GLOBAL: dict(rope_type="linear", rope_theta=1000000.0, factor=8.0), LOCAL: dict(rope_type="default", rope_theta=10000.0)
        },
    ),
    "glm4": Family(
        "Glm4ForCausalLM", "glm4", "half of a head rotated in neighbouring pairs, norms around each block, fused gate and up",
        head_dim=32, attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
    ),
    "gpt2": Family(
        "GPT2LMHeadModel", "gpt2", "learned positions, LayerNorm with bias, matrices stored the other way round, tied",
        base=VOCABULARY, n_embd=64, n_head=4, n_layer=2, n_positions=512, n_inner=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM", "gpt_oss", "sinks, a window in every second layer, interleaved and clamped gates with biases, yarn, top 2 of 4",
        head_dim=16, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, sliding_window=16, layer_types=[LOCAL, GLOBAL],
        rope_parameters={**YARN, "rope_theta": 150000.0, "truncate": False},
    ),
    "granite": Family(
        "GraniteForCausalLM", "granite", "multipliers of embeddings, scores, residuals and logits, tied",
        embedding_multiplier=3.0, attention_multiplier=0.12, residual_multiplier=0.9, logits_scaling=1.5, tie_word_embeddings=True,
    ),
    "granitemoe": Family(
        "GraniteMoeForCausalLM", "granitemoe", "Granite's multipliers, fused experts, top 3 of 6, tied",
        embedding_multiplier=2.0, attention_multiplier=0.12, residual_multiplier=0.9, logits_scaling=1.5, tie_word_embeddings=True,
        intermediate_size=48, num_local_experts=6, num_experts_per_tok=3,
    ),
    "llama": Family(
        "LlamaForCausalLM", "llama", "grouped queries, llama3 rope, tied", rope_parameters=LLAMA3, tie_word_embeddings=True
    ),
    "llama4": Family(
        "Llama4ForCausalLM", "llama4_text", "chunks of 32, a layer without rope that sharpens, weightless head norms, a shared expert",
        num_hidden_layers=3, head_dim=16, intermediate_size=48, intermediate_size_mlp=128, num_local_experts=4, num_experts_per_tok=1,
        interleave_moe_layer_step=1, attention_chunk_size=32, floor_scale=16, no_rope_layers=[1, 1, 0],
        layer_types=["chunked_attention", "chunked_attention", GLOBAL], rope_parameters=LLAMA3,
    ),
    "mistral": Family("MistralForCausalLM", "mistral", "a window of 16 in every layer, head_dim not hidden / heads", head_dim=32, sliding_window=16),
    "mixtral": Family(
        "MixtralForCausalLM", "mixtral", "top 2 of 4 experts, their affinities normalised",
        intermediate_size=48, num_local_experts=4, num_experts_per_tok=2,
    ),
    "nemotron": Family(
        "NemotronForCausalLM", "nemotron", "LayerNorm of 1 + w, squared ReLU, half of a head rotated",
        head_dim=32, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
    ),
    "olmo2": Family("Olmo2ForCausalLM", "olmo2", "norms after attention and MLP, norms over all query and key heads together"),
    "olmo3": Family(
        "Olmo3ForCausalLM", "olmo3", "OLMo 2 with a window of 16 in three of four layers",
        num_hidden_layers=4, sliding_window=16, layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL],
    ),
    "olmoe": Family(
        "OlmoeForCausalLM", "olmoe", "clipped queries, keys and values, head norms, top 4 of 8 not normalised",
        intermediate_size=48, num_experts=8, num_experts_per_tok=4, clip_qkv=1.5,
    ),
    "phi": Family(
        "PhiForCausalLM", "phi", "parallel blocks under one LayerNorm, 0.4 of a head rotated, biases, also of the head",
        hidden_size=80, num_key_value_heads=4, resid_pdrop=0.0, embd_pdrop=0.0,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4),
    ),
    "phi3": Family(
        "Phi3ForCausalLM", "phi3", "fused projections, a window of 24", sliding_window=24, original_max_position_embeddings=512,
        resid_pdrop=0.0, embd_pdrop=0.0,
    ),
    "phimoe": Family(
        "PhimoeForCausalLM", "phimoe", "sparsemixer top 2 of 4, LayerNorm, biases, also of the head",
        intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True, sliding_window=None,
    ),
    "qwen2": Family("Qwen2ForCausalLM", "qwen2", "biases of queries, keys and values, tied", tie_word_embeddings=True),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM", "qwen2_moe", "a shared expert under a sigmoid, top 2 of 6 not normalised",
        moe_intermediate_size=48, shared_expert_intermediate_size=96, num_experts=6, num_experts_per_tok=2,
    ),
    "qwen3": Family("Qwen3ForCausalLM", "qwen3", "norms on query and key heads, head_dim not hidden / heads, tied", head_dim=32, tie_word_embeddings=True),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", "qwen3_moe", "top 2 of 8 normalised, a dense layer between",
        num_hidden_layers=3, head_dim=32, moe_intermediate_size=48, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1],
    ),
    "seed_oss": Family(
        "SeedOssForCausalLM", "seed_oss", "biases of queries, keys and values, not of the output, head_dim not hidden / heads",
        head_dim=32, attention_bias=True, attention_out_bias=False, residual_dropout=0.0, attention_dropout=0.0,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM", "smollm3", "every second layer without rope, tied", no_rope_layers=[1, 0], no_rope_layer_interval=2, tie_word_embeddings=True
    ),
    "stablelm": Family(
        "StableLmForCausalLM", "stablelm", "a quarter of a head rotated, LayerNorm with bias, biases of queries, keys and values",
        use_qkv_bias=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25),
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM", "starcoder2", "LayerNorm and biases, an MLP without gate, a window of 16, tied",
        sliding_window=16, tie_word_embeddings=True, residual_dropout=0.0, embedding_dropout=0.0,
    ),
}
