"""Random weights under which every part of a model matters: activations near one, attention that is no average, logits that lie apart."""

import math
import re

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

# How far norm weights and biases are from what training starts with.
NOISE = 0.15
# Peaked attention and decided routers.
QUERY_KEY, ROUTER = 1.4, 2.0
# The standard deviation that logits are brought to.
LOGIT_STD = 2.0

# What the norm behind the last layer is called.
LAST_NORMS = ("norm", "ln_f", "norm_f", "final_layernorm", "final_layer_norm", "final_norm")

_QUERY_KEY = re.compile(r"q_proj|k_proj|qkv|Wqkv|c_attn|q_a_proj|q_b_proj|kv_a_proj|kv_b_proj|query_key_value")
_ROUTER = re.compile(r"router|(^|\.)(gate|shared_expert_gate)(\.|$)")
_OUTWARD = re.compile(r"down|w2|output")


def stack(model):
    """The text decoder's layers and the norm behind them."""
    depth = model.config.get_text_config().num_hidden_layers
    for path, module in model.named_modules():
        layers = next((child for child in module.children() if isinstance(child, nn.ModuleList) and len(child) == depth), None)
        norm = next((getattr(module, name) for name in LAST_NORMS if hasattr(module, name)), None)
        if layers is not None and norm is not None and not re.search("vision|audio", path):
            return layers, norm
    raise SystemExit(f"cannot find the layers and the last norm of {type(model).__name__}; `LAST_NORMS` in weights.py has the names known")


@torch.no_grad()
def fill(model, seed):
    """Gives every parameter of `model` a random value."""
    random = torch.Generator().manual_seed(seed)
    text = model.config.get_text_config()
    tied = bool(getattr(text, "tie_word_embeddings", False))
    hidden_size = text.hidden_size
    seen = set()
    for path, module in model.named_modules():
        tensors = list(module.named_parameters(recurse=False))
        # Not trained, but part of the checkpoint: what balances experts.
        tensors += [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if "correction_bias" in name]
        for name, tensor in tensors:
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                tensor.copy_(_value(module, f"{path}.{name}", tensor, tied, hidden_size, random))
    if tied:
        # A token would predict itself.
        weight = stack(model)[1].weight
        rest = 1.0 - weight.mean().round()
        signs = torch.where(torch.rand(weight.shape, generator=random) < 0.5, -1.0, 1.0)
        weight.copy_((weight + rest) * signs - rest)
    _calibrate(model, random)


def _value(module, name, tensor, tied, hidden_size, random):
    noise = torch.randn(tensor.shape, generator=random)
    if "correction_bias" in name:
        return torch.rand(tensor.shape, generator=random) * 0.3
    if "norm" in type(module).__name__.lower():
        # Some weights are distances from one: both kinds lie near where training starts.
        return tensor.nan_to_num() + NOISE * noise
    if name.endswith("sinks"):
        return noise
    if tensor.dim() == 1:
        return NOISE * noise if "bias" in name else tensor.nan_to_num() + NOISE * noise
    if isinstance(module, nn.Embedding):
        return noise * (0.3 if tied else 1.0)
    if tensor.dim() == 2 and name.endswith("bias"):
        # One for each expert.
        return NOISE * noise
    gain = QUERY_KEY if _QUERY_KEY.search(name) else ROUTER if _ROUTER.search(name) else 1.0
    return noise * gain / math.sqrt(_inputs(module, name, tensor, hidden_size))


def _inputs(module, name, tensor, hidden_size):
    """How many inputs a matrix has; of experts that are stacked, each one's."""
    if isinstance(module, Conv1D):
        return tensor.shape[0]
    if tensor.dim() != 3:
        return tensor[0].numel()
    other = tensor.shape[1] if tensor.shape[2] == hidden_size else tensor.shape[2]
    return other if _OUTWARD.search(name.rsplit(".", 1)[-1]) else hidden_size


def _calibrate(model, random):
    """Scales the head so that logits spread as they should, whatever a configuration multiplies them with."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocabulary, (1, 33), generator=random)
    head = model.get_output_embeddings().weight
    for _ in range(4):
        spread = model(input_ids=ids, use_cache=False).logits.float().std(-1).mean().item()
        head.mul_(LOGIT_STD / max(spread, 1e-6))
