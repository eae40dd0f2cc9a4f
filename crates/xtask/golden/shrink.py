"""Makes the configuration of a real checkpoint tiny, and keeps what is special about it."""

import copy

# The largest that a size may be. A smaller one stays, so a configuration that was shrunk by hand passes unchanged.
LARGEST = {
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "vocab_size": 320,
    "intermediate_size": 128, "intermediate_size_mlp": 128, "n_inner": 128, "ffn_dim": 128, "ffn_hidden_size": 48,
    "moe_intermediate_size": 48, "shared_expert_intermediate_size": 96, "shared_intermediate_size": 96,
    "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 4, "experts_per_token": 4, "moe_top_k": 4, "n_group": 4, "topk_group": 2,
    "first_k_dense_replace": 1, "num_nextn_predict_layers": 0, "max_window_layers": 1,
    "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24, "qk_head_dim": 24,
    "max_position_embeddings": 512, "max_seq_len": 512, "n_positions": 512, "n_ctx": 512, "original_max_position_embeddings": 64,
    "initial_context_length": 64, "sliding_window": 16, "attention_chunk_size": 32, "floor_scale": 16,
    # Of parts for pictures.
    "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "mm_tokens_per_image": 4,
}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "kv_n_heads", "multi_query_group_num")
# Lists with an entry for each layer.
BY_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers")
# Nobody can make random weights of these: a quantised form, code beside the checkpoint.
DROPPED = ("quantization_config", "auto_map", "_name_or_path")
MAX_LAYERS = 8
NUM_HEADS = 4


def shrink(config, kinds):
    """The shrunk configuration, and a line for each change. `kinds` has the kind of each layer, where layers differ by anything."""
    small, notes = copy.deepcopy(config), []
    _shrink(small, kinds, "", notes)
    return small, notes


def drop(config):
    """Takes out of a configuration, and of the parts of it, what cannot be kept; a line for each."""
    parts = [(f"{key}.", value) for key, value in config.items() if isinstance(value, dict)]
    dropped = [f"{key}: dropped" for key in DROPPED if config.pop(key, None) is not None]
    return dropped + [path + line for path, part in parts for line in drop(part)]


def _shrink(config, kinds, path, notes):
    def put(key, value):
        if config[key] != value:
            notes.append(f"{path}{key}: {_short(config[key])} -> {_short(value)}")
            config[key] = value

    depth = next((key for key in DEPTHS if key in config), None)
    if depth:
        put(depth, _depth(config, config[depth], kinds))
    _shrink_heads(config, put)
    for key, largest in LARGEST.items():
        if isinstance(config.get(key), int) and config[key] > largest:
            put(key, largest)
    for key in BY_LAYER:
        if depth and isinstance(config.get(key), list) and len(config[key]) > config[depth]:
            put(key, config[key][: config[depth]])
    for key in ("mlp_only_layers", "moe_layers"):
        if depth and isinstance(config.get(key), list):
            put(key, [layer for layer in config[key] if layer < config[depth]])
    counts = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
    experts = next((config[key] for key in counts if isinstance(config.get(key), int)), None)
    for key in ("num_experts_per_tok", "experts_per_token", "moe_top_k"):
        # Which experts are chosen must matter.
        if isinstance(config.get(key), int) and experts and config[key] >= experts > 1:
            put(key, experts // 2)
    vocabulary = config.get("vocab_size")
    for key, value in list(config.items()):
        if key.endswith("_token_id") and vocabulary and value is not None:
            within = lambda id: id if id < vocabulary else id % 64 + vocabulary - 64
            put(key, [within(id) for id in value] if isinstance(value, list) else within(value))
        elif isinstance(value, dict):
            _shrink(value, kinds if key == "text_config" else [], f"{path}{key}.", notes)
    # One factor for each pair of rotated values.
    for section in ("rope_scaling", "rope_parameters"):
        for key in ("short_factor", "long_factor"):
            factors = (config.get(section) or {}).get(key)
            if factors:
                pairs = _rotated(config) // 2
                config[section][key] = [factors[i * len(factors) // pairs] for i in range(pairs)]
                notes.append(f"{path}{section}.{key}: {len(factors)} -> {pairs} factors")


def _depth(config, layers, kinds):
    """The fewest layers, two or more, that have every kind there is."""
    first = [kinds.index(kind) + 1 for kind in kinds]
    steps = ("no_rope_layer_interval", "interleave_moe_layer_step", "decoder_sparse_step")
    period = [config[key] for key in steps if isinstance(config.get(key), int)]
    return min(layers, MAX_LAYERS, max([2, *period, *first]))


def _shrink_heads(config, put):
    """Four query heads, and KV heads that are as many, fewer, or one, as before."""
    heads = next((key for key in HEADS if isinstance(config.get(key), int)), None)
    if heads is None or config[heads] <= NUM_HEADS:
        return
    width = next((config[key] for key in ("hidden_size", "n_embd", "d_model") if isinstance(config.get(key), int)), None)
    if isinstance(config.get("head_dim"), int):
        # Other than hidden / heads where it was so.
        put("head_dim", 16 if width == config[heads] * config["head_dim"] else 32)
    for key in KV_HEADS:
        if isinstance(config.get(key), int):
            before = config[key]
            put(key, NUM_HEADS if before == config[heads] else min(before, 2))
    # dbrx keeps its KV heads in there.
    inner = config.get("attn_config")
    if isinstance(inner, dict) and isinstance(inner.get("kv_n_heads"), int):
        inner["kv_n_heads"] = NUM_HEADS if inner["kv_n_heads"] == config[heads] else min(inner["kv_n_heads"], 2)
    put(heads, NUM_HEADS)


def _rotated(config):
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(head_dim * config.get("partial_rotary_factor", 1.0))


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
